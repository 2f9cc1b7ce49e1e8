"""The kept index: what it says equals what a fresh reading says, whatever happens to the files."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import read_regular
from yolo_lite.data import index as index_module
from yolo_lite.data import index_cache
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.labels import HINTS, Labels, Problem, check_annotations
from yolo_lite.data.outlines import Outlines
from yolo_lite.data.readers.coco import CocoReader

NAMES = ("cat", "dog")
POLYGON = "0 0.1 0.1 0.6 0.1 0.6 0.7\n"
VOC = """<annotation><object><name>dog</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>9</ymax></bndbox>
</object><object><name>bird</name></object></annotation>"""


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own for each test, in which files count as settled as soon as the kernel's clock has ticked."""
    monkeypatch.setattr(index_cache, "SETTLED_AFTER", 0)
    monkeypatch.setenv("YOLO_LITE_CACHE", str(tmp_path / "cache"))


def tick() -> None:
    time.sleep(0.012)


def write_image(path: Path, height: int = 20, width: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images: one with a box, one with a polygon and a bad row, a background, and one cut off."""
    for name in "abcd":
        write_image(tmp_path / f"set/images/{name}.png")
    content = (tmp_path / "set/images/d.png").read_bytes()
    (tmp_path / "set/images/d.png").write_bytes(content[:-20])
    write(tmp_path / "set/labels/a.txt", "1 0.5 0.5 0.5 0.25\n")
    write(tmp_path / "set/labels/b.txt", POLYGON + "7 0.5 0.5 0.5 0.25\n")
    tick()
    return tmp_path / "set"


def coco_file(root: Path, names: str = "abcd") -> Path:
    """The labels of the set as a COCO file; an outline for one, a class that is not asked for."""
    images = [{"id": 10 + number, "file_name": f"{name}.png"} for number, name in enumerate(names)]
    box = {"image_id": 10, "bbox": [2, 3, 10, 6], "category_id": 5}
    annotations = [{"id": 1, **box}, {"id": 2, **box, "segmentation": [[2, 3, 12, 3, 12, 9]]}, {"id": 3, **box}]
    annotations[2]["category_id"] = 6
    path = root / "instances.json"
    categories = [{"id": 5, "name": "dog"}, {"id": 6, "name": "bird"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    tick()
    return path


def read(root: Path, with_outlines: bool = True, **keys) -> DatasetIndex:
    config = DatasetConfig(**{"train": "images", "names": NAMES} | keys)
    return index_split(config, root / "data.yaml", "train", with_outlines)


def read_afresh(root: Path, **keys) -> DatasetIndex:
    """By a process that has no cache."""
    here = os.environ["YOLO_LITE_CACHE"]
    os.environ["YOLO_LITE_CACHE"] = f"{here}-empty"
    try:
        return read(root, **keys)
    finally:
        shutil.rmtree(os.environ["YOLO_LITE_CACHE"], ignore_errors=True)
        os.environ["YOLO_LITE_CACHE"] = here


def assert_same(one: DatasetIndex, other: DatasetIndex) -> None:
    for field in fields(DatasetIndex):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif isinstance(a, Outlines):
            for x, y in zip(a, b, strict=True):
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)
        else:
            assert a == b, field.name


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are read from now on."""
    opened, real = [], index_module.image_size
    monkeypatch.setattr(index_module, "image_size", lambda path, *rest: (opened.append(Path(path).name), real(path))[1])
    return opened


def kept_files() -> list[Path]:
    return sorted(Path(os.environ["YOLO_LITE_CACHE"]).glob("index-*"))


# ----------------------------------------------------------------------------------------------- equal to a fresh one


def test_the_second_start_opens_no_image_and_says_the_same(root, monkeypatch):
    first = read(root)
    assert len(first) == 3 and len(first.label) == 2 and len(first.problems) == 2
    opened = count_opened(monkeypatch)
    assert_same(read(root), first)
    assert opened == []
    assert_same(first, read_afresh(root))


@pytest.mark.parametrize("keys", [{"classes": ("dog",)}, {"single_cls": True}, {"with_outlines": False}])
def test_chosen_classes_are_chosen_from_what_is_kept(root, keys):
    read(root)
    assert_same(read(root, **keys), read_afresh(root, **keys))


def test_voc_files_are_kept_too(root):
    write(root / "annotations/a.xml", VOC)
    tick()
    first = read(root, format="voc")
    assert len(first.label) == 1 and "'bird'" in first.problems[0]
    assert_same(read(root, format="voc"), first)


def test_a_coco_file_is_not_even_parsed_while_nothing_changes(root, monkeypatch):
    coco_file(root)
    first = read(root, labels="instances.json")
    assert first.image_id.tolist() == [10, 11, 12] and first.category_id.tolist() == [7, 5]
    with monkeypatch.context() as patch:
        patch.setattr(CocoReader, "load", lambda self, images: pytest.fail("parsed again"))
        assert_same(read(root, labels="instances.json"), first)
    for change in (lambda: write_image(root / "images/e.png"), lambda: (root / "images/b.png").unlink()):
        change()
        tick()
        assert_same(read(root, labels="instances.json"), read_afresh(root, labels="instances.json"))
    coco_file(root, "cdab")
    again = read(root, labels="instances.json")
    assert again.image_id.tolist() == [12, 10]
    assert_same(again, read_afresh(root, labels="instances.json"))
    (root / "instances.json").write_text("{")
    with pytest.raises(DataError, match="not a JSON file"):
        read(root, labels="instances.json")


# ---------------------------------------------------------------------------------------------- each change is seen


def test_only_what_changed_is_opened(root, monkeypatch):
    read(root)
    write(root / "labels/c.txt", "0 0.5 0.5 0.1 0.1\n")
    write_image(root / "images/b.png", 30, 60)
    write_image(root / "images/aa.png")
    tick()
    opened = count_opened(monkeypatch)
    again = read(root)
    assert sorted(opened) == ["aa.png", "b.png", "c.png"]
    assert_same(again, read_afresh(root))


def test_a_label_of_the_same_size_and_time_is_seen(root):
    """As an archive unpacks it that was made anew with the times of the old one."""
    path = root / "labels/a.txt"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    assert read(root).label[0] == 1
    tick()
    path.write_text(path.read_text().replace("1", "0", 1))
    os.utime(path, ns=times)
    tick()
    assert read(root).label[0] == 0


def test_a_label_that_appears_nearer_by_takes_over(root):
    shutil.move(root / "labels/a.txt", root / "images/a.txt")
    assert read(root).label.tolist() == [1, 0]
    write(root / "labels/a.txt", "0 0.5 0.5 0.5 0.25\n")
    (root / "images/a.txt").unlink()
    assert read(root).label.tolist() == [0, 0]


def test_a_file_that_changed_a_moment_ago_is_not_trusted(root, monkeypatch):
    """The next change may fall into the same tick of the clock: nothing would show it."""
    monkeypatch.setattr(index_cache, "SETTLED_AFTER", 2_000_000_000)
    read(root)
    opened = count_opened(monkeypatch)
    read(root)
    assert sorted(opened) == ["a.png", "b.png", "c.png", "d.png"]
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_000_000_000)
    read(root)
    opened.clear()
    read(root)
    assert opened == []


def test_what_the_system_could_not_read_is_tried_again(root, monkeypatch):
    def fail(path: str) -> bytes:
        if Path(path).name == "a.txt":
            raise OSError(5, "Input/output error")
        return read_regular(path)

    with monkeypatch.context() as patch:
        patch.setattr("yolo_lite.data.labels.read_regular", fail)
        first = read(root)
    assert len(first) == 2 and "a.txt: cannot be read: Input/output error" in first.problems[0]
    assert_same(read(root), read_afresh(root))


def edit(root: Path, what: str, name: str, number: int) -> None:
    image, label = root / f"images/{name}.png", root / f"labels/{name}.txt"
    if what == "image":
        write_image(image, 10 + number, 40)
    elif what == "bad image":
        image.write_bytes(b"no image" * number)
    elif what == "label":
        write(label, f"{number % 3} 0.5 0.5 0.{number + 1} 0.25\n{POLYGON if number > 2 else ''}")
    elif what == "touch":
        (label if label.exists() else image).touch()
    elif what == "swap" and (other := root / "images/a.png").exists() and image.exists():
        shutil.copy2(other, root / "images/x")
        os.replace(image, other)
        os.replace(root / "images/x", image)
    elif what == "delete image":
        image.unlink(missing_ok=True)
    elif what == "delete label":
        label.unlink(missing_ok=True)


EDITS = st.tuples(
    st.sampled_from(["image", "bad image", "label", "touch", "swap", "delete image", "delete label"]),
    st.sampled_from("abce"),
    st.integers(0, 4),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.lists(EDITS, max_size=4), max_size=4), rings=st.booleans())
@example(rounds=[[("label", "a", 0)], [("label", "a", 1)], [("image", "b", 1), ("swap", "b", 0)]], rings=True)
def test_after_any_edits_the_kept_index_equals_a_fresh_one(root, rounds, rings):
    write_image(root / "images/z.png")
    write(root / "labels/z.txt", POLYGON)  # one stays usable whatever happens
    for edits in rounds:
        for what, name, number in edits:
            edit(root, what, name, number)
        tick()
        assert_same(read(root, with_outlines=rings), read_afresh(root, with_outlines=rings))


# ------------------------------------------------------------------------------------------------- the file that keeps


@pytest.mark.parametrize("keys", [{"names": ("cat", "dog", "owl")}, {"train": "images/*.png"}, {"format": "yolo"}])
def test_another_dataset_yaml_reads_for_itself(root, keys):
    read(root)
    assert_same(read(root, **keys), read_afresh(root, **keys))
    assert len(kept_files()) == (1 if "format" in keys else 2)  # the format was found to be the same


def test_a_damaged_file_is_as_none(root):
    first = read(root)
    [file] = kept_files()
    content = file.read_bytes()
    for damaged in (b"", content[:10], content[:-1], content[:500] + b"!" + content[501:], b"x" * len(content)):
        file.write_bytes(damaged)
        assert_same(read(root), first)
    assert file.read_bytes() != damaged  # mended


def test_a_cache_that_cannot_be_written_is_said_once(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("YOLO_LITE_CACHE", str(tmp_path / "file/cache"))
    index_cache._say_once.cache_clear()
    first = read(root)
    assert_same(read(root), first)
    said = capsys.readouterr().err
    assert said.count("cannot keep the index") == 1 and str(tmp_path / "file/cache") in said


def test_nothing_but_the_file_is_left(root):
    for _ in range(3):
        write_image(root / "images/a.png")
        tick()
        read(root)
    assert [path.name for path in kept_files()] == [path.name for path in Path(os.environ["YOLO_LITE_CACHE"]).iterdir()]


def test_nothing_usable_is_said_again_at_every_start(root):
    for name in "abc":
        (root / f"images/{name}.png").write_text("no image")
    tick()
    for _ in range(2):
        with pytest.raises(DataError, match=r"no usable image; tried(.|\n)*images/a.png"):
            read(root)


# ----------------------------------------------------------------------------------------------------- packed arrays


LEFT_OUT = check_annotations([Problem("odd", "left out")], (0, 0))


def labels_of(rng: np.random.Generator, num_objects: int) -> Labels:
    """The labels of one image of 5 x 6 pixels, made up."""
    xyxy = rng.random((num_objects, 4))
    rings = [tuple(np.float32(rng.random((3 + k, 2))) for k in range(rng.integers(3))) for _ in range(num_objects)]
    label = rng.integers(9, size=num_objects)
    problems = [[Problem("odd", "odd: \udcff \n")] * int(rng.integers(2))]
    columns = label, xyxy, rng.random(num_objects), rng.random(num_objects) < 0.5
    counts = np.array([num_objects + len(problems[0])]), rng.integers(9, size=(1, len(HINTS)))
    return Labels(np.array([[5, 6]]), np.array([0, num_objects]), *columns, Outlines.pack(rings), *counts, problems)


@pytest.mark.parametrize("seed", range(5))
def test_chosen_and_joined_labels_are_those_of_their_images(seed):
    """The slow reference joins the chosen images themselves."""
    rng = np.random.default_rng(seed)
    found = [labels_of(rng, int(rng.integers(4))) if rng.random() < 0.8 else LEFT_OUT for _ in range(8)]
    order = rng.integers(8, size=int(rng.integers(12)))
    got = Labels.concat([Labels.concat(found[:3]), Labels.concat(found[3:])]).select(order)
    expected = Labels.concat([found[i] for i in order])
    assert got.problems == expected.problems == [found[i].problems[0] for i in order]
    assert got.size.tolist() == [found[i].size[0].tolist() for i in order]
    for a, b in zip(
        (*got[:6], *got[7:9], *got.outlines), (*expected[:6], *expected[7:9], *expected.outlines), strict=True
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    for row, image in enumerate(order):
        rows = slice(*got.first[row : row + 2])
        np.testing.assert_array_equal(got.xyxy[rows], found[image].xyxy)


def test_what_is_saved_is_loaded_whatever_the_texts_are(tmp_path):
    found = labels_of(np.random.default_rng(2), 3)
    found.problems[0].append(Problem("odd", "odd: \udcff \ud800 \n\0 ende"))
    labels = Labels.concat([found, LEFT_OUT])
    kept = index_cache.CachedSplit(
        np.array([b"a", b""]), np.array([4]), np.array([7, 8]), labels, [Problem("odd", "\n", 3)]
    )
    index_cache.save(tmp_path / "deep/index-x", kept)
    again = index_cache.load(tmp_path / "deep/index-x")
    assert (
        again.labels.problems == labels.problems and again.remarks == kept.remarks and again.key.tolist() == [b"a", b""]
    )
    np.testing.assert_array_equal(again.labels.outlines.corner, labels.outlines.corner)
