"""How far figures of a split would move on other images of the same kind: a bootstrap over images.

D detections, T thresholds of IoU, C classes, n images, R replicates. Boxes and objects of one image come and go
together, so images are drawn, not objects, each with a random weight (Rubin 1981, the Bayesian bootstrap): no class
drops out of a replicate. Detections are matched once, for a match lies inside an image.

Where all of a few objects are found, nothing varies, and yet the next one may be missed: the variance of a figure of N
objects is therefore never below 2 / (N + 4)^2, what two hits and two misses more add (Agresti and Coull 1998).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCO

from yolo_lite.engine.coco_ap import IN_CROWD, DetectionTable, load_results, match
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.report.evaluation import mean_of_known

IOUS = np.linspace(0.5, 0.95, 10)  # COCO's, as its RECALLS
RECALLS = np.linspace(0, 1, 101)
FIGURES = ("map50_95", "map50", "precision", "recall")
REPLICATES, NORMAL = 200, 1.96  # 95 % of a normal distribution lie within so many standard deviations
LARGEST = 4_000_000  # numbers of a block


class Matched(NamedTuple):
    """The detections of a split that AP counts, and what each finds; T objects without crowds."""

    found: np.ndarray  # [T, D] int64, at each IoU: an object, or below 0 as ``coco_ap.match``
    image: np.ndarray  # [D] int64, 0..n - 1
    score: np.ndarray  # [D]
    label: np.ndarray  # [D] int64
    object_image: np.ndarray  # [T] int64
    object_label: np.ndarray  # [T] int64
    limit: int  # detections of an image and class that AP counts


def half_widths(evaluation: Evaluation, kind: str = "bbox") -> np.ndarray:
    """Half of the 95 % interval of each of FIGURES, for all classes together and each one: ``[1 + C, 4]``.

    Precision and recall are those at ``scores.confidence``; NaN where a class has no objects.
    """
    split = evaluation.split
    sample = matched(split.truth, evaluation.detections, split.limits.per_class, kind)
    return half_widths_of(sample, evaluation.scores.confidence, len(split.dataset), len(split.dataset.names))


def matched(truth: COCO, table: DetectionTable, limit: int, kind: str = "bbox") -> Matched:
    results = load_results(truth, table, kind)
    found = np.stack([match(truth, results, kind, iou=iou) for iou in IOUS])
    objects = [(one["image_id"], one["category_id"]) for one in truth.dataset["annotations"] if not one["iscrowd"]]
    owner, label = np.array(objects, dtype=np.int64).reshape(-1, 2).T
    return Matched(found, table.image, table.score, table.label, owner, label, limit)


def half_widths_of(sample: Matched, confidence: float, num_images: int, num_classes: int) -> np.ndarray:
    """As ``half_widths``."""
    draw = np.random.default_rng(0)
    # Whole numbers, so that sums are exact: what is found is then all that there is, to the bit, at a recall of 1.
    weights = np.ceil(draw.exponential(2**20, (REPLICATES, num_images)))
    counts = np.full((num_classes, 2), np.nan)
    figures = np.full((REPLICATES, num_classes, len(FIGURES)), np.nan)
    for label in np.unique(sample.object_label).tolist():
        sure = (sample.label == label) & (sample.score >= confidence) & (sample.found[0] != IN_CROWD)
        counts[label] = (sample.object_label == label).sum(), sure.sum()
        figures[:, label] = figures_of_class(sample, label, confidence, weights)
    least = 2 / (counts[:, [0, 0, 1, 0]] + 4) ** 2  # [C, 4]
    present = max((~np.isnan(counts[:, 0])).sum(), 1)
    overall = mean_of_known(figures.swapaxes(0, 1), 0), mean_of_known(least, 0) / present
    scale = (num_images + 1) / max(num_images - 1, 1)  # from this variance to the unbiased one of a mean
    variance = [own.var(axis=0) * scale + floor for own, floor in (overall, (figures, least))]
    return NORMAL * np.sqrt(np.vstack(variance))


def figures_of_class(sample: Matched, label: int, confidence: float, weights: np.ndarray) -> np.ndarray:
    """FIGURES of a class ``[R, 4]``, where each image counts as often as its weight ``[R, n]`` says."""
    rows = np.flatnonzero(sample.label == label)
    rows = rows[np.lexsort((sample.image[rows], -sample.score[rows]))]  # COCO's order
    rows = rows[_ranks(sample.image[rows]) < sample.limit]
    own = sample.object_image[sample.object_label == label]
    sure = (sample.label == label) & (sample.score >= confidence) & (sample.found[0] != IN_CROWD)
    hit = sure & (sample.found[0] >= 0)
    blocks = np.array_split(weights, 1 + len(weights) * len(rows) // LARGEST)
    parts = []
    for block in blocks:
        objects, above, hits = (block[:, image].sum(axis=1) for image in (own, sample.image[sure], sample.image[hit]))
        ap = weighted_ap(sample.found[:, rows], block[:, sample.image[rows]], objects)
        precision = np.divide(hits, above, out=np.zeros(len(block)), where=above > 0)
        parts.append(np.stack((ap.mean(axis=0), ap[0], precision, hits / objects), axis=1))
    return np.concatenate(parts)


def _ranks(groups: np.ndarray) -> np.ndarray:
    """The how many-th of its group each entry is, from 0."""
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], groups[order])
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - first
    return ranks


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
    """The 95 % interval ``[low, high]`` of each of FIGURES, inside 0..1; None of what has no objects."""
    known = {name: (figures[name], width) for name, width in zip(FIGURES, half_width.tolist(), strict=True)}
    return {
        name: None if value is None else [max(value - width, 0.0), min(value + width, 1.0)]
        for name, (value, width) in known.items()
    }
