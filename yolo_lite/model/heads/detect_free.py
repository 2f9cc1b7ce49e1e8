"""A head without anchors: one slot a cell, distances to the four sides of a box, and the classes.

B images, N slots, C classes, R bins of a distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_lite.config.model import ModelConfig
from yolo_lite.model.blocks.standard import Activation, Conv, activation_maker
from yolo_lite.model.heads.class_rows import ClassRows
from yolo_lite.model.heads.head import Head
from yolo_lite.ops.distances import decode_distances
from yolo_lite.ops.grid import Grid
from yolo_lite.structures import Raw

BINS = 16  # R - 1 = 15 cells to a side: 480 pixels on the coarsest level, an object of 960
MOST_BINS = 64
START = 2.0  # cells from the centre to each side of the first boxes
EXPECTED_OBJECTS = 8  # of a 640 px image


class Arguments(NamedTuple):
    """What the row ``[nc, R, depthwise]`` of a model YAML says."""

    bins: int = BINS  # R
    is_depthwise: bool = False  # in the class branch


class DetectFree(Head):
    """An anchor-free head with a branch for boxes and one for classes, and no objectness (as in arXiv:2108.07755).

    Each branch is two 3x3 convolutions and a 1x1 a level. Its outputs are ``box`` ``[B, N, 4R]`` and ``cls``
    ``[B, N, C]``, logits. A row gives ``[nc]``, then R, 1 for plain distances, then whether the class branch is
    depth-wise.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig, *arguments: Any, more: int = 0
    ) -> None:  # outputs of a third branch, of a subclass
        super().__init__(in_channels, strides, config)
        if config.anchors is not None:
            raise ValueError("DetectFree has no anchors: leave the key anchors out")
        given, activation = read_arguments(config.nc, arguments), activation_maker(config.activation)
        self.bins, num_box = given.bins, 4 * given.bins
        self.columns: dict[str, int | slice] = {"box": slice(0, num_box), "cls": slice(num_box, num_box + config.nc)}
        box, cls, own = branch_widths(in_channels[0], given, more)
        classes = (cls, config.nc, activation, given.is_depthwise)
        self.box = nn.ModuleList(conv_branch(channels, box, num_box, activation) for channels in in_channels)
        self.cls = nn.ModuleList(conv_branch(channels, *classes) for channels in in_channels)
        self.more = nn.ModuleList(conv_branch(channels, own, more, activation) for channels in in_channels if more)
        self._start_biases()

    @classmethod
    def planned(
        cls, in_channels: Sequence[int], config: ModelConfig, *arguments: Any, more: int = 0
    ) -> list[list[tuple[float, float]]]:
        given = read_arguments(config.nc, arguments)
        widths, outputs = branch_widths(in_channels[0], given, more), (4 * given.bins, config.nc, more)
        branches = [(width, number) for width, number in zip(widths, outputs, strict=True) if number]
        return [
            [(9 * (channels + width) * width + width * number, max(width, number)) for width, number in branches]
            for channels in in_channels
        ]

    def forward(self, maps: list[Tensor]) -> Raw:
        levels = [
            torch.cat([branch(x) for branch in branches], dim=1).permute(0, 2, 3, 1).flatten(1, 2)  # [B, H * W, 4R + C]
            for x, *branches in zip(maps, self.box, self.cls, *([self.more] if self.more else []), strict=True)
        ]
        return Raw(torch.cat(levels, dim=1), self.columns)

    def boxes(self, raw: Raw, grid: Grid, slot: Tensor | slice = slice(None)) -> Tensor:
        return decode_distances(raw["box"], grid.slots.select(slot))

    def scores(self, raw: Raw) -> Tensor:
        return raw["cls"].sigmoid()

    def likely(self, raw: Raw, confidence: float) -> Tensor:
        return (raw["cls"].amax(dim=-1).float().sigmoid() > confidence).nonzero().squeeze(1)

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(1, 0, 1)
        return {f"cls.{level}.2.{part}": rows for level in range(len(self.strides)) for part in ("weight", "bias")}

    @torch.no_grad()
    def _start_biases(self) -> None:
        """Start with about 8 objects a level of a 640 px image, evenly over classes, and with boxes 4 cells wide.

        The first is the prior of arXiv:1708.02002, section 3.3. Logits that fall by ln 1.5 a bin are a geometric
        distribution of mean 2; the softplus of ln(e^2 - 1) is 2.
        """
        for box, cls, stride in zip(self.box, self.cls, self.strides, strict=True):
            fall = math.log(1 + 1 / START) * torch.arange(self.bins)
            start = -fall if self.bins > 1 else torch.tensor([math.log(math.expm1(START))])
            box.get_parameter("2.bias").copy_(start.repeat(4))
            cls.get_parameter("2.bias").fill_(math.log(EXPECTED_OBJECTS / self.num_classes / (640 / stride) ** 2))


def read_arguments(num_classes: int, arguments: Sequence[Any]) -> Arguments:
    """The arguments of a row; ValueError where they do not fit."""
    nc, *own = arguments or ("nc",)
    bins, is_depthwise = (*own, *Arguments()[len(own) :])[:2]
    fits = type(bins) is int and 1 <= bins <= MOST_BINS and isinstance(is_depthwise, bool) and len(own) <= 2
    if not fits or nc not in ("nc", num_classes):
        expected = f"[nc, R, depthwise], R of 1 to {MOST_BINS} and true or false"
        raise ValueError(f"DetectFree takes {expected}, found {list(arguments)!r:.200}")
    return Arguments(bins, is_depthwise)


def branch_widths(finest: int, arguments: Arguments, more: int = 0) -> tuple[int, int, int]:
    """Channels of the box, the class and the third branch, the same on all levels, from those of the finest level.

    Classes have as many as the finest level, as in YOLOX (arXiv:2107.08430: 256 times the width). A box needs fewer:
    a quarter, but no fewer than it has outputs, nor than 16. Coarse levels have the wider maps, but few cells.
    """
    return max(finest // 4, 4 * arguments.bins, 16), finest, max(finest // 4, more, 16)


def conv_branch(
    in_channels: int, width: int, outputs: int, activation: Activation, is_depthwise: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, width):
        if is_depthwise:
            each = Conv(channels, channels, 3, groups=channels, activation=activation)
            layers.append(nn.Sequential(each, Conv(channels, width, activation=activation)))
        else:
            layers.append(Conv(channels, width, 3, activation=activation))
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 1))
