"""The label formats, and which one a dataset has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import DataError
from yolo_lite.data.labels import LabelReader
from yolo_lite.data.readers.coco import CocoReader
from yolo_lite.data.readers.voc import VocReader
from yolo_lite.data.readers.yolo import YoloReader

FORMATS: dict[str, type[LabelReader]] = {"yolo": YoloReader, "voc": VocReader, "coco": CocoReader}
ASKED = 100  # first images whose label files are looked for


def label_reader(
    config: DatasetConfig, root: Path, split: str, images: Sequence[Path], data_file: str | Path
) -> LabelReader:
    """The reader of a split's labels, of the format that the dataset YAML states or else the one that is detected.

    Raises:
        DataError: what the key ``labels`` names is not there.
    """
    given = config.labels_of(split)
    place = root / Path(given).expanduser() if given else None
    if place and not place.exists():
        raise DataError(f"{data_file}: labels: no such folder or file: {place}")
    name = config.format or _detect_format(root, place, images)
    if place and place.is_dir() == (name == "coco"):
        expected = "an annotation file" if name == "coco" else "a folder"
        raise DataError(f"{data_file}: labels: expected {expected} for the format {name}, found {place}")
    return FORMATS[name](root, place, config.names)


def _detect_format(root: Path, place: Path | None, images: Sequence[Path]) -> str:
    """COCO if the labels are one file, VOC if they are XML files and none is YOLO's, else YOLO."""
    if place and place.is_file():
        return "coco"
    if place:
        has_yolo, has_voc = (any(place.rglob(f"*{kind.suffix}")) for kind in (YoloReader, VocReader))
    else:
        readers = (kind(root, None, ()) for kind in (YoloReader, VocReader))
        has_yolo, has_voc = (any(reader.file_of(image).exists() for image in images[:ASKED]) for reader in readers)
    return "voc" if has_voc and not has_yolo else "yolo"
