"""What may stand in a dataset YAML."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import PureWindowsPath
from typing import Annotated, Any, Literal

from annotated_types import Predicate
from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator

from yolo_lite.config.bounds import CLASSES, IMAGES, SOURCES, at_most, check_name
from yolo_lite.config.errors import nearest
from yolo_lite.config.seams import Section, chosen_from
from yolo_lite.config.types import APath, Channels, Classes, Count, Fraction, ImageSize, Listed, Seed, described, is_int


class Generate(Section):
    """A set that is drawn on first use instead of read: the embedded shapes."""

    kind: Literal["shapes"]
    train: Annotated[Count, Field(le=IMAGES)]
    val: Annotated[Count, Field(le=IMAGES)]
    image_size: ImageSize
    seed: Seed = 0
    holes: Fraction = 0.0  # of the circles and hearts, which then are rings and frames


def _stays_below(path: str) -> bool:
    folder = PureWindowsPath(path)  # which knows both slashes, and drives
    return not folder.anchor and ".." not in folder.parts


_ARCHIVE = r"^https?://\S+/[\w.-]+\.(zip|tar|tar\.gz|tgz)$"


class Archive(Section):
    """A file that ``yolo-lite download`` fetches and unpacks."""

    url: Annotated[str, Field(pattern=_ARCHIVE), described("http(s)://... of a .zip or .tar(.gz)")]
    size: Count  # bytes
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$"), described("64 digits 0-9a-f")]
    into: Annotated[str, Predicate(_stays_below), described("a folder below the set's")] = "."  # unpacked there


# YOLOv5 files carry an address or a script here: it is accepted, and neither fetched nor executed.
Archives = Annotated[Listed[Archive], BeforeValidator(lambda value: () if isinstance(value, str | None) else value)]


class SuggestedFlags(Section):
    """What ``train.py`` uses where its flags are not given."""

    epochs: Count | None = None
    imgsz: Count | None = None
    batch_size: Count | None = None


def _names_to_tuple(names: Any) -> Any:
    if names == ():  # the default
        return names
    if isinstance(names, dict):
        names = {int(key) if isinstance(key, str) and key.isdecimal() else key: name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            raise ValueError(f"expected the keys 0..{len(names) - 1}, found {list(names)[:10]}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(f"expected a list of class names or a mapping 0..n-1 to names, found {names!r:.80}")
    if len(names) > CLASSES:
        raise ValueError(f"expected at most {CLASSES:,} names, found {len(names):,}")
    names = tuple(str(name) if is_int(name) else name for name in names)
    names = tuple(unicodedata.normalize("NFC", name.strip()) if isinstance(name, str) else name for name in names)
    for name in names:
        if isinstance(name, str):
            check_name(name)
    if twice := sorted(name for name, count in Counter(map(str, names)).items() if count > 1):
        raise ValueError(f"expected each name once, found more of {', '.join(twice)}")
    return names


def _sources_to_list(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value  # None: "test:", nothing behind it


Sources = Annotated[
    Listed[APath],
    at_most(SOURCES, "paths, more stand in a list file"),
    BeforeValidator(_sources_to_list),
    described("a path or a list of paths"),
]


Split = Literal["train", "val", "test"]
Labels = Annotated[APath | dict[Split, APath] | None, described("a path, or one for each of train, val, test")]


class DatasetConfig(Section):
    """A dataset YAML. Relative paths start at ``path``, and ``path`` at the YAML file's folder.

    Imported weights know the names alone.
    """

    path: APath = "."
    train: Sources = ()
    val: Sources = ()
    test: Sources = ()
    # Folder of label files where the images -> labels rule does not fit, or COCO's file; of all splits or of each.
    labels: Labels = None
    format: Annotated[str, chosen_from("FORMATS")] | None = None  # else it is found out
    # What rows of more than 5 columns are in YOLO's label files; else it is found out from all rows of a split.
    labels_are: Literal["box", "polygon", "obb", "pose"] | None = None
    # Keypoints of a pose row and numbers of each: rows are then "pose", of which the box is used.
    kpt_shape: Annotated[tuple[Count, Annotated[int, Field(ge=2, le=3)]], Strict(False)] | None = None
    # Left out where the label files have them (COCO, VOC): ``data.index.load_dataset`` fills it in.
    names: Annotated[tuple[str, ...], BeforeValidator(_names_to_tuple)] = ()
    nc: Classes | None = None
    channels: Channels = 3  # of the images: 1 is grey, 3 is RGB, others as the files have them
    # What a white pixel has in 16-bit images, as its number of bits or itself; else 65535.
    bits: Annotated[int, Field(ge=8, le=16)] | None = None
    max_value: Annotated[int, Field(ge=1, le=65535)] | None = None
    classes: Listed[str] | None = None  # only these, by name
    single_cls: bool = False  # all objects are of one class
    download: Archives = ()
    generate: Generate | None = None
    suggested: SuggestedFlags = SuggestedFlags()

    @field_validator("nc")
    @classmethod
    def _counts_the_names(cls, nc: int | None, info: ValidationInfo) -> int | None:
        names = info.data.get("names")
        if nc is not None and names and nc != len(names):
            raise ValueError(f"expected {len(names)}, the number of names, found {nc}; the key may be left out")
        return nc

    @field_validator("classes")
    @classmethod
    def _are_among_the_names(cls, classes: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        names = info.data.get("names", ())
        if classes is not None and names and (unknown := [name for name in classes if name not in names]):
            raise ValueError(f"expected names of classes, found {unknown[0]!r}{nearest(unknown[0], names)}")
        if classes is not None and not 0 < len(classes) == len(set(classes)):
            raise ValueError("expected one name or more, each once")
        return classes

    @field_validator("max_value")
    @classmethod
    def _is_stated_once(cls, max_value: int | None, info: ValidationInfo) -> int | None:
        if max_value is not None and info.data.get("bits") is not None:
            raise ValueError(f"expected bits or max_value, found both, {info.data['bits']} and {max_value}")
        return max_value

    @property
    def white(self) -> int:
        """The value of a white pixel in 16-bit images."""
        return self.max_value or 2 ** (self.bits or 16) - 1

    @property
    def row_kind(self) -> str | None:
        """What rows of more than 5 columns are, where it is stated."""
        return self.labels_are or ("pose" if self.kpt_shape else None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that a model learns."""
        wanted = self.classes or self.names
        return (wanted[0] if len(wanted) == 1 else "object",) if self.single_cls else wanted

    @property
    def splits(self) -> list[str]:
        """Which of train, val and test there are."""
        drawn = ("train", "val") if self.generate else ()
        return [split for split in ("train", "val", "test") if split in drawn or getattr(self, split)]

    def labels_of(self, split: str) -> str | None:
        """The folder or file of a split's labels, if it is given."""
        labels: Any = self.labels
        return labels.get(split) if isinstance(labels, dict) else labels
