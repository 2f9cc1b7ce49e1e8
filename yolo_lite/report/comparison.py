"""A comparison of variants as a table and as an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_lite.report.figure import new_figure, pixels
from yolo_lite.report.table import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"better": "#1b9e77", "worse": "#d95f02", "failed": "#d95f02"}  # that the colour-blind tell apart


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
    table = [("variant", "mAP50-95", "mAP75", "mAP50", "difference", "verdict", "seconds")]
    for row in rows:
        means = mean_text(row), spread_text(*row.map75), spread_text(*row.map50)
        seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
        difference = spread_text(row.difference, row.half_width, "+")
        table.append((row.variant, *means, difference, row.verdict, seconds))
    return markdown_table(table)


def mean_text(row: VariantRow) -> str:
    """Mean and deviation of mAP50-95, or how many runs failed."""
    failed = sum(map(math.isnan, row.values))
    return f"{failed} of {len(row.values)} failed" if failed else spread_text(*row.map50_95)


def spread_text(value: float | None, spread: float | None, sign: str = "-") -> str:
    """A number with what it varies by; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:{sign}.4f}" if spread is None else f"{value:{sign}.4f} ± {spread:.4f}"


def comparison_image(panels: Mapping[str, Sequence[VariantRow]]) -> np.ndarray:
    """A panel for each set, by its title: every seed a dot, every mean a bar, all against the first variant; RGB."""
    columns, num_variants = min(len(panels), 3), max(map(len, panels.values()))
    lines = -(-len(panels) // columns)
    figure = new_figure(max(4.2 * columns + 1, 8), (0.8 + 0.36 * num_variants) * lines + 0.9)
    places = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes, (title, rows) in zip(places, panels.items(), strict=False):
        _panel(axes, rows)
        axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("mAP50-95 of the last epoch", fontsize=10)
    legend = "dots: seeds, thin lines join equal ones; bars and figures: means; dotted: mean of the first variant\n"
    legend += "green or orange: better or worse than the first variant by more than noise (95 %, all variants at once)"
    figure.suptitle(legend, fontsize=9)  # not of the axes, which long names make narrow
    return pixels(figure)


def _panel(axes: Axes, rows: Sequence[VariantRow]) -> None:
    """One set: a line for each variant, its mean in figures at the right."""
    for seed in zip(*(row.values for row in rows), strict=True):
        axes.plot(seed, range(len(rows)), color="black", alpha=0.12, linewidth=0.8)  # pairs
    axes.axvline(rows[0].map50_95[0], color="black", linewidth=0.8, linestyle=":")
    for place, row in enumerate(rows):
        colour = COLOURS.get(row.verdict, "black" if place == 0 else "dimgray")
        axes.plot(row.values, [place] * len(row.values), "o", color=colour, alpha=0.5, markersize=5, clip_on=False)
        axes.plot(row.map50_95[0], place, "|", color=colour, markersize=18, markeredgewidth=2.5, clip_on=False)
        failed, right = math.isnan(row.map50_95[0]), axes.get_yaxis_transform()
        text = mean_text(row) if failed else f"{row.map50_95[0]:.3f}"
        axes.text(1.02, place, text, transform=right, color=colour, fontsize=9, va="center")
    axes.set_yticks(range(len(rows)), [row.variant for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    low, high = axes.dataLim.intervalx if np.isfinite(axes.dataLim.intervalx).all() else (0, 1)
    beside = max(0.12 * (high - low), 0.01)  # a scale on which a thousandth is not everything
    axes.set_xlim(low - beside, high + beside)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=9)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", alpha=0.3)
