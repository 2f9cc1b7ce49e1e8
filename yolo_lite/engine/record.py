"""What a run leaves behind while it goes on: results.csv, TensorBoard, images, lines in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from yolo_lite.config.bounds import printable
from yolo_lite.config.run import RunConfig
from yolo_lite.engine import sheets
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.loss.criteria import Criterion
from yolo_lite.report.drawing import write_image
from yolo_lite.report.results_csv import ResultsCsv, results_image
from yolo_lite.report.tensorboard import TensorBoard
from yolo_lite.structures import Batch

FIGURES_OF_A_RUN = 8  # how often the images of an evaluation are drawn
EPOCHS_BETWEEN_FIGURES = 5  # at least: they take seconds


class Record:
    """The record of a run in ``folder``, from epoch ``first_epoch`` (counted from 0) on."""

    def __init__(self, folder: Path, config: RunConfig, first_epoch: int) -> None:
        self.folder, self.config = folder, config
        text = yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        self.table = ResultsCsv(folder / "results.csv", first_epoch + 1)  # its rows count from 1
        # Points that a killed run wrote after its last checkpoint are hidden.
        self.board = TensorBoard(folder, purge_step=first_epoch + 1)
        if first_epoch == 0:
            self.board.text("config", f"```yaml\n{text}\n```")

    def graph(self, model: Any) -> None:
        """The operations of a network; the size of the image changes none of them."""
        side = 2 * model.stride
        try:
            self.board.graph(model.to_trace(), torch.zeros(1, self.config.data.channels, side, side))
        except RuntimeError as error:  # a plugin's block may do what cannot be traced
            print(f"TensorBoard has no graph of this model: {str(error).strip().splitlines()[0]}")

    def batches(self, batches: Iterator[Batch], model: Any, criterion: Criterion) -> Iterator[Batch]:
        """Pass batches on; the first one is also drawn, with its boxes, and with the anchors that learn them."""
        names = self.config.data.class_names
        for number, batch in enumerate(batches):
            if number == 0:
                self._image("train/batch", "train_batch.jpg", sheets.training_sheet(batch, names), 0)
                if (assigned := sheets.assigned_cells(model, criterion, batch)) and len(assigned.image):
                    sheet = sheets.anchor_sheet(batch, assigned, names)
                    self._image("train/assigned_anchors", "assigned_anchors.jpg", sheet, 0)
            yield batch

    def epoch(self, row: Mapping[str, float], seconds: Mapping[str, float], evaluation: Evaluation) -> None:
        """Add a row of figures (``epoch`` counted from 1), and now and then the images of its evaluation."""
        number = int(row["epoch"])
        self.table.append(row)  # without seconds: a resumed run would differ from one that was not stopped
        self.board.scalars({key: value for key, value in {**row, **seconds}.items() if key != "epoch"}, number)
        epochs = self.config.train.epochs
        every = max(epochs // FIGURES_OF_A_RUN, EPOCHS_BETWEEN_FIGURES)
        is_due = number % every == 0 and number < epochs  # those of the last epoch come with the end of the run
        if is_due and self.config.train.figures:
            self._figures(evaluation, number)

    def finish(self, row: Mapping[str, float], evaluation: Evaluation) -> None:
        """The last epoch: images, metrics.json, the per-class table."""
        number = int(row["epoch"])
        if self.config.train.figures:
            self._figures(evaluation, number)
            self._image("figures/results", "results.png", results_image(self.table.path), number)
        flags = ("cfg", "data", "weights", "epochs", "batch_size", "imgsz", "seed")  # that change a result
        values = {**{key: getattr(self.config.train, key) for key in flags}, **self.config.plain()["hyp"]}
        plain = {
            key: value if isinstance(value, (int, float)) else printable(str(value)) for key, value in values.items()
        }
        self.board.hyperparameters(plain, [key for key in row if key.startswith(("metrics/", "val/"))])
        text = json.dumps(evaluation.report(), indent=2)
        (self.folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        print(f"last epoch:\n{evaluation.table()}")

    def _figures(self, evaluation: Evaluation, number: int) -> None:
        for name, image_rgb in sheets.figures(evaluation):
            self._image(f"figures/{Path(name).stem}", name, image_rgb, number)
        curves = evaluation.scores.curves
        present = {name: row for row, name in enumerate(evaluation.split.dataset.names) if curves.objects[row]}
        self.board.pr_curves(present, curves, number)

    def _image(self, tag: str, name: str, image_rgb: np.ndarray, step: int) -> None:
        self.board.image(tag, image_rgb, step)
        write_image(self.folder / name, image_rgb)


def say(row: Mapping[str, float], seconds: float, epochs: int) -> None:
    """An epoch in one line of the terminal."""
    losses = "  ".join(f"{key[6:-5]} {row[key]:.4f}" for key in row if key.startswith("train/") and "_loss" in key)
    metrics = f"mAP50 {row['metrics/mAP50']:.4f}  mAP50-95 {row['metrics/mAP50-95']:.4f}"
    print(f"epoch {int(row['epoch']):>3}/{epochs}  {losses}  {metrics}  {seconds:.1f} s", flush=True)
