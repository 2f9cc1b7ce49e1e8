"""Everything that can be added from outside, added by a plugin file and trained for some steps (tests/plugins/toys.py).

Each costs the places that PLACES counts: a function or a class, and a line in a dict.
"""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from yolo_lite.cli.main import main, train_main, val_main
from yolo_lite.deploy.formats import EXPORT_FORMATS
from yolo_lite.plugins import SEAMS

TOYS = REPOSITORY / "tests/plugins/toys.py"
MODEL = """\
nc: 3
{extra}
width_multiple: 0.5
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [[2], 1, {head}]
"""
CENTRE = MODEL.format(extra="", head="CentreHead, [16]")
ANCHORS = MODEL.format(extra="anchors: 2", head="Detect, [nc, anchors]")
COUNT = MODEL.format(extra="task: count", head="CentreHead, []")

# What stands in the plugin for each: its functions or classes, and its lines in dicts.
PLACES = {
    "a box loss with a parameter": ({"power_iou"}, {"BOX_LOSSES"}),
    "an assigner that needs predictions": ({"best_overlap"}, {"ASSIGNERS"}),
    "a head": ({"centre_box", "CentreHead", "CentreCriterion"}, {"HEADS", "CRITERIA"}),
    "a task": ({"CountCriterion", "build_counter", "count_criterion"}, {"TASKS"}),
    "an augmentation": ({"swap_channels"}, {"AUGMENTATIONS"}),
    "an export format": ({"write_pickled", "load_pickled"}, {"EXPORT_FORMATS"}),
}


def trained(data: Path, folder: Path, model: str, *words: str) -> list[dict[str, str]]:
    """The rows of results.csv of a run of two epochs with the toys."""
    (folder / "model.yaml").write_text(model)
    files = ["--cfg", str(folder / "model.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml"), "--data", str(data)]
    size = ["--epochs", "2", "--batch-size", "4", "--imgsz", "64", "--workers", "0", "--device", "cpu"]
    size += ["--no-figures", "--project", str(folder), "--plugin", str(TOYS), "--set", "nominal_batch=4", *words]
    assert train_main([*files, *size]) == 0
    with open(folder / "exp/results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_criterion_without_predictions_refuses_an_assigner_that_goes_by_them(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(AssertionError, match="assert 2 == 0"):
        trained(tiny_data, tmp_path, CENTRE, "assigner=best_overlap")
    assert "error: assigner best_overlap: goes by predictions, CentreCriterion gives none\n" in capsys.readouterr().err


def losses_of(row: dict[str, str]) -> dict[str, float]:
    return {key[6:-5]: float(value) for key, value in row.items() if key.startswith("train/") and key.endswith("_loss")}


def validated(folder: Path) -> int:
    words = ["--weights", str(folder / "exp/weights/best.pt"), "--device", "cpu", "--workers", "0"]
    return val_main([*words, "--project", str(folder / "val"), "--plugin", str(TOYS)])


def test_each_toy_is_what_stands_in_the_plugin_and_a_line_in_a_dict():
    tree = ast.parse(TOYS.read_text())
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    dicts = {node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)}
    assert defined == set().union(*(names for names, _ in PLACES.values()))
    assert dicts == set().union(*(names for _, names in PLACES.values())) and dicts <= set(SEAMS)


def test_a_box_loss_with_a_parameter(tiny_data: Path, tmp_path: Path):
    rows = trained(tiny_data, tmp_path, ANCHORS, "box_loss={power_iou: {power: 1.5}}")
    assert losses_of(rows[1])["box"] < losses_of(rows[0])["box"] and validated(tmp_path) == 0


def test_an_assigner_that_needs_predictions(tiny_data: Path, tmp_path: Path):
    rows = trained(tiny_data, tmp_path, ANCHORS, "assigner={best_overlap: {topk: 3}}")
    assert all(0 < value < 1e4 for row in rows for value in losses_of(row).values())
    assert sum(losses_of(rows[1]).values()) < sum(losses_of(rows[0]).values()) and validated(tmp_path) == 0


@pytest.mark.parametrize("format", ["onnx", "toy"])
def test_a_head_without_anchors_and_an_export_format(tiny_data: Path, tmp_path: Path, format: str):
    rows = trained(tiny_data, tmp_path, CENTRE)
    assert losses_of(rows[0]).keys() == {"box", "cls"} and losses_of(rows[1])["cls"] < losses_of(rows[0])["cls"]
    assert validated(tmp_path) == 0
    weights = ["--weights", str(tmp_path / "exp/weights/best.pt"), "--plugin", str(TOYS), "--data", str(tiny_data)]
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    output = tmp_path / f"model.{format}"
    assert main(["export", *weights, "--format", format, "-o", str(output), "--dynamic", "batch", "size"]) == 0
    assert output.stat().st_size > 0 and "toy" not in EXPORT_FORMATS
    words = ["--weights", str(output), "--data", str(tiny_data), "--workers", "0", "--plugin", str(TOYS)]
    assert val_main([*words, "--project", str(tmp_path / "exported")]) == 0


def test_classes_of_a_head_start_as_they_were_and_a_run_resumes(tiny_data: Path, tmp_path: Path):
    trained(tiny_data, tmp_path, CENTRE)
    last = tmp_path / "exp/weights/last.pt"
    before = torch.load(last, weights_only=True)["ema"]
    assert train_main(["--resume", str(last), "--epochs", "3", "--plugin", str(TOYS)]) == 0
    after = torch.load(last, weights_only=True)["ema"]
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)


def test_a_task(tiny_data: Path, tmp_path: Path):
    rows = trained(tiny_data, tmp_path, COUNT)
    assert losses_of(rows[0]).keys() == {"box"} and losses_of(rows[1])["box"] < losses_of(rows[0])["box"]
    assert validated(tmp_path) == 0


def test_an_augmentation(tiny_data: Path, tmp_path: Path):
    rows = trained(tiny_data, tmp_path, ANCHORS, "augmentations=[{swap_channels: {chance: 0.5}}]")
    assert len(rows) == 2


@pytest.mark.parametrize("command", ["check", "anchors"])
def test_every_command_that_reads_hyp_yaml_takes_plugins(command: str, tiny_data: Path, tmp_path: Path, capsys):
    words = [command, "--data", str(tiny_data), "--cfg", "yolo_n", "--set", "box_loss=power_iou"]
    words += ["--project", str(tmp_path)] if command == "check" else []
    assert main(words) == 2 and "unknown name 'power_iou'" in capsys.readouterr().err
    assert main([*words, "--plugin", str(TOYS)]) == 0
