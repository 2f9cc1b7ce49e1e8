"""What the engine may ask of a model: build it, its losses, its detections. It knows nothing else of it.

``fetch`` allows a model YAML that asks for pretrained weights to download them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.schema import AnyModelConfig, FasterRcnnConfig, Freeze, Hyp, ModelConfig
from yolo_lite.engine.device import Compute
from yolo_lite.engine.processes import ALONE, Processes
from yolo_lite.loss.box import BoxLoss, RunLosses
from yolo_lite.loss.detection import DetectionLosses, StepTotals, compute_loss, step_totals
from yolo_lite.loss.targets import assign
from yolo_lite.model.detector import Detector, fused, summarise
from yolo_lite.model.faster_rcnn import (
    STRIDE,
    BoxObjective,
    BoxObjectives,
    FasterRcnn,
    RawDetections,
    StageLosses,
    candidates,
)
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.grid import make_grid
from yolo_lite.ops.nms import DetectOptions, select_detections, survivors
from yolo_lite.structures import Batch, Detections, LossParts


class BatchLosses(NamedTuple):
    """Losses of a validated batch."""

    parts: LossParts
    unmatched: Tensor  # [], objects that no slot learns


class ClassRows(NamedTuple):
    """How the rows of a tensor belong to classes: in each group some are shared by all, the others follow by class."""

    num_groups: int
    shared: int
    per_class: int

    def count(self, num_classes: int) -> int:
        return self.num_groups * (self.shared + num_classes * self.per_class)

    def of(self, classes: Sequence[int], num_classes: int) -> list[int]:
        """The shared rows and those of some classes, group by group."""
        own = [self.shared + each * self.per_class + row for each in classes for row in range(self.per_class)]
        size = self.shared + num_classes * self.per_class
        return [group * size + row for group in range(self.num_groups) for row in (*range(self.shared), *own)]


class Anchors(NamedTuple):
    """Which anchors learn which objects of a batch, to be looked at; P pairs."""

    image: np.ndarray  # [P] int64, which image of the batch
    target: np.ndarray  # [P] int64, row of its targets
    xyxy: np.ndarray  # [P, 4] float32, pixels of the network input


class Inference(Protocol):
    """What evaluation asks. Batches come from ``to_device``; ``raw`` is whatever ``forward`` gives."""

    def for_inference(self, model: nn.Module) -> nn.Module: ...

    def forward(self, model: nn.Module, batch: Batch, compute: Compute) -> Any: ...

    def detections(self, model: nn.Module, raw: Any, batch: Batch, options: DetectOptions) -> list[Detections]: ...

    def validation_losses(self, model: nn.Module, raw: Any, batch: Batch, losses: nn.Module) -> BatchLosses: ...


class ModelFamily(Inference, Protocol):
    """One kind of model."""

    def build(self, config: AnyModelConfig, fetch: bool) -> nn.Module: ...

    def stride(self, model: nn.Module) -> int: ...

    def frozen(self, model: nn.Module, freeze: Freeze) -> list[nn.Module]: ...

    def class_rows(self, model: nn.Module) -> dict[str, ClassRows]: ...

    def compile(self, model: nn.Module) -> None: ...

    def describe(self, model: nn.Module, size: int) -> str: ...

    def losses(self, hyp: Hyp, label_counts: np.ndarray) -> RunLosses: ...

    def step_losses(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        losses: nn.Module,
        compute: Compute,
        processes: Processes = ALONE,
    ) -> Iterator[LossParts]: ...

    def assigned_anchors(self, model: nn.Module, batch: Batch, hyp: Hyp) -> Anchors | None: ...

    def graph(self, model: nn.Module) -> nn.Module: ...


class Yolo:
    """The anchor-based one-stage detector."""

    def build(self, config: AnyModelConfig, fetch: bool = False) -> Detector:
        assert isinstance(config, ModelConfig)
        return Detector(config)

    def stride(self, model: nn.Module) -> int:
        """Sides of the network input must be multiples of it."""
        return max(_detector(model).strides)

    def frozen(self, model: nn.Module, freeze: Freeze) -> list[nn.Module]:
        """The modules that the key ``freeze`` names: rows of the model YAML, counted from 0, or its backbone.

        Raises:
            ConfigError: there is no such row.
        """
        detector = _detector(model)
        rows = range(len(detector.config.backbone)) if freeze == "backbone" else freeze
        if missing := [row for row in rows if row not in range(len(detector.layers))]:
            raise ConfigError(f"freeze: expected rows 0..{len(detector.layers) - 1}, found {missing}")
        return [detector.layers[int(row)] for row in rows]

    def class_rows(self, model: nn.Module) -> dict[str, ClassRows]:
        """The tensors that depend on the classes: each anchor has four rows for its box, one for its objectness."""
        detector = _detector(model)
        head, rows = f"layers.{len(detector.layers) - 1}.heads", ClassRows(detector.anchors.shape[1], 5, 1)
        return {f"{head}.{level}.{part}": rows for level in range(len(detector.strides)) for part in ("weight", "bias")}

    def compile(self, model: nn.Module) -> None:
        """Compile the forward pass at its first use."""
        model.compile()

    def describe(self, model: nn.Module, size: int) -> str:
        """Layers, parameters and operations at ``size`` pixels, for the start of a run."""
        return f"{summarise(_detector(model), size)} at {size} px"

    def losses(self, hyp: Hyp, label_counts: np.ndarray) -> DetectionLosses:
        """The loss functions of a run."""
        return DetectionLosses(hyp, label_counts)

    def step_losses(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        losses: nn.Module,
        compute: Compute,
        processes: Processes = ALONE,
    ) -> Iterator[LossParts]:
        """The losses of each batch of one optimizer step.

        Their sum over batches and processes does not depend on how the pictures are split. Empty batches are left out.
        """
        assert isinstance(losses, DetectionLosses)
        detector, hyp = _detector(model), losses.hyp
        batches = [batch for batch in batches if len(batch.position)]
        grids = [detector.grid(*batch.images.shape[2:]) for batch in batches]
        matches = [assign(b.objects, grid, hyp) for b, grid in zip(batches, grids, strict=True)]
        totals = StepTotals(torch.zeros((), device=compute.device), detector.anchors.new_zeros(len(detector.strides)))
        if batches:
            totals = step_totals(matches, grids, sum(batch.images.shape[0] for batch in batches))
        processes.add(totals)
        for batch, grid, match in zip(batches, grids, matches, strict=True):
            raw = self.forward(model, batch, compute)
            yield compute_loss(raw, batch.objects, match, grid, losses, totals)

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
        """Losses of one batch, normalised over it, and how many of its objects no slot learns."""
        assert isinstance(losses, DetectionLosses)
        grid = _detector(model).grid(*batch.images.shape[2:])
        matches = assign(batch.objects, grid, losses.hyp)
        unmatched = torch.ones(len(batch.objects.label), dtype=torch.int64, device=raw.device)
        unmatched[matches.target] = 0
        return BatchLosses(compute_loss(raw, batch.objects, matches, grid, losses), unmatched.sum())

    def assigned_anchors(self, model: nn.Module, batch: Batch, hyp: Hyp) -> Anchors:
        """The anchors that learn the objects of a batch on the CPU, each in its cell."""
        detector = _detector(model)
        grid = make_grid(detector.anchors.cpu(), detector.strides, *batch.images.shape[2:])
        image, slot, target = assign(batch.objects, grid, hyp)
        box = torch.cat((grid.corner + grid.stride / 2, grid.anchor), dim=1)[slot]
        return Anchors(image.numpy(), target.numpy(), cxcywh_to_xyxy(box).numpy())

    def graph(self, model: nn.Module) -> nn.Module:
        """A copy for TensorBoard's graph of operations, on the CPU."""
        return copy.deepcopy(_detector(model)).cpu().eval()


def _detector(model: nn.Module) -> Detector:
    assert isinstance(model, Detector)
    return model


class FasterRcnnLosses(RunLosses):
    """The loss functions of a run of Faster R-CNN: torchvision's, with box losses of hyp.yaml's choice.

    Raises:
        ConfigError: hyp.yaml sets a key that has no effect here.
    """

    def __init__(self, hyp: Hyp) -> None:
        super().__init__()
        keys = ("obj_loss", "cls_loss", "cls_weights", "fl_gamma", "label_smoothing", "obj_pw", "cls_pw", "assigner")
        idle = [key for key in keys if getattr(hyp, key) != Hyp.model_fields[key].default]
        if idle:
            raise ConfigError(f"{', '.join(idle)}: without effect on Faster R-CNN, expected the default")
        self.hyp = hyp
        self.box, self.rpn_box = BoxLoss(hyp.box_loss, hyp), BoxLoss(hyp.rpn_box_loss, hyp)

    def objectives(self, height: int, width: int) -> BoxObjectives:
        """The box losses of both stages for inputs of this size."""
        gains = ((self.rpn_box, self.hyp.rpn_box), (self.box, self.hyp.box))
        return BoxObjectives(*(self._objective(loss, gain, (height, width)) for loss, gain in gains))

    def _objective(self, loss: BoxLoss, gain: float, image_size: tuple[int, int]) -> BoxObjective:
        # Coordinates are compared as the network predicts them, relative to anchor or proposal, as in torchvision.
        if loss.of_coordinates:
            return BoxObjective(loss.of_differences, "deltas", gain)
        return BoxObjective(functools.partial(loss, image_size=image_size), "boxes", gain)

    def parts(self, found: StageLosses) -> LossParts:
        """torchvision's four losses as our three: ``box`` is the sum of both stages, ``obj`` the first stage's."""
        box = found.box + found.rpn_box  # their gains lie in the objectives
        return LossParts(box, found.objectness * self.hyp.obj, found.classifier * self.hyp.cls)


class TwoStage:
    """torchvision's Faster R-CNN."""

    def build(self, config: AnyModelConfig, fetch: bool = False) -> FasterRcnn:
        assert isinstance(config, FasterRcnnConfig)
        return FasterRcnn(config, fetch=fetch)

    def stride(self, model: nn.Module) -> int:
        """Sides of the network input must be multiples of it."""
        return STRIDE

    def frozen(self, model: nn.Module, freeze: Freeze) -> list[nn.Module]:
        """The backbone without its pyramid, where the key ``freeze`` says so.

        Raises:
            ConfigError: rows are named; this model has none.
        """
        if freeze and freeze != "backbone":
            raise ConfigError(f"freeze: expected backbone or [] for Faster R-CNN, found {list(freeze)}")
        return [_two_stage(model).backbone.body] if freeze else []

    def class_rows(self, model: nn.Module) -> dict[str, ClassRows]:
        """The tensors that depend on the classes; the background comes first."""
        rows = {"cls_score": ClassRows(1, 1, 1), "bbox_pred": ClassRows(1, 4, 4)}
        return {f"roi_heads.box_predictor.{key}.{part}": rows[key] for key in rows for part in ("weight", "bias")}

    def compile(self, model: nn.Module) -> None:
        """Compile the backbone with its pyramid at its first use."""
        _two_stage(model).backbone.compile()

    def describe(self, model: nn.Module, size: int) -> str:
        """Backbone and parameters, for the start of a run."""
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return f"Faster R-CNN, {_two_stage(model).config.backbone}, {parameters:,} parameters, {size} px"

    def losses(self, hyp: Hyp, label_counts: np.ndarray) -> FasterRcnnLosses:
        """The loss functions of a run."""
        return FasterRcnnLosses(hyp)

    def step_losses(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        losses: nn.Module,
        compute: Compute,
        processes: Processes = ALONE,
    ) -> Iterator[LossParts]:
        """The losses of each batch of one optimizer step, weighted by its number of pictures."""
        assert isinstance(losses, FasterRcnnLosses)
        network, num_images = _two_stage(model), torch.tensor(float(sum(len(batch.images) for batch in batches)))
        processes.add([num_images])
        for batch in (batch for batch in batches if len(batch.position)):
            with compute.autocast():
                first = network.first_stage(batch.images)
                found = network.losses(first, batch.objects, losses.objectives(*first.size))
            share = len(batch.images) / num_images.item()
            yield LossParts(*(part * share for part in losses.parts(found)))

    def for_inference(self, model: nn.Module) -> FasterRcnn:
        """A copy in evaluation mode."""
        return copy.deepcopy(_two_stage(model)).eval()

    def forward(self, model: nn.Module, batch: Batch, compute: Compute) -> RawDetections:
        """What both stages make of a batch."""
        with compute.autocast():
            return model(batch.images)

    def detections(
        self, model: nn.Module, raw: RawDetections, batch: Batch, options: DetectOptions
    ) -> list[Detections]:
        """One for each picture, boxes in pixels of the network input."""
        return [survivors(found, options) for found in candidates(raw, options.confidence)]

    def validation_losses(self, model: nn.Module, raw: RawDetections, batch: Batch, losses: nn.Module) -> BatchLosses:
        """Losses of one batch. The first stage gives every object its best anchor: none is left unmatched."""
        assert isinstance(losses, FasterRcnnLosses)
        objectives = losses.objectives(*raw.first.size)
        found = _two_stage(model).validation_losses(raw, batch.objects, objectives)
        return BatchLosses(losses.parts(found), torch.zeros((), dtype=torch.int64, device=batch.images.device))

    def assigned_anchors(self, model: nn.Module, batch: Batch, hyp: Hyp) -> None:
        """None: anchors are assigned inside torchvision, and drawn by lot."""

    def graph(self, model: nn.Module) -> nn.Module:
        """A copy of the backbone with its pyramid: what comes after depends on the picture and cannot be traced."""
        return copy.deepcopy(_two_stage(model).backbone).cpu().eval()


def _two_stage(model: nn.Module) -> FasterRcnn:
    assert isinstance(model, FasterRcnn)
    return model


FAMILIES: dict[str, ModelFamily] = {"yolo": Yolo(), "faster_rcnn": TwoStage()}
