"""Precision, recall and F1 over confidence, precision over recall, and AP class by class, as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from yolo_lite.report.figure import label_of, new_figure, pixels

NAMED_CLASSES = 10  # with more of them every class is a thin grey line: no ten colours more can be told apart
RECALLS = np.linspace(0, 1, 101)


class Curves(NamedTuple):
    """How C classes do from each of N confidences on, at one IoU threshold."""

    confidence: np.ndarray  # [N] ascending
    hits: np.ndarray  # [C, N] int64, detections at or above a confidence that find an object
    above: np.ndarray  # [C, N] int64, detections at or above a confidence
    objects: np.ndarray  # [C] int64
    interpolated: np.ndarray  # [C, 101] COCO's precision at RECALLS: its mean is AP; NaN without objects

    @property
    def precision(self) -> np.ndarray:
        """Share of the detections that are right ``[C, N]``, NaN where there are none."""
        return np.where(self.above > 0, self.hits / np.maximum(self.above, 1), np.nan)

    @property
    def recall(self) -> np.ndarray:
        """Share of the objects that are found ``[C, N]``, 0 where there are none."""
        return self.hits / np.maximum(self.objects, 1)[:, None]

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of the two ``[C, N]``."""
        return 2 * self.hits / np.maximum(self.above + self.objects[:, None], 1)


def curves_image(curves: Curves, names: Sequence[str]) -> np.ndarray:
    """Four panels, a line for each class that has objects and a thick one for their mean; RGB."""
    present = np.flatnonzero(curves.objects > 0).tolist()
    figure = new_figure(11, 9, arranged=False)
    figure.subplots_adjust(left=0.06, right=0.98, top=0.93, bottom=0.14, hspace=0.28, wspace=0.16)
    panels = (
        ("precision over recall", "recall", "precision", RECALLS, curves.interpolated),
        ("F1", "confidence", "F1", curves.confidence, curves.f1),
        ("precision", "confidence", "precision", curves.confidence, curves.precision),
        ("recall", "confidence", "recall", curves.confidence, curves.recall),
    )
    for axes, (title, x_name, y_name, x, values) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        named = len(present) <= NAMED_CLASSES
        for place, label in enumerate(present):
            colour, width = (f"C{place}", 1.2) if named else ("0.75", 0.6)
            text = label_of(names[label]) if named else "each class" if place == 0 else None
            axes.plot(x, values[label], color=colour, linewidth=width, label=text)
        mean = mean_of_known(values[present], 0)
        axes.plot(x, mean, color="black", linewidth=2.2, label=f"mean of {len(present)} classes")
        axes.set(title=f"{title}: {_summary(title, x, mean)}", xlabel=x_name, ylabel=y_name)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    # One legend for all four, below them: inside a panel it would hide lines.
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, loc="lower center", ncols=4, fontsize=9)
    figure.suptitle("at IoU 0.5", fontsize=10)
    return pixels(figure)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the entries that are not NaN; NaN where there is none."""
    counted = (~np.isnan(values)).sum(axis=axis)
    return np.where(counted > 0, np.nansum(values, axis=axis) / np.maximum(counted, 1), np.nan)


def _summary(title: str, x: np.ndarray, mean: np.ndarray) -> str:
    if np.isnan(mean).all():
        return "nothing to show"
    if title == "precision over recall":
        return f"mAP50 {mean.mean():.3f}"
    best = int(np.nanargmax(mean))
    return f"best {mean[best]:.3f} from {x[best]:.3f} on"


class ClassAp(NamedTuple):
    """A bar of ``ap_image``."""

    name: str
    objects: int
    map50_95: float
    map50: float


def ap_image(classes: Sequence[ClassAp]) -> np.ndarray:
    """A bar for each class that has objects, the best on top: AP, and AP50 behind it; RGB."""
    rows = sorted((row for row in classes if row.objects), key=lambda row: (row.map50_95, row.map50))
    figure = new_figure(8, 1.5 + 0.24 * max(len(rows), 2))
    axes = figure.add_subplot()
    places = range(len(rows))
    axes.barh(places, [row.map50 for row in rows], color="#b9d4ec", label="AP50")
    axes.barh(places, [row.map50_95 for row in rows], height=0.5, color="#1f5f99", label="AP50-95")
    for place, row in zip(places, rows, strict=True):
        axes.text(row.map50 + 0.008, place, f"{row.map50_95:.3f} / {row.map50:.3f}", va="center", fontsize=7.5)
    axes.set_yticks(places, [f"{label_of(row.name)} ({row.objects})" for row in rows], fontsize=8)
    axes.set(xlim=(0, 1.16), ylim=(-0.6, max(len(rows), 1) - 0.4), xticks=np.linspace(0, 1, 6))
    axes.set(xlabel="average precision", ylabel="class (objects)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return pixels(figure)
