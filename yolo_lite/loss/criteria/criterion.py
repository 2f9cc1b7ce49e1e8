"""What a criterion is: the losses of one kind of head, by name, and what they are divided by.

B images, N slots, C classes, M objects, P matched pairs, L levels.

The gradient of an optimizer step must not depend on how its images are split over batches and processes. There are two
ways to that. Where the divisors are known before any forward pass, ``totals`` counts them over the whole step and
losses are divided as they arise. Where the assigner goes by predictions, losses come undivided, ``divisor`` is added
over batches and processes beside them, and the gradient is divided once, before it is clipped.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import LossSection
from yolo_lite.config.seams import Choice
from yolo_lite.loss.assigners import ASSIGNERS
from yolo_lite.loss.box import BoxLoss
from yolo_lite.ops.grid import Grid
from yolo_lite.structures import Losses, Matches, Objects, Predictions, Raw

Totals = tuple[Tensor, ...]  # float32; of the anchor head images [] and matched pairs of each level [L]


class Criterion(nn.Module):
    """The base of every criterion; a subclass sets ``names`` and writes ``totals``, ``predictions`` and ``forward``.

    One is made for a run, since box losses among its modules may have a state that moves once an optimizer step.

    Attributes:
        names: of its losses, in the order in which they are shown; hyp.yaml has a gain of each name.
        assigners: which of those that yolo_lite brings fit its head; ``auto`` is the first.
        needs_predictions: whether ``assign`` waits for the forward pass; then ``forward`` is given no totals.
    """

    names: tuple[str, ...] = ()
    assigners: tuple[str, ...] = ("anchor_ratio", "tal", "simota", "atss")

    def __init__(self, section: LossSection) -> None:
        super().__init__()
        self.section = section
        self.chosen = Choice(name=self.assigners[0]) if section.assigner.name == "auto" else section.assigner
        self.assigner = self.chosen  # of the epoch
        self.needs_predictions = self.assigns_by_predictions

    @property
    def assigns_by_predictions(self) -> bool:
        """Whether the assigner in use now goes by predictions, and so grades its pairs."""
        return "predictions" in inspect.signature(ASSIGNERS[self.assigner.name]).parameters

    def start_epoch(self, number: int) -> None:
        """Choose the assigner of an epoch, counted from 0: ATSS while predictions are noise (key static_epochs)."""
        self.assigner = self.chosen
        if self.assigns_by_predictions and number < self.section.static_epochs:
            self.assigner = Choice(name="atss")

    def assign(self, objects: Objects, grid: Grid, predictions: Predictions | None = None) -> Matches:
        """Which slot learns which object; no pairs where the model assigns by itself."""
        assigner = ASSIGNERS[self.assigner.name]
        reach = math.inf if predictions is None else predictions.reach
        given = {"anchor_t": self.section.anchor_t, "predictions": predictions, "reach": reach}
        context = {name: given[name] for name in inspect.signature(assigner).parameters if name in given}
        return assigner(objects, grid, **self.assigner.parameters, **context)

    def predictions(self, raw: Raw, grid: Grid) -> Predictions:
        """What the network predicts for every slot, for an assigner that goes by it."""
        raise ConfigError(f"assigner {self.assigner.name}: goes by predictions, {type(self).__name__} gives none")

    def totals(self, matches: Sequence[Matches], grids: Sequence[Grid], num_images: int) -> Totals:
        """What losses are divided by: counts over some batches, which are added up over the processes of a step."""
        raise NotImplementedError

    def divisor(self, matches: Matches) -> Tensor:
        """What one batch adds to the divisor of a step whose assigner goes by predictions, ``[]`` float32."""
        return matches.score.sum()

    def forward(self, raw: Any, objects: Objects, matches: Matches, grid: Grid, totals: Totals | None) -> Losses:
        """Losses of a batch by ``names``: finite float32 scalars that carry a gradient, also without any match.

        Args:
            raw: output of the network for the batch.
            matches: of ``assign``.
            totals: of the whole step; None: undivided sums.
        """
        raise NotImplementedError

    @torch.no_grad()
    def losses_of_batch(self, raw: Any, objects: Objects, grid: Grid, num_images: int) -> tuple[Losses, Matches]:
        """Losses of a batch divided by its own counts, for validation, and the matches that they come from."""
        if not self.needs_predictions:
            matches = self.assign(objects, grid)
            return self(raw, objects, matches, grid, self.totals([matches], [grid], num_images)), matches
        matches = self.assign(objects, grid, self.predictions(raw, grid))
        divisor = self.divisor(matches).clamp(min=1)
        return {key: loss / divisor for key, loss in self(raw, objects, matches, grid, None).items()}, matches

    def box_losses(self) -> list[BoxLoss]:
        """Those among its modules."""
        return [module for module in self.modules() if isinstance(module, BoxLoss)]

    def step_sums(self) -> list[Tensor]:
        """What box losses count during a step; many processes add theirs before ``finish_step``."""
        return [loss.seen for loss in self.box_losses()]

    def finish_step(self) -> None:
        """Move the state of box losses, after each optimizer step."""
        for loss in self.box_losses():
            loss.finish_step()
