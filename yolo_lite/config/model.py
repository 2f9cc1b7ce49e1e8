"""What may stand in a model YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag, ValidationInfo, field_validator, model_serializer

from yolo_lite.config.errors import nearest
from yolo_lite.config.seams import Section, chosen_from
from yolo_lite.config.types import Count, Positive, is_int, is_number, list_to_tuple


class Row(Section):
    """One row ``[from, repeats, module, args]`` of a model YAML."""

    source: tuple[int, ...]  # rows whose outputs come in: -1 is the row before, others count from 0
    repeats: Count
    module: str
    args: tuple[Any, ...]

    @model_serializer
    def plain(self) -> list[Any]:
        """As the YAML file has it."""
        source = self.source[0] if len(self.source) == 1 else list(self.source)
        return [source, self.repeats, self.module, list(self.args)]

    def __str__(self) -> str:
        return "[{}, {}, {}, {}]".format(*self.plain())


def parse_row(row: Any, info: ValidationInfo) -> Row:
    """Read ``[from, repeats, module, args]``; ``nn.Upsample`` and ``Upsample`` name the same module."""
    if isinstance(row, Row):
        return row
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError(f"expected [from, repeats, module, args], found {row!r}")
    source, repeats, module, args = row
    source = source if isinstance(source, list) else [source]
    if not source or not all(map(is_int, source)):
        raise ValueError(f"'from' must be an int or a list of ints, found {row[0]!r} in {row!r}")
    if not is_int(repeats) or repeats < 1:
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
    if is_int(value):
        if value < 1:
            raise ValueError(f"expected at least 1 anchor a level, found {value}")
        return value
    levels = value if isinstance(value, (list, tuple)) else None
    if not levels or not all(isinstance(level, (list, tuple)) and level for level in levels):
        raise ValueError(f"expected a list of [w, h, w, h, ...] for each level, or an int, found {value!r}")
    if len({len(level) for level in levels}) != 1 or len(levels[0]) % 2:
        raise ValueError(f"every level needs the same, even count of numbers, found {[len(x) for x in levels]}")
    for level in levels:
        if not all(is_number(size) and 0 < size < math.inf for size in level):
            raise ValueError(f"anchor sizes must be positive numbers in pixels, found {list(level)!r}")
    return tuple(tuple(float(size) for size in level) for level in levels)


def parse_activation(text: str, names: Collection[str]) -> tuple[str, tuple[float, ...]]:
    """``"nn.LeakyReLU(0.1)"`` to its name, one of ``names``, and its arguments; nothing is evaluated."""
    match = re.fullmatch(r"(?:nn\.)?(\w+)(?:\(([^()]*)\))?", text.replace(" ", ""))
    if not match or match[1] not in names:
        raise ValueError(f"unknown activation {text!r}{nearest(match[1] if match else text, names)}")
    name, slope = match[1], match[2]
    if not slope:
        return name, ()
    if name != "LeakyReLU" or not re.fullmatch(r"\d*\.?\d+(?:[eE][-+]?\d+)?", slope):
        raise ValueError(f"expected {name + '(0.1)' if name == 'LeakyReLU' else name}, found {text!r}")
    return name, (float(slope),)


Rows = Annotated[tuple[Annotated[Row, BeforeValidator(parse_row)], ...], BeforeValidator(list_to_tuple)]
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
    if not listed or not all(is_number(number) and 0 < number < math.inf for number in value):
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
    if not pair or not all(is_int(count) and count >= 1 for count in value):
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


# Model YAMLs by their key ``family``.
MODEL_SECTIONS: dict[str, type[ModelConfig | FasterRcnnConfig]] = {"yolo": ModelConfig, "faster_rcnn": FasterRcnnConfig}

AnyModelConfig = Annotated[
    Annotated[ModelConfig, Tag("yolo")] | Annotated[FasterRcnnConfig, Tag("faster_rcnn")],
    Discriminator(lambda model: model.get("family", "yolo") if isinstance(model, dict) else model.family),
]
