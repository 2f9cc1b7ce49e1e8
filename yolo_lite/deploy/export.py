"""Writing a checkpoint as ONNX, TorchScript or torch.export, and comparing the file with PyTorch."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

import yolo_lite
from yolo_lite.config.errors import ConfigError, UserError
from yolo_lite.config.options import ExportOptions
from yolo_lite.data.dataset import EvaluationSet
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.store import ImageStore
from yolo_lite.deploy.exported import Exported, load_exported
from yolo_lite.deploy.formats import EXPORT_FORMATS, Facts, extra
from yolo_lite.deploy.graph import INPUT, Decoded, Suppressed, as_tuple, detections_of
from yolo_lite.engine.checkpoint import Trained, load_trained
from yolo_lite.engine.checkpoint_fields import OperatingPoints
from yolo_lite.engine.coco_ap import detection_limits
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.engine.operating_points import lowest_scores
from yolo_lite.ops.masks import STRIDE, inside
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Detections

NUM_CHECKED = 16  # images on which a file is compared with PyTorch
TOLERANCE = 1e-4  # of boxes, in sides of the input, and of scores
LEAST_FOUND = {"fp32": 0.99, "fp16": 0.9, "int8": 0.5}  # share of PyTorch's detections, and of the cells of their masks
SURE = DetectOptions(confidence=0.25, iou=0.45)  # the detections that are looked for
# With what lies between them, convolutions hand over 8 bits: quicker, and nearer to fp32, than convolutions alone.
INT8_OPERATIONS = ["Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"]


class Agreement(NamedTuple):
    """How near a file comes to PyTorch in fp32."""

    box: float  # largest difference of a coordinate, in sides of the input; NaN where NMS hides the slots
    score: float  # largest difference of an objectness or class; likewise
    found: int  # of PyTorch's detections
    expected: int
    images: int
    mask: float = math.nan  # share of the cells in their boxes on which masks of the same detections agree

    def __str__(self) -> str:
        raw = f"boxes within {self.box:.1e} of the side, scores within {self.score:.1e}; "
        masks = "" if math.isnan(self.mask) else f", their masks agree on {self.mask:.2%} of the cells"
        return f"{'' if math.isnan(self.box) else raw}{self.found} of {self.expected} detections found again{masks}"

    def is_enough(self, precision: str) -> bool:
        """fp16 and int8 are meant to differ, but not beyond recognition."""
        exact = precision != "fp32" or math.isnan(self.box) or max(self.box, self.score) <= TOLERANCE
        return exact and self.found >= LEAST_FOUND[precision] * self.expected and not self.mask < LEAST_FOUND[precision]


def load_exportable(options: ExportOptions) -> Trained:
    """A checkpoint that can be exported as the options say; a UserError says why one cannot."""
    is_onnx, found = EXPORT_FORMATS[options.format].is_onnx, f"expected --format onnx, found {options.format}"
    if options.int8 and not is_onnx:
        raise ConfigError(f"--int8: ONNX Runtime quantises ONNX only, {found}")
    if options.nms and "batch" in options.dynamic and not is_onnx:
        raise ConfigError(f"--nms --dynamic batch: {found}")
    trained = load_trained(str(options.weights))
    if not trained.task.is_exported:
        family = trained.config.model.family
        raise ConfigError(f"{options.weights}: only YOLO models can be exported, found the family {family}")
    return trained


def export(trained: Trained, options: ExportOptions, path: Path, index: DatasetIndex) -> Agreement:
    """Write a file, and give it its name when it agrees with PyTorch on images of a split.

    Raises:
        UserError: it does not agree, or what the format needs is not installed.
    """
    facts, form = _facts(trained, options), EXPORT_FORMATS[options.format]
    max_det = detection_limits(index, options.max_det).per_image
    lowest = lowest_scores(options.conf, facts.points, facts.names)
    chosen = DetectOptions(lowest.confidence, options.iou, max_det, by_class=lowest.by_class)
    choice = chosen if options.nms else SURE

    def network(dtype: torch.dtype = torch.float32) -> nn.Module:
        decoded = Decoded(trained.model.for_inference(), dtype)
        return (Suppressed(decoded, choice, form.is_onnx) if options.nms else decoded).eval()

    batch = max(facts.batch, 2 if "batch" in facts.dynamic else 1)  # a 1 would be traced as a fixed one
    side = max(facts.imgsz, 2 * facts.stride if "size" in facts.dynamic else 1)
    example = torch.zeros(batch, facts.channels, side, side)
    temporary = path.with_name(f".tmp_{path.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that a trace would fix, and of TorchScript's age
            form.write(network(torch.float16 if options.half else torch.float32), example, facts, temporary)
        if options.int8:
            squares = _sample_images(index, facts._replace(dynamic=()), options.calibration_images)
            _quantise(temporary, squares, facts.batch)
        if form.seal:
            form.seal(temporary)
        exported, _ = load_exported(temporary)
        agreement = _compare(exported, network(), _sample_images(index, facts, NUM_CHECKED), choice)
        if not agreement.is_enough(facts.precision):
            raise UserError(f"{path}: not written, for it differs from PyTorch: {agreement}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return agreement


def _facts(trained: Trained, options: ExportOptions) -> Facts:
    _, model, config, content = trained
    return Facts(
        names=config.data.class_names,
        channels=config.data.channels,
        white=config.data.white,
        stride=model.stride,
        smallest=model.stride * EXPORT_FORMATS[options.format].fewest_strides,
        imgsz=rounded_up(options.imgsz or config.train.imgsz, model.stride),
        batch=options.batch_size,
        dynamic=tuple(options.dynamic),
        precision="int8" if options.int8 else "fp16" if options.half else "fp32",
        nms=options.nms,
        task="segment" if trained.task.has_masks else "detect",
        yolo_lite=yolo_lite.__version__,
        source=content.get("source", ""),
        tile=config.hyp.tile,
        operating_points=OperatingPoints(**points) if (points := content.get("operating_points")) else None,
    )


def _sample_images(index: DatasetIndex, facts: Facts, most: int) -> Iterator[Tensor]:
    """Images float ``[1, channels, H, W]`` in 0..1 as the network gets them, evenly spread over a split."""
    dataset = EvaluationSet(index, ImageStore(index, facts.imgsz, "off", False), facts.canvas)
    number = min(most, len(index))
    for each in range(number):
        pixels = torch.from_numpy(dataset[each * len(index) // number].image)
        if pixels.numel():  # else it cannot be read
            yield pixels.permute(2, 0, 1)[None].contiguous().float() / 255


@torch.inference_mode()
def _compare(exported: Exported, reference: nn.Module, images: Iterable[Tensor], options: DetectOptions) -> Agreement:
    """Run a file and PyTorch's network on the same images."""
    box, score, found, expected, number = [], [], 0, 0, 0
    cells, scores = np.zeros(2, dtype=np.int64), slice(4, 5 + len(exported.facts.names))
    for image in images:
        number += 1
        ours, theirs = as_tuple(reference(image)), exported(image)
        if not exported.facts.nms:
            difference = (ours[0] - theirs[0]).abs()
            box.append(float(difference[..., :4].max()) / max(image.shape[2:]))
            score.append(float(difference[..., scores].max()))
        here, there = (detections_of(outputs, options)[0] for outputs in (ours, theirs))
        same = (here.label[:, None] == there.label) & (box_iou(here.box, there.box) > 0.5)
        found, expected = found + int(same.any(dim=1).sum()), expected + len(here.label)
        cells += _equal_cells(here, there, same)
    masks = float(cells[0] / cells[1]) if cells[1] else math.nan
    return Agreement(max(box, default=math.nan), max(score, default=math.nan), found, expected, number, masks)


def _equal_cells(here: Detections, there: Detections, same: Tensor) -> tuple[int, int]:
    """On how many cells in their boxes masks of the same detections agree, and how many cells these are."""
    if here.mask is None or there.mask is None or not same.any():
        return 0, 0
    rows = same.any(dim=1)
    cells = inside(here.box[rows] / STRIDE, *here.mask.shape[1:])
    agree = (here.mask[rows] > 0) == (there.mask[same.int().argmax(dim=1)[rows]] > 0)
    return int((agree & cells).sum()), int(cells.sum())


def _quantise(path: Path, images: Iterable[Tensor], batch: int) -> None:
    """Make the layers of an ONNX file int8, in place; the head and what follows it stay fp32.

    ONNX Runtime's static quantisation, with ranges seen on images of one shape, each ``batch`` times at once.
    """
    onnx, quantization = extra("onnx"), extra("onnxruntime.quantization")
    inputs = ({INPUT: image.expand(batch, -1, -1, -1).numpy()} for image in images)
    reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(inputs, None)})
    names = [node.name for node in onnx.load(path).graph.node if "/layers." in node.name]  # torch's
    head = max((name.split("/layers.")[1].split("/")[0] for name in names), key=int)
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
            nodes_to_quantize=[name for name in names if f"/layers.{head}/" not in name],
        )
    finally:
        logging.disable(logging.NOTSET)
