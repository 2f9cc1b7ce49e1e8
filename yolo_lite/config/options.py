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

from yolo_lite.config.bounds import check_path, check_text
from yolo_lite.config.confidence import confidence_choice
from yolo_lite.config.seams import Section
from yolo_lite.config.types import Count, CountOrZero, Fraction, ImageSize, Seed, Tile, described

DEFAULT_DATA = "data/shapes.yaml"  # the embedded set


class Flag(NamedTuple):
    """How the command line writes an option, where its name and type do not say it."""

    word: str | None = None  # "-o" beside the field's name, "--json" instead of it
    metavar: str | None = None
    positional: bool = False


def option(default: Any, text: str) -> Any:
    """A field with a default, and its help text."""
    return Field(default=default, description=text)


class Options(Section):
    """What the options of all commands have in common."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """Leaves out what is None, so that the default stands, and makes Python's numbers of numpy's."""
        kept = {name: value for name, value in given.items() if value is not None}
        numpys = {name: v.item() for name, v in kept.items() if isinstance(v, numbers.Number) and hasattr(v, "item")}
        return {**kept, **numpys}


def _path(value: Any) -> str:
    if isinstance(value, (str, os.PathLike)):
        return check_path(os.fsdecode(value))
    raise ValueError(f"expected text or a path, found {value!r}")


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, (str, int, os.PathLike)) for v in values):
        raise ValueError(f"expected text or a list of texts, found {value!r}")
    return tuple(check_path(str(value)) for value in values)


def _resume(value: Any) -> Any:
    if value == "":  # as a shell writes a variable that is not set: the latest run, not a new one
        return True
    return (value or None) if value is None or isinstance(value, bool) else _path(value)


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
        return json.dumps(value, default=lambda number: number.item(), ensure_ascii=False)  # JSON is YAML
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{key}: expected a plain value, found {value!r}") from None


def default_workers() -> int:
    """One process a core that this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1), 8)  # torchrun's processes share them


StrPath = Annotated[str | os.PathLike[str], PlainValidator(_path)]
Written = Annotated[StrPath, AfterValidator(check_text)]
Texts = Annotated[Sequence[str], PlainValidator(_texts)]

# Options of several commands.
Data = Annotated[
    StrPath, Field(description="dataset YAML, an export (see adopt), or the name of a YAML that yolo_lite brings")
]
_CHOSEN = "dataset YAML, an export (see adopt), or the name of a brought YAML (default: shapes; for masks shapes_holes)"
ChosenData = Annotated[StrPath | None, Field(description=_CHOSEN)]
TrainedData = Annotated[StrPath | None, Field(description="dataset YAML or export (default: what it was trained with)")]
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
    Field(description="your Python files with blocks, losses, assigners, augmentations, ..."),
]
Checkpoint = Annotated[StrPath, Field(description="checkpoint, such as runs/train/exp/weights/best.pt")]
CheckpointOrExported = Annotated[StrPath, Field(description="checkpoint (exp/weights/best.pt) or an exported file")]
SuggestedSize = Annotated[
    ImageSize | None, Field(description="longest side in pixels (default: the dataset's, or 640)")
]
TrainedSize = Annotated[Count | None, Field(description="longest side in pixels (default: as trained)")]
Device = Annotated[str | int, PlainValidator(str), Field(description="cpu, 0, cuda:1, mps (default: a GPU if any)")]
Workers = Annotated[CountOrZero, Field(description="processes that load data (default: one for each core, at most 8)")]
Confidence = Annotated[Fraction, described("0..1"), Field(description="lowest confidence")]
_LOWEST = "lowest confidence: 0.3; f1, precision, recall as val found them; cat=0.4,dog=0.6; auto: f1 if known, or 0.25"
ChosenConfidence = Annotated[
    float | str | Mapping[str, float], PlainValidator(confidence_choice), Field(description=_LOWEST)
]
Wanted = Annotated[Fraction | None, described("0..1"), Flag(metavar="P")]
Overlap = Annotated[Fraction, described("0..1"), Field(description="IoU above which NMS drops a box")]
ChosenTile = Annotated[
    Tile | None,
    Field(description="also look at windows of so many pixels of larger images; 0: none (default: as trained)"),
]
TileOverlap = Annotated[
    float, Field(ge=0, le=0.9, description="least share of a window that the next one sees too"), described("0..0.9")
]
MaxDetections = Annotated[Count, Field(description="most detections in an image")]
Classes = Annotated[Texts, Flag(metavar="NAME"), Field(description="only these classes (default: all)")]
Split = Literal["train", "val", "test"]
Project = Annotated[Written, Field(description="folder of runs")]
Folder = Annotated[str, PlainValidator(_path), AfterValidator(check_text)]
Name = Annotated[Folder, Field(description="folder of this run; a number is added if it exists")]
ExistOk = Annotated[bool, Field(description="write into an existing folder")]
Overwrite = Annotated[bool, Field(description="overwrite an existing file")]
SAVE_TXT = (
    "labels/*.txt: class cx cy w h confidence, or of masks class x y x y ... confidence, in fractions of the image"
)
SaveTxt = Annotated[bool, Field(description=SAVE_TXT)]


class RunOptions(Options):
    """What is trained, and how."""

    cfg: Model = "cfg/yolo_s.yaml"
    hyp: StrPath | None = option(None, "hyperparameter YAML (default: cfg/hyp.yaml or cfg/hyp_faster_rcnn.yaml)")
    data: ChosenData = None
    weights: StrPath | None = option(None, "checkpoint to start from (default: from scratch)")
    epochs: Count | None = option(None, "default: what the dataset YAML suggests, else 100")
    batch_size: Annotated[Count | Literal["auto"] | None, described("1 or more, or auto"), Flag(metavar="N")] = option(
        None, "over all processes; auto: the largest power of two that fits on the GPU (default: the dataset's, or 16)"
    )
    imgsz: SuggestedSize = None
    device: Device = ""
    workers: Workers = Field(default_factory=default_workers)
    seed: Seed = option(0, "one seed, one run")
    optimizer: Literal["SGD", "AdamW"] | None = option(None, "default: the key in hyp.yaml; see the comment there")
    set: Overrides = ()
    plugin: Plugins = ()


class TrainOptions(RunOptions):
    """Train a detector, or go on with a run."""

    project: Project = "runs/train"
    name: Name = "exp"
    exist_ok: ExistOk = False
    no_figures: bool = option(False, "no curves, images and graph: they take seconds")
    download: bool = option(False, "fetch the pretrained weights that the model YAML names, if they are not here")
    resume: Annotated[bool | StrPath | None, PlainValidator(_resume)] = option(
        None, "go on with a run: its folder or last.pt, or the latest below --project"
    )
    changed_data: bool = option(False, "with --resume: the dataset is no longer what the run began with, go on with it")
    precision: Wanted = option(None, "find from which confidence on best.pt reaches it, see --conf of predict")
    recall: Wanted = option(None, "find up to which confidence best.pt reaches it")
    save_period: Annotated[
        str | float | None, described("a number of epochs, or minutes such as 10min"), Flag(metavar="N")
    ] = option(
        None,
        "write last.pt every N epochs (0.25: four times an epoch), or 10min: as often, and each epoch (default: 1)",
    )


class ValOptions(Options):
    """Validate a checkpoint."""

    weights: CheckpointOrExported
    data: TrainedData = None
    split: Split = option("val", "part of the dataset")
    imgsz: TrainedSize = None
    tile: ChosenTile = None
    overlap: TileOverlap = 0.2
    batch_size: Count | None = option(None, "default: as trained; scores of other sizes agree to rounding")
    device: Device = ""
    workers: Workers = Field(default_factory=default_workers)
    conf: Confidence = 0.001
    iou: Overlap = 0.6
    max_det: Count | None = option(
        None, "most detections of an image (default: 300, or twice the objects of the most crowded image)"
    )
    coco_rules: bool = option(False, "AP counts 100 detections of an image and class, however crowded the images are")
    classes: Classes = ()
    precision: Wanted = option(None, "find the lowest confidence that reaches it, for each class and all")
    recall: Wanted = option(None, "find the highest confidence that reaches it")
    save_points: bool = option(False, "keep what was found in the checkpoint, for predict and export")
    save_json: bool = option(False, "predictions.json and ground_truth.json in COCO's format, in pixels")
    save_txt: SaveTxt = False
    review: bool = option(False, "review/review.html: its mistakes as images, doubtful labels as YOLO and COCO rows")
    plugin: Plugins = ()
    project: Project = "runs/val"
    name: Name = "exp"
    exist_ok: ExistOk = False


class PredictOptions(Options):
    """Detect on images, videos, cameras and streams."""

    weights: CheckpointOrExported
    source: Annotated[
        Texts,
        Field(description="images, videos, folders, patterns, list files; a camera; a URL (rtsp, rtmp, udp, http)"),
    ]
    imgsz: TrainedSize = None
    tile: ChosenTile = None
    overlap: TileOverlap = 0.2
    batch_size: Count = option(8, "images or windows at once; scores of other sizes agree to rounding")
    device: Device = ""
    half: bool = option(False, "compute in 16 bits, whatever the checkpoint says; on a GPU, or a CPU that does")
    conf: ChosenConfidence = "auto"
    iou: Overlap = 0.45
    max_det: MaxDetections = 300
    classes: Classes = ()
    agnostic_nms: bool = option(False, "a better box of any class drops a box, not only one of its own class")
    no_save: bool = option(False, "no annotated images and videos")
    save_txt: SaveTxt = False
    save_json: bool = option(False, "predictions.json: boxes xyxy in pixels, names, scores, masks as RLE")
    save_crop: bool = option(False, "crops/CLASS/*.jpg; of masks *.png, transparent outside")
    save_background: Annotated[Written | None, Flag(metavar="DIR")] = option(
        None, "where nothing is: a new folder for images with detections, which are false, to train with as background"
    )
    plugin: Plugins = ()
    project: Project = "runs/predict"
    name: Name = "exp"
    exist_ok: ExistOk = False


class ImportOptions(Options):
    """Make a checkpoint of weights of YOLOv5 v6 or v7; no code in them is run."""

    weights: Annotated[
        StrPath,
        Flag(metavar="FILE", positional=True),
        Field(description="a checkpoint (.pt), or its state dict (.npz, .safetensors)"),
    ]
    output: Annotated[StrPath, Flag("-o", metavar="FILE"), Field(description="the checkpoint to write")]
    cfg: StrPath | None = option(None, "model YAML, for a state dict; a checkpoint brings its own")
    data: StrPath | None = option(None, "dataset YAML with the class names, for a state dict; a checkpoint has its own")
    exist_ok: Overwrite = False


class ExportOptions(Options):
    """Write a YOLO checkpoint as ONNX, TorchScript or torch.export."""

    weights: Checkpoint
    format: str = option("onnx", "what is written: onnx, torchscript, torch_export")
    output: Annotated[Written | None, Flag("-o", metavar="FILE")] = option(
        None, "default: beside the checkpoint: .onnx, .torchscript or .pt2"
    )
    imgsz: Count | None = option(None, "longest side in pixels; images fill a square of it (default: as trained)")
    batch_size: Count = option(1, "images that go in at once")
    dynamic: Annotated[Sequence[Literal["batch", "size"]], PlainValidator(_texts)] = option((), "what stays open")
    half: bool = option(False, "fp16 weights and layers; inputs and outputs stay fp32")
    int8: bool = option(False, "int8 convolutions, ONNX only, calibrated on --data")
    nms: bool = option(False, "NMS in the file: boxes, scores, labels, counts come out")
    conf: ChosenConfidence = option("auto", "of --nms: lowest confidence, as of predict")
    iou: Overlap = option(0.45, "of --nms: IoU above which a box is dropped")
    max_det: Count | None = option(
        None, "of --nms: most detections of an image (default: 300, or twice the objects of the most crowded of --data)"
    )
    data: StrPath | None = option(None, "dataset YAML, images to check and calibrate with (default: as trained)")
    split: Split = option("train", "of --data")
    calibration_images: Annotated[Count, Flag(metavar="N")] = option(128, "for --int8")
    exist_ok: Overwrite = False
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

    batch_size: Count | None = option(None, "of every variant (default: the dataset's, or 16)")
    vary: Annotated[str | None, Flag(metavar="KEY=A,B,...")] = option(
        None, "a key of hyp.yaml, or model.KEY, data.KEY, and its values; model=A.yaml,B.yaml: instead of --cfg"
    )
    variant: Annotated[
        Sequence[Sequence[str]], PlainValidator(lambda lists: tuple(map(_texts, lists))), Flag(metavar="KEY=VALUE")
    ] = option((), "one variant, several keys at once; once for each variant")
    seeds: Count = option(3, "seeds of each variant, from --seed on")
    project: Project = option("runs/compare", "folder of comparisons")
    name: Name = option("exp", "folder of this comparison")


class SearchOptions(RunOptions):
    """Search keys of hyp.yaml with trials that learn from one another (Optuna), and test the best against the default.

    A trial below the median of those before ends early. The same command goes on where it was stopped.
    """

    space: Annotated[StrPath, Field(description="YAML: keys of hyp.yaml with {low, high} (log, step) or a list")]
    trials: Count = option(30, "how many in all; more of them go on with a search that has ended")
    batch_size: Count | None = option(None, "of every trial (default: the dataset's, or 16)")
    seeds: Count = option(5, "fresh ones, after --seed, with which the best trial is tested against the default")
    project: Project = option("runs/search", "folder of searches")
    name: Name = option("exp", "folder of this search")


class ShowOptions(Options):
    """Draw the first training batches as the network would see them, with their boxes and masks."""

    data: ChosenData = None
    cfg: Model = option("cfg/yolo_s.yaml", "model YAML: whether it learns masks")
    hyp: Hyperparameters = "cfg/hyp.yaml"
    imgsz: SuggestedSize = None
    batches: Annotated[Count, Field(le=1000)] = option(2, "how many, of 8 images each")
    seed: Seed = option(0, "shows what a run of this seed begins with")
    set: Overrides = ()
    plugin: Plugins = ()
    project: Project = "runs/show"
    name: Name = "exp"


class LossesOptions(Options):
    """List every loss and assigner."""

    plugin: Plugins = ()


class ConvertOptions(Options):
    """Write a dataset's labels in another format: YOLO, VOC, COCO.

    A new dataset YAML lies beside them, in a folder of their own.
    """

    data: Data = DEFAULT_DATA
    to: Annotated[Literal["yolo", "voc", "coco"], Field(description="the format to write")]
    out: Annotated[StrPath, Flag(metavar="DIR"), Field(description="a new folder, outside the dataset")]
    polygons: bool = option(False, "yolo: rows with outlines instead of boxes, where they are known")
    copy_images: bool = option(False, "copy the images too (default: they are found where they are)")
    plugin: Plugins = ()


class AdoptOptions(Options):
    """Make a dataset YAML for what Roboflow, CVAT, Label Studio, labelImg, ... export, as it is.

    Nothing is written into the set. An archive is unpacked beside the YAML.
    """

    source: Annotated[
        StrPath,
        Flag(metavar="FOLDER_OR_ZIP", positional=True),
        Field(description="an export: a folder or archive; or a dataset YAML without val"),
    ]
    output: Annotated[StrPath, Flag("-o", metavar="FILE.yaml"), Field(description="the dataset YAML to write")]
    format: Literal["yolo", "voc", "coco"] | None = option(None, "of the labels, where several fit")
    names: Annotated[Texts, Flag(metavar="A,B,...")] = option((), "of the classes, where the set has no file of them")
    val: Annotated[Fraction, described("0..1")] = option(0.2, "share of the images of train, where there is no val")
    test: Annotated[Fraction, described("0..1")] = option(0.0, "share of the images of train, where there is no test")
    seed: Seed = option(0, "of the split")


class DownloadOptions(Options):
    """Fetch a public set (coco128, voc, coco), or ImageNet weights of a backbone (mobilenet_v2, timm:NAME).

    The same command goes on where it was stopped.
    """

    name: Annotated[
        StrPath,
        Flag(metavar="NAME", positional=True),
        Field(description="coco128, voc, coco, a dataset YAML with the key download, or a backbone"),
    ]
    into: Annotated[StrPath | None, Flag(metavar="FOLDER")] = option(None, "default: the key path of its YAML")


class FitOptions(Options):
    """A dataset as a model would see it."""

    data: ChosenData = None
    cfg: Model = option("cfg/yolo_s.yaml", "model YAML, for its anchors")
    hyp: Hyperparameters = option("cfg/hyp.yaml", "hyperparameter YAML, for anchor_t")
    imgsz: SuggestedSize = None
    set: Overrides = ()
    plugin: Plugins = ()


class CheckOptions(FitOptions):
    """Find what is wrong with a dataset.

    Reads all of it as training would. Nothing in it is changed. Exit status 1 where training would be harmed.
    """

    as_json: Annotated[bool, Flag("--json")] = option(False, "print the whole report as JSON")
    fix_into: Annotated[StrPath | None, Flag(metavar="DIR")] = option(
        None, "write a copy without what is wrong into a new folder outside the dataset"
    )
    project: Project = option("runs/check", "folder of reports")
    name: Name = option("exp", "folder of this report; a number is added if it exists")
    exist_ok: ExistOk = False


class AnchorsOptions(FitOptions):
    """Find anchors that fit the objects of the train split, for the model YAML. No file is changed."""

    seed: Annotated[Seed, Field(le=2**31)] = option(0, "of the k-means")


COMMANDS: dict[str, type[Options]] = {
    "train": TrainOptions,
    "val": ValOptions,
    "predict": PredictOptions,
    "import": ImportOptions,
    "export": ExportOptions,
    "compare": CompareOptions,
    "search": SearchOptions,
    "show": ShowOptions,
    "losses": LossesOptions,
    "convert": ConvertOptions,
    "adopt": AdoptOptions,
    "download": DownloadOptions,
    "check": CheckOptions,
    "anchors": AnchorsOptions,
}
