"""An evaluation as images: curves over confidence and recall, AP class by class, the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.report.figure import label_of, new_figure, pixels

NAMED_CLASSES = 10  # with more of them every class is a thin grey line: no ten colours more can be told apart
NUMBERED = 15  # classes: with more of them there is no room for numbers
LARGEST = 40  # classes: of more, those with the most objects are shown
POINT_LINES = {"f1": "--", "precision": ":", "recall": "-."}  # how operating points are drawn
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


def curves_image(curves: Curves, names: Sequence[str], points: Mapping[str, Any] | None = None) -> np.ndarray:
    """Four panels at IoU 0.5, a line for each class that has objects and a thick one for their mean; RGB.

    Operating points (engine/operating_points.py) are lines where the confidence of all classes is, and in the panel of
    what they reach dots where that of each class is.
    """
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
        if points and x_name == "confidence":
            _mark_points(axes, points, y_name, {names[label]: values[label] for label in present} if named else {})
    # One legend for all four, below them: inside a panel it would hide lines.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle("at IoU 0.5", fontsize=10)
    return pixels(figure)


def _mark_points(axes: Any, points: Mapping[str, Any], panel: str, values: Mapping[str, np.ndarray]) -> None:
    """The operating points in a panel over confidence; of each class ``[N]`` its own point of that panel."""
    for kind, line in POINT_LINES.items():
        if (point := points.get(kind)) and point["all"] is not None:
            label = f"{point_title(points, kind)} on {points['split']}"
            axes.axvline(point["all"], color="0.35", linestyle=line, label=label)
    point = points.get(panel.lower(), {})
    if "wanted" in point:
        axes.axhline(point["wanted"], color="0.35", linewidth=0.6)
    for place, (name, own) in enumerate(values.items()):
        if (confidence := point.get("by_class", {}).get(name)) is not None:
            height = own[row_at(confidence, len(own))]
            axes.plot(confidence, height, "o", color=f"C{place}", markersize=6, markeredgecolor="black")


def point_title(points: Mapping[str, Any], kind: str) -> str:
    """``"best F1"``, ``"precision 0.95"``."""
    return "best F1" if kind == "f1" else f"{kind} {points[kind]['wanted']:g}"


def row_at(confidence: float, count: int = 1000) -> int:
    """The row of curves of ``count`` confidences that has the confidence of an operating point."""
    return min(max(round(confidence * count), 1), count) - 1


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the entries that are not NaN; NaN where there is none."""
    counted = (~np.isnan(values)).sum(axis=axis)
    return np.where(counted > 0, np.nansum(values, axis=axis) / np.maximum(counted, 1), np.nan)


def ap_image(names: Sequence[str], objects: np.ndarray, ap: np.ndarray) -> np.ndarray:
    """A bar for each of C classes that has objects, the best on top: ``ap [C, 2]``, AP50-95 before AP50; RGB."""
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


def confusion_image(matrix: np.ndarray, names: Sequence[str], subtitle: str) -> np.ndarray:
    """Counts ``[C + 1, C + 1]``, rows predictions, columns truth, the last of each the background; RGB.

    Colours are shares of a column: of the objects of a class. Of more than 40 classes the most frequent are shown and
    all others are added up as one.
    """
    matrix, names = _most_frequent(matrix, names)
    titles = [*map(label_of, names), "background"]
    numbered = len(names) <= NUMBERED
    side, font = (3.2 + 0.75 * len(titles), 9) if numbered else (3.2 + 0.19 * len(titles), 6.5)
    figure = new_figure(side + 1.2, side)
    axes = figure.add_subplot(aspect="equal")
    shares = matrix / np.maximum(matrix.sum(axis=0), 1)
    shown, places = np.ma.masked_equal(shares, 0), np.arange(len(titles))
    image = axes.pcolormesh(places, places, shown, cmap="Blues", vmin=0, vmax=1, edgecolors="0.9", linewidth=0.6)
    for row, column in np.argwhere(matrix) if numbered else ():
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{matrix[row, column]}\n{shares[row, column]:.2f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(places, titles, rotation=90 if len(titles) > 4 else 0, fontsize=font)
    axes.set_yticks(places, titles, fontsize=font)
    axes.invert_yaxis()
    axes.set(xlabel="truth (background: nothing is there)", ylabel="prediction (background: missed)")
    figure.suptitle(subtitle, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the column")
    return pixels(figure)


def _most_frequent(matrix: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """The rows and columns of the 40 most frequent classes, in their order; the others are one."""
    if len(names) <= LARGEST:
        return matrix, names
    frequent = np.sort(np.argsort(-matrix[:, :-1].sum(axis=0), kind="stable")[:LARGEST])
    place = np.full(len(matrix), LARGEST)  # of each class in the smaller matrix
    place[frequent], place[-1] = np.arange(LARGEST), LARGEST + 1
    member = np.eye(LARGEST + 2, dtype=matrix.dtype)[place]  # [C + 1, 42]
    return member.T @ matrix @ member, [*(names[label] for label in frequent), f"{len(names) - LARGEST} others"]
