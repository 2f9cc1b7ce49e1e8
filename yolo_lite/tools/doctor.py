"""The dataset doctor: read everything as training does, name what is wrong, change nothing."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import DataError
from yolo_lite.data.augment import MAX_ASPECT, MIN_SIDE
from yolo_lite.data.decode import damage_told, open_image, opened, orientation
from yolo_lite.data.doubts import doubts, training_sizes
from yolo_lite.data.files import Listing
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex, decided, index_of, left_out, read_image_labels
from yolo_lite.data.labels import SYSTEM_ERROR, LabelReader, Labels, Problem
from yolo_lite.data.readers import FORMATS
from yolo_lite.data.split import SplitFiles, dataset_root, split_files
from yolo_lite.data.suffixes import KNOWN_IMAGES, SAME_FORMAT, image_suffixes
from yolo_lite.data.writers import WRITERS
from yolo_lite.tools.convert import write_dataset
from yolo_lite.tools.divide import CLIP, FRAME_WORDS, clip_of

# Every kind of finding, the worst first. Errors harm training: images or objects are lost, or validation is no longer
# honest. Warnings may be intended. Notes are about images that other programs may read differently.
SEVERITY = {
    **dict.fromkeys(("missing split", "no usable image", "no objects", "missing image", "unreadable image"), "error"),
    **dict.fromkeys(("leak", "unreadable labels", "labels of another image", "unlisted image"), "error"),
    **dict.fromkeys(("labels of another format", "classes in another order", "annotations of no image"), "error"),
    **dict.fromkeys(("fractions for pixels", "wrong columns"), "error"),
    **dict.fromkeys(("not a number", "not finite", "unknown class", "outside the image", "without area"), "error"),
    **dict.fromkeys(("images without label file", "crowds", "image listed twice", "paired by name alone"), "warning"),
    **dict.fromkeys(
        ("filename of another image", "labels of no image", "unreadable mask", "outline of another box"), "warning"
    ),
    **dict.fromkeys(("class without objects", "duplicate image", "missing labels", "orphaned labels"), "warning"),
    **dict.fromkeys(("clip in two splits", "unread image", "range of 16 bits"), "warning"),
    **dict.fromkeys(("annotations of other images", "repeated object", "too small", "too narrow"), "warning"),
    **dict.fromkeys(("how rows are read", "found elsewhere"), "note"),
    **dict.fromkeys(("wrong extension", "rotated by EXIF", "16-bit", "palette", "grey", "alpha", "CMYK"), "note"),
}
# Keys are Pillow's names of pixel modes.
MODES = {"P": "palette", "PA": "palette", "1": "grey", "L": "grey", "LA": "grey", "RGBA": "alpha", "CMYK": "CMYK"}
NO_LABELS = {"classes.txt", "data.txt", "readme.txt", "notes.txt"}  # text files that are often found beside labels


class Finding(NamedTuple):
    """One thing that the doctor noticed."""

    kind: str  # a key of SEVERITY
    split: str
    path: str  # the file concerned
    text: str  # one line, with the path

    @property
    def severity(self) -> str:
        return SEVERITY[self.kind]


class Examined(NamedTuple):
    """One image file."""

    path: Path
    digest: bytes  # of its content; empty if it is not readable
    labels: Path  # the file in which its labels are expected
    read: Labels  # what training would use of it
    findings: list[Finding]

    @property
    def is_usable(self) -> bool:
        return len(self.read.usable) > 0


class Diagnosis(NamedTuple):
    """Everything the doctor knows about a dataset."""

    config: DatasetConfig
    data_file: str
    longest: int  # side of an image, or window, in pixels, as training would scale it
    tile: int  # pixels of the image that a side of a window has, 0 without
    findings: list[Finding]
    examined: dict[str, list[Examined]]  # by split
    readers: dict[str, LabelReader]
    splits: dict[str, DatasetIndex]  # as training would use it

    def sizes(self, index: DatasetIndex) -> np.ndarray:
        return training_sizes(index, self.longest, self.tile)


def diagnose(config: DatasetConfig, data_file: str, longest: int, tile: int = 0) -> Diagnosis:
    """Read a whole dataset, for training at ``longest`` pixels, in windows of ``tile`` pixels of the images if not 0.

    Raises:
        DataError: a source, or what the key ``labels`` names, is not there or of another kind.
    """
    files, lost = _files_of_splits(config, data_file)
    examined = {split: _examine_split(one, split, config, data_file) for split, one in files.items()}
    readers = {split: one.reader for split, one in files.items()}
    splits = {split: _index_of(examined[split], one.reader, config, one.others) for split, one in files.items()}
    missing = [split for split in ("train", "val") if split not in files]
    findings = [
        *(_split_finding("missing split", split, data_file, "is not given") for split in missing),
        *lost,
        *(finding for rows in examined.values() for one in rows for finding in one.findings),
        *(finding for split, one in files.items() for finding in _of_listing(split, one.listing)),
        *_duplicates(examined),
        *_clips(examined, config),
        *_orphans(files, examined),
        *(
            Finding(problem.kind, split, data_file, f"{split}: {problem.text}")
            for split in files
            for problem in (*_remarks(files, examined, split), *doubts(splits[split], files[split]))
        ),
        *(finding for split in files for finding in _of_split(split, splits[split], data_file, longest, tile)),
    ]
    findings.sort(key=lambda one: list(SEVERITY).index(one.kind))
    return Diagnosis(config, data_file, longest, tile, findings, examined, readers, splits)


def _files_of_splits(config: DatasetConfig, data_file: str) -> tuple[dict[str, SplitFiles], list[Finding]]:
    """Where the splits are read from; a test split that is not there, as exports often state one, is a finding."""
    files, lost = dict[str, SplitFiles](), list[Finding]()
    for split in config.splits:
        try:
            files[split] = split_files(config, data_file, split)
        except DataError as error:
            if split != "test":
                raise
            lost.append(Finding("missing split", split, data_file, str(error)))
    return files, lost


def write_cleaned(diagnosis: Diagnosis, folder: Path) -> Path:
    """Copy what training can use, with outlines, into a new folder in the same format; returns the path of its YAML.

    Raises:
        DataError: no object is left in a split, or the folder cannot be written as ``convert.write_dataset`` says.
    """
    config, reader = diagnosis.config, next(iter(diagnosis.readers.values()))
    to = next(name for name, kind in FORMATS.items() if kind is type(reader))
    to = to if to in WRITERS else "coco"
    root = dataset_root(config, diagnosis.data_file)
    examined, splits = diagnosis.examined.items(), dict[str, DatasetIndex]()
    held_out = {one.digest for split, rows in examined for one in rows if split != "train" and one.is_usable}
    for split, rows in examined:  # every image once, and none of val and test in train
        usable = [one for one in rows if one.is_usable and not (split == "train" and one.digest in held_out)]
        once = {one.digest: one for one in reversed(usable)}  # the first of each content
        splits[split] = _index_of(list(reversed(once.values())), diagnosis.readers[split], config)
        if not splits[split].num_objects:
            raise DataError(f"--fix-into: no object would be left in the split {split!r}")
    return write_dataset(splits, root, folder, to, polygons=True, copy_images=True)


def _index_of(
    examined: Sequence[Examined],
    reader: LabelReader,
    config: DatasetConfig,
    others: Sequence[str] = (),
) -> DatasetIndex:
    paths, labels = [str(one.path) for one in examined], Labels.concat([one.read for one in examined])
    ids = reader.ids([paths[i] for i in labels.usable])
    return index_of(paths, labels, *ids, config, reader.remarks([*paths, *others], labels.hints))


def _examine_split(files: SplitFiles, split: str, config: DatasetConfig, data_file: str) -> list[Examined]:
    """Read a split; once more where only all of its rows have told what they are."""
    reader = files.reader
    examined = _examine_all(files, split, config.channels)
    if config.row_kind:
        return examined
    reading = decided(reader, Labels.concat([one.read for one in examined]), data_file, split)
    if reading == reader.reading:
        return examined
    reader.reading = reading
    return _examine_all(files, split, config.channels)


def _examine_all(files: SplitFiles, split: str, channels: int) -> list[Examined]:
    files.reader.load([*files.images, *files.others])
    examine = partial(_examine, files.reader, split, channels)
    # OpenCV and hashlib release the GIL; each thread holds one image at a time.
    with ThreadPoolExecutor() as pool:
        jobs = pool.map(examine, map(Path, files.images), map(Path, files.labels), files.has_labels.tolist())
        return list(tqdm(jobs, desc=f"reading {split}", total=len(files.images), leave=False, delay=1))


def _examine(reader: LabelReader, split: str, channels: int, image: Path, labels: Path, has_labels: bool) -> Examined:
    """Read one image and its labels as training does, and all of its pixels."""
    path, digest, findings = str(image), b"", list[Finding]()
    read = read_image_labels(reader, channels, True, path, str(labels))
    if len(read.usable):
        read = _with_pixels(read, image, channels)
    if not any(problem.kind in ("unreadable image", SYSTEM_ERROR) for problem in read.problems[0]):
        with contextlib.suppress(DataError), damage_told(image), open_image(image) as file:
            digest = hashlib.blake2b(file.read(), digest_size=16).digest()
        findings += [Finding(kind, split, path, f"{image}: {text}") for kind, text in _peculiarities(image)]
    for problem in read.problems[0]:
        kind = problem.kind
        if kind == SYSTEM_ERROR:
            kind = "unreadable labels" if problem.text.startswith(str(labels)) else "unreadable image"
        if kind == "unreadable image" and not os.path.lexists(image):
            kind = "missing image"
        findings.append(Finding(kind, split, str(labels) if len(read.usable) else path, problem.text))
    if num := _untrusted(read):
        text = f"{num} of {len(read.label)} objects have outlines that do not fill their boxes (IoU below 0.5)"
        findings.append(
            Finding("outline of another box", split, path, f"{image}: {text}: masks are those of the boxes")
        )
    if not has_labels:
        findings.append(Finding("missing labels", split, path, f"{image}: background, for there is no {labels}"))
    return Examined(image, digest, labels, read, findings)


def _untrusted(read: Labels) -> int:
    """Objects of an image whose outlines are not used, as they are not of their boxes."""
    if not read.outlines or not len(read.usable):
        return 0
    height, width = read.size[0].tolist()
    used = read.outlines.within(read.xyxy, (width, height))
    return int((np.diff(read.outlines.first_ring) > np.diff(used.first_ring)).sum())


def _with_pixels(read: Labels, image: Path, channels: int) -> Labels:
    """The labels, if all pixels of the image can be read and are as many as its header says."""
    size = tuple(read.size[0].tolist())
    try:
        pixels = read_image(image, channels).shape[:2]
    except DataError as error:
        return left_out("unreadable image", str(error), int(read.rows[0]))
    if pixels != size:
        text = f"{image}: the header says {size} (height, width), the pixels are {pixels}"
        return left_out("unreadable image", text, int(read.rows[0]))
    return read


def _peculiarities(path: Path) -> Iterator[tuple[str, str]]:
    """Name properties in the file's header that other programs may treat differently."""
    try:
        with damage_told(path), open_image(path) as file:
            if (image := opened(file)) is None:  # formats that only OpenCV knows
                return
            kind, mode, turned = image.format or "", image.mode, orientation(image)
            # The first argument of Pillow's decoder names the bits of a sample if these are not 8.
            layout = str(image.tile[0][3]) if image.tile else ""
    except DataError:  # told by those who read it
        return
    stated = Image.registered_extensions().get(path.suffix.lower(), "")
    if SAME_FORMAT.get(stated, stated) != SAME_FORMAT.get(kind, kind):
        yield "wrong extension", f"a {kind} file"
    if turned != 1:
        yield "rotated by EXIF", f"orientation {turned}; it is turned when it is read"
    if ";16" in layout or ";16" in mode:
        yield "16-bit", "read as 8 bits"
    if mode in MODES:
        yield MODES[mode], f"mode {mode}, read as RGB"


def _of_listing(split: str, listing: Listing) -> Iterator[Finding]:
    for note in listing.notes:
        yield Finding("found elsewhere", split, "", f"{split}: {note}")
    for path in listing.unread:
        text = f"{path}: looks like an image, but is of a kind that is not read here"
        yield Finding("unread image", split, path, text)
    for path in listing.repeated:
        yield Finding("duplicate image", split, path, f"{path}: named before in {split}, used once")


def _duplicates(examined: Mapping[str, Sequence[Examined]]) -> Iterator[Finding]:
    """Find files with the same content: a leak if one is for training and another for testing."""
    first: dict[bytes, tuple[str, Examined]] = {}
    for split, one in ((split, one) for split, rows in examined.items() for one in rows if one.digest):
        known, other = first.setdefault(one.digest, (split, one))
        if other is not one:
            kind = "leak" if known == "train" != split else "duplicate image"
            what = "listed" if other.path == one.path else f"the same bytes as {other.path}"
            text = f"{one.path}: in {split}, {what} in {known}{' before' if known == split else ' too'}"
            yield Finding(kind, split, str(one.path), text)


def _clips(examined: Mapping[str, Sequence[Examined]], config: DatasetConfig) -> Iterator[Finding]:
    """Find clips of which train has frames as another split has, where their names say that they are clips."""
    clips: dict[str, Counter[str]] = {}
    for split, rows in examined.items():
        told = (clip_of(one.path.name, config.class_names, several_folders=False) for one in rows)
        clips[split] = Counter(clip.removeprefix("clip ") for clip in told if clip)
    train = clips.get("train", Counter())
    for split, clip in ((split, clip) for split, own in clips.items() for clip in own if split != "train"):
        if train[clip] and CLIP.search(clip) and clip.lower() not in FRAME_WORDS:
            text = f"{clips[split][clip]} images are frames of {clip!r} by their names, and {train[clip]} of train"
            yield Finding("clip in two splits", split, "", f"{split}: {text}")


def _orphans(files: Mapping[str, SplitFiles], examined: Mapping[str, Sequence[Examined]]) -> Iterator[Finding]:
    """Find labels that belong to no image."""
    shared = {one.reader.path for one in files.values()}
    image_folders: dict[Path, set[Path]] = defaultdict(set)  # by folder of labels
    known = {one.labels for rows in examined.values() for one in rows}
    passed = known | {one.root / source for one in files.values() for source in one.sources}
    for one in itertools.chain.from_iterable(examined.values()):
        if one.labels not in shared:
            image_folders[one.labels.parent].add(one.path.parent)
    suffixes = {path.suffix for path in known}
    for folder, beside in image_folders.items():
        around = [path for place in beside for path in place.glob("*")]
        stems = {path.stem for path in around if path.suffix.lower() in image_suffixes() | KNOWN_IMAGES}
        labels = {path for path in folder.glob("*") if path.suffix in suffixes and path.name.lower() not in NO_LABELS}
        for path in sorted(labels - passed):
            if path.stem not in stems:
                text = f"{path}: no image of this name in {', '.join(map(str, sorted(beside)))}"
                yield Finding("orphaned labels", "", str(path), text)


def _remarks(files: Mapping[str, SplitFiles], examined: Mapping[str, Sequence[Examined]], split: str) -> list[Problem]:
    """What the reader remarks about the labels of a split; a file of several splits is asked about all their images."""
    reader = files[split].reader
    sharing = [other for other in files if reader.path and files[other].reader.path == reader.path] or [split]
    if sharing[0] != split:  # said with the first of them
        return []
    rows = [one for other in sharing for one in examined[other]]
    return reader.remarks([str(one.path) for one in rows], Labels.concat([one.read for one in rows]).hints)


def _of_split(split: str, index: DatasetIndex, data_file: str, longest: int, tile: int) -> Iterator[Finding]:
    if not len(index):
        yield _split_finding("no usable image", split, data_file, "has no usable image")
    elif not index.num_objects:
        yield _split_finding("no objects", split, data_file, f"has {len(index)} images but no object")
    elif split == "train":
        for name in (name for name, count in zip(index.names, index.counts, strict=True) if not count):
            yield _split_finding("class without objects", split, data_file, f"has no object of the class {name!r}")
    place = f"{longest} px{f' in windows of {tile} px' if tile else ''}"
    # Images with objects that training drops because of their size (``augment.worth_learning``).
    sides, owner = training_sizes(index, longest, tile), index.owner[~index.crowd]
    shortest, longer, num_objects = sides.min(axis=1), sides.max(axis=1), np.bincount(owner, minlength=len(index))
    small = shortest <= MIN_SIDE
    for kind, chosen, what in (
        ("too small", small, f"{MIN_SIDE:g} pixels or less wide or high at {place}"),
        ("too narrow", ~small & (longer >= MAX_ASPECT * shortest), f"one side {MAX_ASPECT:g} times the other"),
    ):
        dropped, found = sides[chosen], np.unique(owner[chosen], return_index=True, return_counts=True)
        for position, first, count in zip(*found, strict=True):
            path, (width, height) = index.path(position), dropped[first]
            text = f"{count} of {num_objects[position]} objects {what}, the first {width:.1f} x {height:.1f}"
            yield Finding(kind, split, path, f"{path}: {text}")


def _split_finding(kind: str, split: str, data_file: str, text: str) -> Finding:
    return Finding(kind, split, data_file, f"{data_file}: the split {split!r} {text}")
