"""Who writes into a run folder: one process, which a lock tells that the system releases with the process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from yolo_lite.config.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

MARK = ".yolo_lite_run"  # a file in every run folder, which tells it from a user's, and the lock
WHO_MAY_READ = 1 << 30  # Windows keeps others from reading what is locked: a byte behind the text
BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_held: dict[tuple[int, int], tuple[int, int]] = {}  # by device and inode of the lock: process, descriptor


class RunWarning(UserWarning):
    """What a user should know of a run folder; the command line prints it in one line, once."""


def own(folder: Path, patience: float = 0.0) -> None:
    """Take a run folder for this process, until it ends or ``folders_released``; what it has is its own again.

    Record locks (``lockf``), for those of ``flock`` live on in forked loading processes. Where the file system has
    none this is said, and the run goes on.

    Args:
        patience: seconds to wait for another process that has the folder.

    Raises:
        ConfigError: another process has it; which one is said, and nothing was written.
        OSError: the folder cannot be written into.
    """
    mark, deadline = folder / MARK, time.monotonic() + patience
    if mark.exists() and _held.get(_key(os.stat(mark)), (0, 0))[0] == os.getpid():
        return  # to close another descriptor of the file would end the lock
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT, 0o666)
    while problem := _lock(descriptor):
        if problem.errno not in BUSY:
            warnings.warn(f"{folder}: no lock here ({problem.strerror}): let no other run write there", RunWarning, 2)
            break
        if time.monotonic() >= deadline:
            who = _owner(descriptor)
            os.close(descriptor)
            raise ConfigError(f"{folder}: {who} writes into this folder: wait for its end, or choose another one")
        warnings.warn(f"{folder}: waiting for {_owner(descriptor)}, which writes there", RunWarning, 2)
        time.sleep(0.2)
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held[_key(os.fstat(descriptor))] = (os.getpid(), descriptor)


@contextlib.contextmanager
def folders_released() -> Iterator[None]:
    """Give the run folders back that were taken meanwhile: a Python session outlives its runs."""
    before = set(_held)
    try:
        yield
    finally:
        for key in [key for key in _held if key not in before]:
            process, descriptor = _held.pop(key)
            if process == os.getpid():
                os.close(descriptor)


def _key(mark: os.stat_result) -> tuple[int, int]:
    return mark.st_dev, mark.st_ino


def _lock(descriptor: int) -> OSError | None:
    """Lock a file for this process; returns why that is not possible."""
    try:
        if fcntl:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, WHO_MAY_READ, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        return error
    return None


def _owner(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
