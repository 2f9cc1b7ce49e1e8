"""The options of every command: from these sections come the flags of the command line and the Python functions.

A field is an option, its name with dashes the flag; its description is the help text. Options that several commands
share are named types. None means "not given" everywhere. What is accepted may be wider than what a section holds:
paths become text, one word becomes a tuple of words, numpy's numbers become Python's.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from yolo_lite.config.seams import Section
from yolo_lite.config.types import Count, ImageSize, Seed

DEFAULT_DATA = "data/shapes.yaml"  # the embedded set


class Flag(NamedTuple):
    """How the command line writes an option, where its name and type do not say it."""

    word: str | None = None  # "-o" beside the field's name, "--json" instead of it
    metavar: str | None = None
    positional: bool = False


class Options(Section):
    """What the options of all commands have in common."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """Leaves out what is None, so that the default stands, and makes Python's numbers of numpy's."""
        plain = {name: value.item() if _is_numpy_number(value) else value for name, value in given.items()}
        return {name: value for name, value in plain.items() if value is not None}


def _is_numpy_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) and hasattr(value, "item")


# ------------------------------------------------------------------------------------------------- kinds of values


def _path(value: Any) -> str:
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    raise ValueError(f"expected text or a path, found {value!r}")


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, (str, int, os.PathLike)) for v in values):
        raise ValueError(f"expected text or a list of texts, found {value!r}")
    return tuple(str(value) for value in values)


def _lists_of_texts(value: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(map(_texts, value))


def _overrides(value: Any) -> tuple[str, ...]:
    """``{"mosaic": 0}`` as ``("mosaic=0",)``; texts ``"key=value"`` are taken as they are."""
    if isinstance(value, Mapping):
        return tuple(f"{key}={item if isinstance(item, str) else _json(key, item)}" for key, item in value.items())
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected a dict of keys and values, found {value!r}")
    return tuple(texts)


def _json(key: Any, value: Any) -> str:
    try:
        return json.dumps(value, default=lambda number: number.item())  # JSON is YAML
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{key}: expected a plain value, found {value!r}") from None


def _resume(value: Any) -> Any:
    return (value or None) if value is None or isinstance(value, bool) else _path(value)


def _batch_size(value: Any) -> Any:
    if value in (None, "auto") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"expected 1 or more, or auto, found {value!r}")


def _save_period(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, (int, float)) else value


def _within(low: int, high: int) -> AfterValidator:
    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"expected {low}..{high}, found {value}")
        return value

    return AfterValidator(check)


def default_workers() -> int:
    """One process a core that this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1), 8)  # torchrun's processes share them


StrPath = Annotated[str | os.PathLike[str], PlainValidator(_path)]
Texts = Annotated[Sequence[str], PlainValidator(_texts)]

# ------------------------------------------------------------------------------------- options of several commands

Data = Annotated[StrPath, Field(description="dataset YAML, or the name of one that yolo_lite brings; shapes is drawn")]
TrainedData = Annotated[StrPath | None, Field(description="dataset YAML (default: the one it was trained with)")]
Model = Annotated[StrPath, Field(description="model YAML, or the name of one that yolo_lite brings")]
Hyperparameters = Annotated[StrPath, Field(description="hyperparameter YAML")]
Overrides = Annotated[
    Mapping[str, Any] | Sequence[str],
    PlainValidator(_overrides),
    Flag(metavar="KEY=VALUE"),
    Field(description="override keys of hyp.yaml; data.KEY and model.KEY override the other two files"),
]
Plugins = Annotated[
    StrPath | Sequence[StrPath],
    PlainValidator(_texts),
    Flag(metavar="FILE.py"),
    Field(description="Python files of yours with blocks, losses, assigners or augmentations"),
]
Checkpoint = Annotated[StrPath, Field(description="checkpoint, such as runs/train/exp/weights/best.pt")]
CheckpointOrExported = Annotated[
    StrPath, Field(description="checkpoint, such as runs/train/exp/weights/best.pt, or an exported file")
]
SuggestedSize = Annotated[
    ImageSize | None,
    Field(description="longest side in pixels (default: what the dataset YAML suggests, else 640)"),
]
TrainedSize = Annotated[Count | None, Field(description="longest side in pixels (default: as trained)")]
Device = Annotated[
    str | int,
    PlainValidator(str),
    Field(description="cpu, 0, cuda:1, mps (default: a GPU if there is one)"),
]
Workers = Annotated[int, Field(ge=0, description="processes that load data (default: one for each core, at most 8)")]
Confidence = Annotated[float, _within(0, 1), Field(description="lowest confidence")]
Overlap = Annotated[float, _within(0, 1), Field(description="IoU above which NMS drops a box")]
MaxDetections = Annotated[Count, Field(description="most detections in an image")]
Classes = Annotated[Texts, Flag(metavar="NAME"), Field(description="only these classes (default: all)")]
Split = Literal["train", "val", "test"]
Project = Annotated[StrPath, Field(description="folder of runs")]
Folder = Annotated[str, PlainValidator(_path)]
Name = Annotated[Folder, Field(description="folder of this run; a number is added if it exists")]
ExistOk = Annotated[bool, Field(description="write into an existing folder")]


# -------------------------------------------------------------------------------------------------------- commands


class RunOptions(Options):
    """What is trained, and how."""

    cfg: Model = "cfg/yolo_s.yaml"
    hyp: StrPath | None = Field(
        default=None,
        description="hyperparameter YAML (default: cfg/hyp.yaml; for Faster R-CNN cfg/hyp_faster_rcnn.yaml)",
    )
    data: Data = DEFAULT_DATA
    weights: StrPath | None = Field(default=None, description="checkpoint to start from (default: from scratch)")
    epochs: Count | None = Field(default=None, description="default: what the dataset YAML suggests, else 100")
    batch_size: Annotated[int | Literal["auto"] | None, PlainValidator(_batch_size), Flag(metavar="N")] = Field(
        default=None,
        description="over all processes; auto: the largest power of two that fits on the GPU (default: what the "
        "dataset YAML suggests, else 16)",
    )
    imgsz: SuggestedSize = None
    device: Device = ""
    workers: Workers = Field(default_factory=default_workers)
    seed: Seed = Field(default=0, description="one seed, one run")
    optimizer: Literal["SGD", "AdamW"] | None = Field(
        default=None, description="default: the key in hyp.yaml; see the comment there"
    )
    set: Overrides = ()
    plugin: Plugins = ()


class TrainOptions(RunOptions):
    """Train a detector, or go on with a run."""

    project: Project = "runs/train"
    name: Name = "exp"
    exist_ok: ExistOk = False
    no_figures: bool = Field(default=False, description="no curves, images and graph: they take seconds")
    resume: Annotated[bool | StrPath | None, PlainValidator(_resume)] = Field(
        default=None, description="go on with a run: its folder or last.pt, or the latest below --project"
    )
    save_period: Annotated[str | float | None, PlainValidator(_save_period), Flag(metavar="N")] = Field(
        default=None,
        description="write last.pt every N epochs, 0.25 for four times an epoch, or 10min for every ten minutes and "
        "after each epoch (default: 1)",
    )


class ValOptions(Options):
    """Validate a checkpoint."""

    weights: CheckpointOrExported
    data: TrainedData = None
    split: Split = Field(default="val", description="part of the dataset")
    imgsz: TrainedSize = None
    batch_size: Count | None = Field(default=None, description="default: as trained; the result does not depend on it")
    device: Device = ""
    workers: Workers = Field(default_factory=default_workers)
    conf: Confidence = 0.001
    iou: Overlap = 0.6
    max_det: MaxDetections = 300
    classes: Classes = ()
    save_json: bool = Field(
        default=False, description="write predictions.json, COCO's results, and ground_truth.json, with boxes in pixels"
    )
    save_txt: bool = Field(
        default=False,
        description="write labels/<image>.txt, rows of class cx cy w h confidence in fractions of the image",
    )
    plugin: Plugins = ()
    project: Project = "runs/val"
    name: Name = "exp"
    exist_ok: ExistOk = False


class PredictOptions(Options):
    """Detect on images, videos, cameras and streams."""

    weights: CheckpointOrExported
    source: Texts = Field(
        description="images and videos: files, folders, glob patterns, list files; the number of a camera; the URL of "
        "a stream (rtsp, rtmp, udp, http)"
    )
    imgsz: TrainedSize = None
    batch_size: Count = Field(default=8, description="images at once; the result does not depend on it")
    device: Device = ""
    conf: Confidence = 0.25
    iou: Overlap = 0.45
    max_det: MaxDetections = 300
    classes: Classes = ()
    agnostic_nms: bool = Field(
        default=False, description="a better box of any class drops a box, not only one of its own class"
    )
    no_save: bool = Field(default=False, description="no annotated images and videos")
    save_txt: bool = Field(
        default=False, description="labels/*.txt: class cx cy w h confidence, in fractions of the image"
    )
    save_json: bool = Field(default=False, description="predictions.json: boxes xyxy in pixels, names, scores")
    save_crop: bool = Field(default=False, description="crops/CLASS/*.jpg")
    plugin: Plugins = ()
    project: Project = "runs/predict"
    name: Name = "exp"
    exist_ok: ExistOk = False


class ImportOptions(Options):
    """Make a checkpoint of weights of YOLOv5 v6 or v7; no code in them is run."""

    weights: Annotated[StrPath, Flag(metavar="FILE", positional=True)] = Field(
        description="a checkpoint (.pt), or its state dict (.npz, .safetensors)"
    )
    output: Annotated[StrPath, Flag("-o", metavar="FILE")] = Field(description="the checkpoint to write")
    cfg: StrPath | None = Field(default=None, description="model YAML, for a state dict; a checkpoint brings its own")
    data: StrPath | None = Field(
        default=None,
        description="dataset YAML with the names of the classes, for a state dict; a checkpoint brings its own",
    )
    exist_ok: bool = Field(default=False, description="overwrite an existing file")


class ExportOptions(Options):
    """Write a YOLO checkpoint as ONNX, TorchScript or torch.export."""

    weights: Checkpoint
    format: str = Field(default="onnx", description="what is written: onnx, torchscript, torch_export")
    output: Annotated[StrPath | None, Flag("-o", metavar="FILE")] = Field(
        default=None, description="default: beside the checkpoint: .onnx, .torchscript or .pt2"
    )
    imgsz: Count | None = Field(
        default=None, description="pixels of the longest side; images fill a square of it (default: as trained)"
    )
    batch_size: Count = Field(default=1, description="images that go in at once")
    dynamic: Annotated[Sequence[Literal["batch", "size"]], PlainValidator(_texts)] = Field(
        default=(), description="what the file leaves open"
    )
    half: bool = Field(default=False, description="fp16 weights and layers; inputs and outputs stay fp32")
    int8: bool = Field(default=False, description="int8 convolutions, ONNX only, calibrated on --data")
    nms: bool = Field(default=False, description="NMS in the file: boxes, scores, labels, counts come out")
    conf: Confidence = Field(default=0.25, description="of --nms: lowest confidence")
    iou: Overlap = Field(default=0.45, description="of --nms: IoU above which a box is dropped")
    max_det: MaxDetections = Field(default=300, description="of --nms: most detections in an image")
    data: StrPath | None = Field(
        default=None,
        description="dataset YAML, images to check and calibrate with (default: the one it was trained with)",
    )
    split: Split = Field(default="train", description="of --data")
    calibration_images: Annotated[Count, Flag(metavar="N")] = Field(default=128, description="for --int8")
    exist_ok: bool = Field(default=False, description="overwrite an existing file")
    plugin: Plugins = ()

    @model_validator(mode="after")
    def _one_precision(self) -> ExportOptions:
        if self.half and self.int8:
            raise ValueError("expected one of half and int8, found both")
        return self


class CompareOptions(RunOptions):
    """Train variants with the same seeds and tell differences from noise.

    The same command goes on where it was stopped.
    """

    vary: Annotated[str | None, Flag(metavar="KEY=A,B,...")] = Field(
        default=None, description="a key of hyp.yaml, or model.KEY, data.KEY, and its values"
    )
    variant: Annotated[Sequence[Sequence[str]], PlainValidator(_lists_of_texts), Flag(metavar="KEY=VALUE")] = Field(
        default=(), description="one variant, several keys at once; once for each variant"
    )
    seeds: Count = Field(default=3, description="seeds of each variant, from --seed on")
    project: Annotated[StrPath, Field(description="folder of comparisons")] = "runs/compare"
    name: Annotated[Folder, Field(description="folder of this comparison")] = "exp"


class ShowOptions(Options):
    """Draw the first training batches as the network would see them, with their boxes."""

    data: Data = DEFAULT_DATA
    hyp: Hyperparameters = "cfg/hyp.yaml"
    imgsz: SuggestedSize = None
    batches: Annotated[int, _within(1, 1000)] = Field(default=2, description="how many, of 8 images each")
    seed: Seed = Field(default=0, description="shows what a run of this seed begins with")
    set: Overrides = ()
    plugin: Plugins = ()
    project: Project = "runs/show"
    name: Name = "exp"


class LossesOptions(Options):
    """List every loss."""

    plugin: Plugins = ()


class ConvertOptions(Options):
    """Write a dataset's labels in another format: YOLO, VOC, COCO.

    A new dataset YAML lies beside them, in a folder of their own.
    """

    data: Data = DEFAULT_DATA
    to: Literal["yolo", "voc", "coco"] = Field(description="the format to write")
    out: Annotated[StrPath, Flag(metavar="DIR")] = Field(description="a new folder, outside the dataset")
    polygons: bool = Field(default=False, description="yolo: rows with outlines instead of boxes, where they are known")
    copy_images: bool = Field(default=False, description="copy the images too (default: they are found where they are)")


class DownloadOptions(Options):
    """Fetch a public set: coco128, voc, coco; verify and unpack it.

    The same command goes on where it was stopped.
    """

    name: Annotated[StrPath, Flag(metavar="NAME", positional=True)] = Field(
        description="coco128, voc, coco, or a dataset YAML with the key download"
    )
    into: Annotated[StrPath | None, Flag(metavar="FOLDER")] = Field(
        default=None, description="where it shall be (default: the key path of its YAML)"
    )


class FitOptions(Options):
    """A dataset as a model would see it."""

    data: Data = DEFAULT_DATA
    cfg: Annotated[StrPath, Field(description="model YAML, for its anchors")] = "cfg/yolo_s.yaml"
    hyp: Annotated[StrPath, Field(description="hyperparameter YAML, for anchor_t")] = "cfg/hyp.yaml"
    imgsz: SuggestedSize = None
    set: Overrides = ()


class CheckOptions(FitOptions):
    """Find what is wrong with a dataset.

    Reads all of it as training would. Nothing in it is changed. Exit status 1 where training would be harmed.
    """

    as_json: Annotated[bool, Flag("--json")] = Field(default=False, description="print the whole report as JSON")
    fix_into: Annotated[StrPath | None, Flag(metavar="DIR")] = Field(
        default=None, description="write a copy without what is wrong into a new folder outside the dataset"
    )
    project: Annotated[StrPath, Field(description="folder of reports")] = "runs/check"
    name: Annotated[Folder, Field(description="folder of this report; a number is added if it exists")] = "exp"
    exist_ok: ExistOk = False


class AnchorsOptions(FitOptions):
    """Find anchors that fit the objects of the train split, for the model YAML. No file is changed."""

    seed: Annotated[int, _within(0, 2**31)] = Field(default=0, description="of the k-means")


COMMANDS: dict[str, type[Options]] = {
    "train": TrainOptions,
    "val": ValOptions,
    "predict": PredictOptions,
    "import": ImportOptions,
    "export": ExportOptions,
    "compare": CompareOptions,
    "show": ShowOptions,
    "losses": LossesOptions,
    "convert": ConvertOptions,
    "download": DownloadOptions,
    "check": CheckOptions,
    "anchors": AnchorsOptions,
}
