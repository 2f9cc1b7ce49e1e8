"""results.csv as an image."""

from __future__ import annotations

import csv
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
STYLES = ("-", "--", ":")  # lines that lie on one another are all seen


def results_image(path: Path) -> np.ndarray:
    """Six panels of curves over epochs, from the columns of a run's results.csv that are there; RGB."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    figure = new_figure(13, 7.5, arranged=False)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.95, bottom=0.07, hspace=0.28, wspace=0.3)
    for axes, (title, keys) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for number, key in enumerate(key for key in keys if rows and key in rows[0]):
            values = np.array([float(row[key]) for row in rows])
            marker = "o" if len(rows) == 1 else None  # a line of one point is nothing
            axes.plot(epochs, values, color=f"C{number}", linestyle=STYLES[number], marker=marker, label=key)
        axes.set(title=title, xlabel="epoch", ylabel=title)
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    return pixels(figure)
