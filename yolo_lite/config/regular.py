"""Opening files that users name: regular ones only, so that a pipe or a device keeps nobody waiting."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading in binary.

    Raises:
        OSError: as ``open``, or it is a pipe, a socket, a device or a folder.
    """
    # Without O_NONBLOCK a pipe would be waited for here, until somebody writes into it.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        number = os.open(path, flags)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, f"not a path: {error}", os.fspath(path)) from error
    kind = stat.S_IFMT(os.fstat(number).st_mode)
    if kind != stat.S_IFREG:
        os.close(number)
        raise OSError(errno.EINVAL, f"{KINDS.get(kind, 'of a special kind')}, expected a regular file", os.fspath(path))
    return os.fdopen(number, "rb")


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The content of a regular file; raises OSError as ``open_regular``, or where it has more than ``most`` bytes."""
    with open_regular(path) as file:
        if most is None:
            return file.read()
        content = file.read(most + 1)  # what is there counts, not what the system states
    if len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most:,} bytes", os.fspath(path))
    return content


def read_text(path: str | os.PathLike[str], most: int | None = None) -> str:
    """The text of a regular file in UTF-8; raises OSError as ``read_regular``, or UnicodeDecodeError."""
    return read_regular(path, most).decode("utf-8")
