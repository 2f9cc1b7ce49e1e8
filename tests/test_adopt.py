"""Laws of ``yolo-lite adopt``: an export trains as it is, nothing is guessed, and nothing is written into it."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, rows_of
from exports import BUILDS, COLOURS, NAMES, Build, Image, cvat_yolo, drawn, label_studio_coco, write, zipped

from yolo_lite import adopt
from yolo_lite.cli.main import main
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.structures import Batch

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
    listed = {f"{file.stem}.{split}.txt" for split in ("train", "val", "test")}
    assert {path.name for path in file.parent.iterdir()} - {file.stem} <= {file.name, *listed}


# ------------------------------------------------------------------------------------------------------- real sets


@functools.cache
def real_images(name: str) -> tuple[list[Image], dict[bytes, str]]:
    """Some images of a shared set, and their paths there by content."""
    file = SHARED / "data" / name / "data.yaml"
    index = index_split(load_dataset_config(file), file, "train")
    paths = [Path(index.path(i)) for i in range(9)]
    images = []
    for i, path in enumerate(paths):
        objects = [(int(label), tuple(box)) for label, box in zip(*index.objects(i), strict=True)]
        size = (int(index.size[i, 0]), int(index.size[i, 1]))
        images.append(Image(path.stem, index.names, path.read_bytes(), path.suffix, size, objects))
    return images, {path.read_bytes(): str(path) for path in paths}


def first_batches(index: DatasetIndex) -> list[Batch]:
    training = TrainingSet(index, ImageStore(index, 64, "off", False), 64, Hyp(), seed=0, mosaic_epochs=1)
    return list(training_loader(training, 4, 0, range(1), False))


@pytest.mark.skipif(not (SHARED / "data/bccd").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("name", ["bccd", "raccoon", "coco128"])
def test_a_real_set_gives_the_same_batches_in_every_layout(name: str, build: Build, tmp_path: Path) -> None:
    images, originals = real_images(name)
    build(tmp_path / "export", images)
    file = adopt(source=tmp_path / "export", output=tmp_path / "mine.yaml", names=images[0].names)
    for split, index in splits_of(file).items():
        paths = [originals[Path(index.path(i)).read_bytes()] for i in range(len(index))]
        write(tmp_path / "original.txt", "".join(f"{path}\n" for path in paths))
        config = load_dataset_config(SHARED / "data" / name / "data.yaml")
        config = config.model_copy(update={"train": (str(tmp_path / "original.txt"),)})
        original = index_split(config, SHARED / "data" / name / "data.yaml", "train")
        for field in ("size", "first", "label", "xyxy", "area", "crowd"):
            np.testing.assert_array_equal(getattr(index, field), getattr(original, field), err_msg=f"{split} {field}")
        for one, two in zip(first_batches(index), first_batches(original), strict=True):
            assert torch.equal(one.images, two.images) and all(map(torch.equal, one.objects[:3], two.objects[:3]))


# ------------------------------------------------------------------------------------------------------- on the fly


def flags(project: Path) -> list[str]:
    small = [
        "--cfg",
        "yolo_n",
        "--imgsz",
        "64",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--no-figures",
    ]
    return [*small, "--project", str(project)]


def test_train_takes_an_export_and_goes_on_with_it(tmp_path: Path) -> None:
    cvat_yolo(tmp_path / "export", IMAGES)
    source = zipped(tmp_path / "export", tmp_path / "e.zip")
    shutil.rmtree(tmp_path / "export")
    assert main(["train", "--data", str(source), "--epochs", "1", *flags(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs/exp"
    check(folder / "data.yaml", ("train",))
    source.unlink()
    assert main(["train", "--resume", str(folder), "--epochs", "2", "--device", "cpu", "--workers", "0"]) == 0
    assert len(rows_of(folder)) == 2
    assert (
        main(
            [
                "val",
                "--weights",
                str(folder / "weights/best.pt"),
                "--data",
                str(folder / "data"),
                "--workers",
                "0",
                "--project",
                str(tmp_path / "val"),
            ]
        )
        == 0
    )


def test_a_run_whose_data_are_not_understood_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    IMAGES[0].save(tmp_path / "export/a.png")
    assert main(["train", "--data", str(tmp_path / "export"), *flags(tmp_path / "runs")]) == 2
    assert "expected images with labels" in capsys.readouterr().err
    assert not (tmp_path / "runs/exp").exists()


def test_check_reads_an_export_and_prints_its_report_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_studio_coco(tmp_path / "export", IMAGES)
    source, before = zipped(tmp_path / "export", tmp_path / "e.zip"), tree_hash(tmp_path / "export")
    for data in (source, tmp_path / "export"):
        status = main(["check", "--data", str(data), "--json", "--project", str(tmp_path / "check")])
        assert status == 0 and json.loads(capsys.readouterr().out)["severities"].get("error", 0) == 0
    assert tree_hash(tmp_path / "export") == before
