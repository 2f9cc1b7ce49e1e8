"""What a system says when it runs short of memory, files or processes, told apart from all other errors."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from yolo_lite.config.errors import ConfigError, UserError

# Words of what torch, OpenCV, CUDA and the C++ library raise, all as errors of a general kind.
_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's memory on the CPU
    "not enough memory",  # and on Windows
    "Cannot allocate memory",  # what the system says, in errors that do not keep its number
    "(-4:Insufficient memory)",  # OpenCV
    "out of memory",  # GPUs
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "std::bad_alloc",
    "failed to map segment",  # the loader of libraries, when a module is imported
)
# oneDNN, which computes convolutions on the CPU, does not say why it fails; for lack of memory as a rule.
_OF_ONEDNN = ("could not create a memory object", "could not create a primitive", "could not execute a primitive")
_FILES = {errno.EMFILE: "that of a process (ulimit -n)", errno.ENFILE: "that of the system (sysctl fs.file-max)"}


def out_of_memory(error: BaseException) -> str:
    """Say that memory has run out, as far as an error tells; "" where it tells of something else."""
    if isinstance(error, OSError):
        return "out of memory" if error.errno == errno.ENOMEM else ""
    words = "" if isinstance(error, UserError) else str(error)  # ours may name any path
    if found := next((word for word in _OF_ONEDNN if word in words), ""):
        return f"out of memory, it seems (oneDNN: {found})"
    is_short = isinstance(error, MemoryError) or any(word in words for word in _OUT_OF_MEMORY)
    return "out of memory" if is_short or type(error).__name__ == "OutOfMemoryError" else ""


def shortage(error: BaseException | None) -> str:
    """Say what the system is short of, as far as an error or its cause tells; "" where they tell of something else."""
    if error is None:
        return ""
    if isinstance(error, OSError) and error.errno in _FILES:
        return f"too many open files, the limit is {_FILES[error.errno]}"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no further thread can be started, the limit is that of processes (ulimit -u)"
    return out_of_memory(error) or shortage(error.__cause__)


@contextlib.contextmanager
def memory_errors_explained(batch_size: int, imgsz: int, remark: str = "") -> Iterator[None]:
    """Turn an allocation that fails, on a GPU or in main memory, into one line that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not (reason := out_of_memory(error)):
            raise
        smaller = f"--batch-size {batch_size // 2}" if batch_size > 1 else f"--imgsz {imgsz // 2}"
        told = f"{reason} with --batch-size {batch_size} at --imgsz {imgsz}: try {smaller}{remark}"
        raise ConfigError(told) from error
