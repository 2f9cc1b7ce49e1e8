"""Boxes by the distances of their sides from the centre of a cell, in cells: of a head without anchors.

R bins of a distance, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.grid import Slots


def distances(raw: Tensor) -> Tensor:
    """Distances in cells, 0 or more, from raw outputs ``[..., 4R]``: ``[..., 4]`` to left, top, right and bottom.

    For R > 1 the mean of 0, 1, ... R - 1 under the softmax of a side's R logits (arXiv:2006.04388, the integral form
    of a general distribution); for R = 1 softplus, which is smooth and, for large values, linear.
    """
    sides = raw.unflatten(-1, (4, -1))  # [..., 4, R]
    if sides.shape[-1] == 1:
        return F.softplus(sides[..., 0])
    return (sides.softmax(dim=-1) * torch.arange(sides.shape[-1], device=raw.device)).sum(dim=-1)


def decode_distances(raw: Tensor, slots: Slots) -> Tensor:
    """Boxes from raw outputs ``[..., 4R]``: how many cells each side lies from the centre of the slot's cell.

    ``slots`` broadcast against ``raw``; the boxes are cxcywh in pixels ``[..., 4]``.
    """
    before, after = (distances(raw) * slots.stride).split(2, dim=-1)
    return torch.cat((slots.centre + (after - before) / 2, before + after), dim=-1)


def distances_to_sides(box: Tensor, slots: Slots) -> Tensor:
    """Cells from the centre of each slot to left, top, right and bottom of its box, ``[P, 4]``; below 0 outside it."""
    first, last = cxcywh_to_xyxy(box).split(2, dim=-1)
    return torch.cat((slots.centre - first, last - slots.centre), dim=-1) / slots.stride
