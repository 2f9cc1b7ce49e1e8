"""Figures and images for MLflow."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from yolo_lite.report.loggers.logger import Logger
from yolo_lite.report.results_csv import Row

MOST_PARAMETERS = 100  # that MLflow takes at once


class MLflow(Logger):
    """A run of MLflow: in a folder (its file store), a database as ``uri: sqlite:///mlflow.db``, or on a server.

    A run that goes on does so there too; an epoch that a killed run has logged is not logged twice.
    """

    def __init__(self, *, uri: str = "mlruns", experiment: str = "yolo_lite") -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it tells its makers of each run
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks whether a folder is meant
        from mlflow import MlflowClient

        self._client, self._experiment = MlflowClient(tracking_uri=uri), experiment

    def start(self, folder: Path, values: Mapping[str, float | str], rows: Sequence[Row]) -> None:
        from mlflow.exceptions import MlflowException

        mark = folder / "mlflow_run.txt"  # what MLflow calls the run
        try:
            if rows and mark.exists():
                self._client.update_run(mark.read_text(encoding="utf-8").strip(), status="RUNNING")
            else:
                mark.write_text(self._begun(folder, values) + "\n", encoding="utf-8")
            self._run = mark.read_text(encoding="utf-8").strip()
            self._logged = {point.step for point in self._client.get_metric_history(self._run, "epoch")}
        except MlflowException as error:
            raise OSError(errno.EIO, f"MLflow: {error.message}", str(mark)) from error
        for row in rows:
            self.row(row)

    def row(self, row: Row) -> None:
        from mlflow.entities import Metric

        if (step := int(row["epoch"])) not in self._logged:
            now, keys = int(1000 * time.time()), sorted(row, key="epoch".__eq__)  # last: where it is, the others are
            self._client.log_batch(self._run, [Metric(key, float(row[key]), now, step) for key in keys])

    def image(self, tag: str, image_rgb: np.ndarray, step: int) -> None:
        self._client.log_image(self._run, Image.fromarray(image_rgb), f"{tag}_{step:04}.jpg")

    def end(self, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")

    def _begun(self, folder: Path, values: Mapping[str, float | str]) -> str:
        """A new run, with its parameters."""
        from mlflow.entities import Param

        known = self._client.get_experiment_by_name(self._experiment)
        experiment = known.experiment_id if known else self._client.create_experiment(self._experiment)
        name = "/".join(folder.parts[-2:])  # trial003/seed0
        run = self._client.create_run(experiment, run_name=name).info.run_id
        params = [Param(key, str(value)) for key, value in values.items()]
        for first in range(0, len(params), MOST_PARAMETERS):
            self._client.log_batch(run, params=params[first : first + MOST_PARAMETERS])
        self._client.log_artifact(run, str(folder / "config.yaml"))
        return run
