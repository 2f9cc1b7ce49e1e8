"""COCO's figures by the size of objects and by the number of detections."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from faster_coco_eval import COCO

from yolo_lite.engine.coco_ap import COCO_LIMIT, DetectionTable, load_results, run_coco

# COCO's AP and recall by the size of objects, recall by the number of detections; NaN without such objects. Small is
# below 32 x 32 pixels of the image file, large from 96 x 96; ``area`` of the ground truth counts. What has no number in
# its name is of as many detections as AP counts.
SizeScores = namedtuple("SizeScores", "ap_small ap_medium ap_large ar_1 ar_10 ar_100 ar_small ar_medium ar_large ar")


def score_by_size(truth: COCO, table: DetectionTable, limit: int = COCO_LIMIT, kind: str = "bbox") -> SizeScores:
    """What COCO adds to AP; it costs as much again, several times over: not for every epoch."""
    evaluation = run_coco(truth, load_results(truth, table, kind), kind, maxDets=sorted({1, 10, 100, limit}))
    evaluation.summarize()
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats).tolist()
    return SizeScores(*(stats[place] for place in (*range(3, 9), -3, -2, -1, -4)))
