"""A comparison of variants as a table and as an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from yolo_lite.report.figure import new_figure, pixels
from yolo_lite.report.table import markdown_table


class VariantRow(NamedTuple):
    """One variant; a mean comes with its standard deviation over seeds, None for a single seed."""

    variant: str
    values: list[float]  # mAP50-95 of each seed, NaN where the run failed
    map50_95: tuple[float, float | None]
    map75: tuple[float, float | None]
    map50: tuple[float, float | None]
    difference: float | None  # of mAP50-95 to the first variant, paired by seed; None for the first one itself
    half_width: float | None  # of the difference's interval, None for a single seed
    seconds: float | None  # of a run

    @property
    def verdict(self) -> str:
        """What the difference to the first variant is worth."""
        if math.isnan(self.map50_95[0]):
            return "failed"
        if self.difference is None:
            return "-"
        if math.isnan(self.difference):
            return "the first variant failed"
        if self.half_width is None:
            return "one seed tells nothing"
        if abs(self.difference) <= self.half_width:
            return "noise"
        return "better" if self.difference > 0 else "worse"


def comparison_table(rows: Sequence[VariantRow]) -> str:
    """Markdown, aligned for the terminal."""

    def cell(value: float | None, spread: float | None, sign: str = "-") -> str:
        text = "-" if value is None else f"{value:{sign}.4f}"
        return text if spread is None else f"{text} ± {spread:.4f}"

    table = [("variant", "mAP50-95", "mAP75", "mAP50", "difference", "verdict", "seconds")]
    for row in rows:
        means = cell(*row.map50_95), cell(*row.map75), cell(*row.map50)
        seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
        table.append((row.variant, *means, cell(row.difference, row.half_width, "+"), row.verdict, seconds))
    return markdown_table(table)


def comparison_image(rows: Sequence[VariantRow]) -> np.ndarray:
    """Every seed a dot, every mean a bar, the first variant's mean a line through all; RGB."""
    figure = new_figure(8, 1.4 + 0.35 * len(rows))
    axes = figure.add_subplot()
    colours = {"better": "tab:green", "worse": "tab:red"}
    for place, row in enumerate(rows):
        colour = "black" if place == 0 else colours.get(row.verdict, "tab:gray")
        axes.plot(row.values, [place] * len(row.values), "o", color=colour, alpha=0.5, markersize=5)
        axes.plot(row.map50_95[0], place, "|", color=colour, markersize=18, markeredgewidth=2.5)
    axes.axvline(rows[0].map50_95[0], color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [row.variant for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("mAP50-95 of the last epoch")
    axes.grid(axis="x", alpha=0.3)
    legend = "dots: seeds, bars: means, dotted: the first variant's mean\n"
    legend += "green or red: differs from the first variant by more than noise (95 %, all at once)"
    figure.suptitle(legend, fontsize=9)  # not of the axes, which long names make narrow
    return pixels(figure)
