"""What the libraries in C that decode images print on stderr: kept from the terminal, and listened to.

libjpeg goes on where the codes of a JPEG make no sense, with blocks that are grey or out of place, and tells of it
there alone. File descriptor 2 is that of all threads: what others write meanwhile comes here as well, and is passed on.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")

_STDERR = 2
# How lines of libjpeg, libpng and libtiff look; all else is somebody else's. libjpeg writes a line at once, the others
# in pieces, and a line of libjpeg may stand within theirs.
_OF_LIBJPEG = re.compile(
    rb"(?:Corrupt JPEG data: |Premature end of JPEG|Invalid SOS |Inconsistent progression |Unknown Adobe |"
    rb"Warning: unknown JFIF )[^\n]*\n"
)
_OF_OTHERS = rb"(?:libpng |(?:tempfile\.tif|\w*(?:TIFF|Fax|JPEG|LZW|Decode|Predictor)\w*): )[^\n]*"
_LINES, _UNFINISHED = re.compile(_OF_OTHERS + rb"\n"), re.compile(_OF_OTHERS + rb"\Z")
# While others decode, any line without an end may be one of these, seen half written; a progress bar begins with \r.
_PERHAPS = re.compile(rb"(?:" + _OF_OTHERS + rb"|^[^\r\n]+)\Z", re.MULTILINE)


class Listener:
    """Leads file descriptor 2 to a file while any thread of this process decodes."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.users = self.decoding = 0  # threads inside ``silence`` and ``heard``
        self.is_alone = False
        self.kept = self.file = -1  # what descriptor 2 was; none while it is closed, or no file can be made
        self.passed_on = 0  # bytes of the file
        self.unfinished = b""  # the begin of a line, whose end comes later

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Keep the libraries from the terminal."""
        with self.lock:
            if not self.users:
                self._lead_away()
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                self._pass_on()
                if not self.users:
                    self._lead_back()

    def heard(self, decode: Callable[[], T], damage: re.Pattern[bytes]) -> tuple[T, str]:
        """What a function returns, and what matches of the libraries' words about it.

        Where these may be about what another thread decodes, the function is called again, and no other meanwhile.
        """
        with self.silence():
            with self._turn(alone=False):
                found, told = self._once(decode, damage)
            if told and threading.active_count() > 1:
                with self._turn(alone=True):
                    found, told = self._once(decode, damage)
        return found, told

    def _once(self, decode: Callable[[], T], damage: re.Pattern[bytes]) -> tuple[T, str]:
        start = self._size()
        found = decode()
        end = self._size()
        match = damage.search(os.pread(self.file, end - start, start)) if end > start else None
        return found, match[0].decode(errors="replace") if match else ""

    @contextmanager
    def _turn(self, alone: bool) -> Iterator[None]:
        """Wait while a thread decodes alone, or until no other does."""
        with self.lock:
            self.lock.wait_for(lambda: not self.is_alone)
            self.is_alone = alone
            self.lock.wait_for(lambda: not (alone and self.decoding))
            self.decoding += 1
        try:
            yield
        finally:
            with self.lock:
                self.decoding -= 1
                self.is_alone = self.is_alone and not alone
                self.lock.notify_all()

    def _size(self) -> int:
        return os.fstat(self.file).st_size if self.kept >= 0 else 0

    def _lead_away(self) -> None:
        with suppress(OSError):  # it is closed, or there is no room for a file
            self.file = _new_file() if self.file < 0 else self.file
            self.kept = os.dup(_STDERR)
            os.dup2(self.file, _STDERR)

    def _pass_on(self) -> None:
        if (end := self._size()) > self.passed_on or self.unfinished:
            text = self.unfinished + os.pread(self.file, end - self.passed_on, self.passed_on)
            text = _OF_LIBJPEG.sub(b"", text)
            unfinished = (_PERHAPS if self.users else _UNFINISHED).search(text)
            self.unfinished = unfinished[0] if unfinished else b""
            self.passed_on = end
            text = text.removesuffix(self.unfinished)
            with suppress(OSError):  # the terminal is gone, or its disk is full: a run goes on
                os.write(self.kept, _LINES.sub(b"", text))

    def _lead_back(self) -> None:
        if self.kept >= 0:
            os.dup2(self.kept, _STDERR)
            os.close(self.kept)
            self.kept, self.unfinished = -1, b""
            if self.passed_on:
                os.ftruncate(self.file, 0)
                self.passed_on = os.lseek(self.file, 0, os.SEEK_SET)

    def start_anew(self) -> None:
        """For a forked process: its file and its lock are its own, whatever threads of its parent were doing."""
        if self.kept >= 0:
            os.dup2(self.kept, _STDERR)
            os.close(self.kept)
        if self.file >= 0:
            os.close(self.file)
        self.__init__()  # type: ignore[misc]


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    if not hasattr(os, "pread"):  # on Windows nothing is heard
        return os.open(os.devnull, os.O_WRONLY)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


LISTENER = Listener()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LISTENER.start_anew)
