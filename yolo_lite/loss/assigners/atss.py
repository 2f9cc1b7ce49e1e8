"""Adaptive training sample selection: the threshold of an object's overlaps comes from them (arXiv:1912.02424).

M objects, L levels, A anchors a cell, N slots, P pairs, K candidates of an object.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from yolo_lite.config.types import Count, Positive
from yolo_lite.loss.assigners.pairs import Pairs, distance, order_by, rank_in, settle, slots_nearby
from yolo_lite.ops.boxes import aligned_iou
from yolo_lite.ops.grid import Grid, Slots
from yolo_lite.structures import Matches, Objects


def atss(objects: Objects, grid: Grid, *, reach: float = math.inf, topk: Count = 9, cells: Positive = 8.0) -> Matches:
    """Slots near an object whose anchor boxes overlap it well (Zhang et al., arXiv:1912.02424, algorithm 1).

    Candidates are the ``topk`` cells of every level nearest to the object's centre, with all their anchors. Those whose
    IoU with the object is mean + standard deviation of its candidates' or more, whose centre lies inside the object,
    and that see all its sides within ``reach`` learn it. A slot that several claim goes to the larger IoU (``settle``).
    It goes by no predictions; every pair counts 1.

    Args:
        objects: boxes cxcywh in pixels of the network input; M may be 0.
        grid: the slots of that input.
        reach: how many cells a side may lie from the centre of its slot.
        topk: how many cells of a level.
        cells: side of the square that is the anchor in a head without anchors, whose slots have a single cell as
            theirs: next to that every object would be large.
    """
    target, slot = slots_nearby(objects.box, grid, _radius(grid, topk))
    group = target * len(grid.levels) + grid.level[slot]
    order = order_by(distance(objects, grid, target, slot), group)
    order = order[rank_in(group[order]) // grid.anchors.shape[1] < topk]
    target, slot = target[order], slot[order]

    slots, box = grid.slots.select(slot), objects.box[target]
    overlap = aligned_iou(torch.cat((slots.centre, _anchor(slots, grid, cells)), dim=1), box)
    # Every object has as many candidates: the window of _radius holds topk cells of a level, or all that it has.
    candidates = sum(min(topk, level.height * level.width) for level in grid.levels) * grid.anchors.shape[1]
    table = overlap.reshape(len(objects.label), candidates)  # [M, K]
    mean = table.mean(dim=1, keepdim=True)
    variance = (table - mean).square().sum(dim=1) / max(candidates - 1, 1)
    threshold = mean[:, 0] + variance.sqrt()
    offset = (slots.centre - box[:, :2]).abs()
    is_inside = ((offset < box[:, 2:] / 2) & (offset + box[:, 2:] / 2 <= reach * slots.stride)).all(dim=1)
    # Equal overlaps pass, though their mean may be rounded up.
    chosen = (is_inside & (overlap >= threshold[target] - 1e-6)).nonzero()[:, 0]
    target, slot, _ = settle(Pairs(target, slot, overlap).select(chosen), objects, grid, reach)
    return Matches(objects.image[target], slot, target, torch.ones_like(slot, dtype=torch.float32))


def _anchor(slots: Slots, grid: Grid, cells: float) -> Tensor:
    """Width and height of each slot's anchor ``[P, 2]``, the square of ``cells`` cells where it is just its cell."""
    is_cell = (slots.anchor == slots.stride).all(dim=1, keepdim=True) & (grid.anchors.shape[1] == 1)
    return torch.where(is_cell, cells * slots.anchor, slots.anchor)


def _radius(grid: Grid, topk: int) -> Tensor:
    """Radius in cells ``[L, 1]`` within which the ``topk`` cells of a level nearest to any point of the image lie.

    n cells that follow each other lie within n - 0.5 cells of any coordinate in the image, so a square of n^2 of them
    lies within sqrt(2) (n - 0.5) of a point. Where a level has fewer rows or columns the rectangle is longer.
    """
    shorter = grid.level_table[:, 1:3].amin(dim=1, keepdim=True)
    return math.sqrt(2) * ((topk / shorter).clamp(min=math.sqrt(topk)).ceil() - 0.5)
