"""What of a dataset its user keeps: the places that no command writes into."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.run_lock import MARK
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.outputs import Inputs
from yolo_lite.data.split import places_of, sources_of


def dataset_inputs(config: DatasetConfig, data_file: str | Path, splits: Iterable[DatasetIndex] = ()) -> Inputs:
    """The folders that a dataset YAML names for images or labels, those with images of these splits, and its files.

    The root is among them only where a source means all of it: runs usually lie in a folder of their own there.
    """
    places = places_of(config, data_file)
    root = os.path.realpath(places.root)
    sources = [source for split in config.splits for source in sources_of(config, split)]
    labels = filter(None, map(config.labels_of, config.splits))
    named = [os.path.join(root, os.path.expanduser(places.moved.get(one, one))) for one in (*sources, *labels)]
    whole = {os.path.realpath(place) for one in named for place in _walked(one)}
    shared = {
        *map(without_wildcards, itertools.filterfalse(os.path.isfile, named)),
        *(os.path.dirname(index.path(i)) for index in splits for i in range(len(index))),
    }
    parts = {os.path.realpath(place) for place in shared}
    folders = sorted(whole | {part for part in parts if not Path(root).is_relative_to(part)})
    files = [file for file in (os.fspath(data_file), *named) if os.path.isfile(file) and not _was_adopted(file)]
    return Inputs(tuple(filter(os.path.isdir, folders)), tuple(files))


def _walked(place: str) -> Iterator[str]:
    """The folders that a source reads with all that lies below them."""
    if os.path.isdir(place):
        yield place
    elif "**" in Path(place).parts:
        yield without_wildcards(place)


def without_wildcards(place: str) -> str:
    """The folder that a source or pattern names before its first wildcard; that of a file."""
    parts = Path(place).parts
    path = Path(*itertools.takewhile(lambda part: glob.escape(part) == part, parts))
    return str(path if path.is_dir() else path.parent)


def _was_adopted(file: str) -> bool:
    """Whether a file lies in a run folder as, or beside, the ``data.yaml`` that the run made of an export."""
    around = (folder for folder in Path(file).parents if (folder / MARK).exists())
    return any(Path(file).relative_to(folder).parts[0].split(".")[0] == "data" for folder in around)
