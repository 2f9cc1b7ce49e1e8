"""Find COCO's annotation files in an export, the images that they list, and the classes that they have."""

from __future__ import annotations

import itertools
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import read_regular
from yolo_lite.data.readers.coco import CocoReader, plain_id
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
    """The annotation files of a set, also those of which no image is here; ``instances_*.json`` alone if there are any.

    Raises:
        DataError: several files may be of one split, an image that one lists may be several, or none is here.
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
    return exports


def _read(tree: Tree, file: str) -> CocoExport | None:
    """The annotation file, None where it is another kind of JSON."""
    content = read_regular(tree.root / file)
    if not all(part in content for part in PARTS):
        return None
    reader, split = CocoReader(tree.root, tree.root / file, ()), split_word(PurePosixPath(file).stem) or split_of(file)
    reader.folders = [str(tree.root), str((tree.root / file).parent)]
    listed = _listed(tree, reader, split)
    if not len(reader.rows):
        return None  # a file without images, such as Label Studio's notes.json
    used = {plain_id(row["id"]) for image in listed for row in reader.records[str(tree.root / image)]}
    missing = [number for number in reader.rows if number not in used]
    example = re.search(rb'"file_name"\s*:\s*"([^"]*)"', content)
    first = example[1].decode(errors="replace") if example else ""
    rows = sum(len(reader.rows[number]) for number in missing)
    text = f"{len(missing)} of {len(reader.rows)} images it lists are not here, with {rows} annotations"
    elsewhere = "" if len(listed) == len(reader.records) else ", as images in folders of other splits are"
    note = f"{text}; they are named as {first!r}{elsewhere}" if missing else ""
    return CocoExport(file, split, sorted(listed, key=lambda one: one.split("/")), reader.class_names(()), note)


def _listed(tree: Tree, reader: CocoReader, split: str | None) -> list[str]:
    """The images that a file lists: of folders of its split if any is there, else of no split, else of those it names.

    For a bare name may also be that of another image, in the folder of another split.
    """
    told = {image: split_of(image) for image in tree.images}
    for allowed in ({split}, {split, None}, {split, None, *told.values()}) if split else ({None, *told.values()},):
        images = [image for image in tree.images if told[image] in allowed]
        if images:
            reader.load([str(tree.root / image) for image in images])
            if reader.records:
                break
    listed = [image for image in images if str(tree.root / image) in reader.records]
    names = {image: reader.records[str(tree.root / image)][0]["file_name"].replace("\\", "/") for image in listed}
    return [image for image in listed if not split or told[image] in (None, split, split_of(names[image]))]
