"""The same as torch's operations to the bit, with a quicker backward pass on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SHORT = 64  # channels in bf16: below two vectors of AVX-512 a CPU's kernels work through a part of a map one by one


class SiLU(nn.SiLU):
    """In place where no backward pass follows; for that one torch would copy its input first."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x, inplace=not x.requires_grad)


def join(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``[B, C, H, W]`` of one size, joined along their channels."""
    # In float32 kernels for whole maps round otherwise than those for parts, and the copies take what they give.
    is_slow = all(each.device.type == "cpu" and each.dtype == torch.bfloat16 for each in maps)
    return _Join.apply(*maps) if is_slow and not torch.compiler.is_compiling() else torch.cat(list(maps), dim=1)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, *maps: Tensor) -> Tensor:
        context.channels = [each.shape[1] for each in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        layout = torch.channels_last if gradient.is_contiguous(memory_format=torch.channels_last) else None
        parts = gradient.split(context.channels, dim=1)
        return tuple(
            part.contiguous(memory_format=layout) if layout and part.shape[1] < SHORT else part for part in parts
        )
