"""Candidate pairs of an object and a slot, a row each: nothing here is a matrix of all objects by all slots.

The cells of a level whose centres lie in an upright rectangle are themselves a rectangle of cells, so they are counted
without looking at any. Everything is a stable sort, a gather or a maximum: equal to the bit on every run.

M objects, L levels, A anchors a cell, N slots, P pairs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from yolo_lite.ops.boxes import aligned_iou, cxcywh_to_xyxy
from yolo_lite.ops.grid import Grid
from yolo_lite.structures import Objects, Predictions

FLOOR = 0.1  # how much a pair counts at least: what has no overlap yet would never be learnt
NEARBY = 1.5  # cells: how far from its centre an object that has no slot looks for one


class Pairs(NamedTuple):
    """Objects and slots that they may have."""

    target: Tensor  # [P] int64, row of Objects
    slot: Tensor  # [P] int64
    fit: Tensor  # [P] float32, the larger the better; below 0 where an object just takes the nearest

    def select(self, rows: Tensor) -> Pairs:
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows  # once: a GPU is waited for at each
        return Pairs(*(column[rows] for column in self))

    def join(self, other: Pairs) -> Pairs:
        return Pairs(*map(torch.cat, zip(self, other, strict=True)))


def slots_inside(box: Tensor, grid: Grid, reach: float = math.inf, radius: float = math.inf) -> tuple[Tensor, Tensor]:
    """Target and slot ``[P]`` of all slots whose centres lie inside a box, not on its border, and see all its sides.

    Args:
        box: cxcywh in pixels ``[M, 4]``.
        reach: how many cells a side may lie from the centre of the slot.
        radius: less than how many cells the centre of the slot lies from that of the box, in x and in y.
    """
    cells = box[:, None] / grid.level_table[:, :1]  # [M, L, 4]
    centre, half = cells[..., :2] - 0.5, cells[..., 2:] / 2  # a cell's index is where its centre lies
    inner = half.clamp(max=radius)
    first = torch.maximum((centre - inner).floor() + 1, (centre + half - reach).ceil())
    end = torch.minimum((centre + inner).ceil(), (centre - half + reach).floor() + 1)
    return slots_between(first, end, grid)


def slots_nearby(box: Tensor, grid: Grid, radius: Tensor | float) -> tuple[Tensor, Tensor]:
    """Target and slot ``[P]`` of all slots less than ``radius`` cells from the centre of a box, in x and in y."""
    centre = centre_in_image(box, grid)[:, None] / grid.level_table[:, :1] - 0.5  # [M, L, 2]
    return slots_between((centre - radius).floor() + 1, (centre + radius).ceil(), grid)


def slots_between(first: Tensor, end: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Target and slot ``[P]``, both rising, of rectangles of cells from ``first`` to before ``end``, ``[M, L, 2]``."""
    limit, num_anchors = grid.level_table[:, 1:3].flip(1), grid.anchors.shape[1]
    first = first.clamp(min=0).minimum(limit).long()
    size = (end.clamp(min=0).minimum(limit).long() - first).clamp(min=0)
    count = size.prod(dim=2).flatten() * num_anchors  # [M * L]
    rectangle = torch.arange(len(count), device=count.device).repeat_interleave(count)  # [P]
    index = torch.arange(len(rectangle), device=count.device) - (count.cumsum(0) - count)[rectangle]
    cell, level = index // num_anchors, rectangle % len(limit)
    (left, top), width = first.reshape(-1, 2)[rectangle].unbind(1), size[..., 0].flatten()[rectangle]
    column, row = left + cell % width, top + cell // width
    slot = grid.level_table[level, 3] + (row * limit[level, 0] + column) * num_anchors + index % num_anchors
    return rectangle // len(limit), slot


def image_size(grid: Grid) -> Tensor:
    """Width and height in pixels ``[2]``, on the device of the grid."""
    return grid.level_table[0, 1:3].flip(0) * grid.level_table[0, 0]


def centre_in_image(box: Tensor, grid: Grid) -> Tensor:
    """Centres of boxes in pixels ``[M, 2]``; one beyond an edge counts as the nearest point of that edge."""
    return box[:, :2].clamp(min=0).minimum(image_size(grid))


def distance(objects: Objects, grid: Grid, target: Tensor, slot: Tensor) -> Tensor:
    """Pixels from the centre of each object to that of the slot, squared ``[P]``."""
    return (centre_in_image(objects.box[target], grid) - grid.slots.select(slot).centre).square().sum(dim=1)


def predicted_overlap(objects: Objects, predictions: Predictions, target: Tensor, slot: Tensor) -> Tensor:
    """IoU of each object with the box that the slot predicts ``[P]``, 0 where that is not a number."""
    return share(aligned_iou(predictions.box[objects.image[target], slot].float(), objects.box[target]))


def share(values: Tensor) -> Tensor:
    """Values as float32 in 0..1; what is not a number becomes 0."""
    return values.float().nan_to_num(nan=0).clamp(0, 1)


def order_by(*keys: Tensor) -> Tensor:
    """Rows by rising ``keys`` ``[P]``, the most important last; equal rows stay in their order."""
    order = keys[0].argsort(stable=True)
    for key in keys[1:]:
        order = order[key[order].argsort(stable=True)]
    return order


def is_first(group: Tensor) -> Tensor:
    """Which rows are the first of their group, 0 or more, bool ``[P]``; the rows of a group stand together."""
    return group.diff(prepend=group.new_full((1,), -1)) != 0


def rank_in(group: Tensor) -> Tensor:
    """How many rows of the same group come before each row ``[P]``; the rows of a group stand together."""
    position = torch.arange(len(group), device=group.device)
    return position - torch.where(is_first(group), position, 0).cummax(dim=0).values


def largest(values: Tensor, target: Tensor, num_objects: int) -> Tensor:
    """For each pair the maximum over its object's pairs ``[P]``, of values that are 0 or more."""
    return values.new_zeros(num_objects).scatter_reduce_(0, target, values, "amax")[target]


def at_least(score: Tensor, floor: float, target: Tensor, num_objects: int) -> Tensor:
    """Scores of which the best of every object is ``floor`` at least ``[P]``."""
    return torch.where(score == largest(score, target, num_objects), score.clamp(min=floor), score)


def settle(claims: Pairs, objects: Objects, grid: Grid, reach: float = math.inf) -> Pairs:
    """Give every slot to one object at most, and every object a slot where its neighbours can spare one.

    An object that claims nothing claims the nearest slot. A slot goes to an object that claims no other, else to the
    best fit, and of equals to the object that comes first; being near is less than any fit. An object that lost all it
    claimed takes the nearest slot that is free, or else the nearest that an object with several gives up; that one
    gives one up at a time. Of several that want the same slot the nearest gets it while the others go on.

    Nearest are the centres of slots to that of the object, of slots that see all its sides within ``reach`` cells
    before the others, and never further than NEARBY cells of their level. Objects without an area, or wholly outside
    the image, get nothing.

    Args:
        claims: by rising target.

    Returns:
        The pairs that stand, by image and slot.
    """
    claims = claims.join(_bids(claims, claims.select(claims.slot[:0]), objects, grid, reach))
    kept = claims.select(_winners(claims, objects, grid))
    # Each round serves an object or ends.
    while len((bids := _bids(kept, kept, objects, grid, reach)).slot):
        bids = bids.select(_winners(bids, objects, grid))
        bids = bids.select(_one_a_holder(bids, kept, objects, grid))
        rest = torch.isin(_places(kept, objects, grid), _places(bids, objects, grid), invert=True)
        kept = _by_place(kept.select(rest).join(bids), objects, grid)
    return kept


def _places(pairs: Pairs, objects: Objects, grid: Grid) -> Tensor:
    """A number for each (image, slot) ``[P]``."""
    return objects.image[pairs.target] * grid.num_slots + pairs.slot


def _by_place(pairs: Pairs, objects: Objects, grid: Grid) -> Pairs:
    return pairs.select(_places(pairs, objects, grid).argsort())


def _slots_of(pairs: Pairs, objects: Objects) -> Tensor:
    """How many slots the object of each pair has ``[P]``."""
    return torch.zeros_like(objects.label).index_add_(0, pairs.target, torch.ones_like(pairs.target))[pairs.target]


def _winners(claims: Pairs, objects: Objects, grid: Grid) -> Tensor:
    """Rows of the claims, by rising target, that get their slot."""
    has_others = (_slots_of(claims, objects) > 1).byte()
    place = _places(claims, objects, grid)
    order = order_by(-claims.fit, has_others, place)
    return order[is_first(place[order])]


def _one_a_holder(bids: Pairs, kept: Pairs, objects: Objects, grid: Grid) -> Tensor:
    """Rows of the bids for slots that are free, and of the nearest one for slots of the same object."""
    place, wanted = _places(kept, objects, grid), _places(bids, objects, grid)
    held = torch.searchsorted(place, wanted).clamp(max=len(place) - 1)
    holder = torch.where(place[held] == wanted, kept.target[held], len(objects.label) + bids.target)
    order = order_by(-bids.fit, holder)
    return order[is_first(holder[order])]


def _bids(served: Pairs, held: Pairs, objects: Objects, grid: Grid, reach: float) -> Pairs:
    """For each object that is not served the nearest slot that is not the only one of another.

    Those that nobody holds come before the others; the fit of a bid is how near it is.
    """
    low, high = cxcywh_to_xyxy(objects.box).split(2, dim=1)
    is_left = ((low < high) & (high > 0) & (low < image_size(grid))).all(dim=1)
    is_left[served.target] = False
    rows = is_left.nonzero()[:, 0]
    if not len(rows):
        return served.select(rows)
    target, slot = slots_nearby(objects.box[rows], grid, NEARBY)
    near = Pairs(rows[target], slot, -1 - distance(objects, grid, rows[target], slot))
    only = _places(held.select(_slots_of(held, objects) == 1), objects, grid)
    near = near.select(torch.isin(_places(near, objects, grid), only, invert=True))
    is_held = torch.isin(_places(near, objects, grid), _places(held, objects, grid))
    slots, box = grid.slots.select(near.slot), objects.box[near.target]
    sides = (slots.centre - box[:, :2]).abs() + box[:, 2:] / 2  # to the farther one in x and in y
    beyond = (sides / slots.stride - reach).clamp(min=0).amax(dim=1)
    near = near.select(order_by(-near.fit, beyond, is_held.byte(), near.target))
    return near.select(is_first(near.target))
