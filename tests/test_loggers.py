"""Loggers: what the key ``loggers`` names gets the figures and images of a run, and nothing else does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, rows_of

from yolo_lite.cli.main import main, train_main
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_hyp
from yolo_lite.engine.seams import SEAMS
from yolo_lite.report.loggers import LOGGERS, MLflow

# Writes down what it is told, and ends its second run after the first epoch.
PLUGIN = """\
import json
from pathlib import Path

from yolo_lite.report.loggers import Logger


class Diary(Logger):
    def __init__(self, *, place: str = '', stop_at: int = 0):
        self.place, self.stop_at = Path(place), stop_at

    def write(self, *words):
        with open(self.place, "a") as file:
            file.write(json.dumps(words) + "\\n")

    def start(self, folder, values, rows):
        self.write("start", folder.name, values["lr0"], (folder / "config.yaml").exists(), len(rows))

    def row(self, row):
        self.write("row", row)
        if row["epoch"] == self.stop_at:
            raise KeyboardInterrupt

    def image(self, tag, image_rgb, step):
        self.write("image", tag, image_rgb.shape[2], step)

    def end(self, finished):
        self.write("end", finished)


LOGGERS = {"diary": Diary}
"""


def words(data: Path, project: Path, *more: str) -> list[str]:
    files = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    sizes = ["--epochs", "1", "--batch-size", "10", "--imgsz", "32", "--workers", "0", "--device", "cpu"]
    return [*files, "--data", str(data), "--project", str(project), *sizes, *more]


def test_a_logger_of_a_plugin_gets_what_tensorboard_would(tiny_data: Path, tmp_path: Path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    place = tmp_path / "diary.jsonl"
    setting = f"loggers=[{{diary: {{place: {place}}}}}]"
    assert train_main(words(tiny_data, tmp_path, "--plugin", str(tmp_path / "plugin.py"), "--set", setting)) == 0
    told = [json.loads(line) for line in place.read_text().splitlines()]
    assert told[0] == ["start", "exp", 0.0015, True, 0] and told[-1] == ["end", True]
    images = {tuple(one[1:]) for one in told if one[0] == "image"}
    assert {("train/batch", 3, 0), ("figures/curves", 3, 1), ("figures/results", 3, 1)} <= images
    (row,) = (one[1] for one in told if one[0] == "row")
    (stored,) = rows_of(tmp_path / "exp")
    assert {key: float(value) for key, value in stored.items()} == {key: row[key] for key in stored}
    assert row.keys() - stored.keys() == {"time/train", "time/data_wait", "time/validation"}
    assert not list((tmp_path / "exp").glob("events.*"))  # TensorBoard was not asked for


def test_a_run_that_is_stopped_is_not_finished_for_its_loggers(tiny_data: Path, tmp_path: Path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    setting = f"loggers=[{{diary: {{place: {tmp_path / 'diary'}, stop_at: 1}}}}]"
    more = ["--plugin", str(tmp_path / "plugin.py"), "--no-figures", "--set", setting]
    assert train_main(words(tiny_data, tmp_path, *more)) == 130
    assert (tmp_path / "diary").read_text().splitlines()[-1] == '["end", false]'


def test_loggers_are_named_never_found():
    assert [str(choice) for choice in Hyp().loggers] == ["tensorboard"]
    assert SEAMS["LOGGERS"].entries is LOGGERS and set(LOGGERS) == {"tensorboard", "mlflow"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tensorbord", "hyp.yaml:1: loggers.0: unknown name 'tensorbord' (nearest: 'tensorboard')"),
        ("[{mlflow: {url: x}}]", "unknown parameter (nearest: 'uri')"),
        ("[{mlflow: {uri: 3}}]", "expected text, found 3"),
    ],
)
def test_wrong_names_and_parameters_are_refused_in_one_line(given: str, expected: str, tmp_path: Path):
    (tmp_path / "hyp.yaml").write_text(f"loggers: {given}\n")
    with pytest.raises(ValueError) as caught:
        load_hyp(tmp_path / "hyp.yaml", (), SEAMS)
    assert expected in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_one_or_no_logger_need_no_list(tmp_path: Path):
    for text, names in (("mlflow", ["mlflow"]), ("[]", []), ("[tensorboard, mlflow]", ["tensorboard", "mlflow"])):
        (tmp_path / "hyp.yaml").write_text(f"loggers: {text}\n")
        assert [choice.name for choice in load_hyp(tmp_path / "hyp.yaml", (), SEAMS).loggers] == names


def test_a_package_that_is_missing_is_said_before_anything_is_written(
    tiny_data: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert train_main(words(tiny_data, tmp_path / "runs", "--set", "loggers=mlflow")) == 2
    assert capsys.readouterr().err == "error: loggers: mlflow needs mlflow: pip install mlflow\n"
    assert not (tmp_path / "runs").exists()


def test_a_plugin_brings_subclasses_of_logger(tmp_path: Path, capsys):
    (tmp_path / "plugin.py").write_text("class Own:\n    pass\n\nLOGGERS = {'own': Own}\n")
    assert main(["losses", "--plugin", str(tmp_path / "plugin.py")]) == 2
    assert "LOGGERS['own']: expected a subclass of Logger, found <class" in capsys.readouterr().err


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "train/box_loss": 1 / epoch, "metrics/mAP50-95": 0.1 * epoch}


def test_mlflow_holds_rows_parameters_and_images_and_goes_on_where_a_kill_stopped_it(tmp_path: Path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setattr("os.environ", {**os.environ})
    folder, uri = tmp_path / "exp", str(tmp_path / "mlruns")
    folder.mkdir()
    (folder / "config.yaml").write_text("train: {}\n")
    values = {"lr0": 0.0015, "box_loss": "ciou", **{f"more{number}": number for number in range(150)}}
    killed = MLflow(uri=uri)
    killed.start(folder, values, [])
    killed.image("figures/curves", np.full((8, 9, 3), 200, np.uint8), 5)
    for epoch in (1, 2):
        killed.row(row(epoch))
    again = MLflow(uri=uri)  # after the checkpoint of epoch 1
    again.start(folder, values, [row(1)])
    for epoch in (2, 3):
        again.row(row(epoch))
    again.end(finished=True)

    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("yolo_lite").experiment_id])
    assert (run.info.run_name, run.info.status) == (f"{tmp_path.name}/exp", "FINISHED")
    assert run.data.params == {key: str(value) for key, value in values.items()}
    for key in row(1):
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        assert points == [(epoch, pytest.approx(row(epoch)[key])) for epoch in (1, 2, 3)]
    names = {path.name for path in (tmp_path / "mlruns").rglob("artifacts/**/*")}
    assert {"config.yaml", "curves_0005.jpg"} <= names
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"

    (folder / "mlflow_run.txt").write_text("0" * 32)
    with pytest.raises(OSError, match=r"MLflow: Run '0+' not found"):
        MLflow(uri=uri).start(folder, values, [row(1)])
    anew = MLflow(uri=uri)
    anew.start(folder, values, [])
    anew.end(finished=False)
    statuses = sorted(one.info.status for one in client.search_runs([run.info.experiment_id]))
    assert statuses == ["FINISHED", "KILLED"]
