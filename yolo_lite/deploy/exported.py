"""Exported models: what their files say of themselves, and how they are run."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.options import ValOptions
from yolo_lite.deploy.formats import EXPORT_FORMATS, Facts, RunFile, read_facts
from yolo_lite.deploy.graph import select_predictions
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.engine.validate import Subject
from yolo_lite.ops.nms import DetectOptions, survivors
from yolo_lite.structures import Compute, Detections

USUAL_BATCH = 8  # images, of validation


class Exported(nn.Module):
    """A model from a file, on the CPU; images may come in any number."""

    def __init__(self, facts: Facts, run: RunFile) -> None:
        super().__init__()
        self.facts, self.run = facts, run

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of ``graph`` for images ``[B, channels, H, W]`` in 0..1; a batch of fixed size is filled up."""
        if "batch" in self.facts.dynamic:
            return self.run(images)
        size, parts = self.facts.batch, []
        for part in images.split(size):
            filled = functional.pad(part, (0, 0, 0, 0, 0, 0, 0, size - len(part)))
            parts.append([output[: len(part)] for output in self.run(filled)])
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def for_inference(self) -> Exported:
        """The model itself."""
        return self

    def grid(self, height: int, width: int) -> None:
        """None: the file does not say where its slots lie."""

    def detections(self, raw: tuple[Tensor, ...], size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        """Detections of each image; where NMS is in the file, the options can but choose from what it left."""
        return detections_of(raw, options)


def detections_of(outputs: tuple[Tensor, ...], options: DetectOptions) -> list[Detections]:
    """Detections of each image from the outputs of ``graph``, with or without NMS."""
    if len(outputs) == 1:
        return select_predictions(outputs[0], options)
    images = (Detections(*(c[: int(count)] for c in columns)) for *columns, count in zip(*outputs, strict=True))
    return [survivors(found.select(found.score > options.confidence), options) for found in images]


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an exported file."""
    return Path(path).suffix in {form.suffix for form in EXPORT_FORMATS.values()}


def load_exported(path: str | os.PathLike[str], device: str = "", imgsz: int | None = None) -> tuple[Exported, Compute]:
    """A file of ``yolo-lite export``, and how it is computed: on the CPU.

    TorchScript and torch.export files are programs: load those that you trust.

    Args:
        imgsz: pixels of the longest side; None: as exported.

    Raises:
        UserError: the file, the device or the size cannot be used, or ONNX Runtime is not installed.
    """
    path = Path(path)
    if device not in ("", "cpu"):
        raise ConfigError(f"--device {device}: exported models run on the CPU here, expected cpu")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    form = next(form for form in reversed(EXPORT_FORMATS.values()) if form.suffix == path.suffix)
    strings, run = form.load(path)
    facts = read_facts(strings, path)
    if imgsz and imgsz != facts.imgsz:
        if "size" not in facts.dynamic:
            raise ConfigError(f"--imgsz {imgsz}: {path} takes {facts.imgsz} px only; export it with --dynamic size")
        facts = facts._replace(imgsz=rounded_up(imgsz, facts.stride))
    return Exported(facts, run), choose_compute("cpu", "fp32", channels_last=False)


def exported_subject(options: ValOptions) -> Subject:
    """What val.py validates where ``--weights`` is an exported file."""
    exported, compute = load_exported(options.weights, str(options.device), options.imgsz)
    facts = exported.facts
    return Subject(
        exported,
        criterion=None,
        compute=compute,
        data=DatasetConfig(names=facts.names, channels=facts.channels),
        data_file="",
        size=facts.imgsz,
        canvas=facts.canvas,
        batch_size=USUAL_BATCH,
    )
