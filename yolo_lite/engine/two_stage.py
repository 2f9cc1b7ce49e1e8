"""The criterion of Faster R-CNN: torchvision's four losses, the box losses of both stages chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import LossSection
from yolo_lite.loss.box import BoxLoss
from yolo_lite.loss.criteria import Criterion
from yolo_lite.model.faster_rcnn import BoxObjective, FirstStage, RawDetections
from yolo_lite.structures import Losses, Matches, Objects, Predictions

WITHOUT_EFFECT = (
    *("obj_loss", "cls_loss", "cls_weights", "fl_gamma", "label_smoothing", "obj_pw", "cls_pw"),
    *("dfl", "assigner", "static_epochs"),
)


class FasterRcnnCriterion(Criterion):
    """``obj`` and ``rpn_box`` of the first stage, ``cls`` and ``box`` of the second.

    Raises:
        ConfigError: hyp.yaml sets a key that has no effect here.
    """

    names = ("obj", "rpn_box", "cls", "box")

    def __init__(self, section: LossSection) -> None:
        super().__init__(section)
        if section.assigner.name == "anchor_ratio":  # the default of older checkpoints and hyp files
            section = section.model_copy(update={"assigner": LossSection().assigner})
        idle = [key for key in WITHOUT_EFFECT if getattr(section, key) != getattr(LossSection(), key)]
        if idle:
            raise ConfigError(f"{', '.join(idle)}: without effect on Faster R-CNN, expected the default")
        self.box = BoxLoss(section.box_loss.name, **section.box_loss.parameters)
        self.rpn_box = BoxLoss(section.rpn_box_loss.name, **section.rpn_box_loss.parameters)

    def assign(self, objects: Objects, grid: Any, predictions: Predictions | None = None) -> Matches:
        """No pairs: anchors and proposals are assigned inside torchvision, and drawn by lot."""
        none = objects.image[:0]
        return Matches(none, none, none, none.float())

    def totals(self, matches: Sequence[Matches], grids: Sequence[Any], num_images: int) -> tuple[Tensor, ...]:
        """Images: the losses of a batch are means over samples, and weighted by its number of images."""
        return (torch.tensor(float(num_images)),)

    def forward(
        self, raw: Any, objects: Objects, matches: Matches, grid: Any, totals: tuple[Tensor, ...] | None
    ) -> Losses:
        """The four losses of a batch in training, or of one that is validated; gains applied."""
        assert totals is not None
        first: FirstStage = raw.first if isinstance(raw, RawDetections) else raw
        rpn, roi = (
            # Coordinates are compared as the network predicts them, relative to anchor or proposal, as in torchvision.
            BoxObjective(partial(loss, image_size=first.size, encoded=loss.of_coordinates), loss.of_coordinates, gain)
            for loss, gain in ((self.rpn_box, self.section.rpn_box), (self.box, self.section.box))
        )
        losses_of = first.network.losses if first is raw else first.network.validation_losses
        found = losses_of(first, objects, rpn, roi)
        share = len(first.proposals) / totals[0].item()
        losses = (found.objectness * self.section.obj, found.rpn_box, found.classifier * self.section.cls, found.box)
        return {name: loss * share for name, loss in zip(self.names, losses, strict=True)}
