"""Batch normalisation and SiLU as one step of training on a CPU, in less memory and to the same bits.

For the backward pass torch keeps what comes into the normalisation and a copy of what comes into the activation. The
second follows from the first: it is computed anew here, with the same kernel and the same scale and shift.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ATEN = torch.ops.aten


def normalised(x: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
    """``activation(norm(x))`` of a map ``[B, C, H, W]``, by ``_NormSiLU`` where that does the same with less memory."""
    if type(norm) is not nn.BatchNorm2d or not _is_training_on_cpu(x, norm) or not _are_plain(norm, activation):
        found: Tensor = activation(norm(x))
        return found
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return _NormSiLU.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps)


def _is_training_on_cpu(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Elsewhere torch has better kernels or keeps nothing; a single value a channel it refuses in its own words."""
    is_training = norm.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return is_training and x.device.type == "cpu" and x.numel() > x.shape[1]


def _are_plain(norm: nn.BatchNorm2d, activation: nn.Module) -> bool:
    """Whether it is the usual normalisation and SiLU, and nobody has asked to hear of either (hooks of modules)."""
    hooks = (each for module in (norm, activation) for name, each in vars(module).items() if name.endswith("_hooks"))
    is_usual = norm.affine and norm.track_running_stats and norm.momentum is not None
    return type(activation) is nn.SiLU and is_usual and not any(hooks)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
    ) -> Tensor:
        """Normalise by the statistics of the batch, which also move the running ``mean`` and ``var`` ``[C]``."""
        out, batch_mean, batch_rstd = _ATEN.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        context.save_for_backward(x, weight, bias, batch_mean, batch_rstd)
        context.eps = eps
        return _ATEN.silu_(out)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = context.saved_tensors
        # In evaluation the kernel scales by weight / sqrt(var + eps): with var 1 and eps 0 by what it is given.
        one = torch.ones_like(mean)
        out = _ATEN.native_batch_norm(x, weight * rstd, bias, mean, one, False, 0.0, 0.0)[0]
        _ATEN.silu_backward.grad_input(gradient, out, grad_input=out)
        wanted = context.needs_input_grad[:3]
        found = _ATEN.native_batch_norm_backward(out, x, weight, None, None, mean, rstd, True, context.eps, wanted)
        return (*found, None, None, None, None)
