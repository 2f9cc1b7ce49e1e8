"""Pascal VOC annotations: one XML file for each image, boxes in pixels, classes by name.

Coordinates are taken as they stand. (Labelling tools write edges counted from 0; the boxes of the official VOC sets,
which count pixels from 1, so begin one pixel late.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from yolo_lite.config.errors import DataError, nearest
from yolo_lite.data.labels import Annotation, LabelReader, Labels, Problem, check_annotations, label_path

TWINS = {"images": "annotations", "JPEGImages": "Annotations"}
EDGES = ("xmin", "ymin", "xmax", "ymax")


class VocReader(LabelReader):
    """One XML file for each image; an image without one is background.

    Objects marked ``difficult`` are treated like crowds: they are not learnt, and are neither hits nor misses.
    """

    def __init__(self, root: Path, place: Path | None, names: tuple[str, ...]) -> None:
        self.root, self.folder, self.names = root, place, names

    def file_of(self, image: Path) -> Path:
        return label_path(image, self.root, self.folder, ".xml", TWINS)

    def read(self, image: Path, size: tuple[int, int]) -> Labels:
        path = self.file_of(image)
        if not path.exists():
            return check_annotations([], size)
        try:
            tree = ElementTree.parse(path).getroot()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding
            return check_annotations([Problem("unreadable labels", f"{path}: not a readable XML file: {error}")], size)
        stated = tuple(tree.findtext(f"size/{side}", "").strip().lstrip("0") for side in ("height", "width"))
        if all(text.isdecimal() for text in stated) and stated != tuple(map(str, size)):  # "" stands for 0, unknown
            height, width = (text[:12] for text in stated)
            raise DataError(f"{image}: {size[1]} x {size[0]} pixels, but {path} is of an image of {width} x {height}")
        return check_annotations(self._objects(tree, path), size)

    def _objects(self, tree: ElementTree.Element, path: Path) -> Iterator[Annotation | Problem]:
        for number, thing in enumerate(tree.iter("object"), 1):
            where, name = f"{path}: object {number}", thing.findtext("name", "").strip()
            texts = [thing.findtext(f"bndbox/{edge}", "") for edge in EDGES]
            if name not in self.names:
                expected = "expected a class of the dataset YAML"
                yield Problem("unknown class", f"{where}: {expected}, found {name!r}{nearest(name, self.names)}")
                continue
            try:
                box = tuple(float(text) for text in texts)
            except ValueError:
                expected = f"expected a bndbox with numbers {', '.join(EDGES)}"
                yield Problem("not a number", f"{where}: {expected}, found {texts}")
                continue
            is_difficult = thing.findtext("difficult", "0").strip() == "1"
            yield Annotation(where, self.names.index(name), box, crowd=is_difficult)
