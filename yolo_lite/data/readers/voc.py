"""Pascal VOC annotations: one XML file for each image, boxes in pixels, classes by name.

Coordinates are taken as they stand. (Labelling tools write edges counted from 0; the boxes of the official VOC sets,
which count pixels from 1, so begin one pixel late.)
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

import numpy as np
from tqdm.contrib.concurrent import thread_map

from yolo_lite.config.errors import nearest
from yolo_lite.config.regular import read_regular
from yolo_lite.data.labels import HINTS, Annotation, FileReader, Hint, Problem, Stated
from yolo_lite.data.pairing import fold
from yolo_lite.data.turned import around_turned

EDGES = ("xmin", "ymin", "xmax", "ymax")
UNREADABLE = (ElementTree.ParseError, ValueError, LookupError)  # LookupError: an encoding


class VocReader(FileReader):
    """One XML file for each image; objects marked ``difficult`` are treated like crowds."""

    stems: frozenset[str] = frozenset()  # of all images
    suffix, twins = ".xml", {"images": "annotations", "jpegimages": "annotations"}

    def load(self, images: Sequence[str]) -> None:
        self.stems = frozenset(map(_stem, images))

    def parse(self, content: bytes, path: str, size: tuple[int, int]) -> Iterator[Annotation | Problem | Hint | Stated]:
        try:
            tree = _parsed(content)
        except UNREADABLE as error:
            yield Problem("unreadable labels", f"{path}: not a readable XML file: {error}", rows=0)
            return
        yield Stated(tree.findtext("size/height"), tree.findtext("size/width"), path)
        if (stem := _stem(tree.findtext("filename", ""))) != _stem(path) and stem in self.stems:
            yield Hint("misnamed")
        for number, thing in enumerate(tree.iter("object"), 1):
            yield self._object(thing, f"{path}: object {number}", size)

    def remarks(self, images: Sequence[str], hints: np.ndarray) -> list[Problem]:
        misnamed = np.flatnonzero(hints[:, HINTS.index("misnamed")])
        if not len(misnamed):
            return super().remarks(images, hints)
        text = f"{len(misnamed)} XML files state the filename of another image, the first: that of"
        problem = Problem("filename of another image", f"{text} {images[misnamed[0]]}", rows=0)
        return [*super().remarks(images, hints), problem]

    def class_names(self, images: Sequence[str]) -> list[str]:
        files, there = self.label_files(images)
        labelled = [file for file, is_there in zip(files, there, strict=True) if is_there]
        found = thread_map(_names_in, labelled, desc="reading class names", leave=False, delay=1)
        return sorted(set[str]().union(*found))

    def _object(self, thing: ElementTree.Element, where: str, size: tuple[int, int]) -> Annotation | Problem:
        name = _name_of(thing)
        if name not in self.names:
            found = f"found {name!r}{nearest(name, self.names)}"
            return Problem("unknown class", f"{where}: expected a class of the dataset YAML, {found}")
        texts = [thing.findtext(f"bndbox/{edge}", "") for edge in EDGES]
        try:
            box = tuple(float(text) for text in texts)
            for attribute in thing.iter("attribute"):
                if attribute.findtext("name") == "rotation" and (turn := float(attribute.findtext("value", "0"))):
                    box = around_turned(box, turn, size)
        except ValueError:
            expected = f"expected a bndbox with numbers {', '.join(EDGES)}"
            return Problem("not a number", f"{where}: {expected}, found {texts}")
        is_difficult = thing.findtext("difficult", "0").strip().lower() in ("1", "true")
        return Annotation(where, self.names.index(name), box, crowd=is_difficult)


def _parsed(content: bytes) -> ElementTree.Element:
    """The tree of an annotation, its tags in lower case and without namespaces.

    Raises:
        ValueError: it is the XML of another program; or an error of UNREADABLE.
    """
    try:
        tree = ElementTree.fromstring(content.strip())
    except (ElementTree.ParseError, ValueError):  # an & that is not written &amp;, or a Chinese encoding
        declared = re.match(rb"\s*<\?xml[^>]*?encoding=[\"']([\w.-]+)", content)
        text = content.decode(declared[1].decode() if declared else "utf-8", errors="strict")
        text = re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL)
        tree = ElementTree.fromstring(re.sub(r"&(?!#?\w+;)", "&amp;", text))
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    if tree.tag != "annotation":
        raise ValueError(f"expected <annotation>, found <{tree.tag}>")
    return tree


def _stem(path: str) -> str:
    return fold(os.path.splitext(re.split(r"[/\\]", path.strip())[-1])[0])


def _name_of(thing: ElementTree.Element) -> str:
    return unicodedata.normalize("NFC", thing.findtext("name", "").strip())


def _names_in(file: str) -> set[str]:
    """The names of the classes of an XML file's objects; none where it cannot be read, which its reading reports."""
    try:
        return {_name_of(thing) for thing in _parsed(read_regular(file)).iter("object")} - {""}
    except (*UNREADABLE, OSError):
        return set()
