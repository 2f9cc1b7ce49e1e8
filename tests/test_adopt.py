"""Laws of ``yolo-lite adopt``: an export trains as it is, nothing is guessed, and nothing is written into it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from exports import BUILDS, COLOURS, NAMES, Build, drawn, zipped

from yolo_lite import adopt
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex, index_split

IMAGES = drawn()


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path}{path.lstat().st_mtime_ns}".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def splits_of(file: Path) -> dict[str, DatasetIndex]:
    config = load_dataset_config(file)
    return {split: index_split(config, file, split) for split in config.splits}


def painted(pixels: np.ndarray, name: str) -> tuple[int, ...]:
    """The box xyxy of what has the colour of a class."""
    rows, columns = np.nonzero((np.abs(pixels.astype(int) - COLOURS[NAMES.index(name)]) < 30).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def check_pixels(index: DatasetIndex) -> None:
    """Every object lies where it was painted, and none is missing."""
    assert not index.problems
    for image in range(len(index)):
        pixels, (labels, boxes) = read_image(index.path(image)), index.objects(image)
        assert sorted(index.names[label] for label in labels) == sorted(NAMES)
        for label, box in zip(labels, boxes, strict=True):
            np.testing.assert_allclose(box, painted(pixels, index.names[label]), atol=0.02)


def check(file: Path, stated: tuple[str, ...]) -> None:
    """The adopted set has all images once, in the splits that were stated, with the right boxes."""
    splits = splits_of(file)
    assert set(splits) == {*stated, "val"}
    for index in splits.values():
        check_pixels(index)
    paths = [index.path(i) for index in splits.values() for i in range(len(index))]
    assert len(paths) == len(set(paths)) == len(IMAGES)
    if {"train", "val"} <= set(stated):
        assert len(splits["train"]) == 8
    listed = {f"{file.stem}.{split}.txt" for split in ("train", "val", "test")}
    assert {path.name for path in file.parent.iterdir()} - {file.stem} <= {file.name, *listed}


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("form", ["folder", "nested", "zip", "zip around"])
def test_every_layout_is_recognised_and_left_as_it_was(build: Build, form: str, tmp_path: Path) -> None:
    place = tmp_path / "export"
    build(place / "inner/pets" if form == "nested" else place, IMAGES)
    source = (
        place if form in ("folder", "nested") else zipped(place, tmp_path / "e.zip", "pets" if "around" in form else "")
    )
    before = tree_hash(source if source.is_dir() else tmp_path / "export")
    file = tmp_path / "out/mine.yaml"
    assert adopt(source=source, output=file) == file
    assert tree_hash(source if source.is_dir() else tmp_path / "export") == before
    check(file, BUILDS[build])
