"""Exported models: how their files are read and run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError, ConfigError, UserError
from yolo_lite.config.options import ValOptions
from yolo_lite.deploy.formats import EXPORT_FORMATS, Facts, RunFile
from yolo_lite.deploy.graph import detections_of
from yolo_lite.engine.checkpoint import UNREADABLE
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.engine.validate import Subject
from yolo_lite.ops.nms import DetectOptions, load_torchvision_operators
from yolo_lite.structures import Compute, Detections


@dataclass(frozen=True)
class Exported:
    """A model from a file, on the CPU, as ``engine.tasks.Inference``; images may come in any number."""

    facts: Facts
    run: RunFile

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of ``graph`` for images ``[B, channels, H, W]`` in 0..1; a batch of fixed size is filled up."""
        if "batch" in self.facts.dynamic:
            return self.run(images)
        size, parts = self.facts.batch, []
        for part in images.split(size):
            filled = functional.pad(part, (0, 0, 0, 0, 0, 0, 0, size - len(part)))
            parts.append([output[: len(part)] for output in self.run(filled)])
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def for_inference(self) -> Exported:
        return self

    def grid(self, height: int, width: int) -> None:
        """None: the file does not say where its slots lie."""

    def detections(self, raw: tuple[Tensor, ...], size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        """Detections of each image; where NMS is in the file, the options can but choose from what it left."""
        return detections_of(raw, options)


def is_exported(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix in {form.suffix for form in EXPORT_FORMATS.values()}


def load_exported(path: str | os.PathLike[str], device: str = "", imgsz: int | None = None) -> tuple[Exported, Compute]:
    """A file of ``yolo-lite export``, for images of ``imgsz`` pixels or as exported; it is computed on the CPU.

    TorchScript and torch.export files are programs: load those that you trust.

    Raises:
        UserError: the file, the device or the size cannot be used, or ONNX Runtime is not installed.
    """
    path = Path(path)
    if device not in ("", "cpu"):
        raise ConfigError(f"--device {device}: exported models run on the CPU here, expected cpu")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    form = next(form for form in reversed(EXPORT_FORMATS.values()) if form.suffix == path.suffix)
    load_torchvision_operators()  # NMS in a file is one of them
    try:
        strings, run = form.load(path)
    except UserError:
        raise
    except UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path}: damaged, or not an exported model: {reason}") from None
    known = [name for name in Facts._fields if name in strings or name not in Facts._field_defaults]
    try:
        facts = TypeAdapter(Facts).validate_python({name: json.loads(strings[name]) for name in known})
    except (KeyError, ValueError):
        expected = ", ".join(Facts._fields)
        raise CheckpointError(f"{path}: not exported by yolo_lite: expected metadata {expected}") from None
    if imgsz and imgsz != facts.imgsz:
        if "size" not in facts.dynamic:
            raise ConfigError(f"--imgsz {imgsz}: {path} takes {facts.imgsz} px only; export it with --dynamic size")
        facts = facts._replace(imgsz=rounded_up(imgsz, facts.stride))
    return Exported(facts, run), choose_compute("cpu", "fp32", channels_last=False)


def exported_subject(options: ValOptions) -> Subject:
    """What val.py validates where ``--weights`` is an exported file."""
    model, compute = load_exported(options.weights, str(options.device), options.imgsz)
    facts = model.facts
    return Subject(
        model,
        criterion=None,
        compute=compute,
        data=DatasetConfig(names=facts.names, channels=facts.channels, max_value=facts.white),
        data_file="",
        size=facts.imgsz,
        canvas=facts.canvas,
        batch_size=8,
    )
