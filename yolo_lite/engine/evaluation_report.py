"""An evaluation as the table of the terminal and as the content of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolo_lite.engine.coco_ap import Scores
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.intervals import intervals
from yolo_lite.engine.operating_points import Judgement, point_table
from yolo_lite.engine.size_scores import score_by_size
from yolo_lite.engine.unreadable import left_out_lines
from yolo_lite.report.table import ClassRow, class_table, with_interval


def table(evaluation: Evaluation, judgement: Judgement | None = None) -> str:
    """The per-class table for the terminal; mAP of masks comes last, where there are some.

    With a judgement each figure has half of its 95 % interval.
    """
    index, scores = evaluation.split.dataset, evaluation.scores
    pairs = np.unique(np.stack((index.owner, index.label))[:, ~index.crowd], axis=1)
    images = np.bincount(pairs[1], minlength=len(index.names))  # [C] that hold each class
    columns = [("all", *index.names), (len(index), *images.tolist()), (index.num_objects, *index.counts.tolist())]
    boxes = [(s.precision, s.recall, s.map50, s.map50_95) for s in (scores.overall, *scores.by_class)]
    found = scores.mask
    masks = [(s.map50, s.map50_95) for s in (found.overall, *found.by_class)] if found else [()] * len(boxes)
    rows: list[ClassRow] = [(*row[:3], *row[3], *row[4]) for row in zip(*columns, boxes, masks, strict=True)]
    if judgement:
        halves = judgement.half_widths[:, [2, 3, 1, 0]]
        if judgement.mask_half_widths is not None:
            halves = np.concatenate((halves, judgement.mask_half_widths[:, [1, 0]]), axis=1)
        rows = [(*row[:3], *map(with_interval, row[3:], own)) for row, own in zip(rows, halves.tolist(), strict=True)]
    return class_table(rows) + left_out_lines(evaluation.unreadable)


def points(evaluation: Evaluation, judgement: Judgement, split: str) -> str:
    """The operating points and what they come to, for the terminal."""
    found, index, curves = judgement.points, evaluation.split.dataset, evaluation.scores.curves
    here = {"split": split, "images": len(index), "objects": int(curves.objects.sum())}
    is_own = all(found[key] == value for key, value in here.items())
    told = "where they look better than they are" if is_own else f"tried on {split}"
    origin = f"{found['split']} ({found['images']} images, {found['objects']} objects)"
    return f"operating points: confidences found on {origin}, {told}\n{point_table(found, curves, index.names)}"


def report(evaluation: Evaluation, judgement: Judgement | None = None) -> dict[str, Any]:
    """Plain data for metrics.json, with scores by size; null is what nobody knows, as AP without objects.

    With a judgement it has the operating points, and for boxes and masks, all and each class, 95 % intervals.

    Figures of masks have the key ``mask``, beside those of boxes and by class.
    """
    index, scores, limits = evaluation.split.dataset, evaluation.scores, evaluation.split.limits
    milliseconds = {stage: 1000 * value / len(index) for stage, value in evaluation.seconds.items()}
    every, *own = _with_intervals(
        [_figures(evaluation, "bbox", scores), *_by_class(scores)], judgement and judgement[1]
    )
    if scores.mask:
        found = [_figures(evaluation, "segm", scores.mask), *_by_class(scores.mask)]
        of_all, *masks = _with_intervals(found, judgement and judgement[2])
        every["mask"] = of_all
        own = [{**boxes, "mask": one} for boxes, one in zip(own, masks, strict=True)]
    return {
        **every,
        **({"operating_points": judgement.points} if judgement else {}),
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


def _figures(evaluation: Evaluation, kind: str, scores: Scores) -> dict[str, Any]:
    """The means over classes and the scores by size."""
    split = evaluation.split
    by_size = score_by_size(split.truth, evaluation.detections, split.limits.per_class, kind)
    return _known({**scores.overall._asdict(), **by_size._asdict()})


def _with_intervals(rows: list[dict[str, Any]], half_widths: np.ndarray | None) -> list[dict[str, Any]]:
    if half_widths is None:
        return rows
    return [{**row, "intervals": intervals(row, own)} for row, own in zip(rows, half_widths, strict=True)]


def _by_class(scores: Scores) -> list[dict[str, Any]]:
    return [_known(one._asdict()) for one in scores.by_class]


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}
