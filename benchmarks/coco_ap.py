"""Seconds of COCO's AP on drawn detections: ours, and the evaluators alone, in turn; and whether they agree.

    pip install pycocotools
    python benchmarks/coco_ap.py

Each begins with the same array of detections and ends with COCO's table of precisions: at all sizes and 100 detections,
as in every epoch, then at COCO's four sizes and three limits. yolo_lite has precision, recall and curves over
confidence beside. Every evaluator runs as it comes: hotcoco in threads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from yolo_lite.engine.coco_ap import DetectionTable, score_detections
from yolo_lite.engine.coco_evaluator import Truth
from yolo_lite.ops.box_arrays import xyxy_to_xywh

SIDE = 640  # pixels of an image
EVALUATORS = {
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    "hotcoco": ("hotcoco", "hotcoco", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
}
EPOCH = "AP of an epoch"
SETTINGS: dict[str, dict[str, Any]] = {
    EPOCH: {"areaRng": [[0, 1e10]], "areaRngLbl": ["all"], "maxDets": [100]},
    "COCO's figures": {},
}


def drawn(images: int, classes: int, objects: int, detections: int) -> tuple[dict[str, Any], DetectionTable]:
    """A split in COCO's form, one object in fifty a crowd, and as many detections of each image.

    As a detector's most are unsure and wrong: of 20 one lies near an object, with a higher score.
    """
    draw = np.random.default_rng(0)
    owner, label = np.repeat(np.arange(images), objects), draw.integers(classes, size=images * objects)
    xyxy, crowd = boxes(draw, len(owner)), draw.random(len(owner)) < 0.02
    image, found = np.repeat(np.arange(images), detections), draw.integers(classes, size=images * detections)
    score, places = draw.beta(0.5, 8, len(image)), boxes(draw, len(image))
    near = np.flatnonzero(draw.random(len(image)) < 0.05)
    of = image[near] * objects + draw.integers(objects, size=len(near))
    places[near] = (xyxy[of] + draw.normal(0, 6, (len(near), 4))).clip(0, SIDE)
    found[near], score[near] = label[of], draw.beta(3, 3, len(near))
    columns = zip(owner.tolist(), label.tolist(), xyxy_to_xywh(xyxy).tolist(), crowd.tolist(), strict=True)
    annotations = [
        {
            "id": row,
            "image_id": own,
            "category_id": kind,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(is_crowd),
        }
        for row, (own, kind, box, is_crowd) in enumerate(columns, 1)
    ]
    content = {
        "images": [{"id": one, "height": SIDE, "width": SIDE} for one in range(images)],
        "categories": [{"id": one, "name": str(one)} for one in range(classes)],
        "annotations": annotations,
    }
    return content, DetectionTable(image, places, score, found)


def boxes(draw: np.random.Generator, count: int) -> np.ndarray:
    """Boxes ``[count, 4]`` xyxy of all of COCO's sizes."""
    size = np.exp(draw.uniform(np.log(8), np.log(300), (count, 2)))
    corner = draw.uniform(0, SIDE - size)
    return np.concatenate((corner, corner + size), axis=1)


def alone(name: str, content: dict[str, Any], table: DetectionTable, setting: str) -> Callable[[], np.ndarray]:
    """COCO's table of precisions by an evaluator with pycocotools' names."""
    of_coco, of_evaluation, class_name = EVALUATORS[name]
    truth = importlib.import_module(of_coco).COCO()
    truth.dataset = content
    truth.createIndex()
    rows = np.column_stack((table.image, xyxy_to_xywh(table.xyxy), table.score, table.label))

    def evaluate() -> np.ndarray:
        evaluation = getattr(importlib.import_module(of_evaluation), class_name)(truth, truth.loadRes(rows), "bbox")
        for key, value in SETTINGS[setting].items():
            setattr(evaluation.params, key, value)
        evaluation.evaluate()
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])

    return evaluate


def ours(content: dict[str, Any], table: DetectionTable) -> Callable[[], np.ndarray]:
    """mAP50-95 by yolo_lite, and all that it says beside."""
    truth = Truth.of(content)
    return lambda: np.array(score_detections(truth, table).overall.map50_95)


def apart(table: np.ndarray, first: np.ndarray) -> float:
    """How far two tables of precisions lie apart, or an AP and a table's."""
    return float(np.abs(table - (first if table.ndim else first[first > -1].mean())).max())


def measure(setting: str, kinds: dict[str, Callable[[], np.ndarray]], rounds: int) -> None:
    """Print the rows of a setting; the first kind is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    tables = {}
    for _ in range(rounds):
        for name, call in kinds.items():
            with contextlib.redirect_stdout(io.StringIO()):
                start = time.perf_counter()
                tables[name] = call()
                seconds[name].append(time.perf_counter() - start)
    first = next(iter(kinds))
    for name, own in seconds.items():
        ratios = [one / other for one, other in zip(seconds[first], own, strict=True)]
        cells = (
            f"{statistics.median(own):.2f} | {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        )
        print(f"| {setting} | {name} | {cells} | {apart(tables[name], tables[first]):.1g} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--objects", type=int, default=7, help="of an image")
    parser.add_argument("--detections", type=int, default=300, help="of an image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluators", nargs="+", default=list(EVALUATORS), choices=list(EVALUATORS))
    flags = parser.parse_args()
    content, table = drawn(flags.images, flags.classes, flags.objects, flags.detections)
    print(f"{flags.images:,} images, {flags.classes} classes, {len(table.image):,} detections\n")
    print("| what | by | seconds | times as fast | precisions apart |\n|---|---|---|---|---|")
    for setting in SETTINGS:
        with contextlib.redirect_stdout(io.StringIO()):
            kinds = {name: alone(name, content, table, setting) for name in flags.evaluators}
        if setting == EPOCH:
            kinds["yolo_lite, with curves"] = ours(content, table)
        measure(setting, kinds, flags.rounds)


if __name__ == "__main__":
    main()
