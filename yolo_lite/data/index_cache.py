"""The cache of what the files of a split contain, in a folder outside the dataset.

A file's stamp is its size and the times of its last change. An image is read again when its stamp or that of its label
file has changed since the last reading, or when its labels are expected in another file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import PIL
from tqdm.contrib.concurrent import thread_map

from yolo_lite.data.labels import SYSTEM_ERROR, Labels, Problem
from yolo_lite.data.outlines import Outlines
from yolo_lite.data.shapes import cache_folder
from yolo_lite.data.split import SplitFiles

# Raise it with every change of what the readers, ``images`` or ``labels`` make of the same files.
FORMAT = 9
# A file may change twice within one tick of its file system's clock (2 s for FAT), and the second change not show.
SETTLED_AFTER = 2_000_000_000  # ns
STAMPED_TOGETHER = 500  # images that are looked at in a row
READ_TOGETHER = 16  # images that are packed by the thread that reads them: the arrays of each alone take 3 KB
SLOW_STAMP = 100_000  # ns for an image and its label file, from which on threads help: a folder on a network
DIGEST_SIZE = hashlib.sha256().digest_size


class CachedSplit(NamedTuple):
    """The content of a cache file, n images."""

    key: np.ndarray  # [n] bytes
    image_id: np.ndarray
    category_id: np.ndarray
    labels: Labels
    remarks: list[Problem]  # about the labels as a whole


def read_changed(files: SplitFiles, read: Callable[[str, str], Labels], split: str, *rules: object) -> CachedSplit:
    """The images as the cache file has them; those that have changed since go through ``read`` and are kept too.

    ``rules`` is everything that decides how the files are read: the cache file's name depends on it.
    """
    images, reader = files.images, files.reader
    rules = (FORMAT, type(reader).__name__, reader.reading, PIL.__version__, cv2.__version__, *rules)
    path = cache_folder() / f"index-{hashlib.sha256(json.dumps(rules, default=str).encode()).hexdigest()[:16]}"
    keys, kept = _keys_of(images, files.labels), load(path)
    known = kept.key.tolist() if kept else []
    if kept and known == keys:
        return kept
    if reader.path:  # which record of one file for all images is whose may change with every other image
        known, kept = [], None
    row_of = {key: row for row, key in enumerate(known)}
    rows = np.array([row_of.get(key, -1) for key in keys], dtype=np.int64)
    new = np.flatnonzero(rows < 0).tolist()
    rows[new] = np.arange(len(new)) + len(known)
    reader.load([*images, *files.others])

    def read_some(start: int) -> Labels:
        return Labels.concat([read(images[i], files.labels[i]) for i in new[start : start + READ_TOGETHER]])

    starts, title = range(0, len(new), READ_TOGETHER), f"reading {split}"
    found = thread_map(read_some, starts, desc=title, leave=False, delay=1, unit_scale=READ_TOGETHER)
    labels = Labels.concat([*([kept.labels] if kept else []), *found]).select(rows)
    has_failed = [any(problem.kind == SYSTEM_ERROR for problem in own) for own in labels.problems]
    key = np.where(has_failed, b"", np.array(keys, dtype=np.bytes_))  # an empty key is never asked for
    ids, remarks = (
        reader.ids([images[i] for i in labels.usable]),
        reader.remarks([*images, *files.others], labels.hints),
    )
    kept = CachedSplit(key, *ids, labels, remarks)
    save(path, kept)
    return kept


def _keys_of(images: Sequence[str], files: Sequence[str]) -> list[bytes]:
    """A key for each image, of the paths and stamps of it and its label file: the same key means the same content.

    Where a later change might not show in the stamps, the key holds the time as well, and so never comes again.
    """
    now = time.time_ns()
    shared = {file: stamp_of(file) for file in files[:1]}  # one file may hold the labels of all

    def look(start: int) -> list[bytes]:
        keys, end = [], start + STAMPED_TOGETHER
        for image, file in zip(images[start:end], files[start:end], strict=True):
            stamp = stamp_of(image) + (shared.get(file) or stamp_of(file))
            text = f"{image}\0{file}\0{stamp}"
            keys.append(os.fsencode(text if max(stamp) < now - SETTLED_AFTER else f"{text}{now}"))
        return keys

    first, rest = look(0), range(STAMPED_TOGETHER, len(images), STAMPED_TOGETHER)
    if time.time_ns() - now < SLOW_STAMP * len(first):
        return [*first, *(key for start in rest for key in look(start))]
    with ThreadPoolExecutor() as pool:
        return [*first, *(key for keys in pool.map(look, rest) for key in keys)]


def stamp_of(path: str) -> tuple[int, int, int]:
    """Size, time of change and time of status change (ns) of a file; -1 each where it does not exist."""
    # The time of the status change cannot be set: it shows that a file was replaced by one of the same size and time.
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path at all
        return -1, -1, -1
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def load(path: Path) -> CachedSplit | None:
    """The content of a cache file; None where it does not exist or is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST_SIZE:]).digest() != content[:DIGEST_SIZE]:
        return None
    found = dict(np.load(io.BytesIO(content[DIGEST_SIZE:])))
    outlines = Outlines(*map(found.pop, Outlines._fields)) if "corner" in found else None
    *problems, remarks = [[Problem(*one) for one in own] for own in json.loads(found.pop("problems").tobytes())]
    own = {name: found.pop(name) for name in ("key", "image_id", "category_id")}
    return CachedSplit(**own, labels=Labels(**found, outlines=outlines, problems=problems), remarks=remarks)


def save(path: Path, kept: CachedSplit) -> None:
    """Write a cache file, which gets its name when it is complete; where that fails, say so once and go on."""
    outlines = kept.labels.outlines
    arrays = kept._asdict() | kept.labels._asdict() | (outlines._asdict() if outlines else {})
    del arrays["labels"], arrays["outlines"], arrays["remarks"]
    arrays["problems"] = np.frombuffer(json.dumps([*kept.labels.problems, kept.remarks]).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".index-") as folder:
            complete = Path(folder, path.name)
            complete.write_bytes(hashlib.sha256(buffer.getbuffer()).digest() + buffer.getbuffer())
            os.replace(complete, path)
    except OSError as error:
        _say_once(f"cannot keep the index for the next start in {path.parent}: {error.strerror}; set YOLO_LITE_CACHE")


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)
