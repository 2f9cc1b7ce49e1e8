"""results.csv: one row of numbers an epoch, on disk after every epoch, no epoch twice after a resume; and its image."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path

import numpy as np

from yolo_lite.report.figure import new_figure, pixels

PANELS = {
    "box loss": ("train/box_loss", "val/box_loss"),
    "objectness loss": ("train/obj_loss", "val/obj_loss"),
    "class loss": ("train/cls_loss", "val/cls_loss"),
    "AP": ("metrics/mAP50", "metrics/mAP75", "metrics/mAP50-95"),
    "precision and recall": ("metrics/precision", "metrics/recall"),
    "learning rate": ("lr/weights", "lr/norms", "lr/biases"),
}


class ResultsCsv:
    """A growing table of epochs. The first row's keys become the header; one of them must be "epoch".

    An existing file is continued: its rows before `first_epoch` stay, later ones and a last line cut off by a
    crash are dropped, so `first_epoch=0` starts afresh. Raises ValueError if the kept file is no such table.
    """

    def __init__(self, path: str | os.PathLike[str], first_epoch: int = 0):
        self.path = Path(path)
        self.header: list[str] | None = None
        if not self.path.exists():
            return
        rows = _rows_before(self.path, first_epoch) if first_epoch > 0 else []
        self.header = rows[0] if rows else None
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        os.replace(temporary, self.path)  # a crash leaves the old rows or the new ones

    def append(self, row: Mapping[str, float]) -> None:
        """Adds one row, in the header's order. Raises ValueError if its keys are not those of the header."""
        header = self.header or list(row)
        if set(row) != set(header) or "epoch" not in row:
            raise ValueError(f"{self.path}: expected a row with the columns {header} and an epoch, found {list(row)}")
        # Digits that read back as the same number; those of a float32 would not.
        values = {key: int(value) if isinstance(value, Integral) else float(value) for key, value in row.items()}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header, lineterminator="\n")
            if self.header is None:
                writer.writeheader()
            writer.writerow(values)
        self.header = header


def _rows_before(path: Path, first_epoch: int) -> list[list[str]]:
    """The header and the complete rows of earlier epochs; empty without such a row."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = list(csv.reader(line for line in lines if line.endswith("\n")))
    if rows and "epoch" not in rows[0]:
        raise ValueError(f'{path}: expected a header with the column "epoch", found {rows[0]}')
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path}:{number}: expected {len(rows[0])} columns, found {len(row)}")
    kept = [row for row in rows[1:] if int(row[rows[0].index("epoch")]) < first_epoch]
    return [rows[0], *kept] if kept else []


def results_image(path: Path) -> np.ndarray:
    """Six panels of curves over epochs, from the columns of a run's results.csv that are there; RGB."""
    table = np.genfromtxt(path, delimiter=",", names=True, deletechars="", ndmin=1)
    figure = new_figure(13, 7.5)
    for axes, (title, keys) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        present = [key for key in keys if key in (table.dtype.names or ())]
        marker = "o" if len(table) == 1 else None  # a line of one point is nothing
        for key, style in zip(present, ("-", "--", ":"), strict=False):  # lines that lie on one another are all seen
            axes.plot(table["epoch"], table[key], style, marker=marker, label=key)
        axes.set(title=title, xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        if present:
            axes.legend(fontsize=8)
    return pixels(figure)
