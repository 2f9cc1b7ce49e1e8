"""Kinds of numbers and lists that several sections share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ImageSize = Annotated[int, Field(ge=32, le=8192)]  # longest side in pixels


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_int(value) or isinstance(value, float)


def list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
