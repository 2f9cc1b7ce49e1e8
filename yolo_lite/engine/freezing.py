"""What stands still while the rest of a model learns: weights, for a run or its first epochs, and batch statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp


class Frozen(NamedTuple):
    """What the keys ``freeze``, ``freeze_epochs`` and ``freeze_norm`` name."""

    modules: Sequence[nn.Module] = ()  # that learn nothing
    parameters: Sequence[nn.Parameter] = ()  # of them, without those that never learn
    epochs: int = 0  # the first ones, in which that is so; 0 is the whole run
    norms: Sequence[nn.Module] = ()  # whose statistics stand still in any epoch

    def hold(self, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Freeze or release the modules for an epoch, counted from 0, of a model in training mode."""
        learns = 0 < self.epochs <= epoch
        for module in self.modules:
            module.train(learns)
        for parameter in self.parameters:
            parameter.requires_grad_(learns)
        if learns and "momentum" in optimizer.defaults:
            # Fused SGD wants the momentum of all parameters of a group or of none; from 0 the first step is the same.
            for parameter in self.parameters:
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        for norm in self.norms:
            norm.eval()


def frozen_by(hyp: Hyp, model: Any) -> Frozen:
    """What a run freezes of a network (engine/tasks.py); ConfigError where it has no such row, or freezes nothing."""
    modules = model.frozen(hyp.freeze)
    if hyp.freeze_epochs and not modules:
        raise ConfigError(f"freeze_epochs: expected 0 without freeze, found {hyp.freeze_epochs}")
    parameters = [each for module in modules for each in module.parameters() if each.requires_grad]
    backbone = model.frozen("backbone") if hyp.freeze_norm else []
    inner = [each for module in backbone for each in module.modules()]
    norms = [each for each in inner if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    return Frozen(modules, parameters, hyp.freeze_epochs, norms)
