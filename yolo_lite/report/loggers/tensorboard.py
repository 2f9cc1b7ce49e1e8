"""Figures and images for TensorBoard."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolo_lite.report.evaluation import Curves
from yolo_lite.report.loggers.logger import Logger
from yolo_lite.report.results_csv import Row

EVENTS = "events.out.tfevents.*"  # files of TensorBoard
PR_THRESHOLDS = 128  # of the curves in the PR CURVES tab


class TensorBoard(Logger):
    """An event file in the run's folder, where ``tensorboard --logdir`` finds it."""

    def start(self, folder: Path, values: Mapping[str, float | str], rows: Sequence[Row]) -> None:
        # imported here since it costs about 2 s, which commands that log nothing need not pay
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self._values, self._columns = folder, values, list[str]()
        # Points that a killed run wrote after its last checkpoint are hidden; those that a crash took are added again.
        gap = first_gap(folder, rows)
        self._writer = SummaryWriter(str(folder), purge_step=gap, flush_secs=20)
        for row in rows:
            if row["epoch"] >= gap:
                self._scalars(row)
        if not rows:
            text = (folder / "config.yaml").read_text(encoding="utf-8")
            self._add(self._writer.add_text, "config", f"```yaml\n{text}\n```", 0)

    def row(self, row: Row) -> None:
        """Adds a point to the curve of each column; "loss/box" and "loss/obj" share a section."""
        self._columns = [*row]
        self._scalars(row)
        self._add(self._writer.flush)
        for file in self.folder.glob(EVENTS):
            with open(file, "rb+") as events:
                os.fsync(events.fileno())

    def image(self, tag: str, image_rgb: np.ndarray, step: int) -> None:
        """Adds an image uint8 ``[H, W, 3]``."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        # A JPEG, a fifth of a PNG: TensorBoard computes a checksum of each byte in Python, 0.2 s for a megabyte, which
        # training waits for. (SummaryWriter.add_image writes a PNG.)
        file, (height, width) = io.BytesIO(), image_rgb.shape[:2]
        Image.fromarray(image_rgb).save(file, "jpeg", quality=90)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._add(self._writer._get_file_writer().add_summary, summary, step)

    def pr_curves(self, names: Mapping[str, int], curves: Curves, step: int) -> None:
        """Adds precision over recall of each class, given with its row of the curves; missed objects count."""
        places = np.linspace(0, len(curves.confidence) - 1, PR_THRESHOLDS).round().astype(int)
        for name, row in names.items():
            hits, above = curves.hits[row, places], curves.above[row, places]
            counts = (hits, above - hits, np.zeros_like(hits), curves.objects[row] - hits)  # tp fp tn fn
            ratios = np.nan_to_num(curves.precision[row, places]), curves.recall[row, places]
            self._add(self._writer.add_pr_curve_raw, f"pr/{name}", *counts, *ratios, step, PR_THRESHOLDS)

    def graph(self, module: Any, inputs: Any) -> None:
        """Adds the operations of a module, as they are traced with these inputs."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, of sizes that it takes for constants
            traced = torch.jit.trace(module, inputs, check_trace=False, strict=False)
            self._add(self._writer.add_graph, traced, inputs, False, False)  # not verbose, not strict

    def end(self, finished: bool) -> None:
        """Where what is left cannot be written it is said: what ends a run is not lost for its curves."""
        if finished:
            self._hyperparameters()
        try:
            self._writer.close()
        except OSError as error:
            print(f"{self.folder}: the curves are not complete: {error.strerror}")

    def _hyperparameters(self) -> None:
        """Adds a line to the HPARAMS tab: the values beside the last points of metrics and validation losses."""
        from torch.utils.tensorboard.summary import hparams

        # SummaryWriter.add_hparams would make a second run, in a folder below, with points of its own.
        shown = [column for column in self._columns if column.startswith(("metrics/", "val/"))]
        for summary in hparams(dict(self._values), dict.fromkeys(shown, 0.0)):
            self._add(self._writer._get_file_writer().add_summary, summary)

    def _scalars(self, row: Row) -> None:
        for tag, value in row.items():
            if tag != "epoch":
                self._add(self._writer.add_scalar, tag, value, int(row["epoch"]))

    def _add(self, add: Callable[..., None], *values: Any) -> None:
        """The writer's thread tells what befell it, such as a full disk, at the next call, but not where."""
        try:
            add(*values)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder)) from error


def first_gap(folder: Path, rows: Sequence[Row]) -> int:
    """The first of the epochs that the event files in a folder do not hold whole, 1 + the last row's where none lacks.

    A file counts up to where it is damaged: TensorBoard shows no more of it.
    """
    if not rows:
        return 1
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    present: dict[int, set[str]] = {}
    for file in sorted(folder.glob(EVENTS)):
        for event in map(Event.FromString, RawEventFileLoader(str(file)).Load()):
            if event.session_log.status == SessionLog.START:  # hides what files before it hold from this step on
                present = {step: tags for step, tags in present.items() if step < event.step}
            present.setdefault(event.step, set()).update(value.tag for value in event.summary.value)
    lacking = (int(row["epoch"]) for row in rows if row.keys() - {"epoch"} - present.get(int(row["epoch"]), set()))
    return next(lacking, int(rows[-1]["epoch"]) + 1)
