"""Confusion matrix and worst images.

D detections above a confidence, C classes. Detections and objects are paired whatever their classes, by COCO's greedy
rule at IoU 0.5 (``coco_evaluator.match``), of their masks where they have some: each object is found once at most,
second detections of it are false.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from yolo_lite.data.index import DatasetIndex
from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.engine.coco_evaluator import IN_CROWD, UNMATCHED, Truth, match

SHOWN_CONFIDENCE = 0.25


class Errors(NamedTuple):
    """Detections above a confidence, but those in crowd regions, against the objects of a split, T without crowds."""

    detections: DetectionTable
    taken_for: np.ndarray  # [D] int64, class of the object that a detection finds, C where it finds none
    objects: DetectionTable  # T rows, each with a score of 1
    found_as: np.ndarray  # [T] int64, class of the detection that finds an object, C where none does
    finds: np.ndarray  # [D] int64, row of the object that a detection finds, UNMATCHED where it finds none

    @property
    def is_false(self) -> np.ndarray:
        """Detections ``[D]`` that find nothing, or an object of another class."""
        return self.detections.label != self.taken_for

    @property
    def is_missed(self) -> np.ndarray:
        """Objects ``[T]`` that are not found, or as another class."""
        return self.objects.label != self.found_as

    def matrix(self, num_classes: int) -> np.ndarray:
        """Counts ``[C + 1, C + 1]``: rows predictions, columns truth, the last row missed, the last column false.

        A column adds up to the objects of a class, a row to its detections.
        """
        matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
        np.add.at(matrix, (self.detections.label, self.taken_for), 1)
        np.add.at(matrix[-1], self.objects.label[self.found_as == num_classes], 1)
        return matrix

    def by_image(self, num_images: int) -> np.ndarray:
        """False detections and missed objects of each image ``[n]``; one taken for another is both."""
        wrong = self.detections.image[self.is_false], self.objects.image[self.is_missed]
        return np.bincount(np.concatenate(wrong), minlength=num_images)


def find_errors(
    index: DatasetIndex, truth: Truth, table: DetectionTable, confidence: float = SHOWN_CONFIDENCE
) -> Errors:
    """Pair the detections above a confidence with the objects of a split, by their masks where they have some.

    ``truth`` is ``coco_ap.ground_truth`` of the split.
    """
    confident, kind = table.select(table.score > confidence), "bbox" if table.mask is None else "segm"
    matched = match(truth, confident, kind, any_class=True)[0]
    detections, matched = confident.select(matched != IN_CROWD), matched[matched != IN_CROWD]
    hits = matched >= 0
    taken_for, found_as = (np.full(count, len(index.names)) for count in (len(matched), len(index.label)))
    taken_for[hits] = index.label[matched[hits]]
    found_as[matched[hits]] = detections.label[hits]
    masks = None if table.mask is None else truth.masks
    objects = DetectionTable(index.owner, index.xyxy, np.ones(len(index.label)), index.label, masks)
    finds = np.full(len(matched), UNMATCHED)
    finds[hits] = (np.cumsum(~index.crowd) - 1)[matched[hits]]
    return Errors(detections, taken_for, objects.select(~index.crowd), found_as[~index.crowd], finds)
