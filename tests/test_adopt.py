"""Laws of ``yolo-lite adopt``: an export trains as it is, nothing is guessed, and nothing is written into it."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import SHARED, rows_of
from exports import (
    BUILDS,
    COLOURS,
    NAMES,
    Build,
    Image,
    coco,
    cvat_ultralytics_alone,
    cvat_yolo,
    drawn,
    images_and_labels,
    label_studio_coco,
    label_studio_yolo,
    labelimg_voc,
    labelimg_yolo,
    roboflow_yolo,
    write,
    zipped,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from yolo_lite import adopt
from yolo_lite.cli.arguments import read_options
from yolo_lite.cli.main import main
from yolo_lite.cli.train import _restarted
from yolo_lite.config.errors import UserError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import TrainOptions
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.run_folder import mark_launchers
from yolo_lite.structures import Batch
from yolo_lite.tools.convert import convert
from yolo_lite.tools.export_tree import split_of, split_word
from yolo_lite.tools.layouts import READERS

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
    assert "mask" not in "".join(paths) and "trimap" not in "".join(paths)
    if {"train", "val"} <= set(stated):
        assert len(splits["train"]) == 8


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_every_layout_is_recognised_and_left_as_it_was(build: Build, tmp_path: Path) -> None:
    place = tmp_path / "export"
    build(place, IMAGES)
    build(tmp_path / "around/inner/pets", IMAGES)
    sources = [place, tmp_path / "around", zipped(place, tmp_path / "e.zip"), zipped(place, tmp_path / "f.zip", "pets")]
    before = [tree_hash(source) for source in sources]
    for number, source in enumerate(sources):
        file = tmp_path / f"out{number}/mine.yaml"
        assert adopt(source=source, output=file) == file
        check(file, BUILDS[build])
        listed = {f"{file.stem}.{split}.txt" for split in ("train", "val", "test")}
        assert {path.name for path in file.parent.iterdir()} - {file.stem} <= {file.name, *listed}
        assert (file.parent / file.stem).exists() == source.is_file()
    assert [tree_hash(source) for source in sources] == before


@settings(max_examples=40, deadline=None)
@given(
    outer=st.sampled_from(["", "pets", "a b/train_set_v2", "labels", "images"]),
    image_folder=st.sampled_from(["images", "Images", "img", "JPEGImages", "фото", "a.b"]),
    label_folder=st.sampled_from(["labels", "Labels", "annotations", "Annotations", "xmls", "разметка"]),
    splits=st.sampled_from([("",), ("train", "val"), ("Train", "Validation"), ("train2017", "val2017")]),
    is_split_first=st.booleans(),
    clips=st.sampled_from([("",), ("c1", "c2")]),
    kind=st.sampled_from(["yolo", "voc", "coco"]),
)
def test_labels_are_found_whatever_the_folders_are_called(
    outer: str,
    image_folder: str,
    label_folder: str,
    splits: tuple[str, ...],
    is_split_first: bool,
    clips: tuple[str, ...],
    kind: str,
) -> None:
    # What a dataset YAML cannot state: label folders of any name inside those of splits, with folders inside.
    is_twin = kind == "coco" or READERS[kind].twins.get(image_folder) == label_folder
    assume(is_twin or not (is_split_first and splits[0] and clips[0]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "set", outer)
        left = list(IMAGES)
        for split in splits:
            placed = []
            for clip, name in itertools.product(clips, ("000", "001", "002")):
                image = left.pop()
                parts = (split, image_folder) if is_split_first else (image_folder, split)
                image.save(root.joinpath(*parts, clip, name))
                placed.append(image._replace(name=Path(clip, name).as_posix()))
                if kind != "coco":
                    parts = (split, label_folder) if is_split_first else (label_folder, split)
                    image.written(kind, root.joinpath(*parts, clip, name))
            if kind == "coco":
                coco(root / label_folder / f"instances_{split or 'default'}.json", placed, lambda one: one.file)
        file = adopt(source=Path(folder, "set"), output=Path(folder, "mine.yaml"), names=NAMES)
        found = splits_of(file)
        assert set(found) == {"train", "val"}
        assert sum(map(len, found.values())) == len(IMAGES) - len(left)
        for index in found.values():
            check_pixels(index)


def test_an_unpacked_archive_can_be_moved_with_its_yaml(tmp_path: Path) -> None:
    labelimg_yolo(tmp_path / "export", IMAGES)
    adopt(source=zipped(tmp_path / "export", tmp_path / "e.zip"), output=tmp_path / "here/mine.yaml")
    shutil.rmtree(tmp_path / "export")
    shutil.move(tmp_path / "here", tmp_path / "there")
    check(tmp_path / "there/mine.yaml", ("train",))


def test_shares_and_seed_of_a_split_are_those_that_are_given(tmp_path: Path) -> None:
    labelimg_voc(tmp_path / "set", IMAGES)
    lists = []
    for number, seed in enumerate((1, 1, 2)):
        place = tmp_path / str(number) / "mine.yaml"
        words = ["--val", "0.25", "--test", "0.5", "--seed", str(seed)]
        assert (
            main(["adopt", str(tmp_path / "set"), "-o", str(place), "--names", "dog, cat", "traffic light", *words])
            == 0
        )
        assert {split: len(index) for split, index in splits_of(place).items()} == {"train": 3, "val": 3, "test": 6}
        assert load_dataset_config(place).names == ("dog", "cat", "traffic light")
        lists.append([place.with_name(f"mine.{split}.txt").read_text() for split in ("train", "val", "test")])
    assert lists[0] == lists[1] != lists[2]
    for shares in ({"val": 0.0}, {"val": 0.5, "test": 0.5}, {"val": 1.0}):
        with pytest.raises(UserError, match=r"--val .*: expected shares"):
            adopt(source=tmp_path / "set", output=tmp_path / "no.yaml", **shares)


# ------------------------------------------------------------------------------------------------------- never a guess


def refused(source: Path, **options: Any) -> str:
    """The message; nothing is left behind."""
    output = source.parent / "refused/mine.yaml"
    output.parent.mkdir(exist_ok=True)
    with pytest.raises(UserError) as caught:
        adopt(source=source, output=output, **options)
    assert not any(output.parent.iterdir())
    return str(caught.value)


def test_two_formats_that_fit_are_both_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    place = tmp_path / "export"
    for build in (labelimg_yolo, labelimg_voc, label_studio_coco):
        build(place, IMAGES)
    shutil.rmtree(place / "images")
    coco(place / "all.json", IMAGES, lambda one: one.file)
    (place / "result.json").unlink()
    message = refused(place)
    assert all(word in message for word in ("yolo (ape.txt)", "voc (ape.xml)", "coco (all.json)", "--format"))
    source = zipped(place, tmp_path / "e.zip")
    assert "--format" in (packed := refused(source)) and str(source) in packed
    for kind in ("yolo", "voc", "coco"):
        file = adopt(source=place, output=tmp_path / f"{kind}.yaml", format=kind)
        assert load_dataset_config(file).format == kind
        check(file, ("train",))


def test_yolo_labels_without_names_are_refused_and_take_them(tmp_path: Path) -> None:
    labelimg_yolo(tmp_path / "export", IMAGES)
    (tmp_path / "export/classes.txt").unlink()
    message = refused(tmp_path / "export")
    assert "--names" in message and "0, 1, 2" in message
    check(adopt(source=tmp_path / "export", output=tmp_path / "a.yaml", names=",".join(NAMES)), ("train",))


def test_files_that_name_the_classes_differently_are_both_named(tmp_path: Path) -> None:
    label_studio_yolo(tmp_path / "export", IMAGES)
    write(tmp_path / "export/classes.txt", "dog\ncat\ntraffic light\n")
    message = refused(tmp_path / "export")
    assert "classes.txt (dog, cat" in message and "notes.json (cat, dog" in message and "--names" in message
    write(tmp_path / "export/classes.txt", "cat\ndog\n")  # labelImg's before the third class was added
    check(adopt(source=tmp_path / "export", output=tmp_path / "a.yaml"), ("train",))


def test_several_sets_or_annotation_files_are_both_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        roboflow_yolo(tmp_path / "sets" / name, IMAGES)
    assert all(f"{name}/data.yaml" in refused(tmp_path / "sets") for name in ("one", "two"))
    label_studio_coco(tmp_path / "export", IMAGES)
    shutil.copy(tmp_path / "export/result.json", tmp_path / "export/result_old.json")
    message = refused(tmp_path / "export")
    assert "result.json" in message and "result_old.json" in message


def test_an_image_that_may_be_two_is_refused(tmp_path: Path) -> None:
    for place in ("clip1", "clip2"):
        for one in IMAGES:
            one.save(tmp_path / "export" / place / one.name)
    coco(tmp_path / "export/all.json", IMAGES, lambda one: one.file)
    message = refused(tmp_path / "export")
    assert "clip1/ape.png" in message and "clip2/ape.png" in message


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "found no image"),
        ({"a.txt": "0 .5 .5 .1 .1"}, "found no image"),
        ({"a.png": None}, "found 1 .png"),
        ({"a.png": None, "a.txt": "a photo of a cat"}, "1 .txt"),
        ({"a.png": None, "a.json": '{"shapes": []}'}, "1 .json"),
        ({"a.png": None, "a.xml": "<annotations/>"}, "1 .xml"),
        ({"a.png": None, "data.yaml": "names: [a\n"}, "data.yaml"),
        (
            {"a.png": None, "a.txt": "0 .5 .5 .1 .1", "classes.txt": "\udce9"},
            "classes.txt: expected a text file in UTF-8",
        ),
        (
            {"a.png": None, "x.json": '{"images": [{"file_name": "b.png"}], "annotations": [], "categories": []}'},
            "b.png",
        ),
        ({"a.png": None, "a.txt": "0 .5 .5 .1 .1", "classes.txt": "cat"}, "at least 2 images"),
    ],
)
def test_what_is_no_set_is_refused_with_what_was_found(
    files: dict[str, str | None], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "export").mkdir()
    for name, text in files.items():
        if text is None:
            IMAGES[0].save(tmp_path / "export" / name.removesuffix(".png"))
        else:
            write(tmp_path / "export" / name, text)
    assert expected in refused(tmp_path / "export")


def test_nothing_is_overwritten_or_written_into_the_set(tmp_path: Path) -> None:
    labelimg_yolo(tmp_path / "export", IMAGES)
    source = zipped(tmp_path / "export", tmp_path / "e.zip")
    with pytest.raises(UserError, match="outside the dataset"):
        adopt(source=tmp_path / "export", output=tmp_path / "export/mine.yaml")
    for taken in ("mine.yaml", "mine.val.txt", "mine/"):
        output = tmp_path / "out" / taken / "mine.yaml"
        write(output.parent / (taken if taken != "mine/" else "mine/a.txt"), "mine")
        with pytest.raises(UserError, match="exists"):
            adopt(source=source, output=output)
    with pytest.raises(UserError, match=r"\.yaml"):
        adopt(source=source, output=tmp_path / "mine.txt")
    for source, message in ((tmp_path / "nowhere", "no such"), (Path(__file__), "expected a folder, an archive")):
        with pytest.raises(UserError, match=message):
            adopt(source=source, output=tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("name", "of_file", "of_folder"),
    [
        ("train", "train", "train"),
        ("Validation", "val", "val"),
        ("obj_valid_data", "val", "val"),
        ("val2017", "val", "val"),
        ("images-test", "test", "test"),
        ("instances_val2017", "val", None),
        ("train_annotations.coco", "train", "train"),
        ("my_test_track", "test", None),
        ("train_or_test", None, None),
        ("trains", None, None),
    ],
)
def test_what_names_say_of_splits(name: str, of_file: str | None, of_folder: str | None) -> None:
    assert (split_word(name), split_of(f"images/{name}/a.jpg")) == (of_file, of_folder)


# ------------------------------------------------------------------------------------------------------- dataset YAMLs


def test_a_yaml_without_val_gets_one_and_keeps_its_other_keys(tmp_path: Path) -> None:
    cvat_ultralytics_alone(tmp_path / "set", IMAGES)
    keys = {"path": "./", "train": "images/train", "download": "https://example.org/x.zip", "channels": 3, "nc": 3}
    write(tmp_path / "set/data.yaml", yaml.safe_dump({**keys, "names": list(NAMES)}))
    with pytest.raises(UserError, match=r"yolo-lite adopt .*data\.yaml -o mine\.yaml makes one"):
        index_split(load_dataset_config(tmp_path / "set/data.yaml"), tmp_path / "set/data.yaml", "val")
    before = tree_hash(tmp_path / "set")
    file = adopt(source=tmp_path / "set/data.yaml", output=tmp_path / "mine.yaml", val=0.25)
    check(file, ("train",))
    assert len(splits_of(file)["val"]) == 3 and tree_hash(tmp_path / "set") == before
    assert yaml.safe_load(file.read_text())["channels"] == 3
    write(tmp_path / "pose.yaml", yaml.safe_dump({**keys, "path": "set", "kpt_shape": [17, 3], "names": list(NAMES)}))
    file = adopt(source=tmp_path / "pose.yaml", output=tmp_path / "out/pose.yaml")
    assert yaml.safe_load(file.read_text())["kpt_shape"] == [17, 3]


def test_a_yaml_that_leads_out_of_its_folder_is_followed(tmp_path: Path) -> None:
    labelimg_yolo(tmp_path / "images_of_mine", IMAGES)
    write(tmp_path / "configs/data.yaml", f"train: ../images_of_mine\nnames: {list(NAMES)}\n")
    check(adopt(source=tmp_path / "configs/data.yaml", output=tmp_path / "mine.yaml"), ("train",))
    for one in IMAGES[:3]:
        one.save(tmp_path / "configs/more" / one.name)
        one.yolo(tmp_path / "configs/more" / one.name)
    write(tmp_path / "configs/both.yaml", f"train: [../images_of_mine, more]\nnames: {list(NAMES)}\n")
    splits = splits_of(adopt(source=tmp_path / "configs/both.yaml", output=tmp_path / "both.yaml"))
    assert sum(map(len, splits.values())) == len(IMAGES) + 3
    write(tmp_path / "configs/data.yaml", f"train: ../nowhere\nnames: {list(NAMES)}\n")
    assert "nowhere" in refused(tmp_path / "configs/data.yaml")


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco"])
def test_our_own_yamls_are_read_as_they_stand(kind: str, tmp_path: Path) -> None:
    images_and_labels(tmp_path / "set", IMAGES)
    file = adopt(source=tmp_path / "set", output=tmp_path / "set.yaml")
    converted = convert(load_dataset_config(file), str(file), kind, tmp_path / kind)
    check(adopt(source=converted, output=tmp_path / "mine.yaml"), ("train", "val"))


def test_images_that_two_splits_share_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_studio_yolo(tmp_path / "set", IMAGES)
    write(tmp_path / "set/data.yaml", f"train: images\nval: images\nnames: {list(NAMES)}\n")
    adopt(source=tmp_path / "set", output=tmp_path / "mine.yaml")
    assert "12 images are in train and in val" in capsys.readouterr().out


def test_a_split_that_is_not_there_or_has_no_labels_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roboflow_yolo(tmp_path / "export", IMAGES)
    shutil.rmtree(tmp_path / "export/test")
    shutil.rmtree(tmp_path / "export/valid/labels")
    file = adopt(source=tmp_path / "export", output=tmp_path / "mine.yaml")
    said = capsys.readouterr().out
    assert "test: nothing is at ../test/images" in said and "left out: val, none of its 2 images has labels" in said
    assert {split: len(index) for split, index in splits_of(file).items()} == {"train": 6, "val": 2}


# ------------------------------------------------------------------------------------------------------- real sets


@functools.cache
def real_images(name: str) -> tuple[list[Image], dict[bytes, str]]:
    """Some images of a shared set, and their paths there by content."""
    file = SHARED / "data" / name / "data.yaml"
    index = index_split(load_dataset_config(file), file, "train")
    paths = [Path(index.path(i)) for i in range(6)]
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
@pytest.mark.parametrize(
    "name", ["bccd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("raccoon", "coco128"))]
)
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
    # What torchrun starts anew goes on in that folder; another run of the same torchrun does not.
    mark_launchers(folder, ["a"])
    options = read_options(
        TrainOptions, ["--data", str(source), "--epochs", "1", *flags(tmp_path / "runs")], "train.py"
    )
    assert _restarted(options, ["a"]).resume == str(folder)
    assert (other := options.model_copy(update={"seed": 1})) == _restarted(other, ["a"])
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
    assert not (tmp_path / "runs").exists()
    before = tree_hash(tmp_path / "export")
    assert main(["train", "--data", str(tmp_path / "export"), *flags(tmp_path / "export/runs")]) == 2
    assert "--project elsewhere" in capsys.readouterr().err and tree_hash(tmp_path / "export") == before


def test_a_command_that_needs_a_yaml_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelimg_yolo(tmp_path / "export", IMAGES)
    for source in (tmp_path / "export", zipped(tmp_path / "export", tmp_path / "e.zip")):
        assert main(["convert", "--data", str(source), "--to", "voc", "--out", str(tmp_path / "voc")]) == 2
        assert f"yolo-lite adopt {source} -o mine.yaml" in capsys.readouterr().err


def test_check_reads_an_export_and_prints_its_report_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_studio_coco(tmp_path / "export", IMAGES)
    source, before = zipped(tmp_path / "export", tmp_path / "e.zip"), tree_hash(tmp_path / "export")
    for data in (source, tmp_path / "export"):
        status = main(["check", "--data", str(data), "--json", "--project", str(tmp_path / "check")])
        assert status == 0 and json.loads(capsys.readouterr().out)["severities"].get("error", 0) == 0
    assert tree_hash(tmp_path / "export") == before
