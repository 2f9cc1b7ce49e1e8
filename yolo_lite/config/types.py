"""Kinds of numbers and lists that several sections share."""

from __future__ import annotations

import os
from typing import Annotated, Any, TypeVar

from annotated_types import Predicate
from pydantic import Field, Strict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

T = TypeVar("T")
AnyPath = str | os.PathLike[str]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ImageSize = Annotated[int, Field(ge=32, le=8192)]  # longest side in pixels
Listed = Annotated[tuple[T, ...], Strict(False)]  # a list in YAML
Several = Annotated[tuple[T, ...], Strict(False), Field(min_length=1)]


def described(expected: str) -> WrapValidator:
    """Annotate a field to say ``expected ..., found ...`` in one line, whatever of its value does not fit."""

    def check(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(value)
        except ValidationError:
            raise ValueError(f"expected {expected}, found {value!r}") from None

    return WrapValidator(check)


# A list for each level, all of one length.
Levels = Annotated[Several[Several[Positive]], Predicate(lambda levels: len({len(level) for level in levels}) == 1)]


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
