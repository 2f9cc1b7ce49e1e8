"""Runs that learn masks: which data they read, what ``show`` draws, and what a resumed run compares."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
from conftest import REPOSITORY

from yolo_lite.cli.arguments import read_options
from yolo_lite.cli.main import main, train_main
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import ShowOptions, TrainOptions
from yolo_lite.data.index import index_split
from yolo_lite.data.masks import mask_of
from yolo_lite.engine.batch_size import random_batch
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.resolve import run_config, shared_config
from yolo_lite.engine.same_data import read_splits
from yolo_lite.report.dataset_image import DatasetShape, dataset_image
from yolo_lite.tools.convert import convert

SEGMENT = str(REPOSITORY / "cfg/yolo_n_seg.yaml")


def test_a_model_of_masks_learns_the_set_with_holes_unless_data_are_named() -> None:
    def data_of(*words: str) -> str:
        return Path(run_config(read_options(TrainOptions, list(words), "train.py")).data_file).name

    assert data_of("--cfg", SEGMENT) == "shapes_holes.yaml" and data_of() == "shapes.yaml"
    assert data_of("--cfg", SEGMENT, "--data", "data/shapes.yaml") == "shapes.yaml"
    assert Path(shared_config(ShowOptions(cfg=SEGMENT)).data_file).name == "shapes_holes.yaml"


def test_show_draws_the_masks_of_a_model_that_learns_them(tiny_data: Path, tmp_path: Path) -> None:
    words = ["show", "--data", str(tiny_data), "--imgsz", "64", "--batches", "1", "--project", str(tmp_path)]
    assert main([*words, "--name", "boxes"]) == main([*words, "--name", "masks", "--cfg", SEGMENT]) == 0
    boxes, masks = (cv2.imread(str(tmp_path / name / "batch_1.png")) for name in ("boxes", "masks"))
    assert boxes.shape == masks.shape and (boxes != masks).any(axis=2).mean() > 0.02


def test_a_changed_outline_is_a_change_of_a_set_whose_masks_are_learnt(tiny_data: Path, tmp_path: Path, capsys) -> None:
    """The box is the same, and without masks nothing has changed."""
    square = "0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8"
    for number in range(4):
        for split in ("train", "val"):
            for folder in ("images", "labels"):
                (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
            pixels = np.full((64, 64, 3), 40 * number, np.uint8)
            assert cv2.imwrite(str(tmp_path / f"images/{split}/{number}.png"), pixels)
            (tmp_path / f"labels/{split}/{number}.txt").write_text(f"0 {square}\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    common = ["--data", str(tmp_path / "data.yaml"), "--imgsz", "64", "--epochs", "1", "--workers", "0", "--no-figures"]
    for model in (SEGMENT, str(REPOSITORY / "cfg/yolo_n.yaml")):
        words = ["--cfg", model, "--project", str(tmp_path / "runs"), "--name", Path(model).stem]
        assert (
            train_main([*words, *common, "--batch-size", "4", "--device", "cpu", "--set", "model.width_multiple=0.1"])
            == 0
        )
    (tmp_path / "labels/train/1.txt").write_text(f"0 {square} 0.3 0.5\n")
    capsys.readouterr()
    assert train_main(["--resume", str(tmp_path / "runs/yolo_n_seg"), "--epochs", "2"]) == 2
    assert re.search(r"train: expected images of the same sizes and objects", capsys.readouterr().err)
    assert train_main(["--resume", str(tmp_path / "runs/yolo_n"), "--epochs", "2"]) == 0


def test_a_run_says_how_many_objects_have_a_box_alone(tiny_data: Path, tmp_path: Path, capsys) -> None:
    config = run_config(TrainOptions(cfg=SEGMENT, data=tiny_data, imgsz=64))
    read_splits(config, None)
    assert "no outline" not in capsys.readouterr().out
    boxes = convert(config.data, config.data_file, "voc", tmp_path / "voc")
    read_splits(run_config(TrainOptions(cfg=SEGMENT, data=boxes, imgsz=64)), None)
    told = re.findall(
        r"(train|val): (\d+) of (\d+) objects have no outline: masks of their boxes", capsys.readouterr().out
    )
    assert [split for split, *_ in told] == ["train", "val"] and all(one == whole for _, one, whole in told)


def test_a_random_batch_has_masks_where_they_are_learnt() -> None:
    compute = choose_compute("cpu", "fp32", channels_last=True)
    assert random_batch(2, 64, 3, compute).objects.mask is None
    objects = random_batch(2, 64, 3, compute, has_masks=True).objects
    assert objects.mask.shape == (len(objects.box), 16, 16)


def test_a_clean_copy_of_png_masks_is_cocos_file_with_the_same_outlines(tmp_path: Path) -> None:
    values = np.zeros((40, 50), np.uint8)
    values[5:30, 5:30], values[10:20, 10:20], values[32:38, 2:48] = 1, 0, 7
    for number, split in enumerate(("train", "val")):
        for folder in ("images", "masks"):
            (tmp_path / "set" / folder / split).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / f"set/images/{split}/a.png"), np.full((40, 50, 3), 90 + number, np.uint8))
        assert cv2.imwrite(str(tmp_path / f"set/masks/{split}/a.png"), values)
    file = tmp_path / "data.yaml"
    file.write_text("path: set\ntrain: images/train\nval: images/val\nformat: masks\nnames: [cat]\n")
    words = ["--data", str(file), "--imgsz", "64", "--project", str(tmp_path / "runs")]
    assert main(["check", *words, "--fix-into", str(tmp_path / "clean")]) == 0
    report = json.loads((tmp_path / "runs/exp/report.json").read_text())
    assert report["splits"]["train"]["outlines"] == 2 and not report["severities"].get("error")
    clean = tmp_path / "clean/data.yaml"
    index = index_split(load_dataset_config(clean), clean, "val", with_outlines=True)
    masks = [mask_of(index.outlines.of(row), values.shape) for row in range(2)]
    assert {mask.tobytes() for mask in masks} == {(values == value).astype(np.uint8).tobytes() for value in (1, 7)}


def test_the_image_of_a_dataset_shows_how_much_of_their_boxes_outlines_fill() -> None:
    size = np.full((6, 2), 30.0)
    plain = DatasetShape(["a"], {"train": np.array([6])}, "train", size, size / 60, np.array([3, 3]), 64, None)
    first, second = (dataset_image(plain._replace(filled=filled)) for filled in ([0.2, 0.8], [0.5, 0.5]))
    half = first.shape[1] // 5 * 4
    assert np.array_equal(first[:, :half], second[:, :half]) and not np.array_equal(first, second)
