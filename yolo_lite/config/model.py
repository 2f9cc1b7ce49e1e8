"""What may stand in a model YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from annotated_types import Predicate
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from yolo_lite.config.bounds import ANCHORS, BLOCKS, ROWS, SHOWN, WIDTH, at_most
from yolo_lite.config.errors import nearest
from yolo_lite.config.faster_rcnn import FasterRcnnConfig as FasterRcnnConfig
from yolo_lite.config.seams import Section, chosen_from
from yolo_lite.config.types import Channels, Classes, Count, Levels, Listed, Positive, described, is_int


class Row(Section):
    """One row ``[from, repeats, module, args]`` of a model YAML."""

    source: tuple[int, ...]  # rows whose outputs come in: -1 is the row before, others count from 0
    repeats: Annotated[Count, Field(le=BLOCKS)]
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
        raise ValueError(f"expected [from, repeats, module, args], found {row!r:.{SHOWN}}")
    shown = f"{row!r:.{SHOWN}}"
    source, repeats, module, args = row
    source = source if isinstance(source, list) else [source]
    if not source or not all(map(is_int, source)):
        raise ValueError(f"'from' must be an int or a list of ints, found {row[0]!r:.80} in {shown}")
    if not is_int(repeats) or not 1 <= repeats <= BLOCKS:
        most = f" and at most {BLOCKS:,}" if is_int(repeats) and repeats > BLOCKS else ""
        raise ValueError(f"'repeats' must be an int of 1 or more{most}, found {repeats!r:.80} in {shown}")
    if not isinstance(args, list):
        raise ValueError(f"'args' must be a list, found {args!r:.80} in {shown}")
    name = str(module).removeprefix("nn.")
    known = {**info.context["BLOCKS"].entries, **info.context["HEADS"].entries} if info.context else [name]
    if name not in known:
        raise ValueError(f"unknown module {module!r:.80}{nearest(name, known)} in {shown}")
    return Row(source=tuple(source), repeats=repeats, module=name, args=tuple(args))


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


Rows = Annotated[Listed[Annotated[Row, BeforeValidator(parse_row)]], at_most(ROWS, "rows")]
# A number: that many anchors a level, sized by the stride.
Anchors = Annotated[
    Annotated[Count, Field(le=ANCHORS)] | Annotated[Levels, Predicate(lambda levels: len(levels[0]) % 2 == 0)],
    described("a number of anchors, or for each level a list [w, h, w, h, ...] of positive numbers, all of one length"),
]


class ModelConfig(Section):
    """A model YAML: the row grammar that users of YOLOv5 v6 know."""

    family: Literal["yolo"] = "yolo"
    nc: Classes = 80
    depth_multiple: Positive = 1.0
    width_multiple: Positive = 1.0
    channel_multiple: Annotated[Count, Field(le=WIDTH)] = 8  # widths are rounded up to a multiple of this
    ch: Channels = 3  # channels of the images; the dataset's key channels decides
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

    @model_validator(mode="after")
    def _few_blocks(self) -> ModelConfig:
        blocks = sum(max(row.repeats * self.depth_multiple, 1) for row in (*self.backbone, *self.head))
        if blocks > BLOCKS:
            raise ValueError(f"expected at most {BLOCKS:,} blocks of all rows, found {blocks:,.0f} with depth_multiple")
        return self


def scaled_width(width: int, config: ModelConfig) -> int:
    """Channels of a block: ``width * width_multiple``, rounded up to ``channel_multiple``."""
    scaled = math.ceil(width * config.width_multiple / config.channel_multiple) * config.channel_multiple
    if scaled > WIDTH:
        raise ValueError(f"expected at most {WIDTH:,} channels, found {scaled:,} after width_multiple")
    return scaled


# Model YAMLs by their key ``family``.
MODEL_SECTIONS: dict[str, type[ModelConfig | FasterRcnnConfig]] = {"yolo": ModelConfig, "faster_rcnn": FasterRcnnConfig}

AnyModelConfig = Annotated[
    Annotated[ModelConfig, Tag("yolo")] | Annotated[FasterRcnnConfig, Tag("faster_rcnn")],
    Discriminator(lambda model: model.get("family", "yolo") if isinstance(model, dict) else model.family),
]
