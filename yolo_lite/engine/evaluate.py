"""The one evaluation: training, val.py and the benchmarks all call ``evaluate``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from yolo_lite.data.dataset import EvaluationSet
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import Canvas, Letterbox, padded_size, to_original
from yolo_lite.data.loader import evaluation_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.coco_ap import DetectionTable, Scores, SizeScores, ground_truth, score_detections
from yolo_lite.engine.processes import ALONE, Processes
from yolo_lite.engine.tasks import Inference
from yolo_lite.loss.criteria import Criterion
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.table import class_table
from yolo_lite.structures import Batch, Compute, Detections, Losses


class Split(NamedTuple):
    """A split made ready for evaluation."""

    dataset: DatasetIndex
    loader: DataLoader[Batch]
    truth: COCO


class Evaluation(NamedTuple):
    """What an evaluation found."""

    scores: Scores
    losses: dict[str, float]  # by the names of the criterion, means over images; none of an exported model
    unmatched_targets: float  # share of the objects that no slot learns (mostly: no anchor matches)
    detections: DetectionTable
    seconds: dict[str, float]  # load, model, loss, nms, ap

    @property
    def fitness(self) -> float:
        """What best.pt and early stopping go by: 0.1 mAP50 + 0.9 mAP50-95; 0 where nothing can be said."""
        return float(np.nan_to_num(0.1 * self.scores.overall.map50 + 0.9 * self.scores.overall.map50_95))

    def metrics(self) -> dict[str, float]:
        """The figures of a row of results.csv."""
        overall = self.scores.overall
        return {
            "metrics/precision": overall.precision,
            "metrics/recall": overall.recall,
            "metrics/mAP50": overall.map50,
            "metrics/mAP50-95": overall.map50_95,
            "metrics/mAP75": overall.map75,
            "metrics/unmatched_targets": self.unmatched_targets,
        }


def rounded_up(size: int, stride: int) -> int:
    """``--imgsz`` as a multiple of the stride; a change is said."""
    rounded, _ = padded_size(size, size, stride)
    if rounded != size:
        print(f"--imgsz {size} is no multiple of the stride {stride}: {rounded} is used")
    return rounded


def prepare_split(
    store: ImageStore, canvas: Canvas, batch_size: int, workers: int, pin_memory: bool, processes: Processes = ALONE
) -> Split:
    """Loader and ground truth of a split; of many processes each loads whole batches, in turn."""
    part = slice(processes.rank, None, processes.size)
    loader = evaluation_loader(EvaluationSet(store.index, store, canvas), batch_size, workers, pin_memory, part)
    return Split(store.index, loader, ground_truth(store.index))


class _Found(NamedTuple):
    """What one batch came to, on the CPU."""

    tables: list[DetectionTable]  # one for each image
    losses: Losses  # times the number of images
    unmatched: Tensor  # [] objects that no slot learns; NaN where nobody knows


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
    seconds = dict.fromkeys(("load", "model", "loss", "nms", "ap"), 0.0)
    network, own = model.for_inference(), []
    if criterion is not None:
        criterion.eval()
    progress = tqdm(split.loader, desc="validating", leave=False, delay=1, **processes.bar)
    for loaded in _timed_loads(progress, seconds):
        if check:
            check()
        batch = loaded.to(compute)
        size = (batch.images.shape[2], batch.images.shape[3])
        with _clock(seconds, "model", compute), compute.autocast():
            raw = network(batch.images)
        with _clock(seconds, "loss", compute):
            losses, unmatched = _batch_losses(criterion, raw, batch, network.grid(*size))
        with _clock(seconds, "nms", compute):
            found = network.detections(raw, size, options)
            tables = [_table_row(detections, loaded, row) for row, detections in enumerate(found)]
        own.append(_Found(tables, losses, unmatched))
    every = _in_turn(processes.gather_everywhere(own))
    tables = [table for found in every for table in found.tables]
    table = DetectionTable(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))
    with _clock(seconds, "ap", compute):
        scores = processes.from_first(lambda: score_detections(split.truth, table))
    names = () if criterion is None else criterion.names
    means = {name: float(_total(name, every) / len(split.dataset)) for name in names}
    missed = sum(float(found.unmatched) for found in every)
    return Evaluation(scores, means, missed / max(split.dataset.num_objects, 1), table, seconds)


def _batch_losses(criterion: Criterion | None, raw: Any, batch: Batch, grid: Any) -> tuple[Losses, Tensor]:
    """Losses of a batch times its number of images, and how many of its objects no slot learns; on the CPU."""
    if criterion is None:
        return {}, torch.tensor(torch.nan)
    num_images = len(batch.images)
    losses, matches = criterion.losses_of_batch(raw, batch.objects, grid, num_images)
    unmatched = torch.ones_like(batch.objects.label)
    unmatched[slice(None) if grid is None else matches.target] = 0  # without a grid the model assigns by itself
    return {name: (loss * num_images).cpu() for name, loss in losses.items()}, unmatched.sum().cpu()


def _total(name: str, every: Sequence[_Found]) -> Tensor:
    return sum((found.losses[name] for found in every), torch.zeros(()))


def _in_turn(shares: list[list[_Found]]) -> list[_Found]:
    """The batches of all processes in the order that one process would have."""
    rounds = itertools.zip_longest(*shares)
    return [found for one_round in rounds for found in one_round if found is not None]


def _table_row(detections: Detections, batch: Batch, row: int) -> DetectionTable:
    """Detections of one image in pixels of its file, clipped to it."""
    height, width = batch.original_size[row].tolist()
    box = to_original(detections.box.cpu().double().numpy(), Letterbox(*batch.letterbox[row].tolist()))
    box = box.clip(0, (width, height, width, height))
    image = np.full(len(box), int(batch.position[row]))
    return DetectionTable(image, box, detections.score.cpu().double().numpy(), detections.label.cpu().numpy())


@contextmanager
def _clock(seconds: dict[str, float], stage: str, compute: Compute) -> Iterator[None]:
    start = time.perf_counter()
    yield
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    seconds[stage] += time.perf_counter() - start


def _timed_loads(batches: Any, seconds: dict[str, float]) -> Iterator[Batch]:
    start = time.perf_counter()
    for batch in batches:
        seconds["load"] += time.perf_counter() - start
        yield batch
        start = time.perf_counter()


def format_table(evaluation: Evaluation, index: DatasetIndex) -> str:
    """The per-class table for the terminal."""
    images = _images_by_class(index)
    objects = index.counts
    rows = [
        (name, int(images[c]), int(objects[c]), s.precision, s.recall, s.map50, s.map50_95)
        for c, (name, s) in enumerate(zip(index.names, evaluation.scores.by_class, strict=True))
    ]
    s = evaluation.scores.overall
    overall = ("all", len(index), index.num_objects, s.precision, s.recall, s.map50, s.map50_95)
    return class_table([overall, *rows])


def _images_by_class(index: DatasetIndex) -> np.ndarray:
    """Images ``[C]`` that hold each class."""
    pairs = np.unique(np.stack((index.owner, index.label))[:, ~index.crowd], axis=1)
    return np.bincount(pairs[1], minlength=len(index.names))


def report(evaluation: Evaluation, index: DatasetIndex, by_size: SizeScores) -> dict[str, Any]:
    """Plain data for metrics.json; null is what nobody knows: a class without objects, losses of an exported model."""

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else value

    objects = index.counts
    per_class = {
        name: {"objects": int(objects[c]), **{key: plain(value) for key, value in scores._asdict().items()}}
        for c, (name, scores) in enumerate(zip(index.names, evaluation.scores.by_class, strict=True))
    }
    milliseconds = {stage: 1000 * value / len(index) for stage, value in evaluation.seconds.items()}
    return {
        **{key: plain(value) for key, value in evaluation.scores.overall._asdict().items()},
        **{key: plain(value) for key, value in by_size._asdict().items()},
        "confidence": evaluation.scores.confidence,
        "per_class": per_class,
        "images": len(index),
        "objects": index.num_objects,
        "unmatched_targets": plain(evaluation.unmatched_targets),
        "losses": {f"{name}_loss": plain(value) for name, value in evaluation.losses.items()},
        "ms_per_image": milliseconds["model"] + milliseconds["nms"],
        "ms_per_image_by_stage": milliseconds,
    }
