"""Everything a run changes while it goes on, and how it comes into a checkpoint and out of it again.

No random generator is among it: each sample draws from a generator of its own, seeded by (seed, epoch, index), and each
step seeds torch's by (seed, step). Where a run stands is therefore all that a resumed one needs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolo_lite.config.hyp import Hyp
from yolo_lite.config.run import RunConfig, SavePeriod
from yolo_lite.engine.checkpoint_fields import check_state
from yolo_lite.engine.freezing import Frozen, frozen_by
from yolo_lite.engine.optimizer import MovingAverage, make_optimizer
from yolo_lite.loss.criteria import Criterion
from yolo_lite.structures import Compute

PARTS = ("model", "optimizer", "scaler")  # of a state, which last.pt holds by these names
NUMBERS = ("epoch", "step", "best_fitness", "best_epoch")


@dataclass
class Tally:
    """What the epoch under way has come to."""

    losses: Tensor  # by the names of the criterion; sums over the steps that counted, on the device
    norm: Tensor  # [] sum of the gradient's lengths before clipping
    steps: int = 0  # optimizer steps done, skipped ones too
    skipped: int = 0  # not taken, because loss or gradient were not finite
    skipped_in_a_row: int = 0  # goes on over the end of the epoch

    def means(self) -> list[float]:
        """Mean losses, by the names of the criterion, and mean length of the gradient."""
        counted = max(self.steps - self.skipped, 1)
        return (torch.cat((self.losses, self.norm[None])) / counted).tolist()


@dataclass
class State:
    """Everything a run changes; a checkpoint holds all of it."""

    model: Any  # a Network (engine/tasks.py) that is an nn.Module
    criterion: Criterion
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    tally: Tally
    frozen: Frozen
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done, skipped ones too
    best_fitness: float = -1.0
    best_epoch: int = 0  # counted from 1
    rows: list[dict[str, float]] = field(default_factory=list)  # the figures of each whole epoch

    def in_training(self) -> None:
        """Everything in training mode but what is frozen in this epoch: its batch statistics stand still too."""
        self.model.train()
        self.criterion.train()
        self.frozen.hold(self.epoch, self.optimizer)

    def averaged(self) -> dict[str, Any]:
        """What best.pt holds beside the configuration: the averaged weights."""
        parts = {"ema": self.average.module.state_dict(), "losses": self.criterion.state_dict()}
        return {"epoch": self.epoch, "metrics": self.rows[-1] if self.rows else {}, **parts}

    def everything(self) -> dict[str, Any]:
        """What last.pt holds beside the configuration: all that a resumed run needs."""
        tally = {**vars(self.tally), "losses": self.tally.losses.cpu(), "norm": self.tally.norm.cpu()}
        numbers = {"rows": self.rows, **{name: getattr(self, name) for name in NUMBERS}}
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        return {**self.averaged(), **parts, **numbers, "updates": int(self.average.n_averaged), "tally": tally}

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from the content of a last.pt."""
        for name in PARTS:
            if content[name]:  # the scaler's is empty unless the run was in fp16
                getattr(self, name).load_state_dict(content[name])
        for name in NUMBERS:
            setattr(self, name, content[name])
        self.criterion.load_state_dict(content["losses"])
        self.average.module.load_state_dict(content["ema"])
        self.average.n_averaged.fill_(content["updates"])
        self.rows, device = [*content["rows"]], self.tally.norm.device
        self.tally = Tally(**content["tally"])
        self.tally.losses, self.tally.norm = self.tally.losses.to(device), self.tally.norm.to(device)
        within = f", {self.tally.steps} steps into the next" if self.tally.steps else ""
        print(f"resumed after epoch {self.epoch}{within}")


class Resume(NamedTuple):
    """A run to go on with."""

    folder: Path
    checkpoint: dict[str, Any]  # content of its last.pt
    data_moved: bool = False  # another place was given for its dataset
    data_changed: bool = False  # and that it is no longer the same


def is_finished(epoch: int, best_epoch: int, config: RunConfig) -> bool:
    """Whether a run is at its end: at the last epoch or, from ``min_epochs`` on, ``patience`` after its best one."""
    hyp = config.hyp
    out_of_patience = epoch >= hyp.min_epochs and 0 < hyp.patience <= epoch - best_epoch
    return epoch >= config.train.epochs or out_of_patience


def initial_state(model: Any, criterion: Criterion, hyp: Hyp, compute: Compute, resume: Resume | None = None) -> State:
    """The state of a run that starts with the weights of ``model``, or of one that goes on."""
    device, frozen = compute.device, frozen_by(hyp, model)
    average, optimizer = MovingAverage(model, hyp.ema_decay), make_optimizer(model, hyp)
    scale = 1.0 if criterion.needs_predictions else 65536.0  # undivided sums are large as they are
    scaler = torch.amp.GradScaler(device.type, scale, enabled=compute.dtype == torch.float16)
    tally = Tally(torch.zeros(len(criterion.names), device=device), torch.zeros((), device=device))
    state = State(model, criterion, average, optimizer, scaler, tally, frozen)
    if resume:
        check_state(resume.checkpoint, state, resume.folder / "weights/last.pt")
        state.restore(resume.checkpoint)
    return state


class Saving:
    """Tells when to write last.pt, by ``--save-period``: epochs, parts of one, or minutes."""

    def __init__(self, period: SavePeriod, steps_per_epoch: int, step: int) -> None:
        self.period, self.steps = period, max(round(period.number * steps_per_epoch), 1)
        self.last_step, self.last_time = step - step % steps_per_epoch, time.monotonic()

    def is_due(self, step: int, ends_epoch: bool) -> bool:
        """Whether it is due after a step, or at the end of an epoch; then it counts as written."""
        if self.period.unit == "min":
            has_passed = time.monotonic() - self.last_time >= 60 * self.period.number
        else:
            has_passed = step - self.last_step >= self.steps
        within_epochs = self.period.unit == "min" or self.period.number < 1
        due = ends_epoch or has_passed if within_epochs else ends_epoch and has_passed
        if due:
            self.last_step, self.last_time = step, time.monotonic()
        return due
