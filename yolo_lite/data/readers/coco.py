"""COCO annotations: one JSON file for each split, boxes ``x y width height`` in pixels, classes by name."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.config.errors import DataError, nearest
from yolo_lite.data.labels import Annotation, LabelReader, Problem

KEYS: dict[str, dict[str, Any]] = {  # what a row of each part must have
    "images": {"id": (int, str), "file_name": str},
    "annotations": {"image_id": (int, str)},
    "categories": {"id": int, "name": (int, str)},
}


class CocoReader(LabelReader):
    """The annotations of one file for all images."""

    drop_repeats = False  # pycocotools counts them too

    def __init__(self, root: Path, place: Path | None, names: tuple[str, ...]) -> None:
        super().__init__(root, place, names)
        if place is None:
            raise DataError("format: coco needs the key labels: expected the annotation file, or one for each split")
        self.path: Path = place

    def load(self) -> None:
        """Read the file; for some hundred megabytes that takes many seconds."""
        content = _load(self.path)
        labels = {name: label for label, name in enumerate(self.names)}
        self.categories = {row["id"]: str(row["name"]) for row in content["categories"]}
        self.labels = {number: labels[name] for number, name in self.categories.items() if name in labels}
        self.images = {str(row["file_name"]): row for row in content["images"]}
        self.rows: dict[Any, list[dict[str, Any]]] = {row["id"]: [] for row in content["images"]}
        self.strays: list[dict[str, Any]] = []  # annotations of images that the file does not list
        for row in content["annotations"]:
            self.rows.get(row["image_id"], self.strays).append(row)

    def file_of(self, image: Path) -> Path:
        return self.path

    def record(self, image: Path) -> dict[str, Any] | None:
        """The file's row of an image, whose name there is an end of the image's path; the longest that fits."""
        parts = image.parts
        ends = ("/".join(parts[first:]) for first in range(len(parts)))
        return next((self.images[end] for end in ends if end in self.images), None)

    def ids(self, images: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """The file's ids; a class that it does not have gets a new one, and images are numbered where ids are words."""
        image_ids = [(self.record(image) or {}).get("id") for image in images]
        if not all(isinstance(number, int) for number in image_ids):
            image_ids = list(range(len(images)))
        known = {label: number for number, label in self.labels.items()}
        unused = itertools.count(max([0, *self.categories]) + 1)
        category_ids = [known[label] if label in known else next(unused) for label in range(len(self.names))]
        return np.array(image_ids, dtype=np.int64), np.array(category_ids, dtype=np.int64)

    def annotations(self, image: Path, size: tuple[int, int]) -> Iterable[Annotation | Problem]:
        record = self.record(image)
        if record is None:
            raise DataError(f"{image}: not among the images of {self.path}")
        stated = (record.get("height", size[0]), record.get("width", size[1]))
        if stated != size:
            found = f"{self.path} has it as {stated[1]!r} x {stated[0]!r}"
            raise DataError(f"{image}: {size[1]} x {size[0]} pixels, but {found}")
        return map(self._object, self.rows[record["id"]])

    def unlisted(self, images: Collection[Path]) -> dict[str, list[str]]:
        """Images that are none of these, and annotations of images that the file does not list."""
        used = {record["id"] for image in images if (record := self.record(image))}
        unused = [name for name, record in self.images.items() if record["id"] not in used]
        strays = [str(row.get("id")) for row in self.strays]
        return {"images that no split has": unused, "annotations of images it does not list": strays}

    def _object(self, row: dict[str, Any]) -> Annotation | Problem:
        where, number = f"{self.path}: annotation {row.get('id')}", row.get("category_id")
        if not isinstance(number, int) or number not in self.labels:
            name = self.categories.get(number, number) if isinstance(number, int) else number
            found = f"found {name!r}{nearest(str(name), self.names)}"
            return Problem("unknown class", f"{where}: expected a class of the dataset YAML, {found}")
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            polygons = row.get("segmentation")
            polygons = polygons if isinstance(polygons, list) else []  # run-length masks have none
            rings = [np.array(points, dtype=np.float32).reshape(-1, 2) for points in polygons]
            area = None if row.get("area") is None else float(row["area"])
        except (KeyError, TypeError, ValueError):
            expected = "expected bbox: [x, y, width, height], polygons and area as numbers"
            return Problem("not a number", f"{where}: {expected}")
        box, outlines = (x, y, x + width, y + height), tuple(ring for ring in rings if len(ring) >= 3)
        return Annotation(where, self.labels[number], box, outlines, area, bool(row.get("iscrowd")))


def _load(path: Path) -> dict[str, Any]:
    """The content of the annotation file, whose rows have the parts they must have."""
    where = f"labels: {path}"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON file: {error}") from error
    for part, needed in KEYS.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{where}: expected a list {part!r} as in COCO's annotation files")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in needed.items()):
                raise DataError(f"{where}: {part}[{number}]: expected {', '.join(needed)}, found {row!r:.80}")
        for number, count in Counter(row["id"] for row in rows if "id" in needed).most_common(1):
            if count > 1:
                raise DataError(f"{where}: {part}: expected every id once, found {count} of {number!r}")
    return content
