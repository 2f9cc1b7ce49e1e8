"""Inputs that users of such tools report, read for what they mean: boxes against the rectangles that are painted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from yolo_lite.cli.main import main
from yolo_lite.config.errors import DataError
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.names import load_dataset
from yolo_lite.tools.doctor import diagnose

CASES = REPOSITORY.parent / "shared" / "cases"
COLOURS = {"cat": (40, 40, 220), "dog": (60, 200, 40), "cell": (40, 40, 220)}  # BGR of the rectangles

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YOLO_LITE_CACHE", str(tmp_path / "cache"))


def index_of(case: str, file: str = "data/data.yaml", **keys: Any) -> DatasetIndex:
    path = next(CASES.glob(f"case-{case}-*")) / file
    return index_split(load_dataset(path).model_copy(update=keys), path, "train")


def kinds_of(case: str) -> dict[str, str]:
    """What the doctor finds in the training split, by kind."""
    path = next(CASES.glob(f"case-{case}-*")) / "data/data.yaml"
    return {one.kind: one.text for one in diagnose(load_dataset(path), str(path), 160).findings if one.split == "train"}


def assert_painted(index: DatasetIndex, objects: int) -> None:
    """Every box lies on a rectangle of its class's colour, to two pixels (the images are JPEG)."""
    assert index.num_objects == objects
    for position in range(len(index)):
        image = read_image(index.path(position))[..., ::-1].astype(np.int64)
        labels, boxes = index.objects(position)
        painted = {name: (abs(image - colour).max(axis=2) < 60) for name, colour in COLOURS.items()}
        for label, (x1, y1, x2, y2) in zip(labels, boxes.round().astype(int), strict=True):
            is_own = painted[index.names[label]]
            inside = slice(y1 + 2, y2 - 2), slice(x1 + 2, x2 - 2)
            assert sum(painted.values())[inside].mean() > 0.85  # formats are lossy, and a later rectangle may cover it
            assert is_own[inside].mean() > 0.6
            around = np.pad(is_own, 3)[y1 : y2 + 6, x1 : x2 + 6].copy()
            around[1:-1, 1:-1] = False  # the border two pixels outside the box
            assert around.mean() < 0.1  # a neighbour may touch


@pytest.mark.parametrize(
    ("case", "objects", "said"),
    [
        ("01", 8, "/data/../train/images: "),
        ("05", 8, "boxes with keypoints (pose): the boxes are used, the keypoints ignored"),
        ("06", 8, "4 images listed twice, the first: p0.jpg; their annotations are joined"),
        ("07", 8, ""),
        ("09", 22, ""),
        ("11", 4, "4 of 8 objects teach nothing: they are crowds (iscrowd 1) or difficult"),
        ("12", 8, ""),
        ("16", 256, ""),
        ("17", 16, ""),
        ("19", 2, "3 images have a .xml file (Pascal VOC) but no .txt file and count as background, the first: "),
        ("21", 8, "EXIF turns 3 images after their sizes were stated: boxes are read as those of the turned image"),
    ],
)
def test_a_case_holds_the_boxes_that_are_painted(case: str, objects: int, said: str) -> None:
    index = index_of(case)
    assert_painted(index, objects)
    assert not index.problems and not index.left_out
    assert [said in line for line in index.remarks] == ([True] if said else [])


@pytest.mark.parametrize("case", ["02", "03"])
def test_a_file_name_that_could_mean_two_images_is_refused_with_both(case: str) -> None:
    with pytest.raises(
        DataError, match=r"'frame_000.jpg' \(id 1.*\) could be .*clip1/frame_000\.jpg or .*clip2/frame_0"
    ):
        index_of(case)


def test_linked_folders_are_read(tmp_path: Path) -> None:
    case = next(CASES.glob("case-08-*"))
    shutil.copytree(case, tmp_path / "set", ignore=shutil.ignore_patterns("more"))
    for kind in ("images", "labels"):  # a link may have been copied as a text file
        (tmp_path / f"set/data/{kind}/train/more").symlink_to(f"../../../elsewhere/{kind}")
    path = tmp_path / "set/data/data.yaml"
    index = index_split(load_dataset(path), path, "train")
    assert len(index) == 7 and not index.remarks
    assert_painted(index, 14)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_alpha_is_dropped_in_every_container(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((20, 30, 4), (200, 200, 200, 64), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    assert (read_image(tmp_path / f"a.{suffix}") == 200).all()


def test_a_run_goes_on_with_its_own_set_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(CASES.glob("case-17-*")) / "data"
    files = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml"), "--no-figures"]
    words = ["--imgsz", "32", "--batch-size", "4", "--workers", "0", "--project", str(tmp_path / "runs")]
    model = ["--set", "model.depth_multiple=0.1", "model.width_multiple=0.05"]
    shutil.copytree(case, tmp_path / "old")
    shutil.copytree(case, tmp_path / "new")
    data = ["--data", str(tmp_path / "old/data.yaml")]
    assert main(["train", *files, *words, *model, *data, "--epochs", "1"]) == 0
    (tmp_path / "old").rename(tmp_path / "gone")
    run = ["train", "--resume", str(tmp_path / "runs/exp"), "--epochs", "2", "--data"]
    capsys.readouterr()
    assert main([*run, str(tmp_path / "new/sw.yaml")]) == 2
    assert "expected those of the run, [cat, dog], found [bird, cube, cone]" in capsys.readouterr().err
    assert main([*run, str(tmp_path / "new/data.yaml")]) == 0


def test_ids_that_are_all_text_match_too() -> None:
    assert_painted(index_of("07", "all/data.yaml"), 8)


def test_pose_rows_may_be_stated_and_are_no_polygons() -> None:
    assert_painted(index_of("05", labels_are="pose"), 8)
    assert_painted(index_of("05", kpt_shape=(3, 2)), 8)
    with pytest.raises(DataError, match=r"not one label(.|\n)*expected 5 columns .labels_are: box., found 11 columns"):
        index_of("05", labels_are="box")


@pytest.mark.parametrize(
    ("case", "kind"),
    [("05", "how rows are read"), ("06", "image listed twice"), ("11", "crowds"), ("19", "labels of another format")],
)
def test_the_doctor_names_what_training_says(case: str, kind: str) -> None:
    assert kinds_of(case)[kind].startswith("train: ")
