"""The plain data that flows between the rooms of yolo_lite.

B images in a batch, H W input size, N slots of a head, C classes, M objects in the batch, P matched pairs,
K detections of one image. A slot is a place of the head's output that can hold one detection.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

Losses = dict[str, Tensor]  # scalars by the names of a criterion, gains applied; their sum is what is minimised


class Compute(NamedTuple):
    """Where and how the network is computed."""

    device: torch.device
    dtype: torch.dtype  # of the convolutions; float32 means no autocast
    memory_format: torch.memory_format

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Mixed precision for a forward pass, nothing for float32."""
        is_mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype) if is_mixed else contextlib.nullcontext()

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        layout = "channels-last" if self.memory_format == torch.channels_last else "contiguous"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}, {layout}, torch {torch.__version__}"


def _by_column(table: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return table._make(None if column is None else change(column) for column in table)


class Objects(NamedTuple):
    """The labelled objects of a batch, as parallel arrays."""

    image: Tensor  # [M] int64, which image of the batch
    label: Tensor  # [M] int64, class index
    box: Tensor  # [M, 4] float32, cxcywh in pixels of the network input
    mask: Tensor | None = None  # [M, H/4, W/4] uint8, where the task learns masks

    def select(self, rows: Tensor) -> Objects:
        """Some of the objects, by index or by a mask of bools."""
        return _by_column(self, lambda column: column[rows])

    def to(self, device: torch.device) -> Objects:
        return _by_column(self, lambda column: column.to(device, non_blocking=True))


class Batch(NamedTuple):
    """What a loader yields: images, their objects, and how each image was letterboxed."""

    images: Tensor  # [B, 3, H, W] uint8 RGB, channels-last in memory; as many channels as the dataset has
    objects: Objects
    position: Tensor  # [B] int64, row of each image in its DatasetIndex
    original_size: Tensor  # [B, 2] int64, height and width of the image file, in pixels
    letterbox: Tensor  # [B, 4] float64, scale_x scale_y left top (see yolo_lite.data.letterbox)
    unreadable: Sequence[tuple[int, str]] = ()  # rows of images that are not there or were replaced, and why

    def to(self, compute: Compute) -> Batch:
        """The batch on the device, images as floats in 0..1 in the model's memory format."""
        return self._replace(images=as_floats(self.images, compute), objects=self.objects.to(compute.device))


def as_floats(images: Tensor, compute: Compute) -> Tensor:
    """Images uint8 ``[B, 3, H, W]`` as the network reads them: floats in 0..1, on its device."""
    images = images.to(compute.device, non_blocking=True)
    return images.to(dtype=torch.float32, memory_format=compute.memory_format).div_(255)


@dataclass
class Raw:
    """What a head puts out, by name: ``raw["box"]`` is a view of one tensor, whose columns no other room counts.

    A value of ``columns`` that is a slice keeps the axis, ``[B, N, 4]``; a number drops it, ``[B, N]``.
    """

    slots: Tensor  # [B, N, all columns] logits, any float type
    columns: Mapping[str, int | slice]
    maps: Mapping[str, Tensor] = field(default_factory=dict)  # outputs that belong to images, not to slots

    def __getitem__(self, name: str) -> Tensor:
        return self.maps[name] if name in self.maps else self.slots[..., self.columns[name]]

    def select(self, *rows: Tensor | int) -> Raw:
        """The outputs of an image, by number, or of some slots: ``raw.select(image, slot)`` gives ``[P, ...]``."""
        maps = {name: each[rows[0]] for name, each in self.maps.items()} if isinstance(rows[0], int) else self.maps
        return replace(self, slots=self.slots[rows], maps=maps)

    def float(self) -> Raw:
        return replace(self, slots=self.slots.float())


class Predictions(NamedTuple):
    """What a network predicts for every slot, without gradient, for assigners that go by it."""

    box: Tensor  # [B, N, 4] float32, cxcywh in pixels of the network input
    score: Tensor  # [B, N, C] float32 in 0..1
    reach: float = math.inf  # how many cells a side of a box may lie from the centre of its slot


class Matches(NamedTuple):
    """Which slot learns which object; no (image, slot) pair occurs twice."""

    image: Tensor  # [P] int64, which image of the batch
    slot: Tensor  # [P] int64, index on the slot axis
    target: Tensor  # [P] int64, row of Objects
    score: Tensor  # [P] float32, how much the pair counts; 1 where an assigner does not grade its pairs


class Detections(NamedTuple):
    """What was found in one image, best score first."""

    box: Tensor  # [K, 4] float32, xyxy in pixels
    score: Tensor  # [K] float32 in 0..1
    label: Tensor  # [K] int64, class index
    mask: Tensor | None = None  # [K, h, w], where the task finds masks

    def select(self, rows: Tensor | slice) -> Detections:
        """Some of the detections, by index, by a slice or by a mask of bools."""
        return _by_column(self, lambda column: column[rows])
