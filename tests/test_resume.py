"""A run goes on to the bit, wherever and however it was stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, children_of, equal_states, rows_of, tiny_config, wait_for

import yolo_lite.engine.train as train_module
from yolo_lite.cli.main import train_main
from yolo_lite.config.errors import StoppedError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.run import parse_save_period
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.optimizer import Plan, rates
from yolo_lite.engine.state import Saving
from yolo_lite.engine.stop import stop_requests
from yolo_lite.engine.train import train

# 20 pictures in batches of 4, two batches a step: 3 steps an epoch, the last one of a single batch.
RECIPE = ("--epochs", "4", "--batch-size", "4", "--set", "nominal_batch=8", "mixup=0.3", "box_loss=wiou")


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
