"""What a split holds: image files, their sizes and their objects, in packed arrays.

Packed, because lists of Python objects would be copied page by page into every worker process.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from yolo_lite.config.errors import ConfigError, DataError, nearest
from yolo_lite.config.schema import DatasetConfig
from yolo_lite.data.coco_json import CocoLabels
from yolo_lite.data.formats import label_reader
from yolo_lite.data.images import IMAGE_SUFFIXES, image_size
from yolo_lite.data.labels import LabelReader, Labels, Ring
from yolo_lite.data.shapes import ShapesSpec, ensure_shapes


class Rings(NamedTuple):
    """Outlines of T objects, R rings of Q corners together."""

    corner: np.ndarray  # [Q, 2] float32, x y in pixels of the picture
    first_corner: np.ndarray  # [R + 1] int64
    first_ring: np.ndarray  # [T + 1] int64

    def of(self, thing: int | np.integer) -> list[Ring]:
        """The outlines of an object; none where only its box is known."""
        first, end = self.first_ring[thing : thing + 2]
        starts = self.first_corner[first : end + 1]
        return np.split(self.corner[starts[0] : starts[-1]], starts[1:-1] - starts[0]) if end > first else []

    def chosen(self, kept: np.ndarray) -> Rings:
        """The outlines of some objects, ``kept`` [T] bool."""
        return _packed([tuple(self.of(thing)) for thing in np.flatnonzero(kept)])


@dataclass(frozen=True)
class DatasetIndex:
    """n images and T objects of one split, C classes."""

    names: tuple[str, ...]  # class names
    paths: np.ndarray  # [n] bytes, image files
    size: np.ndarray  # [n, 2] int64, height and width in pixels
    first: np.ndarray  # [n + 1] int64: the objects of image i are rows first[i]:first[i + 1]
    label: np.ndarray  # [T] int64
    xyxy: np.ndarray  # [T, 4] float64, pixels of the picture
    area: np.ndarray  # [T] float64, square pixels
    crowd: np.ndarray  # [T] bool: neither learnt nor counted, see Annotation
    rings: Rings | None  # where index_split was asked for them
    image_id: np.ndarray  # [n] int64: those of a COCO file, or positions
    category_id: np.ndarray  # [C] int64: those of a COCO file, or class indices
    problems: tuple[str, ...]  # what was left out and why, one line each

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        return os.fsdecode(bytes(self.paths[index]))

    @property
    def counts(self) -> np.ndarray:
        """Objects of each class ``[C]``, crowds apart."""
        return np.bincount(self.label[~self.crowd], minlength=len(self.names))

    @property
    def num_objects(self) -> int:
        """Objects, crowds apart."""
        return int((~self.crowd).sum())

    @property
    def num_backgrounds(self) -> int:
        """Images without an object."""
        return len(self) - len(np.unique(self.owner[~self.crowd]))

    @property
    def owner(self) -> np.ndarray:
        """The image ``[T]`` of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def describe(self) -> str:
        """Counts, and the first things that were left out."""
        counts = f"{len(self)} images, {self.num_backgrounds} of them without objects, {self.num_objects} objects"
        crowds = f", {int(self.crowd.sum())} crowds or difficult" if self.crowd.any() else ""
        left_out = f"; {len(self.problems)} things left out, the first:" if self.problems else ""
        return "\n  ".join((counts + crowds + left_out, *self.problems[:3]))

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels ``[m]`` and boxes ``[m, 4]`` (xyxy in pixels of the picture) of one image, crowds apart."""
        rows = self.rows(index)
        return self.label[rows], self.xyxy[rows]

    def rows(self, index: int) -> np.ndarray:
        """Which objects ``[m]`` one image has, crowds apart."""
        first, end = self.first[index : index + 2]
        return first + np.flatnonzero(~self.crowd[first:end])


def dataset_root(config: DatasetConfig, data_file: str | Path) -> Path:
    """The folder that ``path`` means; a generated set is drawn here if it is not there yet."""
    if config.generate:
        generate = config.generate
        return ensure_shapes(ShapesSpec(generate.train, generate.val, generate.image_size, generate.seed))
    return (Path(data_file).resolve().parent / Path(config.path).expanduser()).resolve()


def index_split(config: DatasetConfig, data_file: str | Path, split: str, with_rings: bool = False) -> DatasetIndex:
    """Read sizes and labels of the split ``train``, ``val`` or ``test``.

    Args:
        with_rings: keep the outlines of objects too.

    Raises:
        ConfigError: the dataset YAML does not name the split.
        DataError: a source is not there, or no image is usable; the message names the paths that were tried.
    """
    root = dataset_root(config, data_file)
    sources = (f"images/{split}",) if config.generate and split != "test" else getattr(config, split)
    if not sources:
        given = [name for name in ("train", "val", "test") if getattr(config, name) or config.generate]
        raise ConfigError(f"{data_file}: the split {split!r} is not given{nearest(split, given)}")
    if config.download and not root.exists():
        raise DataError(f"{data_file}: no such folder: {root}; yolo-lite download {data_file} fetches the set")
    images = [path for source in sources for path in list_files(root, source, data_file)]
    reader = label_reader(config, root, split, images, data_file)
    index = _with_chosen_classes(_read_all(images, reader, config.names, split, with_rings), config)
    _check_usable(index, [reader.file_of(image) for image in images[:3]], f"{data_file}: {split}", sources, root)
    return index


def list_files(root: Path, source: str, where: str | Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Files of a folder, a list file or a glob pattern, in a fixed order.

    Args:
        root: the folder at which relative sources start.
        where: what names the source, for messages.

    Raises:
        DataError: there is nothing of the kind.
    """
    place = root / Path(source).expanduser()
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes)
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
    """A row of a list file is relative to the list file or to the dataset's root, or is an id of Pascal VOC's."""
    beside = list_folder / row
    if Path(row).suffix.lower() not in IMAGE_SUFFIXES and list_folder.parts[-2:] == ("ImageSets", "Main"):
        return list_folder.parents[1] / "JPEGImages" / f"{row}.jpg"
    return beside if beside.exists() or not (root / row).exists() else root / row


def _read_all(
    images: list[Path], reader: LabelReader, names: tuple[str, ...], split: str, with_rings: bool
) -> DatasetIndex:
    def read(image: Path) -> tuple[Path, tuple[int, int], Labels] | str:
        try:
            size = image_size(image)
            return image, size, reader.read(image, size)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        jobs = pool.map(read, images)
        rows = list(tqdm(jobs, desc=f"reading {split}", total=len(images), leave=False, delay=1))
    usable = [row for row in rows if not isinstance(row, str)]
    labels = [row[2] for row in usable]
    counts = np.array([len(one.label) for one in labels], dtype=np.int64)
    image_id, category_id = np.arange(len(usable)), np.arange(len(names))
    if isinstance(reader, CocoLabels):
        image_id, category_id = reader.ids([row[0] for row in usable])
    return DatasetIndex(
        names=names,
        paths=np.array([os.fsencode(row[0]) for row in usable], dtype=np.bytes_),
        size=np.array([row[1] for row in usable], dtype=np.int64).reshape(-1, 2),
        first=_starts(counts),
        label=_joined([one.label for one in labels], np.zeros(0, np.int64)),
        xyxy=_joined([one.xyxy for one in labels], np.zeros((0, 4))),
        area=_joined([one.area for one in labels], np.zeros(0)),
        crowd=_joined([one.crowd for one in labels], np.zeros(0, bool)),
        rings=_packed([rings for one in labels for rings in one.rings]) if with_rings else None,
        image_id=image_id,
        category_id=category_id,
        problems=tuple(line for row in rows for line in ([row] if isinstance(row, str) else row[2].problems)),
    )


def _packed(rings: list[tuple[Ring, ...]]) -> Rings:
    flat = [ring for own in rings for ring in own]
    corner = _joined(flat, np.zeros((0, 2), np.float32))
    return Rings(corner, _starts([len(ring) for ring in flat]), _starts([len(own) for own in rings]))


def _starts(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _joined(arrays: Iterable[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *arrays])


def only_classes(index: DatasetIndex, wanted: Sequence[str]) -> DatasetIndex:
    """The same images with the objects of these classes alone, which are numbered in this order."""
    new = np.array([wanted.index(name) if name in wanted else -1 for name in index.names])
    kept = new[index.label] >= 0
    return replace(
        index,
        names=tuple(wanted),
        first=_starts(np.bincount(index.owner[kept], minlength=len(index))),
        label=new[index.label][kept],
        xyxy=index.xyxy[kept],
        area=index.area[kept],
        crowd=index.crowd[kept],
        rings=index.rings and index.rings.chosen(kept),
        category_id=index.category_id[[index.names.index(name) for name in wanted]],
    )


def _with_chosen_classes(index: DatasetIndex, config: DatasetConfig) -> DatasetIndex:
    """The objects of the classes that ``classes`` names, all of one class where ``single_cls`` says so."""
    if config.class_names == index.names:
        return index
    chosen = only_classes(index, config.classes or index.names)
    if not config.single_cls:
        return chosen
    label, category_id = np.zeros_like(chosen.label), chosen.category_id[:1]
    return replace(chosen, names=config.class_names, label=label, category_id=category_id)


def _check_usable(index: DatasetIndex, labels: list[Path], where: str, sources: Iterable[str], root: Path) -> None:
    tried = "\n  ".join(str(root / source) for source in sources)
    reasons = "".join(f"\n  {line}" for line in index.problems[:3])
    if not len(index):
        raise DataError(f"{where}: no usable image; tried\n  {tried}{reasons}")
    if not index.num_objects:
        examples = "\n  ".join(str(path) for path in dict.fromkeys(labels))
        raise DataError(f"{where}: {len(index)} images but not one label; looked for\n  {examples}{reasons}")
