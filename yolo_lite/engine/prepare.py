"""What a run needs before its first step: device, model, data, folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.run import RunConfig, RunSection
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.doubts import doubts_of_sizes
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.loader import num_batches, training_loader
from yolo_lite.data.store import CAN_FORK, ImageStore
from yolo_lite.data.views import open_store
from yolo_lite.engine.checkpoint import build_model, save_checkpoint
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.evaluate import Split, prepare_split, rounded_up
from yolo_lite.engine.optimizer import Plan, accumulated_batches
from yolo_lite.engine.pretrained import start_pretrained
from yolo_lite.engine.processes import ALONE, Processes, synchronised
from yolo_lite.engine.record import Record, loggers_of
from yolo_lite.engine.run_folder import training_folder
from yolo_lite.engine.same_data import read_splits
from yolo_lite.engine.start import start_from
from yolo_lite.engine.state import Resume, State, initial_state
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.unreadable import WatchedBatches
from yolo_lite.ops.tiles import Tiles
from yolo_lite.structures import Batch, Compute


class Setup(NamedTuple):
    """What a run goes by and never changes."""

    hyp: Hyp
    compute: Compute
    plan: Plan
    seed: int
    processes: Processes = ALONE
    has_masks: bool = False  # whether labels are outlines, of which masks are drawn


class TrainingRun(NamedTuple):
    """A run that is ready to go."""

    config: RunConfig
    folder: Path
    state: State
    setup: Setup
    train: DatasetIndex
    batches: WatchedBatches  # of all epochs
    val: Split
    record: Record | None  # kept by the first process
    data: dict[str, Any]  # what the dataset is, see engine/same_data.py
    source: str  # where the start weights come from, and their licence

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Write a checkpoint; the first process does it for all."""
        if self.record is not None:
            origin = {"config": self.config.plain(), "data": self.data, "source": self.source}
            save_checkpoint(self.folder / "weights" / name, {**origin, **content})


def prepare(config: RunConfig, resume: Resume | None, processes: Processes) -> TrainingRun:
    """Model, data and run folder."""
    options, hyp = config.train, config.hyp
    task, loggers = task_of(config.model), loggers_of(hyp) if processes.is_first else []
    compute = choose_compute(options.device, hyp.precision, hyp.channels_last, processes.local_rank)
    print(compute if processes.size == 1 else f"{compute}, {processes.size} processes")
    torch.manual_seed(options.seed)
    model = move_model(build_model(config, resume and resume.checkpoint["model"]), compute)
    size = rounded_up(options.imgsz, model.stride)
    print(f"{options.cfg}: {model.describe(size)}")
    source = resume.checkpoint.get("source", "") if resume else "" if options.weights else start_pretrained(model)
    train_index, val_index, data_record = read_splits(config, resume)
    if hyp.sync_bn:
        model = synchronised(model, len(train_index), options.batch_size, processes)
    criterion = task.criterion(config.model, hyp, train_index.counts).to(compute.device)
    if options.weights and not resume:
        source = start_from(options.weights, model, config.data.class_names)
    state = initial_state(model, criterion, hyp, compute, resume)
    if hyp.compile:
        model.compile_network()
    accumulated = accumulated_batches(hyp, options.batch_size)
    plan = Plan(num_batches(len(train_index), options.batch_size), accumulated, options.epochs, options.first_epochs)
    setup = Setup(hyp, compute, plan, options.seed, processes, task.has_masks)
    batches = _batches(train_index, size, options, state, setup)  # workers start meanwhile
    store = open_store(val_index, size, hyp.cache, False, Tiles(hyp.tile))  # decoded images are read in this process
    print(f"val:   {store.describe()}")
    canvas = functools.partial(canvas_size, stride=model.stride)
    val = prepare_split(store, canvas, options.batch_size, options.workers, compute, processes)
    if val.limits.remark:
        print(f"val:   {val.limits.remark}")

    folder = processes.from_first(lambda: training_folder(config, resume, (train_index, val_index), processes))
    if processes.is_first:
        head = getattr(model, "head", None) if criterion.assigner.name == "anchor_ratio" else None
        anchors = None if head is None else head.anchor_sizes().reshape(-1, 2).cpu().numpy()
        for line in doubts_of_sizes(train_index, size, anchors, hyp.anchor_t, hyp.tile):
            print(f"train: {line}")
    record = Record(folder, config, state.rows, loggers) if processes.is_first else None
    if record and options.figures:
        batches = record.batches(batches, state, compute)
    watched = WatchedBatches(batches, folder, len(train_index), processes)
    return TrainingRun(config, folder, state, setup, train_index, watched, val, record, data_record, source)


def _batches(index: DatasetIndex, size: int, options: RunSection, state: State, setup: Setup) -> Iterator[Batch]:
    """All batches that the run still has to see."""
    hyp = setup.hyp
    if hyp.augmentations and options.workers and not CAN_FORK:
        raise ConfigError("augmentations: a plugin reaches loading processes only on Linux: expected --workers 0 here")
    store = ImageStore(index, None if hyp.tile else size, hyp.cache, options.workers > 0)
    print(f"train: {store.describe()}")
    mosaic_epochs = options.epochs - min(hyp.close_mosaic, options.epochs // 3)
    dataset = TrainingSet(index, store, size, hyp, options.seed, mosaic_epochs, setup.has_masks)
    epochs, first_batch = range(state.epoch, options.epochs), state.tally.steps * setup.plan.batches_per_step
    pin_memory, share = setup.compute.device.type == "cuda", setup.processes.share_of
    return iter(training_loader(dataset, options.batch_size, options.workers, epochs, pin_memory, first_batch, share))
