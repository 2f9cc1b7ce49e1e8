"""YOLO's anchor head."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.model import ModelConfig
from yolo_lite.model.heads.class_rows import ClassRows
from yolo_lite.model.heads.head import Head
from yolo_lite.ops.grid import Grid, decode_anchors
from yolo_lite.structures import Raw

COLUMNS: dict[str, int | slice] = {"box": slice(0, 4), "obj": 4, "cls": slice(5, None)}


class Detect(Head):
    """YOLO's anchor head, one biased 1x1 convolution a level.

    Its outputs are ``box`` ``[B, N, 4]``, ``obj`` ``[B, N]`` and ``cls`` ``[B, N, C]``, all logits. A row gives
    no arguments, or the words nc and anchors, as YOLOv5's files do.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig, *arguments: Any, more: int = 0
    ) -> None:  # as many outputs of a slot more, of a subclass
        super().__init__(in_channels, strides, config)
        if arguments and (arguments[0] not in ("nc", config.nc) or arguments[1:] not in ((), ("anchors",))):
            raise ValueError(f"Detect takes [nc, anchors], the words for the file's own keys, found {list(arguments)}")
        self.anchors = nn.Buffer(checked_anchors(config, self.strides))  # [L, A, 2] pixels
        self.num_outputs = 5 + self.num_classes + more
        self.columns: dict[str, int | slice] = COLUMNS | {"cls": slice(5, 5 + self.num_classes)}
        width = self.anchors.shape[1] * self.num_outputs
        self.heads = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self._start_biases()

    @classmethod
    def planned(
        cls, in_channels: Sequence[int], config: ModelConfig, *arguments: Any, more: int = 0
    ) -> list[list[tuple[float, float]]]:
        anchors = config.anchors if isinstance(config.anchors, int) else len((config.anchors or [[0, 0]])[0]) // 2
        width = anchors * (5 + config.nc + more)
        return [[(channels * width, width)] for channels in in_channels]

    def forward(self, maps: list[Tensor]) -> Raw:
        levels = [head(x) for head, x in zip(self.heads, maps, strict=True)]  # [B, A*(5+C), H, W] each
        # In channels-last memory the permutation undoes itself: the reshape is a view.
        slots = [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, self.num_outputs) for level in levels]
        return Raw(torch.cat(slots, dim=1), self.columns)

    def boxes(self, raw: Raw, grid: Grid, slot: Tensor | slice = slice(None)) -> Tensor:
        return decode_anchors(raw["box"].contiguous(), grid.slots.select(slot))

    def scores(self, raw: Raw) -> Tensor:
        return raw["obj"][..., None].sigmoid() * raw["cls"].sigmoid()

    def likely(self, raw: Raw, confidence: float) -> Tensor:
        """A score is at most its objectness: most slots go before anything is computed for their classes."""
        return (raw["obj"].float().sigmoid() > confidence).nonzero().squeeze(1)

    def predictions(self, raw: Raw, grid: Grid) -> Tensor:
        box = decode_anchors(raw["box"], grid.slots)
        return torch.cat((box, raw["obj"][..., None].sigmoid(), raw["cls"].sigmoid()), dim=-1)

    def anchor_sizes(self) -> Tensor:
        return self.anchors

    def class_rows(self) -> dict[str, ClassRows]:
        """Each anchor has four rows for its box and one for its objectness, then one a class."""
        rows = ClassRows(self.anchors.shape[1], 5, 1)
        return {f"heads.{level}.{part}": rows for level in range(len(self.strides)) for part in ("weight", "bias")}

    @torch.no_grad()
    def _start_biases(self) -> None:
        """Start with about 8 objects a 640 px image and evenly rare classes (the prior of arXiv:1708.02002, 3.3)."""
        for head, stride in zip(self.heads, self.strides, strict=True):
            bias = head.get_parameter("bias").view(-1, self.num_outputs)  # [A, 5+C]
            bias[:, COLUMNS["obj"]] += math.log(8 / (640 / stride) ** 2)
            bias[:, self.columns["cls"]] += math.log(0.6 / (self.num_classes - 0.99999))


def checked_anchors(config: ModelConfig, strides: Sequence[int]) -> Tensor:
    """Anchor widths and heights in pixels, ``[L, A, 2]``.

    A count instead of sizes gives squares from 2 strides upwards, spread over two octaves: 2, 3.2, 5 strides for 3.
    ValueError where there are none, or not one list for each level, ConfigError where they are not small to large.
    """
    sizes = config.anchors
    if sizes is None:
        raise ValueError("needs the key anchors: a list of [w, h, w, h, ...] for each level, or a number of anchors")
    if isinstance(sizes, int):
        factors = [2.0 * 4.0 ** (index / sizes) for index in range(sizes)]
        return torch.tensor([[[stride * factor] * 2 for factor in factors] for stride in strides])
    if len(sizes) != len(strides):
        raise ValueError(f"Detect reads {len(strides)} levels but anchors are given for {len(sizes)}")
    areas = [sum(map(operator.mul, level[::2], level[1::2])) for level in sizes]
    if areas != sorted(areas):
        raise ConfigError(f"anchors: expected small to large, as the strides {list(strides)} go, found {sizes}")
    return torch.tensor(sizes).reshape(len(sizes), -1, 2)
