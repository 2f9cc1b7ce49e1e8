"""What a run leaves behind while it goes on: results.csv, TensorBoard, pictures, lines in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml

from yolo_lite.config.schema import RunConfig
from yolo_lite.data.index import DatasetIndex
from yolo_lite.engine import sheets
from yolo_lite.engine.evaluate import LOSS_NAMES, Evaluation, format_table
from yolo_lite.report.pictures import encode_picture
from yolo_lite.report.results_csv import ResultsCsv
from yolo_lite.report.tensorboard import TensorBoard
from yolo_lite.structures import Batch

SHEETS_OF_A_RUN = 8  # how often validation pictures go to TensorBoard


class Record:
    """The record of a run in ``folder``, from epoch ``first_epoch`` (counted from 0) on."""

    def __init__(self, folder: Path, config: RunConfig, first_epoch: int) -> None:
        self.folder, self.epochs = folder, config.train.epochs
        text = yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        self.table = ResultsCsv(folder / "results.csv", first_epoch + 1)  # its rows count from 1
        # Points that a killed run wrote after its last checkpoint are hidden.
        self.board = TensorBoard(folder, purge_step=first_epoch + 1)
        if first_epoch == 0:
            self.board.text("config", f"```yaml\n{text}\n```")

    def batches(self, batches: Iterator[Batch], names: tuple[str, ...], first_step: int) -> Iterator[Batch]:
        """Pass batches on; the first one of a run is also drawn, with its boxes."""
        for number, batch in enumerate(batches):
            if number == 0 and first_step == 0:
                sheet = sheets.training_sheet(batch, names)
                self._picture("train/batch", "train_batch.png", sheet, 0)
            yield batch

    def epoch(self, row: Mapping[str, float], evaluation: Evaluation, index: DatasetIndex) -> None:
        """Add a row of figures (``epoch`` counted from 1) and now and then a sheet of validation pictures."""
        number = int(row["epoch"])
        self.table.append(row)
        self.board.scalars({key: value for key, value in row.items() if key != "epoch"}, number)
        if (number - 1) % max(self.epochs // SHEETS_OF_A_RUN, 1) == 0:
            self._validation_sheet(evaluation, index, number)

    def finish(self, evaluation: Evaluation, index: DatasetIndex, epoch: int) -> None:
        """The last pictures and the per-class table of the last epoch."""
        self._validation_sheet(evaluation, index, epoch)
        print(f"last epoch:\n{format_table(evaluation, index)}")

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        self.board.close()

    def _validation_sheet(self, evaluation: Evaluation, index: DatasetIndex, number: int) -> None:
        sheet = sheets.prediction_sheet(index, evaluation.detections)
        self._picture("val/labels_and_predictions", "val_predictions.png", sheet, number)

    def _picture(self, tag: str, name: str, image_rgb: np.ndarray, step: int) -> None:
        png = encode_picture(image_rgb)
        self.board.picture(tag, png, step)
        (self.folder / name).write_bytes(png)


def say(row: Mapping[str, float], seconds: float, epochs: int) -> None:
    """An epoch in one line of the terminal."""
    losses = "  ".join(f"{name[:3]} {row[f'train/{name}']:.4f}" for name in LOSS_NAMES)
    metrics = f"mAP50 {row['metrics/mAP50']:.4f}  mAP50-95 {row['metrics/mAP50-95']:.4f}"
    print(f"epoch {int(row['epoch']):>3}/{epochs}  {losses}  {metrics}  {seconds:.1f} s", flush=True)
