"""Resized images: read from disk each time, or decoded once into memory or a file that all workers share."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import shutil
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from yolo_lite.config.errors import DataError
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.index_cache import stamp_of
from yolo_lite.data.letterbox import Canvas, Letterbox, fitted_size, on_canvas, resize
from yolo_lite.data.outlines import offsets_of
from yolo_lite.data.shapes import cache_folder

# Raise it with every change of the pixels that ``images`` and ``letterbox`` make of the same file.
FORMAT = 4
# Only forked processes see the memory of their parent. (Forking on macOS is not safe with its system libraries.)
CAN_FORK = sys.platform == "linux"
_GROUP = "/sys/fs/cgroup/memory"  # a container may be allowed less than the machine has: versions 2 and 1 of cgroups
_LIMITS = (
    (f"{_GROUP}.max", f"{_GROUP}.current", f"{_GROUP}.stat", "inactive_file "),
    (
        f"{_GROUP}/memory.limit_in_bytes",
        f"{_GROUP}/memory.usage_in_bytes",
        f"{_GROUP}/memory.stat",
        "total_inactive_file ",
    ),
)
LARGEST_SHARE = 0.25  # of the free memory, that ``cache: auto`` may take for one set


def free_memory() -> int:
    """Bytes that this process may still take without swapping; 0 where the system (all but Linux) does not tell."""
    free = 1024 * _number_in("/proc/meminfo", "MemAvailable:")
    for limit_file, used_file, stat_file, word in _LIMITS:
        if limit := _number_in(limit_file):
            # Files that were read and may be forgotten count as used: they are not lost to us.
            free = min(free, max(limit - _number_in(used_file) + _number_in(stat_file, word), 0))
    return free


def _number_in(path: str, word: str = "") -> int:
    """The number behind a word in a file of the kernel; 0 where there is none."""
    found = re.search(rf"{word}\s*(\d+)", Path(path).read_text()) if os.path.exists(path) else None
    return int(found[1]) if found else 0


class ImageStore:
    """The images of an index, resized so that the longest side has ``longest`` pixels; None: as large as they are.

    Args:
        cache: "off" decodes at every call; "ram" keeps every decoded image; "auto" does so when the whole set takes
            less than a quarter of the free memory; "disk" keeps them in a file outside the dataset, for later runs too.
        shared: worker processes use the store too: forked ones share one copy in memory; where processes are not
            forked (Windows, macOS) "ram" and "auto" keep nothing.

    Raises:
        DataError: the disk has no room for the file, or it cannot be written.
    """

    def __init__(self, index: DatasetIndex, longest: int | None, cache: str, shared: bool) -> None:
        self.index = index
        fitted = [fitted_size(height, width, longest or max(height, width)) for height, width in index.size.tolist()]
        self.size = np.array(fitted, dtype=np.int64)  # [n, 2] height and width
        self.image, self.shape = np.arange(len(index)), self.size  # of what evaluation sees, by its number
        self.first = offsets_of(self.size.prod(axis=1) * index.channels)  # [n + 1] bytes
        self.num_bytes = int(self.first[-1])
        # Behind the pixels stands a mark for each image; what this process has found right is not checked again.
        self.checked = np.zeros(len(index), dtype=bool)
        self.file: Path | None = None
        self.memory: mmap.mmap | None = None
        if cache == "disk":
            # A name of its own for these images, this size and this way of decoding.
            rules = f"{FORMAT} {longest} {index.channels} {index.white} {cv2.__version__} {PIL.__version__}".encode()
            name = hashlib.sha256(b"".join((rules, index.paths.tobytes(), index.size.tobytes()))).hexdigest()[:16]
            self.file = cache_folder() / f"images-{name}"
            stamps = [zlib.crc32(repr(stamp_of(index.path(position))).encode()) for position in range(len(index))]
            self.stamp = np.array(stamps, dtype=np.uint32)
            _reserve(self.file, self.num_bytes + 4 * len(index))
            self._map()
        elif cache != "off" and (CAN_FORK or not shared):
            num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's: each has a copy of its own
            if cache == "ram" or self.num_bytes < LARGEST_SHARE * free_memory() / num_processes:
                self._map()

    def _map(self) -> None:
        with open(self.file, "r+b") if self.file else nullcontext() as file:
            self.memory = mmap.mmap(file.fileno() if file else -1, self.num_bytes + 4 * len(self.index))
        self.mark = np.frombuffer(self.memory, np.uint32, len(self.index), self.num_bytes)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is not forked: it maps the file itself."""
        return {name: value for name, value in vars(self).items() if name not in ("memory", "mark")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, memory=None)
        if self.file:
            self._map()

    def describe(self) -> str:
        """One line for the start of a run."""
        size = f"{len(self.index)} images, {self.num_bytes / 2**20:,.0f} MiB when decoded"
        if self.file:
            there = np.count_nonzero(self.mark)
            return f"{size}: kept decoded in {self.file}, {there} there already{_others(self.file)}"
        kept = "kept decoded in memory, shared by all workers" if self.memory else "decoded anew at every use"
        return f"{size}, {free_memory() / 2**30:.1f} GiB free: {kept}"

    def on_canvas(self, number: int, canvas: Canvas) -> tuple[np.ndarray, Letterbox]:
        """What evaluation sees under a number as the network reads it, and where its image lies."""
        height, width = self.index.size[number].tolist()
        return on_canvas(self[number], (height, width), canvas(*self.shape[number].tolist()))

    def __getitem__(self, position: int) -> np.ndarray:
        """Pixels uint8 ``[h, w, channels]``; they must not be written to."""
        if self.memory is None:
            return self._read(position)
        first, end = self.first[position : position + 2].tolist()
        pixels = np.frombuffer(self.memory, np.uint8, end - first, first)
        if not self.checked[position]:
            if self.mark[position] != self._mark_of(position, pixels):
                # Two workers may both decode an image at first: they write the same bytes, the mark comes last.
                pixels[:] = self._read(position).ravel()
                self.mark[position] = self._mark_of(position, pixels)
            self.checked[position] = True
        return pixels.reshape(*self.size[position], self.index.channels)

    def _mark_of(self, position: int, pixels: np.ndarray) -> int:
        """The mark of an image that is there; never 0."""
        # A file outlives changes of the image, and a loss of power that keeps pixels from the disk, not their mark:
        # its marks are checksums of the pixels and of the image's stamp.
        return (zlib.crc32(pixels.data, int(self.stamp[position])) or 1) if self.file else 1

    def _read(self, position: int) -> np.ndarray:
        path, expected = self.index.path(position), tuple(self.index.size[position].tolist())
        image = read_image(path, self.index.channels, self.index.white)
        if image.shape[:2] != expected:
            raise DataError(f"{path}: the header says {expected} (height, width), the pixels are {image.shape[:2]}")
        return resize(image, *self.size[position].tolist())


def _reserve(path: Path, num_bytes: int) -> None:
    """Let a file have so many bytes, zeros where nothing is yet: a disk that is full later would kill the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        missing, free = num_bytes - _allocated(path), shutil.disk_usage(path.parent).free
        if missing > free:
            room = f"{missing / 2**30:.2f} GiB more, {free / 2**30:.2f} GiB are free in {path.parent}{_others(path)}"
            raise DataError(f"cache: disk needs {room}; choose cache: off, or set YOLO_LITE_CACHE to a larger disk")
        with open(path, "ab") as file:
            file.truncate(num_bytes)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        raise DataError(f"cache: disk: cannot write {path}: {error.strerror}; set YOLO_LITE_CACHE") from error


def _allocated(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return getattr(path.stat(), "st_blocks", 0) * 512 if path.exists() else 0


def _others(path: Path) -> str:
    """How much lies there of other sets and sizes: nothing is deleted without being asked."""
    others = [other for other in path.parent.glob("images-*") if other != path]
    size = sum(map(_allocated, others)) / 2**30
    return f" (other files images-* there: {len(others)}, {size:.2f} GiB)" if others else ""
