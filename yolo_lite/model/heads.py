"""The heads that a model YAML may end with, ``HEADS``: from feature maps to named outputs, and what these mean.

B images, L levels, A anchors a level, N slots, C classes, H W input size.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.model import ModelConfig
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.grid import Grid, decode_anchors, make_grid
from yolo_lite.ops.nms import DetectOptions, select_detections
from yolo_lite.structures import Detections, Raw

COLUMNS: dict[str, int | slice] = {"box": slice(0, 4), "obj": 4, "cls": slice(5, None)}


class ClassRows(NamedTuple):
    """How the rows of a tensor belong to classes: in each group some are shared by all, the others follow by class."""

    num_groups: int
    shared: int
    per_class: int

    def count(self, num_classes: int) -> int:
        """Rows of a tensor for so many classes."""
        return self.num_groups * (self.shared + num_classes * self.per_class)

    def of(self, classes: Sequence[int], num_classes: int) -> list[int]:
        """The shared rows and those of some classes, group by group."""
        own = [self.shared + each * self.per_class + row for each in classes for row in range(self.per_class)]
        size = self.shared + num_classes * self.per_class
        return [group * size + row for group in range(self.num_groups) for row in (*range(self.shared), *own)]


class Head(nn.Module):
    """The base of every head; a subclass writes ``__init__``, ``forward``, ``boxes`` and ``scores``.

    Attributes:
        task: name of the task (``TASKS``) that a model with this head is trained for, unless its YAML names another.
        strides: pixels a cell of each level, ascending.
        num_classes: C.
    """

    task = "detect"

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig, *arguments: Any
    ) -> None:
        """Build the head from channels and strides of the levels, the whole model YAML, and the arguments of its row.

        Raises:
            ValueError: the arguments do not fit; the message says what was expected.
        """
        super().__init__()
        self.strides, self.num_classes = tuple(strides), config.nc
        self._grids: dict[tuple[int, int, torch.device], Grid] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What copies have: grids are made anew."""
        return {**self.__dict__, "_grids": {}}

    def forward(self, maps: list[Tensor]) -> Raw:
        """Outputs of a batch from the feature maps ``[B, in_channels, H / stride, W / stride]`` of the levels."""
        raise NotImplementedError

    def boxes(self, raw: Raw, grid: Grid, slot: Tensor | slice = slice(None)) -> Tensor:
        """Boxes cxcywh in pixels, ``[..., 4]`` float32, of outputs that belong to these slots of the grid."""
        raise NotImplementedError

    def scores(self, raw: Raw) -> Tensor:
        """Scores of the classes in 0..1, ``[..., C]`` float32, by which detections are ranked."""
        raise NotImplementedError

    def likely(self, raw: Raw, confidence: float) -> Tensor:
        """Slots ``[S]`` of one image that may score above ``confidence``; all, where a head knows no short cut."""
        return torch.arange(raw.slots.shape[0], device=raw.slots.device)

    def predictions(self, raw: Raw, grid: Grid) -> Tensor:
        """What an exported file puts out, ``[B, N, 5+C]``: cxcywh in pixels, objectness, classes (YOLOv5's layout).

        The score of a class is objectness times class: a head without objectness has ones there.
        """
        box, score = self.boxes(raw, grid), self.scores(raw)
        return torch.cat((box, torch.ones_like(score[..., :1]), score), dim=-1)

    def anchor_sizes(self) -> Tensor:
        """Anchors ``[L, A, 2]`` in pixels; those of a head without anchors are its cells."""
        device = next(self.parameters()).device
        return torch.tensor([[[stride, stride]] for stride in self.strides], dtype=torch.float32, device=device)

    def class_rows(self) -> dict[str, ClassRows]:
        """The tensors of ``state_dict`` whose rows belong to classes: they follow the classes by name in a new run."""
        return {}

    def grid(self, height: int, width: int) -> Grid:
        """The slots for inputs of this size in pixels, made once and kept."""
        anchors = self.anchor_sizes()
        key = (height, width, anchors.device)
        if key not in self._grids:
            self._grids[key] = make_grid(anchors, self.strides, height, width)
        return self._grids[key]

    def detections(self, raw: Raw, grid: Grid, options: DetectOptions) -> Detections:
        """Detections of one image, boxes xyxy in pixels of the network input."""
        slot = self.likely(raw, options.confidence)
        rows = raw.select(slot).float()

        def boxes_of(row: Tensor, label: Tensor) -> Tensor:
            return cxcywh_to_xyxy(self.boxes(rows.select(row), grid, slot[row]))

        return select_detections(self.scores(rows), boxes_of, options)


class Detect(Head):
    """YOLO's anchor head, one biased 1x1 convolution a level.

    Its outputs are ``box`` ``[B, N, 4]``, ``obj`` ``[B, N]`` and ``cls`` ``[B, N, C]``, all logits. A row gives
    no arguments, or the words nc and anchors, as YOLOv5's files do.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: ModelConfig, *arguments: Any
    ) -> None:
        super().__init__(in_channels, strides, config)
        if arguments and (arguments[0] not in ("nc", config.nc) or arguments[1:] not in ((), ("anchors",))):
            raise ValueError(f"Detect takes [nc, anchors], the words for the file's own keys, found {list(arguments)}")
        self.anchors = nn.Buffer(checked_anchors(config, self.strides))  # [L, A, 2] pixels
        self.num_outputs = 5 + self.num_classes
        width = self.anchors.shape[1] * self.num_outputs
        self.heads = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self._start_biases()

    def forward(self, maps: list[Tensor]) -> Raw:
        levels = [head(x) for head, x in zip(self.heads, maps, strict=True)]  # [B, A*(5+C), H, W] each
        # In channels-last memory the permutation undoes itself: the reshape is a view.
        slots = [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, self.num_outputs) for level in levels]
        return Raw(torch.cat(slots, dim=1), COLUMNS)

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
            bias[:, COLUMNS["cls"]] += math.log(0.6 / (self.num_classes - 0.99999))


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


HEADS: dict[str, type[Head]] = {"Detect": Detect}  # each has a criterion of the same name in CRITERIA
