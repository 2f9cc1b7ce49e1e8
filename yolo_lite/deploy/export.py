"""Writing a checkpoint as ONNX, TorchScript or torch.export, and comparing the file with PyTorch."""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

import yolo_lite
from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, UserError
from yolo_lite.data.dataset import EvaluationSet
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import Canvas, square_canvas
from yolo_lite.data.store import ImageStore
from yolo_lite.deploy.exported import Exported, detections_of, load_exported
from yolo_lite.deploy.formats import EXPORT_FORMATS, Facts, as_tuple
from yolo_lite.deploy.graph import Decoded, Suppressed
from yolo_lite.deploy.quantise import quantise
from yolo_lite.engine.checkpoint import load_trained
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.model.detector import Detector
from yolo_lite.ops.nms import DetectOptions

NUM_CHECKED = 16  # images on which a file is compared with PyTorch
TOLERANCE = 1e-4  # of boxes, in sides of the input, and of scores
LEAST_FOUND = {"fp32": 0.99, "fp16": 0.9, "int8": 0.5}  # share of PyTorch's detections
SAME_OBJECT = 0.5  # IoU
SURE = DetectOptions(confidence=0.25, iou=0.45)  # the detections that are looked for


class ExportSettings(NamedTuple):
    """How a model is exported."""

    format: str  # of EXPORT_FORMATS
    imgsz: int | None  # pixels of the longest side; None: as trained
    batch: int  # images at once, where that is fixed
    dynamic: tuple[str, ...]  # "batch", "size"
    precision: str  # fp32, fp16 or int8
    nms: DetectOptions | None  # None: the outputs are predictions of every slot


class Samples(NamedTuple):
    """Images uint8 ``[1, channels, H, W]`` as the network gets them."""

    check: list[Tensor]
    calibration: list[Tensor]  # squares


class Exportable(NamedTuple):
    """A network and what its file will say."""

    detector: Detector
    format: str  # of EXPORT_FORMATS
    facts: Facts
    nms: DetectOptions | None
    data: tuple[DatasetConfig, str]  # what it was trained with, and its file

    def network(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """What the file computes."""
        decoded = Decoded(self.detector.for_inference(), dtype)
        return (Suppressed(decoded, self.nms, EXPORT_FORMATS[self.format].is_onnx) if self.nms else decoded).eval()

    def network_to_write(self) -> nn.Module:
        return self.network(torch.float16 if self.facts.precision == "fp16" else torch.float32)

    def example(self) -> Tensor:
        """Images of the shape that is traced; a dimension of 1 would be taken for a fixed one."""
        batch = max(self.facts.batch, 2) if "batch" in self.facts.dynamic else self.facts.batch
        side = max(self.facts.imgsz, 2 * self.facts.stride) if "size" in self.facts.dynamic else self.facts.imgsz
        return torch.zeros(batch, self.facts.channels, side, side)


def read_exportable(weights: str, settings: ExportSettings) -> Exportable:
    """The averaged weights of a checkpoint.

    Raises:
        UserError: the checkpoint cannot be used, is of another family, or the settings contradict each other.
    """
    is_onnx = EXPORT_FORMATS[settings.format].is_onnx
    if not is_onnx and settings.precision == "int8":
        raise ConfigError(f"--int8: ONNX Runtime quantises ONNX only, expected --format onnx, found {settings.format}")
    if not is_onnx and settings.nms and "batch" in settings.dynamic:
        raise ConfigError(f"--nms --dynamic batch: expected --format onnx, found {settings.format}")
    task, detector, config, content = load_trained(weights)
    if not task.is_exported:
        raise ConfigError(f"{weights}: only YOLO models can be exported, found the family {config.model.family}")
    stride = detector.stride
    facts = Facts(
        names=config.data.class_names,
        channels=config.data.channels,
        stride=stride,
        smallest=stride * EXPORT_FORMATS[settings.format].fewest_strides,
        imgsz=rounded_up(settings.imgsz or config.train.imgsz, stride),
        batch=settings.batch,
        dynamic=settings.dynamic,
        precision=settings.precision,
        nms=settings.nms is not None,
        yolo_lite=yolo_lite.__version__,
        source=content.get("source", ""),
    )
    return Exportable(detector, settings.format, facts, settings.nms, (config.data, config.data_file))


class Agreement(NamedTuple):
    """How near a file comes to PyTorch in fp32."""

    box: float  # largest difference of a coordinate, in sides of the input; NaN where NMS hides the slots
    score: float  # largest difference of an objectness or class; likewise
    found: int  # of PyTorch's detections
    expected: int

    def __str__(self) -> str:
        raw = (
            "" if math.isnan(self.box) else f"boxes within {self.box:.1e} of the side, scores within {self.score:.1e}; "
        )
        return f"{raw}{self.found} of {self.expected} detections found again"

    def is_enough(self, precision: str) -> bool:
        """fp16 and int8 are meant to differ, but not beyond recognition."""
        exact = precision != "fp32" or math.isnan(self.box) or max(self.box, self.score) <= TOLERANCE
        return exact and self.found >= LEAST_FOUND[precision] * self.expected


@torch.inference_mode()
def compare(exported: Exported, reference: nn.Module, images: Sequence[Tensor], options: DetectOptions) -> Agreement:
    """Run a file and PyTorch's network on images uint8 ``[1, channels, H, W]``."""
    box, score, found, expected = [], [], 0, 0
    for pixels in images:
        ours, theirs = as_tuple(reference(pixels.float() / 255)), exported(pixels.float() / 255)
        if len(ours) == 1:
            difference = (ours[0] - theirs[0]).abs()
            box.append(float(difference[..., :4].max()) / max(pixels.shape[2:]))
            score.append(float(difference[..., 4:].max()))
        here, there = (detections_of(outputs, options)[0] for outputs in (ours, theirs))
        same = (here.label[:, None] == there.label) & (box_iou(here.box, there.box) > SAME_OBJECT)
        found, expected = found + int(same.any(dim=1).sum()), expected + len(here.label)
    return Agreement(max(box, default=math.nan), max(score, default=math.nan), found, expected)


def export(exportable: Exportable, path: Path, samples: Samples) -> Agreement:
    """Write a file, and give it its name when it agrees with PyTorch.

    Raises:
        UserError: it does not agree, or what the format needs is not installed.
    """
    temporary, facts = path.with_name(f".tmp_{path.name}"), exportable.facts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that a trace would fix, and of TorchScript's age
            write = EXPORT_FORMATS[exportable.format].write
            write(exportable.network_to_write(), exportable.example(), facts, temporary)
        if facts.precision == "int8":
            quantise(temporary, samples.calibration, facts.batch)
        exported, _ = load_exported(temporary)
        agreement = compare(exported, exportable.network(), samples.check, exportable.nms or SURE)
        if not agreement.is_enough(facts.precision):
            raise UserError(f"{path}: not written, for it differs from PyTorch: {agreement}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return agreement


def samples_of(index: DatasetIndex, facts: Facts, num_calibration: int) -> Samples:
    """Images of a split."""
    check = _sample_images(index, facts.imgsz, facts.canvas, NUM_CHECKED)
    square = functools.partial(square_canvas, size=facts.imgsz)
    return Samples(check, _sample_images(index, facts.imgsz, square, num_calibration))


def _sample_images(index: DatasetIndex, size: int, canvas: Canvas, most: int) -> list[Tensor]:
    """Letterboxed images uint8 ``[1, channels, H, W]``, evenly spread over a split."""
    dataset = EvaluationSet(index, ImageStore(index, size, "off", False), canvas)
    number = min(most, len(index))
    chosen = (dataset[each * len(index) // number].image for each in range(number))
    return [torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() for image in chosen]
