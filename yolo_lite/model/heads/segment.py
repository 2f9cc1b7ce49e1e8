"""The heads that find masks beside boxes: prototypes of an image, and what each slot makes of them.

B images, N slots, C classes, H W input size. As in YOLACT (arXiv:1904.02689): the mask of a detection is the sum of the
prototypes of its image, each times a coefficient of the slot; logits at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_lite.config.bounds import WIDTH
from yolo_lite.config.model import ModelConfig, scaled_width
from yolo_lite.model.blocks.standard import Conv, activation_maker
from yolo_lite.model.heads.class_rows import ClassRows
from yolo_lite.model.heads.detect import Detect
from yolo_lite.model.heads.detect_free import DetectFree
from yolo_lite.model.heads.head import Head
from yolo_lite.ops.grid import Grid
from yolo_lite.ops.masks import STRIDE
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Detections, Raw

Planned = list[list[tuple[float, float]]]


class Arguments(NamedTuple):
    """The last words of a row of a model YAML."""

    prototypes: int = 32  # and coefficients of a slot
    width: int = 256  # channels before the prototypes; width_multiple scales them


class Prototypes(nn.Module):
    """The finest level, stride 8, to prototypes at stride 4."""

    def __init__(self, in_channels: int, given: Arguments, config: ModelConfig) -> None:
        super().__init__()
        width, activation = scaled_width(given.width, config), activation_maker(config.activation)
        self.before = Conv(in_channels, width, 3, activation=activation)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.behind = Conv(width, width, 3, activation=activation)
        self.mix = Conv(width, given.prototypes, activation=activation)

    def forward(self, finest: Tensor) -> Tensor:
        return self.mix(self.behind(self.upsample(self.before(finest))))


class Masks(Head):
    """What both heads with masks have beside the head that they come from, the next of their bases.

    Its outputs are ``coefficient`` ``[B, N, 32]`` and the map ``prototype`` ``[B, 32, H/4, W/4]`` beside those of that.
    """

    task = "segment"
    columns: dict[str, int | slice]
    words: tuple[str, ...] = ("nc",)  # of a row, before prototypes and width

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig, *arguments: Any
    ) -> None:
        given, more = read_arguments(type(self), arguments, strides)
        super().__init__(in_channels, strides, config, *arguments[: len(self.words)], **more)
        self.columns["coefficient"] = slice(-given.prototypes, None)
        self.prototypes = Prototypes(in_channels[0], given, config)

    @classmethod
    def planned(cls, in_channels: Sequence[int], config: ModelConfig, *arguments: Any, more: int = 0) -> Planned:
        """Those of the head without masks, and the prototype branch on the finest level.

        At stride 4 there are four times the cells: four times the parameters and channels on the cells of stride 8.
        """
        given, own = read_arguments(cls, arguments)
        levels: Planned = super().planned(in_channels, config, *arguments[: len(cls.words)], **own)
        width = scaled_width(given.width, config)
        large = 4 * (9 * width**2 + width * given.prototypes)
        levels[0] += [(9 * in_channels[0] * width, width), (large, 4 * max(width, given.prototypes))]
        return levels

    def forward(self, maps: list[Tensor]) -> Raw:
        return replace(super().forward(maps), maps={"prototype": self.prototypes(maps[0])})

    def predictions(self, raw: Raw, grid: Grid) -> Tensor:
        """``[B, N, 5+C+32]``: what the head without masks puts out, then the coefficients."""
        return torch.cat((super().predictions(raw, grid), raw["coefficient"]), dim=-1)

    def detections(self, raw: Raw, grid: Grid, options: DetectOptions) -> Detections:
        """Detections of one image, ``mask`` ``[K, H/4, W/4]`` float32 logits, not cropped to their boxes."""
        found, prototype = super().detections(raw, grid, options), raw["prototype"].float()
        assert found.mask is not None  # [K, 32]
        return found._replace(mask=torch.einsum("kc,chw->khw", found.mask, prototype))


class Segment(Masks, Detect):
    """YOLO's anchor head with masks; a row gives ``[nc, anchors, 32, 256]``, as YOLOv5's files do."""

    words = ("nc", "anchors")

    def class_rows(self) -> dict[str, ClassRows]:
        """The coefficients of an anchor are shared by all classes, as its box is."""
        behind = self.num_outputs - 5 - self.num_classes
        return {name: rows._replace(shared_behind=behind) for name, rows in super().class_rows().items()}


class SegmentFree(Masks, DetectFree):
    """The head without anchors, with masks, whose coefficients come from a third branch; a row is ``[nc, 32, 256]``."""


def read_arguments(
    head: type[Masks], arguments: Sequence[Any], strides: Sequence[int] = (2 * STRIDE,)
) -> tuple[Arguments, dict[str, int]]:
    """What a row says of masks, also as the head without masks is told it; ValueError where it does not fit."""
    own = arguments[len(head.words) :]
    given = Arguments(*own, *Arguments()[len(own) :]) if len(own) <= 2 else None
    if given is None or not all(type(number) is int and 1 <= number <= WIDTH for number in given):
        expected = f"[{', '.join(head.words)}, prototypes, width], both of 1 to {WIDTH:,}"
        raise ValueError(f"{head.__name__} takes {expected}, found {list(arguments)!r:.200}")
    if strides[0] != 2 * STRIDE:
        raise ValueError(f"{head.__name__} needs a finest level of stride {2 * STRIDE}, found strides {list(strides)}")
    return given, {"more": given.prototypes}
