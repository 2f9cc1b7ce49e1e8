"""What the engine may ask of a model: build it, its losses, its detections. It knows nothing else of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from yolo_lite.config.schema import Hyp, ModelConfig
from yolo_lite.engine.device import Compute
from yolo_lite.loss.detection import DetectionLosses, compute_loss, step_totals
from yolo_lite.loss.targets import build_targets
from yolo_lite.model.detector import Detector, fused, summarise
from yolo_lite.ops.nms import DetectOptions, select_detections
from yolo_lite.structures import Batch, Detections, LossParts


class BatchLosses(NamedTuple):
    """Losses of a validated batch."""

    parts: LossParts
    unmatched: Tensor  # [] int64, objects that no slot learns


class ModelFamily(Protocol):
    """One kind of model. Batches come from ``to_device``; ``raw`` is whatever ``forward`` gives."""

    def build(self, config: ModelConfig) -> nn.Module: ...

    def stride(self, model: nn.Module) -> int: ...

    def describe(self, model: nn.Module, size: int) -> str: ...

    def losses(self, hyp: Hyp, label_counts: np.ndarray) -> nn.Module: ...

    def step_losses(
        self, model: nn.Module, batches: Sequence[Batch], losses: nn.Module, compute: Compute
    ) -> Iterator[LossParts]: ...

    def for_inference(self, model: nn.Module) -> nn.Module: ...

    def forward(self, model: nn.Module, batch: Batch, compute: Compute) -> Any: ...

    def detections(self, model: nn.Module, raw: Any, batch: Batch, options: DetectOptions) -> list[Detections]: ...

    def validation_losses(self, model: nn.Module, raw: Any, batch: Batch, losses: nn.Module) -> BatchLosses: ...


class Yolo:
    """The anchor-based one-stage detector."""

    def build(self, config: ModelConfig) -> Detector:
        return Detector(config)

    def stride(self, model: nn.Module) -> int:
        """Sides of the network input must be multiples of it."""
        return max(_detector(model).strides)

    def describe(self, model: nn.Module, size: int) -> str:
        """Layers, parameters and operations at ``size`` pixels, for the start of a run."""
        return f"{summarise(_detector(model), size)} at {size} px"

    def losses(self, hyp: Hyp, label_counts: np.ndarray) -> DetectionLosses:
        """The loss functions of a run."""
        return DetectionLosses(hyp, label_counts)

    def step_losses(
        self, model: nn.Module, batches: Sequence[Batch], losses: nn.Module, compute: Compute
    ) -> Iterator[LossParts]:
        """The losses of each batch of one optimizer step; their sum does not depend on the split into batches."""
        assert isinstance(losses, DetectionLosses)
        detector, anchor_t = _detector(model), losses.hyp.anchor_t
        grids = [detector.grid(*batch.images.shape[2:]) for batch in batches]
        matches = [build_targets(b.targets, grid, anchor_t) for b, grid in zip(batches, grids, strict=True)]
        totals = step_totals(matches, grids, sum(batch.images.shape[0] for batch in batches))
        for batch, grid, match in zip(batches, grids, matches, strict=True):
            raw = self.forward(model, batch, compute)
            yield compute_loss(raw, batch.targets, match, grid, losses, totals)
        losses.finish_step()

    def for_inference(self, model: nn.Module) -> Detector:
        """A fused copy in evaluation mode."""
        return fused(_detector(model))

    def forward(self, model: nn.Module, batch: Batch, compute: Compute) -> Tensor:
        """Raw outputs ``[B, N, 5+C]``."""
        with compute.autocast():
            return model(batch.images)

    def detections(self, model: nn.Module, raw: Tensor, batch: Batch, options: DetectOptions) -> list[Detections]:
        """One for each picture, boxes in pixels of the network input."""
        return select_detections(raw, _detector(model).grid(*batch.images.shape[2:]), options)

    def validation_losses(self, model: nn.Module, raw: Tensor, batch: Batch, losses: nn.Module) -> BatchLosses:
        """Losses of one batch, normalised over it, and how many of its objects match no anchor."""
        assert isinstance(losses, DetectionLosses)
        grid = _detector(model).grid(*batch.images.shape[2:])
        matches = build_targets(batch.targets, grid, losses.hyp.anchor_t)
        unmatched = torch.ones(len(batch.targets.label), dtype=torch.int64, device=raw.device)
        unmatched[matches.target] = 0
        return BatchLosses(compute_loss(raw, batch.targets, matches, grid, losses), unmatched.sum())


def _detector(model: nn.Module) -> Detector:
    assert isinstance(model, Detector)
    return model


FAMILIES: dict[str, ModelFamily] = {"yolo": Yolo()}
