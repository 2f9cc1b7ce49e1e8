"""The one YAML reader: values and the lines of their keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from yolo_lite.config.bounds import YAML_BYTES
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.regular import read_text
from yolo_lite.config.yaml_loader import Loader

KeyPath = tuple[str | int, ...]


class Document(NamedTuple):
    """A parsed YAML file and where each of its keys stands."""

    source: str  # file name for messages
    data: dict[str, Any]
    lines: dict[KeyPath, int]  # ("backbone", 3) -> line number, counted from 1
    flags: dict[str, str] = {}  # noqa: RUF012 (never written to): "lr0" -> "--set lr0=1", for keys given by flags
    noun: str = "key"  # what a name in it is called in messages


def read_yaml(path: str | Path) -> Document:
    """Parse a YAML file that holds one mapping; ConfigError where it is missing, unreadable or not such a file."""
    try:
        text = read_text(path, YAML_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (looked in {Path(path).resolve().parent})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """As ``read_yaml``, from a string; ``source`` names it in messages."""
    try:
        node, data = _parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ": not YAML"
        raise ConfigError(f"{source}{place}: {_reason(error)}") from error
    except RecursionError:
        raise ConfigError(f"{source}: not usable as YAML: nested too deeply") from None
    if node is None or not isinstance(data, dict):
        found = "nothing" if data is None else repr(data)[:80]
        raise ConfigError(f"{source}: expected a mapping of keys to values, found {found}")
    return Document(source, data, dict(_line_numbers(node, ())))


def parse_scalar(text: str) -> Any:
    """The value that ``text`` would have after ``key:`` in a YAML file; ConfigError where it is not YAML."""
    try:
        return _parse(text)[1]
    except yaml.YAMLError as error:
        raise ConfigError(f"not a YAML value: {_reason(error)}") from error


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _reason(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).splitlines()[0]
    reason = ", ".join(filter(None, (error.context, error.problem)))
    return reason.replace("character '\\t' that cannot start any token", "a tab, expected spaces")


def _line_numbers(node: yaml.Node, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            own = (*path, key.value)
            # Of two rows for one path a dict keeps the last: the line of the key, not that of its value.
            yield from _line_numbers(value, own)
            yield own, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _line_numbers(value, (*path, index))
