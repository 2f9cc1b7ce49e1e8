"""Training at several sizes: the key ``multi_scale``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.nn import functional as F

from yolo_lite.ops.masks import STRIDE
from yolo_lite.ops.streams import Stream
from yolo_lite.structures import Batch


def multi_scaled(batches: Sequence[Batch], spread: float, stride: int, seed_and_step: tuple[int, int]) -> list[Batch]:
    """The batches of one step at a common random scale in 1 - spread .. 1 + spread, sides multiples of the stride.

    Images are floats ``[B, 3, H, W]``, resized on the device. The scale is a pure function of seed and step.
    """
    seed, step = seed_and_step
    scale = float(np.random.default_rng([seed, Stream.SCALE, step]).uniform(1 - spread, 1 + spread))
    return [_scaled(batch, scale, stride) for batch in batches]


def _scaled(batch: Batch, scale: float, stride: int) -> Batch:
    height, width = batch.images.shape[2:]
    size = [max(round(side * scale / stride), 1) * stride for side in (height, width)]
    if size == [height, width] or not len(batch.images):
        return batch
    images = F.interpolate(batch.images, size=size, mode="bilinear", align_corners=False)
    factors = batch.objects.box.new_tensor([size[1] / width, size[0] / height] * 2)
    objects = batch.objects._replace(box=batch.objects.box * factors)
    if objects.mask is not None:
        cells = [side // STRIDE for side in size]
        mask = F.interpolate(objects.mask[:, None].float(), size=cells, mode="bilinear", align_corners=False)[:, 0]
        objects = objects._replace(mask=(mask >= 0.5).to(objects.mask.dtype))
    return batch._replace(images=images, objects=objects)
