"""What models cost beside each other: parameters, GFLOPs, a training step, loading, and their ONNX file.

    python benchmarks/models.py --cfg cfg/yolo_n.yaml cfg/yolo_s.yaml cfg/yolo_mobilenet.yaml
    python benchmarks/models.py --cfg cfg/yolo_n.yaml cfg/yolo_n_seg.yaml --data ../shared/data/facade/data.yaml

A training step is all that follows loading: matching, losses, both passes, the optimizer, the moving average, on the
same batch again and again. Loading makes batches in this process, from decoded images, with masks where the model
learns them. The ONNX file runs an image of ``--onnx-imgsz`` pixels. Models take turns, round by round, that a drifting
machine hits them all; ratios to the first model are medians of the rounds. Weights are random: speed does not ask.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from train_step import full_batches, started, training_set

from yolo_lite.config.options import TrainOptions
from yolo_lite.deploy.formats import extra
from yolo_lite.deploy.graph import Decoded
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.train import train_step
from yolo_lite.report.table import markdown_table


class Measured(NamedTuple):
    """A model and what is timed of it."""

    name: str
    size: str  # parameters and GFLOPs
    load: Callable[[], object]  # a batch
    step: Callable[[], object]
    onnx: Callable[[], object]  # an image


def prepare(cfg: str, flags: argparse.Namespace, folder: Path) -> Measured:
    """Build a model; its file is written into ``folder``."""
    what: dict[str, Any] = {name: getattr(flags, name) for name in ("data", "imgsz", "batch_size")}
    keys = {"cache": "ram"} | ({"precision": flags.precision} if flags.precision else {})
    config = run_config(TrainOptions(**what, cfg=cfg, hyp="cfg/hyp.yaml", device="cpu", workers=0, set=keys))
    (state, setup), dataset = started(config), training_set(config)
    for position in range(len(dataset)):
        dataset.store[position]
    batches = full_batches(dataset, flags.batch_size, 0, pin_memory=False)
    resident = next(batches).to(setup.compute)
    file = exported(state.model, folder / f"{Path(cfg).stem}.onnx", flags.onnx_imgsz)
    size = state.model.describe(flags.onnx_imgsz)
    return Measured(Path(cfg).stem, size, lambda: next(batches), lambda: train_step(state, [resident], setup), file)


def exported(model: nn.Module, path: Path, size: int) -> Callable[[], object]:
    """The model's ONNX file, as ``yolo-lite export`` writes it for images of one size."""
    warnings.simplefilter("ignore")  # of the tracer
    onnxruntime: Any = extra("onnxruntime")
    network = Decoded(model.for_inference())  # type: ignore[operator]
    image = torch.rand(1, 3, size, size)
    torch.onnx.export(network, (image,), str(path), input_names=["images"], opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": image.numpy()})


def seconds_of(run: Callable[[], object], at_least: float) -> float:
    """Seconds of a call, over as many as take ``at_least`` seconds."""
    run()
    start, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < at_least:
        run()
        calls += 1
    return spent / calls


def table(models: list[Measured], flags: argparse.Namespace) -> str:
    kinds = ("load", "step", "onnx")
    seconds = {kind: [[0.0] * flags.rounds for _ in models] for kind in kinds}
    for number in range(flags.rounds):
        for row, model in enumerate(models):
            for kind in kinds:
                seconds[kind][row][number] = seconds_of(getattr(model, kind), flags.seconds)
    head = ["model", "size", "loading img/s", "x", "training img/s", "x", f"ONNX ms, {flags.onnx_imgsz} px", "x"]
    lines = [head]
    for row, model in enumerate(models):
        cells = [model.name, model.size]
        for kind in kinds:
            own = statistics.median(seconds[kind][row])
            ratio = statistics.median(a / b for a, b in zip(seconds[kind][row], seconds[kind][0], strict=True))
            cells += [f"{1000 * own:.0f}" if kind == "onnx" else f"{flags.batch_size / own:.1f}", f"{ratio:.2f}"]
        lines.append(cells)
    return markdown_table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, nargs="+")
    parser.add_argument("--data", default="data/shapes_holes.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--onnx-imgsz", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="", help="default: that of hyp.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one kind of one model in a round")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = [prepare(cfg, flags, Path(folder)) for cfg in flags.cfg]
        versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        print(f"{versions}, {flags.imgsz} px, batch {flags.batch_size}")
        print(f"ratios (x): seconds to those of {models[0].name}\n\n{table(models, flags)}")


if __name__ == "__main__":
    main()
