"""The index of a split: image files, their sizes and their objects, in packed arrays.

Lists of Python objects would be copied page by page into every worker process.
"""

from __future__ import annotations

import glob
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
from yolo_lite.data.images import HAS_TIFFFILE, IMAGE_SUFFIXES, image_size
from yolo_lite.data.labels import OF_OBJECTS, SYSTEM_ERROR, LabelReader, Labels, Problem, check_annotations
from yolo_lite.data.outlines import Outlines, offsets_of
from yolo_lite.data.readers import FORMATS
from yolo_lite.data.shapes import ensure_shapes
from yolo_lite.ops.box_arrays import xyxy_to_xywh

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
        return "\n  ".join((counts + crowds + left_out, *self.problems[:3]))

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
    """The folder of the dataset; a generated one is drawn first if it is not there yet."""
    if config.generate:
        return ensure_shapes(config.generate)
    return (Path(data_file).resolve().parent / Path(config.path).expanduser()).resolve()


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
    if index.num_objects:
        return index
    what, tried = "no usable image; tried", [files.root / source for source in files.sources]
    if len(index):
        what = f"{len(index)} images but not one label; looked for"
        tried = list(dict.fromkeys(files.reader.file_of(image) for image in files.images[:3]))
    raise DataError("\n  ".join((f"{data_file}: {split}: {what}", *map(str, tried), *index.problems[:3])))


class SplitFiles(NamedTuple):
    """Where a split is read from."""

    root: Path
    sources: tuple[str, ...]  # folders, list files or patterns
    images: list[Path]
    reader: LabelReader


def split_files(config: DatasetConfig, data_file: str | Path, split: str) -> SplitFiles:
    """The image files that the sources of a split list, and the reader of their labels; raises as index_split does."""
    root = dataset_root(config, data_file)
    sources = (f"images/{split}",) if config.generate and split != "test" else getattr(config, split)
    if not sources:
        hint = f"; yolo-lite adopt {data_file} -o mine.yaml makes one" if split == "val" and config.train else ""
        raise ConfigError(f"{data_file}: the split {split!r} is not given{hint or nearest(split, config.splits)}")
    if config.download and not root.exists():
        raise DataError(f"{data_file}: no such folder: {root}; yolo-lite download {data_file} fetches the set")
    images = [path for source in sources for path in list_files(root, source, data_file)]
    labels = config.labels_of(split)
    place = root / Path(labels).expanduser() if labels else None
    if place and not place.exists():
        raise DataError(f"{data_file}: labels: no such folder or file: {place}")
    name = config.format or _detect_format(root, place, images)
    if name not in FORMATS:
        raise DataError(f"{data_file}: format: unknown name {name!r}{nearest(name, FORMATS)}")
    if place and place.is_dir() == (name == "coco"):
        expected = "an annotation file" if name == "coco" else "a folder"
        raise DataError(f"{data_file}: labels: expected {expected} for the format {name}, found {place}")
    return SplitFiles(root, sources, images, FORMATS[name](root, place, config.names))


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


def list_files(root: Path, source: str, where: str | Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Files of a folder, a list file or a pattern below ``root``, in a fixed order; errors begin with ``where``."""
    place = root / Path(source).expanduser()
    if place.is_dir():
        files = (os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names)
        usable = (file for file in files if os.path.splitext(file)[1].lower() in suffixes)
        return [Path(file) for file in sorted(usable, key=lambda file: file.split(os.sep))]
    if place.is_file():
        if place.suffix.lower() in suffixes:
            return [place]
        try:
            rows = place.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{where}: expected a list of images in {place}: {error}") from error
        return [_listed_path(row.strip(), place.parent, root) for row in rows if row.strip()]
    pattern = str(Path(source).expanduser())  # not joined to the root: its name may hold a [ that is meant literally
    found = sorted(root / path for path in glob.glob(pattern, root_dir=root, recursive=True))
    if not found:
        raise DataError(f"{where}: expected a folder, a list file or a glob pattern, found nothing at {place}")
    return [path for path in found if path.suffix.lower() in suffixes]


def _listed_path(row: str, list_folder: Path, root: Path) -> Path:
    """The path of a list file's row: relative to the list file or to the dataset's root, or an id of Pascal VOC's."""
    beside = list_folder / row
    if Path(row).suffix.lower() not in IMAGE_SUFFIXES and list_folder.parts[-2:] == ("ImageSets", "Main"):
        return list_folder.parents[1] / "JPEGImages" / f"{row}.jpg"
    return beside if beside.exists() or not (root / row).exists() else root / row


def index_of(
    images: Sequence[Path], labels: Labels, image_id: np.ndarray, category_id: np.ndarray, config: DatasetConfig
) -> DatasetIndex:
    """The index of images whose labels have been read; the ids are those of usable images and of all classes."""
    fields = labels.select(labels.usable)._asdict()
    fields["problems"] = tuple(problem.text for own in labels.problems for problem in own)
    paths = np.array([os.fsencode(images[i]) for i in labels.usable], dtype=np.bytes_)
    fields |= {"image_id": image_id, "category_id": category_id, "channels": config.channels}
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
