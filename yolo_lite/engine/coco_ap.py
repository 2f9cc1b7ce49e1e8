"""COCO average precision by faster-coco-eval, and precision and recall at the best F1.

D detections of a split, C classes, boxes in pixels of the original pictures.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from yolo_lite.data.index import DatasetIndex


class DetectionTable(NamedTuple):
    """All detections of a split."""

    image: np.ndarray  # [D] int64, position in the dataset
    xyxy: np.ndarray  # [D, 4] float64
    score: np.ndarray  # [D] float64
    label: np.ndarray  # [D] int64


class ClassScores(NamedTuple):
    """Scores of one class, NaN where it has no objects."""

    map50_95: float
    map50: float
    map75: float
    precision: float
    recall: float


class Scores(NamedTuple):
    """Scores of a split: the means over the classes that have objects, then class by class."""

    overall: ClassScores
    by_class: list[ClassScores]
    confidence: float  # at which precision and recall stand: the best mean F1 at IoU 0.5


def ground_truth(index: DatasetIndex) -> COCO:
    """The objects of a split in COCO's form; image ids and category ids are positions, counted from 0."""
    images = [
        {"id": position, "height": int(height), "width": int(width)}
        for position, (height, width) in enumerate(index.size)
    ]
    bbox = np.concatenate((index.xyxy[:, :2], index.xyxy[:, 2:] - index.xyxy[:, :2]), axis=1)
    columns = (index.owner, index.label, bbox, index.area, index.crowd.astype(int))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [  # an id of 0 would read as "not matched"
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image, label, box, area, crowd) in enumerate(rows, 1)
    ]
    categories = [{"id": label, "name": name} for label, name in enumerate(index.names)]
    return COCO({"images": images, "annotations": annotations, "categories": categories})


def score_detections(truth: COCO, table: DetectionTable) -> Scores:
    """COCO's AP (101 recall points, 100 detections an image and class, all areas) of a table against a split.

    ``image`` and ``label`` of the table are the ids of ``truth``.
    """
    results = _load_results(truth, table)
    evaluation = _run_coco(truth, results)
    # precision [T, R, C, areas, max detections], -1 where a class has no objects
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    ap = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))  # [T, C]
    is_true = _true_positives(truth, results)
    labels = np.array(evaluation.params.catIds)
    objects = np.array([sum(not a["iscrowd"] for a in truth.loadAnns(truth.getAnnIds(catIds=[c]))) for c in labels])
    best, confidence = _best_f1(table, is_true, labels, objects)
    rows = np.stack((_mean(ap, 0), ap[0], ap[5], *best), axis=1)  # [C, 5]
    return Scores(ClassScores(*_mean(rows, 0).tolist()), [ClassScores(*row) for row in rows.tolist()], confidence)


def _load_results(truth: COCO, table: DetectionTable) -> COCO:
    """The detections in COCO's form; their ids count from 1, in the order of the table."""
    size = table.xyxy[:, 2:] - table.xyxy[:, :2]
    rows = np.column_stack((table.image, table.xyxy[:, :2], size, table.score, table.label))
    return truth.loadRes(rows.astype(np.float64))


def _run_coco(truth: COCO, results: COCO, iou: float | None = None) -> Any:
    """COCO's evaluation of objects of all areas together, at its ten IoU thresholds or at one."""
    evaluation = COCOeval_faster(truth, results, "bbox", print_function=lambda *_: None)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [100]
    if iou is not None:
        evaluation.params.iouThrs = np.array([iou])
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _true_positives(truth: COCO, results: COCO) -> np.ndarray:
    """Which detections ``[D]`` COCO's greedy rule matches at IoU 0.5."""
    # At several thresholds a pair of the library's "matched" may stem from any of them: it is asked about one alone.
    pairs = _run_coco(truth, results, iou=0.5).eval["matched"]  # "detection_object"
    is_true = np.zeros(len(results.anns), dtype=bool)
    is_true[[int(pair.split("_")[0]) - 1 for pair in pairs]] = True
    return is_true


def _best_f1(
    table: DetectionTable, is_true: np.ndarray, labels: np.ndarray, objects: np.ndarray
) -> tuple[np.ndarray, float]:
    """Precision and recall ``[2, C]`` at the confidence (in steps of 0.001) with the best mean F1 over classes."""
    confidences = np.linspace(0.001, 1, 1000)
    precision, recall = np.zeros((2, len(labels), len(confidences)))
    for row, label in enumerate(labels):
        own = table.label == label
        order = np.argsort(table.score[own])  # ascending: those from a place on are the ones above a confidence
        scores, hits = table.score[own][order], is_true[own][order]
        place = np.searchsorted(scores, confidences)
        above = len(scores) - place
        hits_above = np.concatenate((hits[::-1].cumsum()[::-1], [0]))[place]
        precision[row] = hits_above / np.maximum(above, 1)
        recall[row] = hits_above / max(objects[row], 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    present = objects > 0
    best = int(_mean(f1[present], 0).argmax()) if present.any() else 0
    return np.where(present, np.stack((precision[:, best], recall[:, best])), np.nan), float(confidences[best])


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the entries that are not NaN; NaN where there is none."""
    counted = (~np.isnan(values)).sum(axis=axis)
    return np.where(counted > 0, np.nansum(values, axis=axis) / np.maximum(counted, 1), np.nan)
