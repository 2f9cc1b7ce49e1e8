"""What a run was started with, as its folder and its checkpoints keep it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.model import AnyModelConfig
from yolo_lite.config.seams import Section
from yolo_lite.config.types import Count, CountOrZero, Fraction, ImageSize, Listed, Positive, Seed


class SavePeriod(Section):
    """How often last.pt is written."""

    number: Positive
    unit: Literal["epochs", "min"]

    def __str__(self) -> str:
        return f"{self.number:g} {self.unit}"


def parse_save_period(text: Any) -> Any:
    """``"2"`` or ``0.25`` epochs, ``"10min"``."""
    if isinstance(text, (SavePeriod, dict)):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|min|)\s*", str(text))
    if not match or float(match[1]) == 0:
        raise ValueError(f"expected a number of epochs such as 2 or 0.25, or minutes such as 10min, found {text!r}")
    return SavePeriod(number=float(match[1]), unit="min" if match[2] == "min" else "epochs")


class RunSection(Section):
    """The options of ``train.py``, resolved; files are "" where there were none, for imported weights."""

    cfg: str = ""
    hyp: str = ""
    data: str = ""
    weights: str | None = None
    epochs: Count = 100
    batch_size: Count = 16
    imgsz: ImageSize = 640
    device: str = ""
    workers: CountOrZero = 2
    seed: Seed = 0
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False
    save_period: Annotated[SavePeriod, BeforeValidator(parse_save_period)] = SavePeriod(number=1.0, unit="epochs")
    precision: Fraction | None = None  # wanted of best.pt's operating points, see engine/operating_points.py
    recall: Fraction | None = None
    figures: bool = True  # curves, images and the graph, in the folder and in TensorBoard
    first_epochs: Count | None = None  # as first planned, where --resume was given another --epochs
    # Absolute paths, for the record: a file that a checkpoint or a config.yaml names is never executed.
    plugin: Listed[str] = ()


class RunConfig(Section):
    """Everything a run was started with; stored in the run folder and in every checkpoint."""

    train: RunSection
    hyp: Hyp
    model: AnyModelConfig
    data: DatasetConfig
    data_file: str  # absolute path of the dataset YAML: relative paths start there; "" for imported weights

    def plain(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings, in the form the YAML files have."""
        return self.model_dump(mode="json")
