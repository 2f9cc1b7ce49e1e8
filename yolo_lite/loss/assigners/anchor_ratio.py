"""The assigner of YOLOv5: anchors by their shape, then the cell of the object's centre and its two nearest neighbours.

M objects, L levels, A anchors a level, N slots, P matched pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from yolo_lite.loss.assigners.pairs import is_first, order_by
from yolo_lite.ops.boxes import aligned_iou
from yolo_lite.ops.grid import Grid
from yolo_lite.structures import Matches, Objects


def build_targets(objects: Objects, grid: Grid, anchor_t: float = 4.0) -> Matches:
    """Match objects to slots by the rule of YOLOv5, but that a slot gets one object at most.

    An object matches an anchor when neither its width nor its height differs from the anchor's by a factor of
    ``anchor_t`` or more. It then takes the cell that holds its centre and the nearest neighbour cell in x and in y
    that lies in the image; exactly in the middle of a cell there is no nearest neighbour.

    In YOLOv5 a slot that several objects claim learns box and class of each, and the objectness of one of them. Here
    the object with the larger IoU with the slot's anchor box, put at the centre of its cell, gets the slot, and of
    equals the one that comes first in ``objects``.

    Args:
        objects: boxes cxcywh in pixels of the network input; M may be 0.
        grid: the slots of that input.
        anchor_t: largest ratio of widths or heights, above 1.
    """
    size = objects.box[:, None, None, 2:]  # [M, 1, 1, 2]
    fits = (size < grid.anchors * anchor_t) & (grid.anchors < size * anchor_t)  # no division: a zero side fits nothing
    pair_target, pair_level, pair_anchor = fits.all(dim=-1).nonzero(as_tuple=True)
    slot, inside = _candidate_slots(objects.box[pair_target], pair_level, pair_anchor, grid)  # [pairs, 3]
    pair, cell = inside.nonzero(as_tuple=True)
    return _one_object_a_slot(objects, pair_target[pair], slot[pair, cell], grid)


def _candidate_slots(box: Tensor, level: Tensor, anchor: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Slots ``[pairs, 3]`` of centre cell, x neighbour, y neighbour, and which of them lie in the image.

    In the middle of a cell a neighbour is the cell itself: such a slot comes twice.
    """
    table = grid.level_table[level]  # [pairs, 4] stride, height, width, first slot
    stride, limit, first_slot = table[:, :1], table[:, 1:3].flip(1), table[:, 3:]
    centre = box[:, :2] / stride  # in cells
    # A centre on the far edge of the image, or beyond an edge, belongs to the nearest cell.
    cell = centre.floor().long().clamp(min=0).minimum(limit - 1)  # [pairs, 2]
    side = (centre - cell - 0.5).sign().long()  # -1 towards the cell before, +1 towards the cell after, 0 in the middle
    step = F.pad(torch.diag_embed(side), (0, 0, 1, 0))  # [pairs, 3, 2]: none, along x, along y
    cells = cell[:, None] + step
    inside = ((cells >= 0) & (cells < limit[:, None])).all(dim=-1)
    cell_index = cells[..., 1] * table[:, 2:3] + cells[..., 0]  # row by row
    slot = first_slot + cell_index * grid.anchors.shape[1] + anchor[:, None]
    return slot, inside


def _one_object_a_slot(objects: Objects, target: Tensor, slot: Tensor, grid: Grid) -> Matches:
    """Drop all but the best claim to each (image, slot)."""
    slots = grid.slots.select(slot)
    fit = aligned_iou(torch.cat((slots.centre, slots.anchor), dim=1), objects.box[target])
    place = objects.image[target] * grid.num_slots + slot
    order = order_by(target, -fit, place)
    kept = order[is_first(place[order])]
    return Matches(objects.image[target[kept]], slot[kept], target[kept], torch.ones_like(fit[kept]))
