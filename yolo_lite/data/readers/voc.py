"""Pascal VOC annotations: one XML file for each image, boxes in pixels, classes by name.

Coordinates are taken as they stand. (Labelling tools write edges counted from 0; the boxes of the official VOC sets,
which count pixels from 1, so begin one pixel late.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from yolo_lite.config.errors import DataError, nearest
from yolo_lite.data.labels import Annotation, FileReader, Problem

EDGES = ("xmin", "ymin", "xmax", "ymax")


class VocReader(FileReader):
    """One XML file for each image; objects marked ``difficult`` are treated like crowds."""

    suffix, twins = ".xml", {"images": "annotations", "JPEGImages": "Annotations"}

    def parse(self, content: bytes, path: Path, size: tuple[int, int]) -> Iterator[Annotation | Problem]:
        try:
            tree = ElementTree.fromstring(content)
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding
            yield Problem("unreadable labels", f"{path}: not a readable XML file: {error}")
            return
        stated = tuple(tree.findtext(f"size/{side}", "").strip().lstrip("0") for side in ("height", "width"))
        if all(text.isdecimal() for text in stated) and stated != tuple(map(str, size)):  # "" stands for 0, unknown
            height, width = (text[:12] for text in stated)
            raise DataError(f"image of {size[1]} x {size[0]} pixels, but {path} is of an image of {width} x {height}")
        for number, thing in enumerate(tree.iter("object"), 1):
            yield self._object(thing, f"{path}: object {number}")

    def _object(self, thing: ElementTree.Element, where: str) -> Annotation | Problem:
        name = thing.findtext("name", "").strip()
        if name not in self.names:
            found = f"found {name!r}{nearest(name, self.names)}"
            return Problem("unknown class", f"{where}: expected a class of the dataset YAML, {found}")
        texts = [thing.findtext(f"bndbox/{edge}", "") for edge in EDGES]
        try:
            box = tuple(float(text) for text in texts)
        except ValueError:
            expected = f"expected a bndbox with numbers {', '.join(EDGES)}"
            return Problem("not a number", f"{where}: {expected}, found {texts}")
        is_difficult = thing.findtext("difficult", "0").strip() == "1"
        return Annotation(where, self.names.index(name), box, crowd=is_difficult)
