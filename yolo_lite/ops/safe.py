"""Arithmetic whose gradients stay finite at the edges."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``; 0, with a gradient of 0, where the denominator is below the smallest normal number.

    No epsilon is added: the result does not depend on the unit of what is divided.
    """
    tiny = torch.finfo(denominator.dtype).tiny
    return numerator.masked_fill(denominator < tiny, 0) / denominator.clamp(min=tiny)


def floored(values: Tensor, low: float) -> Tensor:
    """``values``, at least ``low``, with a gradient of 1 below it too: what clamp holds has none and stays there."""
    return torch.where(values < low, low + (values - values.detach()), values)


def safe_power(base: Tensor, exponent: float) -> Tensor:
    """``base ** exponent`` for a base >= 0 and an exponent > 0; 0 with a gradient of 0 at 0, whatever the exponent."""
    floor = torch.finfo(base.dtype).tiny if exponent >= 1 else 1e-12
    return base.clamp(min=floor).pow(exponent).masked_fill(base < floor, 0)
