"""Laws of the training loop, on runs of seconds."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, equal_states, rows_of, tiny_config, wait_for, with_figures
from test_optimizer import random_batch

from yolo_lite.cli.main import train_main, val_main
from yolo_lite.config.errors import UserError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_model_config
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.record import Record
from yolo_lite.engine.sheets import assigned_cells
from yolo_lite.engine.state import Resume
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.train import train
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.report.loggers.tensorboard import TensorBoard

TAGS = {
    *(f"{split}/{name}_loss" for split in ("train", "val") for name in ("box", "obj", "cls")),
    *(f"metrics/{name}" for name in ("precision", "recall", "mAP50", "mAP50-95", "mAP75", "unmatched_targets")),
    *("train/gradient_norm", "train/skipped_steps"),
    *(f"lr/{name}" for name in ("weights", "norms", "biases")),
}


def test_a_run_leaves_weights_figures_and_pictures(tiny_run: Path) -> None:
    files = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert {"weights/best.pt", "weights/last.pt", "config.yaml", "results.csv"} <= files
    photographs = {f"{name}.jpg" for name in ("val_predictions", "worst_images", "train_batch", "assigned_anchors")}
    figures = {f"{name}.png" for name in ("curves", "confusion_matrix", "ap_by_class", "results")}
    assert photographs | figures | {"metrics.json"} <= files
    assert [row["epoch"] for row in rows_of(tiny_run)] == ["1", "2"]
    assert set(rows_of(tiny_run)[0]) == {"epoch", *TAGS}
    assert not list(tiny_run.rglob("*.tmp"))


def test_tensorboard_holds_every_figure_of_results_csv(tiny_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny_run)).Reload()
    clocks = {"time/train", "time/data_wait", "time/validation"}
    assert set(events.Tags()["scalars"]) == TAGS | clocks
    waited, trained = (events.Scalars(tag)[0].value for tag in ("time/data_wait", "time/train"))
    assert 0 < waited < trained
    pictures = ["val_predictions", "worst_images", "curves", "confusion_matrix", "ap_by_class", "results"]
    assert {"train/batch", "train/assigned_anchors", *(f"figures/{name}" for name in pictures)} <= set(
        events.Tags()["images"]
    )
    for tag in TAGS:
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        rows = [(int(row["epoch"]), float(row[tag])) for row in rows_of(tiny_run)]
        assert [step for step, _ in points] == [step for step, _ in rows]
        assert [value for _, value in points] == pytest.approx([value for _, value in rows], rel=1e-6)


def test_tensorboard_holds_graph_pr_curves_and_hyperparameters(tiny_run: Path) -> None:
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    board = EventMultiplexer().AddRunsFromDirectory(str(tiny_run.parent)).Reload()
    assert set(board.Runs()) == {tiny_run.name}  # no second run below it
    run = board.GetAccumulator(tiny_run.name)
    nodes = {node.name for node in board.Graph(tiny_run.name).node}
    assert sum("Conv" in name for name in nodes) > 100
    assert {"pr/circle", "pr/star"} <= run.PluginTagToContent("pr_curves").keys()
    content = run.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["lr0"].number_value > 0 and start.hparams["box_loss"].string_value == "ciou"
    metrics = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment.metric_infos
    assert {metric.name.tag for metric in metrics} >= {"metrics/mAP50-95", "val/box_loss"}
    assert {metric.name.tag for metric in metrics} <= set(run.Tags()["tensors"])


def started(folder: Path) -> TensorBoard:
    (folder / "config.yaml").write_text("lr0: 0.01\n")
    board = TensorBoard()
    board.start(folder, {}, [])
    return board


@pytest.mark.parametrize("cfg", ["yolo_n", "faster_rcnn"])
def test_the_graph_leaves_the_model_and_random_numbers_as_they_are(cfg: str, tmp_path: Path) -> None:
    config = load_model_config(REPOSITORY / f"cfg/{cfg}.yaml")
    model, board = task_of(config).build(config).train(), started(tmp_path)
    before, drawn = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    board.graph(model.to_trace(), torch.zeros(1, 3, 64, 64))
    board.end(finished=False)
    assert equal_states(model.state_dict(), before) and torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in model.modules())


def test_a_model_that_cannot_be_traced_has_no_graph(tiny_data: Path, tmp_path: Path, capsys) -> None:
    class Untraceable(torch.nn.Module):
        stride = 32

        def to_trace(self) -> torch.nn.Module:
            return self

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("a block of a plugin")

    with Record(tmp_path, with_figures(tiny_config(tiny_data, tmp_path)), [], [TensorBoard()]) as record:
        record.graph(Untraceable())
    assert "no graph of this model: a block of a plugin" in capsys.readouterr().out


def test_assigned_anchors_are_those_of_the_loss_each_in_its_cell() -> None:
    config, batch = load_model_config(REPOSITORY / "cfg/yolo_n.yaml"), random_batch(3, seed=0)
    model, criterion = task_of(config).build(config), AnchorCriterion(Hyp(), np.ones(80))
    anchors = assigned_cells(model, criterion, batch, choose_compute("cpu", "fp32", channels_last=False))
    grid = model.grid(*batch.images.shape[2:])
    matches = criterion.assign(batch.objects, grid)
    assert anchors.image.tolist() == matches.image.tolist() and anchors.target.tolist() == matches.target.tolist()
    size = torch.from_numpy(anchors.xyxy[:, 2:] - anchors.xyxy[:, :2])
    assert len(size) > 10 and torch.allclose(size, grid.slots.anchor[matches.slot], atol=1e-3)
    # The cell of an anchor holds the centre of its object, or is next to the one that does.
    centre = torch.from_numpy(anchors.xyxy[:, :2] + anchors.xyxy[:, 2:]) / 2
    distance = (centre - batch.objects.box[matches.target, :2]).abs()
    assert bool((distance <= grid.slots.stride[matches.slot]).all())


def test_checkpoints_are_plain_and_hold_the_resolved_configuration(tiny_run: Path) -> None:
    for name in ("best", "last"):
        content = torch.load(tiny_run / f"weights/{name}.pt", weights_only=True)
        config = config_of(content, name)
        assert config.plain() == yaml.safe_load((tiny_run / "config.yaml").read_text())
        assert all(value.dtype != torch.float16 for value in content["ema"].values())


@pytest.mark.bits
@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_seed_gives_one_loss_curve_to_the_bit(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, workers: str
) -> None:
    folder = train(tiny_config(tiny_data, tmp_path, "--workers", workers)).folder
    assert (folder / "results.csv").read_bytes() == (tiny_run / "results.csv").read_bytes()
    mine, theirs = (load_checkpoint(run / "weights/last.pt") for run in (folder, tiny_run))
    assert equal_states(mine["model"], theirs["model"])
    assert equal_states(mine["ema"], theirs["ema"])


def test_another_seed_gives_another_curve(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    folder = train(tiny_config(tiny_data, tmp_path, "--seed", "1", "--epochs", "1")).folder
    assert rows_of(folder)[0]["train/box_loss"] != rows_of(tiny_run)[0]["train/box_loss"]


@pytest.mark.parametrize("batch_size,workers", [("1", "0"), ("3", "1"), ("8", "0")])
def test_val_gives_the_figures_of_training_again(tiny_run: Path, tmp_path: Path, batch_size: str, workers: str) -> None:
    words = ["--weights", str(tiny_run / "weights/last.pt"), "--project", str(tmp_path), "--device", "cpu"]
    assert val_main([*words, "--batch-size", batch_size, "--workers", workers]) == 0
    figures, row = json.loads((tmp_path / "exp/metrics.json").read_text()), rows_of(tiny_run)[-1]
    pairs = {"map50_95": "mAP50-95", "map50": "mAP50", "precision": "precision", "recall": "recall"}
    # In batches of another size scores differ by rounding, and two detections may change their ranks.
    tolerance = 1e-6 if batch_size == "8" else 0.01
    for mine, theirs in pairs.items():
        assert figures[mine] == pytest.approx(float(row[f"metrics/{theirs}"]), abs=tolerance)
    assert figures["images"] == 8 and set(figures) >= {"map75", "per_class", "ms_per_image"}
    at_the_end = json.loads((tiny_run / "metrics.json").read_text())
    for key in ("map50_95", "ap_small", "ar_1", "ar_10", "ar_100", "confidence"):
        assert figures[key] == pytest.approx(at_the_end[key], abs=tolerance)


@pytest.mark.slow
def test_a_killed_run_leaves_a_whole_checkpoint_and_goes_on_as_if_nothing_happened(
    tiny_data: Path, tmp_path: Path
) -> None:
    straight = train(tiny_config(tiny_data, tmp_path / "straight", "--epochs", "6")).folder
    words = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    words += ["--data", str(tiny_data), "--project", str(tmp_path / "killed"), "--device", "cpu", "--workers", "0"]
    words += ["--epochs", "6", "--batch-size", "8", "--imgsz", "64", "--no-figures"]
    process = subprocess.Popen([sys.executable, str(REPOSITORY / "train.py"), *words], stdout=subprocess.DEVNULL)
    last = tmp_path / "killed/exp/weights/last.pt"
    wait_for(last.exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(last)["epoch"] >= 1

    assert train_main(["--resume", str(last)]) == 0
    assert (last.parents[1] / "results.csv").read_bytes() == (straight / "results.csv").read_bytes()
    mine, theirs = (load_checkpoint(path)["model"] for path in (last, straight / "weights/last.pt"))
    assert equal_states(mine, theirs)


def test_a_finished_run_says_so(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--resume", str(tiny_run / "weights/last.pt")]) == 2
    assert "finished" in capsys.readouterr().err


def test_resume_finds_the_latest_run(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tiny_data, tmp_path, "--epochs", "1")
    for _ in range(2):
        folder = train(config).folder
    assert folder.name == "exp2"
    os.utime(folder / "weights/last.pt")
    assert train_main(["--resume", "--project", str(tmp_path)]) == 2  # finished: but which run is named
    assert "exp2" in capsys.readouterr().err


def test_training_stops_without_progress(tiny_data: Path, tmp_path: Path) -> None:
    # A learning rate of nearly nothing: the first epoch stays the best.
    words = ["--epochs", "9", "--set", "patience=2", "lr0=1e-12", "warmup_bias_lr=0", "mosaic=0"]
    result = train(tiny_config(tiny_data, tmp_path, *words))
    assert len(rows_of(result.folder)) == result.best_epoch + 2 < 9


def test_a_loss_that_is_not_finite_ends_the_run_with_the_older_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    folder = train(tiny_config(tiny_data, tmp_path, "--epochs", "3")).folder
    content = load_checkpoint(folder / "weights/last.pt")
    before = (folder / "weights/last.pt").read_bytes()
    content["epoch"] = 1
    content["model"]["layers.0.conv.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="nor was it in the 1 steps before: lower lr0"):
        train(config_of(content, ""), Resume(folder, content))
    assert (folder / "weights/last.pt").read_bytes() == before


def test_weights_start_a_run_and_what_was_not_taken_over_is_named(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny_data.read_text().replace("names: [", "names: [nothing, "))
    words = ["--weights", str(tiny_run / "weights/best.pt"), "--epochs", "1"]
    train(tiny_config(other, tmp_path, *words))
    said = capsys.readouterr().out
    assert re.search(r"(\d+) of \1 tensors taken over\nrows of classes taken over: .*; new: nothing\n", said)


@pytest.mark.parametrize("words", [["--set", "precision=bf16"], ["--optimizer", "SGD"], ["--set", "fl_gamma=1.5"]])
def test_other_recipes_train_to_finite_figures(tiny_data: Path, tmp_path: Path, words: list[str]) -> None:
    result = train(tiny_config(tiny_data, tmp_path, "--epochs", "1", *words))
    assert all(value == value for value in result.metrics.values())


def test_training_writes_nothing_outside_its_run_folder(tiny_data: Path, tmp_path: Path) -> None:
    def listing() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in tiny_data.parent.rglob("*"))

    before = listing()
    train(tiny_config(tiny_data, tmp_path, "--epochs", "1"))
    assert listing() == before


def test_a_resumed_run_keeps_its_configuration(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--resume", str(tiny_run / "weights/last.pt"), "--epochs", "9", "--set", "lr0=1"]
    assert train_main(words) == 2
    assert "leave out --set" in capsys.readouterr().err


def test_weights_do_not_bring_their_anchors(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    anchors = "[[4,4,8,8,12,12],[16,16,24,24,32,32],[40,40,48,48,64,64]]"
    words = ["--weights", str(tiny_run / "weights/best.pt"), "--epochs", "1", "--set", f"model.anchors={anchors}"]
    folder = train(tiny_config(tiny_data, tmp_path, *words)).folder
    assert load_checkpoint(folder / "weights/last.pt")["ema"]["layers.24.anchors"][0, 0].tolist() == [4.0, 4.0]
