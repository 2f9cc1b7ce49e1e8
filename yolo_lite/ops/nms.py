"""From scored boxes to detections."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from yolo_lite.structures import Detections

QUICK_CANDIDATES = 1000  # or three for each detection: tried before all candidates of an image


class DetectOptions(NamedTuple):
    """How detections are chosen."""

    confidence: float = 0.001  # scores must lie above it
    iou: float = 0.6  # a box that overlaps a better one of its class by more is dropped
    max_detections: int = 300  # for one image
    max_candidates: int | None = None  # best scores of one image that enter NMS; None: ``num_candidates``
    by_class: tuple[float, ...] | None = None  # instead of confidence, for each class; 1: it is not looked for
    agnostic: bool = False  # a box is dropped for a better one of any class

    @property
    def num_candidates(self) -> int:
        """Ten for each detection, but 3000 at least, unless ``max_candidates`` says it."""
        return max(3000, 10 * self.max_detections) if self.max_candidates is None else self.max_candidates


def select_detections(
    score: Tensor, boxes_of: Callable[[Tensor, Tensor], Tensor], options: DetectOptions, mask: Tensor | None = None
) -> Detections:
    """Multi-label detections of one image; boxes xyxy in the pixels of ``boxes_of``.

    Args:
        score: ``[S, C]`` in 0..1, of the slots that may hold a detection.
        boxes_of: boxes xyxy ``[K, 4]`` by row and label, ``[K]`` each, of ``score``: only the best are decoded.
        mask: ``[S, ...]``, what makes the mask of a row, which detections take along.
    """
    lowest: float | Tensor = options.confidence if options.by_class is None else score.new_tensor(options.by_class)
    candidate = (score > lowest).flatten().nonzero().squeeze(1)
    # A stable sort: equal scores keep the order of the slots, on every device.
    best, order = score.flatten()[candidate].sort(descending=True, stable=True)
    best, candidate = best[: options.num_candidates], candidate[order[: options.num_candidates]]
    row, label = candidate // score.shape[1], candidate % score.shape[1]
    return survivors(Detections(boxes_of(row, label), best, label, None if mask is None else mask[row]), options)


def survivors(candidates: Detections, options: DetectOptions) -> Detections:
    """Those of one image's candidates, best score first, that NMS keeps, at most ``max_detections``.

    NMS costs the square of its boxes, and a box is only ever dropped for a better one: where the best candidates
    alone give enough survivors, these are the first survivors of all candidates too.
    """
    if options.by_class is not None:
        score, label = candidates.score, candidates.label
        candidates = candidates.select(score > score.new_tensor(options.by_class)[label])
    candidates = candidates.select(slice(options.num_candidates))
    box, score, label = candidates[:3]
    group = torch.zeros_like(label) if options.agnostic else label
    quick = max(QUICK_CANDIDATES, 3 * options.max_detections)
    chosen = class_nms(box[:quick], score[:quick], group[:quick], options.iou)
    if len(chosen) < options.max_detections and len(score) > quick:
        chosen = class_nms(box, score, group, options.iou)
    return candidates.select(chosen[: options.max_detections])


def class_nms(box: Tensor, score: Tensor, label: Tensor, iou: float) -> Tensor:
    """Greedy NMS inside each class; indices ``[K]`` of the kept boxes ``[*, 4]`` xyxy, best score first."""
    if box.numel() == 0:
        return torch.zeros(0, dtype=torch.int64, device=box.device)
    if box.device.type == "mps":  # it has no float64
        return class_nms(box.cpu(), score.cpu(), label.cpu(), iou).to(box.device)
    # Every class gets a region of its own; float64 keeps the boxes exact however many classes there are.
    span = (box.max() - box.min()).double() + 1
    load_torchvision_operators()
    return torch.ops.torchvision.nms(box.double() + label[:, None] * span, score.double(), iou)


def load_torchvision_operators() -> None:
    """Load torchvision's compiled operators without its Python code: importing that takes a second of every start."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    spec = importlib.util.find_spec("torchvision")
    for library in Path(spec.origin).parent.glob("_C*") if spec and spec.origin else ():
        torch.ops.load_library(library)
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision  # noqa: F401, built in another way
