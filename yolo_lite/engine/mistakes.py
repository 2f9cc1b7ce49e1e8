"""The mistakes of an evaluation one by one, sorted, with what is known of each; the pairs are those of ``confusion``.

Each false detection and each missed object ends in exactly one kind; an object found as another class is one mistake.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.engine.confusion import SHOWN_CONFIDENCE, Errors, find_errors
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.masks import Rle
from yolo_lite.ops.box_arrays import xyxy_to_xywh

NEAR = 0.1  # IoU from which a detection has to do with a label (t_b of TIDE: Bolya et al., 2020)
KINDS = {
    "doubtful labels": "Detections where no label is, as sure as half of the right ones. The surest first.",
    "wrong classes": "Label and detection lie on one another (IoU 0.5) but name two classes. The surest first.",
    "misses": f"Labels that no detection above confidence {SHOWN_CONFIDENCE} finds, of any class. The largest first.",
    "false alarms": "All other detections that find no label. The surest first.",
}


class Mistake(NamedTuple):
    """A detection that finds nothing or another class, or an object that is not found."""

    image: int  # position in the split
    label: int  # class of the object, -1 where there is none
    found: int  # class of the detection, -1 where there is none
    score: float  # of the detection, else 0
    xyxy: np.ndarray  # [4] float64, pixels of the image: of the detection; of a miss the object's
    mask: Rle | None
    row: int  # of the object in the index, or -1
    note: str


def find_mistakes(evaluation: Evaluation) -> dict[str, list[Mistake]]:
    """All mistakes by kind, in the order of ``KINDS``.

    A label is doubtful where a detection overlaps none by ``NEAR``, and is as sure as half of the right ones are.
    """
    index = evaluation.split.dataset
    errors = find_errors(index, evaluation.split.truth, evaluation.detections)
    found, objects, right = errors.detections, errors.objects, errors.detections.score[~errors.is_false]
    sure = float(np.median(right)) if len(right) else np.inf
    mistakes: dict[str, list[Mistake]] = {kind: [] for kind in KINDS}
    (overlaps, near), rows = _overlaps(errors), np.append(np.flatnonzero(~index.crowd), -1)
    best_first = np.argsort(-found.score, kind="stable")
    for row in best_first[errors.is_false[best_first]].tolist():
        thing, overlap, label = int(errors.finds[row]), overlaps[row], -1
        kind, note = "false alarms", "nothing is labelled here"
        if thing >= 0:
            kind, label, note = "wrong classes", int(objects.label[thing]), ""
        elif overlap >= NEAR:
            name = index.names[objects.label[near[row]]]
            note = f"overlaps a {name} by IoU {overlap:.2f}" + (", which a better one finds" if overlap >= 0.5 else "")
        elif found.score[row] >= sure:
            kind, note = "doubtful labels", ""
        mistakes[kind].append(_mistake(found, row, label, int(found.label[row]), int(rows[thing]), note))
    mistakes["misses"] = _misses(evaluation, errors, rows)
    return mistakes


def _misses(evaluation: Evaluation, errors: Errors, rows: np.ndarray) -> list[Mistake]:
    """The objects that nothing finds, the largest first, and what finds them at a lower confidence."""
    split, table, objects = evaluation.split, evaluation.detections, errors.objects
    missed = np.flatnonzero(errors.found_as == len(split.dataset.names))
    # The rule is greedy: what is paired above a confidence stays so where lower ones follow.
    around = table.select(np.isin(table.image, objects.image[missed]))
    unsure = find_errors(split.dataset, split.truth, around, 0.0)
    found = zip(unsure.finds.tolist(), unsure.detections.label.tolist(), unsure.detections.score, strict=True)
    notes = {row: f"at a lower confidence: {split.dataset.names[label]} {score:.3f}" for row, label, score in found}
    largest_first = missed[np.argsort(-(xyxy_to_xywh(objects.xyxy)[missed, 2:].prod(axis=1)), kind="stable")]
    return [
        _mistake(
            objects, row, int(objects.label[row]), -1, int(rows[row]), notes.get(row, "nothing here at any confidence")
        )
        for row in largest_first.tolist()
    ]


def _mistake(table: DetectionTable, row: int, label: int, found: int, thing: int, note: str) -> Mistake:
    score, mask = 0.0 if found < 0 else float(table.score[row]), None if table.mask is None else table.mask[row]
    return Mistake(int(table.image[row]), label, found, score, table.xyxy[row], mask, thing, note)


def _overlaps(errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection ``[D]`` that finds nothing the object that it overlaps most: IoU, 0 if none, and row."""
    found, objects = errors.detections, errors.objects
    overlaps, near = np.zeros(len(found.image)), np.full(len(found.image), -1)
    alone = np.flatnonzero(errors.finds < 0)
    alone = alone[np.argsort(found.image[alone], kind="stable")]
    for own in np.split(alone, np.flatnonzero(np.diff(found.image[alone])) + 1):
        first, end = np.searchsorted(objects.image, found.image[own[:1].repeat(2)] + (0, 1)) if len(own) else (0, 0)
        if first < end:
            iou = coco_mask.iou(_shapes(found, own), _shapes(objects, np.arange(first, end)), [0] * (end - first))
            overlaps[own], near[own] = iou.max(axis=1), first + iou.argmax(axis=1)
    return overlaps, near


def _shapes(table: DetectionTable, rows: np.ndarray) -> Any:
    """Some masks as COCO's functions take them; boxes where there are none."""
    return xyxy_to_xywh(table.xyxy[rows]) if table.mask is None else table.mask[rows].tolist()
