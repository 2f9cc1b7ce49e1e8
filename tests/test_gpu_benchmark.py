"""The laws of benchmarks/gpu.py, on a CPU: its plan, its processes, its table, and that its clocks wait for a GPU."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from conftest import REPOSITORY, wait_for

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import gpu
import gpu_measures
import timing
from gpu import (
    BUDGETS,
    FULL,
    HEADER,
    QUICK,
    Measurement,
    Row,
    Scale,
    plan,
    read_flags,
    read_rows,
    scale_of,
    supervise,
    table,
)
from gpu_measures import MEASURES, Bench, answer

from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.index import index_split
from yolo_lite.engine import train as train_module
from yolo_lite.engine.batch_size import largest_that_fits
from yolo_lite.engine.train import train_step
from yolo_lite.loss.assigners.pairs import Pairs

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The drawn set of ``--quick``, a few images of it."""
    out, scale = tmp_path_factory.mktemp("gpu"), QUICK._replace(images=(3, 2))
    gpu.draw(out / "data", scale)
    return Bench(out, scale, CPU)


# ------------------------------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_every_planned_measurement_can_be_called(scale: Scale):
    for one in plan(scale):
        assert one.part in BUDGETS
        given = inspect.signature(MEASURES[one.measure]).bind(None, **one.choice).arguments
        assert set(given.get("hyp", {})) <= set(Hyp.model_fields)
        assert "cfg" not in given or (REPOSITORY / given["cfg"]).exists()
    assert {one.measure for one in plan(scale)} == set(MEASURES)


def test_what_it_promises_is_planned():
    names = {(one.part, one.name) for one in plan(FULL)}
    forms = [f"yolo_{size}, batch {batch}, {precision}" for size in "ns" for batch in (16, 64) for precision in FORMS]
    layouts = [f"yolo_{size}, batch 64, {precision}, contiguous" for size in "ns" for precision in FORMS]
    assert names >= {("grid", name) for name in (*forms, *layouts)}
    assert names >= {("auto", f"yolo_{size}, batch auto, {precision}") for size in "ns" for precision in FORMS}
    assert names >= {("compile", f"yolo_{size}, batch 64, bf16, compiled") for size in "ns"}
    heads = ("yolo_n", "yolo_n_free", "yolo_n_seg", "yolo_n_seg_free", "faster_rcnn")
    assert names >= {("heads", f"{name}, batch 16") for name in heads}
    assert names >= {("loading", f"{workers} workers, files") for workers in (4, 8, 16)}
    assert len({(one.part, one.name) for one in plan(FULL)}) == len(plan(FULL))


FORMS = ("fp32", "fp16", "bf16")


def test_what_a_cpu_cannot_do_is_a_row_that_says_so(bench: Bench):
    one = next(one for one in plan(QUICK) if one.part == "auto")
    assert answer(one, bench, 0).remark == "not measured: needs a GPU"


def test_parts_can_be_chosen_and_more_minutes_give_each_more():
    flags = read_flags(["--out", "x", "--parts", "auto", "--minutes", "15"])
    assert {one.part for one in plan(FULL, flags.parts)} == {"machine", "auto"}
    assert (scale_of(flags).minutes, scale_of(flags).patience) == (15, 2)
    assert scale_of(read_flags(["--out", "x", "--quick"])) == QUICK


def test_a_part_that_had_its_time_leaves_the_rest_out(bench: Bench):
    one = plan(FULL)[0]
    assert "not measured" in answer(one, bench, BUDGETS["machine"] * bench.scale.patience + 1).remark
    assert answer(one, bench, 0).remark.startswith("cpu")


# -------------------------------------------------------------------------------------------------------- processes

# Answers as the measuring process does; the second fails, the fourth hangs with a process of its own, the sixth dies.
CHILD = """
import json, os, signal, subprocess, sys, time
done = len(open("rows.jsonl").readlines()) if os.path.exists("rows.jsonl") else 0
for number in range(done, 7):
    if number == 1:
        raise ValueError("the card | is full")
    if number == 3:
        open("child", "w").write(str(subprocess.Popen(["sleep", "600"]).pid))
        time.sleep(600)
    if number == 5:
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    with open("rows.jsonl", "a") as rows:
        rows.write(json.dumps({"rate": 10.0 * number, "bare": 100.0}) + "\\n")
"""


def test_a_failure_a_hang_and_a_crash_are_a_row_each_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    todo = [Measurement("heads", f"number {number}", "training", limit=1.0) for number in range(7)]
    shown: list[int] = []
    words = [sys.executable, "-S", "-c", CHILD]
    rows = supervise(todo, tmp_path, words, time.monotonic() + 120, lambda rows: shown.append(len(rows)))
    assert [row.rate for row in rows] == [0.0, None, 20.0, None, 40.0, None, 60.0]
    assert rows[1].remark == "not measured: ValueError: the card | is full"
    assert rows[3].remark.startswith("not measured: stopped after")
    assert rows[5].remark == "not measured: last words"
    assert shown == sorted(shown) and shown[-1] == 7
    assert is_gone((tmp_path / "child").read_text())


def test_whoever_stops_it_stops_the_process_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    todo = [Measurement("heads", f"number {number}", "training") for number in range(7)]

    def interrupt(rows: list[Row]) -> None:
        if (tmp_path / "child").exists():
            raise KeyboardInterrupt

    gpu.append(tmp_path / "rows.jsonl", Row())
    gpu.append(tmp_path / "rows.jsonl", Row())  # the one that would fail
    script = CHILD.replace("time.sleep(600)", "open('rows.jsonl', 'a').write('{}\\n'); time.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        supervise(todo, tmp_path, [sys.executable, "-S", "-c", script], time.monotonic() + 120, interrupt)
    assert is_gone((tmp_path / "child").read_text())


def is_gone(process: str) -> bool:
    wait_for(lambda: not (status := Path(f"/proc/{process}/status")).exists() or "State:\tZ" in status.read_text(), 20)
    return True


def test_what_did_not_fit_into_the_time_is_named(tmp_path: Path):
    todo = plan(FULL)
    rows = supervise(todo, tmp_path, [sys.executable, "-c", "raise SystemExit(1)"], time.monotonic(), lambda rows: None)
    assert len(rows) == len(todo) and {row.remark for row in rows} == {"not measured: the time was over"}
    gpu.write_report(tmp_path, todo, rows, ["--out", "x"])
    text = (tmp_path / "gpu.md").read_text()
    assert f"{len(todo)} of {len(todo)} measurements not made" in text
    assert all(one.name in text for one in todo)


def test_without_a_machine_nothing_else_is_tried(tmp_path: Path):
    words = [sys.executable, "-S", "-c", "raise ValueError('no GPU')"]
    rows = supervise(plan(FULL), tmp_path, words, time.monotonic() + 60, lambda rows: None)
    assert rows[0].remark == "not measured: ValueError: no GPU"
    assert {row.remark for row in rows[1:]} == {"not measured: there is nothing to measure on"}
    assert (tmp_path / "log.txt").read_text().count("ValueError: no GPU") == 1


# ------------------------------------------------------------------------------------------------------------ table


def test_the_table_has_a_row_for_each_measurement_that_is_there():
    todo = plan(FULL)
    rows = [Row(remark="a card"), Row(50.0, 200.0, "1.0 / 2.0", "of a | b", 3.04), Row(7.0)]
    lines = table(todo, rows).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert len(lines) == 5 and {len(row) for row in cells} == {len(HEADER)}
    assert cells[3] == ["heads", todo[1].name, "50.0", "200.0", "0.25", "1.0 / 2.0", "3.0", "of a / b"]
    assert cells[4][2:5] == ["7.0", "", ""]


def test_a_row_that_is_being_written_is_none_yet(tmp_path: Path):
    gpu.append(tmp_path / "rows", Row(1.0))
    with open(tmp_path / "rows", "a") as file:
        file.write('{"rate": 2')
    assert read_rows(tmp_path / "rows") == [Row(1.0)]


def test_the_drawn_set_is_one_of_jpeg_files_with_outlines_and_80_classes(bench: Bench):
    data = load_dataset_config(bench.data)
    for split, count in (("train", 3), ("val", 2)):
        index = index_split(data, bench.data, split, with_outlines=True)
        assert len(index) == count and len(index.names) == 80 and index.outlines is not None
        assert all(index.path(position).endswith(".jpg") for position in range(count))
        assert max(cv2.imread(index.path(0)).shape) == bench.scale.pixels


# ----------------------------------------------------------------------------------------------------------- clocks


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of a GPU that is not there, in order."""
    seen: list[str] = []

    def told(name: str, value: float = 0) -> Callable[..., float]:
        return lambda *given: (seen.append(name), value)[1]

    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, told(name))
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", seen.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", told("allocated", 2.0**30))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", told("reserved", 2.0**31))
    return seen


def test_a_gpu_is_waited_for_at_the_ends_of_the_clock_alone(calls: list[str]):
    timing.seconds_of(lambda: calls.append("step"), GPU, 3)
    assert calls == ["synchronize", "step", "step", "step", "synchronize"]
    calls.clear()
    timing.seconds_of(lambda: calls.append("step"), CPU)
    assert calls == ["step"]


def test_kinds_take_turns_and_warm_up():
    seen: list[str] = []
    found = timing.in_turn({kind: lambda kind=kind: seen.append(kind) for kind in "ab"}, CPU, rounds=2, uncounted=1)
    assert "".join(seen) == "aaa" + "bbb" + "aabb" * 2  # two calls and one of the calibration, then turns
    assert [len(figures) for figures in found.values()] == [2, 2]


def test_peak_memory_is_that_of_the_steps(calls: list[str]):
    _, peak = gpu_measures.first_seconds(lambda: calls.append("step"), GPU)
    steps = [name for name in calls if name != "synchronize"]
    assert steps == ["reset_peak_memory_stats", "step", "step", "step", "allocated", "reserved"]
    assert peak == "1.0 / 2.0"
    assert gpu_measures.first_seconds(lambda: None, CPU)[1] == ""


def warn_in_the_package(share: float = 1.0) -> None:
    """As torch does where the host waits, called by a line of yolo_lite."""

    def share_of(count: int) -> float:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        return 0.0 if count == 1 else share

    largest_that_fits(share_of)


def test_host_waits_are_counted_by_the_line_that_makes_them(calls: list[str]):
    lines, first = inspect.getsourcelines(largest_that_fits)
    line = first + next(number for number, text in enumerate(lines) if "share_of(count)" in text)

    def step() -> None:
        warn_in_the_package()
        warnings.warn("something else", stacklevel=1)

    assert dict(gpu_measures.host_waits(step, 3)) == {f"batch_size.py:{line}": 6}  # two a step
    assert calls == ["warn", "default"]


def test_sizes_that_depend_on_values_are_counted_by_line():
    pairs, few = Pairs(*torch.arange(6).view(3, 2)), torch.tensor([True, False])
    assert not gpu_measures.unknown_sizes(lambda: pairs.select(torch.tensor([1])), 1)
    (place, count), *others = gpu_measures.unknown_sizes(lambda: pairs.select(few), 2).items()
    assert place.startswith("pairs.py:") and count == 2 and not others  # once a step, not once a column


@pytest.mark.filterwarnings("ignore:called a synchronizing")
def test_the_profile_tells_waits_and_how_busy_the_gpu_is(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def event(key: str, count: int, cpu: float, own: float, on_gpu: bool, marked: bool = False) -> SimpleNamespace:
        kind = SimpleNamespace(name="CUDA" if on_gpu else "CPU")
        times = {"cpu_time_total": cpu, "self_device_time_total": own, "is_user_annotation": marked}
        return SimpleNamespace(key=key, count=count, device_type=kind, **times)

    events = [
        event("cudaStreamSynchronize", 6, 12_000, 0, on_gpu=False),
        event("cudaDeviceSynchronize", 2, 90_000, 0, on_gpu=False),  # the clock's own
        event("aten::conv2d", 50, 1, 180_000, on_gpu=False),  # the host's view of the kernels below
        event("kernel", 50, 0, 180_000, on_gpu=True),
        event("ProfilerStep", 5, 0, 900_000, on_gpu=True, marked=True),
    ]

    class Profile:
        def __init__(self, activities: object) -> None: ...
        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *_: object) -> None: ...
        def export_chrome_trace(self, path: str) -> None:
            Path(path).touch()

        def key_averages(self) -> list[SimpleNamespace]:
            return events

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    trace = tmp_path / "traces/n.json.gz"
    told = gpu_measures.profiled(warn_in_the_package, GPU, seconds=0.1, trace=trace)
    assert "2 host waits a step (batch_size.py:" in told
    assert told.endswith("x2), 2 in the profile, 4.0 ms; busy 60%") and trace.exists()


# ------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("cfg", ["yolo_n", "yolo_n_seg_free"])
def test_the_loss_that_is_measured_is_that_of_a_step(cfg: str, bench: Bench, monkeypatch: pytest.MonkeyPatch):
    config = bench.config(f"cfg/{cfg}.yaml", 2, {"precision": "fp32"})
    state, setup = gpu_measures.started(config)
    batch = gpu_measures.batch_of(bench, cfg, 2).to(setup.compute)
    measured = gpu_measures.loss_steps(state, setup, batch)["loss"]
    grad, seen = torch.autograd.grad, []
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, *more: (seen.append(loss.detach()), grad(loss, *more))[1])
    measured()
    monkeypatch.undo()
    monkeypatch.setattr(train_module, "_update", lambda *_: "stays as it is")
    losses = train_step(state, [batch], setup).losses.sum()
    if state.criterion.needs_predictions:  # a step divides once, at its end
        raw, grid = state.model(batch.images), state.model.grid(*batch.images.shape[2:])
        matches = state.criterion.assign(batch.objects, grid, state.criterion.predictions(raw, grid))
        losses = losses * state.criterion.divisor(matches).clamp(min=1)
    torch.testing.assert_close(seen[-1], losses, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- the whole


@pytest.mark.slow
@pytest.mark.processes
def test_the_quick_table_measures_everything_that_a_cpu_can(tmp_path: Path):
    words = [
        sys.executable,
        str(REPOSITORY / "benchmarks/gpu.py"),
        "--out",
        str(tmp_path),
        "--quick",
        "--device",
        "cpu",
    ]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "TQDM_DISABLE": "1"})
    rows, todo = read_rows(tmp_path / "rows.jsonl"), plan(QUICK)
    assert ended.returncode == 0 and len(rows) == len(todo), ended.stdout + ended.stderr
    for one, row in zip(todo, rows, strict=True):
        on_cpu = not one.needs_gpu
        assert row.remark.startswith("not measured") != on_cpu, (one.name, row.remark)
        if on_cpu and one.part not in ("machine", "resume"):
            assert row.rate and row.rate > 0, one.name
    by_part = {one.part: row for one, row in zip(todo, rows, strict=True)}
    assert by_part["resume"].remark.endswith("the same bits")
    assert (tmp_path / "gpu.md").read_text().count("\n|") == len(todo) + 2
    assert len(list((tmp_path / "traces").iterdir())) == 5
