"""Resized pictures: read from disk each time, or decoded once into memory that all workers share."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import fitted_size, resize

# Only forked processes see the memory of their parent. (Forking on macOS is not safe with its system libraries.)
CAN_FORK = sys.platform == "linux"
LARGEST_SHARE = 0.25  # of the free memory, that ``cache: auto`` may take for one set


def free_memory() -> int:
    """Bytes that this process may still take without swapping; 0 where the system does not tell."""
    return min(_free_in_machine(), _free_in_container())


def _free_in_machine() -> int:
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
        return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("MemAvailable"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        known = "SC_AVPHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 0


def _free_in_container() -> int:
    """What is left of the control group's limit; without a limit more than any machine has."""
    try:
        limit, used, rows = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current", "stat"))
        # Files that were read and may be forgotten count as used: they are not lost to us.
        files = next(int(row.split()[1]) for row in rows.splitlines() if row.startswith("inactive_file "))
    except (OSError, StopIteration):
        return sys.maxsize
    return sys.maxsize if limit.strip() == "max" else max(int(limit) - int(used) + files, 0)


class ImageStore:
    """The pictures of an index with their longest side scaled to ``longest`` pixels.

    Args:
        cache: "off" decodes at every call; "ram" keeps every decoded picture; "auto" does so when the whole set takes
            less than a quarter of the free memory.
        shared: worker processes will call it too. The memory is then mapped anonymously, so that forked workers fill
            and read one copy; where processes are not forked (Windows, macOS) nothing is kept.
    """

    def __init__(self, index: DatasetIndex, longest: int, cache: str, shared: bool) -> None:
        self.index = index
        fitted = [fitted_size(int(height), int(width), longest) for height, width in index.size]
        self.size = np.array(fitted, dtype=np.int64)  # [n, 2] height and width
        self.first = np.concatenate(([0], (self.size.prod(axis=1) * 3).cumsum()))  # [n + 1] bytes
        self.memory: mmap.mmap | None = None
        if cache != "off" and (not shared or CAN_FORK) and (cache == "ram" or self._is_small()):
            # One byte behind the pictures for each of them says whether it is there.
            self.memory = mmap.mmap(-1, self.num_bytes + len(index))

    @property
    def num_bytes(self) -> int:
        return int(self.first[-1])

    def _is_small(self) -> bool:
        num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's: each has a copy of its own
        return self.num_bytes < LARGEST_SHARE * free_memory() / num_processes

    def describe(self) -> str:
        """One line for the start of a run."""
        megabytes, free = self.num_bytes / 2**20, free_memory() / 2**30
        kept = "kept decoded in memory, shared by all workers" if self.memory else "decoded anew at every use"
        return f"{len(self.index)} images, {megabytes:,.0f} MiB when decoded, {free:.1f} GiB free: {kept}"

    def __getitem__(self, position: int) -> np.ndarray:
        """RGB pixels uint8 ``[h, w, 3]``, to be read only."""
        if self.memory is None:
            return self._read(position)
        start, flag = int(self.first[position]), self.num_bytes + position
        height, width = self.size[position]
        pixels = np.frombuffer(self.memory, np.uint8, height * width * 3, start).reshape(height, width, 3)
        if not self.memory[flag]:
            # Two workers may both decode a picture at first: they write the same bytes, the flag comes last.
            pixels[:] = self._read(position)
            self.memory[flag] = 1
        return pixels

    def _read(self, position: int) -> np.ndarray:
        path = self.index.path(position)
        image = read_image(path)
        if image.shape[:2] != tuple(self.index.size[position]):
            expected = tuple(int(side) for side in self.index.size[position])
            raise DataError(f"{path}: the header says {expected} (height, width), the pixels are {image.shape[:2]}")
        return resize(image, *(int(side) for side in self.size[position]))
