"""What may stand in a model YAML, in hyp.yaml, in a dataset YAML and on the command line.

Frozen pydantic models: unknown keys are errors, types are strict (an int may stand where a float is expected).
Nothing is written back into them; numbers derived from them come from named functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from yolo_lite.config.errors import nearest
from yolo_lite.config.seams import Choice, Section, chosen_from

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ImageSize = Annotated[int, Field(ge=32, le=8192)]  # longest side in pixels


# ---------------------------------------------------------------------------------------------------- model YAML


class Row(Section):
    """One row ``[from, repeats, module, args]`` of a model YAML."""

    source: tuple[int, ...]  # rows whose outputs come in: -1 is the row before, others count from 0
    repeats: Count
    module: str
    args: tuple[Any, ...]

    def __str__(self) -> str:
        source: Any = self.source[0] if len(self.source) == 1 else list(self.source)
        return f"[{source}, {self.repeats}, {self.module}, {list(self.args)}]"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def parse_row(row: Any, info: ValidationInfo) -> Row:
    """Read ``[from, repeats, module, args]``; ``nn.Upsample`` and ``Upsample`` name the same module."""
    if isinstance(row, Row):
        return row
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError(f"expected [from, repeats, module, args], found {row!r}")
    source, repeats, module, args = row
    source = source if isinstance(source, list) else [source]
    if not source or not all(map(_is_int, source)):
        raise ValueError(f"'from' must be an int or a list of ints, found {row[0]!r} in {row!r}")
    if not _is_int(repeats) or repeats < 1:
        raise ValueError(f"'repeats' must be an int of 1 or more, found {repeats!r} in {row!r}")
    if not isinstance(args, list):
        raise ValueError(f"'args' must be a list, found {args!r} in {row!r}")
    name = str(module).removeprefix("nn.")
    known = {**info.context["BLOCKS"].entries, **info.context["HEADS"].entries} if info.context else [name]
    if name not in known:
        raise ValueError(f"unknown module {module!r}{nearest(name, known)} in {row!r}")
    return Row(source=tuple(source), repeats=repeats, module=name, args=tuple(args))


def parse_anchors(value: Any) -> Any:
    """``[[w, h, w, h, ...], ...]``, one list a level, or an int: that many anchors a level, sized by the stride."""
    if _is_int(value):
        if value < 1:
            raise ValueError(f"expected at least 1 anchor a level, found {value}")
        return value
    levels = value if isinstance(value, (list, tuple)) else None
    if not levels or not all(isinstance(level, (list, tuple)) and level for level in levels):
        raise ValueError(f"expected a list of [w, h, w, h, ...] for each level, or an int, found {value!r}")
    if len({len(level) for level in levels}) != 1 or len(levels[0]) % 2:
        raise ValueError(f"every level needs the same, even count of numbers, found {[len(x) for x in levels]}")
    for level in levels:
        if not all(_is_number(size) and 0 < size < math.inf for size in level):
            raise ValueError(f"anchor sizes must be positive numbers in pixels, found {list(level)!r}")
    return tuple(tuple(float(size) for size in level) for level in levels)


def parse_activation(text: str, names: Collection[str]) -> tuple[str, tuple[float, ...]]:
    """``"nn.LeakyReLU(0.1)"`` to its name, one of ``names``, and its arguments; nothing is evaluated."""
    match = re.fullmatch(r"(?:nn\.)?(\w+)(?:\(([^()]*)\))?", text.replace(" ", ""))
    if not match or match[1] not in names:
        name = match[1] if match else text
        raise ValueError(f"unknown activation {text!r}{nearest(name, names)}")
    name, slope = match[1], match[2]
    if not slope:
        return name, ()
    if name != "LeakyReLU" or not re.fullmatch(r"\d*\.?\d+(?:[eE][-+]?\d+)?", slope):
        raise ValueError(f"expected {name + '(0.1)' if name == 'LeakyReLU' else name}, found {text!r}")
    return name, (float(slope),)


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Rows = Annotated[tuple[Annotated[Row, BeforeValidator(parse_row)], ...], BeforeValidator(_list_to_tuple)]
Anchors = Annotated[int | tuple[tuple[float, ...], ...], BeforeValidator(parse_anchors)]


class ModelConfig(Section):
    """A model YAML: the row grammar that users of YOLOv5 v6 know."""

    family: Literal["yolo"] = "yolo"
    nc: Count = 80
    depth_multiple: Positive = 1.0
    width_multiple: Positive = 1.0
    channel_multiple: Count = 8  # widths are rounded up to a multiple of this
    ch: Count = 3  # channels of the images; the dataset's key channels decides
    inplace: bool = True  # accepted because YOLOv5 files may carry it; without effect
    activation: str = "SiLU()"
    task: Annotated[str, chosen_from("TASKS")] | None = None  # of TASKS, where it is another than that of the head
    anchors: Anchors | None = None  # of a head that has some
    backbone: Rows
    head: Rows

    @field_validator("activation")
    @classmethod
    def _known_activation(cls, value: str, info: ValidationInfo) -> str:
        if info.context:
            parse_activation(value, info.context["ACTIVATIONS"].entries)
        return value

    @field_validator("backbone", "head")
    @classmethod
    def _head_comes_last(cls, rows: tuple[Row, ...], info: ValidationInfo) -> tuple[Row, ...]:
        if not info.context:
            return rows
        heads = info.context["HEADS"].entries
        found = [number for number, row in enumerate(rows) if row.module in heads]
        if found != ([len(rows) - 1] if info.field_name == "head" else []):
            where = f"found it in {info.field_name} rows {found}" if found else "found none"
            raise ValueError(f"expected one {' or '.join(heads)} row, the last row of the head, {where}")
        return rows


def _positive_numbers(value: Any) -> Any:
    listed = isinstance(value, (list, tuple)) and value
    if not listed or not all(_is_number(number) and 0 < number < math.inf for number in value):
        raise ValueError(f"expected a list of positive numbers, found {value!r}")
    return tuple(float(number) for number in value)


def parse_anchor_sizes(value: Any) -> Any:
    """``[32, 64]``, sizes on every level, or ``[[32], [64], ...]``, as many sizes for each level of the pyramid."""
    if not isinstance(value, (list, tuple)) or not any(isinstance(level, (list, tuple)) for level in value):
        return _positive_numbers(value)
    levels = tuple(_positive_numbers(level) for level in value)
    if len({len(level) for level in levels}) != 1:
        raise ValueError(f"every level needs as many sizes as the others, found {[len(level) for level in levels]}")
    return levels


def _train_and_test(value: Any) -> Any:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not pair or not all(_is_int(count) and count >= 1 for count in value):
        raise ValueError(f"expected [train, test], two whole numbers of 1 or more, found {value!r}")
    return tuple(value)


TrainAndTest = Annotated[tuple[int, int], BeforeValidator(_train_and_test)]
AnchorSizes = Annotated[tuple[float, ...] | tuple[tuple[float, ...], ...], BeforeValidator(parse_anchor_sizes)]


class FasterRcnnConfig(Section):
    """A model YAML of torchvision's Faster R-CNN with a feature pyramid; the defaults are torchvision's."""

    family: Literal["faster_rcnn"]
    nc: Count = 80  # without the background
    backbone: Annotated[str, chosen_from("BACKBONES")] = "mobilenet_v3_large"
    pretrained: bool = False  # true fetches torchvision's ImageNet weights of the backbone, and freezes its first part
    levels: Count | None = None  # coarsest stages that the pyramid reads; null: the last 2 of mobilenets, 4 of resnets
    anchors: AnchorSizes = (32.0, 64.0, 128.0, 256.0, 512.0)  # pixels
    aspect_ratios: Annotated[tuple[float, ...], BeforeValidator(_positive_numbers)] = (0.5, 1.0, 2.0)  # height / width
    rpn_pre_nms: TrainAndTest = (2000, 1000)  # best anchors of a level that enter the first stage's NMS
    rpn_post_nms: TrainAndTest = (2000, 1000)  # best proposals of an image that leave it
    rpn_samples: Count = 256  # anchors of an image that the first stage learns from, at most half of them positive
    roi_samples: Count = 512  # proposals of an image that the second stage learns from, at most a quarter positive


# -------------------------------------------------------------------------------------------------------- hyp.yaml


def _weights(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    numbers = isinstance(value, (list, tuple)) and value and all(map(_is_number, value))
    if not numbers or min(value) <= 0:
        raise ValueError(f"expected auto, a list with a weight above 0 for each class, or null, found {value!r}")
    return tuple(float(weight) for weight in value)


# Rows of the model YAML, counted from 0, or its backbone.
Freeze = Annotated[tuple[Annotated[int, Field(ge=0)], ...] | Literal["backbone"], BeforeValidator(_list_to_tuple)]


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _list_to_tuple(value)


Augmentations = Annotated[tuple[Annotated[str, chosen_from("AUGMENTATIONS")], ...], BeforeValidator(_one_or_several)]


class OptimSection(Section):
    """Optimizer and schedule."""

    optimizer: Literal["SGD", "AdamW"] = "AdamW"
    lr0: Positive = 0.0015
    lrf: Fraction = 0.01  # last learning rate, as a fraction of lr0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # beta1 of AdamW
    weight_decay: NotNegative = 0.0005
    warmup_epochs: NotNegative = 3.0
    warmup_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    warmup_bias_lr: NotNegative = 0.0
    cos_lr: bool = False
    nominal_batch: Count = 16  # gradients of several batches are averaged up to about this many images a step
    clip_norm: NotNegative = 10.0  # 0 is off
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    patience: Annotated[int, Field(ge=0)] = 100  # epochs without progress before the run ends; 0 is never
    min_epochs: Annotated[int, Field(ge=0)] = 0  # before which patience ends no run
    freeze: Freeze = ()
    nonfinite: Literal["skip", "stop"] = "skip"  # what becomes of a step whose loss or gradient is not finite


class LossSection(Section):
    """Losses and target assignment; each choice may carry parameters."""

    box_loss: Annotated[Choice, chosen_from("BOX_LOSSES")] = Choice(name="ciou")
    rpn_box_loss: Annotated[Choice, chosen_from("BOX_LOSSES")] = Choice(name="smooth_l1")  # first stage of Faster R-CNN
    obj_loss: Annotated[Choice, chosen_from("CLS_LOSSES")] = Choice(name="bce")
    cls_loss: Annotated[Choice, chosen_from("CLS_LOSSES")] = Choice(name="bce")
    cls_weights: Annotated[tuple[Positive, ...] | Literal["auto"] | None, BeforeValidator(_weights)] = None
    box: NotNegative = 0.05
    rpn_box: NotNegative = 1.0  # first stage of Faster R-CNN
    obj: NotNegative = 1.0
    cls: NotNegative = 0.5
    obj_pw: Positive = 1.0
    cls_pw: Positive = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fl_gamma: NotNegative = 0.0  # above 0: bce becomes focal with this gamma, as in YOLOv5
    assigner: Annotated[Choice, chosen_from("ASSIGNERS")] = Choice(name="anchor_ratio")
    anchor_t: Annotated[float, Field(gt=1)] = 4.0

    @model_validator(mode="after")
    def _losses_agree(self) -> LossSection:
        others = [key for key in ("obj_loss", "cls_loss") if getattr(self, key).name != "bce"]
        if self.fl_gamma > 0 and others:
            found = ", ".join(f"{key}: {getattr(self, key)}" for key in others)
            raise ValueError(f"fl_gamma above 0 turns bce into focal: expected it to be 0 beside {found}")
        if self.cls_loss.name == "vfl" and self.label_smoothing > 0:
            raise ValueError("label_smoothing leaves no negatives to vfl: expected it to be 0 beside cls_loss: vfl")
        return self


class AugmentSection(Section):
    """Augmentation, and how often images are drawn."""

    hsv_h: Annotated[float, Field(ge=0, le=0.5)] = 0.015
    hsv_s: Fraction = 0.7
    hsv_v: Fraction = 0.4
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.5
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    perspective: Annotated[float, Field(ge=0, le=0.001)] = 0.0
    flipud: Fraction = 0.0
    fliplr: Fraction = 0.5
    mosaic: Fraction = 1.0
    mixup: Fraction = 0.0
    copy_paste: Fraction = 0.0  # chance of an image to get objects of another, cut out along their polygons
    close_mosaic: Annotated[int, Field(ge=0)] = 10  # the last epochs are trained without these three
    grayscale: Fraction = 0.0  # chance to lose the colours
    blur: Fraction = 0.0
    jpeg: Fraction = 0.0  # chance of the noise of JPEG compression
    erasing: Fraction = 0.0  # chance of a rectangle turned grey
    augmentations: Augmentations = ()  # of plugins, one after the other
    balance: Fraction = 0.0  # images with classes that fewer than this share show are drawn more often; 0 is off
    multi_scale: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0.5: each step at 0.5 to 1.5 times --imgsz


class RuntimeSection(Section):
    """How a run is computed."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    cache: Literal["auto", "ram", "disk", "off"] = "auto"
    compile: bool = False
    deterministic: bool = False
    sync_bn: bool = False


class Hyp(RuntimeSection, AugmentSection, LossSection, OptimSection):
    """All keys of hyp.yaml, which is flat; each room reads the section that is its own."""


# Keys of YOLOv5's hyp files that have no counterpart here, and what to do about them.
RETIRED_HYP_KEYS = {
    "iou_t": "it has no effect in YOLOv5 either: remove the line",
    "anchors": "anchors belong to the model YAML: remove the line",
}


# ---------------------------------------------------------------------------------------------------- dataset YAML


class Generate(Section):
    """A set that is drawn on first use instead of read: the embedded shapes."""

    kind: Literal["shapes"]
    train: Count
    val: Count
    image_size: Annotated[int, Field(ge=32)]
    seed: Seed = 0


def _relative_folder(path: str) -> str:
    if re.match(r"/|\\|[A-Za-z]:", path) or ".." in re.split(r"[/\\]", path):
        raise ValueError(f"expected a folder below the set's, found {path!r}")
    return path


def _matches(pattern: str, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}, found {text!r}")
        return text

    return AfterValidator(check)


class Archive(Section):
    """A file that ``yolo-lite download`` fetches and unpacks."""

    url: Annotated[
        str, _matches(r"https?://\S+/[\w.-]+\.(zip|tar|tar\.gz|tgz)", "http(s)://... of a .zip or .tar(.gz)")
    ]
    size: Count  # bytes
    sha256: Annotated[str, _matches("[0-9a-f]{64}", "64 digits 0-9a-f")]
    into: Annotated[str, AfterValidator(_relative_folder)] = "."  # folder of the set that it is unpacked into


def _own_archives(value: Any) -> Any:
    # YOLOv5 files carry an address or a script here: it is accepted, and neither fetched nor executed.
    return () if value is None or isinstance(value, str) else _list_to_tuple(value)


class SuggestedFlags(Section):
    """What ``train.py`` uses where its flags are not given."""

    epochs: Count | None = None
    imgsz: Count | None = None
    batch_size: Count | None = None


def _names_to_tuple(names: Any) -> Any:
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise ValueError(f"expected the keys 0..{len(names) - 1}, found {list(names)[:10]}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(f"expected a list of class names or a mapping 0..n-1 to names, found {names!r}")
    names = tuple(str(name) if _is_int(name) else name for name in names)
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"expected each name once, found more of {', '.join(twice)}")
    return names


def _sources_to_tuple(value: Any) -> Any:
    if value is None:  # "test:" with nothing behind it
        return ()
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"expected a path or a list of paths, found {value!r}")
    return tuple(paths)


Sources = Annotated[tuple[str, ...], BeforeValidator(_sources_to_tuple)]


def _labels_by_split(labels: Any) -> Any:
    if isinstance(labels, dict) and (unknown := set(labels) - {"train", "val", "test"}):
        raise ValueError(f"expected a path, or one for each of train, val, test, found {sorted(map(str, unknown))[0]}")
    return labels


class DatasetConfig(Section):
    """A dataset YAML. Relative paths start at ``path``, and ``path`` at the YAML file's folder.

    Imported weights know the names alone.
    """

    path: str = "."
    train: Sources = ()
    val: Sources = ()
    test: Sources = ()
    # Folder of label files where the images -> labels rule does not fit, or COCO's file; of all splits or of each.
    labels: Annotated[str | dict[str, str] | None, BeforeValidator(_labels_by_split)] = None
    format: Annotated[str, chosen_from("FORMATS")] | None = None  # else it is found out
    names: Annotated[tuple[str, ...], BeforeValidator(_names_to_tuple)]
    nc: Count | None = None
    channels: Count = 3  # of the images: 1 is grey, 3 is RGB, others as the files have them
    classes: Annotated[tuple[str, ...] | None, BeforeValidator(_list_to_tuple)] = None  # only these, by name
    single_cls: bool = False  # all objects are of one class
    download: Annotated[tuple[Archive, ...], BeforeValidator(_own_archives)] = ()
    generate: Generate | None = None
    suggested: SuggestedFlags = SuggestedFlags()

    @field_validator("nc")
    @classmethod
    def _counts_the_names(cls, nc: int | None, info: ValidationInfo) -> int | None:
        names = info.data.get("names")
        if nc is not None and names is not None and nc != len(names):
            raise ValueError(f"expected {len(names)}, the number of names, found {nc}; the key may be left out")
        return nc

    @field_validator("classes")
    @classmethod
    def _are_among_the_names(cls, classes: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        names = info.data.get("names", ())
        if classes is not None and (unknown := [name for name in classes if name not in names]):
            raise ValueError(f"expected names of classes, found {unknown[0]!r}{nearest(unknown[0], names)}")
        if classes is not None and not 0 < len(classes) == len(set(classes)):
            raise ValueError("expected one name or more, each once")
        return classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that a model learns."""
        wanted = self.classes or self.names
        return (wanted[0] if len(wanted) == 1 else "object",) if self.single_cls else wanted

    @property
    def splits(self) -> list[str]:
        """Which of train, val and test there are."""
        drawn = ("train", "val") if self.generate else ()
        return [split for split in ("train", "val", "test") if split in drawn or getattr(self, split)]

    def labels_of(self, split: str) -> str | None:
        """The folder or file of a split's labels, if it is given."""
        return self.labels.get(split) if isinstance(self.labels, dict) else self.labels


# Model YAMLs by their key ``family``.
MODEL_SECTIONS: dict[str, type[ModelConfig] | type[FasterRcnnConfig]] = {
    "yolo": ModelConfig,
    "faster_rcnn": FasterRcnnConfig,
}


def _family(model: Any) -> Any:
    return model.get("family", "yolo") if isinstance(model, dict) else model.family


AnyModelConfig = Annotated[
    Annotated[ModelConfig, Tag("yolo")] | Annotated[FasterRcnnConfig, Tag("faster_rcnn")], Discriminator(_family)
]


# ---------------------------------------------------------------------------------------------------- command line


class SavePeriod(Section):
    """How often last.pt is written."""

    number: Positive
    unit: Literal["epochs", "min"]

    def __str__(self) -> str:
        return f"{self.number:g} {self.unit}"


def parse_save_period(text: Any) -> Any:
    """``"2"`` or ``"0.25"`` epochs, ``"10min"``."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|min|)\s*", text)
    if not match or float(match[1]) == 0:
        raise ValueError(f"expected a number of epochs such as 2 or 0.25, or minutes such as 10min, found {text!r}")
    return SavePeriod(number=float(match[1]), unit="min" if match[2] == "min" else "epochs")


class RunSection(Section):
    """The options of ``train.py``, resolved; files are "" where there were none, for imported weights."""

    cfg: str = ""
    hyp: str = ""
    data: str = ""
    weights: str | None = None
    epochs: Count = 100
    batch_size: Count = 16
    imgsz: ImageSize = 640
    device: str = ""
    workers: Annotated[int, Field(ge=0)] = 2
    seed: Seed = 0
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False
    save_period: Annotated[SavePeriod, BeforeValidator(parse_save_period)] = SavePeriod(number=1.0, unit="epochs")
    figures: bool = True  # curves, images and the graph, in the folder and in TensorBoard
    first_epochs: Count | None = None  # as first planned, where --resume was given another --epochs
    # Absolute paths, for the record: a file that a checkpoint or a config.yaml names is never executed.
    plugin: Annotated[tuple[str, ...], BeforeValidator(_list_to_tuple)] = ()


class RunConfig(Section):
    """Everything a run was started with; stored in the run folder and in every checkpoint."""

    train: RunSection
    hyp: Hyp
    model: AnyModelConfig
    data: DatasetConfig
    data_file: str  # absolute path of the dataset YAML: relative paths start there; "" for imported weights

    def plain(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings, in the form the YAML files have."""
        tree = self.model_dump(mode="json")
        for part in ("backbone", "head") if isinstance(self.model, ModelConfig) else ():
            tree["model"][part] = [
                [list(row.source) if len(row.source) > 1 else row.source[0], row.repeats, row.module, list(row.args)]
                for row in getattr(self.model, part)
            ]
        return tree
