"""Writing a checkpoint as ONNX, TorchScript or torch.export, and comparing the file with PyTorch."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

import yolo_lite
from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, UserError
from yolo_lite.config.options import ExportOptions
from yolo_lite.data.dataset import EvaluationSet
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.store import ImageStore
from yolo_lite.deploy.exported import Exported, load_exported
from yolo_lite.deploy.formats import EXPORT_FORMATS, Facts, as_tuple, extra
from yolo_lite.deploy.graph import INPUT, Decoded, Suppressed, detections_of
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.trained import build_trained
from yolo_lite.model.detector import Detector
from yolo_lite.ops.nms import DetectOptions

NUM_CHECKED = 16  # images on which a file is compared with PyTorch
TOLERANCE = 1e-4  # of boxes, in sides of the input, and of scores
LEAST_FOUND = {"fp32": 0.99, "fp16": 0.9, "int8": 0.5}  # share of PyTorch's detections
SAME_OBJECT = 0.5  # IoU
SURE = DetectOptions(confidence=0.25, iou=0.45)  # the detections that are looked for
# With what lies between them, convolutions hand over 8 bits: quicker, and nearer to fp32, than convolutions alone.
INT8_OPERATIONS = ["Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"]


class Exportable(NamedTuple):
    """A model, what its file will say, and how it is written."""

    detector: Detector
    facts: Facts
    options: ExportOptions
    data: tuple[DatasetConfig, str]  # what it was trained with, and its file


class Agreement(NamedTuple):
    """How near a file comes to PyTorch in fp32."""

    box: float  # largest difference of a coordinate, in sides of the input; NaN where NMS hides the slots
    score: float  # largest difference of an objectness or class; likewise
    found: int  # of PyTorch's detections
    expected: int
    images: int

    def __str__(self) -> str:
        raw = f"boxes within {self.box:.1e} of the side, scores within {self.score:.1e}; "
        return f"{'' if math.isnan(self.box) else raw}{self.found} of {self.expected} detections found again"

    def is_enough(self, precision: str) -> bool:
        """fp16 and int8 are meant to differ, but not beyond recognition."""
        exact = precision != "fp32" or math.isnan(self.box) or max(self.box, self.score) <= TOLERANCE
        return exact and self.found >= LEAST_FOUND[precision] * self.expected


def read_exportable(options: ExportOptions) -> Exportable:
    """The averaged weights of a checkpoint.

    Raises:
        UserError: the checkpoint cannot be used, is of another family, or the options contradict each other.
    """
    form, weights, found = EXPORT_FORMATS[options.format], str(options.weights), f"found {options.format}"
    if not form.is_onnx and options.int8:
        raise ConfigError(f"--int8: ONNX Runtime quantises ONNX only, expected --format onnx, {found}")
    if not form.is_onnx and options.nms and "batch" in options.dynamic:
        raise ConfigError(f"--nms --dynamic batch: expected --format onnx, {found}")
    content = load_checkpoint(weights)
    config = config_of(content, weights)
    if not task_of(config.model).is_exported:
        raise ConfigError(f"{weights}: only YOLO models can be exported, found the family {config.model.family}")
    detector = build_trained(content, weights).model
    facts = Facts(
        names=config.data.class_names,
        channels=config.data.channels,
        stride=detector.stride,
        smallest=detector.stride * form.fewest_strides,
        imgsz=rounded_up(options.imgsz or config.train.imgsz, detector.stride),
        batch=options.batch_size,
        dynamic=tuple(options.dynamic),
        precision="int8" if options.int8 else "fp16" if options.half else "fp32",
        nms=options.nms,
        yolo_lite=yolo_lite.__version__,
        source=content.get("source", ""),
    )
    return Exportable(detector, facts, options, (config.data, config.data_file))


def export(exportable: Exportable, path: Path, index: DatasetIndex) -> Agreement:
    """Write a file, and give it its name when it agrees with PyTorch on images of a split.

    Raises:
        UserError: it does not agree, or what the format needs is not installed.
    """
    detector, facts, options, _ = exportable
    form = EXPORT_FORMATS[options.format]
    choice = DetectOptions(options.conf, options.iou, options.max_det) if options.nms else SURE

    def network(dtype: torch.dtype = torch.float32) -> nn.Module:
        decoded = Decoded(detector.for_inference(), dtype)
        return (Suppressed(decoded, choice, form.is_onnx) if options.nms else decoded).eval()

    images, temporary = _sample_images(index, facts, NUM_CHECKED), path.with_name(f".tmp_{path.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that a trace would fix, and of TorchScript's age
            form.write(network(torch.float16 if options.half else torch.float32), _example(facts), facts, temporary)
        if options.int8:
            squares = _sample_images(index, facts._replace(dynamic=()), options.calibration_images)
            _quantise(temporary, squares, facts.batch)
        exported, _ = load_exported(temporary)
        agreement = _compare(exported, network(), images, choice)
        if not agreement.is_enough(facts.precision):
            raise UserError(f"{path}: not written, for it differs from PyTorch: {agreement}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return agreement


def _example(facts: Facts) -> Tensor:
    """Images of the shape that is traced; a dimension of 1 would be taken for a fixed one."""
    batch = max(facts.batch, 2) if "batch" in facts.dynamic else facts.batch
    side = max(facts.imgsz, 2 * facts.stride) if "size" in facts.dynamic else facts.imgsz
    return torch.zeros(batch, facts.channels, side, side)


def _sample_images(index: DatasetIndex, facts: Facts, most: int) -> list[Tensor]:
    """Images uint8 ``[1, channels, H, W]`` as the network gets them, evenly spread over a split."""
    dataset = EvaluationSet(index, ImageStore(index, facts.imgsz, "off", False), facts.canvas)
    number = min(most, len(index))
    chosen = (dataset[each * len(index) // number].image for each in range(number))
    return [torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() for image in chosen]


@torch.inference_mode()
def _compare(exported: Exported, reference: nn.Module, images: Sequence[Tensor], options: DetectOptions) -> Agreement:
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
    return Agreement(max(box, default=math.nan), max(score, default=math.nan), found, expected, len(images))


def _quantise(path: Path, images: Sequence[Tensor], batch: int) -> None:
    """Make the layers of an ONNX file int8, in place; Detect and what follows it stay fp32.

    ONNX Runtime's static quantisation, with ranges seen on images uint8 ``[1, channels, H, W]`` of one shape, of each
    of which ``batch`` go in at once.
    """
    onnx, quantization = extra("onnx"), extra("onnxruntime.quantization")
    inputs = ({INPUT: one.expand(batch, -1, -1, -1).numpy().astype(np.float32) / 255} for one in images)
    reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(inputs, None)})
    names = [node.name for node in onnx.load(path).graph.node if "/layers." in node.name]  # torch's
    detect = next(name.split("heads.")[0] for name in names if "/heads." in name)
    logging.disable(logging.WARNING)  # it recommends a preparation that changes nothing here
    try:
        quantization.quantize_static(
            path,
            path,
            reader(),
            per_channel=True,
            # Weights of 8 bits without a sign: products with signed ones overflow on CPUs without VNNI (LOG.md).
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=INT8_OPERATIONS,
            nodes_to_quantize=[name for name in names if not name.startswith(detect)],
        )
    finally:
        logging.disable(logging.NOTSET)
