"""Images a second that one loading process makes ready for training, beside torchvision and beside bare decoding.

    python benchmarks/data.py --data ../shared/data/coco128/data.yaml

Each row handles the same files in one process on one thread; seconds are those that the core spent on the process, so
that a busy machine does not show, and the best of some rounds counts. Shown are
the training pipeline with mosaic (four pictures read for one that is made) and without it, with files decoded and with
decoded pictures kept in memory; torchvision.transforms.v2 with the same affine, colour and flip settings on tv_tensors,
decoded by torchvision and by OpenCV; and what OpenCV needs for decoding alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torchvision
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.letterbox import GREY, fitted_size
from yolo_lite.data.loader import collate
from yolo_lite.data.store import ImageStore

BATCH = 16


class Case(NamedTuple):
    """A way to make one image ready."""

    name: str
    make: Callable[[int], object]


def ours(name: str, index: DatasetIndex, size: int, hyp: Hyp, cache: str) -> Case:
    """The training pipeline as the loader's workers run it."""
    dataset = TrainingSet(index, ImageStore(index, size, cache, shared=False), size, hyp, seed=0, mosaic_epochs=10**9)
    epochs, batch = itertools.count(), []

    def make(position: int) -> object:
        batch.append(dataset[next(epochs), position])
        if len(batch) == BATCH:
            collate(batch)
            batch.clear()
        return batch

    return Case(name, make)


def theirs(name: str, index: DatasetIndex, size: int, hyp: Hyp, decode: Callable[[str], torch.Tensor]) -> Case:
    """torchvision's transforms with the settings of hyp.yaml; its boxes go with the image."""
    change = v2.Compose(
        [
            v2.RandomAffine(
                hyp.degrees,
                (hyp.translate, hyp.translate),
                (1 - hyp.scale, 1 + hyp.scale),
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=GREY,
            ),
            v2.ColorJitter(brightness=hyp.hsv_v, saturation=hyp.hsv_s, hue=hyp.hsv_h),
            v2.RandomHorizontalFlip(hyp.fliplr),
            v2.SanitizeBoundingBoxes(labels_getter=None),
        ]
    )

    def make(position: int) -> object:
        image = decode(index.path(position))
        _, boxes = index.objects(position)
        height, width = fitted_size(image.shape[1], image.shape[2], size)
        pair = (
            tv_tensors.Image(image),
            tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=image.shape[1:]),  # type: ignore[call-overload]
        )
        pair = v2.functional.resize(pair[0], [height, width]), v2.functional.resize(pair[1], [height, width])
        left, top = (size - width) // 2, (size - height) // 2
        edges = [left, top, size - width - left, size - height - top]
        return change(*(v2.functional.pad(part, edges, fill=GREY) for part in pair))

    return Case(name, make)


def by_opencv(path: str) -> torch.Tensor:
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


def by_torchvision(path: str) -> torch.Tensor:
    return decode_image(read_file(path), ImageReadMode.RGB)


def decoding(index: DatasetIndex) -> Case:
    """OpenCV's decoder on bytes that are in memory: no pipeline that reads files is faster."""
    contents = [np.fromfile(index.path(position), np.uint8) for position in range(len(index))]
    return Case("OpenCV, decoding alone", lambda position: cv2.imdecode(contents[position], cv2.IMREAD_COLOR))


def rates(cases: list[Case], num_images: int, rounds: int) -> dict[str, float]:
    """The best of some rounds over all images, in images a second, after a first round that warms caches."""
    best = dict.fromkeys((case.name for case in cases), 0.0)
    for number in range(rounds + 1):
        for case in cases:
            start = time.process_time()
            for position in range(num_images):
                case.make(position)
            if number:
                best[case.name] = max(best[case.name], num_images / (time.process_time() - start))
    return best


def pipeline_table(data_file: str, size: int, rounds: int) -> str:
    """Markdown rows of every case with its ratio to torchvision's."""
    index = index_split(load_dataset_config(data_file), data_file, "train")
    hyp = Hyp()
    single = hyp.model_copy(update={"mosaic": 0.0})
    reference = theirs("torchvision v2, affine, colours, flip, its own decoder", index, size, hyp, by_torchvision)
    cases = [
        ours("yolo_lite, mosaic, affine, HSV, flip", index, size, hyp, "off"),
        ours("yolo_lite, mosaic, decoded pictures in memory", index, size, hyp, "ram"),
        ours("yolo_lite, affine, HSV, flip", index, size, single, "off"),
        ours("yolo_lite, affine, HSV, flip, decoded pictures in memory", index, size, single, "ram"),
        reference,
        theirs("torchvision v2, decoded by OpenCV", index, size, hyp, by_opencv),
        decoding(index),
    ]
    found = rates(cases, len(index), rounds)
    rows = [f"| {name} | {rate:.0f} | {rate / found[reference.name]:.2f} |" for name, rate in found.items()]
    head = ["| one process, one thread | img/s | times torchvision |", "|---|---|---|"]
    return "\n".join((f"{len(index)} pictures of {data_file} at {size} px", "", *head, *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    versions = f"OpenCV {cv2.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {versions}\n")
    print(pipeline_table(flags.data, flags.imgsz, flags.rounds))


if __name__ == "__main__":
    main()
