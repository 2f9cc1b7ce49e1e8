"""The embedded set: a pure function of its seed, honest labels, and whole or not there at all."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_lite.config.data import Generate
from yolo_lite.config.errors import DataError
from yolo_lite.data import shapes
from yolo_lite.data.shapes import SHAPE_CLASSES, draw_image, ensure_shapes


def small_spec(train: int = 40, val: int = 6, image_size: int = 64, seed: int = 0) -> Generate:
    return Generate(kind="shapes", train=train, val=val, image_size=image_size, seed=seed)


SMALL = small_spec()


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    return ensure_shapes(SMALL, tmp_path_factory.mktemp("cache"))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def label_rows(folder: Path) -> list[tuple[int, np.ndarray]]:
    """Class and polygon [K, 2] of every label row of the set."""
    lines = [line.split() for path in folder.rglob("*.txt") for line in path.read_text().splitlines()]
    return [(int(head), np.array(values, float).reshape(-1, 2)) for head, *values in lines]


def test_same_seed_gives_same_bytes(tmp_path):
    spec = small_spec(train=4, val=2)
    first, second = (contents(ensure_shapes(spec, tmp_path / name)) for name in ("first", "second"))
    assert first == second and len(first) > 6


def test_another_seed_or_split_gives_another_picture():
    first, _ = draw_image(SMALL, "train", 3)
    for other, split in ((small_spec(seed=1), "train"), (SMALL, "val")):
        assert not np.array_equal(first, draw_image(other, split, 3)[0])


def test_a_smaller_set_is_a_prefix_of_a_larger_one(small_set, tmp_path):
    prefix = contents(ensure_shapes(small_spec(train=5, val=2), tmp_path))
    whole = contents(small_set)
    assert prefix == {name: whole[name] for name in prefix}


def test_set_has_as_many_pictures_as_asked_for(small_set):
    assert small_set.name == "shapes-v1-40-6-64-0"
    assert len(list((small_set / "images/train").iterdir())) == 40
    assert len(list((small_set / "images/val").iterdir())) == 6


def test_longest_side_is_image_size_and_aspects_vary():
    sizes = {draw_image(SMALL, "train", index)[0].shape for index in range(20)}
    assert sizes == {(64, 64, 3), (48, 64, 3), (64, 48, 3)}


def test_polygons_lie_in_the_picture_and_have_the_size_asked_for(small_set):
    for class_index, polygon in label_rows(small_set):
        assert class_index in range(len(SHAPE_CLASSES)) and len(polygon) >= 3
        assert polygon.min() >= 0 and polygon.max() <= 1
        assert 0.16 < np.ptp(polygon, axis=0).max() < 0.72  # 0.20..0.60 of the mean side


@pytest.mark.parametrize("name", SHAPE_CLASSES)
def test_box_of_the_polygon_is_the_box_of_the_drawn_pixels(name):
    rng = np.random.default_rng(0)
    polygon = shapes.random_polygon(rng, shapes.OUTLINES[name], 120, 160)
    alpha = shapes.coverage(polygon, 120, 160)
    flat = np.full((120, 160, 3), 128, np.float32)
    filled = shapes.fill_shape(flat, alpha, SHAPE_CLASSES.index(name), rng)
    rows, columns = np.nonzero(np.abs(filled - flat).max(axis=2) > 8)
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # a sharp tip covers only a small part of its last pixels
    np.testing.assert_allclose([*polygon.min(axis=0), *polygon.max(axis=0)], drawn, atol=1.5)


@pytest.mark.parametrize("name", SHAPE_CLASSES)
def test_drawn_area_is_the_shoelace_area_of_the_polygon(name):
    polygon = shapes.random_polygon(np.random.default_rng(1), shapes.OUTLINES[name], 120, 160)
    x, y = polygon.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    perimeter = np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1).sum()
    # cv2 fills the pixels under the outline too: half a fine pixel all round
    assert abs(shapes.coverage(polygon, 120, 160).sum() - area) < 0.25 * perimeter


def test_coverage_of_half_a_pixel_is_about_a_half():
    square = np.array([[2.0, 2.0], [6.5, 2.0], [6.5, 6.0], [2.0, 6.0]])
    alpha = shapes.coverage(square, 8, 8)
    assert alpha[3, 4] == 1 and alpha[0, 0] == 0
    assert abs(alpha[3, 6] - 0.5) <= 0.25 and alpha[3, 7] == 0


def test_no_object_is_hidden_by_more_than_the_limit():
    for index in range(20):
        picture, objects = draw_image(SMALL, "train", index)
        covers = [shapes.coverage(polygon, *picture.shape[:2]) > 0.5 for _, polygon in objects]
        for position, cover in enumerate(covers):
            later = np.any([np.zeros_like(cover), *covers[position + 1 :]], axis=0)
            assert (cover & ~later).sum() >= shapes.LEAST_VISIBLE * cover.sum()


def test_every_class_occurs_about_as_often(small_set):
    counts = np.bincount([row[0] for row in label_rows(small_set)], minlength=len(SHAPE_CLASSES))
    assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()


def test_some_pictures_are_empty_and_have_no_label_file(small_set):
    pictures = {path.stem for path in (small_set / "images/train").iterdir()}
    labelled = {path.stem for path in (small_set / "labels/train").iterdir()}
    assert labelled < pictures
    assert all(not draw_image(SMALL, "train", int(stem))[1] for stem in pictures - labelled)


def test_pictures_can_be_read_back(small_set):
    read = cv2.imread(str(small_set / "images/val/000000.png"))
    np.testing.assert_array_equal(read, draw_image(SMALL, "val", 0)[0])


def test_an_existing_set_is_not_drawn_again(small_set, monkeypatch):
    monkeypatch.setattr(shapes, "write_image", None)
    before = {path: path.stat().st_mtime_ns for path in small_set.rglob("*")}
    assert ensure_shapes(SMALL, small_set.parent) == small_set
    assert {path: path.stat().st_mtime_ns for path in small_set.rglob("*")} == before


@pytest.mark.parametrize(("failure", "told"), [(KeyboardInterrupt, KeyboardInterrupt), (OSError, DataError)])
def test_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch, failure, told):
    write = shapes.write_image

    def write_two(folder, spec, split, index):
        if index == 2:
            raise failure("stop")
        write(folder, spec, split, index)

    monkeypatch.setattr(shapes, "write_image", write_two)
    with pytest.raises(told, match="stop"):
        ensure_shapes(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_loser_of_a_race_takes_the_winners_set(small_set, tmp_path, monkeypatch):
    spec = small_spec(train=2, val=1)
    write = shapes.write_set

    def write_after_the_other(folder, spec):
        monkeypatch.setattr(shapes, "write_set", write)
        ensure_shapes(spec, tmp_path)
        write(folder, spec)

    monkeypatch.setattr(shapes, "write_set", write_after_the_other)
    folder = ensure_shapes(spec, tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
    assert len(list(folder.rglob("*.png"))) == 3


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file.*YOLO_LITE_CACHE"):
        ensure_shapes(SMALL, tmp_path / "file" / "cache")


def test_too_small_pictures_are_refused():
    with pytest.raises(ValueError, match=r"image_size\n.*greater than or equal to 32 .*input_value=16"):
        small_spec(image_size=16)


def test_the_smallest_size_can_be_drawn():
    for index in range(15):
        image, _ = draw_image(small_spec(image_size=32), "train", index)
        assert max(image.shape[:2]) == 32


def test_cache_folder_asks_own_variable_then_xdg_then_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    monkeypatch.delenv("YOLO_LITE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert shapes.cache_folder() == Path("/home/someone/.cache/yolo_lite")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert shapes.cache_folder() == Path("/xdg/yolo_lite")
    monkeypatch.setenv("YOLO_LITE_CACHE", "/own")
    assert shapes.cache_folder() == Path("/own")


def test_drawing_needs_no_torch():
    code = "import sys, yolo_lite.data.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
