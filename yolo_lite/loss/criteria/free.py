"""The loss of the head without anchors: box, class and the distributions of the distances.

B images, N slots, C classes, P matched pairs, R bins of a distance.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_lite.config.foreign import ConfigWarning
from yolo_lite.config.hyp import LossSection
from yolo_lite.loss.assigners.pairs import FLOOR, predicted_overlap
from yolo_lite.loss.box import BoxLoss
from yolo_lite.loss.classification import binary_loss, class_weights, one_hot
from yolo_lite.loss.criteria.criterion import Criterion
from yolo_lite.ops.distances import decode_distances, distances_to_sides
from yolo_lite.ops.grid import Grid
from yolo_lite.structures import Losses, Matches, Objects, Predictions, Raw

BOX_UNIT = 150


def free_gains(section: LossSection) -> tuple[float, ...]:
    """Gains of box, cls and dfl: 7.5, 0.5 and 1.5 for the defaults of hyp.yaml, whose box gain is that of Detect.

    Detect's box loss is a mean over pairs beside class losses that are means over classes; here all are sums over the
    summed scores, in which the classes of all slots count.
    """
    return section.box * BOX_UNIT, section.cls, section.dfl


class FreeCriterion(Criterion):
    """The loss of the head without anchors: box, class and distributions, in units of the pairs' scores.

    A class learns the score of its pair and, where there is none, 0, by the loss that hyp.yaml names, summed over all
    slots; box and distribution losses are weighted by the score (Feng et al., arXiv:2108.07755, sec. 3.3). All are
    sums, divided by the summed scores of the whole optimizer step. An assigner that grades no pairs leaves that to the
    IoU of predicted box and object.

    ``label_smoothing`` and ``cls_weights`` act on the rows of matched slots, ``cls_pw`` on every positive term.
    """

    names: tuple[str, ...] = ("box", "cls", "dfl")
    assigners = ("tal", "simota", "atss")

    def __init__(self, section: LossSection, label_counts: np.ndarray) -> None:
        super().__init__(section)
        self.needs_predictions = True
        keys = ("obj", "obj_loss", "obj_pw", "anchor_t")
        if idle := [key for key in keys if getattr(section, key) != getattr(LossSection(), key)]:
            warnings.warn(f"{', '.join(idle)}: without effect on DetectFree", ConfigWarning, stacklevel=2)
        self.box = BoxLoss(section.box_loss.name, **section.box_loss.parameters)
        self.cls = binary_loss(section.cls_loss, section.cls_pw, section.fl_gamma)
        self.class_weight = nn.Buffer(class_weights(section.cls_weights, label_counts))  # [C]

    @torch.no_grad()
    def predictions(self, raw: Raw, grid: Grid) -> Predictions:
        raw, bins = raw.float(), raw["box"].shape[-1] // 4
        reach = bins - 1.0 if bins > 1 else math.inf
        return Predictions(decode_distances(raw["box"], grid.slots), raw["cls"].sigmoid(), reach)

    def assign(self, objects: Objects, grid: Grid, predictions: Predictions | None = None) -> Matches:
        matches = super().assign(objects, grid, predictions)
        if predictions is None or self.assigns_by_predictions:
            return matches
        iou = predicted_overlap(objects, predictions, matches.target, matches.slot)
        return matches._replace(score=matches.score * iou.clamp(min=FLOOR))

    def forward(self, raw: Raw, objects: Objects, matches: Matches, grid: Grid, totals: object = None) -> Losses:
        """Undivided sums; ``raw`` are logits ``box`` ``[B, N, 4R]`` and ``cls`` ``[B, N, C]`` of any float type."""
        matched, slots = raw.select(matches.image, matches.slot).float(), grid.slots.select(matches.slot)
        target_box, score = objects.box[matches.target], matches.score  # [P, 4], [P]
        box = decode_distances(matched["box"], slots)
        box_error = self.box(box, target_box, unit=slots.stride, image_size=grid.size)  # [P]
        dfl_error = distribution_focal(matched["box"], distances_to_sides(target_box, slots))  # [P]
        box_gain, cls_gain, dfl_gain = free_gains(self.section)
        return {
            "box": (box_error * score).sum() * box_gain,
            "cls": self._class_loss(raw["cls"].float(), objects.label[matches.target], matches) * cls_gain,
            "dfl": (dfl_error * score).sum() * dfl_gain,
        }

    def _class_loss(self, logits: Tensor, label: Tensor, matches: Matches) -> Tensor:
        target = torch.zeros_like(logits)  # [B, N, C]
        hard = one_hot(label, logits.shape[2], self.section.label_smoothing)
        target[matches.image, matches.slot] = hard * matches.score[:, None]
        error = self.cls(logits, target)
        if self.section.cls_weights is None:
            return error.sum()
        weight = torch.ones_like(logits[..., 0])  # [B, N]
        weight[matches.image, matches.slot] = self.class_weight[label]
        return (error.sum(dim=2) * weight).sum()


def distribution_focal(raw: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy with the two bins around each distance, by how near they are, mean of four sides ``[P]``.

    DFL of Li et al., arXiv:2006.04388: -((i + 1 - d) ln S_i + (d - i) ln S_(i+1)), i the distance d rounded down. A
    distance beyond 0..R - 1 counts as the nearer end. For plain distances, R = 1, it is 0.

    Args:
        raw: logits ``[P, 4R]``.
        distance: in cells ``[P, 4]``.
    """
    sides = raw.unflatten(-1, (4, -1))  # [P, 4, R]
    last = sides.shape[-1] - 1
    share = 1 - (distance.clamp(0, last)[..., None] - torch.arange(last + 1, device=raw.device)).abs()  # of each bin
    return -(share.clamp(min=0) * F.log_softmax(sides, dim=-1)).sum(dim=-1).mean(dim=-1)
