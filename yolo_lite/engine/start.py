"""Where a run starts from the weights of another, with other classes perhaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.load import validate
from yolo_lite.config.yaml_file import Document
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.model.heads import ClassRows


class Classes(NamedTuple):
    """Names of the classes of a checkpoint and of the run that starts from it."""

    given: Sequence[str]
    own: Sequence[str]

    @property
    def shared(self) -> list[str]:
        return [name for name in self.own if name in self.given]

    def describe(self) -> str:
        """What becomes of the classes; "" where they are the same."""
        if list(self.own) == list(self.given):
            return ""
        new = [name for name in self.own if name not in self.given]
        left = [name for name in self.given if name not in self.own]
        parts = {"taken over": self.shared, "new": new, "left behind": left}
        return "\nrows of classes " + "; ".join(f"{part}: {_some(names)}" for part, names in parts.items() if names)


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def start_from(weights: str, model: Any, names: Sequence[str]) -> None:
    """Take over the tensors of a checkpoint that fit by name and shape, and say which did not.

    Of the tensors that depend on the classes, rows of classes of the same name are taken, and rows that all share.

    Raises:
        CheckpointError: it cannot be read, or nothing in it fits.
    """
    content, class_rows = load_checkpoint(weights), model.class_rows()
    given, own = content["ema"], model.state_dict()
    data = validate(DatasetConfig, Document(f"{weights} (config)", content["config"]["data"], {}))
    classes = Classes(data.class_names, names)
    taken = {}
    for name in own.keys() & given.keys():
        found = given[name]
        if name in class_rows:
            found = _with_rows_of(own[name], found, class_rows[name], classes)
        if found.shape == own[name].shape and not _is_anchors(name):  # which are those of --cfg
            taken[name] = found
    if not taken:
        raise CheckpointError(f"{weights}: not one tensor fits the model of --cfg by name and shape")
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken and not _is_anchors(name)]
    rest = f", not: {', '.join(left)}" if left else ""
    print(f"{weights}: {len(taken)} of {len(taken) + len(left)} tensors taken over{rest}{classes.describe()}")
    anchors = [name for name in own if _is_anchors(name) and name in given]
    if any(not torch.equal(given[name].cpu(), own[name].cpu()) for name in anchors):
        print(f"{weights}: was trained with other anchors; those of --cfg stay")
    if "source" in content:
        print(f"{weights}: {content['source']}")


def _is_anchors(name: str) -> bool:
    return name.rpartition(".")[2] == "anchors"


def _with_rows_of(own: Tensor, given: Tensor, rows: ClassRows, classes: Classes) -> Tensor:
    """``own`` with the rows of ``given`` that mean the same; ``given`` itself where it is laid out in another way."""
    if given.shape[1:] != own.shape[1:] or len(given) != rows.count(len(classes.given)):
        return given
    to, source = ([names.index(name) for name in classes.shared] for names in (classes.own, classes.given))
    merged = own.clone()
    merged[rows.of(to, len(classes.own))] = given[rows.of(source, len(classes.given))].to(own)
    return merged
