"""Simplified optimal transport: as many slots as an object's overlaps add up to, the cheapest ones (arXiv:2107.08430).

M objects, N slots, C classes, P pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from yolo_lite.config.types import Count, Fraction, NotNegative, Positive
from yolo_lite.loss.assigners.pairs import (
    FLOOR,
    Pairs,
    at_least,
    distance,
    order_by,
    predicted_overlap,
    rank_in,
    settle,
    share,
    slots_inside,
)
from yolo_lite.ops.grid import Grid
from yolo_lite.structures import Matches, Objects, Predictions


def simota(
    objects: Objects,
    grid: Grid,
    *,
    predictions: Predictions,
    reach: float = math.inf,
    radius: Positive = 2.5,
    iou_weight: NotNegative = 3.0,
    topk: Count = 10,
    floor: Fraction = FLOOR,
) -> Matches:
    """The k slots inside an object and near its centre of the lowest cost (Ge et al., YOLOX, arXiv:2107.08430, eq. 1).

    The cost of a pair is BCE of the slot's C scores against the object's class + ``iou_weight`` (-ln IoU) of the
    predicted box; k is the sum of the object's ``topk`` largest IoUs, rounded down, 1 at least. A slot that several
    claim goes to the lower cost, of slots of equal cost an object takes the nearer. A pair counts as much as its IoU.

    YOLOX lets an object with fewer than k slots that are inside and near take some that are only one of the two; here
    it has fewer. Its class score is the root of class times objectness, here what the head gives as its score.

    Args:
        objects: boxes cxcywh in pixels of the network input; M may be 0.
        grid: the slots of that input.
        predictions: of every slot; what is not a number counts as 0.
        reach: how many cells a side may lie from the centre of its slot.
        radius: how many cells a slot lies from the centre of its object, in x and in y.
        floor: how much the best pair of an object counts at least; not of the paper, which has 0.
    """
    target, slot = slots_inside(objects.box, grid, reach, radius)
    overlap = predicted_overlap(objects, predictions, target, slot)
    order = order_by(-overlap, target)
    first = order[rank_in(target[order]) < topk]
    sums = overlap.new_zeros(len(objects.label)).index_add_(0, target[first], overlap[first])
    count = sums.long().clamp(min=1)  # k [M]

    cost = _class_cost(objects, predictions, target, slot) - iou_weight * (overlap + 1e-8).log()
    order = order_by(distance(objects, grid, target, slot), cost, target)
    order = order[rank_in(target[order]) < count[target[order]]]
    target, slot, _ = settle(Pairs(target, slot, 1 / (1 + cost)).select(order), objects, grid, reach)
    score = at_least(predicted_overlap(objects, predictions, target, slot), floor, target, len(objects.label))
    return Matches(objects.image[target], slot, target, score)


def _class_cost(objects: Objects, predictions: Predictions, target: Tensor, slot: Tensor) -> Tensor:
    """BCE summed over the classes ``[P]``."""
    score = share(predictions.score[objects.image[target], slot])  # [P, C]
    truth = torch.zeros_like(score).scatter_(1, objects.label[target, None], 1)
    return F.binary_cross_entropy(score, truth, reduction="none").sum(dim=1)
