"""Files that take the place of others: whole and on the disk, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write (and read) that takes the place of ``path`` when the block ends and it is on the disk.

    Whatever happens before leaves the older file: an error, a kill, a full disk, a loss of power.

    Raises:
        OSError: it cannot be written; it names ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed run left is overwritten
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, as ``replacing``."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    if os.name != "posix" and os.path.isdir(path):  # Windows cannot be asked for a folder
        return
    number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)
