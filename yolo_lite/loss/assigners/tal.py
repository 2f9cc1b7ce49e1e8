"""Task-aligned assignment: slots whose class score and box fit an object best learn it (Feng et al., arXiv:2108.07755).

M objects, N slots, P pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from yolo_lite.config.types import Count, Fraction, NotNegative
from yolo_lite.loss.assigners.pairs import (
    FLOOR,
    Pairs,
    at_least,
    distance,
    largest,
    order_by,
    predicted_overlap,
    rank_in,
    settle,
    share,
    slots_inside,
)
from yolo_lite.ops.grid import Grid
from yolo_lite.ops.safe import safe_ratio
from yolo_lite.structures import Matches, Objects, Predictions


def tal(
    objects: Objects,
    grid: Grid,
    *,
    predictions: Predictions,
    reach: float = math.inf,
    alpha: NotNegative = 1.0,
    beta: NotNegative = 6.0,
    topk: Count = 13,
    floor: Fraction = FLOOR,
) -> Matches:
    """The topk slots inside an object of the highest t = s^alpha u^beta (Feng et al., arXiv:2108.07755, sec. 3.2).

    s is the predicted score of the object's class, u the IoU of the predicted box with the object. Of slots with t = 0
    an object takes one, the nearest to its centre, and that only where it has none above 0. A slot that several claim
    goes to the larger u (``settle``). A pair counts as much as t max u / max t, maxima over the object's pairs.

    Args:
        objects: boxes cxcywh in pixels of the network input; M may be 0.
        grid: the slots of that input.
        predictions: of every slot; what is not a number counts as 0.
        reach: how many cells a side may lie from the centre of its slot.
        floor: how much the best pair of an object counts at least: what has no overlap yet, is tiny, or is larger than
            ``reach`` would never be learnt. Not of the paper, which has 0.
    """
    target, slot = slots_inside(objects.box, grid, reach)
    alignment, overlap = _alignment(objects, predictions, target, slot, alpha, beta)
    preference = torch.where(alignment > 0, alignment, -distance(objects, grid, target, slot))
    order = order_by(-preference, target)
    rank = rank_in(target[order])
    order = order[(rank < topk) & ((rank == 0) | (alignment[order] > 0))]
    claims = Pairs(target[order], slot[order], overlap[order])
    target, slot, _ = settle(claims, objects, grid, reach)
    alignment, overlap = _alignment(objects, predictions, target, slot, alpha, beta)
    num_objects = len(objects.label)
    score = safe_ratio(alignment, largest(alignment, target, num_objects)) * largest(overlap, target, num_objects)
    return Matches(objects.image[target], slot, target, at_least(score, floor, target, num_objects))


def _alignment(
    objects: Objects, predictions: Predictions, target: Tensor, slot: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """t and u of each pair ``[P]``."""
    score = share(predictions.score[objects.image[target], slot, objects.label[target]])
    overlap = predicted_overlap(objects, predictions, target, slot)
    return score**alpha * overlap**beta, overlap
