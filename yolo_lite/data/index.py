"""The index of a split: image files, their sizes and their objects, in packed arrays.

Lists of Python objects would be copied page by page into every worker process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError, nearest
from yolo_lite.data import index_cache
from yolo_lite.data.decode import ANY_RANGE
from yolo_lite.data.files import Listing, list_sources
from yolo_lite.data.images import image_size, largest_value
from yolo_lite.data.labels import OF_OBJECTS, SYSTEM_ERROR, LabelReader, Labels, Problem, check_annotations
from yolo_lite.data.outlines import Outlines, offsets_of
from yolo_lite.data.places import Places, find_places
from yolo_lite.data.readers import FORMATS
from yolo_lite.data.shapes import ensure_shapes
from yolo_lite.data.tiff import HAS_TIFFFILE
from yolo_lite.ops.box_arrays import xyxy_to_xywh

SAMPLED = 16  # images that are looked at for the range of their pixels
ASKED = 100  # first images whose label files are looked for to find out their format


@dataclass(frozen=True)
class DatasetIndex:
    """n images and T objects of one split, C classes."""

    names: tuple[str, ...]  # class names
    paths: np.ndarray  # [n] bytes, image files
    size: np.ndarray  # [n, 2] int64, height and width in pixels
    first: np.ndarray  # [n + 1] int64: the objects of image i are rows first[i]:first[i + 1]
    label: np.ndarray  # [T] int64
    xyxy: np.ndarray  # [T, 4] float64, pixels of the image
    area: np.ndarray  # [T] float64, square pixels
    crowd: np.ndarray  # [T] bool: neither learnt nor counted, see Annotation
    outlines: Outlines | None  # where index_split was asked for them
    image_id: np.ndarray  # [n] int64: those of a COCO file, or positions
    category_id: np.ndarray  # [C] int64: those of a COCO file, or class indices
    problems: tuple[str, ...]  # what was left out and why, a line each
    channels: int = 3  # of the images
    white: int = ANY_RANGE  # value of a white pixel where they have 16 bits
    remarks: tuple[str, ...] = ()  # on the files that the split's sources name, a line each

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        return os.fsdecode(bytes(self.paths[index]))

    @property
    def owner(self) -> np.ndarray:
        """The image ``[T]`` of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    @property
    def counts(self) -> np.ndarray:
        """Objects of each class ``[C]``, crowds apart."""
        return np.bincount(self.label[~self.crowd], minlength=len(self.names))

    @property
    def num_objects(self) -> int:
        return int(self.counts.sum())

    @property
    def num_backgrounds(self) -> int:
        return len(self) - len(np.unique(self.owner[~self.crowd]))

    def describe(self) -> str:
        """Counts of images and objects, and the first problems, for the start of a run."""
        counts = f"{len(self)} images, {self.num_backgrounds} of them without objects, {self.num_objects} objects"
        crowds = f", {int(self.crowd.sum())} crowds or difficult" if self.crowd.any() else ""
        left_out = f"; {len(self.problems)} things left out, the first:" if self.problems else ""
        return "\n  ".join((counts + crowds + left_out, *self.problems[:3], *self.remarks))

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels ``[m]`` and boxes ``[m, 4]`` (xyxy in pixels of the image) of one image, crowds apart."""
        rows = self.rows(index)
        return self.label[rows], self.xyxy[rows]

    def rows(self, index: int) -> np.ndarray:
        """The rows ``[m]`` int64 of one image's objects, crowds apart."""
        first, end = self.first[index : index + 2]
        return first + np.flatnonzero(~self.crowd[first:end])


def coco_dict(
    index: DatasetIndex, image_id: Sequence[int], category_id: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """A split in the form of COCO's annotation files under these ids, boxes in pixels, with file names if given."""
    sizes = zip(image_id, index.size.tolist(), strict=True)
    images: list[dict[str, Any]] = [{"id": own, "height": height, "width": width} for own, (height, width) in sizes]
    for row, name in zip(images, names or (), strict=names is not None):
        row["file_name"] = name
    columns = (index.owner, index.label, xyxy_to_xywh(index.xyxy), index.area, index.crowd.astype(int))
    annotations: list[dict[str, Any]] = []
    for image, label, *values in zip(*(column.tolist() for column in columns), strict=True):
        ids = {"id": len(annotations) + 1, "image_id": image_id[image], "category_id": category_id[label]}
        annotations.append(ids | dict(zip(("bbox", "area", "iscrowd"), values, strict=True)))  # id 0 is "not matched"
    categories = [{"id": own, "name": name} for own, name in zip(category_id, index.names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def dataset_root(config: DatasetConfig, data_file: str | Path) -> Path:
    """The folder of the dataset, see ``find_places``; a generated one is drawn first if it is not there yet."""
    return _places(config, data_file).root


def _places(config: DatasetConfig, data_file: str | Path) -> Places:
    folder = Path(data_file).resolve().parent
    root = ensure_shapes(config.generate) if config.generate else (folder / Path(config.path).expanduser()).resolve()
    if config.generate or (config.download and not root.exists()):  # not yet there: no other set is meant
        return Places(root, root, {}, {})
    labels = (config.labels_of(split) for split in ("train", "val", "test"))
    return find_places(root, folder, [*config.train, *config.val, *config.test, *filter(None, labels)], data_file)


def index_split(config: DatasetConfig, data_file: str | Path, split: str, with_outlines: bool = False) -> DatasetIndex:
    """Read sizes and labels of the split ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: the dataset YAML does not name the split.
        DataError: a source or the labels are not there or of another kind, or no image is usable.
    """
    files = split_files(config, data_file, split)
    rules = (config.names, config.channels, HAS_TIFFFILE, files.root, files.sources, with_outlines)
    read = partial(_read, files.reader, config.channels, with_outlines)
    kept = index_cache.read_changed(files.images, files.reader, read, split, *rules)
    index = index_of(files.images, kept.labels, kept.image_id, kept.category_id, config)
    index = replace(index, remarks=(*files.listing.remarks(), *range_remark(files.images, config)))
    if index.num_objects:
        return index
    what, tried = "no usable image; tried", [files.root / source for source in files.sources]
    if len(index):
        what = f"{len(index)} images but not one label; looked for"
        tried = list(dict.fromkeys(files.reader.file_of(image) for image in files.images[:3]))
    words = (f"{data_file}: {split}: {what}", *map(str, tried), *index.remarks, *index.problems[:3])
    raise DataError("\n  ".join(words))


class SplitFiles(NamedTuple):
    """Where a split is read from."""

    root: Path
    sources: tuple[str, ...]  # folders, list files or patterns
    images: list[Path]
    reader: LabelReader
    listing: Listing  # of the images, with what else was found there


def split_files(config: DatasetConfig, data_file: str | Path, split: str) -> SplitFiles:
    """The image files that the sources of a split list, and the reader of their labels; raises as index_split does."""
    places, labels = _places(config, data_file), config.labels_of(split)
    root, sources = places.root, getattr(config, split)
    if config.generate and split != "test":
        sources = (f"images/{split}",)
    if not sources:
        raise ConfigError(f"{data_file}: the split {split!r} is not given{nearest(split, config.splits)}")
    if config.download and not root.exists():
        raise DataError(f"{data_file}: no such folder: {root}; yolo-lite download {data_file} fetches the set")
    notes = places.notes((*sources, *([labels] if labels else [])))
    sources, labels = tuple(map(places.of, sources)), labels and places.of(labels)
    listing = list_sources(root, sources, data_file)
    listing = listing._replace(notes=notes + listing.notes)
    images = list(map(Path, listing.images))
    place = root / Path(labels).expanduser() if labels else None
    if place and not place.exists():
        raise DataError(f"{data_file}: labels: no such folder or file: {place}")
    name = config.format or _detect_format(root, place, images)
    if name not in FORMATS:
        raise DataError(f"{data_file}: format: unknown name {name!r}{nearest(name, FORMATS)}")
    if place and place.is_dir() == (name == "coco"):
        expected = "an annotation file" if name == "coco" else "a folder"
        raise DataError(f"{data_file}: labels: expected {expected} for the format {name}, found {place}")
    return SplitFiles(root, sources, images, FORMATS[name](root, place, config.names), listing)


def _detect_format(root: Path, place: Path | None, images: Sequence[Path]) -> str:
    """COCO if the labels are one file, VOC if they are XML files and none is YOLO's, else YOLO."""
    if place and place.is_file():
        return "coco"
    if place:
        has_yolo, has_voc = (any(place.rglob(pattern)) for pattern in ("*.txt", "*.xml"))
    else:
        readers = (FORMATS[name](root, None, ()) for name in ("yolo", "voc"))
        has_yolo, has_voc = (any(reader.file_of(image).exists() for image in images[:ASKED]) for reader in readers)
    return "voc" if has_voc and not has_yolo else "yolo"


def index_of(
    images: Sequence[Path], labels: Labels, image_id: np.ndarray, category_id: np.ndarray, config: DatasetConfig
) -> DatasetIndex:
    """The index of images whose labels have been read; the ids are those of usable images and of all classes."""
    fields = labels.select(labels.usable)._asdict()
    fields["problems"] = tuple(problem.text for own in labels.problems for problem in own)
    paths = np.array([os.fsencode(images[i]) for i in labels.usable], dtype=np.bytes_)
    fields |= {"image_id": image_id, "category_id": category_id, "channels": config.channels, "white": config.white}
    index = DatasetIndex(config.names, paths, **fields)
    if config.classes:
        index = only_classes(index, config.classes)
    if not config.single_cls:
        return index
    label, category_id = np.zeros_like(index.label), index.category_id[:1]
    return replace(index, names=config.class_names, label=label, category_id=category_id)


def _read(reader: LabelReader, channels: int, with_outlines: bool, image: Path) -> Labels:
    try:
        labels = reader.read(image, image_size(image, channels))
    except DataError as error:
        # An error number means that the system failed, not the file: a network folder may be back next time.
        is_passing = getattr(error.__cause__, "errno", None) is not None
        kind = SYSTEM_ERROR if is_passing else "unreadable image"
        labels = check_annotations([Problem(kind, str(error))], (0, 0))
    return labels if with_outlines else labels._replace(outlines=None)


def range_remark(images: Sequence[Path], config: DatasetConfig) -> list[str]:
    """A line where 16-bit images hold much less, or more, than the value that white is taken for."""
    deep = [image for image in images if image.suffix.lower() in (".png", ".tif", ".tiff", ".npy")]
    sample = deep[:: -(-len(deep) // SAMPLED) or 1]
    found = max((value for value in map(largest_value, sample) if value is not None), default=None)
    if found is None or (found <= config.white and (config.white < ANY_RANGE or found > ANY_RANGE // 4)):
        return []
    if found > config.white:
        return [
            f"16-bit images have values up to {found}, what is above {config.white} becomes white: see bits, max_value"
        ]
    bits = f"bits: {max(found.bit_length(), 8)}"
    return [f"16-bit images have values up to {found} of {ANY_RANGE} and become nearly black; write {bits} in the YAML"]


def only_classes(index: DatasetIndex, wanted: Sequence[str]) -> DatasetIndex:
    """The same images with only the objects of these classes, numbered in this order."""
    new = np.array([wanted.index(name) if name in wanted else -1 for name in index.names])
    kept = np.flatnonzero(new[index.label] >= 0)
    return replace(
        index,
        names=tuple(wanted),
        first=offsets_of(np.bincount(index.owner[kept], minlength=len(index))),
        outlines=index.outlines and index.outlines.select(kept),
        category_id=index.category_id[[index.names.index(name) for name in wanted]],
        **{name: getattr(index, name)[kept] for name in OF_OBJECTS} | {"label": new[index.label[kept]]},
    )
