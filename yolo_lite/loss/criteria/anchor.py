"""The loss of YOLO's anchor head: box, objectness and class.

B images, N slots, C classes, P matched pairs, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from yolo_lite.config.hyp import LossSection
from yolo_lite.loss.box import BoxLoss
from yolo_lite.loss.classification import binary_loss, class_weights, one_hot
from yolo_lite.loss.criteria.criterion import Criterion, Totals
from yolo_lite.ops.boxes import aligned_iou
from yolo_lite.ops.grid import Grid, decode_anchors
from yolo_lite.structures import Losses, Matches, Objects, Predictions, Raw


def loss_gains(section: LossSection, num_levels: int, num_classes: int, size: tuple[int, int]) -> tuple[float, ...]:
    """Gains of box, obj and cls: hyp.yaml gives those for 3 levels, 80 classes and 640 x 640 pixels, and all scale."""
    scale = 3 / num_levels
    obj = section.obj * scale * (size[0] * size[1]) / 640**2
    return section.box * scale, obj, section.cls * scale * num_classes / 80


def objectness_balance(num_levels: int) -> tuple[float, ...]:
    """Weight of each level in the objectness loss: fine levels hold most of the slots, nearly all background."""
    if num_levels == 3:
        return 4.0, 1.0, 0.4
    return (4.0, 1.0, 0.25, 0.06, *[0.02] * (num_levels - 4))[:num_levels]


class AnchorCriterion(Criterion):
    """The loss of YOLO's anchor head: box, objectness and class, by the three functions that hyp.yaml names.

    Box and class losses are means over the positives of each level, objectness over its slots, summed over levels, all
    taken over the whole optimizer step, however many batches or processes it is split into. With an assigner that goes
    by predictions all three are sums, divided by the summed scores of the step's pairs (as in YOLOX, arXiv:2107.08430).

    Args:
        label_counts: objects of each class in the training split ``[C]``, for ``cls_weights``.
    """

    names: tuple[str, ...] = ("box", "obj", "cls")

    def __init__(self, section: LossSection, label_counts: np.ndarray) -> None:
        super().__init__(section)
        self.box = BoxLoss(section.box_loss.name, **section.box_loss.parameters)
        self.obj = binary_loss(section.obj_loss, section.obj_pw, section.fl_gamma)
        self.cls = binary_loss(section.cls_loss, section.cls_pw, section.fl_gamma)
        self.class_weight = nn.Buffer(class_weights(section.cls_weights, label_counts))  # [C]

    def predictions(self, raw: Raw, grid: Grid) -> Predictions:
        raw = raw.float()
        score = raw["obj"].detach().sigmoid()[..., None] * raw["cls"].detach().sigmoid()
        return Predictions(decode_anchors(raw["box"].detach(), grid.slots), score)

    def totals(self, matches: Sequence[Matches], grids: Sequence[Grid], num_images: int) -> Totals:
        """Images, and matched pairs of each level; there must be a batch."""
        counts = [
            grid.anchors.new_zeros(len(grid.levels)).index_add_(0, grid.level[match.slot], torch.ones_like(match.score))
            for match, grid in zip(matches, grids, strict=True)
        ]
        return counts[0].new_full((), num_images), torch.stack(counts).sum(dim=0)

    def forward(self, raw: Raw, objects: Objects, matches: Matches, grid: Grid, totals: Totals | None) -> Losses:
        return compute_loss(raw, objects, matches, grid, self, totals)


def compute_loss(
    raw: Raw, objects: Objects, matches: Matches, grid: Grid, criterion: AnchorCriterion, totals: Totals | None
) -> Losses:
    """Box loss of matched pairs, objectness against their IoU, classes against one-hot.

    The target of objectness is the plain, detached IoU, whatever the box loss is (YOLOv5 takes the CIoU, cut off at
    0): a score means the same under every box loss.

    Args:
        raw: outputs ``box`` ``[B, N, 4]``, ``obj`` ``[B, N]`` and ``cls`` ``[B, N, C]``, logits of any float type.
        matches: from ``build_targets`` on the same objects and grid.
    """
    num_classes, section = raw["cls"].shape[2], criterion.section
    box_gain, obj_gain, cls_gain = loss_gains(section, len(grid.levels), num_classes, grid.size)
    matched, slots = raw.select(matches.image, matches.slot).float(), grid.slots.select(matches.slot)
    num_images, positives = totals or (1.0, None)
    weight = matches.score if positives is None else matches.score / positives[grid.level[matches.slot]]  # [P]

    box, target_box = decode_anchors(matched["box"], slots), objects.box[matches.target]  # [P, 4]
    box_error = criterion.box(box, target_box, unit=slots.stride, image_size=grid.size)  # [P]

    obj_target = torch.zeros(raw["obj"].shape, device=box.device)  # [B, N]
    obj_target[matches.image, matches.slot] = aligned_iou(box.detach(), target_box)
    obj_error = criterion.obj(raw["obj"].float(), obj_target) * _slot_weight(grid, is_mean=positives is not None)

    if num_classes > 1:
        label = objects.label[matches.target]
        target = one_hot(label, num_classes, section.label_smoothing)
        cls_error = criterion.cls(matched["cls"], target).mean(dim=1)  # [P]
        cls_loss = (cls_error * criterion.class_weight[label] * weight).sum()
    else:  # a single class has nothing to tell apart: objectness is the score
        cls_loss = matched["cls"].sum() * 0
    return {
        "box": (box_error * weight).sum() * box_gain,
        "obj": obj_error.sum() / num_images * obj_gain,
        "cls": cls_loss * cls_gain,
    }


def _slot_weight(grid: Grid, is_mean: bool) -> Tensor:
    """Weight of each slot ``[N]``: the level's balance, over its number of slots where sums are level means."""
    weights = []
    for balance, level in zip(objectness_balance(len(grid.levels)), grid.levels, strict=True):
        num_slots = level.height * level.width * grid.anchors.shape[1]
        weights.append(grid.slots.corner.new_full((num_slots,), balance / max(num_slots, 1) if is_mean else balance))
    return torch.cat(weights)
