"""From a YAML document to a validated object, with every error at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.schema import RETIRED_HYP_KEYS, DatasetConfig, Hyp, ModelConfig, RunConfig, Section
from yolo_lite.config.yaml_file import Document, parse_scalar, read_yaml

S = TypeVar("S", bound=Section)

PREFIXES = {"": Hyp, "model.": ModelConfig, "data.": DatasetConfig}


def load_hyp(path: str | Path, overrides: Sequence[str] = ()) -> Hyp:
    """Read hyp.yaml; ``overrides`` are the ``--set key=value`` texts."""
    return validate(Hyp, override(read_yaml(path), overrides, ""))


def load_model_config(path: str | Path, overrides: Sequence[str] = ()) -> ModelConfig:
    """Read a model YAML; ``--set model.key=value`` overrides."""
    return validate(ModelConfig, override(read_yaml(path), overrides, "model."))


def load_dataset_config(path: str | Path, overrides: Sequence[str] = ()) -> DatasetConfig:
    """Read a dataset YAML; ``--set data.key=value`` overrides."""
    return validate(DatasetConfig, override(read_yaml(path), overrides, "data."))


def load_run_config(plain: Mapping[str, Any], source: str) -> RunConfig:
    """The inverse of ``RunConfig.plain``, for checkpoints and config.yaml files named by ``source``."""
    return validate(RunConfig, Document(source, dict(plain), {}))


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError for every ``--set`` text that is no ``key=value`` or names no key of any file."""
    problems = [problem for text in overrides if (problem := _override_problem(text))]
    if problems:
        raise ConfigError("\n".join(problems))


def _override_problem(text: str) -> str | None:
    key, equals, _ = text.partition("=")
    if not equals:
        return f"--set {text}: expected key=value"
    prefix = next((p for p in PREFIXES if p and key.startswith(p)), "")
    fields = PREFIXES[prefix].model_fields
    if key.removeprefix(prefix) not in fields:
        return f"--set {text}: unknown key {key!r}{nearest(key, [prefix + name for name in fields])}"
    return None


def override(document: Document, overrides: Sequence[str], prefix: str) -> Document:
    """A document with the ``key=value`` texts that carry ``prefix`` laid over it."""
    changes: dict[str, Any] = {}
    for text in overrides:
        key, _, value = text.partition("=")
        if (prefix and key.startswith(prefix)) or (not prefix and "." not in key):
            changes[key.removeprefix(prefix)] = parse_scalar(value)
    lines = {path: line for path, line in document.lines.items() if not (path and path[0] in changes)}
    return Document(document.source, {**document.data, **changes}, lines)


def validate(section: type[S], document: Document) -> S:
    """Check a document against the schema.

    Raises:
        ConfigError: one line for each problem, with file, line, key, what was expected and what was found.
    """
    try:
        return section.model_validate(document.data)
    except ValidationError as error:
        problems = [_describe(section, document, detail) for detail in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def _describe(section: type[Section], document: Document, detail: ErrorDetails) -> str:
    # pydantic adds the name of the union's branch to the location: what is no key of the file is left out.
    location = [part for part in detail["loc"] if not str(part).startswith(("tuple[", "function-"))]
    line = document.lines.get(tuple(location))
    where = f"{document.source}:{line}" if line else document.source
    key = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}{_advice(section, document, location)}"
    if detail["type"] == "missing":
        return f"{where}: the key {key!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    found = "" if detail["type"] == "value_error" else f", found {detail['input']!r}"
    return f"{where}: {f'{key}: ' if key else ''}{message[0].lower()}{message[1:]}{found}"


def _advice(section: type[Section], document: Document, location: Sequence[str | int]) -> str:
    word, owner = str(location[-1]), section
    for part in location[:-1]:
        annotation = owner.model_fields[str(part)].annotation
        owner = annotation if isinstance(annotation, type) and issubclass(annotation, Section) else owner
    if owner is Hyp and word in RETIRED_HYP_KEYS:
        return f": {RETIRED_HYP_KEYS[word]}"
    return nearest(word, owner.model_fields)
