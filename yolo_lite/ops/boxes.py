"""Box formats and what two aligned boxes have in common.

Inside yolo_lite a box is cxcywh in pixels of the network input. P aligned pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_lite.ops.safe import safe_ratio


def cxcywh_to_xyxy(box: Tensor) -> Tensor:
    """``[..., 4]`` centre and size to ``[..., 4]`` left, top, right, bottom."""
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(box: Tensor) -> Tensor:
    """``[..., 4]`` left, top, right, bottom to ``[..., 4]`` centre and size."""
    top_left, bottom_right = box[..., :2], box[..., 2:]
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def aligned_overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sides of the intersection and of the smallest enclosing box of each pair of cxcywh boxes ``[P, 4]``.

    From centres and sizes, not from corners: two equal boxes give their own sides exactly, wherever they lie, and
    their gradients with respect to a side are 1/2 each, so that every IoU has a zero gradient at a perfect match.

    Returns:
        Widths and heights ``[P, 2]`` of the intersection, 0 where there is none, and of the enclosing box.
    """
    distance = (a[:, :2] - b[:, :2]).abs()
    size_a, size_b = a[:, 2:], b[:, 2:]
    mean_size = (size_a + size_b) / 2
    contained = distance <= (size_a - size_b).abs() / 2  # along this axis
    overlap = torch.where(contained, torch.minimum(size_a, size_b), mean_size - distance)
    overlap = torch.where(overlap < 0, 0, overlap)  # not clamp, which has no gradient at 0: a side of 0 may grow
    enclosing = torch.where(contained, torch.maximum(size_a, size_b), mean_size + distance)
    return overlap, enclosing


def aligned_union(a: Tensor, b: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Areas ``[P]`` of intersection and union of cxcywh boxes ``[P, 4]`` whose intersection has sides ``overlap``."""
    intersection = overlap[:, 0] * overlap[:, 1]
    return intersection, a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - intersection


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each pair of cxcywh boxes ``[P, 4]``, ``[P]`` in 0..1; 0 where the union is empty."""
    return safe_ratio(*aligned_union(a, b, aligned_overlap(a, b)[0]))
