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
