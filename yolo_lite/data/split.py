"""Where a split is read from: its image files, the label file of each, and the reader of their format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError, nearest
from yolo_lite.data.files import Listing, list_sources
from yolo_lite.data.labels import FileReader, LabelReader
from yolo_lite.data.pairing import has_numbers, stray_files
from yolo_lite.data.places import Places, find_places
from yolo_lite.data.readers import FORMATS
from yolo_lite.data.shapes import ensure_shapes

ASKED = 100  # images whose label files are looked for first to find out their format


class SplitFiles(NamedTuple):
    """Where a split of n images is read from."""

    root: Path
    sources: tuple[str, ...]  # folders, list files or patterns
    listing: Listing  # of the images, with what else was found there
    reader: LabelReader
    labels: list[str]  # the label file of each image, or where it would be
    has_labels: np.ndarray  # [n] bool, whether it is there
    others: list[str]  # images of other splits that share the folder or file of labels
    stray_labels: list[str]  # files beside the labels that belong to no image of any split, if images lack labels

    @property
    def images(self) -> list[str]:
        return self.listing.images


def dataset_root(config: DatasetConfig, data_file: str | Path) -> Path:
    """The folder of the dataset, see ``find_places``; a generated one is drawn first if it is not there yet."""
    return places_of(config, data_file).root


def places_of(config: DatasetConfig, data_file: str | Path) -> Places:
    folder = Path(data_file).resolve().parent
    root = ensure_shapes(config.generate) if config.generate else (folder / os.path.expanduser(config.path)).resolve()
    if config.generate or (config.download and not root.exists()):  # not yet there: no other set is meant
        return Places(root, root, {}, {})
    labels = (config.labels_of(split) for split in ("train", "val", "test"))
    return find_places(root, folder, [*config.train, *config.val, *config.test, *filter(None, labels)], data_file)


def split_files(config: DatasetConfig, data_file: str | Path, split: str) -> SplitFiles:
    """The image files that the sources of a split list, and the reader of their labels; raises as index_split does."""
    places, labels = places_of(config, data_file), config.labels_of(split)
    root, sources = places.root, sources_of(config, split)
    if not sources:
        hint = f"; yolo-lite adopt {data_file} -o mine.yaml makes one" if split == "val" and config.train else ""
        raise ConfigError(f"{data_file}: the split {split!r} is not given{hint or nearest(split, config.splits)}")
    if config.download and not root.exists():
        raise DataError(f"{data_file}: no such folder: {root}; yolo-lite download {data_file} fetches the set")
    notes = places.notes((*sources, *([labels] if labels else [])))
    sources = tuple(map(places.of, sources))
    listing = list_sources(root, sources, data_file)
    listing = listing._replace(notes=notes + listing.notes)
    place = root / os.path.expanduser(places.of(labels)) if labels else None
    reader = _reader(config, data_file, root, place, listing.images)
    sharing = [
        other
        for other in config.splits
        if other != split and (config.labels_of(other) == labels if place else _may_meet(config, root, split, other))
    ]
    named = (root / places.moved.get(source, source) for one in (split, *sharing) for source in sources_of(config, one))
    reader.folders = [str(place) for place in named if place.is_dir()]
    of_other = partial(_images_of_other, config, places, data_file)
    others = [image for other in sharing for image in of_other(other)]
    files, there = reader.label_files([*listing.images, *others])
    count = len(listing.images)
    strays: list[str] = []
    if isinstance(reader, FileReader) and not there.all():
        rest = [image for other in config.splits if other not in (split, *sharing) for image in of_other(other)]
        strays = stray_files([*files, *reader.label_files(rest)[0]], reader.suffix)
    return SplitFiles(root, sources, listing, reader, files[:count], there[:count], others, strays)


def _may_meet(config: DatasetConfig, root: Path, split: str, other: str) -> bool:
    """Whether images of two splits may lie in one folder: lists and patterns may, and folders in one another."""
    places = [[root / source for source in sources_of(config, one)] for one in (split, other)]
    if not all(place.is_dir() for own in places for place in own):
        return True
    return any(a.is_relative_to(b) or b.is_relative_to(a) for a in places[0] for b in places[1])


def _images_of_other(config: DatasetConfig, places: Places, data_file: str | Path, split: str) -> list[str]:
    """The images of a split; none where it cannot be read, for it is not this one that is asked for."""
    try:
        sources = tuple(map(places.of, sources_of(config, split)))
        return list_sources(places.root, sources, data_file).images
    except DataError:
        return []


def sources_of(config: DatasetConfig, split: str) -> tuple[str, ...]:
    return (f"images/{split}",) if config.generate and split != "test" else getattr(config, split)


def _reader(
    config: DatasetConfig, data_file: str | Path, root: Path, place: Path | None, images: Sequence[str]
) -> LabelReader:
    """The reader of the format that the YAML names or the files speak for."""
    if place and not place.exists():
        raise DataError(f"{data_file}: labels: no such folder or file: {place}")
    name = config.format or _detect_format(root, place, images)
    if name not in FORMATS:
        raise DataError(f"{data_file}: format: unknown name {name!r}{nearest(name, FORMATS)}")
    if place and place.is_dir() == (name == "coco"):
        expected = "an annotation file" if name == "coco" else "a folder"
        raise DataError(f"{data_file}: labels: expected {expected} for the format {name}, found {place}")
    reader = FORMATS[name](root, place, config.names)
    if reader.numbers_classes:
        reader.reading, reader.kpt_shape = config.row_kind or "", config.kpt_shape
    return reader


def _detect_format(root: Path, place: Path | None, images: Sequence[str]) -> str:
    """COCO if the labels are one file, VOC if they are XML files and none is YOLO's, else YOLO."""
    if place and place.is_file():
        return "coco"
    yolo = _found_labels(images, FORMATS["yolo"](root, place, ()))
    has_rows = any(map(has_numbers, yolo))  # captions beside images are no labels
    return "voc" if not has_rows and _found_labels(images, FORMATS["voc"](root, place, ())) else "yolo"


def _found_labels(images: Sequence[str], reader: LabelReader) -> list[str]:
    """Some label files of the reader's format that images have; the first images have some nearly always."""
    for some in filter(None, (images[:ASKED], images[ASKED:])):
        files, there = reader.label_files(some)
        if there.any():
            return [files[i] for i in np.flatnonzero(there)[:ASKED]]
    return []
