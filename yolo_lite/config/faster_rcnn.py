"""What may stand in a model YAML of Faster R-CNN."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Strict

from yolo_lite.config.seams import Section, chosen_from
from yolo_lite.config.types import Classes, Count, Levels, Positive, Several, described

TrainAndTest = Annotated[tuple[Count, Count], Strict(False), described("[train, test], two whole numbers of 1 or more")]
PositiveNumbers = Annotated[Several[Positive], described("a list of positive numbers")]
# [32, 64], sizes on every level, or [[32], [64], ...], as many sizes for each level of the pyramid.
AnchorSizes = Annotated[
    Several[Positive] | Levels, described("a list of positive numbers, or one for each level, all of one length")
]


class FasterRcnnConfig(Section):
    """A model YAML of torchvision's Faster R-CNN with a feature pyramid; the defaults are torchvision's."""

    family: Literal["faster_rcnn"]
    nc: Classes = 80  # without the background
    backbone: Annotated[str, chosen_from("BACKBONES")] = "mobilenet_v3_large"
    pretrained: bool = False  # true: torchvision's ImageNet weights of the backbone, whose first part is frozen
    levels: Count | None = None  # coarsest stages that the pyramid reads; null: the last 2 of mobilenets, 4 of resnets
    anchors: AnchorSizes = (32.0, 64.0, 128.0, 256.0, 512.0)  # pixels
    aspect_ratios: PositiveNumbers = (0.5, 1.0, 2.0)  # height / width
    rpn_pre_nms: TrainAndTest = (2000, 1000)  # best anchors of a level that enter the first stage's NMS
    rpn_post_nms: TrainAndTest = (2000, 1000)  # best proposals of an image that leave it
    rpn_samples: Count = 256  # anchors of an image that the first stage learns from, at most half of them positive
    roi_samples: Count = 512  # proposals of an image that the second stage learns from, at most a quarter positive
