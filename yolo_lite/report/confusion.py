"""The confusion matrix as an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolo_lite.report.figure import label_of, new_figure, pixels

NUMBERED = 15  # classes: with more of them there is no room for numbers
LARGEST = 40  # classes: of more, those with the most objects are shown


def confusion_image(matrix: np.ndarray, names: Sequence[str], subtitle: str) -> np.ndarray:
    """Counts ``[C + 1, C + 1]``, rows predictions, columns truth, the last of each the background; RGB.

    Colours are shares of a column: of the objects of a class. Of more than 40 classes the most frequent are shown and
    all others are added up as one.
    """
    matrix, names = _most_frequent(matrix, names)
    titles = [*map(label_of, names), "background"]
    size = len(titles)
    side = 3.2 + (0.75 * size if size <= NUMBERED + 1 else 0.19 * size)
    figure = new_figure(side + 1.2, side)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=0, keepdims=True), 1)
    image = axes.imshow(np.where(matrix > 0, shares, np.nan), cmap="Blues", vmin=0, vmax=1)
    if size <= NUMBERED + 1:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = f"{matrix[row, column]}\n{shares[row, column]:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)
    font = 9 if size <= NUMBERED + 1 else 6.5
    axes.set_xticks(range(size), titles, rotation=90 if size > 4 else 0, fontsize=font)
    axes.set_yticks(range(size), titles, fontsize=font)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("truth (background: nothing is there)")
    axes.set_ylabel("prediction (background: missed)")
    figure.suptitle(subtitle, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the column")
    return pixels(figure)


def _most_frequent(matrix: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The rows and columns of the 40 most frequent classes, in their order; the others are one."""
    num_classes = len(names)
    if num_classes <= LARGEST:
        return matrix, list(names)
    frequent = np.sort(np.argsort(-matrix[:, :-1].sum(axis=0), kind="stable")[:LARGEST])
    place = np.full(num_classes + 1, LARGEST)  # of each class in the smaller matrix
    place[frequent], place[-1] = np.arange(LARGEST), LARGEST + 1
    smaller = np.zeros((LARGEST + 2, LARGEST + 2), dtype=matrix.dtype)
    np.add.at(smaller, (place[:, None], place[None, :]), matrix)
    return smaller, [*(names[label] for label in frequent), f"{num_classes - LARGEST} others"]
