"""Milliseconds an image: the bare network in several forms, and the whole of `predict` beside it.

    python benchmarks/inference.py --weights runs/train/exp/weights/best.pt --source ../shared/data/bccd/images

Exported files stand beside them: `--exported best.onnx int8.onnx`, of `yolo-lite export --dynamic batch size`.
`predict` reads, decodes, letterboxes, runs the network and NMS, and puts the boxes back; nothing is drawn or written.
The bare network runs on the very same batches, resident. All kinds take turns: a drifting machine hits them all.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timing import in_turn
from torch import Tensor

from yolo_lite.deploy.exported import load_exported
from yolo_lite.deploy.predictor import Predictor, load
from yolo_lite.deploy.sources import find_media
from yolo_lite.engine.checkpoint import load_trained
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Compute, Detections, as_floats

# Precision, channels-last.
FORMS = {
    "fp32": ("fp32", False),
    "fp32_last": ("fp32", True),
    "bf16_last": ("bf16", True),
    "fp16_last": ("fp16", True),  # on a GPU
}


def bare(form: str, model: Any, batches: list[Tensor], device: str) -> Callable[[], None]:
    """Run the fused network on resident batches."""
    compute = choose_compute(device, *FORMS[form])
    return on_resident(move_model(model, compute).for_inference(), compute, batches)


def bare_file(path: str, batches: list[Tensor]) -> Callable[[], None]:
    """Run an exported file on resident batches."""
    return on_resident(*load_exported(path), batches)


def on_resident(network: Any, compute: Compute, batches: list[Tensor]) -> Callable[[], None]:
    """Run a network, as `predict` does, on batches that lie where it computes."""
    resident = [as_floats(images, compute) for images in batches]

    @torch.inference_mode()
    def run() -> None:
        with compute.autocast():
            for images in resident:
                network(images)

    return run


def batches_of(predictor: Predictor, predict: Callable[[Predictor], object]) -> list[Tensor]:
    """The batches that the network sees while `predict` runs."""
    seen: list[Tensor] = []

    def spy(images: Tensor, options: DetectOptions) -> Iterable[Detections]:
        seen.append(images)
        return predictor.detect(images, options)

    predict(dataclasses.replace(predictor, detect=spy))
    return seen


class Measured(NamedTuple):
    """What one batch size came to."""

    milliseconds: dict[str, float]  # an image, by kind; medians over the rounds
    images: int
    shapes: list[str]  # of the network's inputs


def measure(batch_size: int, flags: argparse.Namespace) -> Measured:
    """Every kind on the same images, in turn."""
    model = load_trained(flags.weights).model
    predictor = load(flags.weights, flags.device, flags.imgsz)
    media = find_media([flags.source])[: flags.pictures]

    def predict(by: Predictor) -> None:
        for _ in by.watch(media, *by.chosen(), batch_size, skip=print):
            pass

    batches = batches_of(predictor, predict)
    kinds = {form: bare(form, model, batches, flags.device) for form in flags.forms}
    kinds |= {path: bare_file(path, batches) for path in flags.exported}
    kinds["predict"] = lambda: predict(predictor)
    seconds = in_turn(kinds, choose_compute(flags.device, "fp32", False).device, flags.rounds)
    milliseconds = {kind: 1000 * statistics.median(values) / len(media) for kind, values in seconds.items()}
    shapes = sorted({f"{images.shape[3]} x {images.shape[2]}" for images in batches})
    return Measured(milliseconds, len(media), shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["fp32", "fp32_last"])
    parser.add_argument("--exported", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, ms a picture, median of {flags.rounds} rounds"
    )
    names = [*flags.forms, *(Path(path).name for path in flags.exported)]
    print(f"| batch | {' | '.join(names)} | predict | pictures |\n|{'---|' * (len(names) + 3)}")
    for batch_size in flags.batch_sizes:
        found = measure(batch_size, flags)
        figures = " | ".join(f"{value:.1f}" for value in found.milliseconds.values())
        print(f"| {batch_size} | {figures} | {found.images} of {', '.join(found.shapes[:3])} |", flush=True)


if __name__ == "__main__":
    main()
