"""The mask loss, beside the losses of either detection head.

B images, N slots, M objects, P matched pairs, h x w cells of a mask, 4 pixels of the network input wide. The window of
an object are the cells that linear interpolation reads inside its box: those with their middle less than a cell
outside. A mask is learnt in its window alone, as it is used in a box alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from yolo_lite.config.summed import Summed
from yolo_lite.loss.criteria.anchor import AnchorCriterion
from yolo_lite.loss.criteria.criterion import Criterion, Totals
from yolo_lite.loss.criteria.free import BOX_UNIT, FreeCriterion
from yolo_lite.loss.mask import MASK_LOSSES
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.grid import Grid
from yolo_lite.ops.masks import STRIDE
from yolo_lite.structures import Losses, Matches, Objects, Predictions, Raw

MARGIN = 1.0  # cells of a window around the box
MOST_NUMBERS = 1 << 24  # that are in memory at once: 64 MB
USUAL_SHARE = 1 / 16  # of the input that a window covers: the unit of areas where their sum is not known yet
IGNORED = -100


def windows_of(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Left, top, columns, rows and area of windows in cells, ``[M, 5]`` int64, each of a cell or more.

    Args:
        box: ``[M, 4]`` cxcywh in pixels of an input of ``size`` (height, width).
    """
    edges, most = cxcywh_to_xyxy(box) / STRIDE, (size[1] // STRIDE, size[0] // STRIDE)
    first = [(edges[:, k] - MARGIN - 0.5).ceil().long().clamp(0, most[k] - 1) for k in (0, 1)]
    last = [(edges[:, k + 2] + MARGIN + 0.5).floor().long().clamp(max=most[k]) for k in (0, 1)]
    columns, rows = ((last[k] - first[k]).clamp(min=1) for k in (0, 1))
    return torch.stack((*first, columns, rows, columns * rows), dim=1)


class MaskMatches(Matches):
    """Pairs as other criteria have them, which also say how much the mask of each counts."""

    share: Tensor  # [P] float32


class Masked(Criterion):
    """What the criteria of both heads with masks share; the next of their bases is that of the head without."""

    def assign(self, objects: Objects, grid: Grid, predictions: Predictions | None = None) -> MaskMatches:
        """Which slot learns which object, and how much its mask counts: all the same, or by the area of its window."""
        matches = MaskMatches(*super().assign(objects, grid, predictions))
        matches.share = torch.ones_like(matches.score)
        if self.section.mask_norm == "step":
            usual = USUAL_SHARE * grid.size[0] * grid.size[1] / STRIDE**2
            matches.share = windows_of(objects.box, grid.size)[matches.target, 4] / usual
        return matches

    def mask_loss(self, raw: Raw, objects: Objects, matches: Matches, weight: Tensor) -> Tensor:
        """The loss by the key ``mask_loss``, where each pair has a weight ``[P]``; without its gain."""
        assert isinstance(matches, MaskMatches)
        return mask_loss(raw, objects, matches, weight * matches.share, self.section.mask_loss)


class SegmentCriterion(Masked, AnchorCriterion):
    """The loss of the anchor head with masks: ``mask`` is a mean over the masks or, by key, the pixels of a level."""

    names: tuple[str, ...] = (*AnchorCriterion.names, "mask")

    def totals(self, matches: Sequence[Matches], grids: Sequence[Grid], num_images: int) -> Totals:
        """Those without masks, and what the masks of each level count ``[L]``."""
        images, positives = super().totals(matches, grids, num_images)
        counts = torch.zeros_like(positives)
        for match, grid in zip(matches, grids, strict=True):
            assert isinstance(match, MaskMatches)
            counts.index_add_(0, grid.level[match.slot], match.share)
        return images, positives, counts

    def forward(self, raw: Raw, objects: Objects, matches: Matches, grid: Grid, totals: Totals | None) -> Losses:
        losses = super().forward(raw, objects, matches, grid, totals and totals[:2])
        weight = matches.score if totals is None else 1 / totals[2][grid.level[matches.slot]]
        gain = self.section.mask * 3 / len(grid.levels)  # as that of the box
        return losses | {"mask": self.mask_loss(raw, objects, matches, weight) * gain}


class SegmentFreeCriterion(Masked, FreeCriterion):
    """The loss of the head without anchors, with masks, in units of the pairs' scores as its box loss is."""

    names: tuple[str, ...] = (*FreeCriterion.names, "mask")

    def forward(self, raw: Raw, objects: Objects, matches: Matches, grid: Grid, totals: object = None) -> Losses:
        losses = super().forward(raw, objects, matches, grid, totals)
        return losses | {"mask": self.mask_loss(raw, objects, matches, matches.score) * self.section.mask * BOX_UNIT}


def mask_loss(raw: Raw, objects: Objects, matches: Matches, weight: Tensor, losses: Summed) -> Tensor:
    """The weighted sum over pairs of the loss of each mask inside its object's window, of pixel losses their mean.

    All logits of P masks would be gigabytes: they are computed in the windows only, for some objects at a time, and
    with them their gradient, so that nothing of that size is kept for the backward pass.

    Args:
        raw: ``coefficient`` ``[B, N, K]`` and ``prototype`` ``[B, K, h, w]`` of any float type.
        weight: ``[P]``.
    """
    assert objects.mask is not None, "a head with masks needs objects with masks"
    exact = torch.promote_types(raw.slots.dtype, torch.float32)
    prototype = raw["prototype"].to(exact).permute(0, 2, 3, 1)  # [B, h, w, K]
    assert objects.mask.shape[1:] == prototype.shape[1:3], f"expected masks of {list(prototype.shape[1:3])} cells"
    coefficient = F.pad(raw["coefficient"][matches.image, matches.slot].to(exact), (0, 0, 0, 1))  # [P + 1, K]
    groups = _groups(objects, matches.target, prototype.shape)
    work = Work(objects.mask.flatten(), groups, F.pad(weight.to(exact), (0, 1)), losses)
    return _MaskLoss.apply(coefficient, prototype.flatten(0, 2), work)  # type: ignore[no-any-return, no-untyped-call]


class Group(NamedTuple):
    """Objects with windows of about one size, and their pairs: m objects of up to S cells and k pairs each."""

    cell: Tensor  # [m, S] rows of the cells of all prototypes
    label: Tensor  # [m, S] rows of the cells of all masks
    is_cell: Tensor  # [m, S] bool; a smaller window is filled up with its first cell
    pair: Tensor  # [m, k] rows of the pairs; P, a pair of weight 0, where an object has fewer


class Work(NamedTuple):
    """What a mask loss is computed from beside the network's outputs."""

    mask: Tensor  # [M h w]
    groups: list[Group]
    weight: Tensor  # [P + 1]
    losses: Summed


class _MaskLoss(torch.autograd.Function):
    """The sum and, where it is asked for, its gradient, group by group."""

    @staticmethod
    def forward(ctx: Any, coefficient: Tensor, prototype: Tensor, work: Work) -> Tensor:
        """``coefficient`` are ``[P + 1, K]``, ``prototype`` ``[B h w, K]``."""
        learns = any(ctx.needs_input_grad)
        total, slopes = coefficient.new_zeros(()), [torch.zeros_like(one) for one in (coefficient, prototype) if learns]
        for group in work.groups:
            own, basis = coefficient[group.pair], prototype[group.cell]  # [m, k, K], [m, S, K]
            logits = own @ basis.mT  # [m, k, S]
            with torch.set_grad_enabled(learns):
                part = (_errors(logits.requires_grad_(learns), group, work) * work.weight[group.pair]).sum()
            total += part.detach()
            if learns:
                (slope,) = torch.autograd.grad(part, logits)
                slopes[0].index_copy_(0, group.pair.flatten(), (slope @ basis).flatten(0, 1))
                slopes[1].index_add_(0, group.cell.flatten(), (slope.mT @ own).flatten(0, 1))
        ctx.save_for_backward(*slopes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        coefficient, prototype = ctx.saved_tensors
        return grad * coefficient, grad * prototype, None


def _errors(logits: Tensor, group: Group, work: Work) -> Tensor:
    """The error of each pair ``[m, k]`` for logits ``[m, k, S]``."""
    label = work.mask[group.label].long().masked_fill(~group.is_cell, IGNORED)[:, None].expand(logits.shape)
    flat, target = logits.flatten(0, 1)[:, None, None], label.flatten(0, 1)[:, None]  # [mk, 1, 1, S], [mk, 1, S]
    total = torch.zeros_like(logits[..., 0])
    for choice, gain in zip(work.losses.choices, work.losses.gains, strict=True):
        given: dict[str, Any] = {"ignore_index": IGNORED, "reduction": "none", **choice.parameters}
        error = MASK_LOSSES[choice.name](flat, target, **given)  # [mk, 1], of pixels [mk, 1, S]
        sums = error.flatten(1).sum(dim=1).view_as(total)
        total = total + gain * (sums if error.ndim == 2 else sums / group.is_cell.sum(dim=1, keepdim=True))
    return total


def _groups(objects: Objects, target: Tensor, shape: Sequence[int]) -> list[Group]:
    """The work of pairs with these objects ``[P]`` on prototypes of ``shape`` ``[B, h, w, K]``, planned on the host."""
    _, height, width, depth = shape
    windows = windows_of(objects.box, (height * STRIDE, width * STRIDE))
    table = torch.cat((objects.image[:, None], windows), dim=1)  # [M, 6]
    plan, pairs = (
        part.numpy() for part in torch.cat((table.flatten(), target)).cpu().split([table.numel(), len(target)])
    )
    rows, counts = np.unique(pairs, return_counts=True)  # of the objects that have a pair
    first, of_object = np.cumsum(counts) - counts, np.argsort(pairs, kind="stable")
    area = plan.reshape(-1, 6)[rows, 5]
    size = np.ceil(np.log2(area)).astype(int)  # windows of 1 cell, 2, to 4, to 8, ...: those of a group are padded
    order, most = np.argsort(size, kind="stable"), counts.max(initial=0)
    groups = []
    for some in _chunks(size[order], lambda one: MOST_NUMBERS // (2**one * (depth + 10 * most))):
        chosen = order[some]
        rank = np.arange(counts[chosen].max())
        place = (first[chosen, None] + rank).clip(max=len(pairs) - 1)
        pair = np.where(rank < counts[chosen, None], of_object[place], len(pairs))  # [m, k]
        own = torch.from_numpy(rows[chosen]).to(target.device)
        groups.append(_group(table, own, int(area[chosen].max()), torch.from_numpy(pair).to(target.device), shape))
    return groups


def _group(table: Tensor, own: Tensor, longest: int, pair: Tensor, shape: Sequence[int]) -> Group:
    _, height, width, _ = shape
    image, left, top, columns, _, area = table[own, :, None].unbind(dim=1)  # [m, 1] each
    number = torch.arange(longest, device=own.device)  # [S], row by row of a window
    is_cell = number < area
    number = number * is_cell
    place = (top + number // columns) * width + left + number % columns  # [m, S]
    cells = height * width
    return Group(image * cells + place, own[:, None] * cells + place, is_cell, pair)


def _chunks(values: np.ndarray, most: Callable[[int], int]) -> Iterator[slice]:
    """Slices of equal neighbours, of at most so many by their value, but 1 at least."""
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1), len(values)]
    for start, end in itertools.pairwise(starts):
        step = max(int(most(values[start])), 1) if end > start else 1
        yield from (slice(one, min(one + step, end)) for one in range(start, end, step))
