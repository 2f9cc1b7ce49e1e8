"""What a file of an exported set says about it: a dataset YAML of any program, or darknet's .data."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.regular import read_regular
from yolo_lite.config.yaml_file import read_yaml
from yolo_lite.tools.export_tree import SPLIT_WORDS, SPLITS, Statement, Tree, by_lists, read_sources

# Keys of a dataset YAML that hold in ours too; those that say where things are do not.
PASSED_ON = set(DatasetConfig.model_fields) - {"path", "train", "val", "test", "names", "nc", "download", "generate"}


def read_dataset_yaml(tree: Tree, file: str | None) -> Statement | None:
    """What the dataset YAML says; without ``file`` that of the folder, which may have none.

    Raises:
        DataError: the folder has several that differ, or what the given one names for train is not there.
    """
    contents = {file: read_yaml(file).data} if file else dict(_yamls(tree))
    found = {name: _stated(tree, name, data, is_given=file is not None) for name, data in contents.items()}
    if not found:
        return None
    (first, stated), *others = found.items()
    for other, one in others:
        if (one.splits, one.names, one.keys) != (stated.splits, stated.names, stated.keys):
            text = f"{first} and {other} describe different datasets: give one of them instead of the folder"
            raise DataError(f"{tree.root}: {text}")
    return stated


def _yamls(tree: Tree) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for file in tree.ending(".yaml", ".yml"):
        try:
            data = read_yaml(tree.root / file).data
        except ConfigError:
            if Path(file).stem == "data":
                raise
            continue  # of another program
        if isinstance(data.get("names"), (list, dict)) or all(
            isinstance(data.get(key), str) for key in ("train", "val")
        ):
            found.append((file, data))
    return found


def _stated(tree: Tree, file: str, data: dict[str, Any], is_given: bool) -> Statement:
    splits, sources, notes, stated = {}, {}, [], {}
    for key, value in data.items():
        split, texts = SPLIT_WORDS.get(str(key).lower()), [value] if isinstance(value, str) else value
        if not split or not isinstance(texts, list) or not texts:
            continue
        near, path = "" if is_given else file, str(data.get("path") or "")
        found = [_images_of(tree, str(text), path, near, "roboflow" in data) for text in texts]
        images = [image for own, _ in found for image in own]
        stated[split] = [_inside(str(text)) for text in texts]
        if images:
            splits[split], sources[split] = list(dict.fromkeys(images)), [source for _, source in found if source]
        elif is_given and split == "train":
            raise DataError(f"{file}: {key}: no image found at {tree.root / texts[0]}, nor below {tree.root}")
        else:
            notes.append(f"{file}: {key}: nothing is at {', '.join(map(str, texts))}")
    for one, other in itertools.combinations(SPLITS, 2):
        # Paths of another machine, .../train/images and .../val/images, may both end in the one folder that is here.
        if sources.get(one) == sources.get(other, ()) and stated[one] != stated[other]:
            del splits[other], sources[other]
            notes.append(f"{file}: {other}: nothing is at {', '.join(stated[other])}; {sources[one][0]} is of {one}")
    names = data.get("names") or ()
    if isinstance(names, dict):
        if not all(str(key).isdecimal() for key in names):
            raise DataError(f"{file}: names: expected the keys 0, 1, ..., found {list(names)[:10]}")
        names = [names[key] for key in sorted(names, key=int)]
    keys = {key: value for key, value in data.items() if key in PASSED_ON}
    return Statement(os.path.basename(file), splits, sources, tuple(map(str, names)), keys, tuple(notes))


def _images_of(tree: Tree, text: str, path: str, near: str, is_own: bool) -> tuple[list[str], str | None]:
    """Images of a source of the dataset YAML ``near``, and how another one may name it.

    The paths of an export hold on another machine: they are looked for in its folder. Those of a YAML that was given,
    where ``near`` is empty, are looked for where they point, first; Roboflow's ``../train/images``, which means its own
    folder (``is_own``), there.
    """
    inside = _inside(text)
    beside = os.path.join(os.path.dirname(near), inside)
    for source in dict.fromkeys((beside, inside) if near else (inside, text) if is_own else (text, inside)):
        try:
            files = read_sources(tree.root, [source])
        except DataError:
            continue
        if files:
            return [_below(tree, file) for file in files], source
    place = tree.find(f"{path}/{text}", near)
    if place is None:
        return [], None
    return (tree.listed(place)[0] if place in tree.files else tree.below(place)), place


def _inside(text: str) -> str:
    return "/".join(part for part in re.split(r"[/\\]+", text) if part not in ("", ".", "..")) or "."


def _below(tree: Tree, file: str) -> str:
    below = os.path.relpath(file, tree.root).replace(os.sep, "/")
    return os.path.abspath(file) if below.startswith("../") else below


def read_darknet(tree: Tree) -> Statement | None:
    """What a .data file says, with rows ``train = data/train.txt``, as darknet and CVAT write it.

    Raises:
        DataError: the folder has several.
    """
    found = {}
    for file in tree.ending(".data"):
        text = read_regular(tree.root / file).decode("utf-8", errors="replace")
        cells = (row.partition("=") for row in text.splitlines())
        rows = {key.strip(): value.strip() for key, equals, value in cells if equals}
        if "names" in rows or "train" in rows:
            found[file] = rows
    if len(found) > 1:
        raise DataError(f"{tree.root}: expected one .data file, found {' and '.join(found)}")
    for file, rows in found.items():
        places = {SPLIT_WORDS[key.lower()]: tree.find(rows[key], file) for key in rows if key.lower() in SPLIT_WORDS}
        stated = by_lists(tree, [(split, place) for split, place in places.items() if place], file)
        names = tree.find(rows.get("names", ""), file)
        return (stated or Statement(file, {}))._replace(names=tree.lines(names) if names else ())
    return None
