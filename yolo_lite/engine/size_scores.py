"""COCO's figures by the size of objects and by the number of detections."""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from yolo_lite.engine.coco_ap import COCO_LIMIT, DetectionTable
from yolo_lite.engine.coco_evaluator import Truth, accumulated, run_coco

# COCO's AP and recall by the size of objects, recall by the number of detections; NaN without such objects. Small is
# below 32 x 32 pixels of the image file, large from 96 x 96; ``area`` of the ground truth counts. What has no number in
# its name is of as many detections as AP counts.
SizeScores = namedtuple("SizeScores", "ap_small ap_medium ap_large ar_1 ar_10 ar_100 ar_small ar_medium ar_large ar")


def score_by_size(truth: Truth, table: DetectionTable, limit: int = COCO_LIMIT, kind: str = "bbox") -> SizeScores:
    """What COCO adds to AP; it costs as much again, several times over: not for every epoch."""
    limits = sorted({1, 10, 100, limit})
    precision, recall = accumulated(run_coco(truth, table, kind, max_dets=limits))
    by_size = [*np.moveaxis(precision[..., 1:, -1], -1, 0), *np.moveaxis(recall[..., 1:, -1], -1, 0)]
    few = [recall[:, :, 0, limits.index(number)] for number in (1, 10, 100)]
    return SizeScores(*map(_mean, (*by_size[:3], *few, *by_size[3:], recall[:, :, 0, -1])))


def _mean(values: np.ndarray) -> float:
    """Of what classes with objects have."""
    return float(values[values > -1].mean()) if (values > -1).any() else np.nan
