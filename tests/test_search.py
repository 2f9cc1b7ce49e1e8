"""Searches: what a space may hold, what Optuna is asked and told, pruning, and what is said of the winner."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

pytest.importorskip("optuna")

import yolo_lite.engine.train as train_module
import yolo_lite.tools.compare as compare_module
import yolo_lite.tools.search as search_module
from yolo_lite.cli.main import main
from yolo_lite.config.hyp import Hyp
from yolo_lite.engine.stop import Rule, never
from yolo_lite.report.results_csv import results_text
from yolo_lite.tools.compare import METRICS, Outcome, Run
from yolo_lite.tools.search import Trial, expected_luck, read_space, verdict

SPACE = """\
lr0: {low: 0.0005, high: 0.01, log: true}
box: {low: 0.02, high: 0.2}
close_mosaic: {low: 0, high: 20, step: 5}
box_loss: [ciou, siou, {focal_eiou: {gamma: 0.5}}]
"""
EPOCHS = 8


@pytest.fixture
def space(tiny_data: Path, tmp_path: Path) -> Path:
    shutil.copy(tiny_data, tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def words(space: Path, project: Path, *more: str) -> list[str]:
    files = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    files += ["--data", str(space.with_name("tiny.yaml")), "--space", str(space), "--project", str(project)]
    return ["search", *files, "--epochs", str(EPOCHS), "--workers", "0", "--device", "cpu", *more]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Hyp, int], float]], list[str]]:
    """Instead of training, runs come to what a function of (hyp, seed) says, growing from epoch to epoch."""

    def by(score: Callable[[Hyp, int], float]) -> list[str]:
        trained = []

        def finish(run: Run, until: Rule = never) -> Outcome:
            last, rows = score(run.config.hyp, run.seed), []
            for epoch in range(1, EPOCHS + 1):
                rows.append({"epoch": epoch, METRICS[0]: last * epoch / EPOCHS})
                if until(rows):
                    break
            run.folder.mkdir(parents=True, exist_ok=True)
            (run.folder / "results.csv").write_text(results_text(rows))
            trained.append(f"{run.folder.parent.name}/{run.folder.name}")
            return Outcome(dict.fromkeys(METRICS, rows[-1][METRICS[0]]), 1.0, None)

        monkeypatch.setattr(compare_module, "comparison_image", lambda panels: np.zeros((2, 2, 3), np.uint8))
        for module in (compare_module, search_module):
            monkeypatch.setattr(module, "finish", finish)
        return trained

    return by


def hill(hyp: Hyp, seed: int) -> float:
    """Best at lr0 .004; a little noise that depends on what is trained and on the seed."""
    noise = np.random.default_rng([seed, int(hyp.lr0 * 1e8), int(hyp.box * 1e8)]).normal(0, 0.002)
    return float(0.5 - 0.1 * abs(np.log(hyp.lr0 / 0.004)) + noise)


def trials(project: Path) -> list[Trial]:
    return [Trial(*one) for one in json.loads((project / "exp/trials.json").read_text())["trials"]]


# --------------------------------------------------------------------------------------------------------- the space


def test_a_space_holds_ranges_and_choices_of_keys(space: Path):
    found = {key: (type(one).__name__, vars(one)) for key, one in read_space(str(space)).items()}
    assert found["lr0"] == ("FloatDistribution", {"low": 0.0005, "high": 0.01, "log": True, "step": None})
    assert found["close_mosaic"] == ("IntDistribution", {"low": 0, "high": 20, "log": False, "step": 5})
    assert found["box_loss"][1]["choices"] == ("ciou", "siou", '{"focal_eiou": {"gamma": 0.5}}')


def test_choices_are_written_as_the_default_is(tmp_path: Path):
    """Else a search of mosaic in 0 and 1 would not try the default, which is 1.0, and take 1 for another value."""
    (tmp_path / "space.yaml").write_text("mosaic: [0, 1]\nclose_mosaic: [10, 5]\ncos_lr: [true, false]\n")
    found = {key: one.choices for key, one in read_space(str(tmp_path / "space.yaml")).items()}
    assert found == {"mosaic": ("0.0", "1.0"), "close_mosaic": ("10", "5"), "cos_lr": ("true", "false")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("boxloss: {low: 0.1, high: 1}", "space.yaml:1: unknown key 'boxloss' (nearest: 'box_loss')"),
        ("box: [1, 2]\nlr0: {low: -1, high: 1}", "space.yaml:2: lr0: expected more than 0, found -1"),
        ("mosaic: {low: 0, high: 2}", "space.yaml:1: mosaic: expected 1 or less, found 2"),
        ("close_mosaic: {low: 0.5, high: 2}", "space.yaml:1: close_mosaic: expected a whole number, found 0.5"),
        ("box_loss: [ciou, siuo]", "space.yaml:1: box_loss: unknown name 'siuo' (nearest: 'siou')"),
        (
            "lr0: {low: 0.1, hihg: 1}",
            "space.yaml:1: lr0: expected {low: A, high: B}, of numbers, with log: true or step: S",
        ),
        ("lr0: {low: 0.1, high: 1, log: maybe}", "space.yaml:1: lr0: expected {low: A, high: B}, of numbers"),
        ("close_mosaic: {low: 0, high: 9, step: 0.5}", "space.yaml:1: close_mosaic: expected {low: A, high: B}"),
        ("{}", "space.yaml: expected keys of hyp.yaml, found none"),
        ("lr0: 0.1", "space.yaml:1: lr0: expected {low: A, high: B}"),
        ("lr0: [0.1]", "a list of two or more choices, found [0.1]"),
        ("lr0: {low: 0.2, high: 0.1}", "space.yaml:1: lr0: "),
        ("cos_lr: {low: false, high: true}", "space.yaml:1: cos_lr: expected {low: A, high: B}, of numbers"),
        ("box: {low: 0, high: 0.1, log: true}", "space.yaml:1: box: "),
    ],
)
def test_what_hyp_yaml_may_not_have_is_refused_in_one_line(text: str, expected: str, tmp_path: Path, capsys):
    (tmp_path / "space.yaml").write_text(text)
    assert main(words(tmp_path / "space.yaml", tmp_path / "runs")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and expected in line and not (tmp_path / "runs").exists()


def test_without_optuna_one_line_says_how_to_get_it(space: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("yolo_lite.tools.search", "yolo_lite.cli.search"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(words(space, tmp_path)) == 2
    assert capsys.readouterr().err == "error: yolo-lite search needs Optuna: pip install optuna\n"


# -------------------------------------------------------------------------------------------------------- the trials


def test_an_interrupted_search_goes_on_to_the_same_trials(space: Path, tmp_path: Path, scored, capsys):
    trained = scored(hill)
    assert main(words(space, tmp_path / "whole", "--trials", "14", "--seeds", "2")) == 0
    assert trained[:14] == [f"trial{number:03}/seed0" for number in range(14)]

    def stopping(hyp: Hyp, seed: int) -> float:
        if len(parts) == 9:
            raise KeyboardInterrupt
        return hill(hyp, seed)

    parts = scored(stopping)
    assert main(words(space, tmp_path / "parts", "--trials", "14", "--seeds", "2")) == 130
    rest = scored(hill)
    assert main(words(space, tmp_path / "parts", "--trials", "14", "--seeds", "2")) == 0
    assert rest[0] == "trial009/seed0"
    for name in ("trials.json", "comparison.json", "winner.yaml"):
        assert (tmp_path / "parts/exp" / name).read_bytes() == (tmp_path / "whole/exp" / name).read_bytes()
    more = scored(hill)
    assert main(words(space, tmp_path / "parts", "--trials", "16", "--seeds", "2")) == 0
    assert more[:2] == ["trial014/seed0", "trial015/seed0"]
    assert trials(tmp_path / "parts")[:14] == trials(tmp_path / "whole")


def test_another_seed_asks_for_other_trials_and_each_is_asked_once(space: Path, tmp_path: Path, scored):
    scored(hill)
    for seed in ("0", "1"):
        assert main(words(space, tmp_path / seed, "--trials", "12", "--seeds", "1", "--seed", seed)) == 0
    first, second = ([one.params for one in trials(tmp_path / seed)] for seed in ("0", "1"))
    assert first[0] == second[0] and not any(one in second for one in first[1:])
    assert all(one not in first[:number] for number, one in enumerate(first))


def test_the_first_trial_is_the_default_where_the_space_holds_it(space: Path, tmp_path: Path, scored, capsys):
    scored(hill)
    assert main(words(space, tmp_path / "a", "--trials", "1")) == 0
    out = capsys.readouterr().out
    assert "trial 0: the default: " in out and "no trial of 1 came above the default" in out
    assert trials(tmp_path / "a")[0].params == {"lr0": 0.0015, "box": 0.05, "close_mosaic": 10, "box_loss": "ciou"}
    space.write_text(SPACE.replace("[ciou, ", "[giou, "))
    assert main(words(space, tmp_path / "b", "--trials", "1", "--seeds", "1")) == 0
    assert "trial 0: the default: " not in capsys.readouterr().out


def test_trials_end_early_by_the_median_of_those_before(space: Path, tmp_path: Path, scored):
    scored(hill)
    assert main(words(space, tmp_path, "--trials", "24", "--seeds", "1")) == 0
    done, complete, pruned = trials(tmp_path), [], 0
    for trial in done:
        ends = [
            step
            for step in range(EPOCHS // 4, EPOCHS - 1)
            if len(complete) >= search_module.STARTUP_TRIALS
            and len(trial.values) > step
            and max(trial.values[: step + 1]) < statistics.median(one.values[step] for one in complete)
        ]
        assert (trial.state == "pruned") == bool(ends) and len(trial.values) == (ends[0] + 1 if ends else EPOCHS)
        complete += [trial] if trial.state == "complete" else []
        pruned += trial.state == "pruned"
    assert 5 <= pruned <= 20


@pytest.mark.slow
def test_trials_learn_from_those_before(space: Path, tmp_path: Path, scored):
    scored(hill)
    assert main(words(space, tmp_path, "--trials", "30", "--seeds", "1")) == 0
    away = [abs(np.log(trial.params["lr0"] / 0.004)) for trial in trials(tmp_path)]
    assert np.median(away[18:]) < 0.6 * np.median(away[1:11])


def test_keys_that_do_not_agree_fail_their_trial_alone(space: Path, tmp_path: Path, scored, capsys):
    space.write_text("fl_gamma: [0.0, 1.5]\nobj_loss: [bce, qfl]\n")
    scored(lambda hyp, seed: 0.5 + hyp.fl_gamma / 100)
    assert main(words(space, tmp_path, "--trials", "12", "--seeds", "2")) == 0
    failed = [trial for trial in trials(tmp_path) if trial.state not in ("complete", "pruned")]
    assert failed and all(one.params == {"fl_gamma": "1.5", "obj_loss": "qfl"} for one in failed)
    assert "fl_gamma above 0 turns bce into focal" in capsys.readouterr().out
    assert "fl_gamma: 1.5" in (tmp_path / "exp/winner.yaml").read_text()


def test_another_space_or_configuration_in_the_same_folder_is_refused(space: Path, tmp_path: Path, scored, capsys):
    scored(hill)
    assert main(words(space, tmp_path, "--trials", "2", "--seeds", "1")) == 0
    space.write_text(SPACE.replace("0.2}", "0.3}"))
    assert main(words(space, tmp_path, "--trials", "2", "--seeds", "1")) == 2
    assert "trials.json: holds a search of {" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- the winner


def test_a_gain_is_claimed_on_fresh_seeds_alone(space: Path, tmp_path: Path, scored, capsys):
    trained = scored(hill)
    assert main(words(space, tmp_path / "hill", "--trials", "20", "--seeds", "4", "--seed", "7")) == 0
    assert {one.split("/")[1] for one in trained[20:]} == {"seed8", "seed9", "seed10", "seed11"}
    told = capsys.readouterr().out
    assert "on the fresh seeds 8 to 11 trial " in told and " beats the default beyond noise, +0." in told
    lines = (tmp_path / "hill/exp/winner.yaml").read_text().splitlines()
    assert lines[0].startswith("# on the fresh seeds 8 to 11 trial ") and lines[1].startswith("# noise: ")
    scored(flat)
    assert main(words(space, tmp_path / "flat", "--trials", "20", "--seeds", "4", "--seed", "7")) == 0
    assert "differs from the default by no more than noise: no gain is shown" in capsys.readouterr().out


def flat(hyp: Hyp, seed: int) -> float:
    """Noise alone."""
    return float(np.random.default_rng([seed, int(hyp.lr0 * 1e8), int(hyp.box * 1e8)]).normal(0.5, 0.02))


@pytest.mark.parametrize("count", [1, 5, 20, 100])
def test_luck_is_that_of_the_largest_of_so_many_draws(count: int):
    drawn = np.random.default_rng(0).normal(size=(20_000, count)).max(axis=1).mean()
    assert expected_luck(count) == pytest.approx(drawn, rel=0.03, abs=0.08 if count == 1 else 0)


def test_what_was_trained_with_one_seed_shows_nothing():
    default = {"map50_95": [0.5, None]}
    found = {"difference": 0.1, "half_width": None, "verdict": "one seed tells nothing"}
    assert verdict(default, found, 20) == "shows nothing: one seed tells nothing"


# ----------------------------------------------------------------------------------------------- with training itself


def test_a_search_that_trains_goes_on_in_the_middle_of_a_trial(tiny_data: Path, tmp_path: Path, monkeypatch, capsys):
    """The second of three trials is stopped after its first epoch; the third is made to end early."""
    (tmp_path / "space.yaml").write_text("lr0: {low: 0.0001, high: 0.01, log: true}\n")
    command = words(tmp_path / "space.yaml", tmp_path, "--trials", "3", "--seeds", "1", "--imgsz", "32")
    command += ["--data", str(tiny_data), "--epochs", "2", "--batch-size", "10", "--set", "loggers=[]"]
    monkeypatch.setattr(search_module, "STARTUP_TRIALS", 2)
    should_prune = search_module.optuna.Trial.should_prune
    monkeypatch.setattr(
        search_module.optuna.Trial, "should_prune", lambda trial: should_prune(trial) or trial.number == 2
    )
    say, said = train_module.say, []

    def stop_in_the_second_trial(row, seconds, epochs):
        said.append(row["epoch"])
        if len(said) == 3:
            raise KeyboardInterrupt
        say(row, seconds, epochs)

    monkeypatch.setattr(train_module, "say", stop_in_the_second_trial)
    assert main(command) == 130
    assert main(command) == 0
    assert said == [1, 2, 1, 2, 1]  # not the first epoch of the second trial again
    done = trials(tmp_path)
    assert [one.state for one in done] == ["complete", "complete", "pruned"]
    assert [len(one.values) for one in done] == [2, 2, 1]
    monkeypatch.setattr(compare_module, "train", None)
    assert main(command) == 0  # everything is read
    assert main([*command, "--set", "loggers=[]", "box=0.1"]) == 2
    assert "another hyp.box: found 0.05, expected 0.1" in capsys.readouterr().err
