"""Names in YAML that choose a function or a class from a dict, with parameters: ``{focal_eiou: {gamma: 0.5}}``.

The dicts lie in the rooms above this floor: who reads a file hands them over as ``Seams``. A name, and the parameters
that go with it, are checked against the dict and the function's own signature, and stated nowhere else.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, ValidationInfo
from pydantic.functional_serializers import model_serializer
from pydantic.functional_validators import AfterValidator, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from yolo_lite.config.bounds import LARGEST, SHOWN
from yolo_lite.config.errors import nearest


class Section(BaseModel, defer_build=True):  # --help needs none of them
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
        return f"({', '.join((*self.positional, *self.by_name, '...'))})"

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
            words = (name, *(parameters or ())) if isinstance(parameters, (dict, type(None))) else ()
            if words and all(isinstance(word, str) for word in words):
                return {"name": name, "parameters": parameters or {}}
        if isinstance(value, Choice) or (isinstance(value, dict) and "name" in value):
            return value
        raise ValueError(
            f"expected a name, or a name with parameters as in {{name: {{gamma: 1.0}}}}, found {value!r:.{SHOWN}}"
        )

    @model_serializer
    def plain(self) -> str | dict[str, dict[str, Any]]:
        """As YAML has it: ``ciou``, or ``{focal_eiou: {gamma: 0.5}}``."""
        return {self.name: self.parameters} if self.parameters else self.name


def chosen_from(dict_name: str, *words: str) -> AfterValidator:
    """Annotate a key that names an entry of a dict, or is one of ``words``: a ``Choice`` or a bare ``str``."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if not info.context:  # names are taken as they are
            return value
        choice = value if isinstance(value, Choice) else Choice(name=value)
        seam = info.context[dict_name]
        if choice.name in words and choice.parameters:
            raise ValueError(f"{choice.name} takes no parameters, found {choice.parameters!r:.{SHOWN}}")
        if choice.name not in (*words, *seam.entries):
            raise ValueError(f"unknown name {choice.name!r}{nearest(choice.name, [*words, *seam.entries])}")
        return choice.model_copy(update={"parameters": _read_parameters(choice, seam)}) if choice.parameters else value

    return AfterValidator(check)


def _read_parameters(choice: Choice, seam: Seam) -> dict[str, Any]:
    """The parameters of a choice in the types of the function's annotations, or else of its defaults."""
    known, values, problems = seam.parameters(choice.name), {}, list[InitErrorDetails]()
    for key, given in choice.parameters.items():
        try:
            if key not in known:
                raise ValueError(f"unknown parameter{nearest(key, known) if known else f', {choice.name} has none'}")
            kind = type(known[key].default)
            values[key] = read_argument(known[key], given, kind if kind in (bool, int, float, str) else Any)
        except ValueError as error:
            problem = PydanticCustomError("value_error", str(error))  # type: ignore[arg-type]
            problems.append(InitErrorDetails(type=problem, loc=(choice.name, key), input=given))
    if problems:
        raise ValidationError.from_exception_data(choice.name, problems)
    return values


def read_argument(parameter: inspect.Parameter, value: Any, default: Any = Any, where: str = "") -> Any:
    """A value from YAML in the type of a parameter's annotation, or ``default``; ValueError where it does not fit."""
    hint = default if parameter.annotation is parameter.empty else parameter.annotation
    if _largest(value) >= LARGEST:
        raise ValueError(f"{where}expected numbers below {LARGEST:g}, found {value!r:.{SHOWN}}")
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))
        return adapter.validate_json(json.dumps(value, default=str))  # as JSON a list may stand for a tuple
    except ValidationError as error:
        words = " or ".join(dict.fromkeys(map(expected_words, error.errors())))  # several of a union
        raise ValueError(f"{where}expected {words}, found {value!r:.{SHOWN}}") from None
    except PydanticUserError:
        raise ValueError(f"{where}no YAML value can be {hint}, leave it out") from None


def _largest(value: Any) -> float:
    """The absolute value of the largest finite number in a value of a YAML file."""
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    is_finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return max([abs(value) if is_finite else 0, *map(_largest, inner)])


# pydantic's words for what was expected, in ours.
EXPECTED = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "float_type": "a number",
    "int_type": "a whole number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "keys and values",
    "literal_error": "{expected}",
}


def expected_words(detail: ErrorDetails) -> str:
    """What pydantic expected of a value: ``"0 or more"``."""
    words = EXPECTED.get(detail["type"])
    return words.format(**detail.get("ctx", {})) if words else detail["msg"].removeprefix("Input should be ")
