"""COCO annotations: one JSON file for each split, boxes ``x y width height`` in pixels, classes by name.

Files of many programs are read for what they mean: ids as text or floats, paths of another machine in ``file_name``, an
image that is listed twice, sizes that are not known, outlines in another form.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.config.errors import DataError, nearest
from yolo_lite.config.regular import read_regular
from yolo_lite.data.labels import Annotation, LabelReader, Problem, Stated
from yolo_lite.data.masks import mask_of_runs, rings_of
from yolo_lite.data.outlines import Ring
from yolo_lite.data.readers.coco_pairing import Row, paired
from yolo_lite.data.turned import around_turned

KEYS = {"images": ("id",), "annotations": (), "categories": ("id", "name")}  # what each row must have


class CocoReader(LabelReader):
    """The annotations of one file for all images."""

    drop_repeats = False  # pycocotools counts them too

    def __init__(self, root: Path, place: Path | None, names: tuple[str, ...]) -> None:
        super().__init__(root, place, names)
        if place is None:
            raise DataError("format: coco needs the key labels: expected the annotation file, or one for each split")
        self.path: Path = place

    @cached_property
    def content(self) -> dict[str, list[Row]]:
        """What the file holds; to read some hundred megabytes takes many seconds."""
        return _load(self.path)

    @cached_property
    def used(self) -> set[Any]:
        """The ids of categories that have annotations."""
        return {plain_id(row.get("category_id")) for row in self.content["annotations"]}

    def load(self, images: Sequence[str]) -> None:
        content = self.content
        labels = {name: label for label, name in enumerate(self.names)}
        self.categories = {plain_id(row["id"]): _text(row["name"]) for row in content["categories"]}
        self.rows: dict[Any, list[Row]] = {plain_id(row["id"]): [] for row in content["images"]}
        self.strays: list[Row] = []  # annotations of images that the file does not list
        for row in content["annotations"]:
            self.rows.get(plain_id(row.get("image_id")), self.strays).append(row)
        # A category without annotations may have the name of one that has some: an exporter's parent of all classes.
        known = sorted(self.categories.items(), key=lambda item: item[0] in self.used)
        self.labels = {number: labels[name] for number, name in known if name in labels}
        named = [row for row in content["images"] if isinstance(row.get("file_name"), str) and row["file_name"].strip()]
        self.records, self.by_bare_name = paired(named, images, self.path, self.folders)

    def label_files(self, images: Sequence[str]) -> tuple[list[str], np.ndarray]:
        return [str(self.path)] * len(images), np.ones(len(images), dtype=bool)

    def class_names(self, images: Sequence[str]) -> list[str]:
        """The file's categories in its order, each name once, without a parent that no annotation has."""
        categories = self.content["categories"]
        others = (row.get("supercategory") for row in categories if row["name"] != row.get("supercategory"))
        parents = {parent for parent in others if isinstance(parent, str)}
        first = {row["name"]: row for row in reversed(categories)}  # a parent comes before its classes
        rows = [
            row
            for row in categories
            if plain_id(row["id"]) in self.used or row["name"] not in parents or row is not first[row["name"]]
        ]
        return list(dict.fromkeys(_text(row["name"]) for row in rows))

    def ids(self, images: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The file's ids; a class that it does not have gets a new one, and images are numbered where ids are words."""
        image_ids = [plain_id(self.records[image][0]["id"]) if image in self.records else None for image in images]
        if not all(map(_is_small, image_ids)) or len(set(image_ids)) < len(image_ids):
            image_ids = list(range(len(images)))
        known = {label: number for number, label in self.labels.items() if _is_small(number)}
        unused = itertools.count(max([0, *filter(_is_small, self.categories)]) + 1)
        category_ids = [known[label] if label in known else next(unused) for label in range(len(self.names))]
        return np.array(image_ids, dtype=np.int64), np.array(category_ids, dtype=np.int64)

    def annotations(self, image: str, file: str, size: tuple[int, int]) -> Iterable[Annotation | Problem | Stated]:
        records = self.records.get(image)
        if records is None:
            yield Problem("unlisted image", f"{image}: not among the images of {self.path}", rows=0)
            return
        yield Stated(records[0].get("height"), records[0].get("width"), str(self.path))
        seen = set()
        numbers = dict.fromkeys(plain_id(record["id"]) for record in records)
        for row in itertools.chain.from_iterable(self.rows[number] for number in numbers):
            rings = self._outline(row, size)
            if isinstance(rings, Problem):
                yield rings
            one = self._object(row, () if isinstance(rings, Problem) else rings, size)
            if len(records) > 1 and isinstance(one, Annotation) and (one.label, one.xyxy) in seen:
                one = Problem("repeated object", f"{one.where}: repeats one of the same image under another id")
            elif isinstance(one, Annotation):
                seen.add((one.label, one.xyxy))
            yield one

    def remarks(self, images: Sequence[str], hints: np.ndarray) -> list[Problem]:
        """Images listed twice, names that two classes have, and annotations of other images than these."""
        lists = [self.records[image] for image in images if image in self.records]
        problems = super().remarks(images, hints)
        if twice := [records[0]["file_name"] for records in lists if len(records) > 1]:
            text = f"{self.path}: {len(twice)} images listed twice, the first: {twice[0]}; their annotations are joined"
            problems.append(Problem("image listed twice", text, rows=0))
        if self.by_bare_name:
            image = self.by_bare_name[0]
            text = f"{len(self.by_bare_name)} images are paired by their bare names with paths of another machine"
            text = f"{self.path}: {text}, the first: {self.records[image][0]['file_name']!r} with {image}"
            problems.append(Problem("paired by name alone", text, rows=0))
        used = {plain_id(record["id"]) for records in lists for record in records}
        others = [number for number in self.rows if number not in used]
        count = sum(len(self.rows[number]) for number in others)
        if others:
            text = f"{self.path}: {len(others)} other images, with {count} annotations, the first of id {others[0]!r}"
            problems.append(Problem("annotations of other images", text, rows=count))
        if self.strays:
            first = self.strays[0]
            text = f"{len(self.strays)} annotations of images that it does not list"
            text = f"{self.path}: {text}, the first: {first.get('id')!r} of image_id {first.get('image_id')!r}"
            problems.append(Problem("annotations of no image", text, rows=len(self.strays)))
        return problems

    def _outline(self, row: Row, size: tuple[int, int]) -> tuple[Ring, ...] | Problem:
        """The rings of an annotation; of run lengths, which take long to decode, where they are needed."""
        outline = row.get("segmentation")
        if not isinstance(outline, dict):
            return _rings(outline)
        if row.get("bbox") and not self.with_outlines:
            return ()
        try:
            mask = mask_of_runs(outline, size)
        except ValueError as error:
            return Problem("unreadable mask", f"{self.path}: annotation {row.get('id')}: {error}", rows=0)
        return tuple(ring.astype(np.float32) for ring in rings_of(mask)) if mask.any() else ()

    def _object(self, row: Row, rings: tuple[Ring, ...], size: tuple[int, int]) -> Annotation | Problem:
        where, number = f"{self.path}: annotation {row.get('id')}", plain_id(row.get("category_id"))
        if number not in self.labels:
            name = self.categories.get(number, row.get("category_id"))
            found = f"found {name!r}{nearest(str(name), self.names)}"
            return Problem("unknown class", f"{where}: expected a class of the dataset YAML, {found}")
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            box: tuple[float, ...] = (x, y, x + width, y + height)
        except (KeyError, TypeError, ValueError, OverflowError):
            box = (0.0, 0.0, 0.0, 0.0)
            if row.get("bbox") or not rings:
                expected = f"expected bbox: [x, y, width, height] as numbers, found {row.get('bbox')!r:.80}"
                return Problem("not a number", f"{where}: {expected}")
        attributes = row.get("attributes")
        if isinstance(attributes, dict) and isinstance(turn := attributes.get("rotation"), (int, float)) and turn:
            try:
                box = around_turned(box, turn, size)
            except (ValueError, OverflowError):
                return Problem("not a number", f"{where}: expected a rotation in degrees, found {turn!r:.80}")
        if not any(box) and rings:  # labelme's and VIA's: the outline has it
            corners = np.concatenate(rings).astype(np.float64)
            box = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        return Annotation(where, self.labels[number], box, rings, _area(row), _is_true(row.get("iscrowd")))


def plain_id(value: Any) -> Any:
    """An id as it is meant: the number for ``1``, ``1.0`` and ``"1"``, other text as it stands."""
    if isinstance(value, str):
        number = re.fullmatch(r"\s*(-?\d{1,18})(\.0*)?\s*", value, re.ASCII)
        return int(number[1]) if number else value
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value if isinstance(value, int) else None


def _is_small(number: Any) -> bool:
    return isinstance(number, int) and abs(number) < 2**53  # as JSON's numbers are exact everywhere


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() not in ("", "0", "0.0", "false", "none", "null", "no", "nan")


def _area(row: Row) -> float | None:
    """The area in square pixels; None, that of the box, where it is missing or cannot be one."""
    try:
        area = float(row.get("area"))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return area if 0 < area < math.inf else None


def _rings(polygons: Any) -> tuple[Ring, ...]:
    """The outlines of an object: a list of polygons, or one polygon alone; none of anything else."""
    if not isinstance(polygons, list) or not polygons:
        return ()
    try:
        rings = [np.array(points, dtype=np.float32).reshape(-1, 2) for points in _as_lists(polygons)]
    except (TypeError, ValueError, OverflowError):
        return ()
    return tuple(ring for ring in rings if len(ring) >= 3 and np.isfinite(ring).all())


def _as_lists(polygons: list[Any]) -> list[Any]:
    is_flat = not isinstance(polygons[0], (list, dict))
    is_points = not is_flat and all(isinstance(one, list) and len(one) == 2 for one in polygons)
    return [polygons] if is_flat or is_points else polygons


def _text(name: Any) -> str:
    return unicodedata.normalize("NFC", str(name).strip())


def _load(path: Path) -> dict[str, list[Row]]:
    """The content of the annotation file, whose rows have the parts they must have."""
    where = f"labels: {path}"
    try:
        content = json.loads(read_regular(path))
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON file: {error}") from error
    for part, needed in KEYS.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{where}: expected a list {part!r} as in COCO's annotation files")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or not all(_is_given(key, row.get(key)) for key in needed):
                raise DataError(f"{where}: {part}[{number}]: expected {', '.join(needed)}, found {row!r:.80}")
        same = {(plain_id(row["id"]), str(row.get("name", row.get("file_name")))) for row in rows if "id" in needed}
        for number, count in Counter(number for number, _ in same).most_common(1):
            if count > 1:
                raise DataError(f"{where}: {part}: expected every id once, found {count} of {number!r}")
    return content


def _is_given(key: str, value: Any) -> bool:
    if key == "id":
        return plain_id(value) is not None
    return (isinstance(value, str) and value.strip() != "") or (key == "name" and isinstance(value, (int, float)))
