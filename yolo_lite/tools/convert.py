"""Write a dataset's labels in another format into a new folder; the dataset itself is not changed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import DataError
from yolo_lite.data.decode import ANY_RANGE
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.data.outputs import check_empty_folder
from yolo_lite.data.readers.voc import VocReader
from yolo_lite.data.split import dataset_root
from yolo_lite.data.writers import WRITERS


def convert(
    config: DatasetConfig, data_file: str, to: str, folder: Path, polygons: bool = False, copy_images: bool = False
) -> Path:
    """Write all splits of a dataset in the format ``to``; returns the path of the new dataset YAML.

    Images stay where they are unless they are copied. Whatever the reader leaves out is left out there too.

    Args:
        polygons: write outlines where they are known. YOLO's rows have them in place of boxes.

    Raises:
        DataError: the folder is not empty or lies in the dataset, or two images would have one label file.
    """
    root = check_new_folder(folder, config, data_file, "--out")
    splits = {}
    for split in config.splits:
        index = splits[split] = index_split(config, data_file, split, with_outlines=polygons or to == "coco")
        lost = "; crowds are left out, YOLO's format knows none" if to == "yolo" and index.crowd.any() else ""
        print(f"{split}: {index.describe()}{lost}")
    return write_dataset(splits, root, folder, to, polygons, copy_images)


def check_new_folder(given: str | os.PathLike[str], config: DatasetConfig, data_file: str, flag: str) -> Path:
    """The root of the dataset; raises UserError for a folder that is not empty, or lies where nothing is written."""
    root = dataset_root(config, data_file)
    inputs = dataset_inputs(config, data_file)
    check_empty_folder(given, inputs._replace(folders=(*inputs.folders, str(root))), flag)
    return root


def write_dataset(
    splits: Mapping[str, DatasetIndex], root: Path, folder: Path, to: str, polygons: bool, copy_images: bool
) -> Path:
    """Write splits of a dataset below ``root`` into a folder that ``check_new_folder`` has seen, as ``convert``."""
    folder, all_names = folder.resolve(), _names_below(splits, root)
    content: dict[str, Any] = {"path": "." if copy_images else str(root), "format": to, "labels": {}}
    if to == "yolo":
        content["labels_are"] = "polygon" if polygons else "box"  # what every row of more columns is
    if copy_images:
        _check_space(splits, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        place = Path(temporary) / "set"  # gets its name when it is complete
        place.mkdir()
        for split, index in splits.items():
            names = all_names[split]
            if copy_images:
                names = [Path("images", _without_images(name)) for name in names]
                for position, name in enumerate(tqdm(names, desc="copying images", leave=False, delay=1)):
                    (place / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(index.path(position), place / name)
            rows = "".join(f"{name.as_posix()}\n" for name in names)
            (place / f"{split}.txt").write_bytes(os.fsencode(rows))
            content[split] = f"{split}.txt" if copy_images else str(folder / f"{split}.txt")
            labels = WRITERS[to](index, [_without_images(name) for name in names], place, split, polygons)
            content["labels"][split] = labels if copy_images else str(folder / labels)
            content["names"] = dict(enumerate(index.names))
            content |= {"channels": index.channels} if index.channels != 3 else {}
            content |= {"max_value": index.white} if index.white != ANY_RANGE else {}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (place / "data.yaml").write_text(text, encoding="utf-8")
        os.replace(place, folder)
    return folder / "data.yaml"


def _names_below(splits: Mapping[str, DatasetIndex], root: Path) -> dict[str, list[Path]]:
    """List the images' paths relative to the dataset's root; images elsewhere have bare names."""
    names: dict[str, list[Path]] = {split: [] for split in splits}
    seen: dict[Path, Path] = {}
    for split, index in splits.items():
        for position in range(len(index)):
            path = Path(os.path.normpath(index.path(position)))
            name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
            other = seen.setdefault(_without_images(name).with_suffix(""), path)
            if other != path:
                raise DataError(f"{path}: would have the same label file as {other}; rename one of them")
            names[split].append(name)
    return names


def _without_images(name: Path) -> Path:
    """Drop the leading folder ``images``, as label files do."""
    return name.relative_to(name.parts[0]) if name.parts[0].lower() in VocReader.twins and len(name.parts) > 1 else name


def _check_space(splits: Mapping[str, DatasetIndex], folder: Path) -> None:
    needed = sum(os.path.getsize(index.path(position)) for index in splits.values() for position in range(len(index)))
    there = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DataError(f"{folder}: the images take {needed / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free")
