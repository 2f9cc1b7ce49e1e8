"""The suite over sets and seeds: its table from given outcomes, what it trains, reads again, and refuses."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from scipy import stats

import yolo_lite.engine.train as train_module
import yolo_lite.tools.compare as compare_module
from yolo_lite.report.comparison import comparison_image
from yolo_lite.tools.compare import Outcome

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import suite
from suite import Result, Results, Set, ranks, reached, seconds_to, table

SETS = {"one": Set("one", 64, 2), "two": Set("two", 64, 2), "same": Set("same", 64, 2, counts=False)}


@pytest.fixture(autouse=True)
def sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "SETS", dict(SETS))


def result(map50_95: float | None, seconds: float = 10.0) -> Result:
    """A run of three epochs that grows to a mAP50-95, or one that failed in the second."""
    if map50_95 is None:
        return Result(Outcome({}, None, "epoch 2: the loss is not finite"), [(0.1, seconds)])
    metrics = {"metrics/mAP50-95": map50_95, "metrics/mAP75": map50_95, "metrics/mAP50": map50_95}
    return Result(Outcome(metrics, None, None), [(map50_95 * part, seconds) for part in (0.5, 0.9, 1.0)])


def results(**sets: dict[str, list[float | None]]) -> Results:
    return {name: {v: [result(one) for one in own] for v, own in variants.items()} for name, variants in sets.items()}


def cells(text: str) -> dict[tuple[str, str], list[str]]:
    """The cells of a table by set and variant."""
    header, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    assert all(len(line) == len(header) for line in lines)
    return {(line[0], line[1]): line[2:] for line in lines}


# --------------------------------------------------------------------------------------------------------- the table


def test_the_table_hand_worked():
    # On one: +.02, +.04; mean .03, deviation .01414, half the interval t(.975, 1) * .01414 / sqrt(2) = .1271.
    # On two: +.01, +.01. All: .02, .04, .01, .01; mean .02, deviation .01414, t(.975, 3) * .01414 / 2 = .0225.
    given = results(one={"a": [0.5, 0.6], "b": [0.52, 0.64]}, two={"a": [0.2, 0.3], "b": [0.21, 0.31]})
    found = cells(table(given))
    assert found["one", "a"] == ["0.5500 ± 0.0707", "-", "-", "2", "10.0"]
    assert found["one", "b"] == ["0.5800 ± 0.0849", "+0.0300 ± 0.1271", "noise", "1", "10.0"]
    assert found["two", "b"] == ["0.2600 ± 0.0707", "+0.0100 ± 0.0000", "better", "1", "10.0"]
    assert found["all 2", "a"] == ["0.4000", "-", "-", "2.00", "× 1.00"]
    assert found["all 2", "b"] == ["0.4200", "+0.0200 ± 0.0225", "noise", "1.00", "× 1.00"]
    assert len(found) == 6


def test_the_verdict_over_all_sets_is_scipys_of_all_pairs():
    own, others = np.random.default_rng(0).normal(0.5, 0.02, (2, 2, 3))
    own += 0.05
    given = results(**{name: {"a": [*others[row]], "b": [*own[row]]} for row, name in enumerate(("one", "two"))})
    low, high = stats.ttest_rel(own.ravel(), others.ravel()).confidence_interval(0.95)
    _, difference, verdict, *_ = cells(table(given))["all 2", "b"]
    assert difference == f"{(low + high) / 2:+.4f} ± {(high - low) / 2:.4f}"
    assert verdict == ("better" if low > 0 else "noise")


def test_what_trains_on_its_validation_images_counts_nowhere():
    given = results(same={"a": [0.1, 0.1], "b": [0.9, 0.9]}, one={"a": [0.5, 0.6], "b": [0.4, 0.5]})
    given = {**given, **results(two={"a": [0.5, 0.6], "b": [0.4, 0.5]})}
    found = cells(table(given))
    assert found["same (train = val)", "b"] == ["0.9000 ± 0.0000", "-", "-", "-", "10.0"]
    assert found["all 2", "b"][:4] == ["0.4500", "-0.1000 ± 0.0000", "worse", "2.00"]
    assert [place for place, _ in found][-1] == "same (train = val)"
    assert list(cells(table({"same": given["same"]}))) == [("same (train = val)", name) for name in "ab"]


def test_the_image_has_a_panel_a_set_and_one_of_the_pairs():
    given = results(same={"a": [0.1], "b": [0.9]}, one={"a": [0.5], "b": [0.6]}, two={"a": [0.2], "b": [None]})
    panels = suite.panels(given)
    assert list(panels) == ["same (train = val)", "one", "two", "all 2: differences"]
    assert panels["same (train = val)"][1].verdict == "-"  # no colour: it does not count
    first, second = panels["all 2: differences"]
    assert first.values == [0, 0] and second.values == pytest.approx([0.1, math.nan], nan_ok=True)
    assert comparison_image(panels).shape[1] > comparison_image({"one": panels["one"]}).shape[1]
    assert list(suite.panels({"one": given["one"]})) == ["one"]


def test_curves_have_a_panel_a_set_and_end_where_a_run_failed():
    given = results(one={"a": [0.5, 0.6], "b": [0.9, None]}, two={"a": [0.5, 0.6], "b": [0.9, 1.0]})
    both, one = suite.curves_image(given), suite.curves_image({"one": given["one"]})
    assert both.shape[0] == one.shape[0] and both.shape[1] > 1.5 * one.shape[1]
    without = suite.curves_image({"one": {"a": given["one"]["a"]}})
    assert (one != without).any()  # b is there


def test_ranks_are_shared_and_failures_last():
    assert ranks([0.5, 0.7, 0.5, math.nan]) == [2.5, 1, 2.5, 4]
    assert ranks([math.nan, 0.1, math.nan]) == [2.5, 1, 2.5]


def test_mean_rank_over_sets():
    # one: b, c, a; two: a = b, c
    given = results(one={"a": [0.1], "b": [0.3], "c": [0.2]}, two={"a": [0.5], "b": [0.5], "c": [0.4]})
    found = cells(table(given))
    assert [found["all 2", name][3] for name in "abc"] == ["2.25", "1.25", "2.50"]
    assert found["one", "b"][2] == "one seed tells nothing"


def test_a_run_that_failed_is_shown():
    given = results(one={"a": [0.5, 0.6], "b": [0.9, None]}, two={"a": [0.5, 0.6], "b": [0.9, 1.0]})
    found = cells(table(given, reach=0.5))
    assert found["one", "b"][:4] == ["1 of 2 failed", "-", "failed", "2"]
    assert found["all 2", "b"][:4] == ["1 of 4 failed", "-", "failed", "1.50"]
    assert found["two", "b"][2] == "better"
    assert suite.failures(given) == ["one, b, seed 1: epoch 2: the loss is not finite"]


def test_where_the_first_variant_failed_the_verdict_says_so():
    given = results(one={"a": [None, 0.6], "b": [0.9, 0.9]}, two={"a": [0.5, 0.6], "b": [0.9, 0.9]})
    found = cells(table(given))
    assert found["one", "b"][2] == found["all 2", "b"][2] == "the first variant failed"


def test_seconds_until_a_metric_is_reached():
    # .2, .36, .4 after 10, 20, 30 seconds
    assert [seconds_to(result(0.4), reach) for reach in (0.2, 0.3, 0.4, 0.41)] == [10, 20, 30, math.inf]
    assert reached([result(0.4), result(0.4, seconds=20)], 0.3) == "30"
    assert reached([result(0.4), result(0.2)], 0.3) == "20 (1 of 2 seeds)"
    assert reached([result(0.2), result(None)], 0.3) == "never"
    assert reached([result(0.4, seconds=math.nan), result(0.4)], 0.3) == "no clock"
    assert cells(table({"one": {"a": [result(0.4, math.nan)]}}, 0.3))["one", "a"][-2:] == ["-", "no clock"]


def test_time_over_all_sets_is_the_geometric_mean_of_ratios():
    given = {
        name: {"a": [result(0.5, own)], "b": [result(0.5, other)]}
        for name, own, other in (("one", 1, 2), ("two", 10, 80))
    }
    assert cells(table(given))["all 2", "b"][-1] == "× 4.00"


# ----------------------------------------------------------------------------------------------------------- running


VARIANTS = ["--variant", "nano", "--variant", "thin=model=cfg/yolo_n.yaml,model.width_multiple=0.125,lr0=0.002"]


@pytest.fixture(scope="module")
def small(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Set]:
    """The sets, drawn with a seed of their own: 20 + 8 images."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(SETS):
        (folder / f"{name}.yaml").write_text(tiny_data.read_text().replace("seed: 0", f"seed: {seed}"))
    own = {"epochs": 2, "batch_size": 10, "imgsz": 32}
    return {name: one._replace(data=str(folder / f"{name}.yaml"), **own) for name, one in SETS.items()}


def run_suite(project: Path, *words: str) -> int:
    own = ["--project", str(project), "--workers", "0", "--device", "cpu", "--reach", "0"]
    own += ["--curves", str(project / "curves.png")]
    return suite.main([*VARIANTS, *own, *words])


@pytest.fixture(scope="module")
def done(small: dict[str, Set], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of a finished suite over two sets with one seed; tests only read it."""
    project = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "SETS", small)
        assert run_suite(project, "--sets", "one", "same", "--seeds", "1") == 0
    return project


def test_every_run_has_a_folder_and_a_clock(done: Path):
    runs = {str(path.parent.relative_to(done)) for path in done.rglob("results.csv")}
    assert runs == {f"{name}/{variant}/seed0" for name in ("one", "same") for variant in ("nano", "thin")}
    text = (done / "suite.md").read_text()
    found = cells(text[text.index("| set") : text.index("\n\n", text.index("| set"))])
    assert all(float(line[-2]) > 0 and line[-1].isdigit() for line in found.values())
    assert "one: 1 seed, 32 px, 2 epochs, batch 10" in text and (done / "suite.png").stat().st_size > 5000
    assert (done / "curves.png").stat().st_size > 5000
    configs = {path.read_text() for path in done.glob("one/*/seed0/config.yaml")}
    assert len(configs) == 2 and sum("width_multiple: 0.125" in one and "lr0: 0.002" in one for one in configs) == 1


def test_more_sets_and_seeds_train_only_what_is_new(
    done: Path, small: dict[str, Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(suite, "SETS", small)
    trained: list[str] = []

    def instead(run: compare_module.Run, until: object) -> Outcome:
        trained.append("/".join(run.folder.parts[-3:]))
        (run.folder).mkdir(parents=True)
        return result(0.5).outcome

    monkeypatch.setattr(compare_module, "_train", instead)
    for path in done.rglob("*"):  # a copy: the finished one is read by others
        if path.name in ("outcome.json", "results.csv"):
            (tmp_path / path.relative_to(done)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(done)).write_bytes(path.read_bytes())
    assert run_suite(tmp_path, "--sets", "one", "same", "--seeds", "1") == 0 and not trained
    more = ["--variant", "third=box=0.1", "--output", str(tmp_path / "new/more")]
    assert run_suite(tmp_path, "--sets", "one", "two", "--seeds", "2", *more) == 0
    places = [f"{name}/{variant}" for name in ("one", "two") for variant in ("nano", "thin", "third")]
    assert trained == [f"{place}/seed0" for place in places[2:]] + [f"{place}/seed1" for place in places]
    assert "all 2" in capsys.readouterr().out and "third=box=0.1" in (tmp_path / "new/more.md").read_text()


@pytest.mark.slow
def test_an_interrupted_suite_goes_on_to_the_same_figures(
    done: Path, small: dict[str, Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(suite, "SETS", small)
    say, epochs = train_module.say, []

    def stop_in_the_fourth_run(row, seconds, planned):
        epochs.append(row["epoch"])
        if len(epochs) == 7:
            raise KeyboardInterrupt
        say(row, seconds, planned)

    monkeypatch.setattr(train_module, "say", stop_in_the_fourth_run)
    assert run_suite(tmp_path, "--sets", "one", "same", "--seeds", "1") == 130
    assert "same" not in (tmp_path / "suite.md").read_text().split("| set")[1]  # only nano has been trained on it
    assert run_suite(tmp_path, "--sets", "one", "same", "--seeds", "1") == 0 and len(epochs) == 8
    for mine in tmp_path.rglob("results.csv"):
        assert mine.read_bytes() == (done / mine.relative_to(tmp_path)).read_bytes()
    entry = suite.read_result(tmp_path / "same/thin/seed0", result(0.5).outcome)
    assert len(entry.curve) == 2 and all(seconds > 0 for _, seconds in entry.curve)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--variant", "nano=lr0=0.1"], "expected a name of its own for each"),
        (["--variant", "=lr0=0.1"], "expected a name of its own for each"),
        (["--variant", "x=boxloss=siou"], "unknown key 'boxloss' (nearest: 'box_loss')"),
        (["--variant", "x=model=cfg/nowhere.yaml"], "cfg/nowhere.yaml: no such file"),
        (["--variant", "x=imgsz=wide"], "imgsz=wide: expected"),
        (["--epochs", "0"], "--epochs: expected 1 or more, found 0"),
        (["--project", "images"], "--project elsewhere"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    words: list[str], expected: str, small: dict[str, Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(suite, "SETS", small)
    monkeypatch.chdir(tmp_path)
    for name in ("images", "labels"):  # a dataset by its names
        (tmp_path / name).mkdir()
    assert run_suite(tmp_path / "runs", "--sets", "one", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and expected in line
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["images", "labels"]
