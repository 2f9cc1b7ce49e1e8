"""Runs that learn masks: which data they read, what ``show`` draws, and what a resumed run compares."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from conftest import REPOSITORY

from yolo_lite.cli.arguments import read_options
from yolo_lite.cli.main import main, train_main
from yolo_lite.config.options import ShowOptions, TrainOptions
from yolo_lite.engine.resolve import run_config, shared_config

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
        assert train_main([*words, *common, "--batch-size", "4", "--device", "cpu"]) == 0
    (tmp_path / "labels/train/1.txt").write_text(f"0 {square} 0.3 0.5\n")
    capsys.readouterr()
    assert train_main(["--resume", str(tmp_path / "runs/yolo_n_seg"), "--epochs", "2"]) == 2
    assert re.search(r"train: expected images of the same sizes and objects", capsys.readouterr().err)
    assert train_main(["--resume", str(tmp_path / "runs/yolo_n"), "--epochs", "2"]) == 0
