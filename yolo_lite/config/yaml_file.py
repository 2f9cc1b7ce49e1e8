"""The one YAML reader: safe types only, ``1e-2`` is a float, ``off`` is text, duplicate keys are errors, lines kept."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.regular import read_text

KeyPath = tuple[str | int, ...]


class Document(NamedTuple):
    """A parsed YAML file and where each of its keys stands."""

    source: str  # file name for messages
    data: dict[str, Any]
    lines: dict[KeyPath, int]  # ("backbone", 3) -> line number, counted from 1
    flags: dict[str, str] = {}  # noqa: RUF012 (never written to): "lr0" -> "--set lr0=1", for keys given by flags
    noun: str = "key"  # what a name in it is called in messages


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, stricter about keys, with the floats and booleans of YAML 1.2."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):  # a few lines of them may stand for billions of values
            raise _problem(alias, "an alias of a list or of keys is not supported, expected them in full")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first_line: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise _problem(key_node, f"a key must be text or a number, found {key!r}")
            if key in first_line:
                raise _problem(key_node, f"duplicate key {key!r}, already given in line {first_line[key]}")
            first_line[key] = line
        return super().construct_mapping(node, deep=deep)

    def refuse(self, node: yaml.Node) -> None:
        what = "the merge key <<" if node.tag.endswith(":merge") else f"the tag {node.tag!r}"
        raise _problem(node, f"{what} is not supported, expected plain keys and values")


def _problem(place: Any, text: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, place.start_mark)


_Loader.add_constructor(None, _Loader.refuse)

# YAML 1.1 as PyYAML reads it makes booleans of yes, no, on and off: only true and false are meant so.
_Loader.yaml_implicit_resolvers = {
    letter: [rule for rule in rules if letter in "tTfF" or rule[0] != "tag:yaml.org,2002:bool"]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# It also wants a dot and a signed exponent in a float: 1e-2 would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_yaml(path: str | Path) -> Document:
    """Parse a YAML file that holds one mapping; ConfigError where it is missing, unreadable or not such a file."""
    try:
        text = read_text(path)
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
    loader = _Loader(text)
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
