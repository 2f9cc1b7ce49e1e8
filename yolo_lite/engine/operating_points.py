"""From which confidence on a detector is used: that of the best F1, of a wanted precision, of a wanted recall.

They are found on one split, mostly val, and kept as plain data in checkpoints, exported files and metrics.json. What
they come to is known from another split alone: on their own they look better than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.config.confidence import DEFAULT, POINTS, ConfidenceChoice
from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.engine.coco_ap import ClassScores, Scores
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.intervals import half_widths
from yolo_lite.report.evaluation import Curves, mean_of_known
from yolo_lite.report.table import aligned_table, shortened

Points = dict[str, Any]  # as ``checkpoint_fields.OperatingPoints``
TITLES = {"f1": "best F1", "precision": "precision {}", "recall": "recall {}"}


class Judgement(NamedTuple):
    """What is said of an evaluation beside its figures."""

    points: Points
    half_widths: np.ndarray  # [1 + C, 4], of 95 % intervals, see engine/intervals.py
    mask_half_widths: np.ndarray | None = None


def judge(
    evaluation: Evaluation,
    split: str,
    known: Points | None = None,
    wanted: tuple[float | None, float | None] = (None, None),
) -> tuple[Evaluation, Judgement]:
    """An evaluation whose precision and recall stand at the best F1 of ``known``, points that were found elsewhere.

    Without them, or where a precision or recall is ``wanted`` which they lack, points are found on the evaluation.
    """
    asked = [(name, one) for name, one in zip(POINTS[1:], wanted, strict=True) if one is not None]
    is_known = known and all(known.get(name, {}).get("wanted") == one for name, one in asked)
    points = known if known and is_known else find_points(evaluation, split, *wanted)
    if (confidence := points["f1"]["all"]) is not None:
        evaluation = evaluation._replace(scores=scores_at(evaluation.scores, confidence))
    masks = half_widths(evaluation, "segm") if evaluation.scores.mask else None
    return evaluation, Judgement(points, half_widths(evaluation), masks)


def find_points(
    evaluation: Evaluation, split: str, precision: float | None = None, recall: float | None = None
) -> Points:
    """The operating points of an evaluation, for all classes together (means over classes) and for each one.

    The best F1 is looked for, and where they are wanted the lowest confidence that reaches a precision and the highest
    that reaches a recall; None is what nothing reaches.
    """
    index, curves = evaluation.split.dataset, evaluation.scores.curves
    origin = {"split": split, "images": len(index), "objects": int(curves.objects.sum())}
    points = {"f1": _point(curves, index.names, curves.f1, _best)}
    if precision is not None:
        first = _point(curves, index.names, curves.precision, lambda values: _first(values >= precision - 1e-12))
        points["precision"] = {"wanted": precision, **first}
    if recall is not None:
        last = _point(curves, index.names, curves.recall, lambda values: _last(values >= recall - 1e-12))
        points["recall"] = {"wanted": recall, **last}
    return {**origin, **points}


def _point(curves: Curves, names: Sequence[str], values: np.ndarray, find: Callable[[np.ndarray], int | None]) -> Any:
    """A confidence for all and for each class that has objects, where ``find`` says of ``values [C, N]``."""

    def confidence(row: int | None) -> float | None:
        return None if row is None else float(curves.confidence[row])

    present = np.flatnonzero(curves.objects > 0).tolist()
    every = confidence(find(mean_of_known(values[present], 0))) if present else None
    return {"all": every, "by_class": {names[label]: confidence(find(values[label])) for label in present}}


def _best(values: np.ndarray) -> int | None:
    return int(values.argmax()) if values.max() > 0 else None


def _first(reached: np.ndarray) -> int | None:
    return int(reached.argmax()) if reached.any() else None


def _last(reached: np.ndarray) -> int | None:
    return int(np.flatnonzero(reached)[-1]) if reached.any() else None


def row_at(confidence: float) -> int:
    """The row of curves at a confidence of a point."""
    return min(max(round(confidence * 1000), 1), 1000) - 1


def scores_at(scores: Scores, confidence: float) -> Scores:
    """The same scores, with precision and recall at another confidence."""
    row, present = row_at(confidence), scores.curves.objects > 0
    ratios = np.nan_to_num(scores.curves.precision[:, row]), scores.curves.recall[:, row]
    chosen = np.where(present, np.stack(ratios), np.nan)  # [2, C]
    overall, *by_class = (
        ClassScores(*own[:3], *pair)
        for own, pair in zip(
            (scores.overall, *scores.by_class), [mean_of_known(chosen, 1).tolist(), *chosen.T.tolist()], strict=True
        )
    )
    masks = scores.mask and scores_at(scores.mask, confidence)
    return scores._replace(overall=overall, by_class=by_class, confidence=confidence, mask=masks)


def described(points: Points) -> str:
    """``"val: 64 images, 190 objects"``."""
    return f"{points['split']}: {points['images']} images, {points['objects']} objects"


def title(points: Points, name: str) -> str:
    """``"precision 0.95"``."""
    return TITLES[name].format(points[name].get("wanted"))


def point_table(points: Points, curves: Curves, names: Sequence[str], with_classes: bool = True) -> str:
    """A row for all classes and each one: the confidence of each point, and precision and recall that it has here."""
    kinds = [name for name in POINTS if name in points]
    header = ["class", *(cell for name in kinds for cell in (title(points, name), "precision", "recall"))]
    present = np.flatnonzero(curves.objects > 0).tolist()
    rows = [("all", "all", present), *((shortened(names[label]), names[label], [label]) for label in present)]
    table = [header]
    for shown, name, labels in rows[: None if with_classes else 1]:
        cells = [shown]
        for kind in kinds:
            one = points[kind]["all"] if name == "all" and labels is present else points[kind]["by_class"].get(name)
            cells += _cells(one, curves, labels)
        table.append(cells)
    return aligned_table(table)


def _cells(confidence: float | None, curves: Curves, labels: Sequence[int]) -> list[str]:
    if confidence is None:
        return ["never", "-", "-"]
    row = row_at(confidence)
    ratios = (mean_of_known(values[labels, row], 0) for values in (curves.precision, curves.recall))
    return [f"{confidence:.3f}", *("-" if np.isnan(one) else f"{one:.3f}" for one in ratios)]


class Lowest(NamedTuple):
    """What ``--conf`` comes to for a model."""

    confidence: float  # scores lie above it
    by_class: tuple[float, ...] | None  # and for each class above these, where they differ
    told: str


def lowest_scores(choice: ConfidenceChoice, points: Points | None, names: Sequence[str]) -> Lowest:
    """Resolve a choice by the operating points that a file of weights knows, if it knows any.

    Raises:
        ConfigError: it names a class that there is not, or a point that the file does not know.
    """
    for name in choice.by_class:
        if name not in names:
            raise ConfigError(f"conf: unknown class {name!r}{nearest(name, names)}")
    base, told = _base(choice.base, points, names)
    every = [choice.by_class.get(name, own) for name, own in zip(names, base, strict=True)]
    if choice.by_class:
        told = ", ".join([*(f"{name} {value:g}" for name, value in choice.by_class.items()), f"others {told}"])
    return Lowest(min(every), tuple(every) if len({*every}) > 1 else None, told)


def _base(base: float | str, points: Points | None, names: Sequence[str]) -> tuple[list[float], str]:
    """For each class what its scores must lie above, and in words where that comes from."""
    if base == "auto":
        base = "f1" if points and points["f1"]["all"] is not None else DEFAULT
    if not isinstance(base, str):
        return [base] * len(names), f"{base:g}"
    kind, _, own = base.partition("/")
    if not points or points.get(kind, {}).get("all") is None:
        flag = "" if kind == "f1" else f" --{kind} 0.95"
        raise ConfigError(f"conf {base}: these weights know no such confidence; val.py{flag} --save-points finds it")
    every, by_class = points[kind]["all"], points[kind]["by_class"] if own else {}
    told = f"{'of each class' if own else f'{every:g}'} ({title(points, kind)} on {points['split']})"
    return [_below(every if (one := by_class.get(name)) is None else one) for name in names], told


def _below(confidence: float) -> float:
    """The largest float32 below a confidence: scores above it are those from the confidence on, which curves count."""
    near = np.float32(confidence)
    return float(near if near < confidence else np.nextafter(near, np.float32(-1)))
