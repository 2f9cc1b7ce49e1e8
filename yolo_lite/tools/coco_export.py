"""Find COCO's annotation files in an export, the images they list, and the classes that they use."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from yolo_lite.config.errors import DataError
from yolo_lite.tools.export_tree import Tree, split_of, split_word

PARTS = ("images", "annotations", "categories")


class CocoExport(NamedTuple):
    """One annotation file."""

    file: str
    split: str | None
    images: list[str]  # those of its images that are here
    names: list[str]  # of classes, by id
    notes: list[str]


def read_coco_exports(tree: Tree, given: Collection[str] = ()) -> list[CocoExport]:
    """The annotation files of a set, the given ones or all; ``instances_*.json`` alone where there are such.

    Raises:
        DataError: two files are of one split, or an image that one lists may be several.
    """
    stems = {PurePosixPath(image).stem for image in tree.images}
    files = [file for file in tree.ending(".json") if PurePosixPath(file).stem not in stems]  # LabelMe has one an image
    files = [file for file in files if PurePosixPath(file).name.startswith("instances")] or files
    files = [file for file in tree.files if file in given] or files
    contents = [(file, content) for file in files if (content := _content(tree, file))]
    exports = [_read(tree, file, content) for file, content in contents]
    found = [export for export in exports if export.images]
    if exports and not found:
        raise DataError(f"{tree.root / exports[0].file}: {exports[0].notes[0]}")
    for one, other in itertools.combinations(found, 2):
        if not given and (one.split is None or one.split == other.split or other.split is None):
            text = "expected one annotation file, or one for each split by its name or folder"
            raise DataError(f"{tree.root}: {text}, found {one.file} and {other.file}")
    return found


def _content(tree: Tree, file: str) -> dict[str, Any] | None:
    try:
        content = json.loads((tree.root / file).read_bytes())
    except (ValueError, RecursionError):
        return None
    is_coco = isinstance(content, dict) and all(isinstance(content.get(part), list) for part in PARTS)
    return content if is_coco else None


def _read(tree: Tree, file: str, content: dict[str, Any]) -> CocoExport:
    split = split_word(PurePosixPath(file).stem) or split_of(file)
    listed = [str(row.get("file_name")) for row in content["images"] if isinstance(row, dict)]
    images = _images(tree, file, split, listed)
    missing = [name for name in listed if name not in images]
    notes = (
        [f"{len(missing)} of {len(listed)} images it lists are not here, the first: {missing[0]}"] if missing else []
    )
    return CocoExport(file, split, sorted(set(images.values()), key=lambda one: one.split("/")), _names(content), notes)


def _images(tree: Tree, file: str, split: str | None, listed: Sequence[str]) -> dict[str, str]:
    """The image of each name; of several, the one in a folder of the file's split, else the one beside the file."""
    fitting = defaultdict(list)
    wanted = {name.replace("\\", "/").lstrip("./"): name for name in listed}
    for image in tree.images:
        parts = image.split("/")
        for first in range(len(parts)):
            if (name := "/".join(parts[first:])) in wanted:
                fitting[wanted[name]].append(image)
    for name in set(listed) - set(fitting):
        if (found := tree.find(name)) in tree.image_set:
            fitting[name].append(str(found))
    beside, images = file.rpartition("/")[0], {}
    for name, several in fitting.items():
        chosen = several
        if len(chosen) > 1:
            chosen = [one for one in several if split and split_of(one) == split] or chosen
        if len(chosen) > 1:
            chosen = [one for one in chosen if one == f"{beside}/{name}".lstrip("/")] or chosen
        if len(chosen) > 1:
            raise DataError(f"{tree.root / file}: {name!r} may be {chosen[0]} or {chosen[1]}")
        images[name] = chosen[0]
    return images


def _names(content: dict[str, Any]) -> list[str]:
    """The classes in the order of their ids, without an unused one that is only the parent of others."""
    rows = [row for row in content["categories"] if isinstance(row, dict) and "id" in row and "name" in row]
    rows.sort(key=lambda row: (0, row["id"], "") if isinstance(row["id"], int) else (1, 0, str(row["id"])))
    used = {str(row.get("category_id")) for row in content["annotations"] if isinstance(row, dict)}
    parents = {str(row.get("supercategory")) for row in rows if row.get("supercategory") != row["name"]}
    kept = [row for row in rows if str(row["id"]) in used or str(row["name"]) not in parents]
    return list(dict.fromkeys(str(row["name"]) for row in kept))
