"""From the words of a command line to a section of options: the field is the flag, its description the help text."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from yolo_lite.cli.foreign import as_ours
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import Flag, Options

SomeOptions = TypeVar("SomeOptions", bound=Options)


def read_options(section: type[SomeOptions], words: Sequence[str], program: str) -> SomeOptions:
    """The options that the words give.

    Raises:
        SystemExit: a word is no flag, or a value is of another kind; argparse has said so.
        ConfigError: a value is out of range; all problems at once.
    """
    parser, own = make_parser(section, program), {"--help"}
    for name, field in section.model_fields.items():
        own.update(_names(name, field))
    try:
        given = vars(parser.parse_args(as_ours(words, own, program)))
    except ConfigError as error:
        parser.error(str(error))
    from yolo_lite.config.load import validate  # not for --help, which has ended by now
    from yolo_lite.config.yaml_file import Document

    names = {name: _names(name, field)[-1] for name, field in section.model_fields.items()}
    return validate(section, Document(program, given, {}, names))


def make_parser(section: type[Options], program: str) -> argparse.ArgumentParser:
    """A parser of a section's fields; it leaves out what is not given, the section holds the defaults."""
    parser = argparse.ArgumentParser(
        prog=program, description=inspect.getdoc(section), argument_default=argparse.SUPPRESS
    )
    hints = get_type_hints(section)
    for name, field in section.model_fields.items():
        flag, settings = _flag(field), _reading(hints[name])
        if flag.metavar:
            settings["metavar"] = flag.metavar
        if not flag.positional:
            settings.update(dest=name, required=field.is_required())
        parser.add_argument(*_names(name, field), help=_help(field), **settings)
    return parser


def _flag(field: FieldInfo) -> Flag:
    return next((one for one in field.metadata if isinstance(one, Flag)), Flag())


def _names(name: str, field: FieldInfo) -> list[str]:
    """``["-o", "--output"]``, ``["--batch-size"]``, or ``["weights"]`` of a positional argument."""
    flag, long = _flag(field), f"--{name.replace('_', '-')}"
    if flag.positional:
        return [name]
    return [flag.word] if flag.word and flag.word.startswith("--") else [word for word in (flag.word, long) if word]


def _help(field: FieldInfo) -> str:
    """The description, and the default where it has one to show."""
    text = field.description or ""
    shown = not field.is_required() and field.default_factory is None and (field.default or field.default == 0)
    shown = shown and not isinstance(field.default, bool)
    return (f"{text} (default: {field.default})" if shown else text).replace("%", "%%")


def _reading(hint: Any) -> dict[str, Any]:
    """How argparse reads words as a type: ``{"type": int}``, ``{"action": "store_true"}``, ..."""
    kinds = _kinds(hint)
    if bool in kinds:
        return {"action": "store_true"} if kinds == [bool] else {"nargs": "?", "const": True}
    if lists := [kind for kind in kinds if get_origin(kind) is Sequence]:
        (item,) = get_args(lists[0])
        return {"nargs": "+", "action": "append" if get_origin(item) is Sequence else "extend", **_choices(item)}
    if str in kinds:
        return {}
    if int in kinds and len(kinds) > 1:
        return {"type": _number_or_word}
    return _choices(kinds[0]) or {"type": kinds[0]}


def _kinds(hint: Any) -> list[Any]:
    """The types of a union, without None."""
    if get_origin(hint) in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part)]
    return [] if hint is NoneType else [hint]


def _choices(hint: Any) -> dict[str, Any]:
    return {"choices": get_args(hint)} if get_origin(hint) is Literal else {}


def _number_or_word(text: str) -> int | str:
    return int(text) if text.lstrip("+-").isdecimal() else text
