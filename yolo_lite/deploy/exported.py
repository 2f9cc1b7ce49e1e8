"""Exported models: what their files say of themselves, and how they are run."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional

from yolo_lite.config.errors import CheckpointError, ConfigError, UserError
from yolo_lite.config.options import ValOptions
from yolo_lite.data.letterbox import Canvas, canvas_size, square_canvas
from yolo_lite.deploy.graph import INPUT, select_predictions
from yolo_lite.engine.checkpoint import UNREADABLE
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.engine.validate import Subject
from yolo_lite.ops.nms import DetectOptions, survivors
from yolo_lite.structures import Compute, Detections

Run = Callable[[Tensor], tuple[Tensor, ...]]  # images as ``graph.Decoded`` takes them -> the outputs

USUAL_BATCH = 8  # pictures, of validation


class Facts(NamedTuple):
    """What an exported file says of itself, as strings of JSON in its metadata."""

    names: tuple[str, ...]  # of the classes
    channels: int  # of the pictures
    stride: int  # sides of the input are multiples of it
    smallest: int  # pixels of the shortest side that goes in
    imgsz: int  # pixels of the longest side
    batch: int  # pictures that go in at once, where that is fixed
    dynamic: tuple[str, ...]  # what is not fixed: "batch", "size"
    precision: str  # fp32, fp16 or int8
    nms: bool  # whether the outputs are detections
    task: str = "detect"
    yolo_lite: str = ""  # the version that wrote it
    source: str = ""  # where imported weights come from, and their licence

    def strings(self) -> dict[str, str]:
        return {name: json.dumps(value, ensure_ascii=False) for name, value in self._asdict().items()}

    @property
    def canvas(self) -> Canvas:
        """How large the input is for a picture: whole strides, or the one square that was exported."""
        if "size" in self.dynamic:
            return functools.partial(_canvas, stride=self.stride, smallest=self.smallest)
        return functools.partial(square_canvas, size=self.imgsz)


def _canvas(height: int, width: int, stride: int, smallest: int) -> tuple[int, int]:
    """Validation's canvas, no side of it below ``smallest``."""
    canvas = canvas_size(height, width, stride)
    return max(canvas[0], smallest), max(canvas[1], smallest)


def _facts(strings: Mapping[str, str], path: Path) -> Facts:
    try:
        return TypeAdapter(Facts).validate_python({name: json.loads(strings[name]) for name in Facts._fields})
    except (KeyError, ValueError):
        expected = ", ".join(Facts._fields)
        raise CheckpointError(f"{path}: not exported by yolo_lite: expected metadata {expected}") from None


class Exported(nn.Module):
    """A model from a file, on the CPU; pictures may come in any number."""

    def __init__(self, facts: Facts, run: Run) -> None:
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


def _onnx(path: Path) -> tuple[Mapping[str, str], Run]:
    runtime: Any = extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with _loading(path, _errors(runtime)):
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(None, {INPUT: images.contiguous().numpy()}))

    return session.get_modelmeta().custom_metadata_map, run


def _errors(runtime: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's errors, which have no base of their own."""
    values = vars(runtime.capi.onnxruntime_pybind11_state).values()
    return tuple(value for value in values if isinstance(value, type) and issubclass(value, Exception))


@contextlib.contextmanager
def _loading(path: Path, others: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    try:
        yield
    except UNREADABLE + others as error:
        raise CheckpointError(f"{path}: damaged, or not an exported model: {str(error).splitlines()[0]}") from None


def _torchscript(path: Path) -> tuple[Mapping[str, str], Run]:
    strings = dict.fromkeys(Facts._fields, "")
    with _loading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch would rather have torch.export
        module = torch.jit.load(path, "cpu", _extra_files=strings)
    return strings, lambda images: as_tuple(module(images))


def _torch_export(path: Path) -> tuple[Mapping[str, str], Run]:
    strings = dict.fromkeys(Facts._fields, "")
    if not zipfile.is_zipfile(path):  # torch would write pages about it
        raise CheckpointError(f"{path}: damaged, or not an exported model")
    with _loading(path):
        module = torch.export.load(path, extra_files=strings).module()
    return strings, lambda images: as_tuple(module(images))


LOADERS = {".onnx": _onnx, ".torchscript": _torchscript, ".pt2": _torch_export}


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an exported file."""
    return Path(path).suffix in LOADERS


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
    strings, run = LOADERS[path.suffix](path)
    facts = _facts(strings, path)
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
        names=facts.names,
        channels=facts.channels,
        size=facts.imgsz,
        canvas=facts.canvas,
        batch_size=USUAL_BATCH,
        data=None,
    )


def extra(name: str) -> Any:
    """A module of the extra ``export``."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'{name} is not installed: pip install -e ".[export]" brings it') from None


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs
