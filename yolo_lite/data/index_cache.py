"""What the files of a split said, kept for the next start in a folder outside the dataset.

A file's stamp is its size and the times of its last change. An image is read anew when its stamp or that of its label
file is not what it was at the last reading, or when its labels are looked for in another file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL

from yolo_lite.data.labels import LabelReader
from yolo_lite.data.outlines import Outlines
from yolo_lite.data.packed_labels import PackedLabels
from yolo_lite.data.shapes import cache_folder

# Raise it with every change of what the readers, ``images``, ``labels`` or ``packed`` make of the same files.
FORMAT = 1
# A file may change twice within one tick of its file system's clock (2 s for FAT): the second change would not show.
SETTLED_AFTER = 2_000_000_000  # ns
MISSING = (-1, -1, -1)
STAMPED_TOGETHER = 500  # images, by one of the threads; they are for folders on a network
DIGEST_SIZE = hashlib.sha256().digest_size


class Stamps(NamedTuple):
    """The files of n images as they are now."""

    key: list[bytes]  # [n], paths and stamps of image and label file: what was read with the same key is still so
    settled: np.ndarray  # [n] bool: a later change would show


class CachedSplit(NamedTuple):
    """The content of a cache file, n images."""

    key: np.ndarray  # [n] bytes
    image_id: np.ndarray
    category_id: np.ndarray
    entries: PackedLabels


def stamps_of(images: Sequence[Path], reader: LabelReader) -> Stamps:
    """Look at each image and its label file, without opening them."""
    latest = time.time_ns() - SETTLED_AFTER

    def look(start: int) -> list[tuple[bytes, bool]]:
        pairs = ((str(image), str(reader.file_of(image))) for image in images[start : start + STAMPED_TOGETHER])
        stamps = ((pair, stamp_of(pair[0]) + stamp_of(pair[1])) for pair in pairs)
        return [(os.fsencode("\0".join((*pair, *map(str, stamp)))), max(stamp) < latest) for pair, stamp in stamps]

    with ThreadPoolExecutor() as pool:
        rows = [row for part in pool.map(look, range(0, len(images), STAMPED_TOGETHER)) for row in part]
    return Stamps([row[0] for row in rows], np.array([row[1] for row in rows], dtype=bool))


def stamp_of(path: str) -> tuple[int, int, int]:
    """Size, time of change and time of status change (ns) of a file; -1 where there is none."""
    # The time of the status cannot be set: it tells a file from one of the same size and times that it was put over.
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path at all
        return MISSING
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def cache_file(reader: LabelReader, *rules: object) -> Path:
    """Where a split is kept: a name of its own for everything that decides how its files are read."""
    rules = (FORMAT, type(reader).__name__, PIL.__version__, cv2.__version__, *rules)
    name = hashlib.sha256(json.dumps(rules, default=str).encode()).hexdigest()[:16]
    return cache_folder() / f"index-{name}"


def load(path: Path) -> CachedSplit | None:
    """What is kept; None where nothing is, or where the file is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST_SIZE:]).digest() != content[:DIGEST_SIZE]:
        return None
    with np.load(io.BytesIO(content[DIGEST_SIZE:])) as arrays:
        found = dict(arrays)
    problems = {int(image): lines for image, lines in json.loads(found.pop("problems").tobytes()).items()}
    outlines = Outlines(*(found.pop(name) for name in Outlines._fields)) if "corner" in found else None
    own = {name: found.pop(name) for name in ("key", "image_id", "category_id")}
    return CachedSplit(**own, entries=PackedLabels(**found, outlines=outlines, problems=problems))


def save(path: Path, kept: CachedSplit) -> None:
    """Keep it under its name when it is whole; where that cannot be, say so once and go on."""
    outlines = kept.entries.outlines
    arrays = kept._asdict() | kept.entries._asdict() | (outlines._asdict() if outlines else {})
    del arrays["entries"], arrays["outlines"]
    arrays["problems"] = np.frombuffer(json.dumps(kept.entries.problems).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(hashlib.sha256(buffer.getbuffer()).digest() + buffer.getbuffer())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _say_once(f"cannot keep the index for the next start in {path.parent}: {error.strerror}; set YOLO_LITE_CACHE")


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def known_rows(kept: CachedSplit | None, stamps: Stamps) -> np.ndarray:
    """Which kept entry holds what each image says ``[n]``; -1 where it must be read."""
    row_of = {key: row for row, key in enumerate(kept.key.tolist())} if kept else {}
    return np.array([row_of.get(key, -1) for key in stamps.key], dtype=np.int64)
