"""Laws of ``yolo-lite adopt`` on folders that hold more, or less, than one export: nothing is left out in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from exports import NAMES, Image, coco, cvat_voc, drawn, labelimg_yolo, roboflow_yolo, write
from test_adopt import check_pixels, refused, splits_of

from yolo_lite import adopt
from yolo_lite.config.errors import DataError
from yolo_lite.config.load import load_dataset_config
from yolo_lite.tools.doctor import diagnose

IMAGES = drawn()
Capture = pytest.CaptureFixture[str]


def adopted(place: Path, capsys: Capture, is_complete: bool = True, **options: Any) -> tuple[int, str]:
    """Adopt a set beside its folder: how many images it has, each with its own labels, and what was said."""
    file = adopt(source=place, output=place.with_name("mine.yaml"), **options)
    splits = splits_of(file)
    if is_complete:
        for index in splits.values():
            check_pixels(index)
    return sum(map(len, splits.values())), capsys.readouterr().out


def in_val(root: Path) -> list[Image]:
    """Images 0, 1, ... in a folder val."""
    images = [one._replace(name=str(number)) for number, one in enumerate(IMAGES[6:])]
    for one in images:
        one.save(root / "val" / one.name)
    return images


@pytest.mark.parametrize("kind", ["yolo", "voc"])
@pytest.mark.parametrize("labels", ["labels/train", "txt/train", "lab_train", "labels"])
def test_no_image_takes_the_labels_of_another_split(kind: str, labels: str, tmp_path: Path, capsys: Capture) -> None:
    for number, one in enumerate(IMAGES[:6]):
        one.save(tmp_path / f"set/images/train/{number}")
        one.written(kind, tmp_path / f"set/{labels}/{number}")
    in_val(tmp_path / "set/images")
    if labels == "labels":  # of which split?
        message = refused(tmp_path / "set", names=NAMES)
        assert "the label file of two images" in message and "train/0.png" in message and "val/0.png" in message
    else:
        count, said = adopted(tmp_path / "set", capsys, names=NAMES)
        assert count == 6 and "left out: val, none of its 6 images has labels" in said


def test_a_label_file_of_two_splits_is_named(tmp_path: Path) -> None:
    for one, file, split in zip(IMAGES, ("a.png", "a.bmp"), ("train", "val"), strict=False):
        write(tmp_path / f"{split}.txt", f"images/{file}\n")
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / file).write_bytes(one.content)
    IMAGES[0].yolo(tmp_path / "labels/a")
    write(tmp_path / "data.yaml", f"train: train.txt\nval: val.txt\nnames: {list(NAMES)}\n")
    config = load_dataset_config(tmp_path / "data.yaml")
    with pytest.raises(DataError, match=r"labels/a\.txt: the label file of two images, .*a\.png and .*a\.bmp"):
        diagnose(config, str(tmp_path / "data.yaml"), 64)
    assert "labels/a.txt: the label file of two images" in refused(tmp_path / "data.yaml")


@pytest.mark.parametrize("is_same", [False, True], ids=["other names", "names of val"])
def test_an_annotation_file_whose_images_are_not_here_is_named(is_same: bool, tmp_path: Path, capsys: Capture) -> None:
    images = in_val(tmp_path / "set")
    coco(tmp_path / "set/val.json", images, lambda one: one.file)
    coco(tmp_path / "set/train.json", IMAGES[:6], lambda one: f"{IMAGES.index(one)}.png" if is_same else one.file)
    count, said = adopted(tmp_path / "set", capsys)
    assert "left out: train.json: 6 of 6 images it lists are not here, with 18 annotations" in said
    assert count == 6 and ("as images in folders of other splits are" in said) == is_same


def test_a_bare_name_means_no_image_of_another_split_but_a_path_does(tmp_path: Path, capsys: Capture) -> None:
    images = in_val(tmp_path / "set")
    coco(tmp_path / "set/train.json", images, lambda one: one.file)
    assert "6 of 6 images it lists are not here" in refused(tmp_path / "set")
    coco(tmp_path / "set/train.json", images, lambda one: f"val/{one.file}")
    assert adopted(tmp_path / "set", capsys)[0] == 6


def test_what_runs_wrote_and_copies_without_labels_are_left_out_and_named(tmp_path: Path, capsys: Capture) -> None:
    labelimg_yolo(tmp_path / "set/data", IMAGES)
    other = drawn(seed=1)
    for number, one in enumerate(IMAGES):
        other[number].save(tmp_path / f"set/runs/detect/exp/{one.name}")
        other[number].yolo(tmp_path / f"set/runs/detect/exp/labels/{one.name}")
        pixels = cv2.imdecode(np.frombuffer(one.content, np.uint8), cv2.IMREAD_COLOR)
        cv2.rectangle(pixels, (10, 10), (60, 60), (0, 255, 255), 2)
        (tmp_path / "set/seen").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"set/seen/{one.file}"), pixels)
    write(tmp_path / "set/runs/train/exp/data.yaml", "train: x\nval: x\nnames: [a]\n")
    count, said = adopted(tmp_path / "set", capsys)
    assert count == 12 and "left out: what runs wrote, 25 files" in said
    assert "left out: 12 copies or masks of other images: seen/ape.png" in said
    # Other images of the same names, such as frames of a clip without objects, are background.
    for one in IMAGES[:4]:
        other[IMAGES.index(one)].save(tmp_path / f"set/clip2/{one.name}")
    (tmp_path / "mine.yaml").unlink()
    for file in tmp_path.glob("mine.*.txt"):
        file.unlink()
    count, said = adopted(tmp_path / "set", capsys, is_complete=False)
    assert count == 16 and "4 of 16 images have no .txt file and count as background, the first: clip2/ape.png" in said


def test_images_that_become_background_in_the_chosen_format_are_counted(tmp_path: Path, capsys: Capture) -> None:
    labelimg_yolo(tmp_path / "set", IMAGES[:7])
    for one in IMAGES[7:]:
        one.save(tmp_path / "set" / one.name)
        one.voc(tmp_path / "set" / one.name)
    assert "--format" in refused(tmp_path / "set")
    said = adopted(tmp_path / "set", capsys, is_complete=False, format="yolo")[1]
    assert "5 of 12 images have no .txt file and count as background, the first: hen.png" in said


def test_dead_paths_of_two_splits_do_not_mean_one_folder(tmp_path: Path, capsys: Capture) -> None:
    for one in IMAGES:
        one.save(tmp_path / f"set/images/{one.name}")
        one.yolo(tmp_path / f"set/labels/{one.name}")
    for train in ("/content/my/train/images", "images"):
        text = f"train: {train}\nval: /content/my/valid/images\nnames: {list(NAMES)}\n"
        write(tmp_path / "set/data.yaml", text)
        for file in tmp_path.glob("mine*"):
            file.unlink()
        count, said = adopted(tmp_path / "set", capsys)
        assert count == 12 and "val: nothing is at content/my/valid/images; images is of train" in said


def test_classes_of_cvats_voc_have_the_order_of_its_labelmap(tmp_path: Path, capsys: Capture) -> None:
    cvat_voc(tmp_path / "set", IMAGES)
    write(
        tmp_path / "set/labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nowl:1,1,1::\ndog:2,2,2::\n"
    )
    adopted(tmp_path / "set", capsys)
    assert load_dataset_config(tmp_path / "mine.yaml").names == ("owl", "dog", "cat", "traffic light")


@pytest.mark.parametrize("file", ["names.txt", "classes.names"])
def test_files_of_class_names_have_several_names(file: str, tmp_path: Path, capsys: Capture) -> None:
    labelimg_yolo(tmp_path / "set", IMAGES)
    (tmp_path / "set/classes.txt").rename(tmp_path / "set" / file)
    assert adopted(tmp_path / "set", capsys)[0] == 12


def test_capital_suffixes_are_understood(tmp_path: Path, capsys: Capture) -> None:
    for one in IMAGES:
        one.save(tmp_path / f"set/{one.name}")
        one.voc(tmp_path / f"set/{one.name}")
    for path in sorted((tmp_path / "set").iterdir()):
        path.rename(path.with_suffix(path.suffix.upper()))
    assert adopted(tmp_path / "set", capsys)[0] == 12


def test_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    for one in IMAGES[:2]:
        one.save(tmp_path / f"set/images/{one.name}")
    for file, text in (
        ("a.json", "labelme"),
        ("table.csv", "table.csv is a table"),
        ("annotations.xml", "CVAT for images"),
    ):
        write(tmp_path / "set" / file, "{}")
        assert text in refused(tmp_path / "set")


def test_a_roboflow_yaml_means_the_images_beside_it(tmp_path: Path, capsys: Capture) -> None:
    roboflow_yolo(tmp_path / "sets/mine", IMAGES)
    roboflow_yolo(tmp_path / "sets", drawn(seed=1))  # another set, unpacked around it
    file = adopt(source=tmp_path / "sets/mine/data.yaml", output=tmp_path / "mine.yaml")
    paths = [index.path(i) for index in splits_of(file).values() for i in range(len(index))]
    assert len(paths) == 12 and all("/sets/mine/" in path for path in paths)


def test_adopt_says_what_training_will_read(tmp_path: Path, capsys: Capture) -> None:
    labelimg_yolo(tmp_path / "set", IMAGES)
    said = adopted(tmp_path / "set", capsys)[1]
    assert "train: 10 images" in said and ", 30 objects" in said and ", 6 objects" in said
    for file in (tmp_path / "set").glob("*.txt"):
        if file.name != "classes.txt":
            write(file, "0 40 30 20 10\n")  # pixels
    adopt(source=tmp_path / "set", output=tmp_path / "pixels.yaml")
    said = capsys.readouterr().out
    assert "error: " in said and "expected a box inside the 96 x 72 image" in said and "yolo-lite check --data" in said


def test_check_names_a_clip_of_two_splits(tmp_path: Path) -> None:
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        for number in numbers:
            for word in ("ride.mp4#t=", "frame_", "house_"):  # only the first one says that both are of one clip
                IMAGES[number].save(tmp_path / split / f"{word}{number}")
                IMAGES[number].yolo(tmp_path / split / f"{word}{number}")
    write(tmp_path / "data.yaml", f"train: train\nval: val\nnames: {list(NAMES)}\n")
    findings = diagnose(load_dataset_config(tmp_path / "data.yaml"), str(tmp_path / "data.yaml"), 64).findings
    (text,) = [one.text for one in findings if one.kind == "clip in two splits"]
    assert text == "val: 2 images are frames of 'ride.mp4#t=' by their names, and 4 of train"
