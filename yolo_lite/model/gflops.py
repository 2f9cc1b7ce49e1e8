"""What a network costs to compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from yolo_lite.model.builder import dry_run


def gflops(detector: Any, image_size: int) -> float:
    """Operations (10^9) of convolutions and linear layers for an image; a multiplication and an addition are two.

    Of an attention its linear layers count, not the products between cells, which are few at the coarsest level.

    Their number grows with the area: it is counted on a small image. (torch's counter gives the same, but imports
    torch's compiler, which takes more than a second.)
    """
    side, operations = 2 * detector.stride, 0

    def count(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal operations
        found: Tensor = output[0] if isinstance(output, tuple) else output  # of an attention, with its weights
        weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
        operations += 2 * found.numel() // len(weights[-1]) * sum(weight.numel() for weight in weights)

    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    counted = [module for module in detector.modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_hook(count) for module in counted]
    dry_run(detector, torch.zeros(1, detector.config.ch, side, side, device=next(counted[0].parameters()).device))
    for hook in hooks:
        hook.remove()
    return operations * (image_size / side) ** 2 / 1e9
