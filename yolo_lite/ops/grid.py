"""Where the slots of a head lie in the network input, and how anchor-based outputs become boxes.

A slot is one cell of one level or, in a head with anchors, one anchor in one cell. Slots are ordered (level, cell row
by row, anchor). In channels-last memory the head's convolutions already write that order, so flattening a level copies
nothing. L levels, A anchors a level (1 without anchors), N slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """One feature map of the pyramid."""

    stride: int  # pixels of the network input a cell
    height: int  # cells
    width: int  # cells
    first_slot: int


class Slots(NamedTuple):
    """Where some slots lie in the network input, in pixels; the rows fit those of a head's output."""

    corner: Tensor  # [..., 2] float32, left and top of the slot's cell
    stride: Tensor  # [..., 1] float32
    anchor: Tensor  # [..., 2] float32, width and height

    def select(self, slot: Tensor | slice) -> Slots:
        """Some of the slots, by their index on the slot axis."""
        return Slots(*(column[slot] for column in self))

    @property
    def centre(self) -> Tensor:
        """Middle of each slot's cell in pixels, ``[..., 2]``."""
        return self.corner + self.stride / 2


class Grid(NamedTuple):
    """Where every slot lies in the network input."""

    levels: tuple[Level, ...]
    level_table: Tensor  # [L, 4] int64, the rows of levels
    anchors: Tensor  # [L, A, 2] width and height in pixels; without anchors one square cell a level
    level: Tensor  # [N] int64, index of the slot's level
    slots: Slots  # all N

    @property
    def num_slots(self) -> int:
        return len(self.level)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network input in pixels."""
        stride, rows, columns, _ = self.levels[0]
        return stride * rows, stride * columns


def make_grid(anchors: Tensor, strides: Sequence[int], height: int, width: int) -> Grid:
    """The slots for a network input of ``height`` x ``width`` pixels, multiples of the largest of the L ``strides``.

    ``anchors`` are ``[L, A, 2]`` in pixels, those of a head without anchors its cells; the grid lies on their device.
    """
    num_anchors, device, first_slot = anchors.shape[1], anchors.device, 0
    levels, level, corner, stride, anchor = [], [], [], [], []
    for index, pixels in enumerate(strides):
        rows, columns = height // pixels, width // pixels
        num_slots = rows * columns * num_anchors
        y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        cells = torch.stack((x, y), dim=-1).reshape(-1, 1, 2) * pixels  # [cells, 1, 2]
        levels.append(Level(pixels, rows, columns, first_slot))
        level.append(torch.full((num_slots,), index, device=device))
        corner.append(cells.expand(-1, num_anchors, -1).reshape(-1, 2).float())
        stride.append(torch.full((num_slots, 1), float(pixels), device=device))
        anchor.append(anchors[index].float().repeat(rows * columns, 1))
        first_slot += num_slots
    slots = Slots(torch.cat(corner), torch.cat(stride), torch.cat(anchor))
    return Grid(tuple(levels), torch.tensor(levels, device=device), anchors.float(), torch.cat(level), slots)


def decode_anchors(raw: Tensor, slots: Slots) -> Tensor:
    """Boxes from raw outputs: centre 2 sigmoid(t) - 0.5 cells from the corner, size (2 sigmoid(t))^2 anchors.

    ``raw`` are logits t ``[..., 4]``, against which ``slots`` broadcast; the boxes are cxcywh in pixels ``[..., 4]``.
    A centre reaches half a cell beyond its cell, a size up to 4 anchors.
    """
    reach = 2 * raw.sigmoid()
    centre = slots.corner + (reach[..., :2] - 0.5) * slots.stride
    return torch.cat((centre, reach[..., 2:].square() * slots.anchor), dim=-1)
