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
    """Four panels at IoU 0.5, a line for each class that has objects and a thick one for their mean; RGB."""
    present = np.flatnonzero(curves.objects > 0).tolist()
    named = len(present) <= NAMED_CLASSES
    figure = new_figure(11, 9)
    panels = (
        ("recall", "precision", RECALLS, curves.interpolated),
        ("confidence", "F1", curves.confidence, curves.f1),
        ("confidence", "precision", curves.confidence, curves.precision),
        ("confidence", "recall", curves.confidence, curves.recall),
    )
    for axes, (x_name, y_name, x, values) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for place, label in enumerate(present):
            colour, width = (f"C{place}", 1.2) if named else ("0.75", 0.6)
            text = label_of(names[label]) if named else "each class" if place == 0 else None
            axes.plot(x, values[label], color=colour, linewidth=width, label=text)
        mean = mean_of_known(values[present], 0)
        axes.plot(x, mean, color="black", linewidth=2.2, label=f"mean of {len(present)} classes")
        best = 0 if np.isnan(mean).all() else int(np.nanargmax(mean))
        told = f"mAP50 {mean.mean():.3f}" if x_name == "recall" else f"best {mean[best]:.3f} from {x[best]:.3f} on"
        axes.set(title=f"{y_name} over {x_name}: {told}", xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    # One legend for all four, below them: inside a panel it would hide lines.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle("at IoU 0.5", fontsize=10)
    return pixels(figure)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the entries that are not NaN; NaN where there is none."""
    counted = (~np.isnan(values)).sum(axis=axis)
    return np.where(counted > 0, np.nansum(values, axis=axis) / np.maximum(counted, 1), np.nan)


def ap_image(names: Sequence[str], objects: np.ndarray, ap: np.ndarray) -> np.ndarray:
    """A bar for each class that has objects, the best on top: AP, and AP50 behind it; RGB.

    Args:
        names, objects, ap: of each class, ``[C]``, ``[C]``, and AP50-95 beside AP50 ``[C, 2]``.
    """
    order = [label for label in np.lexsort(ap.T[::-1]) if objects[label]]
    ap50_95, ap50 = ap[order].T
    labels = [f"{label_of(names[label])} ({objects[label]})" for label in order]
    figure = new_figure(8, 1.5 + 0.24 * max(len(order), 2))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(order)), ap50, color="#b9d4ec", label="AP50")
    axes.barh(range(len(order)), ap50_95, height=0.5, color="#1f5f99", label="AP50-95")
    axes.bar_label(bars, [f"{mean:.3f} / {at_50:.3f}" for mean, at_50 in ap[order]], padding=4, fontsize=7.5)
    axes.set_yticks(range(len(order)), labels, fontsize=8)
    axes.set(xlim=(0, 1.16), ylim=(-0.6, max(len(order), 1) - 0.4), xticks=np.linspace(0, 1, 6))
    axes.set(xlabel="average precision", ylabel="class (objects)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return pixels(figure)
