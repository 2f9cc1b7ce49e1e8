"""What commands write to: terminals, pipes and logs, each of which may go away while a run is under way."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any


class Guarded:
    """A stream that leads nowhere from the first write that fails on.

    Where its reader has ended (``| head``), a run is asked to stop, and any other command ends with BrokenPipeError.
    Where its terminal is gone or its disk is full, a command that ``goes_on`` does so; any other ends with OSError.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self.is_lost, self.goes_on = stream, False, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[..., Any], *given: Any) -> None:
        if self.is_lost:
            return
        try:
            action(*given)
        except BrokenPipeError:
            from yolo_lite.engine.stop import ask_to_stop  # no command has to do with it that runs nothing

            self._drop()
            if not ask_to_stop(signal.SIGPIPE):
                raise
        except OSError as error:
            self._drop()
            if not self.goes_on:
                raise
            for other in (sys.stdout, sys.stderr):
                if other is not self:
                    print(f"warning: output is lost from here on: {error.strerror}; the run goes on", file=other)

    def _drop(self) -> None:
        self.is_lost = True
        with contextlib.suppress(OSError, ValueError):  # no file of the system's
            number = self._stream.fileno()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), number)  # what a buffer still holds goes there, and what libraries write


@contextlib.contextmanager
def guarded_streams() -> Iterator[list[Guarded]]:
    """Stand before stdout and stderr, in that order, while a command runs; a stream that is closed is left out."""
    _fill_closed()
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (stream and Guarded(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Guarded)]
    finally:
        sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Open what the shell closed (``>&-``): else a checkpoint gets its number, and libraries write into that."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
