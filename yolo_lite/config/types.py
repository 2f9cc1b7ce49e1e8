"""Kinds of numbers and lists that several sections share."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Predicate
from pydantic import AfterValidator, Field, Strict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from yolo_lite.config.bounds import ANCHORS, CHANNELS, CLASSES, LARGEST, SHOWN, at_most, check_path

T = TypeVar("T")
AnyPath = str | os.PathLike[str]

Positive = Annotated[float, Field(gt=0, lt=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, lt=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**63)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**63)]
Classes = Annotated[Count, Field(le=CLASSES)]
Channels = Annotated[Count, Field(le=CHANNELS)]
APath = Annotated[str, AfterValidator(check_path)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ImageSize = Annotated[int, Field(ge=32, le=8192)]  # longest side in pixels
Listed = Annotated[tuple[T, ...], Strict(False)]  # a list in YAML
Several = Annotated[tuple[T, ...], Strict(False), Field(min_length=1)]


def described(expected: str) -> WrapValidator:
    """Annotate a field to say ``expected ..., found ...`` in one line, whatever of its value does not fit."""

    def check(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(value)
        except ValidationError as error:
            own = [detail["msg"] for detail in error.errors() if detail["type"] == "value_error"]  # of our validators
            said = own[0].removeprefix("Value error, ") if own else f"expected {expected}, found {value!r:.{SHOWN}}"
            raise ValueError(said) from None

    return WrapValidator(check)


Tile = Annotated[ImageSize | Literal[0], described("0, or 32 to 8192 pixels")]
# A list for each level, all of one length.
Level = Annotated[Several[Positive], at_most(ANCHORS, "numbers")]
Levels = Annotated[
    Several[Level], at_most(ANCHORS, "levels"), Predicate(lambda levels: len({len(level) for level in levels}) == 1)
]


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
