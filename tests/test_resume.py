"""A run goes on to the bit, wherever and however it was stopped."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, children_of, equal_states, rows_of, tiny_config, wait_for

import yolo_lite.engine.train as train_module
from yolo_lite.cli.main import train_main
from yolo_lite.config.errors import StoppedError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.run import parse_save_period
from yolo_lite.data.split import dataset_root
from yolo_lite.engine.checkpoint import config_of, load_checkpoint, save_checkpoint
from yolo_lite.engine.optimizer import Plan, rates
from yolo_lite.engine.record import Record
from yolo_lite.engine.state import Saving
from yolo_lite.engine.stop import stop_requests
from yolo_lite.engine.train import train
from yolo_lite.report.loggers.tensorboard import EVENTS

# 20 pictures in batches of 4, two batches a step: 3 steps an epoch, the last one of a single batch.
RECIPE = ("--epochs", "4", "--batch-size", "4", "--set", "nominal_batch=8", "mixup=0.3", "box_loss=wiou")

NAMES_OF_SHAPES = list(load_dataset_config(REPOSITORY / "data/shapes.yaml").names)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, act: Callable[[], None]) -> None:
    """Let something happen after so many optimizer steps."""
    step, seen = train_module.train_step, []

    def counted(*arguments, **more):  # type: ignore[no-untyped-def]
        result = step(*arguments, **more)
        seen.append(1)
        if len(seen) == steps:
            act()
        return result

    monkeypatch.setattr(train_module, "train_step", counted)


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def last_of(project: Path) -> Path:
    return project / "exp/weights/last.pt"


def go_on(project: Path, *words: str) -> None:
    assert train_main(["--resume", str(last_of(project)), *words]) == 0


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, optimizer, figures and curves to the bit."""
    mine, theirs = (load_checkpoint(folder / "weights/last.pt") for folder in (one, other))
    assert equal_states(mine["model"], theirs["model"]) and equal_states(mine["ema"], theirs["ema"])
    assert equal_states(mine["losses"], theirs["losses"])
    moments, others = mine["optimizer"]["state"], theirs["optimizer"]["state"]
    assert moments.keys() == others.keys() and all(equal_states(moments[key], others[key]) for key in moments)
    assert mine["step"] == theirs["step"] and mine["updates"] == theirs["updates"]
    assert (one / "results.csv").read_bytes() == (other / "results.csv").read_bytes()
    assert curves(one) == curves(other)
    best, others_best = (load_checkpoint(folder / "weights/best.pt") for folder in (one, other))
    assert equal_states(best["ema"], others_best["ema"]) and best["metrics"] == others_best["metrics"]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module")
def straight(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody stopped."""
    return train(tiny_config(tiny_data, tmp_path_factory.mktemp("straight"), *RECIPE)).folder


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


# ------------------------------------------------------------------------------------------------ what a crash takes


@pytest.fixture(scope="module")
def within_the_last_epoch(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run ``straight``, stopped in its fourth epoch."""
    project = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 10, send(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(tiny_config(tiny_data, project, *RECIPE))
    return project / "exp"


def last_bytes_zeroed(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count] + bytes(count))


def epochs_cut_from_curves(folder: Path) -> None:
    """Half of the event file is lost."""
    [events] = folder.glob(EVENTS)
    last_bytes_zeroed(events, events.stat().st_size // 2)


CRASHES: dict[str, Callable[[Path], object]] = {
    "rows cut off": lambda run: (run / "results.csv").write_bytes((run / "results.csv").read_bytes()[:-200]),
    "rows zeroed": lambda run: last_bytes_zeroed(run / "results.csv", 300),
    "no rows": lambda run: (run / "results.csv").unlink(),
    "a spreadsheet": lambda run: (run / "results.csv").write_text("epoch;loss\n1;0,5\n", encoding="utf-16"),
    "a row in between": lambda run: (run / "results.csv").write_text(
        "".join((run / "results.csv").read_text().splitlines(keepends=True)[::2])
    ),
    "half of the curves zeroed": epochs_cut_from_curves,
    "no curves": lambda run: [file.unlink() for file in run.glob(EVENTS)],
}


@pytest.mark.parametrize("crash", CRASHES)
def test_rows_and_curves_that_a_crash_took_are_written_again(
    within_the_last_epoch: Path, straight: Path, tmp_path: Path, crash: str
):
    run = shutil.copytree(within_the_last_epoch, tmp_path / "exp")
    CRASHES[crash](run)
    go_on(tmp_path)
    assert_same_run(run, straight)


def test_a_table_with_a_users_column_is_kept_beside_the_runs(within_the_last_epoch: Path, straight, tmp_path, capsys):
    run = shutil.copytree(within_the_last_epoch, tmp_path / "exp")
    table, others = run / "results.csv", run / "results_before.csv"
    others.write_text("kept of old")
    own = "".join(f"{line},mine\n" for line in table.read_text().splitlines())
    table.write_text(own)
    go_on(tmp_path)
    assert f"{table}: its columns are not those of the run; kept as results_before2.csv" in capsys.readouterr().out
    assert (run / "results_before2.csv").read_text() == own and others.read_text() == "kept of old"
    others.unlink()
    (run / "results_before2.csv").unlink()
    assert_same_run(run, straight)


def test_a_pipe_in_the_place_of_the_table_keeps_no_run_waiting(within_the_last_epoch: Path, tmp_path: Path, capsys):
    run = shutil.copytree(within_the_last_epoch, tmp_path / "exp")
    (run / "results.csv").unlink()
    os.mkfifo(run / "results.csv")
    assert train_main(["--resume", str(last_of(tmp_path))]) == 2
    assert "results.csv: a pipe, expected a regular file" in capsys.readouterr().err


def older(last: Path) -> None:
    """Make a last.pt of one that does not keep rows."""
    content = load_checkpoint(last)
    save_checkpoint(last, {key: value for key, value in content.items() if key not in ("format", "yolo_lite", "rows")})


def test_an_older_run_goes_on_with_the_rows_of_its_file(within_the_last_epoch: Path, straight: Path, tmp_path: Path):
    run = shutil.copytree(within_the_last_epoch, tmp_path / "exp")
    older(run / "weights/last.pt")
    go_on(tmp_path)
    assert_same_run(run, straight)


def test_of_an_older_run_a_broken_table_is_kept_beside_the_new_one(within_the_last_epoch: Path, tmp_path: Path, capsys):
    run = shutil.copytree(within_the_last_epoch, tmp_path / "exp")
    older(run / "weights/last.pt")
    table = run / "results.csv"
    header, first, _, third = table.read_text().splitlines(keepends=True)
    table.write_text(header + first + third)
    go_on(tmp_path)
    told = "expected whole rows of epochs 1 to 3, found [1, 3]; kept as results_before.csv, begun anew"
    assert f"{table}: {told}" in capsys.readouterr().out
    assert (run / "results_before.csv").read_text() == header + first + third
    assert [row["epoch"] for row in rows_of(run)] == ["4"]


def test_a_checkpoint_whose_rows_have_a_gap_is_refused(within_the_last_epoch: Path, tmp_path: Path, capsys):
    run = shutil.copytree(within_the_last_epoch, tmp_path / "exp")
    last = run / "weights/last.pt"
    content = load_checkpoint(last)
    del content["rows"][1], content["format"], content["yolo_lite"]
    save_checkpoint(last, content)
    assert "expected rows of epochs up to 3, found [1, 3]" in refusal(capsys, last)


def test_a_copy_of_last_pt_elsewhere_does_not_make_a_run_folder_of_what_lies_around(
    within_the_last_epoch: Path, tmp_path: Path, capsys
):
    copy = tmp_path / "far/w.pt"
    copy.parent.mkdir()
    shutil.copy(within_the_last_epoch / "weights/last.pt", copy)
    assert "expected the weights/last.pt of a run folder" in refusal(capsys, copy)
    assert list(tmp_path.rglob("*")) == [copy.parent, copy]


def finish_and_harm(monkeypatch: pytest.MonkeyPatch, harm: Callable[[], object]) -> None:
    finish = Record.finish
    monkeypatch.setattr(Record, "finish", lambda *all_of_it: (finish(*all_of_it), harm()))


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"broken")])
def test_the_closing_line_is_true(within_the_last_epoch: Path, tmp_path: Path, capsys, monkeypatch, harm):
    """A best.pt that is gone is written again where the last epoch was the best, else its loss is said."""
    for is_best in (True, False):
        run = shutil.copytree(within_the_last_epoch, tmp_path / str(is_best) / "exp")
        best, last = run / "weights/best.pt", run / "weights/last.pt"
        content = load_checkpoint(last)
        for key in ("format", "yolo_lite"):
            del content[key]
        save_checkpoint(last, {**content, "best_fitness": -1.0 if is_best else 1.0, "best_epoch": 2})
        finish_and_harm(monkeypatch, lambda best=best: harm(best))
        capsys.readouterr()
        go_on(run.parent)
        monkeypatch.undo()
        (out,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("best was")]
        if is_best:
            assert out.startswith(f"best was epoch 4: {best}, written again ({best}: ")
            assert load_checkpoint(best)["epoch"] == 4
        else:
            assert out.startswith(f"best was epoch 2, whose weights are lost: {best}: ")
            assert out.endswith(f"; those of epoch 4 are in {last}")


def test_everything_is_on_the_disk_before_the_checkpoint_that_counts_it(tiny_data: Path, tmp_path: Path, monkeypatch):
    """Of each epoch first its row, then its curves, then best.pt, then last.pt, and after each its folder."""
    order, sync_file, replace = [], os.fsync, os.replace

    def fsync(number: int) -> None:
        name = os.readlink(f"/proc/self/fd/{number}")
        order.append("sync " + Path(name).name.split(".17")[0])
        sync_file(number)

    def replaced(source, target) -> None:  # type: ignore[no-untyped-def]
        order.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync), monkeypatch.setattr(os, "replace", replaced)
    folder = train(tiny_config(tiny_data, tmp_path, "--epochs", "1")).folder
    written = [
        *("sync .results.csv.tmp", "rename results.csv", f"sync {folder.name}"),
        "sync events.out.tfevents",
        *("sync .best.pt.tmp", "rename best.pt", "sync weights"),
        *("sync .last.pt.tmp", "rename last.pt", "sync weights"),
    ]
    start = order.index("sync .results.csv.tmp")
    assert order[start : start + len(written)] == written


# ---------------------------------------------------------------------------------------------------- stop and go on


MOMENTS = [
    pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
    (6, signal.SIGINT),
    pytest.param(11, signal.SIGTERM, marks=pytest.mark.slow),
]


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize(("steps", "number"), MOMENTS)
def test_a_run_that_was_asked_to_stop_goes_on_to_the_bit(
    tiny_data: Path, straight: Path, tmp_path: Path, monkeypatch, capsys, steps: int, number: int
):
    with monkeypatch.context() as patch:
        stop_after(patch, steps, send(number))
        with pytest.raises(StoppedError) as stopped:
            train(tiny_config(tiny_data, tmp_path, *RECIPE))
    assert stopped.value.exit_status == 128 + number
    content = load_checkpoint(last_of(tmp_path))
    assert content["step"] == steps  # the step was finished, and no other begun
    go_on(tmp_path)
    assert_same_run(last_of(tmp_path).parents[1], straight)


def test_what_other_random_generators_do_changes_nothing(tiny_data: Path, straight: Path, tmp_path: Path, monkeypatch):
    step = train_module.train_step

    def disturbed(*arguments, **more):  # type: ignore[no-untyped-def]
        for draw in (random.random, np.random.random, lambda: torch.rand(3)):
            draw()
        return step(*arguments, **more)

    monkeypatch.setattr(train_module, "train_step", disturbed)
    folder = train(tiny_config(tiny_data, tmp_path, *RECIPE)).folder
    assert_same_run(folder, straight)


@pytest.mark.parametrize("words", [("--workers", "2"), pytest.param(("--save-period", "0.3"), marks=pytest.mark.slow)])
def test_workers_and_save_period_may_change_on_the_way(
    tiny_data: Path, straight: Path, tmp_path: Path, monkeypatch, words: tuple[str, ...]
):
    with monkeypatch.context() as patch:
        stop_after(patch, 4, send(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(tiny_config(tiny_data, tmp_path, *RECIPE, *words))
    go_on(tmp_path, "--workers", "0")
    assert_same_run(last_of(tmp_path).parents[1], straight)


@pytest.mark.slow
def test_bf16_and_sgd_go_on_to_the_bit(tiny_data: Path, tmp_path: Path, monkeypatch):
    words = ("--epochs", "2", "--optimizer", "SGD", "--set", "precision=bf16")
    whole = train(tiny_config(tiny_data, tmp_path / "whole", *words)).folder
    with monkeypatch.context() as patch:
        stop_after(patch, 2, send(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(tiny_config(tiny_data, tmp_path / "parts", *words))
    go_on(tmp_path / "parts")
    assert_same_run(tmp_path / "parts/exp", whole)


@pytest.mark.usefixtures("signals_as_before")
def test_a_signal_while_validating_saves_the_whole_epoch(
    tiny_data: Path, straight: Path, tmp_path: Path, monkeypatch, capsys
):
    evaluate = train_module.evaluate

    def interrupted(*arguments):  # type: ignore[no-untyped-def]
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate", interrupted)
        with pytest.raises(StoppedError, match="in epoch 1 after step 3 of 3; go on with --resume"):
            train(tiny_config(tiny_data, tmp_path, *RECIPE))
    assert not (tmp_path / "exp/results.csv").exists()  # the figures of an epoch are those of its whole validation
    go_on(tmp_path)
    assert_same_run(tmp_path / "exp", straight)


def test_a_signal_in_the_last_step_of_the_last_epoch_loses_nothing(tiny_data: Path, tmp_path: Path, monkeypatch):
    words = ("--epochs", "1")  # of three batches in two steps: the last one has a single batch
    whole = train(tiny_config(tiny_data, tmp_path / "whole", *words)).folder
    with monkeypatch.context() as patch:
        stop_after(patch, 2, send(signal.SIGTERM))
        with pytest.raises(StoppedError, match="in epoch 1 after step 2 of 2"):
            train(tiny_config(tiny_data, tmp_path / "parts", *words))
    go_on(tmp_path / "parts")
    mine, theirs = (load_checkpoint(last_of(tmp_path / name))["ema"] for name in ("parts", "whole"))
    assert equal_states(mine, theirs) and rows_of(tmp_path / "parts/exp") == rows_of(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("signals_as_before")
def test_a_signal_while_saving_lets_the_file_be_written(tiny_data: Path, straight: Path, tmp_path: Path, monkeypatch):
    replace = os.replace

    def interrupted(source, target):  # type: ignore[no-untyped-def]
        if str(target).endswith("last.pt"):
            os.kill(os.getpid(), signal.SIGTERM)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(StoppedError, match="in epoch 2 after step 0 of 3"):
            train(tiny_config(tiny_data, tmp_path, *RECIPE))
    assert load_checkpoint(last_of(tmp_path))["epoch"] == 1
    go_on(tmp_path)
    assert_same_run(tmp_path / "exp", straight)


@pytest.mark.usefixtures("signals_as_before")
def test_the_second_ctrl_c_stops_at_once():
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_command_line_tells_a_stop_by_its_exit_status(tiny_data: Path, tmp_path: Path, monkeypatch, capsys):
    config = tiny_config(tiny_data, tmp_path, *RECIPE)
    monkeypatch.setattr("yolo_lite.engine.resolve.run_config", lambda _: config)
    stop_after(monkeypatch, 2, send(signal.SIGTERM))
    assert train_main([]) == 143
    assert f"go on with --resume {last_of(tmp_path)}" in capsys.readouterr().err


def test_no_process_outlives_a_killed_run(tiny_data: Path, tmp_path: Path):
    words = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--data", str(tiny_data), "--imgsz", "64", "--device", "cpu"]
    words += ["--no-figures", "--epochs", "500", "--workers", "2", "--project", str(tmp_path)]
    process = subprocess.Popen([sys.executable, str(REPOSITORY / "train.py"), *words], stdout=subprocess.DEVNULL)
    wait_for(last_of(tmp_path).exists, 120)
    children = children_of(process.pid)
    assert len(children) >= 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(is_alive(child) for child in children), 30)
    assert load_checkpoint(last_of(tmp_path))["epoch"] >= 1


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------- when to save


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("1", "3e 6e 9e 12e"),
        ("2", "6e 12e"),
        ("0.5", "2 3e 5 6e 8 9e 11 12e"),  # half an epoch is rounded to 2 steps
        ("2min", "3e 6e 9e 12e"),
        ("1min", "2 3e 5 6e 8 9e 11 12e"),
    ],
)
def test_when_a_checkpoint_is_due(text: str, due: str, monkeypatch: pytest.MonkeyPatch):
    # 4 epochs of 3 steps, of half a minute each; "e" is the end of an epoch
    now = [0.0]
    monkeypatch.setattr("yolo_lite.engine.state.time.monotonic", lambda: now[0])
    saving = Saving(parse_save_period(text), 3, 0)
    found = []
    for step in range(1, 13):
        now[0] += 30
        found += [str(step)] if saving.is_due(step, ends_epoch=False) else []
        found += [f"{step}e"] if step % 3 == 0 and saving.is_due(step, ends_epoch=True) else []
    assert " ".join(found) == due


@pytest.mark.parametrize("text", ["0", "-1", "ten", "10 hours", "0.0min", " "])
def test_unusable_save_periods_are_refused(text: str, tiny_data: Path, tmp_path: Path, capsys):
    assert train_main(["--data", str(tiny_data), "--save-period=" + text, "--project", str(tmp_path)]) == 2
    assert "--save-period" in capsys.readouterr().err


def test_a_run_killed_within_an_epoch_goes_on_from_its_last_file(
    tiny_data: Path, straight: Path, tmp_path: Path, monkeypatch
):
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        stop_after(patch, 6, kill)
        with pytest.raises(Killed):
            train(tiny_config(tiny_data, tmp_path, *RECIPE, "--save-period", "0.3"))
    content = load_checkpoint(last_of(tmp_path))
    assert content["epoch"] == 1 and content["tally"]["steps"] == 2
    go_on(tmp_path)
    assert_same_run(tmp_path / "exp", straight)


# ------------------------------------------------------------------------------------------------------- extending


@pytest.mark.slow
def test_a_longer_run_follows_the_rest_of_the_new_schedule(tiny_data: Path, straight: Path, tmp_path: Path, capsys):
    words = ("--epochs", "2", *RECIPE[2:])
    train(tiny_config(tiny_data, tmp_path, *words))
    go_on(tmp_path, "--epochs", "4")
    assert "--epochs 4 instead of 2: the rest of that schedule" in capsys.readouterr().out
    longer, whole = rows_of(tmp_path / "exp"), rows_of(straight)
    assert [row["epoch"] for row in longer] == ["1", "2", "3", "4"]
    assert longer[2]["lr/weights"] == whole[2]["lr/weights"] and longer[3]["lr/weights"] == whole[3]["lr/weights"]
    assert longer[1]["lr/weights"] != whole[1]["lr/weights"]
    stored = config_of(load_checkpoint(last_of(tmp_path)), "").train
    assert (stored.epochs, stored.first_epochs) == (4, 2)


def test_there_is_no_second_warm_up():
    # 4 epochs warm up for one, a quarter of them; in 100 epochs the warm-up would last for three.
    hyp, longer = Hyp(warmup_epochs=3), Plan(10, 1, 100, first_epochs=4)
    assert rates(9, longer, hyp).momentum < hyp.momentum
    for step in range(10, 40):
        cold = hyp.model_copy(update={"warmup_epochs": 0.0})
        assert rates(step, longer, hyp) == rates(step, Plan(10, 1, 100), cold)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epochs", "4"], "this run is finished, 4 of 4 epochs; --epochs N with a larger N goes on"),
        (["--epochs", "3"], "--epochs 3: expected more than the 4 epochs that are done"),
        (["--epochs", "9", "--batch-size", "2"], "leave out --batch-size, or start a new run"),
    ],
)
def test_what_a_resumed_run_may_not_be_given(straight: Path, words: list[str], expected: str, capsys):
    assert train_main(["--resume", str(straight), *words]) == 2
    assert expected in capsys.readouterr().err


def test_after_a_resume_within_an_epoch_its_end_is_saved():
    saving = Saving(parse_save_period("1"), 10, 5)
    assert [step for step in (10, 20, 30) if saving.is_due(step, ends_epoch=True)] == [10, 20, 30]


# ------------------------------------------------------------------------------------------------ a dataset that moved


class Stopped(NamedTuple):
    """A run that was stopped on its way, and its dataset."""

    folder: Path
    data: Path  # data.yaml, with images and labels beside it


@pytest.fixture
def stopped(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """The run ``straight``, stopped in its second epoch, on files of its own."""
    place, config = tmp_path / "before", load_dataset_config(tiny_data)
    for kind in ("images", "labels"):
        shutil.copytree(dataset_root(config, tiny_data) / kind, place / kind)
    content = {"train": "images/train", "val": "images/val", "names": list(config.names)}
    (place / "data.yaml").write_text(yaml.safe_dump(content))
    with monkeypatch.context() as patch:
        stop_after(patch, 4, send(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(tiny_config(place / "data.yaml", tmp_path / "runs", *RECIPE))
    return Stopped(tmp_path / "runs/exp", place / "data.yaml")


def moved(stopped: Stopped, tmp_path: Path) -> Path:
    """Move the set, and write a YAML for it in another folder; it is returned."""
    shutil.move(stopped.data.parent, tmp_path / "elsewhere/set")
    file = tmp_path / "mine/new.yaml"
    file.parent.mkdir()
    content = {"path": "../elsewhere/set", "train": ["images/train"], "val": "images/val", "names": NAMES_OF_SHAPES}
    file.write_text(yaml.safe_dump(content))
    return file


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert train_main(["--resume", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_a_run_whose_dataset_has_moved_goes_on_to_the_bit(stopped: Stopped, straight: Path, tmp_path: Path, capsys):
    new = moved(stopped, tmp_path)
    said = refusal(capsys, stopped.folder)
    assert f"if the dataset has moved: --resume {stopped.folder} --data NEW.yaml" in said
    assert train_main(["--resume", str(stopped.folder), "--data", str(new)]) == 0
    assert "no longer what it would have been" not in capsys.readouterr().out
    assert_same_run(stopped.folder, straight)
    config = config_of(load_checkpoint(stopped.folder / "weights/last.pt"), "last.pt")  # from now on it is found there
    assert (config.data_file, config.train.data) == (str(new), str(new))
    assert train_main(["--resume", str(stopped.folder), "--epochs", "5"]) == 0


def swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between), other.rename(one), between.rename(other)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def first_label(place: Path) -> Path:
    return next(file for file in sorted((place / "labels/train").iterdir()) if file.read_text().strip())


def with_a_box_moved(place: Path) -> None:
    (label, *outline), *others = (row.split() for row in first_label(place).read_text().splitlines())
    rows = [[label, *(str(0.999 * float(value)) for value in outline)], *others]
    first_label(place).write_text("\n".join(map(" ".join, rows)))


def with_other_sizes(place: Path) -> None:
    image = next((place / "images/train").iterdir())
    cv2.imwrite(str(image), np.zeros((64, 48, 3), np.uint8))


def with_another_class(place: Path) -> None:
    label, rest = first_label(place).read_text().split(maxsplit=1)
    first_label(place).write_text(f"{(int(label) + 1) % len(NAMES_OF_SHAPES)} {rest}")


def in_another_order(place: Path) -> None:
    """Two images with different objects change their names."""
    files = sorted((place / "labels/val").iterdir())
    first, other = next((a, b) for a, b in itertools.pairwise(files) if a.read_text()[:1] != b.read_text()[:1])
    swap(first, other)
    swap(*((place / "images/val" / file.name).with_suffix(".png") for file in (first, other)))


OTHER_SETS = {
    "fewer images": (
        lambda place: sorted((place / "images/val").iterdir())[0].unlink(),
        "val: expected 8 images, found 7, as when the run began: 1 removed\n",
    ),
    "more images": (
        lambda place: shutil.copy(sorted((place / "images/val").iterdir())[0], place / "images/val/more.png"),
        "val: expected 8 images, found 9, as when the run began: 1 added\n",
    ),
    "other sizes": (
        with_other_sizes,
        "train: expected images of the same sizes and objects, in the same order, .*: 1 of other size or labels\n",
    ),
    "another class": (
        with_another_class,
        r"train: expected \d+ objects \w+ \(found \d+\), \d+ objects \w+ .*: 1 of other size or labels\n",
    ),
    "a box moved": (
        with_a_box_moved,
        "train: expected images of the same sizes and objects, in the same order, .*: 1 of other size or labels\n",
    ),
    "another order": (
        in_another_order,
        "val: expected images of the same sizes and objects, in the same order, .*: 2 of other size or labels\n",
    ),
}


def test_another_set_than_that_of_the_run_is_refused(stopped: Stopped, tmp_path: Path, capsys):
    before = (stopped.folder / "weights/last.pt").read_bytes()
    for name, (change, expected) in OTHER_SETS.items():
        place = tmp_path / name.replace(" ", "_")
        shutil.copytree(stopped.data.parent, place)
        change(place)
        said = refusal(capsys, stopped.folder, "--data", place / "data.yaml")
        assert re.search(rf"error: {place}/data.yaml: {expected}", said), (name, said)
        assert "--changed-data goes on with what is there now" in said
    assert (stopped.folder / "weights/last.pt").read_bytes() == before


def test_changed_class_names_are_refused_with_both_lists(stopped: Stopped, tmp_path: Path, capsys):
    names = ["bird", *NAMES_OF_SHAPES[1:]]
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"path": "before", "train": "images/train", "val": "images/val", "names": names}))
    lists = f"names: expected those of the run, [{', '.join(NAMES_OF_SHAPES)}], found [{', '.join(names)}]\n"
    assert refusal(capsys, stopped.folder, "--data", other) == f"error: {other}: {lists}"
    stopped.data.write_text(yaml.safe_dump({**yaml.safe_load(stopped.data.read_text()), "names": names}))
    assert refusal(capsys, stopped.folder) == f"error: {stopped.data}: {lists}"


def test_what_changed_in_its_place_needs_a_word_to_go_on(stopped: Stopped, capsys):
    before = files_of(stopped.folder)
    with_a_box_moved(stopped.data.parent)
    names = dict(enumerate(NAMES_OF_SHAPES))  # the same names in the other form are no change
    stopped.data.write_text(yaml.safe_dump({**yaml.safe_load(stopped.data.read_text()), "names": names}))
    told = "train: expected images of the same sizes and objects, in the same order, as when the run began: 1 of other"
    assert f"error: {stopped.data}: {told}" in refusal(capsys, stopped.folder)
    assert files_of(stopped.folder) == before
    assert train_main(["--resume", str(stopped.folder), "--changed-data", "--epochs", "3"]) == 0
    out = capsys.readouterr().out
    assert f"{stopped.data}: {told}" in out and "the run is no longer what it would have been" in out
    assert train_main(["--resume", str(stopped.folder), "--epochs", "4"]) == 0  # from now on this is its set


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("single_cls", True),
        pytest.param("val", "images/train", marks=pytest.mark.slow),
        pytest.param("classes", list(NAMES_OF_SHAPES[:2]), marks=pytest.mark.slow),
    ],
)
def test_an_edited_dataset_yaml_needs_a_word_to_go_on(stopped: Stopped, capsys, key: str, value):
    before = stopped.data.read_text()
    stopped.data.write_text(yaml.safe_dump({**yaml.safe_load(before), "test": "elsewhere"}))  # of no effect here
    assert train_main(["--resume", str(stopped.folder), "--data", str(stopped.data), "--epochs", "3"]) == 0
    stopped.data.write_text(yaml.safe_dump({**yaml.safe_load(before), key: value}))
    files = files_of(stopped.folder)
    words = ("--resume", str(stopped.folder), "--epochs", "4")
    assert train_main([*words]) == 2
    assert f"error: {stopped.data}: {key}: changed since the run began; --changed-data goes" in capsys.readouterr().err
    assert files_of(stopped.folder) == files
    assert train_main([*words, "--changed-data"]) == 0
    assert f"{stopped.data}: {key}: changed since the run began; the run goes on with" in capsys.readouterr().out
    assert load_checkpoint(stopped.folder / "weights/last.pt")["config"]["data"][key] != value
    assert train_main(["--resume", str(stopped.folder), "--epochs", "5"]) == 0


def test_a_renamed_image_is_a_change_in_its_place_and_none_elsewhere(
    stopped: Stopped, straight: Path, tmp_path, capsys
):
    last = max((stopped.data.parent / "images/val").iterdir())
    last.rename(last.with_stem("zzz"))
    label = stopped.data.parent / "labels/val" / f"{last.stem}.txt"
    label.rename(label.with_stem("zzz"))
    assert "as when the run began: 1 removed, 1 added\n" in refusal(capsys, stopped.folder)
    assert train_main(["--resume", str(stopped.folder), "--data", str(moved(stopped, tmp_path))]) == 0
    assert_same_run(stopped.folder, straight)


def test_the_word_for_a_changed_set_belongs_to_resume(capsys):
    assert train_main(["--changed-data"]) == 2
    assert "--changed-data: expected beside --resume" in capsys.readouterr().err


def test_of_an_older_run_only_the_class_names_are_compared(stopped: Stopped, straight: Path, tmp_path: Path, capsys):
    last, new = stopped.folder / "weights/last.pt", moved(stopped, tmp_path)
    content = load_checkpoint(last)
    del content["data"]
    save_checkpoint(last, {key: value for key, value in content.items() if key not in ("format", "yolo_lite")})
    assert train_main(["--resume", str(stopped.folder), "--data", str(new)]) == 0
    assert "of the dataset only the class names were compared" in capsys.readouterr().out
    assert_same_run(stopped.folder, straight)


def test_names_that_a_flag_gave_do_not_count_as_changed(tiny_data: Path, tmp_path: Path, monkeypatch, capsys):
    names = f"data.names=[{','.join(name.upper() for name in NAMES_OF_SHAPES)}]"
    with monkeypatch.context() as patch:
        stop_after(patch, 1, send(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(tiny_config(tiny_data, tmp_path, "--epochs", "1", "--set", names))
    go_on(tmp_path)
    assert load_checkpoint(last_of(tmp_path))["data"]["names"] == [name.upper() for name in NAMES_OF_SHAPES]
