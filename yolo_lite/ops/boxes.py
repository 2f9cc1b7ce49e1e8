"""Box formats and the IoU family on aligned pairs of boxes.

Inside yolo_lite a box is cxcywh in pixels of the network input. P aligned pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Pixels; below it the gradient of a predicted box's aspect, 1 / (w^2 + h^2), would overflow.
SMALLEST_SIDE = 1e-6


def cxcywh_to_xyxy(box: Tensor) -> Tensor:
    """``[..., 4]`` centre and size to ``[..., 4]`` left, top, right, bottom."""
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(box: Tensor) -> Tensor:
    """``[..., 4]`` left, top, right, bottom to ``[..., 4]`` centre and size."""
    top_left, bottom_right = box[..., :2], box[..., 2:]
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each pair of cxcywh boxes ``[P, 4]``, ``[P]`` in 0..1; 0 where the union is empty."""
    # Overlap from centres and sizes: two equal boxes give exactly w*h, whatever rounding their corners have.
    distance = (a[:, :2] - b[:, :2]).abs()
    overlap = ((a[:, 2:] + b[:, 2:]) / 2 - distance).minimum(a[:, 2:]).minimum(b[:, 2:]).clamp(min=0)
    intersection = overlap[:, 0] * overlap[:, 1]
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def aligned_ciou(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Complete IoU (Zheng et al., arXiv:1911.08287, eq. 10) and IoU of cxcywh boxes ``[P, 4]``, both ``[P]``.

    CIoU = IoU - rho^2 / c^2 - alpha * v lies in [-1.5, 1]; alpha is constant in backward, as its authors have it.
    Denominators are clamped rather than shifted by an epsilon, so equal boxes of any size give exactly 1, and
    ``atan2`` keeps the gradient finite where a predicted width or height is 0.
    """
    tiny = torch.finfo(predicted.dtype).tiny
    iou = aligned_iou(predicted, target)
    offset = predicted[:, :2] - target[:, :2]
    mean_size = (predicted[:, 2:] + target[:, 2:]) / 2
    enclosing = (offset.abs() + mean_size).maximum(predicted[:, 2:]).maximum(target[:, 2:])  # [P, 2]
    distance = offset.square().sum(dim=1) / enclosing.square().sum(dim=1).clamp(min=tiny)
    width, height = predicted[:, 2:].clamp(min=SMALLEST_SIDE).unbind(dim=1)
    angle = torch.atan2(target[:, 2], target[:, 3]) - torch.atan2(width, height)
    v = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        alpha = v / (1 - iou + v).clamp(min=tiny)
    return iou - distance - alpha * v, iou
