"""Find COCO's annotation files in an export, the images that they list, and the classes that they have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import NamedTuple

from yolo_lite.config.errors import DataError
from yolo_lite.data.readers.coco import CocoReader
from yolo_lite.tools.export_tree import Tree, split_of, split_word

PARTS = (b'"images"', b'"annotations"', b'"categories"')


class CocoExport(NamedTuple):
    """One annotation file."""

    file: str
    split: str | None
    images: list[str]  # those of its images that are here
    names: list[str]  # of classes
    note: str


def read_coco_exports(tree: Tree) -> list[CocoExport]:
    """The annotation files of a set; ``instances_*.json`` alone where there are such.

    Raises:
        DataError: several files may be of one split, or an image that one lists may be several.
    """
    stems = {PurePosixPath(image).stem for image in tree.images}
    files = [file for file in tree.ending(".json") if PurePosixPath(file).stem not in stems]  # labelme has one an image
    files = [file for file in files if PurePosixPath(file).name.startswith("instances")] or files
    exports = [export for file in files if (export := _read(tree, file))]
    found = [export for export in exports if export.images]
    if exports and not found:
        raise DataError(f"{tree.root / exports[0].file}: {exports[0].note}")
    for one, other in itertools.combinations(found, 2):
        if one.split is None or one.split == other.split or other.split is None:
            text = "expected one annotation file, or one for each split by its name or folder"
            raise DataError(f"{tree.root}: {text}, found {one.file} and {other.file}")
    return found


def _read(tree: Tree, file: str) -> CocoExport | None:
    """The annotation file, None where it is another kind of JSON.

    Its images are those in folders of its split, if they have its names, else all that have.
    """
    content = (tree.root / file).read_bytes()
    if not all(part in content for part in PARTS):
        return None
    reader, split = CocoReader(tree.root, tree.root / file, ()), split_word(PurePosixPath(file).stem) or split_of(file)
    records: Collection[str] = ()
    for images in ([one for one in tree.images if split_of(one) == split] if split else [], tree.images):
        paths = {str(tree.root / image): image for image in images}
        if images and not records:
            reader.load(list(paths))
            records = reader.records
            listed = [paths[path] for path in records]
    if not len(reader.rows):
        return None  # a file without images, such as Label Studio's notes.json
    missing = len(reader.rows) - sum(len(reader.records[path]) for path in records)
    example = re.search(rb'"file_name"\s*:\s*"([^"]*)"', content)
    first = example[1].decode(errors="replace") if example else ""
    note = (
        f"{missing} of {len(reader.rows)} images it lists are not here; they are named as {first!r}" if missing else ""
    )
    return CocoExport(file, split, sorted(listed, key=lambda one: one.split("/")), reader.class_names(()), note)
