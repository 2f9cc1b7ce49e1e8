"""What a split holds: which images, which labels belong to them, and nothing lost without a word."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.hyp import Hyp
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import training_loader
from yolo_lite.data.readers.yolo import YoloReader
from yolo_lite.data.store import ImageStore

DARK = "1 of 1 16-bit images that were looked at have values up to"
BOX = "1 0.5 0.5 0.5 0.25\n"


def make_image(path: Path, height: int = 20, width: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def make_label(path: Path, text: str = BOX) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def index_of(root: Path, train: str | list[str], **keys) -> DatasetIndex:
    config = DatasetConfig(train=train, names=("cat", "dog"), **keys)
    return index_split(config, root / "data.yaml", "train")


def names_of(index: DatasetIndex) -> list[str]:
    return [Path(index.path(i)).name for i in range(len(index))]


@pytest.fixture
def root(tmp_path) -> Path:
    """images/{a,b,c}.png with labels/{a,b}.txt; c is background."""
    for name in "abc":
        make_image(tmp_path / f"images/{name}.png")
    for name in "ab":
        make_label(tmp_path / f"labels/{name}.txt")
    return tmp_path


# -------------------------------------------------------------------------------------------------------- sources


def test_a_folder_is_read_in_order_with_its_subfolders(root):
    make_image(root / "images/more/a.JPG")
    (root / "images/notes.md").write_text("no image")
    index = index_of(root, "images")
    assert names_of(index) == ["a.png", "b.png", "c.png", "a.JPG"]
    assert index.num_backgrounds == 2 and not index.problems and index.names == ("cat", "dog")


def test_rows_of_a_list_are_relative_to_the_list_to_the_root_or_absolute(root):
    (root / "lists").mkdir()
    make_image(root / "lists/images/d.png")
    rows = ["./images/d.png", "", "images/a.png", str(root / "images/b.png"), "  ./images/../images/c.png "]
    (root / "lists/train.txt").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    index = index_of(root, "lists/train.txt")
    assert names_of(index) == ["d.png", "a.png", "b.png", "c.png"]
    assert len(index.label) == 2 and not index.problems


def test_a_listed_image_that_is_missing_is_skipped_by_name(root):
    (root / "train.txt").write_text("images/a.png\nimages/gone.png\nimages/b.png\n")
    index = index_of(root, "train.txt")
    assert names_of(index) == ["a.png", "b.png"]
    assert len(index.problems) == 1 and "gone.png" in index.problems[0]


def test_a_list_that_is_no_text_is_an_error(root):
    (root / "train.zip").write_bytes(b"PK\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.zip"):
        index_of(root, "train.zip")


@pytest.mark.parametrize("pattern", ["images/[ab].png", "**/[ab].png", "{root}/images/[ab].*"])
def test_a_pattern_finds_its_images_alone(root, pattern):
    index = index_of(root, pattern.format(root=root))
    assert names_of(index) == ["a.png", "b.png"] and len(index.label) == 2


def test_a_pattern_works_below_a_folder_with_brackets_in_its_name(tmp_path):
    root = tmp_path / "set [v1]"
    make_image(root / "images/a.png")
    make_label(root / "labels/a.txt")
    assert names_of(index_of(root, "images/*.png")) == ["a.png"]


def test_several_sources_follow_each_other(root):
    (root / "one.txt").write_text("images/c.png\n")
    index = index_of(root, ["one.txt", "images/b.png", "images/a*"])
    assert names_of(index) == ["c.png", "b.png", "a.png"]


def test_path_and_sources_may_lie_elsewhere(root, tmp_path):
    config = DatasetConfig(path="..", train=("images",), names=("cat", "dog"))
    (tmp_path / "yaml").mkdir()
    assert len(index_split(config, tmp_path / "yaml/data.yaml", "train")) == 3
    config = DatasetConfig(path=str(root), train=("images",), names=("cat", "dog"))
    assert len(index_split(config, "/nowhere/data.yaml", "train")) == 3


def test_a_run_says_what_it_does_not_read(root):
    (root / "images/d.svg").write_text("<svg/>")
    make_label(root / "labels/c.txt")
    index = index_of(root, ["images", "images/a.png"])
    assert len(index) == 3 and index.describe().splitlines()[1:] == [
        "  3 rows in the label files = 3 objects",
        f"  look like images, but are not read: 1 .svg: {root}/images/d.svg",
        f"  named before, and used once: 1: {root}/images/a.png",
    ]
    with pytest.raises(DataError, match=r"no usable image(?s:.*)look like images, but are not read: 1 .svg"):
        index_of(root, "images/d.*")


def test_an_export_of_roboflow_is_read_as_it_is_and_its_missing_test_split_harms_nothing(tmp_path):
    for split in ("train", "valid"):
        make_image(tmp_path / f"{split}/images/a.png")
        make_label(tmp_path / f"{split}/labels/a.txt")
    splits = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    config = DatasetConfig(**splits, names=("cat", "dog"))
    index = index_split(config, tmp_path / "data.yaml", "val")
    assert names_of(index) == ["a.png"] and index.num_objects == 1
    assert index.remarks == (f"there is no {tmp_path}/../valid/images: {tmp_path}/valid/images is used",)
    with pytest.raises(DataError, match=r"found nothing at .*test/images"):
        index_split(config, tmp_path / "data.yaml", "test")


@pytest.mark.parametrize("name", ["two words.png", "größe_猫.png", "a#1.png", "v1.2.final.png"])
def test_labels_are_found_whatever_the_image_is_called(tmp_path, name):
    image = make_image(tmp_path / "images/x.png")
    image.rename(image.with_name(name))
    make_label((tmp_path / "labels" / name).with_suffix(".txt"))
    index = index_of(tmp_path, "images")
    assert names_of(index) == [name] and len(index.label) == 1


# ----------------------------------------------------------------------------------------------- range of 16 bits


@pytest.mark.parametrize(
    ("keys", "found", "words"),
    [
        (
            {},
            1000,
            f"{DARK} 1000 of 65535 and become nearly black; write bits: 10 in the YAML",
        ),
        (
            {},
            4095,
            f"{DARK} 4095 of 65535 and become nearly black; write bits: 12 in the YAML",
        ),
        ({}, 40000, ""),
        ({"bits": 12}, 4000, ""),
        ({"max_value": 5000}, 1000, ""),
        (
            {"bits": 10},
            4000,
            "16-bit images have values up to 4000, what is above 1023 becomes white: see the keys bits and max_value",
        ),
        ({}, None, ""),
    ],
)
def test_a_set_of_16_bits_is_scaled_by_a_stated_key_and_warned_of_without_it(root, keys, found, words):
    dtype = np.uint8 if found is None else np.uint16
    assert cv2.imwrite(str(root / "images/b.png"), np.full((20, 40), found or 200, dtype))
    make_label(root / "labels/c.txt")
    index = index_of(root, "images", **keys)
    assert index.remarks == ((words,) if words else ())
    white = keys.get("max_value", 2 ** keys.get("bits", 16) - 1)
    value = 200 if found is None else min(round(found * 255 / white), 255)
    for cache in ("off", "ram", "disk"):
        assert ImageStore(index, 40, cache, shared=False)[1].max() == value


# ------------------------------------------------------------------------------------------- where the labels are


def test_the_last_images_folder_becomes_labels():
    images = ["/d/images/set/images/x/a.b.jpg", "/d/images_old/a.jpg", "/d/train/images.jpg"]
    files, there = YoloReader(Path("/d"), None, ("cat",)).label_files(images)
    # A whole folder's name only; the file's own name is none.
    assert files == ["/d/images/set/labels/x/a.b.txt", "/d/images_old/a.txt", "/d/train/images.txt"]
    assert not there.any()


def test_a_label_beside_the_image_is_found_with_and_without_an_images_folder(tmp_path):
    for folder in ("pictures", "images"):
        make_image(tmp_path / folder / "a.png")
        make_label(tmp_path / folder / "a.txt")
    index = index_of(tmp_path, ["pictures", "images"])
    assert len(index.label) == 2 and index.num_backgrounds == 0


def test_two_label_files_of_an_image_must_say_the_same(root):
    make_label(root / "images/a.txt")
    assert index_of(root, "images/a.png").label.tolist() == [1]
    make_label(root / "images/a.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"two label files that differ: .*labels/a\.txt and .*images/a\.txt"):
        index_of(root, "images/a.png")


@pytest.mark.parametrize("place", ["boxes/train/a.txt", "boxes/a.txt"])
def test_the_labels_key_names_a_folder_that_mirrors_the_images_or_is_flat(tmp_path, place):
    make_image(tmp_path / "images/train/a.png")
    make_label(tmp_path / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n")  # the rule's place: not asked
    make_label(tmp_path / place)
    assert index_of(tmp_path, "images/train", labels="boxes").label.tolist() == [1]


def test_a_labels_folder_that_is_missing_is_an_error(root):
    with pytest.raises(DataError, match=r"no such folder or file.*boxes"):
        index_of(root, "images", labels="boxes")


# -------------------------------------------------------------------------------------------------- what is held


def test_an_image_without_label_file_or_with_an_empty_one_is_background(root):
    make_image(root / "images/d.png")
    make_label(root / "labels/d.txt", "\n")
    index = index_of(root, "images")
    assert len(index) == 4 and index.num_backgrounds == 2 and not index.problems
    for position in (2, 3):
        label, xyxy = index.objects(position)
        assert label.shape == (0,) and xyxy.shape == (0, 4)


def test_objects_are_in_pixels_of_their_own_image(tmp_path):
    make_image(tmp_path / "images/a.png", 20, 40)
    make_image(tmp_path / "images/b.png", 100, 50)
    make_label(tmp_path / "labels/a.txt", "1 0.5 0.5 0.5 0.5\n0 0.25 0.25 0.5 0.5\n")
    make_label(tmp_path / "labels/b.txt", "0 0.5 0.5 1 1\n")
    index = index_of(tmp_path, "images")
    assert index.size.tolist() == [[20, 40], [100, 50]]
    label, xyxy = index.objects(0)
    assert label.tolist() == [1, 0]
    np.testing.assert_allclose(xyxy, [[10, 5, 30, 15], [0, 0, 20, 10]])
    np.testing.assert_allclose(index.objects(1)[1], [[0, 0, 50, 100]])


def test_everything_is_packed_in_arrays(root):
    index = index_of(root, "images")
    assert index.paths.dtype.kind == "S"
    assert index.first.tolist() == [0, 1, 2, 2]
    assert (index.size.dtype, index.label.dtype, index.xyxy.dtype) == (np.int64, np.int64, np.float64)
    assert len(index.label) == len(index.xyxy) == index.first[-1]


def test_what_is_left_out_is_counted_and_named(root):
    (root / "images/b.png").write_bytes((root / "images/b.png").read_bytes()[:-20])
    make_label(root / "labels/c.txt", "0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n")
    index = index_of(root, "images")
    assert names_of(index) == ["a.png", "c.png"] and index.label.tolist() == [1, 0]
    assert len(index.problems) == 2
    assert "images/b.png" in index.problems[0] and "labels/c.txt:2" in index.problems[1]
    assert "2 images" in index.describe() and index.problems[1] in index.describe()


# ------------------------------------------------------------------------------------------------------- errors


def test_a_source_that_is_not_there_is_named_with_the_place_that_was_tried(root):
    with pytest.raises(DataError, match=f"found nothing at {root / 'pictures/train'}"):
        index_of(root, "pictures/train")


def test_nothing_usable_is_an_error_with_the_places_that_were_tried(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.jpg").write_text("no image")
    with pytest.raises(DataError) as caught:
        index_of(tmp_path, ["empty", "bad"])
    for expected in ("no usable image", str(tmp_path / "empty"), str(tmp_path / "bad/a.jpg")):
        assert expected in str(caught.value)


def test_no_label_at_all_is_an_error_with_three_of_the_places_that_were_tried(tmp_path):
    for name in "abcd":
        make_image(tmp_path / f"images/{name}.png")
    with pytest.raises(DataError) as caught:
        index_of(tmp_path, "images")
    message = str(caught.value)
    assert "4 images but not one label" in message
    assert [str(tmp_path / f"labels/{name}.txt") in message for name in "abcd"] == [True, True, True, False]


def test_a_split_that_is_not_given_is_a_config_error(root):
    config = DatasetConfig(train=("images",), names=("cat", "dog"))
    with pytest.raises(
        ConfigError, match=r"data.yaml.*'val' is not given; yolo-lite adopt .*data.yaml -o mine.yaml makes one"
    ):
        index_split(config, root / "data.yaml", "val")


# ------------------------------------------------------------------------------------- the dataset is never written


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    every = {path: path.stat() for path in [root, *root.rglob("*")]}
    return {str(path): (stat.st_mtime_ns, stat.st_size, stat.st_mode) for path, stat in every.items()}


def test_indexing_and_training_leave_the_dataset_as_it_was(root):
    (root / "images/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    for path in [*root.rglob("*"), root]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    before = listing(root)
    index = index_of(root, "images")
    for cache in ("off", "ram"):
        dataset = TrainingSet(index, ImageStore(index, 32, cache, False), 32, Hyp(), seed=0, mosaic_epochs=1)
        assert len(list(training_loader(dataset, 2, 0, range(2), False))) == 4
    assert listing(root) == before
    for path in [root, *root.rglob("*")]:
        os.chmod(path, 0o755)
