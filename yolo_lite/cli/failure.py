"""The end of what nobody foresaw: a few lines that say what failed, where, and how to report it."""

from __future__ import annotations

import errno
import os
import sysconfig
import tempfile
import traceback
from pathlib import Path
from types import TracebackType

import yolo_lite
from yolo_lite.config.bounds import printable, shortened

VARIABLE = "YOLO_LITE_TRACEBACK"  # with any value the traceback is printed instead of written to a file
# Errors of the system without a file: what the machine, not the command, lacks.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN)
_OURS = Path(yolo_lite.__file__).parent
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def end_of(error: Exception) -> tuple[list[str], int]:
    """The lines of an error that no command foresaw, and the exit status: 2 where the machine lacks something, else 1.

    The full traceback is written to a file in the temporary folder.
    """
    notes = getattr(error, "__notes__", [])
    if isinstance(error, MemoryError):
        said = f"there is not enough memory ({_in_a_line(str(error)) or 'none was left'})"
        return [f"{said}; try a smaller --batch-size or --imgsz, or fewer --workers", *notes], 2
    if isinstance(error, OSError) and error.strerror:
        place = f"{_in_a_line(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
        if place or error.errno in _OF_THE_MACHINE:
            return [f"{place}{error.strerror}", *notes], 2
    name = type(error).__name__
    said = _in_a_line(_words(error))
    if isinstance(error, RecursionError):
        said = f"something is nested too deeply ({said})"
    report = "this is a fault of yolo_lite: please report it, with the command and "
    return [f"{name}: {said}", f"  in {_place(error.__traceback__)}", *notes, report + _traceback(error)], 1


def _in_a_line(text: str) -> str:
    return printable(shortened(" ".join(text.split())))


def _words(error: Exception) -> str:
    """The message; of one that torch hands over from a loading process the last line, which is the error itself."""
    text = str(error)
    return text.rstrip().rpartition("\n")[2] if text.startswith("Caught ") else text


def _place(trace: TracebackType | None) -> str:
    """The innermost place in our code or a plugin's: ``yolo_lite/data/index.py:41 (load)``."""
    frames = traceback.extract_tb(trace)
    own = [one for one in frames if Path(one.filename).is_relative_to(_OURS) or not one.filename.startswith(_INSTALLED)]
    if not own:
        return "the interpreter"
    file = Path(own[-1].filename)
    shown = file.relative_to(_OURS.parent) if file.is_relative_to(_OURS) else file
    return f"{shown}:{own[-1].lineno} ({own[-1].name})"


def _traceback(error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    if os.environ.get(VARIABLE):
        return f"this traceback:\n{text}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="yolo_lite-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:  # a full disk
        return f"its traceback ({VARIABLE}=1 prints it)"
    return f"the traceback in {file.name} ({VARIABLE}=1 prints it)"
