"""COCO average precision by the rules of COCO, curves over confidence, precision and recall at the best F1.

D detections of a split, C classes, boxes and masks in pixels of the original images. ``kind`` says what is compared:
``bbox`` or ``segm``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.writers import coco_dict
from yolo_lite.engine.coco_evaluator import ALL_SIZES, IN_CROWD, Truth, accumulated, match, run_coco
from yolo_lite.engine.masks import add_masks, truth_masks
from yolo_lite.report.evaluation import Curves, mean_of_known

CONFIDENCES = np.arange(1, 1001) / 1000  # the floats that print as .001, .002, ..: linspace gives .7000000000000001
COCO_LIMIT = 100  # detections of an image and class that COCO's AP counts


class DetectionTable(NamedTuple):
    """All detections of a split."""

    image: np.ndarray  # [D] int64, position in the dataset
    xyxy: np.ndarray  # [D, 4] float64
    score: np.ndarray  # [D] float64
    label: np.ndarray  # [D] int64
    mask: np.ndarray | None = None  # [D] dicts, COCO's run-length code, where masks are found and scored

    def select(self, rows: np.ndarray) -> DetectionTable:
        """Some of the detections, by index or by a choice of bools."""
        columns: Any = (None if column is None else column[rows] for column in self)
        return DetectionTable(*columns)

    @staticmethod
    def concat(parts: Iterable[DetectionTable]) -> DetectionTable:
        columns: Any = (None if own[0] is None else np.concatenate(own) for own in zip(*parts, strict=True))
        return DetectionTable(*columns)


class ClassScores(NamedTuple):
    """Scores of one class, NaN where it has no objects."""

    map50_95: float
    map50: float
    map75: float
    precision: float
    recall: float


class Limits(NamedTuple):
    """How many detections of a split count, the best first."""

    per_image: int = 300  # that NMS leaves
    per_class: int = COCO_LIMIT  # of them, of an image and class, that AP counts

    @property
    def remark(self) -> str:
        """What is said where AP is not COCO's, else nothing."""
        told = f"crowded images: up to {self.per_image} detections of an image are kept, and AP counts them all "
        rules = f"(COCO's AP: {COCO_LIMIT} of an image and class; val.py --coco-rules)"
        return "" if self.per_class == COCO_LIMIT else told + rules


def detection_limits(index: DatasetIndex, max_det: int | None = None, coco_rules: bool = False) -> Limits:
    """The limits that a split needs, for a perfect detector must score 1.

    ``max_det`` detections of an image are kept: if none is chosen 300, or twice the objects of the most crowded image
    where these are more. AP counts COCO's 100 of an image and class where no image holds more than 50 objects, and by
    ``coco_rules``; else all that are kept.
    """
    most = int(np.bincount(index.owner[~index.crowd], minlength=1).max())
    per_image = max_det or max(Limits().per_image, 2 * most)
    is_crowded = 2 * most > COCO_LIMIT and not coco_rules
    return Limits(per_image, max(COCO_LIMIT, per_image) if is_crowded else COCO_LIMIT)


class Scores(NamedTuple):
    """Scores of a split: the means over the classes that have objects, then class by class."""

    overall: ClassScores
    by_class: list[ClassScores]
    confidence: float  # at which precision and recall stand: the best mean F1 at IoU 0.5
    curves: Curves  # at IoU 0.5
    mask: Scores | None = None  # of the same detections by their masks, where they have some

    @property
    def fitness(self) -> float:
        """0.1 mAP50 + 0.9 mAP50-95, 0 where nothing can be said; with masks the mean of both."""
        own = float(np.nan_to_num(0.1 * self.overall.map50 + 0.9 * self.overall.map50_95))
        return (own + self.mask.fitness) / 2 if self.mask else own


def ground_truth(index: DatasetIndex) -> Truth:
    """The objects of a split in COCO's form, with masks where it has outlines."""
    content = coco_dict(index, range(len(index)), range(len(index.names)))
    if index.outlines is not None:
        add_masks(content["annotations"], truth_masks(index))
    return Truth.of(content)


def score_detections(truth: Truth, table: DetectionTable, limit: int = COCO_LIMIT, kind: str = "bbox") -> Scores:
    """COCO's AP (101 recall points, all areas) of a table against a split.

    ``image`` and ``label`` of the table are the ids of ``truth``; ``limit`` detections of an image and class count
    (``maxDets`` of pycocotools), but for precision, recall and the curves, which count all.
    """
    precision = accumulated(run_coco(truth, table, kind, max_dets=[limit], **ALL_SIZES))[0][:, :, :, 0, 0]
    ap = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))  # [T, C]
    curves = _curves(truth, table, match(truth, table, kind)[0], np.where(precision[0] < 0, np.nan, precision[0]).T)
    best, confidence = ratios_at(curves)
    rows = np.stack((mean_of_known(ap, 0), ap[0], ap[5], *best), axis=1)  # [C, 5]
    by_class = [ClassScores(*row) for row in rows.tolist()]
    masks = None if table.mask is None or kind == "segm" else score_detections(truth, table, limit, "segm")
    return Scores(ClassScores(*mean_of_known(rows, 0).tolist()), by_class, confidence, curves, masks)


def _curves(truth: Truth, table: DetectionTable, found: np.ndarray, interpolated: np.ndarray) -> Curves:
    """Detections and hits of each class from each confidence on; those in a crowd do not count."""
    _, label, crowd = truth.columns
    classes = np.arange(truth.num_classes + 1)
    hits, above = np.zeros((2, truth.num_classes, len(CONFIDENCES)), dtype=np.int64)
    for counts, counted in ((above, found != IN_CROWD), (hits, found >= 0)):
        order = np.lexsort((table.score[counted], table.label[counted]))
        score, first = table.score[counted][order], np.searchsorted(table.label[counted][order], classes)
        for row, own in enumerate(np.split(score, first[1:-1])):
            counts[row] = len(own) - np.searchsorted(own, CONFIDENCES)
    return Curves(CONFIDENCES, hits, above, np.bincount(label[crowd == 0], minlength=truth.num_classes), interpolated)


def ratios_at(curves: Curves, row: int | None = None) -> tuple[np.ndarray, float]:
    """Precision and recall ``[2, C]``, and the confidence, of a row of the curves, or of the best mean F1."""
    present = curves.objects > 0
    if row is None:
        row = int(mean_of_known(curves.f1[present], 0).argmax()) if present.any() else 0
    chosen = np.stack((np.nan_to_num(curves.precision[:, row]), curves.recall[:, row]))
    return np.where(present, chosen, np.nan), float(curves.confidence[row])
