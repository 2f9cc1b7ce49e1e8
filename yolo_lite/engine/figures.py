"""The images of an evaluation, for the run folder and for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from yolo_lite.engine import sheets
from yolo_lite.engine.confusion import SHOWN_CONFIDENCE, find_errors
from yolo_lite.engine.evaluate import Evaluation, Split
from yolo_lite.report.evaluation import ap_image, confusion_image, curves_image


def figures(evaluation: Evaluation, split: Split) -> Iterator[tuple[str, np.ndarray]]:
    """Names of files, without an ending, and RGB images."""
    index, scores = split.dataset, evaluation.scores
    errors = find_errors(index, split.truth, evaluation.detections)
    rule = f"detections above confidence {SHOWN_CONFIDENCE}, paired with objects at IoU 0.5 whatever their classes"
    yield "val_predictions", sheets.prediction_sheet(index, evaluation.detections)
    yield "worst_images", sheets.worst_sheet(index, errors)
    yield "curves", curves_image(scores.curves, index.names)
    yield "confusion_matrix", confusion_image(errors.matrix(len(index.names)), index.names, rule)
    yield "ap_by_class", ap_image(index.names, scores.curves.objects, np.array(scores.by_class)[:, :2])
