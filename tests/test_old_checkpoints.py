"""Checkpoints of format 3, as yolo_lite wrote them before its heads had their anchors: used, but not resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import equal_states

from yolo_lite import evaluate, load
from yolo_lite.cli.main import main, train_main
from yolo_lite.engine.checkpoint import load_checkpoint

# What a hyp.yaml of then held beside the names of the losses.
FLAT_KEYS = {
    **{"smooth_l1_beta": 1.0, "iou_log_floor": 0.001, "focal_eiou_gamma": 0.5, "siou_theta": 4.0, "nwd_constant": 12.8},
    **{"alpha_iou_alpha": 3.0, "alpha_iou_form": "ciou", "inner_iou_ratio": 0.7, "inner_iou_form": "ciou"},
    **{"wiou_version": 3, "wiou_alpha": 1.9, "wiou_delta": 3.0, "wiou_momentum": 0.01, "shape_iou_scale": 0.0},
    **{
        "focal_gamma": 2.0,
        "focal_alpha": 0.25,
        "qfl_beta": 2.0,
        "vfl_alpha": 0.75,
        "vfl_gamma": 2.0,
        "poly_epsilon": 1.0,
    },
}


def as_format_3(content: dict[str, Any]) -> dict[str, Any]:
    """The same checkpoint as it was then: anchors beside the layers, a key for each parameter of a loss."""
    old = {**content, "format": 3}
    for part in {"ema", "model"} & content.keys():
        weights = dict(content[part])
        (name,) = [name for name in weights if name.endswith(".anchors")]
        old[part] = {"anchors": weights.pop(name), **weights}
    config = {**content["config"], "hyp": {**content["config"]["hyp"], **FLAT_KEYS}}
    config["model"] = {key: value for key, value in config["model"].items() if key != "task"}
    return {**old, "config": config}


@pytest.fixture
def old_run(tiny_run: Path, tmp_path: Path) -> Path:
    for name in ("best", "last"):
        (tmp_path / "old/weights").mkdir(parents=True, exist_ok=True)
        content = torch.load(tiny_run / f"weights/{name}.pt", weights_only=True)
        torch.save(as_format_3(content), tmp_path / f"old/weights/{name}.pt")
    return tmp_path / "old"


def test_it_holds_the_weights_and_the_configuration_of_today(old_run: Path, tiny_run: Path):
    old, new = (load_checkpoint(run / "weights/best.pt") for run in (old_run, tiny_run))
    assert equal_states(old["ema"], new["ema"])
    assert old["config"]["hyp"] | {"rpn_box_loss": None} == new["config"]["hyp"] | {"rpn_box_loss": None}


def test_it_validates_predicts_exports_and_starts_a_run(old_run: Path, tiny_run: Path, tiny_data: Path, tmp_path: Path):
    old, new = (evaluate(weights=run / "weights/best.pt", workers=0, device="cpu") for run in (old_run, tiny_run))
    assert [old[key] for key in ("map50", "map50_95", "losses")] == [
        new[key] for key in ("map50", "map50_95", "losses")
    ]
    assert load(old_run / "weights/best.pt", device="cpu").size == load(tiny_run / "weights/best.pt", device="cpu").size
    words = [
        "--weights",
        str(old_run / "weights/best.pt"),
        "--format",
        "torchscript",
        "-o",
        str(tmp_path / "old.torchscript"),
    ]
    assert main(["export", *words, "--data", str(tiny_data)]) == 0
    words = [
        "--weights",
        str(old_run / "weights/best.pt"),
        "--data",
        str(tiny_data),
        "--epochs",
        "1",
        "--batch-size",
        "8",
    ]
    size = ["--imgsz", "64", "--workers", "0", "--device", "cpu", "--no-figures", "--project", str(tmp_path)]
    assert train_main(["--cfg", "cfg/yolo_n.yaml", *words, *size]) == 0


def test_its_run_is_not_resumed_and_the_way_on_is_told(old_run: Path, capsys: pytest.CaptureFixture[str]):
    assert train_main(["--resume", str(old_run)]) == 2
    said = capsys.readouterr().err
    assert "written in format 3" in said and "start a new run with --weights" in said
