"""Names in YAML that choose a function or a class from a dict, with parameters: ``{focal_eiou: {gamma: 0.5}}``.

The dicts lie in the rooms above this floor: who reads a file hands them over as ``Seams``. A name, and the parameters
that go with it, are checked against the dict and the function's own signature, and stated nowhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from yolo_lite.config.errors import nearest


class Section(BaseModel):
    """Common rules of every part of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


class Seam(NamedTuple):
    """A dict that names choose from and plugins add to, and how its entries are called."""

    entries: dict[str, Any]
    positional: tuple[str, ...] = ()  # in their order, under any name
    by_name: tuple[str, ...] = ()  # handed over by name
    context: tuple[str, ...] = ()  # handed over by name to those that have it
    is_open: bool = False  # what else an entry takes comes from elsewhere, such as a row of a model YAML

    def __str__(self) -> str:
        return f"({', '.join((*self.positional, *self.by_name))}, ...)"

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """What YAML may set of an entry: the parameters behind its ``*``, but those that are handed over."""
        parameters = inspect.signature(self.entries[name], eval_str=True).parameters.values()
        given = (*self.by_name, *self.context)
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in given}


Seams = Mapping[str, Seam]


class Choice(Section):
    """A name on one of the dicts, and parameters for what it names."""

    name: str
    parameters: dict[str, Any] = {}

    def __str__(self) -> str:
        return str(self.plain())

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """``"ciou"`` or ``{"focal_eiou": {"gamma": 0.5}}``."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1:
            ((name, parameters),) = value.items()
            if isinstance(name, str) and isinstance(parameters, (dict, type(None))):
                return {"name": name, "parameters": parameters or {}}
        if isinstance(value, Choice) or (isinstance(value, dict) and "name" in value):
            return value
        raise ValueError(f"expected a name, or a name with parameters as in {{name: {{gamma: 1.0}}}}, found {value!r}")

    @model_serializer
    def plain(self) -> str | dict[str, dict[str, Any]]:
        """As YAML has it: ``ciou``, or ``{focal_eiou: {gamma: 0.5}}``."""
        return {self.name: self.parameters} if self.parameters else self.name


def check_name(name: str, seam: Seam) -> None:
    """Raise ValueError, with the nearest name, where the seam has no such entry."""
    if name not in seam.entries:
        raise ValueError(f"unknown name {name!r}{nearest(name, seam.entries)}")


def chosen_from(seam: str) -> AfterValidator:
    """Annotate a key that names an entry of a dict, a ``Choice`` or, where nothing takes parameters, a ``str``."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if not info.context:  # names are taken as they are
            return value
        choice = value if isinstance(value, Choice) else Choice(name=value)
        check_name(choice.name, info.context[seam])
        known = info.context[seam].parameters(choice.name) if choice.parameters else {}
        for key, given in choice.parameters.items():
            if key not in known:
                raise ValueError(f"unknown parameter {key!r} of {choice.name}{nearest(str(key), known)}")
            check_parameter(known[key], given, f"{choice.name}: ")
        return value

    return AfterValidator(check)


def check_parameter(parameter: inspect.Parameter, value: Any, where: str = "") -> None:
    """Raise ValueError where a value is not what the parameter's annotation says; without one anything goes."""
    hint = parameter.annotation
    try:
        TypeAdapter(Any if hint is parameter.empty else hint).validate_python(value, strict=True)
    except ValidationError as error:
        words = " or ".join(problem["msg"].removeprefix("Input should be ") for problem in error.errors())  # of a union
        expected = hint.__name__ if isinstance(hint, type) else words
        raise ValueError(f"{where}{parameter.name}: expected {expected}, found {value!r}") from None
