"""Milliseconds an image of a whole `predict`, files drawn and written, beside the bare network on the same batches.

    python benchmarks/predict.py --weights yolov5n.pt yolov5n.onnx --source ../shared/data/coco128/images

"several" is `predict` as it is: on a CPU several networks of few threads each are at work on as many batches; "one" has
one network of all threads. All kinds take turns, a round each, after one that does not count: what follows two busy
cores is slow. Ratios are medians of those of the rounds, with their range.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from inference import batches_of, on_resident
from timing import in_turn

from yolo_lite.config.options import PredictOptions
from yolo_lite.deploy.prediction import Outputs
from yolo_lite.deploy.predictor import Predictor, load
from yolo_lite.deploy.sources import Media, find_media


def whole(predictor: Predictor, media: Sequence[Media], batch_size: int, folder: Path) -> None:
    with closing(Outputs(folder, PredictOptions(weights="", source=("",)))) as files:
        for prediction in predictor.watch(media, *predictor.chosen(), batch_size):
            files.add(prediction)


def row(weights: str, batch_size: int, flags: argparse.Namespace) -> str:
    """A line of the table."""
    predictor = load(weights, flags.device, flags.imgsz)
    media = find_media([flags.source])[: flags.images]
    batches = batches_of(predictor, lambda by: deque(by.watch(media, *by.chosen(), batch_size), maxlen=0))
    network, compute, _ = predictor.detect.args  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "network": on_resident(network, compute, batches),
            "one": lambda: whole(dataclasses.replace(predictor, networks=1), media, batch_size, Path(folder)),
            "several": lambda: whole(predictor, media, batch_size, Path(folder)),
        }
        seconds = in_turn(kinds, torch.device(flags.device), flags.rounds, uncounted=1)
    columns = [f"{1000 * statistics.median(one) / len(media):.1f}" for one in seconds.values()]
    for kind, other in (("one", "network"), ("several", "network"), ("several", "one")):
        ratios = [one / its for one, its in zip(seconds[kind], seconds[other], strict=True)]
        columns.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return " | ".join([Path(weights).name, str(batch_size), *columns])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {flags.rounds} rounds, {flags.images} images\n"
    )
    head = [
        "weights",
        "batch",
        "network ms",
        "one ms",
        "several ms",
        "one : network",
        "several : network",
        "several : one",
    ]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for weights in flags.weights:
        for batch_size in flags.batch_sizes:
            print(f"| {row(weights, batch_size, flags)} |", flush=True)


if __name__ == "__main__":
    main()
