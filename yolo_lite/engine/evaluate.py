"""The one evaluation: training, val.py and the benchmarks all call ``evaluate``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolo_lite.data.hand_over import Loader
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import Canvas, Letterbox, padded_size, to_original
from yolo_lite.data.loader import evaluation_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.data.unreadable import all_unreadable, without_images
from yolo_lite.data.views import ViewStore, evaluation_set
from yolo_lite.engine.coco_ap import (
    ClassScores,
    DetectionTable,
    Limits,
    Scores,
    detection_limits,
    ground_truth,
    score_detections,
)
from yolo_lite.engine.coco_evaluator import Truth
from yolo_lite.engine.processes import ALONE, Processes
from yolo_lite.engine.stopwatch import Stopwatch
from yolo_lite.engine.tasks import Inference
from yolo_lite.engine.tiles import joined
from yolo_lite.engine.unreadable import readable_batches
from yolo_lite.loss.criteria import Criterion
from yolo_lite.ops.masks import rle_on_image
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Batch, Compute, Detections


class Split(NamedTuple):
    """A split made ready for evaluation."""

    dataset: DatasetIndex
    loader: Loader
    truth: Truth
    limits: Limits = Limits()
    views: ViewStore | None = None  # where the loader yields views of images


class Evaluation(NamedTuple):
    """What an evaluation found."""

    split: Split  # without the images that could not be read
    scores: Scores
    losses: dict[str, float]  # by the names of the criterion, means over images; none of an exported model
    unmatched_targets: float  # share of the objects that no slot learns (mostly: no anchor matches)
    detections: DetectionTable
    seconds: dict[str, float]  # load, model, loss, nms, ap
    unreadable: Mapping[int, str] = {}  # images left out, by their position in the whole split, and why

    @property
    def fitness(self) -> float:
        """What best.pt and early stopping go by."""
        return self.scores.fitness

    def metrics(self) -> dict[str, float]:
        """The figures of a row of results.csv."""
        overall, masks = self.scores.overall, self.scores.mask
        return {
            "metrics/precision": overall.precision,
            "metrics/recall": overall.recall,
            **_average_precisions("metrics/", overall),
            **(_average_precisions("metrics/mask_", masks.overall) if masks else {}),
            "metrics/unmatched_targets": self.unmatched_targets,
        }


def _average_precisions(prefix: str, scores: ClassScores) -> dict[str, float]:
    return {f"{prefix}mAP50": scores.map50, f"{prefix}mAP50-95": scores.map50_95, f"{prefix}mAP75": scores.map75}


def rounded_up(size: int, stride: int) -> int:
    """``--imgsz`` as a multiple of the stride; a change is said."""
    rounded, _ = padded_size(size, size, stride)
    if rounded != size:
        print(f"--imgsz {size} is no multiple of the stride {stride}: {rounded} is used")
    return rounded


def prepare_split(
    store: ImageStore, canvas: Canvas, batch_size: int, workers: int, compute: Compute, processes: Processes = ALONE
) -> Split:
    """Loader and ground truth of a split; of many processes each loads whole batches, in turn."""
    part, pin_memory = slice(processes.rank, None, processes.size), compute.device.type == "cuda"
    loader = evaluation_loader(evaluation_set(store, canvas), batch_size, workers, pin_memory, part)
    views = store if isinstance(store, ViewStore) else None
    return Split(store.index, loader, ground_truth(store.index), detection_limits(store.index), views)


@torch.inference_mode()
def evaluate(
    model: Inference,
    split: Split,
    criterion: Criterion | None,
    compute: Compute,
    options: DetectOptions,
    processes: Processes = ALONE,
    check: Callable[[], None] | None = None,
) -> Evaluation:
    """Detect on every image of a split and score it.

    ``model`` stays as it is: a copy made for inference is evaluated. The same batches give the same result, on any
    number of loading processes and whatever the clock says; batches of other sizes give it to rounding, and losses are
    means of batches. Without a criterion there are no losses. ``check`` is called before each batch and may raise.
    """
    network, watch = model.for_inference(), Stopwatch(compute.device)
    own: list[tuple[list[DetectionTable], Tensor, np.ndarray]] = []  # of each batch, on the CPU
    unreadable: dict[int, str] = {}
    if criterion is not None:
        criterion.eval()
    for loaded in readable_batches(split.loader, unreadable, processes, check):
        batch = loaded.to(compute)
        size = (batch.images.shape[2], batch.images.shape[3])
        watch.lap("load")
        with compute.autocast():
            raw = network(batch.images)
        watch.lap("model")
        losses, unmatched = _batch_losses(criterion, raw, batch, network.grid(*size))
        watch.lap("loss")
        found = network.detections(raw, size, options)
        own.append(([_table_row(one, split.dataset, loaded, row) for row, one in enumerate(found)], losses, unmatched))
        watch.lap("nms")
    unreadable = all_unreadable(processes.gather_everywhere(unreadable), len(split.dataset))
    # The batches of all processes, in the order that one process would have.
    rounds = itertools.zip_longest(*processes.gather_everywhere(own))
    tables, sums, counts = zip(*(batch for one_round in rounds for batch in one_round if batch), strict=True)
    table = joined(itertools.chain(*tables), split.views, options)
    split, table = _readable_part(split, table, unreadable)
    scores = processes.from_first(lambda: score_detections(split.truth, table, split.limits.per_class))
    watch.lap("ap")
    means = sum(sums, torch.zeros(())) / sum(map(len, tables))
    by_name = {} if criterion is None else dict(zip(criterion.names, means.tolist(), strict=True))
    unmatched, targets = sum(counts).tolist()
    return Evaluation(split, scores, by_name, unmatched / max(targets, 1), table, watch.seconds, unreadable)


def _readable_part(split: Split, table: DetectionTable, unreadable: Mapping[int, str]) -> tuple[Split, DetectionTable]:
    """Split and detections as if the unreadable images did not exist."""
    if not unreadable:
        return split, table
    index, kept = without_images(split.dataset, unreadable)
    table = table._replace(image=np.searchsorted(kept, table.image))
    return split._replace(dataset=index, truth=ground_truth(index)), table


def _batch_losses(criterion: Criterion | None, raw: Any, batch: Batch, grid: Any) -> tuple[Tensor, np.ndarray]:
    """Losses of a batch, in the order of the names, times its images, on the CPU; objects no slot learns, and all."""
    if criterion is None:
        return torch.zeros(0), np.array([np.nan, 0])
    num_images = len(batch.images)
    losses, matches = criterion.losses_of_batch(raw, batch.objects, grid, num_images)
    unmatched = torch.ones_like(batch.objects.label)
    unmatched[slice(None) if grid is None else matches.target] = 0  # without a grid the model assigns by itself
    counts = np.array([int(unmatched.sum()), len(unmatched)])
    return (torch.stack([losses[name] for name in criterion.names]) * num_images).cpu(), counts


def _table_row(detections: Detections, index: DatasetIndex, batch: Batch, row: int) -> DetectionTable:
    """Detections of one image in pixels of its file, clipped to it; masks where the labels have outlines."""
    height, width = batch.original_size[row].tolist()
    letterbox = Letterbox(*batch.letterbox[row].tolist())
    box = to_original(detections.box.cpu().double().numpy(), letterbox).clip(0, (width, height, width, height))
    image, mask = np.full(len(box), int(batch.position[row])), None
    if detections.mask is not None and index.outlines is not None:
        mask = np.array(rle_on_image(detections.mask, torch.from_numpy(box), letterbox, height, width), dtype=object)
    return DetectionTable(image, box, detections.score.cpu().double().numpy(), detections.label.cpu().numpy(), mask)
