"""What is trained: a task binds a model to its criterion, for neither knows the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.hyp import Freeze, LossSection
from yolo_lite.config.model import AnyModelConfig, FasterRcnnConfig, ModelConfig
from yolo_lite.loss.criteria import CRITERIA, Criterion
from yolo_lite.model.detector import Detector
from yolo_lite.model.heads import HEADS, ClassRows
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Detections


class Inference(Protocol):
    """What evaluation and prediction ask of a network; an exported file answers it too."""

    def for_inference(self) -> Inference:
        """A network in evaluation mode that gives the same outputs, quicker where it can."""

    def __call__(self, images: Tensor) -> Any:
        """Raw outputs for images float ``[B, channels, H, W]`` in 0..1."""

    def grid(self, height: int, width: int) -> Any:
        """Where the slots lie for inputs of this size in pixels; None where the model assigns by itself."""

    def detections(self, raw: Any, size: tuple[int, int], options: DetectOptions) -> Iterable[Detections]:
        """Detections of one image after the other, boxes xyxy in pixels of the input of ``size`` (height, width)."""


class Network(Inference, Protocol):
    """What training asks of a network, an ``nn.Module``, beside that."""

    stride: int  # sides of the network input must be multiples of it

    def frozen(self, freeze: Freeze) -> list[nn.Module]:
        """The modules that the key ``freeze`` names; ConfigError where there is no such row."""

    def class_rows(self) -> dict[str, ClassRows]:
        """The tensors of ``state_dict`` whose rows belong to classes."""

    def compile_network(self) -> None:
        """Let torch.compile compile what can be compiled, at its first use."""

    def describe(self, size: int) -> str:
        """Size and cost for inputs of ``size`` pixels, in one line."""

    def to_trace(self) -> nn.Module:
        """A copy on the CPU, or a part of one, that TensorBoard can trace: images to tensors."""


class Task(NamedTuple):
    """One kind of training."""

    build: Callable[[Any], Any]  # model config -> Network
    criterion: Callable[[Any, LossSection, np.ndarray], Criterion]  # model config, section, objects of each class [C]
    is_exported: bool = True  # whether yolo-lite export knows the model
    has_masks: bool = False  # whether it learns and finds them: outlines are loaded, drawn and compared


def criterion_of_head(config: ModelConfig, section: LossSection, label_counts: np.ndarray) -> Criterion:
    name = config.head[-1].module
    if name not in CRITERIA:
        raise ConfigError(f"CRITERIA: expected an entry {name!r}, as HEADS has one")
    return CRITERIA[name](section, label_counts)


def build_faster_rcnn(config: FasterRcnnConfig) -> nn.Module:
    from yolo_lite.model.faster_rcnn import FasterRcnn  # torchvision's detection models take long to import

    return FasterRcnn(config)


def faster_rcnn_criterion(config: FasterRcnnConfig, section: LossSection, label_counts: np.ndarray) -> Criterion:
    from yolo_lite.engine.two_stage import FasterRcnnCriterion

    return FasterRcnnCriterion(section)


TASKS: dict[str, Task] = {
    "detect": Task(Detector, criterion_of_head),
    "segment": Task(Detector, criterion_of_head, has_masks=True),
    "faster_rcnn": Task(build_faster_rcnn, faster_rcnn_criterion, is_exported=False),
}


def task_of(config: AnyModelConfig) -> Task:
    """The task that a model YAML names by its key ``task``, else that of its head; ConfigError where there is none."""
    if isinstance(config, FasterRcnnConfig):
        return TASKS["faster_rcnn"]
    name = config.task or HEADS[config.head[-1].module].task
    if name not in TASKS:
        raise ConfigError(f"task: unknown name {name!r}{nearest(name, TASKS)}")
    return TASKS[name]
