"""How much may come in by a file or a flag, and which text: checked once, where it is read."""

from __future__ import annotations

import os
import re
from collections.abc import Sized
from typing import Any

from pydantic import AfterValidator

YAML_BYTES = 4 << 20  # of a YAML file, which is read in some ten seconds then
DEPTH = 50  # of lists in lists in a YAML file
NUMBER_LETTERS = 100  # of a number in a YAML file
LARGEST = 1e30  # of a number, which stays finite in float32 when it is squared no more than once
SHOWN = 500  # letters of a value in a message
LINE_LETTERS = 1_000  # of a line of a message
CLASSES = 100_000
NAME_LETTERS = 1_000  # of a class name
SOURCES = 100_000  # paths of a split; more stand in a list file
IMAGES = 1_000_000  # of a set that is drawn
CHANNELS = 1_024  # of an image
ROWS = 1_000  # of a model YAML, backbone and head each
BLOCKS = 2_000  # of all rows, after depth_multiple
WIDTH = 16_384  # channels of a layer, after width_multiple
ANCHORS = 1_000  # numbers of a level

# Control characters, line separators and marks that turn the direction of all that follows; half of a surrogate pair.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def at_most(count: int, what: str) -> AfterValidator:
    """Annotate a list or a text of at most so many."""

    def check(value: Any) -> Any:
        if isinstance(value, Sized) and len(value) > count:
            raise ValueError(f"expected at most {count:,} {what}, found {len(value):,}")
        return value

    return AfterValidator(check)


def check_name(name: str) -> None:
    """Raise ValueError for a class name that cannot be drawn and written everywhere."""
    if found := _UNWRITABLE.search(name):
        raise ValueError(
            f"expected names that UTF-8 can write, without control characters, found {found[0]!r} in {name[:80]!r}"
        )
    if len(name) > NAME_LETTERS:
        raise ValueError(f"expected names of at most {NAME_LETTERS:,} letters, found {len(name):,}: {name[:40]!r}...")


def check_path(path: str) -> str:
    """A path as it stands; ValueError where the system can have no such path."""
    if "\0" in path:
        raise ValueError(f"expected a path, found a NUL in {path[:80]!r}")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"expected a path, found what no path can be written with: {path[:80]!r}") from None
    return path


def check_text(path: str) -> str:
    """A path that TensorBoard or torch writes to, by its name in UTF-8; ValueError where it has none."""
    if not path.isascii() and printable(path) != path:
        raise ValueError(f"expected a path that UTF-8 can write, found {path[:80]!r}")
    return path


def shortened(text: str, longest: int = LINE_LETTERS) -> str:
    """A line without its middle, where it has more letters than these."""
    head, tail = longest * 3 // 4, longest // 5
    return text if len(text) <= longest else f"{text[:head]} ... ({len(text):,} letters) ... {text[-tail:]}"


def printable(text: str) -> str:
    r"""A text, such as the name of a file, as it can be written anywhere: ``\xff`` and ``\n`` for what is no text."""
    return _UNWRITABLE.sub(lambda found: repr(found[0])[1:-1], text)
