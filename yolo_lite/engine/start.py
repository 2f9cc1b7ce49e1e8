"""Where a run starts from the weights of another, with other classes perhaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.load import validate
from yolo_lite.config.yaml_file import Document
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.model.heads import ClassRows


def start_from(weights: str, model: Any, names: Sequence[str]) -> None:
    """Take over the tensors of a checkpoint that fit by name and shape, and say which did not.

    Of the tensors that depend on the classes, rows of classes of the same name are taken, and rows that all share.

    Raises:
        CheckpointError: it cannot be read, or nothing in it fits.
    """
    content, class_rows = load_checkpoint(weights), model.class_rows()
    given, own = content["ema"], model.state_dict()
    data = validate(DatasetConfig, Document(f"{weights} (config)", content["config"]["data"], {}))
    anchors = {name for name in own if name.rpartition(".")[2] == "anchors"}  # which are those of --cfg
    taken = {}
    for name in own.keys() & given.keys() - anchors:
        found = given[name]
        if name in class_rows:
            found = _with_rows_of(own[name], found, class_rows[name], names, data.class_names)
        if found.shape == own[name].shape:
            taken[name] = found
    if not taken:
        raise CheckpointError(f"{weights}: not one tensor fits the model of --cfg by name and shape")
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken and name not in anchors]
    rest = f", not: {', '.join(left)}" if left else ""
    print(f"{weights}: {len(taken)} of {len(taken) + len(left)} tensors taken over{rest}")
    if list(names) != list(data.class_names):
        _say_classes(names, data.class_names)
    if any(not torch.equal(given[name].cpu(), own[name].cpu()) for name in anchors & given.keys()):
        print(f"{weights}: was trained with other anchors; those of --cfg stay")
    if "source" in content:
        print(f"{weights}: {content['source']}")


def _with_rows_of(
    own: Tensor, given: Tensor, rows: ClassRows, own_names: Sequence[str], given_names: Sequence[str]
) -> Tensor:
    """``own`` with the rows of ``given`` that mean the same; ``given`` itself where it is laid out in another way."""
    if given.shape[1:] != own.shape[1:] or len(given) != rows.count(len(given_names)):
        return given
    shared = [name for name in own_names if name in given_names]
    to, source = ([names.index(name) for name in shared] for names in (own_names, given_names))
    merged = own.clone()
    merged[rows.of(to, len(own_names))] = given[rows.of(source, len(given_names))].to(own)
    return merged


def _say_classes(own: Sequence[str], given: Sequence[str], most: int = 10) -> None:
    kinds = {
        "taken over": [name for name in own if name in given],
        "new": [name for name in own if name not in given],
        "left behind": [name for name in given if name not in own],
    }
    more = {kind: f" and {len(names) - most} more" if len(names) > most else "" for kind, names in kinds.items()}
    parts = [f"{kind}: {', '.join(names[:most])}{more[kind]}" for kind, names in kinds.items() if names]
    print(f"rows of classes {'; '.join(parts)}")
