"""Coordinate losses on encoded boxes: ``DELTA_LOSSES[name](predicted, target)``.

P pairs of deltas ``[P, 4]`` (dx, dy, dw, dh of a box against its anchor or proposal, arXiv:1311.2524, appendix C); the
losses come as ``[P]``, float32 (float64 for float64 deltas). For a two-stage detector: its deltas have no unit and the
size of the object is in them already.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of |d - g| over the four deltas."""
    return _difference(predicted, target).sum(dim=1)


def l2(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of (d - g)^2 over the four deltas (Girshick et al., arXiv:1311.2524, appendix C)."""
    return _difference(predicted, target).square().sum(dim=1)


def smooth_l1(predicted: Tensor, target: Tensor, *, beta: float = 1 / 9) -> Tensor:
    """l2 / (2 beta) below ``beta``, l1 - beta / 2 above (Girshick, arXiv:1504.08083, eq. 3; beta is torchvision's)."""
    difference = _difference(predicted, target)
    return torch.where(difference < beta, difference.square() / (2 * beta), difference - beta / 2).sum(dim=1)


def _difference(predicted: Tensor, target: Tensor) -> Tensor:
    """|d - g| ``[P, 4]``, at least in float32."""
    exact = torch.promote_types(predicted.dtype, torch.float32)
    return (predicted.to(exact) - target.to(exact)).abs()


DELTA_LOSSES: dict[str, Callable[..., Tensor]] = {"l1": l1, "l2": l2, "smooth_l1": smooth_l1}
