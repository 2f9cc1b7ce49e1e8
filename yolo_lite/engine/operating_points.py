"""From which confidence on a detector is used: that of the best F1, of a wanted precision, of a wanted recall.

They are found on one split, mostly val, and kept as plain data in checkpoints, exported files and metrics.json. What
they are worth another split tells: where they were found they look better than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.config.confidence import DEFAULT, POINTS, confidence_choice
from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.engine.coco_ap import ClassScores, Scores, ratios_at
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.intervals import half_widths
from yolo_lite.report.evaluation import Curves, mean_of_known, point_title, row_at
from yolo_lite.report.table import aligned_table, shortened

Points = dict[str, Any]  # as ``checkpoint_fields.OperatingPoints``


class Judgement(NamedTuple):
    """What is said of an evaluation beside its figures."""

    points: Points
    half_widths: np.ndarray  # [1 + C, 4], of 95 % intervals, see engine/intervals.py
    mask_half_widths: np.ndarray | None = None


def judge(
    evaluation: Evaluation,
    split: str,
    known: Points | None,
    precision: float | None,
    recall: float | None,
    lowest: float = 0.0,
) -> tuple[Evaluation, Judgement]:
    """An evaluation whose precision and recall stand at the best F1 of ``known``, points that were found elsewhere.

    Without them, or where a precision or recall is wanted that they lack, points are found on the evaluation itself.
    """
    wanted = {name: one for name, one in (("precision", precision), ("recall", recall)) if one is not None}
    if not known or any(known.get(name, {}).get("wanted") != one for name, one in wanted.items()):
        known = find_points(evaluation, split, precision, recall, lowest)
    if (confidence := known["f1"]["all"]) is not None:
        evaluation = evaluation._replace(scores=scores_at(evaluation.scores, confidence))
    masks = half_widths(evaluation, "segm") if evaluation.scores.mask else None
    return evaluation, Judgement(known, half_widths(evaluation), masks)


def find_points(
    evaluation: Evaluation,
    split: str,
    precision: float | None = None,
    recall: float | None = None,
    lowest: float = 0.0,
) -> Points:
    """The operating points of an evaluation, for all classes together (means over classes) and for each one.

    They are the confidence of the best F1 and, where they are wanted, the lowest one that reaches a precision and the
    highest that reaches a recall; None where none does. Below ``lowest`` nothing was detected, and none is looked for.
    """
    names, curves = evaluation.split.dataset.names, evaluation.scores.curves
    rows = slice(np.searchsorted(curves.confidence, lowest), None)
    curves = curves._replace(confidence=curves.confidence[rows], hits=curves.hits[:, rows], above=curves.above[:, rows])
    points: Points = {"split": split, "images": len(evaluation.split.dataset), "objects": int(curves.objects.sum())}
    points["f1"] = _point(curves, names, curves.f1, lambda own: np.flatnonzero(own >= max(own.max(), 1e-9))[:1])
    # A mean of classes may miss what all of them reach by a rounding error.
    if precision is not None:
        at = _point(curves, names, curves.precision, lambda values: np.flatnonzero(values >= precision - 1e-12)[:1])
        points["precision"] = {"wanted": precision, **at}
    if recall is not None:
        at = _point(curves, names, curves.recall, lambda values: np.flatnonzero(values >= recall - 1e-12)[-1:])
        points["recall"] = {"wanted": recall, **at}
    return points


def _point(
    curves: Curves, names: Sequence[str], values: np.ndarray, find: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """The confidences where ``find`` says, of the curve ``[N]`` of all and of each class that has objects."""

    def confidence(own: np.ndarray) -> float | None:
        return next(iter(curves.confidence[find(own)].tolist()), None)

    present = np.flatnonzero(curves.objects > 0).tolist()
    every = confidence(mean_of_known(values[present], 0)) if present else None
    return {"all": every, "by_class": {names[label]: confidence(values[label]) for label in present}}


def scores_at(scores: Scores, confidence: float) -> Scores:
    """The same scores, with precision and recall at another confidence."""
    ratios, _ = ratios_at(scores.curves, row_at(confidence))
    rows = np.column_stack((np.array(scores.by_class)[:, :3], ratios.T))
    overall = ClassScores(*scores.overall[:3], *mean_of_known(ratios, 1).tolist())
    masks = scores.mask and scores_at(scores.mask, confidence)
    return Scores(overall, [ClassScores(*row) for row in rows.tolist()], confidence, scores.curves, masks)


def point_table(points: Points, curves: Curves, names: Sequence[str]) -> str:
    """For all classes and each one: the confidence of each point, and the precision and recall that it has here."""
    kinds, present = [kind for kind in POINTS if kind in points], np.flatnonzero(curves.objects > 0).tolist()
    rows = [["class", *(cell for kind in kinds for cell in (point_title(points, kind), "precision", "recall"))]]
    for name, labels in [("all", present), *((names[label], [label]) for label in present)]:
        row = [shortened(name)]
        for kind in kinds:
            one = points[kind]["all"] if labels is present else points[kind]["by_class"].get(name)
            ratios = [values[labels, row_at(one or 1)] for values in (curves.precision, curves.recall)]
            means = [float(mean_of_known(values, 0)) if one else np.nan for values in ratios]
            row += [f"{one:.3f}" if one else "never", *("-" if np.isnan(mean) else f"{mean:.3f}" for mean in means)]
        rows.append(row)
    return aligned_table(rows)


class Lowest(NamedTuple):
    """What ``--conf`` comes to for a model."""

    confidence: float  # scores lie above it
    by_class: tuple[float, ...] | None  # instead of it, for each class, where they differ
    told: str


def lowest_scores(conf: Any, points: Points | None, names: Sequence[str]) -> Lowest:
    """Resolve what ``confidence_choice`` takes by the operating points that a file of weights knows, if it knows any.

    Raises:
        ConfigError: it is no choice, or names a class that there is not, or a point that the file does not know.
    """
    try:
        choice = confidence_choice(conf)
    except ValueError as error:
        raise ConfigError(f"conf: {error}") from None
    for name in choice.by_class:
        if name not in names:
            raise ConfigError(f"conf: unknown class {name!r}{nearest(name, names)}")
    base, told = _base(choice.base, points, names)
    every = [choice.by_class.get(name, one) for name, one in zip(names, base, strict=True)]
    own = "".join(f"{name} {one:g}, " for name, one in choice.by_class.items())
    told = f"{own}others {told}" if own else told
    return Lowest(min(every), tuple(every) if len({*every}) > 1 else None, told)


def _base(base: float | str, points: Points | None, names: Sequence[str]) -> tuple[list[float], str]:
    """What the scores of each class must lie above, and in words where that comes from."""
    if base == "auto":
        base = "f1" if points and points["f1"]["all"] is not None else DEFAULT
    if not isinstance(base, str):
        return [base] * len(names), f"{base:g}"
    kind, _, by_class = base.partition("/")
    if not points or points.get(kind, {}).get("all") is None:
        flag = "" if kind == "f1" else f" --{kind} 0.95"
        raise ConfigError(f"conf: {base} is not known of these weights; val.py{flag} --save-points may find it")
    every, own = points[kind]["all"], points[kind]["by_class"] if by_class else {}
    told = f"{'of each class' if by_class else f'{every:g}'} ({point_title(points, kind)} on {points['split']})"
    return [_below(own.get(name) or every) for name in names], told


def _below(confidence: float) -> float:
    """The largest float32 below a confidence: scores above it are those from the confidence on, which curves count."""
    near = np.float32(confidence)
    return float(near if float(near) < confidence else np.nextafter(near, np.float32(0)))
