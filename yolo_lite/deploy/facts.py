"""What an exported file says of itself, as strings of JSON in its metadata, and how what it says is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.load import validate
from yolo_lite.config.seams import expected_words
from yolo_lite.config.types import Several, Tile
from yolo_lite.config.yaml_file import Document
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.engine.checkpoint_fields import OperatingPoints, shown

Pixels = Annotated[int, Field(ge=1, le=2**14)]  # of a side
LONGEST = 1 << 20  # characters of a fact


class Facts(NamedTuple):
    """What an exported file says of itself."""

    names: Several[str]  # of the classes
    channels: Annotated[int, Field(ge=1, le=2**12)]  # of the images
    stride: Pixels  # sides of the input are multiples of it
    smallest: Pixels  # of the shortest side that goes in
    imgsz: Pixels  # of the longest side
    batch: Annotated[int, Field(ge=1, le=2**12)]  # images that go in at once, where that is fixed
    dynamic: Annotated[tuple[Literal["batch", "size"], ...], Field(strict=False, max_length=2)]  # what is not fixed
    precision: Literal["fp32", "fp16", "int8"]
    nms: bool  # whether the outputs are detections
    task: Literal["detect", "segment"] = "detect"
    yolo_lite: str = ""  # the version that wrote it
    source: str = ""  # where imported weights come from, and their licence
    white: Annotated[int, Field(ge=1, le=65535)] = 65535  # value of a white pixel in 16-bit images
    tile: Tile = 0  # pixels of a window's side in training, 0 without
    operating_points: OperatingPoints | None = None  # from which confidence on it is used

    @property
    def points(self) -> dict[str, Any] | None:
        """The operating points as plain data."""
        return None if self.operating_points is None else self.operating_points.model_dump(exclude_unset=True)

    def strings(self) -> dict[str, str]:
        plain = {**self._asdict(), "operating_points": self.points}
        return {name: json.dumps(value, ensure_ascii=False) for name, value in plain.items()}

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the input for a resized image: validation's, or the one square that was exported."""
        if "size" not in self.dynamic:
            return self.imgsz, self.imgsz
        canvas = canvas_size(height, width, self.stride)
        return max(canvas[0], self.smallest), max(canvas[1], self.smallest)


ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind, config=ConfigDict(strict=True))
    for name, kind in get_type_hints(Facts, include_extras=True).items()
}


def read_facts(strings: Mapping[str, str]) -> Facts:
    """The facts from the strings of a file; those that older files lack have their defaults.

    Raises:
        CheckpointError: one is missing, or of another type or range; the message does not name the file.
    """
    if missing := [name for name in Facts._fields if name not in Facts._field_defaults and not strings.get(name)]:
        expected = ", ".join(Facts._fields)
        raise CheckpointError(f"not exported by yolo_lite: expected metadata {expected}; without {', '.join(missing)}")
    facts = Facts(**{name: _read(name, strings[name]) for name in Facts._fields if strings.get(name)})
    if facts.imgsz % facts.stride or facts.smallest % facts.stride:
        found = f"imgsz {facts.imgsz} and smallest {facts.smallest}"
        raise CheckpointError(f"metadata: expected multiples of the stride {facts.stride}, found {found}")
    plain = {"names": list(facts.names), "channels": facts.channels, "max_value": facts.white}
    try:
        validate(DatasetConfig, Document("metadata", plain, {}))
    except ConfigError as error:
        raise CheckpointError(str(error).partition("\n")[0]) from None
    return facts


def _read(name: str, text: str) -> Any:
    try:
        if len(text) > LONGEST:
            raise ValueError(f"expected at most {LONGEST:,} characters, found {len(text):,}")
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise CheckpointError(f"metadata {name}: not JSON: {error}") from None
    try:
        return ADAPTERS[name].validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, (name, *first["loc"])))
        words = expected_words(first)
        raise CheckpointError(f"metadata {place}: expected {words}, found {shown(first['input'])}") from None
