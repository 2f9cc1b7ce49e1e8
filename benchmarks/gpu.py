"""Everything that this project should know of a GPU: one command, one table, under eight minutes on one card.

    python benchmarks/gpu.py --out gpu            writes gpu/gpu.md, row by row as it is measured
    python benchmarks/gpu.py --out gpu --quick    proves it on a CPU, with tiny images

It needs no network and no data: it draws images with boxes and outlines, of 80 classes by name, and keeps them as JPEG.
Another process measures. What fails, hangs or crashes ends that process and is a row that says why; the next process
goes on behind it. What did not fit into the time of its part, or of all, is a row too: ``--parts auto compile`` does
these parts alone, ``--minutes 15`` gives each twice as much. ``log.txt`` has all that was printed, ``rows.jsonl`` the
figures, ``traces`` a profile of each head (perfetto.dev).

How to read the table
- ``img/s`` is the thing itself, ``bare img/s`` the network alone on the same batch: both passes in training, forward
  in predict. A ratio near 1 means that nothing is left but the network. Turns alternate, two calls warm up, the GPU is
  waited for at the ends of a turn only, medians of the rounds are shown.
- ``peak GiB``: allocated / reserved by torch over three steps. nvidia-smi shows more: CUDA itself holds half a GiB.
- heads: a step on a batch in pinned memory, its transfer among it, no loading. Far below bare, with a GPU that is
  ``busy`` (seconds of its work by those of the step) for less than, say, 90 %: the host is too slow, or waits.
  ``host waits`` are those that torch tells of, with the lines that make them. One is due: train.py asks whether loss
  and gradient are finite. The profile counts those of CUDA; their milliseconds do no harm while the GPU is busy.
  On a CPU lines are named whose outputs have a size that depends on values: there a GPU would be waited for.
- heads, percentage: assignment, loss and its gradient, measured alone on resident outputs, by the seconds of the step.
- grid: fp32 convolves in TF32 where the card can (torch's default). bf16 should be quickest, and channels-last quicker
  than contiguous in 16 bits.
- scale: fp16 begins at 65536, for heads that grade their pairs at 1. Each overflow halves it; below 1 it would starve.
- auto: what ``--batch-size auto`` takes, and how long it looks for it. Reserved should stay near 90 % of the card.
- loading: what processes make ready of JPEG files, in mosaics of four, and of decoded images. Where that is less than
  the rate of training, training starves: rows with a model say for how much of the time it waits.
- compile: it pays where img/s grows by more, over a run, than the first step takes.
- resume: ``the same bits``, or ``deterministic: true`` does not hold on this card.
- trained: from files to detections; stages of the evaluation in seconds; ``bare`` of predict is the fastest form.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np

from yolo_lite.config.data import Generate
from yolo_lite.data.shapes import SHAPE_CLASSES, SPLITS, write_image
from yolo_lite.report.table import markdown_table

HEADER = ("part", "measured", "img/s", "bare img/s", "of bare", "peak GiB", "s", "remark")
MEASURES = Path(__file__).with_name("gpu_measures.py")
START_SECONDS = 120.0  # that a process may take to its first measurement, beside the limit of this
# Seconds that a part may take before those of its measurements that have not begun are left out.
BUDGETS = {
    "machine": 30,
    "heads": 70,
    "grid": 90,
    "loading": 50,
    "scale": 20,
    "auto": 60,
    "trained": 60,
    "resume": 70,
    "compile": 120,
}


class Scale(NamedTuple):
    """How large everything is."""

    pixels: int
    images: tuple[int, int]  # drawn for train and val
    sizes: tuple[str, ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    workers: tuple[int, ...]
    rounds: int
    block: float  # seconds of a kind of work before another has its turn
    loading: float  # seconds for which loading is measured
    steps: int  # in which the loss scale is watched
    minutes: float
    patience: float = 1.0  # times the budget of a part

    is_quick: bool = False


FULL = Scale(640, (192, 96), ("n", "s"), (16, 64), ("fp32", "fp16", "bf16"), (4, 8, 16), 3, 0.3, 3.0, 100, 7.5)
QUICK = Scale(64, (12, 6), ("n",), (2, 4), ("fp32", "bf16"), (1, 2), 1, 0.0, 0.2, 3, 30.0, 10.0, True)


class Measurement(NamedTuple):
    """A row to be measured."""

    part: str  # a key of BUDGETS
    name: str
    measure: str  # of gpu_measures.MEASURES
    choice: Mapping[str, Any] = MappingProxyType({})
    needs_gpu: bool = False
    limit: float = 60.0  # seconds after which it is stopped


class Row(NamedTuple):
    """What came of it."""

    rate: float | None = None  # images a second
    bare: float | None = None
    peak: str = ""  # GiB
    remark: str = ""
    seconds: float = 0.0


def scale_of(flags: argparse.Namespace) -> Scale:
    """That of the flags; with more minutes every part has more."""
    scale = QUICK if flags.quick else FULL
    minutes = flags.minutes or scale.minutes
    return scale._replace(minutes=minutes, patience=scale.patience * max(minutes / scale.minutes, 1))


def plan(one: Scale, parts: Container[str] = BUDGETS) -> list[Measurement]:
    """All that is measured, what matters most first."""
    small, large, most = one.batches[0], one.batches[-1], one.workers[-1]
    cfg, middle = "cfg/yolo_n.yaml", one.workers[len(one.workers) // 2]
    kinds = ["yolo_n", "yolo_n_free", "yolo_n_seg", "yolo_n_seg_free", "faster_rcnn"]
    todo, choice = [Measurement("machine", "device", "machine")], dict[str, Any]()
    for name in kinds:
        choice = {"cfg": f"cfg/{name}.yaml", "batch": small, "detail": True}
        todo.append(Measurement("heads", f"{name}, batch {small}", "training", choice))
    todo += [
        _training(size, batch, precision) for size in one.sizes for batch in one.batches for precision in one.precisions
    ]
    todo += [
        _training(size, large, precision, channels_last=False) for size in one.sizes for precision in one.precisions
    ]
    for workers in one.workers:
        choice = {"batch": 2 if one.is_quick else 16, "workers": workers}
        todo.append(Measurement("loading", f"{workers} workers, files", "loading", choice))
        if workers == middle:
            todo.append(Measurement("loading", f"{workers} workers, decoded", "loading", choice | {"cache": "ram"}))
    for workers in sorted({middle, most}):
        choice = {"cfg": cfg, "batch": large, "workers": workers, "cache": "ram"}
        todo.append(Measurement("loading", f"yolo_n, batch {large}, {workers} workers, decoded", "loading", choice))
    for name in kinds[:4]:
        choice = {"cfg": f"cfg/{name}.yaml", "batch": small, "steps": one.steps}
        todo.append(Measurement("scale", f"{name}, fp16", "loss_scale", choice, needs_gpu=True))
    todo += [_training(size, "auto", precision) for precision in reversed(one.precisions) for size in one.sizes]
    done = {"batch": large, "workers": middle}
    run = {**done, "cfg": cfg, "epochs": 2 if one.is_quick else 4}
    todo += [
        Measurement("trained", f"yolo_n, batch {large}, {middle} workers: a run", "run", run),
        Measurement("trained", f"evaluate, batch {large}", "evaluation", done),
        Measurement("trained", "predict, batch 1", "prediction", {"batch": 1}),
        Measurement("trained", f"predict, batch {small}", "prediction", {"batch": small}),
        Measurement("trained", "ONNX on the CPU, batch 1", "onnx", {"provider": "CPUExecutionProvider"}),
        Measurement("trained", "ONNX on the GPU, batch 1", "onnx", {"provider": "CUDAExecutionProvider"}, True),
    ]
    compiled = [_training(size, large, "bf16", compile=True) for size in one.sizes]
    choice = {"epochs": 2, "workers": min(middle, 4), "imgsz": one.pixels // 2}
    todo += [compiled[0], Measurement("resume", "yolo_n, batch 16", "resume", choice, limit=100), *compiled[1:]]
    kept = [each for each in todo if each.part == "machine" or each.part in parts]
    return [each._replace(limit=each.limit * one.patience) for each in kept]


def _training(size: str, batch: int | str, precision: str, **hyp: Any) -> Measurement:
    """Training of one size in one form."""
    forms = {"channels_last": "contiguous", "compile": "compiled"}
    name = ", ".join([f"yolo_{size}", f"batch {batch}", precision, *(forms[key] for key in hyp)])
    part = "compile" if "compile" in hyp else "auto" if batch == "auto" else "grid"
    choice = {"cfg": f"cfg/yolo_{size}.yaml", "batch": batch, "precision": precision, **hyp}
    needs_gpu = part in ("auto", "compile") or precision == "fp16"
    return Measurement(part, name, "training", choice, needs_gpu, limit=120 if part == "compile" else 60)


def draw(folder: Path, scale: Scale) -> None:
    """The dataset: images and labels of both splits, and its YAML, in a folder that may be there already."""
    spec = Generate(kind="shapes", train=scale.images[0], val=scale.images[1], image_size=scale.pixels)
    if (folder / "data.yaml").exists():
        return
    for split in SPLITS:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
    keys = [(split, number) for split, count in zip(SPLITS, scale.images, strict=True) for number in range(count)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(draw_one, folder, spec), keys))
    names = [*SHAPE_CLASSES, *(f"class {number}" for number in range(len(SHAPE_CLASSES), 80))]
    lines = ["train: images/train", "val: images/val", f"names: {json.dumps(names)}"]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_one(folder: Path, spec: Generate, key: tuple[str, int]) -> None:
    """One image of the embedded set, kept as JPEG, as most images of the world are."""
    write_image(folder, spec, *key)
    drawn = folder / "images" / key[0] / f"{key[1]:06d}.png"
    pixels = np.asarray(cv2.imread(str(drawn)))
    cv2.imwrite(str(drawn.with_suffix(".jpg")), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    drawn.unlink()


def append(file: Path, row: Row) -> None:
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(row._asdict()) + "\n")


def read_rows(file: Path) -> list[Row]:
    """The rows that are there; a line that is being written is none yet."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [Row(**json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def supervise(
    todo: Sequence[Measurement], out: Path, words: Sequence[str], deadline: float, show: Callable[[list[Row]], None]
) -> list[Row]:
    """Let processes answer until every measurement has its row; ``show`` is called with all rows after each."""
    file, why = out / "rows.jsonl", "the time was over"
    while (done := len(read_rows(file))) < len(todo) and time.monotonic() < deadline:
        with open(out / "log.txt", "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, text=True
            )
            reason = watch(process, todo, file, deadline, show)
        rows = read_rows(file)
        if len(rows) < len(todo):
            append(file, Row(remark=f"not measured: {reason or last_line(out / 'log.txt')}"))
            show(read_rows(file))
        if done == len(rows) == 0:
            why = "there is nothing to measure on"
            break
    for _ in range(len(todo) - len(read_rows(file))):
        append(file, Row(remark=f"not measured: {why}"))
    return read_rows(file)


def watch(
    process: subprocess.Popen[str],
    todo: Sequence[Measurement],
    file: Path,
    deadline: float,
    show: Callable[[list[Row]], None],
) -> str:
    """Wait for a process, and end it where a measurement takes too long; why, or "" where it ended by itself."""
    seen, since, start = len(read_rows(file)), time.monotonic(), START_SECONDS
    try:
        while process.poll() is None:
            time.sleep(0.05)
            rows, now = read_rows(file), time.monotonic()
            if len(rows) > seen:
                seen, since, start = len(rows), now, 0.0
                show(rows)
            if now > deadline:
                return "stopped, the time was over"
            if now - since > todo[min(seen, len(todo) - 1)].limit + start:
                return f"stopped after {now - since:.0f} s"
        return ""
    finally:
        with contextlib.suppress(ProcessLookupError):  # neither it nor anything that it has started is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if len(rows := read_rows(file)) > seen:
            show(rows)


def last_line(log: Path) -> str:
    """What a process has said last, that is why it ended."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "its process ended without a word"


def table(todo: Sequence[Measurement], rows: Sequence[Row]) -> str:
    """The Markdown table of the rows that are there."""
    lines: list[Sequence[str]] = [HEADER]
    for one, row in zip(todo, rows, strict=False):
        ratio = f"{row.rate / row.bare:.2f}" if row.rate and row.bare else ""
        figures = ["" if value is None else f"{value:.1f}" for value in (row.rate, row.bare)]
        lines.append(
            [one.part, one.name, *figures, ratio, row.peak, f"{row.seconds:.1f}", row.remark.replace("|", "/")]
        )
    return markdown_table(lines)


def write_report(out: Path, todo: Sequence[Measurement], rows: Sequence[Row], words: Sequence[str]) -> None:
    """gpu.md: the table, and how it came to be."""
    title = f"# {rows[0].remark if rows else 'nothing measured'}, {date.today()}"
    left = sum(row.remark.startswith("not measured") for row in rows) + len(todo) - len(rows)
    command = f"`python benchmarks/gpu.py {shlex.join(words)}`; {left} of {len(todo)} measurements not made"
    guide = "How to read it: docstring of `benchmarks/gpu.py`."
    (out / "gpu.md").write_text("\n\n".join([title, command, table(todo, rows), guide]) + "\n", encoding="utf-8")


def read_flags(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Those of the command, which are also those of the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table, the log and the drawn data")
    parser.add_argument("--quick", action="store_true", help="tiny, on a CPU too")
    parser.add_argument("--device", default="", help="cpu, 0, ... (default: a GPU if any)")
    parser.add_argument("--minutes", type=float, help="after which it ends (default: 7.5, of --quick 30)")
    parser.add_argument("--parts", nargs="+", choices=list(BUDGETS), default=list(BUDGETS), metavar="PART")
    return parser.parse_args(words)


def main(given: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if given is None else given)
    flags = read_flags(words)
    scale, out, start = scale_of(flags), flags.out.resolve(), time.monotonic()
    todo = plan(scale, flags.parts)
    draw(out / "data", scale)
    for name in ("rows.jsonl", "log.txt"):
        (out / name).unlink(missing_ok=True)
    os.environ["YOLO_LITE_CACHE"] = str(out / "cache")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end the process that measures

    def show(rows: list[Row]) -> None:
        write_report(out, todo, rows, words)
        print(f"{time.monotonic() - start:5.0f} s  {todo[len(rows) - 1].name}: {rows[-1].remark}", flush=True)

    rows = supervise(todo, out, [sys.executable, str(MEASURES), *words], start + 60 * scale.minutes, show)
    write_report(out, todo, rows, words)
    print(out / "gpu.md")
    return int(rows[0].remark.startswith("not measured"))


if __name__ == "__main__":
    raise SystemExit(main())
