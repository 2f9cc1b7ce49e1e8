"""Figures and images for MLflow."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolo_lite.report.loggers.logger import Logger
from yolo_lite.report.results_csv import Row

RUN_FILE = "mlflow_run.txt"  # in the run's folder: what MLflow calls it
MOST_PARAMETERS = 100  # that MLflow takes at once


class MLflow(Logger):
    """A run of MLflow in a folder (its file store, ``uri: mlruns``), a database (``sqlite:///mlflow.db``) or a server.

    A run that goes on does so there too; an epoch that a killed run has logged is not logged twice.
    """

    def __init__(self, *, uri: str = "mlruns", experiment: str = "yolo_lite") -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its makers of each run
        if "://" not in uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 wants to be asked for
        from mlflow import MlflowClient

        self.uri, self.experiment, self._client = uri, experiment, MlflowClient(tracking_uri=uri)
        self._run, self._logged = "", set[int]()

    def start(self, folder: Path, values: Mapping[str, float | str], rows: Sequence[Row]) -> None:
        file = folder / RUN_FILE
        self._run = file.read_text(encoding="utf-8").strip() if rows and file.exists() else ""
        if not self._run or not self._goes_on():
            self._run = self._call(self._begin, folder, values)
            file.write_text(self._run + "\n", encoding="utf-8")
        self._logged = {point.step for point in self._call(self._client.get_metric_history, self._run, "epoch")}
        for row in rows:
            self.row(row)

    def row(self, row: Row) -> None:
        from mlflow.entities import Metric

        if (step := int(row["epoch"])) in self._logged:
            return
        now, values = int(1000 * time.time()), {**row}
        values["epoch"] = values.pop("epoch")  # last: where it is, all others are
        self._call(self._client.log_batch, self._run, [Metric(key, float(one), now, step) for key, one in values.items()])

    def image(self, tag: str, image_rgb: np.ndarray, step: int) -> None:
        self._call(self._client.log_image, self._run, Image.fromarray(image_rgb), f"{tag}_{step:04}.jpg")

    def end(self, finished: bool) -> None:
        self._call(self._client.set_terminated, self._run, "FINISHED" if finished else "KILLED")

    def _goes_on(self) -> bool:
        """Whether the run is still there: MLflow's folder may have been deleted, or be that of another machine."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(self._run, status="RUNNING")
        except MlflowException:
            return False
        return True

    def _begin(self, folder: Path, values: Mapping[str, float | str]) -> str:
        from mlflow.entities import Param

        known = self._client.get_experiment_by_name(self.experiment)
        experiment = known.experiment_id if known else self._client.create_experiment(self.experiment)
        run = self._client.create_run(experiment, run_name=folder.name).info.run_id
        params = [Param(key, str(value)) for key, value in values.items()]
        for first in range(0, len(params), MOST_PARAMETERS):
            self._client.log_batch(run, params=params[first : first + MOST_PARAMETERS])
        self._client.log_artifact(run, str(folder / "config.yaml"))
        return run

    def _call(self, function: Callable[..., Any], *values: Any) -> Any:
        """OSError that names the place, where MLflow cannot do it."""
        from mlflow.exceptions import MlflowException

        try:
            return function(*values)
        except MlflowException as error:
            raise OSError(errno.EIO, f"MLflow: {error.message}", self.uri) from error
