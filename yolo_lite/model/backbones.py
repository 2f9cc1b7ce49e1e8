"""The backbones of Faster R-CNN, by the names that torchvision gives them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Backbone(NamedTuple):
    """How torchvision makes a backbone with a feature pyramid."""

    maker: Literal["mobilenet", "resnet"]
    stages: int  # of which the first is never read by the pyramid
    levels: int  # stages that the pyramid reads unless told otherwise
    trained: int = 3  # last stages that are trained where the weights are pretrained


BACKBONES: dict[str, Backbone] = {
    **dict.fromkeys(("mobilenet_v3_large", "mobilenet_v3_small"), Backbone("mobilenet", stages=6, levels=2)),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), Backbone("resnet", stages=5, levels=4)),
}
