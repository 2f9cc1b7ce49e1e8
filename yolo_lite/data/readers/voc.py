"""Pascal VOC annotations: one XML file for each image, boxes in pixels, classes by name.

Coordinates are taken as they stand. (Labelling tools write edges counted from 0; the boxes of the official VOC sets,
which count pixels from 1, so begin one pixel late.)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tqdm.contrib.concurrent import thread_map

from yolo_lite.config.errors import nearest
from yolo_lite.data.labels import Annotation, FileReader, Problem, Stated

EDGES = ("xmin", "ymin", "xmax", "ymax")
UNREADABLE = (ElementTree.ParseError, ValueError, LookupError)  # LookupError: an encoding


class VocReader(FileReader):
    """One XML file for each image; objects marked ``difficult`` are treated like crowds."""

    suffix, twins = ".xml", {"images": "annotations", "JPEGImages": "Annotations"}

    def parse(self, content: bytes, path: str, size: tuple[int, int]) -> Iterator[Annotation | Problem | Stated]:
        try:
            tree = ElementTree.fromstring(content)
        except UNREADABLE as error:
            yield Problem("unreadable labels", f"{path}: not a readable XML file: {error}", rows=0)
            return
        yield Stated(tree.findtext("size/height"), tree.findtext("size/width"), path)
        for number, thing in enumerate(tree.iter("object"), 1):
            yield self._object(thing, f"{path}: object {number}")

    def class_names(self, images: Sequence[str]) -> list[str]:
        files, there = self.label_files(images)
        labelled = [file for file, is_there in zip(files, there, strict=True) if is_there]
        found = thread_map(_names_in, labelled, desc="reading class names", leave=False, delay=1)
        return sorted(set[str]().union(*found))

    def _object(self, thing: ElementTree.Element, where: str) -> Annotation | Problem:
        name = _name_of(thing)
        if name not in self.names:
            found = f"found {name!r}{nearest(name, self.names)}"
            return Problem("unknown class", f"{where}: expected a class of the dataset YAML, {found}")
        texts = [thing.findtext(f"bndbox/{edge}", "") for edge in EDGES]
        try:
            box = tuple(float(text) for text in texts)
        except ValueError:
            expected = f"expected a bndbox with numbers {', '.join(EDGES)}"
            return Problem("not a number", f"{where}: {expected}, found {texts}")
        is_difficult = thing.findtext("difficult", "0").strip().lower() in ("1", "true")
        return Annotation(where, self.names.index(name), box, crowd=is_difficult)


def _name_of(thing: ElementTree.Element) -> str:
    return unicodedata.normalize("NFC", thing.findtext("name", "").strip())


def _names_in(file: str) -> set[str]:
    """The names of the classes of an XML file's objects; none where it cannot be read, which its reading reports."""
    try:
        return {_name_of(thing) for thing in ElementTree.fromstring(Path(file).read_bytes()).iter("object")} - {""}
    except (*UNREADABLE, OSError):
        return set()
