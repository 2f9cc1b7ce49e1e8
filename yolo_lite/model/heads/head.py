"""What a head is: from feature maps to named outputs, and what these mean.

B images, L levels, A anchors a level, N slots, C classes, H W input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_lite.config.model import ModelConfig
from yolo_lite.model.heads.class_rows import ClassRows
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.grid import Grid, make_grid
from yolo_lite.ops.nms import DetectOptions, select_detections
from yolo_lite.structures import Detections, Raw


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

    @classmethod
    def planned(
        cls, in_channels: Sequence[int], config: ModelConfig, *arguments: Any
    ) -> list[list[tuple[float, float]]]:
        """Parameters and output channels of the convolutions of each level, before any is built; a head may plan more.

        Raises:
            ValueError: as when it is built.
        """
        return [[(channels * config.nc, config.nc)] for channels in in_channels]

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

        mask = rows["coefficient"] if "coefficient" in rows.columns else None
        return select_detections(self.scores(rows), boxes_of, options, mask)
