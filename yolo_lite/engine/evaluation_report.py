"""An evaluation as the table of the terminal and as the content of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolo_lite.engine.coco_ap import Scores
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.size_scores import score_by_size
from yolo_lite.engine.unreadable import left_out_lines
from yolo_lite.report.table import ClassRow, class_table


def table(evaluation: Evaluation) -> str:
    """The per-class table for the terminal; mAP of masks comes last, where there are some."""
    index, scores = evaluation.split.dataset, evaluation.scores
    pairs = np.unique(np.stack((index.owner, index.label))[:, ~index.crowd], axis=1)
    images = np.bincount(pairs[1], minlength=len(index.names))  # [C] that hold each class
    columns = [("all", *index.names), (len(index), *images.tolist()), (index.num_objects, *index.counts.tolist())]
    boxes = [(s.precision, s.recall, s.map50, s.map50_95) for s in (scores.overall, *scores.by_class)]
    found = scores.mask
    masks = [(s.map50, s.map50_95) for s in (found.overall, *found.by_class)] if found else [()] * len(boxes)
    rows: list[ClassRow] = [(*row[:3], *row[3], *row[4]) for row in zip(*columns, boxes, masks, strict=True)]
    return class_table(rows) + left_out_lines(evaluation.unreadable)


def report(evaluation: Evaluation) -> dict[str, Any]:
    """Plain data for metrics.json, with scores by size; null is what nobody knows, as AP without objects.

    Figures of masks have the key ``mask``, beside those of boxes and by class.
    """
    index, scores, limits = evaluation.split.dataset, evaluation.scores, evaluation.split.limits
    milliseconds = {stage: 1000 * value / len(index) for stage, value in evaluation.seconds.items()}
    own = _by_class(scores)
    if scores.mask:
        own = [{**boxes, "mask": masks} for boxes, masks in zip(own, _by_class(scores.mask), strict=True)]
    return {
        **_figures(evaluation, "bbox", scores),
        **({"mask": _figures(evaluation, "segm", scores.mask)} if scores.mask else {}),
        "max_det": limits.per_image,
        "ap_max_det": limits.per_class,
        "confidence": scores.confidence,
        "per_class": {
            name: {"objects": count, **figures}
            for name, count, figures in zip(index.names, index.counts.tolist(), own, strict=True)
        },
        "images": len(index),
        "unreadable_images": list(evaluation.unreadable.values()),
        "objects": index.num_objects,
        **_known({"unmatched_targets": evaluation.unmatched_targets}),
        "losses": _known({f"{name}_loss": value for name, value in evaluation.losses.items()}),
        "ms_per_image": milliseconds["model"] + milliseconds["nms"],
        "ms_per_image_by_stage": milliseconds,
    }


def _figures(evaluation: Evaluation, kind: str, scores: Scores) -> dict[str, float | None]:
    """The means over classes and the scores by size."""
    split = evaluation.split
    by_size = score_by_size(split.truth, evaluation.detections, split.limits.per_class, kind)
    return _known({**scores.overall._asdict(), **by_size._asdict()})


def _by_class(scores: Scores) -> list[dict[str, Any]]:
    return [_known(one._asdict()) for one in scores.by_class]


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}
