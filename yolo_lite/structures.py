"""The plain data that flows between the rooms of yolo_lite.

B images in a batch, H W input size, N slots (anchors x cells of every level), C classes,
M targets in the batch, P matched pairs, K detections of one image.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Objects(NamedTuple):
    """The labelled objects of a batch, as parallel arrays."""

    image: Tensor  # [M] int64, which image of the batch
    label: Tensor  # [M] int64, class index
    box: Tensor  # [M, 4] float32, cxcywh in pixels of the network input


class Batch(NamedTuple):
    """What a loader yields: pictures, their objects, and how each picture was letterboxed."""

    images: Tensor  # [B, 3, H, W] uint8 RGB, channels-last in memory; as many channels as the dataset has
    objects: Objects
    position: Tensor  # [B] int64, row of each picture in its DatasetIndex
    original_size: Tensor  # [B, 2] int64, height and width of the picture file, in pixels
    letterbox: Tensor  # [B, 4] float64, scale_x scale_y left top (see yolo_lite.data.letterbox)


class Matches(NamedTuple):
    """Which slot learns which target; no (image, slot) pair occurs twice."""

    image: Tensor  # [P] int64, which image of the batch
    slot: Tensor  # [P] int64, index on the slot axis
    target: Tensor  # [P] int64, row of Objects


class LossParts(NamedTuple):
    """The three losses of a batch, gains applied; their sum is what is minimised."""

    box: Tensor  # []
    obj: Tensor  # []
    cls: Tensor  # []


class Detections(NamedTuple):
    """What was found in one picture, best score first."""

    box: Tensor  # [K, 4] float32, xyxy in pixels
    score: Tensor  # [K] float32 in 0..1
    label: Tensor  # [K] int64, class index
