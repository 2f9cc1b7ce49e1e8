"""results.csv, a row of numbers an epoch, as text, and as an image of curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from numbers import Integral

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
MASK_PANELS = {
    "mask loss": ("train/mask_loss", "val/mask_loss"),
    "mask AP": ("metrics/mask_mAP50", "metrics/mask_mAP75", "metrics/mask_mAP50-95"),
}

Row = Mapping[str, float]  # the figures of an epoch, "epoch" among them, by the names of the columns


def results_text(rows: Sequence[Row]) -> str:
    """The table of at least one row; ValueError where one has other columns than the first, or no epoch."""
    header, text = list(rows[0]), io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if set(row) != set(header) or "epoch" not in row:
            raise ValueError(f"results.csv: expected a row with the columns {header} and an epoch, found {list(row)}")
        # Digits that read back as the same number; those of a float32 would not.
        writer.writerow({key: int(one) if isinstance(one, Integral) else float(one) for key, one in row.items()})
    return text.getvalue()


def results_rows(text: str) -> list[dict[str, float]]:
    """The rows of a table; raises ValueError where it is no such table, or a row is not whole."""
    header, *rows = csv.reader(text.splitlines())
    whole = [[int(cell) if cell.isdecimal() else float(cell) for cell in row] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in whole]


def results_image(rows: Sequence[Row]) -> np.ndarray:
    """Six panels of curves over epochs, or with masks eight, from the columns that are there; RGB."""
    epochs = [row["epoch"] for row in rows]
    panels = PANELS | (MASK_PANELS if "metrics/mask_mAP50" in rows[0] else {})
    figure, columns = new_figure(13 * len(panels) / 6, 7.5), len(panels) // 2
    for axes, (title, keys) in zip(figure.subplots(2, columns).flat, panels.items(), strict=True):
        present = [key for key in keys if key in rows[0]]
        marker = "o" if len(rows) == 1 else None  # a line of one point is nothing
        for key, style in zip(present, ("-", "--", ":"), strict=False):  # lines that lie on one another are all seen
            axes.plot(epochs, [row[key] for row in rows], style, marker=marker, label=key)
        axes.set(title=title, xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
        if present:
            axes.legend(fontsize=8)
    return pixels(figure)
