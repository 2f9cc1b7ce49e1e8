"""COCO average precision by faster-coco-eval, curves over confidence, precision and recall at the best F1.

D detections of a split, C classes, boxes and masks in pixels of the original images. ``kind`` says what is compared:
``bbox`` or ``segm``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.writers import coco_dict
from yolo_lite.engine.masks import add_found_masks, add_masks, truth_masks
from yolo_lite.ops.box_arrays import xyxy_to_xywh
from yolo_lite.report.evaluation import Curves, mean_of_known

CONFIDENCES = np.arange(1, 1001) / 1000  # the floats that print as .001, .002, ..: linspace gives .7000000000000001
COCO_LIMIT = 100  # detections of an image and class that COCO's AP counts
UNMATCHED, IN_CROWD = -1, -2  # what else than an object a detection may be matched to


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


ALL_SIZES = {"areaRng": [[0, 1e10]], "areaRngLbl": ["all"]}  # at once, which is quicker


def ground_truth(index: DatasetIndex) -> COCO:
    """The objects of a split in COCO's form, with masks where it has outlines; ids are positions, counted from 0."""
    content = coco_dict(index, range(len(index)), range(len(index.names)))
    if index.outlines is not None:
        add_masks(content["annotations"], truth_masks(index))
    return COCO(content)


def score_detections(truth: COCO, table: DetectionTable, limit: int = COCO_LIMIT, kind: str = "bbox") -> Scores:
    """COCO's AP (101 recall points, all areas) of a table against a split.

    ``image`` and ``label`` of the table are the ids of ``truth``; ``limit`` detections of an image and class count
    (``maxDets`` of pycocotools), but for precision, recall and the curves, which count all.
    """
    results = load_results(truth, table, kind)
    evaluation = run_coco(truth, results, kind, maxDets=[limit], **ALL_SIZES)
    # precision [T, R, C, areas, max detections], -1 where a class has no objects
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    ap = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))  # [T, C]
    curves = _curves(truth, table, match(truth, results, kind), np.where(precision[0] < 0, np.nan, precision[0]).T)
    best, confidence = ratios_at(curves)
    rows = np.stack((mean_of_known(ap, 0), ap[0], ap[5], *best), axis=1)  # [C, 5]
    by_class = [ClassScores(*row) for row in rows.tolist()]
    masks = None if table.mask is None or kind == "segm" else score_detections(truth, table, limit, "segm")
    return Scores(ClassScores(*mean_of_known(rows, 0).tolist()), by_class, confidence, curves, masks)


def match(
    truth: COCO, detections: DetectionTable | COCO, kind: str = "bbox", any_class: bool = False, iou: float = 0.5
) -> np.ndarray:
    """Which object each detection ``[D]`` finds by COCO's greedy rule at an IoU, as its row in the ground truth.

    From the best score down, each detection of an image takes the free object that it overlaps most. One that finds
    none is ``IN_CROWD`` where a crowd region covers half of it, which is no error, else ``UNMATCHED``. All are matched,
    however many AP counts; with ``any_class`` with objects of any class.
    """
    results = load_results(truth, detections, kind) if isinstance(detections, DetectionTable) else detections
    found = np.full(len(results.anns), UNMATCHED)
    # At several thresholds a pair of the library's "matched" may stem from any of them: it is asked about one alone.
    parameters = {"iouThrs": np.array([iou]), "maxDets": [max(len(results.anns), 1)], "useCats": int(not any_class)}
    pairs = run_coco(truth, results, kind, **parameters, **ALL_SIZES).eval["matched"]
    rows = {one["id"]: IN_CROWD if one["iscrowd"] else row for row, one in enumerate(truth.dataset["annotations"])}
    for detection, thing in (pair.split("_") for pair in pairs):
        found[int(detection) - 1] = rows[int(thing)]
    return found


def load_results(truth: COCO, table: DetectionTable, kind: str) -> COCO:
    """The detections in COCO's form; their ids count from 1, in the order of the table."""
    rows = np.column_stack((table.image, xyxy_to_xywh(table.xyxy), table.score, table.label))
    results = truth.loadRes(rows)
    if kind == "segm" and table.mask is not None:
        add_found_masks(results.dataset["annotations"], table.mask)
    return results


def run_coco(truth: COCO, results: COCO, kind: str, **parameters: Any) -> Any:
    """COCO's evaluation; ``parameters`` are those of pycocotools' ``Params`` that differ from its defaults."""
    evaluation = COCOeval_faster(truth, results, kind, print_function=lambda *_: None)
    vars(evaluation.params).update(parameters)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _curves(truth: COCO, table: DetectionTable, found: np.ndarray, interpolated: np.ndarray) -> Curves:
    """Detections and hits of each class from each confidence on; those in a crowd do not count."""
    labels = truth.getCatIds()
    objects = Counter(one["category_id"] for one in truth.dataset["annotations"] if not one["iscrowd"])
    hits, above = np.zeros((2, len(labels), len(CONFIDENCES)), dtype=np.int64)
    for row, label in enumerate(labels):
        own = (table.label == label) & (found != IN_CROWD)
        for counts, chosen in ((above, own), (hits, own & (found >= 0))):
            counts[row] = chosen.sum() - np.searchsorted(np.sort(table.score[chosen]), CONFIDENCES)
    return Curves(CONFIDENCES, hits, above, np.array([objects[label] for label in labels]), interpolated)


def ratios_at(curves: Curves, row: int | None = None) -> tuple[np.ndarray, float]:
    """Precision and recall ``[2, C]``, and the confidence, of a row of the curves, or of the best mean F1."""
    present = curves.objects > 0
    if row is None:
        row = int(mean_of_known(curves.f1[present], 0).argmax()) if present.any() else 0
    chosen = np.stack((np.nan_to_num(curves.precision[:, row]), curves.recall[:, row]))
    return np.where(present, chosen, np.nan), float(curves.confidence[row])
