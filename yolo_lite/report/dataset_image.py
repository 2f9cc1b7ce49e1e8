"""A dataset at a glance: classes, object sizes beside anchors, shapes, places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_lite.report.figure import label_of, new_figure, pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 80  # names of more could not be read
COLOURS = {"train": "tab:blue", "val": "tab:orange", "test": "tab:green"}


class DatasetShape(NamedTuple):
    """What is drawn; T objects of n images of one split, C classes."""

    names: Sequence[str]
    counts: Mapping[str, np.ndarray]  # [C] objects of each class, by split
    split: str  # which one the rest is of
    size: np.ndarray  # [T, 2] width and height in pixels of the network input
    centre: np.ndarray  # [T, 2] x and y as fractions of the image
    per_image: np.ndarray  # [n] objects
    longest: int  # pixels, the longest side of the network input
    anchors: np.ndarray | None  # [levels, anchors a level, 2], pixels
    filled: np.ndarray | Sequence[float] = ()  # [outlines] area of each as a part of its box


def dataset_image(shape: DatasetShape) -> np.ndarray:
    """Counts of classes by split; of one split sizes with anchors, aspect ratios, objects per image, centres; RGB."""
    figure, split, colour = new_figure(13.6, 7.7), shape.split, COLOURS[shape.split]
    has_outlines = len(shape.filled) > 0
    panels = figure.subplot_mosaic("aaaaa;bcdef" if has_outlines else "aaaa;bcde", height_ratios=(1, 1.15))
    classes, sizes, ratios, per_image, centres = (panels[name] for name in "abcde")
    _draw_classes(classes, shape)
    _draw_sizes(sizes, shape)
    ratio = np.clip(shape.size[:, 0] / shape.size[:, 1], 1 / 16, 16)
    ratios.hist(ratio, bins=np.geomspace(1 / 16, 16, 41).tolist(), color=colour)
    ratios.set_xscale("log", base=2)
    ratios.set_xticks([1 / 16, 1 / 4, 1, 4, 16], ["1:16", "1:4", "1:1", "4:1", "16:1"])
    ratios.set(xlabel="width : height", ylabel="objects", title=f"{split}: aspect ratios")
    most = int(shape.per_image.max(initial=1))
    per_image.hist(shape.per_image, bins=min(most + 1, 60), range=(-0.5, most + 0.5), color=colour)
    per_image.set(xlabel="objects in an image", ylabel="images", title=f"{split}: objects per image")
    *_, image = centres.hist2d(shape.centre[:, 0], shape.centre[:, 1], bins=32, range=((0, 1), (0, 1)))
    centres.set(xlabel="x, part of the width", ylabel="y, part of the height", title=f"{split}: centres", ylim=(1, 0))
    figure.colorbar(image, ax=centres, shrink=0.7)
    if has_outlines:
        panels["f"].hist(shape.filled, bins=40, range=(0, 1), color=colour)
        panels["f"].set(xlabel="area, part of the box", title=f"{split}: outlines")
    for axes in panels.values():
        axes.set_box_aspect(None if axes is classes else 1)
    return pixels(figure)


def _draw_classes(axes: Axes, shape: DatasetShape) -> None:
    total = np.sum(list(shape.counts.values()), axis=0)
    shown = np.sort(np.argsort(-total, kind="stable")[:MOST_CLASSES])
    place, width = np.arange(len(shown)), 0.8 / len(shape.counts)
    for number, (split, counts) in enumerate(shape.counts.items()):
        left = place - 0.4 + (number + 0.5) * width
        bars = axes.bar(left, counts[shown], width, label=f"{split}: {counts.sum():,}", color=COLOURS[split])
        if len(shown) * len(shape.counts) <= 30:
            axes.bar_label(bars, fontsize=8)
    names = [label_of(shape.names[label]) for label in shown]
    axes.set_xticks(place, names, rotation=90 if len(shown) > 12 else 0, fontsize=7 if len(shown) > 40 else 9)
    middle, half = (len(shown) - 1) / 2, max(len(shown), 3) / 2 + 0.1  # a lone class is no wall
    axes.set_xlim(middle - half, middle + half)
    if total.max() > 50 * total[total > 0].min(initial=total.max()):
        axes.set(yscale="log", ylim=(0.7, None))
    axes.margins(y=0.12)
    title = "objects of each class" + (f", the {MOST_CLASSES} largest" if len(shown) < len(total) else "")
    axes.set(ylabel="objects", title=title)
    axes.legend(loc="upper right")


def _draw_sizes(axes: Axes, shape: DatasetShape) -> None:
    """On logarithmic axes, where a ratio of sides is a distance."""
    edges = np.geomspace(1, shape.longest, 60).tolist()
    width, height = np.clip(shape.size, 1, shape.longest).T
    axes.hist2d(width, height, bins=(edges, edges), cmap="Greys", norm="log", vmin=0.2, cmin=1)
    limits, anchors = (1, shape.longest), () if shape.anchors is None else shape.anchors
    for level, own in enumerate(anchors):
        colour = ("tab:red", "tab:purple", "tab:cyan", "tab:olive")[level % 4]
        axes.plot(*own.T, "x", color=colour, markersize=9, markeredgewidth=2.5, label=f"level {level + 1}")
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel="width, pixels", ylabel="height, pixels")
    axes.set_title(f"{shape.split}: objects at {shape.longest} px" + (", anchors" if len(anchors) else ""))
    if len(anchors):
        axes.legend(loc="upper left", fontsize=8)
