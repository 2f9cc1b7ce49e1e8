"""Exported models: how their files are read and run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError, ConfigError, UserError
from yolo_lite.config.options import ValOptions
from yolo_lite.deploy.facts import Facts, read_facts
from yolo_lite.deploy.formats import EXPORT_FORMATS, RunFile
from yolo_lite.deploy.graph import OUTPUTS, detections_of
from yolo_lite.engine.archive import ADVICE, UNKNOWN
from yolo_lite.engine.checkpoint import UNREADABLE
from yolo_lite.engine.checkpoint_fields import shown
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.engine.validate import Subject
from yolo_lite.ops.nms import DetectOptions, load_torchvision_operators
from yolo_lite.structures import Compute, Detections

NOT_ONE = "damaged, or not an exported model"


@dataclass(frozen=True)
class Exported:
    """A model from a file, on the CPU, as ``engine.tasks.Inference``; images may come in any number."""

    facts: Facts
    run: RunFile
    path: Path

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of ``graph`` for images ``[B, channels, H, W]`` in 0..1; a batch of fixed size is filled up."""
        if "batch" in self.facts.dynamic:
            return self._outputs(images)
        size, parts = self.facts.batch, []
        for part in images.split(size):
            filled = functional.pad(part, (0, 0, 0, 0, 0, 0, 0, size - len(part)))
            parts.append([output[: len(part)] for output in self._outputs(filled)])
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def _outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the file gives, if it is what its metadata promises; CheckpointError otherwise."""
        try:
            outputs = self.run(images)
        except UNREADABLE as error:
            told = f"cannot be run on images {list(images.shape)}: {first_line(error)}"
            raise CheckpointError(f"{self.path}: {told}") from error
        facts = self.facts
        if not are_outputs(outputs, len(images), facts.nms, len(facts.names), facts.task):
            found = ", ".join(map(shown, outputs))
            kind = f"{'with' if facts.nms else 'without'} NMS{', with masks' if facts.task == 'segment' else ''}"
            expected = f"those of {len(facts.names)} classes {kind}"
            raise CheckpointError(f"{self.path}: expected outputs as its metadata says, {expected}, found {found}")
        return outputs

    def for_inference(self) -> Exported:
        return self

    def grid(self, height: int, width: int) -> None:
        """None: the file does not say where its slots lie."""

    def detections(self, raw: tuple[Tensor, ...], size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        """Detections of each image; where NMS is in the file, the options can but choose from what it left."""
        return detections_of(raw, options)


def are_outputs(outputs: Sequence[Any], num_images: int, nms: bool, num_classes: int, task: str = "detect") -> bool:
    """Whether a file's outputs have the shapes, and labels and counts the range, that ``graph`` gives them."""
    if len(outputs) != len(OUTPUTS[task][nms]) or not all(isinstance(output, Tensor) for output in outputs):
        return False
    maps = outputs[-1] if task == "segment" else None
    if maps is not None and not (maps.is_floating_point() and maps.ndim == 4 and len(maps) == num_images):
        return False
    if nms:
        return _are_found(outputs, num_images, num_classes) and (maps is None or maps.shape[1] == outputs[1].shape[1])
    predictions, columns = outputs[0], 5 + num_classes + (0 if maps is None else maps.shape[1])
    is_real = predictions.is_floating_point() and predictions.ndim == 3
    return is_real and predictions.shape[::2] == (num_images, columns)


def _are_found(outputs: Sequence[Tensor], num_images: int, num_classes: int) -> bool:
    """Whether outputs are those of ``graph.Suppressed``, masks apart."""
    boxes, scores, labels, counts = outputs[:4]
    if scores.ndim != 2 or not (boxes.is_floating_point() and scores.is_floating_point()):
        return False
    shapes = boxes.shape == (*scores.shape, 4) and labels.shape == scores.shape and counts.shape == (num_images,)
    whole = {labels.dtype, counts.dtype} == {torch.int64} and len(scores) == num_images
    return shapes and whole and _within(labels, num_classes - 1) and _within(counts, scores.shape[1])


def _within(values: Tensor, most: int) -> bool:
    return bool(((values >= 0) & (values <= most)).all())


def first_line(error: BaseException) -> str:
    """What a library says, in a line."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:300]


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
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    form = next(form for form in reversed(EXPORT_FORMATS.values()) if form.suffix == path.suffix)
    load_torchvision_operators()  # NMS in a file is one of them
    try:
        strings, run = form.load(path)
        facts = read_facts(strings)
    except CheckpointError as error:
        said = str(error).replace(ADVICE, "export it again")  # what is advised for the checkpoints of a run
        reason = said.removeprefix(UNKNOWN)
        raise CheckpointError(f"{path}: {'' if reason == said else NOT_ONE}{reason}") from None
    except UserError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: {NOT_ONE}: {first_line(error)}") from None
    if imgsz and imgsz != facts.imgsz:
        if "size" not in facts.dynamic:
            raise ConfigError(f"--imgsz {imgsz}: {path} takes {facts.imgsz} px only; export it with --dynamic size")
        facts = facts._replace(imgsz=rounded_up(imgsz, facts.stride))
    return Exported(facts, run, path), choose_compute("cpu", "fp32", channels_last=False)


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
        has_masks=facts.task == "segment",
        source=facts.source,
        tile=facts.tile,
        points=facts.points,
    )
