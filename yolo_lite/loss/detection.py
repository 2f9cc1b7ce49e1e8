"""The loss of a detector: box, objectness and class.

B images, N slots, C classes, P matched pairs, L levels.

Normalisation in one sentence: box and class losses are means over the positives of each level, summed over levels,
and objectness is a mean over the slots of each level, all taken over the whole optimizer step, however many batches
or processes it is split into.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolo_lite.config.schema import Hyp
from yolo_lite.loss.box import BoxLoss, RunLosses
from yolo_lite.loss.classification import binary_loss, class_weights, one_hot
from yolo_lite.ops.boxes import aligned_iou
from yolo_lite.ops.grid import Grid, decode
from yolo_lite.structures import LossParts, Matches, Objects

# Fine levels hold most of the slots and nearly all of them are background: they count more. P3-P5 and longer pyramids.
OBJ_BALANCE = {3: (4.0, 1.0, 0.4)}
OBJ_BALANCE_LONG = (4.0, 1.0, 0.25, 0.06, 0.02)


class Gains(NamedTuple):
    """Weights of the three losses, scaled to model and image size."""

    box: float
    obj: float
    cls: float


class StepTotals(NamedTuple):
    """What the losses of one optimizer step are divided by."""

    images: Tensor  # [] float32
    positives: Tensor  # [L] float32, matched pairs of each level


def loss_gains(hyp: Hyp, num_levels: int, num_classes: int, height: int, width: int) -> Gains:
    """Gains for 3 levels, 80 classes and 640 x 640 pixels are those of hyp.yaml; others are scaled in proportion."""
    per_level = 3 / num_levels
    return Gains(
        box=hyp.box * per_level,
        obj=hyp.obj * per_level * (height * width) / 640**2,
        cls=hyp.cls * per_level * num_classes / 80,
    )


def objectness_balance(num_levels: int) -> tuple[float, ...]:
    """Weight of each level in the objectness loss."""
    # Levels beyond the fifth count as little as the fifth.
    long = tuple(OBJ_BALANCE_LONG[min(level, len(OBJ_BALANCE_LONG) - 1)] for level in range(num_levels))
    return OBJ_BALANCE.get(num_levels, long)


def step_totals(matches: Iterable[Matches], grids: Iterable[Grid], num_images: int) -> StepTotals:
    """Count over all batches of an optimizer step; there must be one."""
    counts = [
        torch.zeros(len(grid.levels), device=match.slot.device).index_add_(
            0, grid.level[match.slot], torch.ones_like(match.slot, dtype=torch.float32)
        )
        for match, grid in zip(matches, grids, strict=True)
    ]
    return StepTotals(counts[0].new_full((), num_images), torch.stack(counts).sum(dim=0))


class DetectionLosses(RunLosses):
    """The three loss functions that hyp.yaml names; made once a run, since some have a state.

    Args:
        label_counts: objects of each class in the training split ``[C]``, for ``cls_weights``.
    """

    class_weight: Tensor  # [C]

    def __init__(self, hyp: Hyp, label_counts: np.ndarray) -> None:
        super().__init__()
        self.hyp = hyp
        self.box = BoxLoss(hyp.box_loss, hyp)
        self.obj, self.cls = binary_loss(hyp, "obj"), binary_loss(hyp, "cls")
        self.register_buffer("class_weight", class_weights(hyp.cls_weights, label_counts))


def compute_loss(
    raw: Tensor,
    targets: Objects,
    matches: Matches,
    grid: Grid,
    losses: DetectionLosses,
    totals: StepTotals | None = None,
) -> LossParts:
    """Box loss of matched pairs, objectness against their IoU, classes against one-hot.

    Only the matched rows and the objectness column are read, both in float32. The target of objectness is the plain,
    detached IoU, whatever the box loss is: the score that comes of it means the same under every box loss.

    Args:
        raw: logits ``[B, N, 5+C]``, any float type.
        matches: from ``build_targets`` on the same targets and grid.
        totals: counts of the whole optimizer step, where ``raw`` is only a part of it.

    Returns:
        Finite float32 scalars that carry a gradient, also without any match.
    """
    totals = totals or step_totals([matches], [grid], raw.shape[0])
    num_classes = raw.shape[2] - 5
    height, width = (grid.levels[0].stride * cells for cells in grid.levels[0][1:3])
    hyp, gains = losses.hyp, loss_gains(losses.hyp, len(grid.levels), num_classes, height, width)
    matched = raw[matches.image, matches.slot].float()  # [P, 5+C]
    share = 1 / totals.positives[grid.level[matches.slot]]  # [P], of the level's mean

    corner, stride, anchor = (values[matches.slot] for values in (grid.corner, grid.stride, grid.anchor))
    box, target_box = decode(matched[:, :4], corner, stride, anchor), targets.box[matches.target]  # [P, 4]
    box_loss = (losses.box(box, target_box, unit=stride, image_size=(height, width)) * share).sum()

    obj_target = torch.zeros(raw.shape[:2], device=raw.device)  # [B, N]
    obj_target[matches.image, matches.slot] = aligned_iou(box.detach(), target_box)
    obj_error = losses.obj(raw[..., 4].float(), obj_target)
    obj_loss = (obj_error * _slot_weight(grid)).sum() / totals.images

    if num_classes > 1:
        label = targets.label[matches.target]
        cls_error = losses.cls(matched[:, 5:], one_hot(label, num_classes, hyp.label_smoothing)).mean(dim=1)  # [P]
        cls_loss = (cls_error * losses.class_weight[label] * share).sum()
    else:  # a single class has nothing to tell apart: objectness is the score
        cls_loss = matched[:, 5:].sum() * 0
    return LossParts(box_loss * gains.box, obj_loss * gains.obj, cls_loss * gains.cls)


def _slot_weight(grid: Grid) -> Tensor:
    """Weight of each slot ``[N]``: the level's balance over its number of slots, so that sums are level means."""
    num_anchors = grid.anchors.shape[1]
    weights = []
    for balance, level in zip(objectness_balance(len(grid.levels)), grid.levels, strict=True):
        num_slots = level.height * level.width * num_anchors
        weights.append(grid.corner.new_full((num_slots,), balance / num_slots))
    return torch.cat(weights)
