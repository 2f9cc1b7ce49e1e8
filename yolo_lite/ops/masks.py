"""Masks of objects: in boxes, and from the network's output to the pixels of the image file.

K masks of h x w cells, each ``STRIDE`` pixels of the network input wide; the image file has H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

STRIDE = 4  # pixels of the network input a cell of a mask


def inside(box: Tensor, height: int, width: int) -> Tensor:
    """Which cells have their middle in a box ``[K, 4]``, xyxy in cells, ``[K, height, width]`` bool."""
    left, top, right, bottom = box[:, :, None].unbind(dim=1)  # [K, 1] each
    x, y = (torch.arange(size, device=box.device) + 0.5 for size in (width, height))
    return ((y >= top) & (y <= bottom))[:, :, None] & ((x >= left) & (x <= right))[:, None, :]


def rle_on_image(
    logits: Tensor, box: Tensor, letterbox: Sequence[float], height: int, width: int
) -> list[dict[str, Any]]:
    """Masks in the image file as compressed RLE of COCO, ``{"size": [height, width], "counts": bytes}``.

    Logits are made larger linearly; a pixel belongs to a mask where they are > 0 and its middle is in the box. Only the
    pixels in the boxes are ever written out.

    Args:
        logits: ``[K, h, w]``, at stride 4 of the network input.
        box: ``[K, 4]`` xyxy in pixels of the image file.
        letterbox: ``scale_x, scale_y, left, top`` of the image in the network input.
    """
    from faster_coco_eval.core import mask as coco_mask  # no detector waits for it

    if not len(box):
        return []
    windows = _windows(logits, box, letterbox, height, width)
    plain = [{"size": [height, width], "counts": _counts(*window, height, width)} for window in windows]
    return coco_mask.frPyObjects(plain, height, width)


def _windows(
    logits: Tensor, box: Tensor, letterbox: Sequence[float], height: int, width: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Left, top and pixels ``[rows, columns]`` bool of each mask, those with their middle in the box.

    Interpolation is linear along each axis, a matrix of weights each of the cells that the box needs, exact in float32;
    behind the outermost cells their values go on.
    """
    scale_x, scale_y, left, top = map(float, letterbox)
    limit = np.array([width, height, width, height])
    edges = np.ceil(np.nan_to_num(box.detach().double().cpu().numpy()) - 0.5).clip(0, limit).astype(int)
    rows, columns = (
        _weights(edges[:, 1::2], scale_y, top, logits.shape[1]),
        _weights(edges[:, ::2], scale_x, left, logits.shape[2]),
    )
    for mask, (x, y), (row, down), (column, across) in zip(
        logits.detach().float().cpu().numpy(), edges[:, :2].tolist(), rows, columns, strict=True
    ):
        cells = mask[row : row + down.shape[1], column : column + across.shape[1]]
        yield x, y, down @ cells @ across.T > 0


def _weights(spans: np.ndarray, scale: float, offset: float, cells: int) -> Iterator[tuple[int, np.ndarray]]:
    """The first cell that each span ``[K, 2]`` of pixels of an axis needs, and weights ``[pixels, needed]``."""
    start, end = spans.min(), spans.max()
    place = (((np.arange(start, end) + 0.5) * scale + offset) / STRIDE - 0.5).clip(0, cells - 1)
    weights = np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0).astype(np.float32)
    for first, last in (spans - start).tolist():
        low, high = (int(place[first]), min(int(place[last - 1]) + 2, cells)) if first < last else (0, 0)
        yield low, weights[first:last, low:high]


def _counts(left: int, top: int, part: np.ndarray, height: int, width: int) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, down the columns of the image, from the pixels of a window."""
    padded = np.zeros((part.shape[1], part.shape[0] + 2), bool)  # a column a row, 0 above and below
    padded[:, 1:-1] = part.T
    flat = padded.ravel()
    column, row = np.divmod(
        np.flatnonzero(flat[1:] != flat[:-1]), padded.shape[1]
    )  # where a run starts, and behind its end
    place = (left + column) * height + top + row
    # A run that ends with its column goes on where the next column begins with one: the two edges are one place.
    goes_on = np.flatnonzero(place[1:] == place[:-1])
    if len(goes_on):
        place = np.delete(place, [goes_on, goes_on + 1])
    counts = np.diff(place, prepend=0, append=height * width).tolist()
    return counts if counts[-1] else counts[:-1]  # COCO ends with the last run
