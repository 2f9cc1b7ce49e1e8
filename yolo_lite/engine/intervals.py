"""How far figures of a split would move on other images of the same kind: 95 % intervals by a bootstrap over images.

D detections, T thresholds of IoU, C classes, n images, R replicates. What lies in one image comes and goes together, so
images are drawn, each with a random weight (the Bayesian bootstrap, Rubin 1981): no class drops out of a replicate.

Few images tell little of how they vary: that is Student's t, with those that hold objects; of one it is NaN.
Where all of a few objects are found nothing varies, and yet the next may be missed: to the variance of a figure of N
objects 2 / (N + 4)^2 is added, as if two more had been found and two missed (Agresti and Coull 1998).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.engine.coco_evaluator import IN_CROWD, Truth, match
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.report.evaluation import RECALLS, mean_of_known

IOUS = np.linspace(0.5, 0.95, 10)
FIGURES = ("map50_95", "map50", "precision", "recall")
REPLICATES, NORMAL = 200, 1.96  # 95 % of a normal distribution lie within so many standard deviations
LARGEST = 4_000_000  # numbers of a block


class Matched(NamedTuple):
    """Detections of a split and what each finds, best score first; T objects without crowds."""

    found: np.ndarray  # [10, D] int64, at each of IOUS an object, or below 0 as ``coco_evaluator.match``
    image: np.ndarray  # [D] int64, 0..n - 1
    score: np.ndarray  # [D]
    label: np.ndarray  # [D] int64
    counts: np.ndarray  # [D] bool, whether AP counts it: the best of an image and class do
    object_image: np.ndarray  # [T] int64
    object_label: np.ndarray  # [T] int64


def half_widths(evaluation: Evaluation, kind: str = "bbox") -> np.ndarray:
    """Half of the interval of each of FIGURES, for all classes together and each one: ``[1 + C, 4]``.

    Precision and recall are those at ``scores.confidence``; NaN where a class has objects in no or one image.
    """
    split, table = evaluation.split, evaluation.detections
    sample = matched(split.truth, table, split.limits.per_class, kind)
    return half_widths_of(sample, evaluation.scores.confidence, len(split.dataset), len(split.dataset.names))


def matched(truth: Truth, table: DetectionTable, limit: int, kind: str = "bbox") -> Matched:
    """The detections of which AP counts ``limit`` of an image and class, in COCO's order."""
    order = np.lexsort((table.image, -table.score))
    found = match(truth, table, kind, ious=IOUS.tolist())[:, order]
    image, score, label = table.image[order], table.score[order], table.label[order]
    groups = np.lexsort((label, image))  # each in the order of its scores
    starts = np.flatnonzero(np.diff(image[groups], prepend=-1) | np.diff(label[groups], prepend=-1))
    ranks = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    counts = np.zeros(len(groups), dtype=bool)
    counts[groups[ranks < limit]] = True
    object_image, object_label, crowd = truth.columns
    return Matched(found, image, score, label, counts, object_image[crowd == 0], object_label[crowd == 0])


def half_widths_of(sample: Matched, confidence: float, num_images: int, num_classes: int) -> np.ndarray:
    """As ``half_widths``."""
    from scipy.special import stdtrit  # here, for it takes a third of a second

    # Whole numbers, so that sums are exact: where all objects are found recall is 1 to the bit.
    weights = np.ceil(np.random.default_rng(0).exponential(2**20, (REPLICATES, num_images)))
    figures = np.full((1 + num_classes, REPLICATES, len(FIGURES)), np.nan)
    least = np.full((1 + num_classes, len(FIGURES)), np.nan)
    pairs = np.unique(np.stack((sample.object_label, sample.object_image)), axis=1)
    holding = np.array([len(np.unique(pairs[1])), *np.bincount(pairs[0], minlength=num_classes)])  # images, [1 + C]
    for label in np.unique(sample.object_label).tolist():
        figures[1 + label], (objects, above) = figures_of_class(sample, label, confidence, weights)
        least[1 + label] = 2 / (np.array([objects, objects, above, objects]) + 4) ** 2
    figures[0], present = mean_of_known(figures[1:], 0), ~np.isnan(least[1:, 0])
    least[0] = mean_of_known(least[1:], 0) / max(present.sum(), 1)
    wider = stdtrit(holding - 1, 0.975) ** 2 * (holding + 1) / np.maximum(holding - 1, 1)
    return np.minimum(np.sqrt(figures.var(axis=1) * wider[:, None] + NORMAL**2 * least), 1)


def figures_of_class(
    sample: Matched, label: int, confidence: float, weights: np.ndarray
) -> tuple[np.ndarray, tuple[int, int]]:
    """FIGURES of a class ``[R, 4]`` with images of these weights ``[R, n]``; its objects, and its detections above."""
    own = sample.label == label
    above = own & (sample.score >= confidence) & (sample.found[0] != IN_CROWD)
    hit = above & (sample.found[0] >= 0)
    places = (sample.object_image[sample.object_label == label], sample.image[above], sample.image[hit])
    own, parts = own & sample.counts, []
    for block in np.array_split(weights, 1 + len(weights) * int(own.sum()) // LARGEST):
        objects, shown, hits = (block[:, place].sum(axis=1) for place in places)
        ap = weighted_ap(sample.found[:, own], block[:, sample.image[own]], objects)
        parts.append(np.stack((ap.mean(axis=0), ap[0], hits / np.maximum(shown, 1), hits / objects), axis=1))
    return np.concatenate(parts), (len(places[0]), len(places[1]))


def weighted_ap(found: np.ndarray, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """COCO's AP of a class ``[T, R]`` at each IoU, of detections ``found [T, D]``, best score first.

    ``weights [R, D]`` are those of their images, ``objects [R]`` the weights of all objects.
    """
    every, ap = weights.cumsum(axis=1), []
    for own in found:
        hit, crowd = own >= 0, own == IN_CROWD
        above = ((weights * ~crowd).cumsum(axis=1) if crowd.any() else every)[:, hit]  # [R, hits]
        hits = weights[:, hit].cumsum(axis=1)
        best = np.maximum.accumulate((hits / above)[:, ::-1], axis=1)[:, ::-1]  # precision from there on
        reached = np.searchsorted(RECALLS, hits / objects[:, None], side="right")
        ap.append((np.diff(reached, axis=1, prepend=0) * best).sum(axis=1) / len(RECALLS))
    return np.stack(ap)


def intervals(figures: Mapping[str, float | None], half_width: np.ndarray) -> dict[str, list[float] | None]:
    """``[low, high]`` of each of FIGURES, inside 0..1; None of what has no objects, or has them in one image."""
    known = [(name, figures[name], width) for name, width in zip(FIGURES, half_width.tolist(), strict=True)]
    return {
        name: None if one is None or np.isnan(own) else [max(one - own, 0.0), min(one + own, 1.0)]
        for name, one, own in known
    }
