"""What a split holds: image files, their sizes and their objects, in packed arrays.

Packed, because lists of Python objects would be copied page by page into every worker process.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from yolo_lite.config.errors import ConfigError, DataError, nearest
from yolo_lite.config.schema import DatasetConfig
from yolo_lite.data.images import IMAGE_SUFFIXES, image_size
from yolo_lite.data.labels import read_labels
from yolo_lite.data.shapes import ShapesSpec, ensure_shapes


@dataclass(frozen=True)
class DatasetIndex:
    """n images and T objects of one split."""

    names: tuple[str, ...]  # class names
    paths: np.ndarray  # [n] bytes, image files
    size: np.ndarray  # [n, 2] int64, height and width in pixels
    first: np.ndarray  # [n + 1] int64: the objects of image i are rows first[i]:first[i + 1]
    label: np.ndarray  # [T] int64
    xyxy: np.ndarray  # [T, 4] float64, fractions of the picture
    num_backgrounds: int  # images without an object
    problems: tuple[str, ...]  # what was left out and why, one line each

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        return os.fsdecode(bytes(self.paths[index]))

    def describe(self) -> str:
        """Counts, and the first things that were left out."""
        counts = f"{len(self)} images, {self.num_backgrounds} of them without objects, {len(self.label)} objects"
        left_out = f"; {len(self.problems)} things left out, the first:" if self.problems else ""
        return "\n  ".join((counts + left_out, *self.problems[:3]))

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels ``[m]`` and boxes ``[m, 4]`` (xyxy in pixels of the picture) of one image."""
        rows = slice(self.first[index], self.first[index + 1])
        height, width = self.size[index]
        return self.label[rows], self.xyxy[rows] * (width, height, width, height)


def dataset_root(config: DatasetConfig, data_file: str | Path) -> Path:
    """The folder that ``path`` means; a generated set is drawn here if it is not there yet."""
    if config.generate:
        generate = config.generate
        return ensure_shapes(ShapesSpec(generate.train, generate.val, generate.image_size, generate.seed))
    return (Path(data_file).resolve().parent / Path(config.path).expanduser()).resolve()


def index_split(config: DatasetConfig, data_file: str | Path, split: str) -> DatasetIndex:
    """Read sizes and labels of the split ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: the dataset YAML does not name the split.
        DataError: a source is not there, or no image is usable; the message names the paths that were tried.
    """
    root = dataset_root(config, data_file)
    sources = (f"images/{split}",) if config.generate and split != "test" else getattr(config, split)
    if not sources:
        given = [name for name in ("train", "val", "test") if getattr(config, name) or config.generate]
        raise ConfigError(f"{data_file}: the split {split!r} is not given{nearest(split, given)}")
    images = [path for source in sources for path in _list_images(root, source, data_file)]
    label_folder = root / Path(config.labels).expanduser() if config.labels else None
    if label_folder and not label_folder.is_dir():
        raise DataError(f"{data_file}: labels: no such folder: {label_folder}")
    labels = [label_path(path, root, label_folder) for path in images]
    index = _read_all(images, labels, config.names, split)
    _check_usable(index, labels, f"{data_file}: {split}", sources, root)
    return index


def _list_images(root: Path, source: str, data_file: str | Path) -> list[Path]:
    """Image files of a folder, a list file or a glob pattern, in a fixed order."""
    place = root / Path(source).expanduser()
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if place.is_file():
        if place.suffix.lower() in IMAGE_SUFFIXES:
            return [place]
        try:
            rows = place.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{data_file}: expected a list of images in {place}: {error}") from error
        return [_listed_path(row.strip(), place.parent, root) for row in rows if row.strip()]
    pattern = str(Path(source).expanduser())  # not joined to the root: its name may hold a [ that is meant literally
    found = sorted(root / path for path in glob.glob(pattern, root_dir=root, recursive=True))
    if not found:
        raise DataError(f"{data_file}: expected a folder, a list file or a glob pattern, found nothing at {place}")
    return [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]


def _listed_path(row: str, list_folder: Path, root: Path) -> Path:
    """A row of a list file is relative to the list file, or to the dataset's root."""
    beside = list_folder / row
    return beside if beside.exists() or not (root / row).exists() else root / row


def label_path(image: Path, root: Path, label_folder: Path | None = None) -> Path:
    """Where the labels of an image are expected.

    In ``label_folder`` if there is one, under the image's path below the root (without a leading ``images``) or under
    its bare name; else with the last ``images`` folder of its path replaced by ``labels``; else beside the image.
    """
    if label_folder:
        below = Path(os.path.relpath(image, root)).with_suffix(".txt")
        below = below.relative_to("images") if below.parts[0] == "images" else below
        mirrored = label_folder / below
        return mirrored if mirrored.is_file() else label_folder / below.name
    parts = image.parts
    if "images" in parts[:-1]:
        at = len(parts) - 2 - parts[-2::-1].index("images")
        mapped = Path(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
        if mapped.is_file() or not image.with_suffix(".txt").is_file():
            return mapped
    return image.with_suffix(".txt")


def _read_all(images: list[Path], labels: list[Path], names: tuple[str, ...], split: str) -> DatasetIndex:
    def read(item: tuple[Path, Path]) -> tuple[Path, tuple[int, int], np.ndarray, np.ndarray, list[str]] | str:
        image, label_file = item
        try:
            size = image_size(image)
        except DataError as error:
            return str(error)
        if not label_file.exists():
            return image, size, np.zeros(0, np.int64), np.zeros((0, 4)), []
        return image, size, *read_labels(label_file, len(names))

    with ThreadPoolExecutor() as pool:
        jobs = pool.map(read, zip(images, labels, strict=True))
        rows = list(tqdm(jobs, desc=f"reading {split}", total=len(images), leave=False, delay=1))
    usable = [row for row in rows if not isinstance(row, str)]
    problems = [line for row in rows for line in ([row] if isinstance(row, str) else row[4])]
    counts = np.array([len(row[2]) for row in usable], dtype=np.int64)
    return DatasetIndex(
        names=names,
        paths=np.array([os.fsencode(row[0]) for row in usable], dtype=np.bytes_),
        size=np.array([row[1] for row in usable], dtype=np.int64).reshape(-1, 2),
        first=np.concatenate(([0], counts.cumsum())).astype(np.int64),
        label=_joined([row[2] for row in usable], np.zeros(0, np.int64)),
        xyxy=_joined([row[3] for row in usable], np.zeros((0, 4))),
        num_backgrounds=int((counts == 0).sum()),
        problems=tuple(problems),
    )


def _joined(arrays: Iterable[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *arrays])


def _check_usable(index: DatasetIndex, labels: list[Path], where: str, sources: Iterable[str], root: Path) -> None:
    tried = "\n  ".join(str(root / source) for source in sources)
    if not len(index):
        reasons = "".join(f"\n  {line}" for line in index.problems[:3])
        raise DataError(f"{where}: no usable image; tried\n  {tried}{reasons}")
    if not len(index.label):
        examples = "\n  ".join(str(path) for path in labels[:3])
        reasons = "".join(f"\n  {line}" for line in index.problems[:3])
        raise DataError(f"{where}: {len(index)} images but not one label; looked for\n  {examples}{reasons}")
