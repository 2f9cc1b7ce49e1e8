"""The index of a split: image files, their sizes and their objects, in packed arrays.

Lists of Python objects would be copied page by page into every worker process.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import DataError
from yolo_lite.data import index_cache
from yolo_lite.data.decode import ANY_RANGE
from yolo_lite.data.doubts import doubts
from yolo_lite.data.images import image_size
from yolo_lite.data.labels import (
    DAMAGED,
    OF_OBJECTS,
    SYSTEM_ERROR,
    UNREADABLE,
    Annotation,
    LabelReader,
    Labels,
    Problem,
    check_annotations,
)
from yolo_lite.data.outlines import Outlines, offsets_of
from yolo_lite.data.split import split_files
from yolo_lite.data.tiff import HAS_TIFFFILE
from yolo_lite.data.turned import fitted


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
    unreadable: tuple[str, ...] = ()  # those of them that are about images or label files which cannot be read
    channels: int = 3  # of the images
    white: int = ANY_RANGE  # value of a white pixel where they have 16 bits
    left_out: tuple[tuple[str, int], ...] = ()  # rows of label files that are no object here, by reason
    remarks: tuple[str, ...] = ()  # about the files and the labels as a whole, a line each

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

    @property
    def account(self) -> str:
        """Rows of the label files: those that became objects, and those left out for each reason."""
        crowds, out = int(self.crowd.sum()), sum(count for _, count in self.left_out)
        used = f"{self.num_objects} objects" + (f" + {crowds} crowds or difficult" if crowds else "")
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out)
        left_out = f" + {out} left out ({reasons})" if out else ""
        return f"{len(self.label) + out} rows in the label files = {used}{left_out}"

    def describe(self) -> str:
        """Counts of images, objects and rows, and the first problems, for the start of a run."""
        counts = f"{len(self)} images, {self.num_backgrounds} of them without objects, {self.num_objects} objects"
        first = f"; {len(self.problems)} things left out, the first:" if self.problems else ""
        return "\n  ".join((counts, self.account + first, *self.problems[:3], *self.remarks))

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels ``[m]`` and boxes ``[m, 4]`` (xyxy in pixels of the image) of one image, crowds apart."""
        rows = self.rows(index)
        return self.label[rows], self.xyxy[rows]

    def rows(self, index: int) -> np.ndarray:
        """The rows ``[m]`` int64 of one image's objects, crowds apart."""
        first, end = self.first[index : index + 2]
        return first + np.flatnonzero(~self.crowd[first:end])


def index_split(config: DatasetConfig, data_file: str | Path, split: str, with_outlines: bool = False) -> DatasetIndex:
    """Read sizes and labels of the split ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: the dataset YAML does not name the split.
        DataError: a source or the labels are not there or of another kind, what belongs to an image is not unique, rows
            could be two things, or no image is usable.
    """
    files = split_files(config, data_file, split)
    reader = files.reader
    reader.with_outlines = with_outlines
    rules = (config.names, config.channels, HAS_TIFFFILE, files.root, files.sources, reader.kpt_shape, with_outlines)
    read = partial(read_image_labels, reader, config.channels, with_outlines)
    kept = index_cache.read_changed(files, read, split, *rules)
    if not config.row_kind and (reading := decided(reader, kept.labels, data_file, split)) != reader.reading:
        reader.reading = reading
        kept = index_cache.read_changed(files, read, split, *rules)
    index = index_of(files.images, kept.labels, kept.image_id, kept.category_id, config, kept.remarks)
    lines = (problem.text for problem in doubts(index, files))
    index = replace(index, remarks=(*files.listing.remarks(), *index.remarks, *lines))
    if index.num_objects:
        return index
    what, tried = "no usable image; tried", [files.root / source for source in files.sources]
    if len(index):
        what = f"{len(index)} images but not one label; looked for"
        tried = list(dict.fromkeys(map(Path, files.labels[:3])))
    found = (*map(str, tried), *index.problems[:3], *index.remarks)
    raise DataError("\n  ".join((f"{data_file}: {split}: {what}", *found)))


def decided(reader: LabelReader, labels: Labels, data_file: str | Path, split: str) -> str:
    """How the rows of a split are to be read, after all have been seen; raises DataError where that is not clear."""
    try:
        return reader.decide(labels.hints)
    except DataError as error:
        raise DataError(f"{data_file}: {split}: {error}") from error


def index_of(
    images: Sequence[str],
    labels: Labels,
    image_id: np.ndarray,
    category_id: np.ndarray,
    config: DatasetConfig,
    remarks: Sequence[Problem] = (),
) -> DatasetIndex:
    """The index of images whose labels have been read; the ids are those of usable images and of all classes."""
    fields = labels.select(labels.usable)._asdict()
    problems = [problem for own in labels.problems for problem in own]
    rows = Counter[str]()
    for problem in (*problems, *remarks):
        rows[problem.kind] += problem.rows
    fields["problems"] = tuple(problem.text for problem in problems)
    fields["unreadable"] = tuple(problem.text for problem in problems if problem.kind in UNREADABLE)
    fields["left_out"] = tuple((kind, count) for kind, count in rows.most_common() if count)
    fields["remarks"] = tuple(remark.text for remark in remarks)
    del fields["rows"], fields["hints"]
    paths = np.array([os.fsencode(images[i]) for i in labels.usable], dtype=np.bytes_)
    fields |= {"image_id": image_id, "category_id": category_id, "channels": config.channels, "white": config.white}
    index = DatasetIndex(config.names, paths, **fields)
    if config.classes:
        index = only_classes(index, config.classes)
    if not config.single_cls:
        return index
    label, category_id = np.zeros_like(index.label), index.category_id[:1]
    return replace(index, names=config.class_names, label=label, category_id=category_id)


def read_image_labels(reader: LabelReader, channels: int, with_outlines: bool, image: str, file: str) -> Labels:
    """The labels of one image, whose size its header says; without objects and with a problem where it is left out."""
    try:
        labels = read_labels(reader, image, file, image_size(image, channels))
    except (DataError, OSError) as error:
        # An error number means that the system failed, not the file: a network folder may be back next time.
        cause = error.__cause__ if isinstance(error, DataError) else error
        kind = DAMAGED if getattr(cause, "errno", None) is None else SYSTEM_ERROR
        text = str(error) if isinstance(error, DataError) else f"{file}: cannot be read: {error.strerror}"
        labels = left_out(kind, text, num_rows(reader, image, file))
    return labels if with_outlines else labels._replace(outlines=None)


def left_out(kind: str, text: str, rows: int) -> Labels:
    """The labels of an image that is left out with so many rows."""
    return check_annotations([Problem(kind, text, rows)], (0, 0))


def read_labels(reader: LabelReader, image: str, file: str, size: tuple[int, int]) -> Labels:
    """The labels of one image of (height, width) pixels in its label file.

    Raises:
        OSError: the file cannot be read.
    """
    found = list(reader.annotations(image, file, size))
    return check_annotations(fitted(found, size, image, reader.reading), size, reader.drop_repeats)


def num_rows(reader: LabelReader, image: str, file: str) -> int:
    """The rows that a label file has for an image which is left out; 0 if it cannot be read either."""
    try:
        found = list(reader.annotations(image, file, (1, 1)))
    except OSError:
        return 0
    return sum(one.rows if isinstance(one, Problem) else isinstance(one, Annotation) for one in found)


def only_classes(index: DatasetIndex, wanted: Sequence[str]) -> DatasetIndex:
    """The same images with only the objects of these classes, numbered in this order."""
    new = np.array([wanted.index(name) if name in wanted else -1 for name in index.names])
    kept = np.flatnonzero(new[index.label] >= 0)
    others = len(index.label) - len(kept)
    return replace(
        index,
        left_out=(*index.left_out, *([("of a class that is not chosen", others)] if others else [])),
        names=tuple(wanted),
        first=offsets_of(np.bincount(index.owner[kept], minlength=len(index))),
        outlines=index.outlines and index.outlines.select(kept),
        category_id=index.category_id[[index.names.index(name) for name in wanted]],
        **{name: getattr(index, name)[kept] for name in OF_OBJECTS} | {"label": new[index.label[kept]]},
    )
