"""What a logger may do: a subclass writes the methods that it needs, the others do nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.report.evaluation import Curves
from yolo_lite.report.results_csv import Row


class Logger:
    """Takes the figures and images of a run; made with the parameters that the key ``loggers`` gives to its name."""

    def start(self, folder: Path, values: Mapping[str, float | str], rows: Sequence[Row]) -> None:
        """Begin in a run folder, which holds config.yaml, or go on after the epochs of ``rows``.

        ``values`` are the options and hyperparameters. A killed run may have logged more than ``rows``, a crash less.
        """

    def row(self, row: Row) -> None:
        """Take the figures of an epoch: ``epoch``, counted from 1, the columns of results.csv, and seconds."""

    def image(self, tag: str, image_rgb: np.ndarray, step: int) -> None:
        """Take an image uint8 ``[H, W, 3]`` of what there is after ``step`` epochs."""

    def end(self, finished: bool) -> None:
        """Write what is still buffered; a run that was stopped or has failed is not finished."""

    def pr_curves(self, names: Mapping[str, int], curves: Curves, step: int) -> None:
        """Take precision over recall of each class, given with its row of the curves."""

    def graph(self, module: Any, inputs: Any) -> None:
        """Take the operations of a module; RuntimeError where they cannot be traced with these inputs."""
