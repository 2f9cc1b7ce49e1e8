"""Laws of reading labels in all three formats: boxes are their own image's, and every row is accounted for."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.names import load_dataset
from yolo_lite.data.readers.coco import plain_id
from yolo_lite.data.readers.voc import EDGES
from yolo_lite.tools.doctor import SEVERITY

SHARED = REPOSITORY.parent / "shared" / "data"
NAMES = ("cat", "dog")
HEIGHT, WIDTH = 48, 64
Box = tuple[int, int, int, int]  # xyxy in pixels
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FORMATS = pytest.mark.parametrize("form", ["yolo", "voc", "coco"])
BOXES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(4, 30), st.integers(4, 25)).map(
        lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
    ),
    min_size=1,
    max_size=4,
    unique=True,
)


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder with a cache of its own."""
    before = os.environ.get("YOLO_LITE_CACHE")
    place = Path(tempfile.mkdtemp())
    os.environ["YOLO_LITE_CACHE"] = str(place / "cache")
    try:
        yield place
    finally:
        shutil.rmtree(place)
        os.environ.pop("YOLO_LITE_CACHE")
        if before is not None:
            os.environ["YOLO_LITE_CACHE"] = before


class Drawn(NamedTuple):
    """An image that is drawn: its path below ``images`` and its boxes, all of class 1."""

    name: str
    boxes: list[Box]
    file_name: str = ""  # in a COCO file, where it is another


def paint(path: Path, boxes: list[Box]) -> None:
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def voc_text(boxes: list[Box], size: tuple[int, int] = (HEIGHT, WIDTH), names: list[str] | None = None) -> str:
    rows = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(EDGES, box, strict=True))
        + "</bndbox></object>"
        for name, box in zip(names or ["dog"] * len(boxes), boxes, strict=True)
    )
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{rows}</annotation>"


def yolo_row(box: Box, label: Any = 1) -> str:
    x1, y1, x2, y2 = box
    return f"{label} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}"


def coco_rows(boxes: list[Box], image_id: Any) -> list[dict[str, Any]]:
    return [{"image_id": image_id, "category_id": 7, "bbox": [x1, y1, x2 - x1, y2 - y1]} for x1, y1, x2, y2 in boxes]


def write_set(root: Path, form: str, drawn: list[Drawn], flat: bool = False, beside: bool = False) -> dict[str, Any]:
    """Draw a set and write its labels; returns the keys of its dataset YAML."""
    images, annotations = [], []
    for number, one in enumerate(drawn):
        paint(root / "images" / one.name, one.boxes)
        below = Path("images" if beside else "labels") / (Path(one.name).name if flat else one.name)
        if form == "coco":
            images.append({"id": number, "file_name": one.file_name or one.name, "height": HEIGHT, "width": WIDTH})
            annotations += coco_rows(one.boxes, number)
            continue
        path = (root / below).with_suffix(".txt" if form == "yolo" else ".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(yolo_row, one.boxes)) if form == "yolo" else voc_text(one.boxes))
    if form == "coco":
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "dog"}]}
        (root / "labels.json").write_text(json.dumps(content))
        return {"labels": "labels.json"}
    return {} if beside else {"labels": "labels"}


def read(root: Path, **keys: Any) -> DatasetIndex:
    return index_split(DatasetConfig(**{"train": "images", "names": NAMES, **keys}), root / "data.yaml", "train")


def boxes_of(index: DatasetIndex) -> dict[str, list[Box]]:
    """The boxes of each image by its path below ``images``."""
    return {
        index.path(i).partition("/images/")[2]: [tuple(map(int, box)) for box in index.objects(i)[1].round()]
        for i in range(len(index))
    }


# --------------------------------------------------------------------- 1: a pairing is one to one, or both are named


@FORMATS
@FEW
@example(names=[("clip1/clip2/", "a"), ("clip1/", "a")], bare=True, beside=False, unlabelled=1)
@given(
    names=st.lists(
        st.tuples(st.sampled_from(["", "clip1/", "clip2/", "clip1/clip2/"]), st.sampled_from("ab")),
        min_size=1,
        unique=True,
    ),
    bare=st.booleans(),
    beside=st.booleans(),
    unlabelled=st.integers(0, 3),
)
def test_an_image_gets_its_own_boxes_or_none_or_the_set_is_refused(
    form: str, names: list[tuple[str, str]], bare: bool, beside: bool, unlabelled: int
) -> None:
    """Whatever folders images lie in, and whether labels name the folders or not."""
    stems = [name for _, name in names]
    # A label file of a bare name belongs to an image without folder: the law cannot hold where it is another's.
    assume(not bare or len(set(stems)) == len(stems) or all(place for place, _ in names))
    drawn = [
        Drawn(f"{place}{name}.png", [(number, number, number + 20, number + 20)], f"{name}.png" if bare else "")
        for number, (place, name) in enumerate(names)
    ]
    with folder() as root:
        keys = write_set(root, form, drawn[: max(1, len(drawn) - unlabelled)], flat=bare and not beside, beside=beside)
        for one in drawn[1:][-unlabelled:] if unlabelled else []:
            paint(root / "images" / one.name, one.boxes)
        own = {one.name: one.boxes for one in drawn}
        try:
            found = boxes_of(read(root, **keys))
        except DataError as error:
            assert bare and len(set(stems)) < len(stems), error  # only names without folders are ever ambiguous
            assert "could be" in str(error) or "label file of two images" in str(error), error
            return
        assert all(boxes in ([], own[name]) for name, boxes in found.items())
        if not bare:
            assert sum(map(bool, found.values())) == max(1, len(drawn) - unlabelled)


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_two_images_that_claim_one_label_file_are_named(form: str) -> None:
    with folder() as root:
        write_set(root, form, [Drawn("a.png", [(1, 2, 20, 30)])])
        paint(root / "images/a.jpg", [])
        with pytest.raises(DataError, match=r"label file of two images, .*images/a\.jpg and .*images/a\.png"):
            read(root, labels="labels")


@FORMATS
def test_one_place_of_labels_for_two_splits_is_paired_over_both(form: str) -> None:
    """A flat folder, or one file of bare names, cannot tell images/train/a.png from images/val/a.png."""
    with folder() as root:
        drawn = [Drawn(f"{split}/a.png", [(1, 2, 20, 30)], "a.png") for split in ("train", "val")]
        keys = write_set(root, form, drawn[:1], flat=True)
        paint(root / "images/val/a.png", [])
        config = DatasetConfig(train="images/train", val="images/val", names=NAMES, **keys)
        with pytest.raises(DataError, match=r"images/train/a\.png (and|or) .*images/val/a\.png"):
            index_split(config, root / "data.yaml", "train")


# ----------------------------------------------------- 2: what a row is follows from all rows of a split, or is asked


def rows_of(kind: str, boxes: list[Box], rng: np.random.Generator) -> list[str]:
    """Rows of a kind whose boxes are these."""
    rows = []
    for x1, y1, x2, y2 in boxes:
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=float)
        if kind == "polygon":  # a point on each side of the box
            along = rng.uniform(0.1, 0.9, (4, 1))
            corners = corners + along * (np.roll(corners, -1, axis=0) - corners)
        if kind.startswith("pose"):
            points = np.array([x1, y1]) + rng.uniform(0, 1, (5, 2)) * np.array([x2 - x1, y2 - y1])
            numbers = points / (WIDTH, HEIGHT)
            numbers = np.c_[numbers, rng.integers(1, 3, 5)] if kind == "pose3" else numbers
            rows.append(f"{yolo_row((x1, y1, x2, y2))} {' '.join(map(str, numbers.ravel()))}")
        else:
            rows.append("1 " + " ".join(map(str, (corners / (WIDTH, HEIGHT)).ravel())))
    return rows


@pytest.mark.parametrize("kind", ["polygon", "obb", "pose2", "pose3"])
@FEW
@given(boxes=st.lists(BOXES, min_size=1, max_size=5), seed=st.integers(0, 99), stated=st.booleans())
def test_rows_of_more_columns_give_their_boxes_or_are_asked_for(
    kind: str, boxes: list[list[Box]], seed: int, stated: bool
) -> None:
    rng = np.random.default_rng(seed)
    with folder() as root:
        for number, own in enumerate(boxes):
            paint(root / f"images/{number}.png", own)
            (root / "labels").mkdir(exist_ok=True)
            (root / f"labels/{number}.txt").write_text("\n".join(rows_of(kind, own, rng)))
        try:
            index = read(root, **({"labels_are": kind.rstrip("23")} if stated else {}))
        except DataError as error:
            assert not stated and "labels_are: polygon, or obb, or pose" in str(error)
            return
        if kind != "polygon":
            assert boxes_of(index) == {f"{number}.png": own for number, own in enumerate(boxes)}
            assert len(index.remarks) == 1
        assert not index.left_out


# -------------------------------------------------------------- 3: rows in the files = objects + rows left out, by name

GOOD, BAD_CLASS, BAD_NUMBER, OUTSIDE, EMPTY, TWICE = range(6)
FATES = st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=4)


def write_rows(root: Path, form: str, fates: list[list[int]]) -> tuple[dict[str, Any], int]:
    """A set with rows of these fates; returns the keys of its YAML and how many rows its files have."""
    edges = {OUTSIDE: (50, 1, 90, 20), EMPTY: (5, 5, 5, 9), TWICE: (1, 1, 20, 20)}
    images, annotations, count = [], [], 0
    for number, own in enumerate([[GOOD], *fates]):
        boxes: list[Any] = [edges.get(fate, (1 + row, 2, 30 + row, 40)) for row, fate in enumerate(own)]
        names = ["bird" if fate == BAD_CLASS else "dog" for fate in own]
        wrong = {row for row, fate in enumerate(own) if fate == BAD_NUMBER}
        paint(root / f"images/{number}.png", [])
        (root / "labels").mkdir(exist_ok=True)
        count += len(own)
        if form == "coco":
            images.append({"id": number, "file_name": f"{number}.png"})
            rows = coco_rows(boxes, number)
            for row, one in enumerate(rows):
                one |= {"category_id": 3} if names[row] == "bird" else {"bbox": "x"} if row in wrong else {}
            annotations += rows
        elif form == "yolo":
            lines = [yolo_row(box, 5 if name == "bird" else 1) for box, name in zip(boxes, names, strict=True)]
            lines = ["x y z" if row in wrong else line for row, line in enumerate(lines)]
            (root / f"labels/{number}.txt").write_text("\n\n".join(lines))
        else:
            boxes = [("x", *box[1:]) if row in wrong else box for row, box in enumerate(boxes)]
            (root / f"labels/{number}.xml").write_text(voc_text(boxes, names=names))
    if form != "coco":
        return {}, count
    strays = coco_rows([(1, 2, 3, 4)], 999)
    content = {"images": images, "annotations": annotations + strays, "categories": [{"id": 7, "name": "dog"}]}
    (root / "labels.json").write_text(json.dumps(content))
    return {"labels": "labels.json"}, count + 1


@FORMATS
@FEW
@given(fates=FATES, broken=st.integers(0, 3))
def test_every_row_is_an_object_or_left_out_for_a_named_reason(form: str, fates: list[list[int]], broken: int) -> None:
    with folder() as root:
        keys, count = write_rows(root, form, fates)
        keys |= {"labels": "labels"} if form == "voc" else {}
        for number in range(1, broken + 1):  # images that cannot be read take their rows with them
            if (path := root / f"images/{number}.png").exists():
                path.write_bytes(b"no image")
        index = read(root, **keys)
        reasons = dict(index.left_out)
        assert len(index.label) + sum(reasons.values()) == count
        assert set(reasons) <= set(SEVERITY) and f"{count} rows in the label files = " in index.describe()
        kept = [own for number, own in enumerate([[GOOD], *fates]) if number == 0 or number > broken]
        assert reasons.get("unknown class", 0) == sum(own.count(BAD_CLASS) for own in kept)
        assert reasons.get("outside the image", 0) == sum(own.count(OUTSIDE) for own in kept)
        chosen = read(root, **keys, classes=("cat", "dog"))
        assert chosen.left_out == index.left_out


@pytest.mark.parametrize(
    ("value", "meant"),
    [(1, 1), (1.0, 1), ("1", 1), (" 12 ", 12), ("a1", "a1"), (1.5, None), (None, None), (math.nan, None)],
)
def test_an_id_is_read_for_what_it_means(value: Any, meant: Any) -> None:
    assert plain_id(value) == meant


IDS = st.sampled_from([int, float, str])
JUNK = st.sampled_from(
    [None, "", "x", [], {}, -5, 0, math.nan, math.inf, [[1]], [1, 2, 3], [["a", "b"]], 10**400, [None]]
)


@FEW
@given(spell=st.lists(IDS, min_size=4, max_size=4), junk=st.lists(JUNK, min_size=3, max_size=3), boxes=BOXES)
def test_an_odd_optional_field_costs_that_field_alone(spell: list[Any], junk: list[Any], boxes: list[Box]) -> None:
    """Ids in any spelling; odd outlines, areas and sizes; crowds as text."""
    with folder() as root:
        paint(root / "images/a.png", boxes)
        image, of_image, category, of_category = spell
        rows = coco_rows(boxes, of_image(3))
        for row in rows:
            row |= {"category_id": of_category(7), "segmentation": junk[0], "area": junk[1], "iscrowd": "0"}
        content = {
            "images": [{"id": image(3), "file_name": "a.png", "height": None, "width": 0 if junk[2] is None else "?"}],
            "annotations": [*rows, {**rows[0], "iscrowd": "1"}],
            "categories": [{"id": category(7), "name": "dog"}],
        }
        (root / "labels.json").write_text(json.dumps(content))
        index = read(root, labels="labels.json")
        assert boxes_of(index) == {"a.png": boxes} and int(index.crowd.sum()) == 1
        sides = index.xyxy[:, 2:] - index.xyxy[:, :2]
        assert not index.left_out
        np.testing.assert_array_equal(index.area, sides.prod(axis=1))


# ------------------------------------------------------------------------------- 5: sides that EXIF has swapped since


@pytest.mark.parametrize("form", ["voc", "coco"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@FEW
@given(boxes=BOXES, of_stored=st.booleans())
def test_boxes_of_a_turned_image_are_those_painted_or_the_image_is_named(
    form: str, orientation: int, boxes: list[Box], of_stored: bool
) -> None:
    with folder() as root:
        image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            image[y1:y2, x1:x2] = 60 + 40 * number
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        (root / "images").mkdir()
        Image.fromarray(image).save(root / "images/a.png", exif=exif)
        turned = [turn(box, orientation) for box in boxes]
        stated = boxes if of_stored else turned
        if form == "coco":
            size = {"height": HEIGHT, "width": WIDTH}
            rows = coco_rows(stated, 1)
            content = {"images": [{"id": 1, "file_name": "a.png", **size}], "annotations": rows}
            (root / "labels.json").write_text(json.dumps(content | {"categories": [{"id": 7, "name": "dog"}]}))
        else:
            (root / "images/a.xml").write_text(voc_text(stated))
        try:
            index = read(root, **({"labels": "labels.json"} if form == "coco" else {}))
        except DataError as error:
            assert "EXIF" in str(error)
            return
        assert index.size.tolist() == [[WIDTH, HEIGHT]]
        assert sorted(boxes_of(index)["a.png"]) == sorted(turned)


def turn(box: Box, orientation: int) -> Box:
    """The slow reference: paint the box alone, let Pillow turn the image, measure."""
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 1
    ways = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE}
    ways |= {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM}
    rows, columns = np.nonzero(
        np.asarray(Image.fromarray(image).transpose(ways.get(orientation, Image.Transpose.ROTATE_90)))
    )
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# ------------------------------------------------------------------------------------ 6: what teaches nothing, and why


@FEW
@given(crowds=st.integers(0, 6), objects=st.integers(1, 6))
def test_many_crowds_are_said_and_few_are_not(crowds: int, objects: int) -> None:
    with folder() as root:
        boxes = [(number, 0, number + 20, 20) for number in range(crowds + objects)]
        paint(root / "images/a.png", [])
        rows = coco_rows(boxes, 1)
        for row in rows[:crowds]:
            row["iscrowd"] = 1
        content = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": rows,
            "categories": [{"id": 7, "name": "dog"}],
        }
        (root / "labels.json").write_text(json.dumps(content))
        said = [line for line in read(root, labels="labels.json").remarks if "teach nothing" in line]
        assert len(said) == (4 * crowds > crowds + objects)


@FORMATS
@pytest.mark.parametrize(("images", "labels"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_normal_form_are_the_same_names(form: str, images: str, labels: str) -> None:
    """As macOS writes them: é as one letter, or as e and an accent."""
    name, class_name = (unicodedata.normalize(images, text) for text in ("été.png", "crème"))
    other, other_class = (unicodedata.normalize(labels, text) for text in ("été.png", "crème"))
    with folder() as root:
        paint(root / "images" / name, [(1, 2, 20, 30)])
        (root / "labels").mkdir()
        if form == "coco":
            content = {"images": [{"id": 1, "file_name": other}], "categories": [{"id": 7, "name": other_class}]}
            (root / "labels.json").write_text(json.dumps(content | {"annotations": coco_rows([(1, 2, 20, 30)], 1)}))
        elif form == "voc":
            text = voc_text([(1, 2, 20, 30)], names=[other_class])
            (root / "labels" / other).with_suffix(".xml").write_text(text)
        else:
            (root / "labels" / other).with_suffix(".txt").write_text(yolo_row((1, 2, 20, 30)))
        keys = {"labels": "labels.json" if form == "coco" else "labels"}
        index = read(root, names=("cat", class_name), **keys)
        assert index.label.tolist() == [1] and not index.left_out


# ----------------------------------------------------------------------------------------------------------- the rest


def test_classes_in_another_order_beside_yolo_labels_are_named() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        (root / "labels/classes.txt").write_text("dog\ncat\n")
        [line] = read(root).remarks
        assert "classes.txt: the classes are in another order than names: 'dog' is 0 there and 1 in the dataset" in line
        (root / "labels/classes.txt").write_text("cat\ndog\nbird\n")
        assert not read(root).remarks


def test_names_come_from_the_label_files_where_the_yaml_has_none() -> None:
    with folder() as root:
        paint(root / "images/train/a.png", [])
        paint(root / "images/val/b.png", [])
        for name, kind in (("train/a", "dog"), ("val/b", "ant")):
            (root / "labels" / name).parent.mkdir(parents=True)
            (root / "labels" / f"{name}.xml").write_text(voc_text([(1, 2, 20, 30)], names=[kind]))
        yaml = root / "data.yaml"
        yaml.write_text("train: images/train\nval: images/val\nlabels: labels\n")
        config = load_dataset(yaml)
        assert config.names == ("dog", "ant") and index_split(config, yaml, "val").label.tolist() == [1]
        assert load_dataset(yaml, names=("ant", "dog")).names == ("ant", "dog")
        for path in root.rglob("*.xml"):
            path.unlink()
            path.with_suffix(".txt").write_text(yolo_row((1, 2, 20, 30)))
        with pytest.raises(ConfigError, match="the key 'names' is missing"):
            load_dataset(yaml)


CATEGORIES = [("animal", "none"), ("cat", "animal"), ("animal", "animal"), ("owl", "animal")]


@pytest.mark.parametrize(
    ("used", "categories", "names"),
    [
        ([2], CATEGORIES, ["cat", "animal", "owl"]),  # a parent with the name of a class takes no index, nor its class
        ([0, 1], CATEGORIES, ["animal", "cat", "owl"]),  # used: it is a class, and the other of its name is the same
        ([0], [("person", "person"), ("car", "vehicle"), ("bus", "vehicle")], ["person", "car", "bus"]),  # COCO's own
        ([1], [("a", None), ("b", None), ("c", None)], ["a", "b", "c"]),
        ([1], [("a", "none"), ("b", "none")], ["a", "b"]),  # unused, but nothing has it as its parent
        ([1], [("things", ""), ("b", "things")], ["b"]),
    ],
)
def test_the_unused_parent_of_a_coco_file_is_no_class(used: list[int], categories: list[Any], names: list[str]) -> None:
    with folder() as root:
        paint(root / "images/a.png", [])
        rows = [{"image_id": 1, "category_id": number, "bbox": [1 + number, 2, 20, 30]} for number in used]
        listed = [{"id": number, "name": name, "supercategory": of} for number, (name, of) in enumerate(categories)]
        content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": rows, "categories": listed}
        (root / "labels.json").write_text(json.dumps(content))
        (root / "data.yaml").write_text("train: images\nlabels: labels.json\n")
        config = load_dataset(root / "data.yaml")
        index = index_split(config, root / "data.yaml", "train")
        assert list(config.names) == names
        assert [names[label] for label in index.label] == [categories[number][0] for number in used]
        assert index.category_id[index.label].tolist() == used


@pytest.mark.skipif(not (SHARED / "facade").is_dir(), reason="needs ../shared/data/facade")
def test_an_exported_file_with_a_parent_of_the_name_of_a_class_needs_no_names() -> None:
    stated = load_dataset(SHARED / "facade/data.yaml")
    with folder() as root:
        text = (SHARED / "facade/data.yaml").read_text().partition("names:")[0]
        (root / "data.yaml").write_text(f"path: {SHARED / 'facade'}\n{text}")
        config = load_dataset(root / "data.yaml")
        assert config.names == stated.names
        index = index_split(config, root / "data.yaml", "train")
        assert not index.left_out and index.num_objects == 5892


EXTRAS = {  # what other programs write behind a box
    "confidence and track": lambda rng: [rng.uniform(0.3, 1), rng.integers(2)],
    "track and confidence": lambda rng: [rng.integers(2), rng.uniform(0.3, 1)],
    "probabilities of classes": lambda rng: rng.dirichlet([1] * 4).tolist(),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_numbers_behind_a_box_are_no_points(extra: str) -> None:
    rng = np.random.default_rng(0)
    with folder() as root:
        (root / "labels").mkdir()
        for number in range(4):
            boxes = [(number, 2, 20 + number, 30), (10, 3 + number, 44, 40)]
            paint(root / f"images/{number}.png", boxes)
            rows = [" ".join(map(str, (yolo_row(box), *EXTRAS[extra](rng)))) for box in boxes]
            (root / f"labels/{number}.txt").write_text("\n".join(rows))
        with pytest.raises(DataError, match=r"8 begin with a box; say what they are: labels_are"):
            read(root)


def test_keypoints_may_have_a_confidence_and_rows_of_another_number_are_asked_about() -> None:
    rng = np.random.default_rng(0)
    with folder() as root:
        (root / "labels").mkdir()
        boxes = [(x, y, x + 20, y + 25) for x in (0, 20, 40) for y in (0, 20)]
        paint(root / "images/a.png", boxes)
        points = [np.c_[rng.uniform(box[:2], box[2:], (5, 2)) / (WIDTH, HEIGHT), rng.uniform(size=5)] for box in boxes]
        rows = [f"{yolo_row(box)} {' '.join(map(str, own.ravel()))}" for box, own in zip(boxes, points, strict=True)]
        (root / "labels/a.txt").write_text("\n".join(rows))
        assert boxes_of(read(root)) == {"a.png": boxes}
        (root / "labels/a.txt").write_text("\n".join((*rows, rows[0] + " 0.1 0.1 1")))
        with pytest.raises(DataError, match="say what they are"):
            read(root)
        [reason] = read(root, kpt_shape=(5, 3)).left_out
        assert reason == ("wrong columns", 1)


@pytest.mark.parametrize(
    ("image", "label"),
    [("images/a.png", "Labels/a.txt"), ("Images/A.PNG", "labels/a.TXT"), ("IMAGES/x/a.png", "LABELS/X/A.txt")],
)
def test_the_case_of_names_does_not_matter(image: str, label: str) -> None:
    """Windows and macOS write any case for one file."""
    with folder() as root:
        paint(root / image, [(1, 2, 20, 30)])
        (root / label).parent.mkdir(parents=True)
        (root / label).write_text(yolo_row((1, 2, 20, 30)))
        assert len(read(root, train=image.partition("/")[0]).label) == 1


def test_a_text_beside_an_image_that_has_no_rows_is_no_label_file() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        (root / "images/a.txt").write_text("a photo of a dog")
        assert boxes_of(read(root)) == {"a.png": [(1, 2, 20, 30)]}
        (root / "images/a.txt").write_text(yolo_row((1, 2, 20, 30)) + "\r\n")
        assert boxes_of(read(root)) == {"a.png": [(1, 2, 20, 30)]}


def test_what_systems_leave_behind_is_no_image() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        for name in (
            ".ipynb_checkpoints/a-checkpoint.png",
            "__MACOSX/a.png",
            "@eaDir/a.png",
            "._a.png",
            ".thumbs/a.png",
        ):
            paint(root / "images" / name, [])
        index = read(root)
        assert len(index) == 1 and not index.remarks and not index.problems
        paint(root / "images/.mine/b.png", [])
        paint(root / "images/.c.png", [])
        [line] = read(root).remarks
        assert line.startswith("2 hidden images are not read: ") and ".mine/b.png" in line


@pytest.mark.parametrize(
    "name",
    ["/data/set/images/{}", "C:\\set\\images\\{}", "https://host/a%20set/{}?x=1", "..\\..\\up\\{}", "//server/share/{}"]
    + ["./{}", "images/../images/{}", "{} "],
)
def test_paths_of_another_machine_are_understood(name: str) -> None:
    drawn = [
        Drawn(f"{letter}.png", [(k, 2, 20 + k, 30)], name.format(f"{letter}.png")) for k, letter in enumerate("ab")
    ]
    with folder() as root:
        keys = write_set(root, "coco", drawn)
        assert boxes_of(read(root, **keys)) == {one.name: one.boxes for one in drawn}


def test_a_folder_of_another_machine_tells_images_apart_and_a_bare_name_is_said() -> None:
    drawn = [Drawn(f"clip{k}/a.png", [(k, 2, 20 + k, 30)], f"/data/clips/clip{k}/a.png") for k in (1, 2)]
    with folder() as root:
        keys = write_set(root, "coco", drawn[:1])
        paint(root / "images" / drawn[1].name, drawn[1].boxes)
        index = read(root, **keys)
        assert boxes_of(index) == {drawn[0].name: drawn[0].boxes} and not index.remarks
        assert "clip2/a.png: not among the images" in index.problems[0]
        shutil.rmtree(root / "images/clip1")
        [line] = read(root, **keys).remarks
        assert "1 images are paired by their bare names" in line and "clip1/a.png' with" in line


def test_the_outline_tells_a_box_that_is_not_given() -> None:
    with folder() as root:
        paint(root / "images/a.png", [])
        ring = [[1, 2, 20, 2, 20, 30, 1, 30]]
        rows = [{"image_id": 1, "category_id": 7, "segmentation": ring, **box} for box in ({}, {"bbox": []})]
        rows.append({"image_id": 1, "category_id": 7, "segmentation": ring, "bbox": [0, 0, 0, 0]})
        content = {"images": [{"id": 1, "file_name": "a.png"}] * 2, "annotations": rows}
        content |= {"categories": [{"id": 7, "name": "dog"}] * 2}  # rows that are there twice are the same rows
        (root / "labels.json").write_text(json.dumps(content))
        index = read(root, labels="labels.json")
        assert boxes_of(index) == {"a.png": [(1, 2, 20, 30)]} and dict(index.left_out) == {"repeated object": 2}


def test_an_xml_file_that_names_another_image_is_said_and_one_of_no_image_is_not() -> None:
    with folder() as root:
        for name, stated in (("a", "b.jpg"), ("b", "b.png"), ("c", "gone.png")):
            paint(root / f"images/{name}.png", [(1, 2, 20, 30)])
            text = voc_text([(1, 2, 20, 30)]).replace("<size>", f"<filename>{stated}</filename><size>")
            (root / f"images/{name}.xml").write_text(text)
        [line] = read(root).remarks
        assert (
            line.startswith("1 XML files state the filename of another image, the first: that of") and "a.png" in line
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<annotation>", '<annotation xmlns="http://host/voc">'),
        lambda text: text.replace("object>", "Object>").replace("bndbox>", "BndBox>"),
        lambda text: "\n" + '<?xml version="1.0"?>' + text.replace("<size>", "<filename>a & b.jpg</filename><size>"),
        lambda text: (
            '<?xml version="1.0" encoding="gbk"?>' + text.replace("<size>", "<folder>\u56fe</folder><size>")
        ).encode("gbk"),
    ],
)
def test_an_xml_file_is_read_as_programs_write_it(change: Any) -> None:
    with folder() as root:
        paint(root / "images/a.png", [(1, 2, 20, 30)])
        text = change(voc_text([(1, 2, 20, 30)]))
        (root / "images/a.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
        assert boxes_of(read(root)) == {"a.png": [(1, 2, 20, 30)]}
        (root / "images/a.xml").write_text("<html><object/></html>")
        with pytest.raises(DataError, match="expected <annotation>, found <html>"):
            read(root)


def test_fractions_where_pixels_are_expected_are_named() -> None:
    with folder() as root:
        paint(root / "images/a.png", [])
        rows = [{"image_id": 1, "category_id": 7, "bbox": [0.1, 0.2, 0.3, 0.4]}]
        content = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": rows,
            "categories": [{"id": 7, "name": "dog"}],
        }
        (root / "labels.json").write_text(json.dumps(content))
        [line] = read(root, labels="labels.json").remarks
        assert line == "1 of 1 boxes lie within one pixel: expected pixels, found fractions of the image"


def test_an_image_that_comes_later_changes_whose_record_it_is() -> None:
    with folder() as root:
        keys = write_set(
            root, "coco", [Drawn("clip1/a.png", [(1, 2, 20, 30)], "a.png"), Drawn("b.png", [(3, 4, 30, 40)])]
        )
        assert boxes_of(read(root, **keys))["clip1/a.png"] == [(1, 2, 20, 30)]
        paint(root / "images/a.png", [(1, 2, 20, 30)])
        index = read(root, **keys)
        assert boxes_of(index) == {"a.png": [(1, 2, 20, 30)], "b.png": [(3, 4, 30, 40)]}
        assert "clip1/a.png: not among the images" in index.problems[0]


def test_label_files_of_no_image_are_said_where_images_have_none() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn(f"{letter}.png", [(1, 2, 20, 30)]) for letter in "abcdef"])
        (root / "labels/a.txt").rename(root / "labels/a (1).txt")
        (root / "labels/classes.txt").write_text("cat\ndog\n")
        [line] = read(root).remarks
        assert line.startswith("1 .txt files beside the labels belong to no image, and 1 images have none: ")
        assert "a (1).txt" in line and "images/a.png" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.json", '{"categories": [{"id": 1, "name": "Cat"}, {"id": 0, "name": "Dog"}]}'),
        ("obj.names", "Dog\nCat\n"),
        ("labels.txt", "DOG\nCAT\n"),
    ],
)
def test_every_exporters_list_of_names_is_compared_whatever_its_case(name: str, text: str) -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        (root / name).write_text(text)
        [line] = read(root).remarks
        assert f"{name}: the classes are in another order than names: 'dog' is 0 there and 1 in" in line


def test_a_file_that_holds_an_image_is_named_whatever_its_suffix() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        for name in ("b.part", "c.crdownload", "d.img"):
            paint(root / "images/x.jpg", [])
            (root / "images/x.jpg").rename(root / "images" / name)
        (root / "images/e.part").write_text("no image")
        [line] = read(root).remarks
        assert line.startswith("look like images, but are not read: 1 .crdownload, 1 .img, 1 .part: ")


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_where_boxes_are_of_stored_images_those_of_every_orientation_are(orientation: int) -> None:
    """Those of an orientation that keeps the size too, whose own size tells nothing."""
    with folder() as root:
        (root / "images").mkdir()
        box = (40, 2, 60, 20)
        for name, way in (("a", 6), ("b", orientation)):  # a: the box fits the stored image alone
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = way
            Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / f"images/{name}.png", exif=exif)
            (root / f"images/{name}.xml").write_text(voc_text([box]))
        found = boxes_of(index := read(root))
        assert found == {"a.png": [turn(box, 6)], "b.png": [turn(box, orientation)]}
        assert "boxes are read as those of the stored image" in index.remarks[0]


def test_a_few_bright_images_do_not_hide_dark_ones() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn(f"{k}.png", [(1, 2, 20, 30)]) for k in range(4)])
        for k in range(4):
            cv2.imwrite(str(root / f"images/{k}.png"), np.full((HEIGHT, WIDTH), 4000 if k else 65000, np.uint16))
        [line] = read(root).remarks
        assert "3 of 4 16-bit images that were looked at have values up to 4000" in line and "bits: 12" in line


def test_a_yaml_may_call_the_split_valid_and_number_classes_by_text() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        (root / "data.yaml").write_text("train: images\nvalid: images\nnames: {'0': cat, '1': ' dog '}\n")
        config = load_dataset(root / "data.yaml")
        assert config.names == ("cat", "dog") and len(index_split(config, root / "data.yaml", "val")) == 1


@pytest.mark.parametrize("beside", ["classes.txt", "readme.txt", "a.txt"])
def test_text_beside_xml_files_does_not_make_them_yolos(beside: str) -> None:
    with folder() as root:
        keys = write_set(root, "voc", [Drawn(f"{letter}.png", [(1, 2, 20, 30)]) for letter in "ab"])
        (root / "labels" / beside).write_text("a photo of a dog")
        assert len(read(root, **keys).label) == 2


@pytest.mark.parametrize("labels", [{}, {"labels": "labels"}])
def test_images_of_two_splits_that_claim_one_label_file_are_named(labels: dict[str, str]) -> None:
    """Such as pairs of colour and thermal images."""
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        paint(root / "images/a.jpg", [])
        config = DatasetConfig(train="images/*.png", val="images/*.jpg", names=NAMES, **labels)
        for split in ("train", "val"):
            with pytest.raises(DataError, match=r"label file of two images, .*a\.(jpg|png) and .*a\.(jpg|png)"):
                index_split(config, root / "data.yaml", split)


def test_copies_that_ultralytics_keeps_are_no_images() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        np.save(root / "images/a.npy", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        index = read(root)
        assert len(index) == 1 and index.remarks[0].startswith("1 .npy files are copies of the images beside them")


def test_an_id_of_two_images_is_refused() -> None:
    with folder() as root:
        for name in ("a.jpg", "a.png"):
            paint(root / "JPEGImages" / name, [])
        (root / "ImageSets/Main").mkdir(parents=True)
        (root / "ImageSets/Main/train.txt").write_text("a\n")
        with pytest.raises(DataError, match=r"the id 'a' could mean .*a\.jpg or .*a\.png"):
            read(root, train="ImageSets/Main/train.txt")


def test_the_source_of_an_export_that_lies_beside_another_is_asked_about() -> None:
    with folder() as root:
        for place in ("train", "mine/train"):
            paint(root / place / "images/a.png", [(1, 2, 20, 30)])
            (root / place / "labels").mkdir()
            (root / place / "labels/a.txt").write_text(yolo_row((1, 2, 20, 30)))
        config = DatasetConfig(train="../train/images", names=NAMES)
        with pytest.raises(DataError, match=r"\.\./train/images; it could be .*train/images or .*mine/train/images"):
            index_split(config, root / "mine/data.yaml", "train")


def test_a_narrow_band_of_16_bits_is_said() -> None:
    with folder() as root:
        write_set(root, "yolo", [Drawn("a.png", [(1, 2, 20, 30)])])
        thermal = np.linspace(21000, 23500, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
        cv2.imwrite(str(root / "images/a.png"), thermal)
        [line] = read(root).remarks
        assert "values in a narrow band (21000 to 23500)" in line


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_a_box_with_a_rotation_becomes_the_upright_box_around_it(form: str) -> None:
    """CVAT states the box before it is turned about its centre."""
    with folder() as root:
        paint(root / "images/a.png", [])
        if form == "coco":
            row = {"image_id": 1, "category_id": 7, "bbox": [20, 20, 20, 10], "attributes": {"rotation": 90.0}}
            content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [row]}
            (root / "labels.json").write_text(json.dumps(content | {"categories": [{"id": 7, "name": "dog"}]}))
        else:
            turned = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes></object>"
            (root / "images/a.xml").write_text(voc_text([(20, 20, 40, 30)]).replace("</object>", turned))
        assert boxes_of(read(root, **({"labels": "labels.json"} if form == "coco" else {}))) == {
            "a.png": [(25, 15, 35, 35)]
        }


@pytest.mark.parametrize("stated", ["/data/set/{}", "D:\\set\\{}", "https://host/set/{}", "../../set/{}", "{}"])
def test_one_folder_stands_for_another_in_all_pairs(stated: str) -> None:
    """An image that lies elsewhere is none of the file's, though it has the name of several of them."""
    places = [f"clip{k}/{letter}.png" for k in (1, 2, 3) for letter in "ab"]
    drawn = [Drawn(place, [(k, 2, 20 + k, 30)], stated.format(place)) for k, place in enumerate(places)]
    with folder() as root:
        keys = write_set(root, "coco", drawn)
        for name in ("clip4/a.png", "a.png", "day/clip1/b.png"):
            paint(root / "images" / name, [])
        index = read(root, **keys)
        assert boxes_of(index) == {one.name: one.boxes for one in drawn}
        assert len(index.problems) == 3 and all("not among the images" in problem for problem in index.problems)


def test_any_folder_of_images_may_be_the_one_that_has_a_twin() -> None:
    with folder() as root:
        paint(root / "images/train/images/a.png", [(1, 2, 20, 30)])
        for place in ("labels/train/images", "images/train/labels"):
            (root / place).mkdir(parents=True)
            (root / place / "a.txt").write_text(yolo_row((1, 2, 20, 30)))
            assert len(read(root).label) == 1
            (root / place / "a.txt").unlink()
