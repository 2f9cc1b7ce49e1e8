"""What a new run takes over from a checkpoint: the layers that fit, and the rows of its classes by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.load import validate
from yolo_lite.config.yaml_file import Document
from yolo_lite.engine.checkpoint import load_checkpoint, shortened
from yolo_lite.engine.checkpoint_fields import first_of, shown
from yolo_lite.model.heads import ClassRows


def start_from(weights: str, model: Any, names: Sequence[str]) -> str:
    """Take over the layers of a checkpoint whose tensors all fit by name and shape, and say which did not.

    Of the tensors that depend on the classes, rows of classes of the same name are taken, and rows that all share.
    A counter or a bias that fits where the weights of its layer do not is worth nothing alone.
    Returns where the checkpoint's own start weights come from, "" where that is nowhere.

    Raises:
        CheckpointError: it cannot be read, or nothing in it fits.
    """
    content, class_rows = load_checkpoint(weights), model.class_rows()
    given, own = content["ema"], {name: own for name, own in model.state_dict().items() if isinstance(own, Tensor)}
    if not isinstance(stored := content["config"].get("data"), dict):
        raise CheckpointError(f"{weights}: config.data: expected keys and values, found {shown(stored)}")
    with shortened():
        data = validate(DatasetConfig, Document(f"{weights} (config)", stored, {}))
    anchors = {name for name in own if name.rpartition(".")[2] == "anchors"}  # which are those of --cfg
    taken = {}
    for name in own.keys() & given.keys() - anchors:
        found = given[name]
        if not isinstance(found, Tensor):
            continue
        if name in class_rows:
            found = _with_rows_of(own[name], found, class_rows[name], names, data.class_names)
        if found.shape == own[name].shape:
            taken[name] = found
    broken = {_layer(name) for name in own.keys() - taken.keys() - anchors}
    taken = {name: found for name, found in taken.items() if _layer(name) not in broken}
    if not taken:
        raise CheckpointError(f"{weights}: not one layer fits the model of --cfg by name and shape")
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken and name not in anchors]
    rest = f" ({_counted(model, own.keys() - anchors, taken)}), not: {first_of(left)}" if left else ""
    print(f"{weights}: {len(taken)} of {len(taken) + len(left)} tensors taken over{rest}")
    if list(names) != list(data.class_names):
        _say_classes(names, data.class_names)
    theirs = {name: given[name] for name in anchors & given.keys() if isinstance(given[name], Tensor)}
    if any(not torch.equal(sizes, own[name].cpu()) for name, sizes in theirs.items()):
        print(f"{weights}: was trained with other anchors; those of --cfg stay")
    if source := content.get("source", ""):
        print(f"{weights}: {source}")
    return source


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _counted(model: Any, names: Collection[str], taken: Collection[str]) -> str:
    """``"backbone 120 of 120, neck 180 of 180, head 0 of 49"``: how many tensors of each part were taken over."""
    parts = {"backbone": model.frozen("backbone"), "head": [model.head] if hasattr(model, "head") else []}
    places = {f"{name}.": part for part, own in parts.items() for name, one in model.named_modules() if one in own}
    part_of = {name: next((places[one] for one in places if name.startswith(one)), "neck") for name in names}
    all_of, taken_of = Counter(part_of.values()), Counter(part_of[name] for name in taken)
    return ", ".join(
        f"{part} {taken_of[part]} of {all_of[part]}" for part in ("backbone", "neck", "head") if all_of[part]
    )


def _with_rows_of(
    own: Tensor, given: Tensor, rows: ClassRows, own_names: Sequence[str], given_names: Sequence[str]
) -> Tensor:
    """``own`` with the rows of ``given`` that mean the same; ``given`` itself where it is laid out in another way."""
    if given.ndim != own.ndim or given.shape[1:] != own.shape[1:] or len(given) != rows.count(len(given_names)):
        return given
    shared = [name for name in own_names if name in given_names]
    to, source = ([names.index(name) for name in shared] for names in (own_names, given_names))
    merged = own.clone()
    merged[rows.of(to, len(own_names))] = given[rows.of(source, len(given_names))].to(own)
    return merged


def _say_classes(own: Sequence[str], given: Sequence[str]) -> None:
    kinds = {
        "taken over": [name for name in own if name in given],
        "new": [name for name in own if name not in given],
        "left behind": [name for name in given if name not in own],
    }
    parts = [f"{kind}: {shorten(', '.join(names), 200)}" for kind, names in kinds.items() if names]
    print(f"rows of classes {'; '.join(parts)}")
