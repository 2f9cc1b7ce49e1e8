"""Parameter groups, learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from yolo_lite.config.hyp import Hyp

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: Any, weight_decay: float, backbone_lr: float = 1.0) -> list[dict[str, object]]:
    """Named groups: ``weights`` decay, ``norms`` and ``biases`` do not; the backbone's apart where its rate differs."""
    slower = model.frozen("backbone") if backbone_lr != 1 else []
    of_backbone = {id(parameter) for module in slower for parameter in module.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "norms": [], "biases": []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = "biases" if name.endswith("bias") else "norms" if isinstance(module, NORMS) else "weights"
            groups.setdefault(f"backbone_{kind}" if id(parameter) in of_backbone else kind, []).append(parameter)
    decay = {name: weight_decay if name.endswith("weights") else 0.0 for name in groups}
    factor = {name: {"lr_factor": backbone_lr} if name.startswith("backbone_") else {} for name in groups}
    return [{"name": name, "params": groups[name], "weight_decay": decay[name], **factor[name]} for name in groups]


def make_optimizer(model: nn.Module, hyp: Hyp) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW with ``momentum`` as beta1."""
    groups = parameter_groups(model, hyp.weight_decay, hyp.backbone_lr)
    # One fused pass over all parameters: on a CPU five times quicker than torch's default for AdamW.
    options: dict[str, Any] = {"lr": hyp.lr0, "fused": next(model.parameters()).device.type in ("cpu", "cuda")}
    if hyp.optimizer == "AdamW":
        return _uncompiled(torch.optim.AdamW)(groups, betas=(hyp.momentum, 0.999), **options)
    return _uncompiled(torch.optim.SGD)(groups, momentum=hyp.momentum, nesterov=hyp.momentum > 0, **options)


def _uncompiled(kind: type[torch.optim.Optimizer]) -> Any:
    """The class without the wrapper against torch.compile: it imports the compiler, which takes over a second."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})


class Plan(NamedTuple):
    """How many optimizer steps a run has."""

    batches_per_epoch: int
    batches_per_step: int  # accumulated; the last step of an epoch may hold fewer
    epochs: int
    first_epochs: int | None = None  # that the run was started with, where it was given more or fewer later

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.batches_per_epoch // self.batches_per_step)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def warmup_steps(self, hyp: Hyp) -> int:
        """``warmup_epochs``, but at most a quarter of the run as it was first planned: there is no second warm-up."""
        first_steps = self.steps_per_epoch * (self.first_epochs or self.epochs)
        return min(round(hyp.warmup_epochs * self.steps_per_epoch), first_steps // 4)


def accumulated_batches(hyp: Hyp, batch_size: int) -> int:
    """Batches whose gradients are averaged into one optimizer step."""
    return max(round(hyp.nominal_batch / batch_size), 1)


class Rates(NamedTuple):
    """What the schedule sets before a step."""

    lr: float  # of weights and norms
    bias_lr: float
    momentum: float


def rates(step: int, plan: Plan, hyp: Hyp) -> Rates:
    """Learning rates and momentum of a step, a pure function of its number.

    Linear or cosine from ``lr0`` to ``lr0 * lrf`` over the run. While warming up, weights come linearly from 0, biases
    from ``warmup_bias_lr`` and momentum from ``warmup_momentum``.
    """
    done = step / max(plan.steps - 1, 1)
    fall = (1 + math.cos(math.pi * done)) / 2 if hyp.cos_lr else 1 - done
    lr = hyp.lr0 * (hyp.lrf + (1 - hyp.lrf) * fall)
    warmup = plan.warmup_steps(hyp)
    if step >= warmup:
        return Rates(lr, lr, hyp.momentum)
    part = (step + 1) / (warmup + 1)
    bias_lr = hyp.warmup_bias_lr + part * (lr - hyp.warmup_bias_lr)
    return Rates(lr * part, bias_lr, hyp.warmup_momentum + part * (hyp.momentum - hyp.warmup_momentum))


def set_rates(optimizer: torch.optim.Optimizer, now: Rates) -> None:
    """Write the schedule into the groups, found by name."""
    for group in optimizer.param_groups:
        lr = now.bias_lr if group["name"].endswith("biases") else now.lr
        group["lr"] = lr * group.get("lr_factor", 1.0)
        if "momentum" in group:
            group["momentum"] = now.momentum
        else:
            group["betas"] = (now.momentum, group["betas"][1])


def average_decay(updates: int, ema_decay: float) -> float:
    """Decay of the moving average after so many updates: (1 + n) / (10 + n), at most ``ema_decay``.

    The ramp (TensorFlow's ExponentialMovingAverage) averages over about the last tenth of what a short run has seen.
    """
    return min(ema_decay, (1 + updates) / (10 + updates))


class MovingAverage(AveragedModel):
    """The exponential moving average of parameters and buffers; ``module`` is the averaged network."""

    module: Any  # a Network (engine/tasks.py)

    def __init__(self, model: nn.Module, ema_decay: float) -> None:
        super().__init__(model, use_buffers=True)
        del self.multi_avg_fn  # for the method, which, kept here, would hold this memory until garbage is collected
        self.ema_decay = ema_decay
        self.eval().requires_grad_(False)

    def multi_avg_fn(self, averaged: Any, current: Any, _: Any) -> None:
        if averaged[0].is_floating_point():
            decay = average_decay(int(self.n_averaged), self.ema_decay)
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # counters, such as num_batches_tracked
            torch._foreach_copy_(averaged, current)
