"""What a system says when it runs short of memory, files or processes, told apart from all other errors."""

from __future__ import annotations

import errno

from yolo_lite.config.errors import ShortageError

# Words of what torch, OpenCV, CUDA and the C++ library raise, all as errors of a general kind.
_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's memory on the CPU
    "not enough memory",  # and on Windows
    "Cannot allocate memory",  # what the system says, in errors that do not keep its number
    "(-4:Insufficient memory)",  # OpenCV
    "out of memory",  # GPUs
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "std::bad_alloc",
)
# oneDNN, which computes convolutions on the CPU, does not say why it fails; for lack of memory as a rule.
_OF_ONEDNN = ("could not create a memory object", "could not create a primitive", "could not execute a primitive")
_FILES = {errno.EMFILE: "of this process (ulimit -n)", errno.ENFILE: "of the system (sysctl fs.file-max)"}


def out_of_memory(error: BaseException) -> str:
    """Say that memory has run out, as far as an error tells; "" where it tells of something else."""
    words = str(error)
    if found := next((word for word in _OF_ONEDNN if word in words), ""):
        return f"out of memory, it seems (oneDNN: {found})"
    number = error.errno if isinstance(error, OSError) else None
    short = isinstance(error, MemoryError) or number == errno.ENOMEM or any(word in words for word in _OUT_OF_MEMORY)
    return "out of memory" if short else ""


def shortage(error: BaseException) -> str:
    """Say what the system is short of, as far as an error tells; "" where it tells of something else."""
    if isinstance(error, OSError) and error.errno in _FILES:
        return f"too many open files: raise the limit {_FILES[error.errno]}"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no further thread can be started: raise the limit of processes (ulimit -u)"
    return out_of_memory(error)


def raise_shortage(error: BaseException, place: object) -> None:
    """Raise a ShortageError where the system, not what was to be read, is at fault."""
    if words := shortage(error):
        raise ShortageError(f"{place}: {words}") from error
