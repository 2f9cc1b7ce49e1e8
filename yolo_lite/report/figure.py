"""matplotlib without a window, and without pyplot's memory of every figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_lite.report.table import shortened

if TYPE_CHECKING:  # matplotlib costs half a second, which commands that draw nothing need not pay
    from matplotlib.figure import Figure


def label_of(name: str) -> str:
    """A class name as matplotlib should write it: not too long, and no formula between two dollars."""
    return shortened(name).replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, 110 dots each, that finds room for all its labels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def pixels(figure: Figure) -> np.ndarray:
    """The figure as an image, RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
