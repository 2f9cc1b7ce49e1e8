"""Three formats, one dataset: what they say, how a format is told, and what their files may hold."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, tiny_config

from yolo_lite.cli.main import main
from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.dataset import EvaluationSet, TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.loader import evaluation_loader, training_loader
from yolo_lite.data.readers import FORMATS
from yolo_lite.data.readers.voc import EDGES
from yolo_lite.data.store import ImageStore
from yolo_lite.data.writers import WRITERS
from yolo_lite.tools.convert import convert

SHARED = REPOSITORY.parent / "shared" / "data"
NAMES = ("cat", "dog", "cow")


def make_image(path: Path, height: int = 60, width: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def index_of(root: Path, **keys: Any) -> DatasetIndex:
    config = DatasetConfig(**{"train": "images", "names": NAMES, **keys})
    return index_split(config, root / "data.yaml", "train", with_outlines=True)


def write_voc(path: Path, *objects: tuple[str, list[float], int], size: tuple[int, int] = (60, 80)) -> None:
    rows = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(EDGES, box, strict=True))
        + "</bndbox></object>"
        for name, box, difficult in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    path.write_text(f"<annotation>{sides}{rows}</annotation>")


def write_coco(path: Path, annotations: list[dict[str, Any]], **more: Any) -> None:
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 60, "width": 80}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [{"id": number, "image_id": 7, **row} for number, row in enumerate(annotations, 1)],
    }
    path.write_text(json.dumps({**content, **more}))


def filled(rings: list[np.ndarray]) -> np.ndarray:
    """The pixels of an object's parts."""
    mask = np.zeros((700, 700), np.uint8)
    for ring in rings:
        cv2.fillPoly(mask, [ring.round().astype(np.int32)], 1)
    return mask


# ----------------------------------------------------------------------------------------- the same in every format


@pytest.fixture(scope="module")
def in_three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The dataset YAMLs of one set with odd numbers in three formats, each made from the one before."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(6):
            height, width = rng.integers(40, 90, 2)
            make_image(root / f"images/{split}/{number}.png", height, width)
            corners = np.sort(rng.uniform(0, 1, (3, 2, 2)), axis=1)
            centre, size = corners.mean(axis=1), corners[:, 1] - corners[:, 0] + 0.02
            boxes = np.concatenate((centre, np.minimum(size, 2 * np.minimum(centre, 1 - centre))), axis=1)
            rows = [f"{rng.integers(3)} {' '.join(f'{value:.6f}' for value in box)}\n" for box in boxes]
            place = root / f"labels/{split}/{number}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(rows if number else []))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(NAMES)}\n")
    files = {"yolo": root / "data.yaml"}
    for before, after in (("yolo", "voc"), ("voc", "coco"), ("coco", "yolo2")):
        source = files[before]
        out = root.parent / f"{root.name}_{after}"
        files[after] = convert(load_dataset_config(source), str(source), after.rstrip("2"), out)
    return files


def both(files: dict[str, Path], other: str, split: str) -> list[DatasetIndex]:
    return [index_split(load_dataset_config(files[name]), files[name], split) for name in ("yolo", other)]


@pytest.mark.parametrize("other", ["voc", "coco", "yolo2"])
def test_a_set_is_the_same_to_the_bit_in_every_format(in_three: dict[str, Path], other: str) -> None:
    for split in ("train", "val"):
        first, second = both(in_three, other, split)
        assert not first.problems and not second.problems and first.num_objects > 10
        for field in ("paths", "size", "first", "label", "xyxy", "crowd"):
            np.testing.assert_array_equal(getattr(first, field), getattr(second, field), err_msg=field)
    stated = yaml.safe_load(in_three[other].read_text())
    assert stated["format"] == other.rstrip("2")


@pytest.mark.parametrize("other", ["voc", "coco"])
def test_batches_are_the_same_to_the_bit_in_every_format(in_three: dict[str, Path], other: str) -> None:
    first, second = both(in_three, other, "train")
    for augmented in (True, False):
        batches = []
        for index in (first, second):
            store = ImageStore(index, 64, "off", False)
            if augmented:
                training = TrainingSet(index, store, 64, Hyp(degrees=5.0, mixup=0.5), seed=0, mosaic_epochs=1)
                batches.append(list(training_loader(training, 4, 0, range(2), False)))
            else:
                batches.append(
                    list(
                        evaluation_loader(
                            EvaluationSet(index, store, functools.partial(canvas_size, stride=32)), 4, 0, False
                        )
                    )
                )
        for one, two in zip(*batches, strict=True):
            assert torch.equal(one.images, two.images) and all(map(torch.equal, one.objects[:3], two.objects[:3]))


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="needs ../shared/data/bccd")
@pytest.mark.parametrize("name", ["bccd", "raccoon"])
def test_a_real_set_has_the_same_boxes_in_yolo_and_voc(name: str) -> None:
    path = SHARED / name / "data.yaml"
    config = load_dataset_config(path)
    first, second = (index_split(config.model_copy(update={"format": f}), path, "val") for f in ("yolo", "voc"))
    np.testing.assert_array_equal(first.label, second.label)
    np.testing.assert_array_equal(first.xyxy, second.xyxy)  # fractions of six digits, pixels


@pytest.mark.skipif(not (SHARED / "coco128").is_dir(), reason="needs ../shared/data/coco128")
def test_coco128_has_the_same_boxes_in_yolo_and_coco(tmp_path: Path) -> None:
    path = SHARED / "coco128" / "data.yaml"
    config = load_dataset_config(path)
    of_json = config.model_copy(update={"labels": "instances_coco128.json"})
    yolo, coco = index_split(config, path, "val"), index_split(of_json, path, "val", with_outlines=True)
    assert (yolo.num_objects, coco.num_objects, int(coco.crowd.sum())) == (929, 929, 10)
    for position in range(len(yolo)):
        ours, theirs = (
            sorted((label, *box) for label, box in zip(*index.objects(position), strict=True)) for index in (yolo, coco)
        )
        assert ours == theirs
    assert coco.image_id[0] == 9 and coco.category_id[[0, 79]].tolist() == [1, 90]

    outlined = convert(of_json, str(path), "yolo", tmp_path / "out", polygons=True)
    again = index_split(load_dataset_config(outlined), outlined, "val", with_outlines=True)
    assert again.num_objects == 929 and again.outlines is not None and coco.outlines is not None
    for ours, theirs in list(zip(range(929), np.flatnonzero(~coco.crowd), strict=True))[::10]:
        [one], several = again.outlines.of(ours), coco.outlines.of(theirs)
        if len(several) == 1:  # drawn, the lines between several parts are a pixel wide
            np.testing.assert_array_equal(filled([one]), filled(several))


# ------------------------------------------------------------------------------------------------- which format


def test_formats_have_the_names_of_the_schema() -> None:
    assert set(FORMATS) == {*WRITERS, "masks"}  # which are written as COCO's file


@pytest.mark.parametrize("stated", [None, "voc"])
@pytest.mark.parametrize("folder", ["annotations", "elsewhere"])
def test_xml_files_are_found_and_told(tmp_path: Path, folder: str, stated: str | None) -> None:
    make_image(tmp_path / "images/a.png")
    write_voc(tmp_path / folder / "a.xml", ("dog", [10, 20, 30, 50], 0))
    labels = folder if folder == "elsewhere" else None
    index = index_of(tmp_path, labels=labels, format=stated)
    assert index.label.tolist() == [1] and index.xyxy.tolist() == [[10, 20, 30, 50]]


def test_yolo_labels_beside_xml_files_win_unless_the_format_is_stated(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    write_voc(tmp_path / "annotations/a.xml", ("dog", [10, 20, 30, 50], 0))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .5 .5\n")
    assert index_of(tmp_path).label.tolist() == [0]
    assert index_of(tmp_path, format="voc").label.tolist() == [1]


def test_each_split_may_have_labels_of_its_own(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    write_coco(tmp_path / "one.json", [{"category_id": 17, "bbox": [1, 2, 3, 4]}])
    write_coco(tmp_path / "two.json", [{"category_id": 18, "bbox": [1, 2, 3, 4]}])
    config = DatasetConfig(train="images", val="images", labels={"train": "one.json", "val": "two.json"}, names=NAMES)
    found = [index_split(config, tmp_path / "data.yaml", split).label.tolist() for split in ("train", "val")]
    assert found == [[0], [1]]


def test_ids_of_vocs_lists_are_pictures(tmp_path: Path) -> None:
    make_image(tmp_path / "VOC/JPEGImages/2007_000027.jpg")
    write_voc(tmp_path / "VOC/Annotations/2007_000027.xml", ("cow", [1, 2, 30, 40], 0))
    (tmp_path / "VOC/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "VOC/ImageSets/Main/train.txt").write_text("2007_000027\n")
    assert index_of(tmp_path, train="VOC/ImageSets/Main/train.txt").label.tolist() == [2]


# ---------------------------------------------------------------------------------------------- what files may hold


def test_difficult_objects_are_neither_learnt_nor_counted(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    write_voc(tmp_path / "annotations/a.xml", ("dog", [10, 20, 30, 50], 1), ("cat", [1, 2, 30, 50], 0))
    index = index_of(tmp_path)
    assert index.objects(0)[0].tolist() == [0] and index.counts.tolist() == [1, 0, 0]
    assert index.crowd.tolist() == [True, False] and "1 crowds or difficult" in index.describe()


def test_coco_says_crowd_area_outlines_and_ids(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    outline = [10, 20, 30, 20, 30, 50]
    rows: list[dict[str, Any]] = [
        {"category_id": 18, "bbox": [10, 20, 20, 30], "area": 300, "segmentation": [outline, [1, 2, 3, 4]]},
        {"category_id": 17, "bbox": [0, 0, 80, 60], "iscrowd": 1, "segmentation": {"counts": [4800], "size": [60, 80]}},
        {"category_id": 17, "bbox": [1.5, 2.25, 3, 4]},
    ]
    write_coco(tmp_path / "labels.json", rows)
    index = index_of(tmp_path, labels="labels.json")
    assert not index.problems and index.label.tolist() == [1, 0, 0] and index.crowd.tolist() == [False, True, False]
    assert index.area.tolist() == [300, 4800, 12] and index.xyxy[2].tolist() == [1.5, 2.25, 4.5, 6.25]
    assert index.outlines is not None
    assert [len(index.outlines.of(thing)) for thing in range(3)] == [1, 0, 0]  # two points are no outline
    assert index.outlines.of(0)[0].tolist() == [[10, 20], [30, 20], [30, 50]]
    assert index.image_id.tolist() == [7] and index.category_id.tolist() == [17, 18, 19]  # cow is not in the file
    assert index.rows(0).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"category_id": 5, "bbox": [1, 2, 3, 4]}, "expected a class of the dataset YAML, found 5"),
        ({"category_id": 17, "bbox": [1, 2, 3]}, "expected bbox"),
        ({"category_id": 17, "bbox": [1, 2, 3, "x"]}, "expected bbox"),
        ({"category_id": 17}, "expected bbox"),
        ({"category_id": 17, "bbox": [5, 2, -3, 4]}, "width and height above 0"),
        ({"category_id": 17, "bbox": [70, 2, 30, 4]}, "inside the 80 x 60 image"),
        ({"category_id": 17, "bbox": [float("nan"), 2, 30, 4]}, "finite"),
        ({"category_id": 17, "bbox": [10**400, 2, 3, 4]}, "expected bbox"),
        ({"category_id": 17, "bbox": [10**30, 2, 3, 4]}, "inside the 80 x 60 image"),
    ],
)
def test_a_bad_coco_annotation_is_left_out_and_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    make_image(tmp_path / "images/a.png")
    write_coco(tmp_path / "labels.json", [{"category_id": 17, "bbox": [1, 2, 3, 4]}, row])
    index = index_of(tmp_path, labels="labels.json")
    assert index.label.tolist() == [0] and len(index.problems) == 1
    assert index.problems[0].startswith(f"{tmp_path / 'labels.json'}: annotation 2: ") and reason in index.problems[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a JSON file"),
        ("[]", "expected a list 'images'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "a.png: not among the images"),
        ('{"images": [{"file_name": "a.png"}], "annotations": [], "categories": []}', r"images\[0\]: expected id"),
        ('{"images": [], "annotations": [3], "categories": []}', r"annotations\[0\]: expected .*found 3"),
        ('{"images": [], "annotations": [], "categories": [{"id": null, "name": "b"}]}', r"categories\[0\]"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": ""}]}', r"categories\[0\]"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": "1", "file_name": "b"}], "annotations": [], '
            '"categories": []}',
            r"2 of 1",
        ),
    ],
)
def test_a_json_file_of_another_form_is_an_error(tmp_path: Path, text: str, reason: str) -> None:
    make_image(tmp_path / "images/a.png")
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        index_of(tmp_path, labels="labels.json")


def test_pictures_that_do_not_fit_their_labels_are_left_out_and_named(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png", 80, 60)  # turned against what the files say
    make_image(tmp_path / "images/b.png")
    write_coco(tmp_path / "labels.json", [])
    with pytest.raises(DataError, match=r"no usable image(.|\n)*has it as 80 x 60(.|\n)*not among the images"):
        index_of(tmp_path, labels="labels.json")
    write_voc(tmp_path / "annotations/a.xml", ("dog", [10, 20, 30, 50], 0))
    write_voc(tmp_path / "annotations/b.xml", ("dog", [10, 20, 30, 50], 0), ("dgo", [1, 2, 3, 4], 0))
    index = index_of(tmp_path)
    assert len(index) == 1 and "a.xml has it as 80 x 60" in index.problems[0]
    assert "found 'dgo' (nearest: 'dog')" in index.problems[1]


@pytest.mark.parametrize("name", ["a.png", "images/a.png", "deep/images/a.png"])
def test_a_name_in_a_coco_file_is_the_end_of_a_path(tmp_path: Path, name: str) -> None:
    make_image(tmp_path / "deep/images/a.png")
    images = [{"id": 3, "file_name": name, "height": 60, "width": 80}, {"id": 4, "file_name": "s/a.png"}]
    write_coco(tmp_path / "labels.json", [{"image_id": 3, "category_id": 17, "bbox": [1, 2, 3, 4]}], images=images)
    assert index_of(tmp_path, train="deep/images", labels="labels.json").image_id.tolist() == [3]


# --------------------------------------------------------------------------------------------------- chosen classes


def test_a_subset_of_classes_is_counted_anew(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    rows = [{"category_id": 18, "bbox": [1, 2, 3, 4]}, {"category_id": 17, "bbox": [5, 6, 7, 8]}]
    write_coco(tmp_path / "labels.json", rows)
    index = index_of(tmp_path, labels="labels.json", classes=["cow", "dog"])
    assert index.names == ("cow", "dog") and index.label.tolist() == [1] and index.xyxy.tolist() == [[1, 2, 4, 6]]
    assert index.category_id.tolist() == [19, 18] and index.first.tolist() == [0, 1]
    one = index_of(tmp_path, labels="labels.json", single_cls=True)
    assert one.names == ("object",) and one.label.tolist() == [0, 0]
    with pytest.raises(ValueError, match="found 'cwo'"):
        index_of(tmp_path, classes=["cwo"])


def test_a_model_learns_the_chosen_classes(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path, "--set", "data.single_cls=true")
    assert config.model.nc == 1 and config.data.class_names == ("object",) and len(config.data.names) > 1


# ------------------------------------------------------------------------------------------------------- converting


def test_conversion_never_writes_into_the_dataset_or_over_anything(in_three: dict[str, Path], tmp_path: Path) -> None:
    source = in_three["yolo"]
    config = load_dataset_config(source)
    with pytest.raises(DataError, match="outside the dataset"):
        convert(config, str(source), "coco", source.parent / "coco")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    assert main(["convert", "--data", str(source), "--to", "voc", "--out", str(tmp_path / "full")]) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "a"]


def test_a_copy_with_pictures_stands_alone(in_three: dict[str, Path], tmp_path: Path) -> None:
    words = ["convert", "--data", str(in_three["voc"]), "--to", "coco", "--out", str(tmp_path / "new"), "--copy-images"]
    assert main(words) == 0
    (tmp_path / "new").rename(tmp_path / "moved")
    path = tmp_path / "moved/data.yaml"
    moved, first = index_split(load_dataset_config(path), path, "val"), both(in_three, "voc", "val")[0]
    np.testing.assert_array_equal(moved.xyxy, first.xyxy)
    assert str(tmp_path) in moved.path(0)


def test_two_pictures_of_one_name_cannot_share_a_label_file(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        make_image(tmp_path / "set/images" / name)
    (tmp_path / "set/labels").mkdir()
    (tmp_path / "set/labels/a.txt").write_text("0 .5 .5 .5 .5\n")
    config = DatasetConfig(path="set", train="images", names=NAMES)
    with pytest.raises(DataError, match="label file of two images"):
        convert(config, str(tmp_path / "data.yaml"), "voc", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_an_outline_of_several_parts_becomes_one_of_the_same_area(tmp_path: Path) -> None:
    make_image(tmp_path / "set/images/a.png")
    parts = [[10, 10, 20, 10, 20, 20, 10, 20], [40, 40, 60, 40, 60, 50, 40, 50], [70, 5, 75, 5, 75, 10, 70, 10]]
    write_coco(tmp_path / "set/labels.json", [{"category_id": 17, "bbox": [10, 5, 65, 45], "segmentation": parts}])
    config = DatasetConfig(path="set", train="images", labels="labels.json", names=NAMES)
    path = convert(config, str(tmp_path / "data.yaml"), "yolo", tmp_path / "out", polygons=True)
    index = index_split(load_dataset_config(path), path, "train", with_outlines=True)
    assert index.outlines is not None and index.xyxy.tolist() == [[10, 5, 75, 50]]
    [ring] = index.outlines.of(0)
    assert cv2.contourArea(ring) == pytest.approx(100 + 200 + 25, abs=0.1)
    with pytest.raises(ConfigError):
        index_split(config, tmp_path / "data.yaml", "val")
