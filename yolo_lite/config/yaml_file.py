"""The one YAML reader: safe types only, ``1e-2`` is a float, duplicate keys are errors, line numbers are kept."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from yolo_lite.config.errors import ConfigError

KeyPath = tuple[str | int, ...]


class Document(NamedTuple):
    """A parsed YAML file and where each of its keys stands."""

    source: str  # file name for messages
    data: dict[str, Any]
    lines: dict[KeyPath, int]  # ("backbone", 3) -> line number, counted from 1


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, stricter about keys and as generous about floats as YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first_line: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in first_line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}, already given in line {first_line[key]}", key_node.start_mark
                )
            first_line[key] = line
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 as PyYAML reads it wants a dot and a signed exponent: 1e-2 would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(path: str | Path) -> Document:
    """Parse a YAML file that holds one mapping.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, not a mapping, or repeats a key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (looked in {Path(path).resolve().parent})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """As ``read_yaml``, from a string; ``source`` names it in messages."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    finally:
        loader.dispose()
    if node is None or not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping of keys to values, found {type(data).__name__}")
    return Document(source, data, dict(_line_numbers(node, ())))


def parse_scalar(text: str) -> Any:
    """The value that ``text`` would have after ``key:`` in a YAML file."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader subclass)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: {text!r} is not a YAML value: {error}") from error


def _line_numbers(node: yaml.Node, path: KeyPath) -> list[tuple[KeyPath, int]]:
    rows: list[tuple[KeyPath, int]] = [(path, node.start_mark.line + 1)]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            rows += [((*path, key.value), key.start_mark.line + 1)]
            rows += [row for row in _line_numbers(value, (*path, key.value)) if row[0] != (*path, key.value)]
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            rows += _line_numbers(value, (*path, index))
    return rows
