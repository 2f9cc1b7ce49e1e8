"""One of everything that yolo_lite can be given from outside: tests/test_toys.py trains each for a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from yolo_lite.deploy.formats import ExportFormat, Facts
from yolo_lite.engine.tasks import Task
from yolo_lite.loss.criteria import Criterion
from yolo_lite.model.detector import Detector
from yolo_lite.model.heads import Head
from yolo_lite.ops.boxes import aligned_iou
from yolo_lite.ops.grid import Grid, Slots
from yolo_lite.structures import Losses, Matches, Objects, Predictions, Raw

# ------------------------------------------------------------------------------------------ a box loss with a parameter


def power_iou(predicted: Tensor, target: Tensor, *, power: float = 2.0) -> Tensor:
    """(1 - IoU)^power, ``[P]``."""
    return (1 - aligned_iou(predicted, target)).clamp(min=1e-6) ** power


# --------------------------------------------------------------------------------- an assigner that goes by predictions


def best_overlap(objects: Objects, grid: Grid, *, predictions: Predictions, topk: int = 4) -> Matches:
    """Each object takes the ``topk`` slots of its image whose predicted boxes overlap it most."""
    images, slots, rows = [], [], []
    for row, (image, box) in enumerate(zip(objects.image.tolist(), objects.box, strict=True)):
        overlap = aligned_iou(predictions.box[image], box.expand(grid.num_slots, 4))
        for slot in overlap.topk(topk).indices.tolist():
            if (image, slot) not in zip(images, slots, strict=True):
                images.append(image), slots.append(slot), rows.append(row)
    image, slot, target = (torch.tensor(column, dtype=torch.int64) for column in (images, slots, rows))
    return Matches(image, slot, target, torch.ones(len(images)))


# ------------------------------------------------------------------------ a head without anchors, and what it learns by


def centre_box(raw: Tensor, slots: Slots) -> Tensor:
    """Centre by an offset in cells, size as a power of e in cells; ``[..., 4]`` cxcywh in pixels."""
    return torch.cat(
        (slots.centre + raw[..., :2] * slots.stride, raw[..., 2:].clamp(max=6).exp() * slots.stride), dim=-1
    )


class CentreHead(Head):
    """One slot a cell: a box and a score for each class."""

    def __init__(self, in_channels, strides, config, hidden: int = 8) -> None:
        super().__init__(in_channels, strides, config)
        self.stems = nn.ModuleList(nn.Conv2d(width, hidden, 3, padding=1) for width in in_channels)
        self.outputs = nn.Conv2d(hidden, 4 + self.num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Raw:
        levels = [
            self.outputs(stem(x).relu()).flatten(2).transpose(1, 2) for stem, x in zip(self.stems, maps, strict=True)
        ]
        return Raw(torch.cat(levels, dim=1), {"box": slice(0, 4), "cls": slice(4, None)})

    def boxes(self, raw: Raw, grid: Grid, slot: Tensor | slice = slice(None)) -> Tensor:
        return centre_box(raw["box"], grid.slots.select(slot))

    def scores(self, raw: Raw) -> Tensor:
        return raw["cls"].sigmoid()


class CentreCriterion(Criterion):
    """The cell of an object's centre learns it; the two losses share one divisor, the number of objects."""

    names = ("box", "cls")

    def __init__(self, section, label_counts: np.ndarray) -> None:
        super().__init__(section)
        self.num_classes = len(label_counts)

    def assign(self, objects: Objects, grid: Grid, predictions: Predictions | None = None) -> Matches:
        stride, rows, columns, first = grid.levels[-1]
        learns: dict[tuple[int, int], int] = {}
        for row, (image, box) in enumerate(zip(objects.image.tolist(), objects.box.tolist(), strict=True)):
            x, y = (
                min(max(int(centre // stride), 0), last)
                for centre, last in zip(box[:2], (columns - 1, rows - 1), strict=True)
            )
            learns.setdefault((image, first + y * columns + x), row)
        image, slot = (torch.tensor([key[column] for key in learns], dtype=torch.int64) for column in (0, 1))
        return Matches(image, slot, torch.tensor(list(learns.values()), dtype=torch.int64), torch.ones(len(learns)))

    def totals(self, matches, grids, num_images: int) -> tuple[Tensor, ...]:
        return (torch.tensor(float(sum(len(match.slot) for match in matches))),)

    def forward(self, raw: Raw, objects: Objects, matches: Matches, grid: Grid, totals) -> Losses:
        (pairs,) = totals
        own = raw.select(matches.image, matches.slot)
        box = centre_box(own["box"], grid.slots.select(matches.slot))
        target = torch.zeros(raw["cls"].shape)
        target[matches.image, matches.slot, objects.label[matches.target]] = 1
        error = nn.functional.binary_cross_entropy_with_logits(raw["cls"], target, reduction="sum")
        box_loss = (1 - aligned_iou(box, objects.box[matches.target])).sum() + raw["box"].sum() * 0
        return {"box": box_loss / pairs.clamp(min=1), "cls": error / pairs.clamp(min=1)}


# --------------------------------------------------------------------------------------------------------------- a task


class CountCriterion(CentreCriterion):
    """Boxes as they are; classes learn nothing but whether there is an object."""

    names = ("box",)

    def forward(self, raw: Raw, objects: Objects, matches: Matches, grid: Grid, totals) -> Losses:
        return {"box": sum(super().forward(raw, objects, matches, grid, totals).values())}


def build_counter(config) -> Detector:
    return Detector(config)


def count_criterion(config, section, label_counts: np.ndarray) -> CountCriterion:
    return CountCriterion(section, label_counts)


# ------------------------------------------------------------------------------------------------------ an augmentation


def swap_channels(
    image: np.ndarray, label: np.ndarray, xyxy: np.ndarray, rng: np.random.Generator, *, chance: float = 1.0
):
    """RGB in another order."""
    if rng.random() >= chance:
        return image, label, xyxy
    return np.ascontiguousarray(image[..., rng.permutation(image.shape[2])]), label, xyxy


# ----------------------------------------------------------------------------------------------------- an export format


def write_pickled(network: nn.Module, example: Tensor, facts: Facts, path: Path) -> None:
    """A trace in a zip of our own."""
    torch.jit.save(torch.jit.trace(network, example, check_trace=False), path, _extra_files=facts.strings())


def load_pickled(path: Path):
    strings = dict.fromkeys(Facts._fields, "")
    module = torch.jit.load(path, "cpu", _extra_files=strings)
    return strings, lambda images: (module(images),)


BOX_LOSSES = {"power_iou": power_iou}
ASSIGNERS = {"best_overlap": best_overlap}
HEADS = {"CentreHead": CentreHead}
CRITERIA = {"CentreHead": CentreCriterion}
TASKS = {"count": Task(Detector, lambda _, section, counts: CountCriterion(section, counts))}
AUGMENTATIONS = {"swap_channels": swap_channels}
EXPORT_FORMATS = {"toy": ExportFormat(".toy", write_pickled, load_pickled)}
