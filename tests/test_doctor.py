"""Laws of the dataset doctor: what was planted is found, nothing else is, and nothing is changed."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, SHARED
from PIL import Image

from yolo_lite.cli.main import main
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.index import index_split
from yolo_lite.report.dataset_image import DatasetShape, dataset_image
from yolo_lite.tools import doctor
from yolo_lite.tools.doctor import SEVERITY, Finding, diagnose

FILES = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
BOX = "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.25 0.5\n"


def noise(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (48, 64, channels), dtype=np.uint8).squeeze()


def save(path: Path, pixels: np.ndarray | Image.Image, labels: str | None = BOX, **options: Any) -> Path:
    """An image, by Pillow where it is Pillow's, and its labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, Image.Image):
        pixels.save(path, **options)
    else:
        assert cv2.imwrite(str(path), pixels)
    if labels is not None:
        text = Path(str(path).replace("images", "labels")).with_suffix(".txt")
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(labels)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sound images to train with, one to validate."""
    for seed, name in enumerate(("train/a", "train/b", "val/c")):
        save(tmp_path / f"set/images/{name}.png", noise(seed))
    yaml = "path: set\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
    (tmp_path / "data.yaml").write_text(yaml)
    return tmp_path


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second: only the tests of the image do it."""
    monkeypatch.setattr("yolo_lite.tools.doctor_report.dataset_image", lambda shape: np.zeros((9, 9, 3), np.uint8))


def findings_of(root: Path, *overrides: str, longest: int = 64, tile: int = 0) -> list[Finding]:
    path = root / "data.yaml"
    return diagnose(load_dataset_config(path, overrides), str(path), longest, tile).findings


def kinds_of(root: Path, *overrides: str) -> set[tuple[str, str]]:
    found = [(one.kind, Path(one.path).name) for one in findings_of(root, *overrides)]
    assert len(set(found)) == len(found)
    return set(found)


def check(root: Path, *words: str) -> int:
    return main(["check", "--data", str(root / "data.yaml"), *FILES, "--project", str(root / "runs"), *words])


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------------------- what is found


def test_nothing_is_found_in_a_sound_set(root: Path):
    assert findings_of(root) == []


def test_each_peculiarity_of_a_picture_is_noted_once(root: Path):
    train = root / "set/images/train"
    turned = Image.Exif()
    turned[0x0112] = 6
    save(train / "turned.jpg", Image.fromarray(noise(10)), exif=turned)
    save(train / "deep.png", noise(11).astype(np.uint16) * 257)
    save(train / "deep_grey.png", noise(12, 1).astype(np.uint16) * 257)
    save(train / "palette.png", Image.fromarray(noise(13)).convert("P"))
    save(train / "grey.png", noise(14, 1))
    save(train / "alpha.png", noise(15, 4))
    save(train / "print.jpg", Image.fromarray(noise(16)).convert("CMYK"))
    save(train / "really.jpg", Image.fromarray(noise(17)), format="PNG")
    save(train / "stereo.mpo", Image.fromarray(noise(18)))  # nothing odd
    assert kinds_of(root) == {
        ("rotated by EXIF", "turned.jpg"),
        ("16-bit", "deep.png"),
        ("16-bit", "deep_grey.png"),
        ("palette", "palette.png"),
        ("grey", "grey.png"),
        ("alpha", "alpha.png"),
        ("CMYK", "print.jpg"),
        ("wrong extension", "really.jpg"),
    }
    assert {one.severity for one in findings_of(root)} == {"note"}


def test_a_copy_across_train_is_a_leak_and_any_other_a_duplicate(root: Path):
    images = root / "set/images"
    for source, place in (("train/a", "val/x"), ("train/b", "train/y"), ("val/c", "test/z"), ("train/a", "test/x")):
        save(images / f"{place}.png", noise(0))
        shutil.copyfile(images / f"{source}.png", images / f"{place}.png")
    found = {(one.kind, one.split, Path(one.path).name) for one in findings_of(root, "data.test=images/test")}
    assert found == {
        ("leak", "val", "x.png"),
        ("leak", "test", "x.png"),
        ("duplicate image", "train", "y.png"),
        ("duplicate image", "test", "z.png"),
    }


def test_a_picture_of_two_splits_is_a_leak_and_one_that_is_listed_twice_a_duplicate(root: Path):
    (root / "set/train.txt").write_text("images/train/a.png\nimages/val/c.png\nimages/train/a.png\n")
    assert kinds_of(root, "data.train=train.txt") == {("leak", "c.png"), ("duplicate image", "a.png")}


def test_what_looks_like_an_image_and_is_not_read_is_a_warning(root: Path):
    (root / "set/images/train/a.svg").write_text("<svg/>")
    (root / "set/images/train/more").symlink_to(root / "set/images/train")
    assert kinds_of(root) == {("unread image", "a.svg"), ("duplicate image", "more")}
    assert {one.severity for one in findings_of(root)} == {"warning"}


def test_16_bits_of_a_small_range_are_a_warning(root: Path):
    save(root / "set/images/train/a.png", noise(3).astype(np.uint16) * 4)
    assert ("range of 16 bits", "data.yaml") in kinds_of(root)
    assert kinds_of(root, "data.bits=10") == {("16-bit", "a.png")}


def test_labels_are_orphaned_where_no_picture_lies_that_they_could_be_of(root: Path):
    labels = root / "set/labels"
    for name in ("train/z.txt", "val/old.txt"):
        (labels / name).write_text(BOX)
    (labels / "train/classes.txt").write_text("cat\ndog\n")  # as labelling tools leave it there
    save(root / "set/images/train/unlisted.png", noise(9))
    (root / "set/train.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    orphans = {("orphaned labels", "z.txt"), ("orphaned labels", "old.txt")}
    assert kinds_of(root, "data.train=train.txt") == orphans


def test_labels_beside_the_pictures_are_no_orphans_nor_is_the_list(tmp_path: Path):
    for seed, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", noise(seed))  # no folder "images": labels lie beside
    (tmp_path / "train.txt").write_text("a.png\nb.png\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: c.png\nnames: [cat, dog]\n")
    assert findings_of(tmp_path) == []
    (tmp_path / "d.txt").write_text(BOX)
    assert kinds_of(tmp_path) == {("orphaned labels", "d.txt")}


def test_what_a_coco_file_has_too_much_is_said_in_two_lines(root: Path):
    names = [*"abc", "gone", "gone2"]
    content = {
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 10 * image + label, "image_id": image, "category_id": label, "bbox": [1, 2, 30, 30]}
            for image in (0, 1, 2, 3, 99)
            for label in (1, 2)
        ],
    }
    (root / "set/all.json").write_text(json.dumps(content))
    lines = [one.text.partition("all.json: ")[2] for one in findings_of(root, "data.labels=all.json")]
    assert lines == [
        "2 annotations of images that it does not list, the first: 991 of image_id 99",
        "2 other images, with 2 annotations, the first of id 3",
    ]


def test_small_and_narrow_objects_are_those_that_training_drops(root: Path):
    rows = ["0 0.5 0.5 0.03 0.5", "0 0.3 0.3 0.0625 0.0625", "1 0.5 0.5 1 0.021", "1 0.5 0.5 1 0.0625"]
    save(root / "set/images/train/d.png", noise(7), "\n".join(rows))
    [small] = findings_of(root)  # 64 x 48: 1.92 pixels wide, 1.008 high
    assert (small.kind, small.severity) == ("too small", "warning")
    assert "d.png: 2 of 4 objects 2 pixels or less wide or high at 64 px, the first 1.9 x 24.0" in small.text
    kinds = Counter(one.kind for one in findings_of(root, longest=256))  # 7.7, 4.0 x 256
    assert kinds == {}
    [small] = findings_of(root, tile=48)  # in windows of 48 pixels objects are 64 / 48 as large: 2.6, and 1.3 pixels
    assert "d.png: 1 of 4 objects 2 pixels or less wide or high at 64 px in windows of 48 px" in small.text
    save(root / "set/images/train/d.png", noise(7), "1 0.5 0.5 1 0.0125\n")
    assert [one.kind for one in findings_of(root, longest=256)] == ["too narrow"]  # 256 x 2.4


def test_a_class_without_objects_is_named_for_the_chosen_classes_alone(root: Path):
    assert kinds_of(root, "data.names=[cat, dog, cow]") == {("class without objects", "data.yaml")}
    assert kinds_of(root, "data.names=[cat, dog, cow]", "data.classes=[dog]") == set()


def test_every_kind_of_problem_has_a_severity():
    kinds = set()
    for path in (REPOSITORY / "yolo_lite/data").rglob("*.py"):
        kinds |= set(re.findall(r'Problem\(\s*"([^"]+)"', path.read_text()))
    assert len(kinds) >= 8 and kinds < SEVERITY.keys()


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("bccd", (), {}),
        ("bccd", ("data.format=voc",), {"without area": 2}),
        ("raccoon", (), {"duplicate image": 4, "grey": 3}),
        ("coco128", (), {"leak": 128, "class without objects": 9, "too small": 6, "grey": 2}),
    ],
)
def test_real_sets(name: str, overrides: tuple[str, ...], expected: dict[str, int]):
    path = SHARED / "data" / name / "data.yaml"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    found = diagnose(load_dataset_config(path, overrides), str(path), 640).findings
    assert Counter(one.kind for one in found) == expected


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_status_tells_whether_training_would_be_harmed(root: Path, capsys: pytest.CaptureFixture[str]):
    assert check(root) == 0
    save(root / "set/images/train/d.png", noise(7), None)  # two warnings: it, and a third of all
    assert check(root) == 0 and "0 errors, 2 warnings, 0 notes" in capsys.readouterr().out
    (root / "set/images/val/e.png").write_bytes(b"")
    assert check(root) == 1 and "e.png: not a readable image" in capsys.readouterr().out


def test_json_holds_what_the_text_says_and_nothing_else_is_printed(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("yolo_lite.tools.doctor_report.dataset_image", dataset_image)
    save(root / "set/images/train/d.png", noise(7), "0 0.5 0.5 0.9 0.9\n7 0.5 0.5 0.1 0.1\n")
    assert check(root, "--json", "--imgsz", "64") == 1
    said = capsys.readouterr()
    content = json.loads(said.out)
    folder = root / "runs/exp"
    assert json.loads((folder / "report.json").read_text()) == content
    assert cv2.imread(str(folder / "dataset.png")).shape == (847, 1496, 3)
    assert content["splits"]["train"]["objects"] == 5
    assert content["splits"]["train"]["classes"]["dog"] == {"objects": 2, "anchor_recall": 1.0}
    assert content["splits"]["val"]["side"]["max"] == pytest.approx((32 * 24) ** 0.5, abs=1e-3)
    [finding] = content["findings"]
    assert finding["text"] in (folder / "report.txt").read_text() and finding["text"].count("d.txt:2:") == 1
    assert (finding["kind"], finding["severity"], finding["split"]) == ("unknown class", "error", "train")


def test_the_text_shows_three_examples_and_the_file_all(root: Path, capsys: pytest.CaptureFixture[str]):
    rows = "".join(f"{number} 0.5 0.5 0.2 0.2\n" for number in range(2, 8))
    save(root / "set/images/train/d.png", noise(7), rows)
    assert check(root) == 1
    said = capsys.readouterr().out
    assert said.count("d.txt:") == 3 and "... and 3 more" in said and "error: unknown class: 6" in said
    assert (root / "runs/exp/report.txt").read_text().count("d.txt:") == 6


def test_the_embedded_set_is_sound_and_a_model_of_another_family_has_no_anchors(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["check", "--data", str(tiny_data), "--project", str(tmp_path), *FILES[2:]]
    assert main([*words, "--cfg", str(REPOSITORY / "cfg/faster_rcnn.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["anchor_recall"] is None


# ------------------------------------------------------------------------------------------------------- a cleaned copy


@pytest.fixture
def ill(root: Path) -> Path:
    """A leak, a duplicate, an unreadable image and bad rows; a polygon that is sound."""
    images = root / "set/images"
    for source, place in (("val/c", "train/leak"), ("train/b", "train/twin")):
        save(images / f"{place}.png", noise(0))
        shutil.copyfile(images / f"{source}.png", images / f"{place}.png")
    save(
        images / "train/sub/rows.png", noise(8), "0 0.1 0.1 0.5 0.1 0.3 0.9\nx\n1 0.3 0.3 0.2 0.2\n9 0.3 0.3 0.2 0.2\n"
    )
    (images / "val/broken.jpg").write_bytes(b"nothing")
    return root


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco"])
def test_a_copy_is_clean_and_the_set_as_it_was(ill: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    if kind != "yolo":  # the same set in another format, with the pictures that cannot be written there
        assert main(["convert", "--data", str(ill / "data.yaml"), "--to", kind, "--out", str(ill / "other")]) == 0
        (ill / "data.yaml").write_text((ill / "other/data.yaml").read_text())
        with (ill / "other/train.txt").open("a") as file:
            file.write("gone.png\n")
    before = contents_of(ill)
    assert check(ill, "--fix-into", str(ill / "clean")) == 1
    assert "a copy without what is wrong: " in capsys.readouterr().out
    after = contents_of(ill)
    assert {path: after[path] for path in before} == before
    clean = load_dataset_config(ill / "clean/data.yaml")
    assert diagnose(clean, str(ill / "clean/data.yaml"), 64).findings == []
    names = {
        split: [
            Path(index.path(position)).relative_to(ill / "clean/images").as_posix()
            for index in [index_split(clean, ill / "clean/data.yaml", split)]
            for position in range(len(index))
        ]
        for split in ("train", "val")
    }
    assert sorted(names["train"]) == ["train/a.png", "train/b.png", "train/sub/rows.png"]
    assert names["val"] == ["val/c.png"]
    index = index_split(clean, ill / "clean/data.yaml", "train", with_outlines=True)
    [rows] = [index.rows(position) for position in range(3) if index.path(position).endswith("rows.png")]
    np.testing.assert_allclose(index.xyxy[rows], [[6.4, 4.8, 32, 43.2], [12.8, 9.6, 25.6, 19.2]], atol=0.011)
    assert index.outlines is not None and len(index.outlines.of(rows[0])) == (kind != "voc")


def test_a_copy_that_does_not_fit_on_the_disk_is_refused_before_it_begins(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100))
    assert check(root, "--fix-into", str(root / "clean")) == 2
    assert "the images take 0 MiB, 0 MiB are free" in capsys.readouterr().err
    assert not (root / "clean").exists()


def test_pictures_of_one_name_from_elsewhere_do_not_cover_each_other(root: Path, capsys: pytest.CaptureFixture[str]):
    for split, seed in (("train", 0), ("val", 1)):
        save(root / f"elsewhere/{split}/images/a.png", noise(seed))
    words = ["data.train=../elsewhere/train/images", "data.val=../elsewhere/val/images"]
    assert check(root, "--set", *words, "--fix-into", str(root / "clean")) == 2
    assert "would have the same label file as" in capsys.readouterr().err
    assert not (root / "clean").exists()


# --------------------------------------------------------------------------------------------------------- the picture


def area(image: np.ndarray, red: int, green: int, blue: int) -> int:
    return int((image == (red, green, blue)).all(axis=2).sum())


@pytest.mark.parametrize("num_classes", [1, 200])
def test_the_picture_has_every_split_and_the_anchors(num_classes: int):
    rng = np.random.default_rng(0)
    counts = {split: rng.integers(1, 40, num_classes) for split in ("train", "val", "test")}
    shape = DatasetShape(
        [f"class {number}" for number in range(num_classes)],
        counts,
        "train",
        rng.uniform(1, 640, (50, 2)),
        rng.random((50, 2)),
        rng.integers(0, 5, 20),
        640,
        np.array([[[100.0, 100]]]),
    )
    picture = dataset_image(shape)
    assert picture.shape == (847, 1496, 3) and picture.dtype == np.uint8

    for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):  # tab:blue, tab:orange, tab:green
        assert area(picture[:400], *colour) > 1000
    red = (214, 39, 40)
    assert area(picture[400:], *red) > 50


def test_a_picture_of_a_single_object_can_be_drawn():
    one = np.array([1])
    size = np.array([[1000.0, 0.1]])  # beyond the axes
    shape = DatasetShape(["$x_$" * 30], {"val": one}, "val", size, np.array([[1.0, 0.0]]), one, 32, None)
    picture = dataset_image(shape)
    assert picture.shape == (847, 1496, 3) and area(picture, 214, 39, 40) == 0  # no anchors


def test_findings_are_in_the_order_of_severity_and_of_files(ill: Path):
    found = findings_of(ill)
    order = [list(doctor.SEVERITY).index(one.kind) for one in found]
    assert order == sorted(order) and found == findings_of(ill)


def test_rows_of_a_file_of_two_splits_are_accounted_for_once(root: Path) -> None:
    """Those of another split's images are that split's, as in training."""
    places = [*sorted((root / "set/images/train").iterdir()), *sorted((root / "set/images/val").iterdir())]
    images = [{"id": number, "file_name": f"{path.parent.name}/{path.name}"} for number, path in enumerate(places)]
    rows = [{"image_id": one["id"], "category_id": 1, "bbox": [1, 2, 30, 30]} for one in images]
    content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": rows}
    (root / "set/all.json").write_text(json.dumps(content))
    path = root / "data.yaml"
    splits = diagnose(load_dataset_config(path, ("data.labels=all.json",)), str(path), 640).splits
    assert [index.left_out for index in splits.values()] == [(), ()]
    assert sum(len(index.label) for index in splits.values()) == len(rows)
