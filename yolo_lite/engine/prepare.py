"""What a run needs before its first step: device, model, data, folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.run import RunConfig
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.loader import num_batches, training_loader
from yolo_lite.data.store import CAN_FORK, ImageStore
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.evaluate import Split, prepare_split, rounded_up
from yolo_lite.engine.optimizer import Plan, accumulated_batches
from yolo_lite.engine.processes import ALONE, Processes
from yolo_lite.engine.record import Record
from yolo_lite.engine.run_folder import make_run_folder, mark_launchers
from yolo_lite.engine.sheets import assigned_cells
from yolo_lite.engine.start import start_from
from yolo_lite.engine.state import Resume, State, initial_state
from yolo_lite.engine.tasks import Task, task_of
from yolo_lite.structures import Batch, Compute


class Setup(NamedTuple):
    """What a run goes by and never changes."""

    hyp: Hyp
    compute: Compute
    plan: Plan
    seed: int
    processes: Processes = ALONE


class TrainingRun(NamedTuple):
    """A run that is ready to go."""

    config: RunConfig
    folder: Path
    state: State
    setup: Setup
    train: DatasetIndex
    batches: Iterator[Batch]  # of all epochs
    val: Split
    record: Record | None  # kept by the first process

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        if self.record is not None:
            self.record.close()


def prepare(config: RunConfig, resume: Resume | None, processes: Processes) -> TrainingRun:
    """Model, data and run folder."""
    options, hyp = config.train, config.hyp
    task, compute = task_of(config.model), _compute(config, processes)
    torch.manual_seed(options.seed)
    model: Any = move_model(_build(task, config, fetch=not (resume or options.weights)), compute)
    if hyp.sync_bn:
        if compute.device.type == "cpu":
            raise ConfigError("sync_bn: torch synchronises batch statistics on GPUs only, expected false on the CPU")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    size = rounded_up(options.imgsz, model.stride)
    print(f"{options.cfg}: {model.describe(size)}")
    train_index = index_split(config.data, config.data_file, "train", with_outlines=hyp.copy_paste > 0)
    val_index = index_split(config.data, config.data_file, "val")

    _check_shares(len(train_index), config, processes)
    setup = Setup(hyp, compute, _plan(len(train_index), config), options.seed, processes)
    criterion = task.criterion(config.model, hyp, train_index.counts).to(compute.device)
    if options.weights and not resume:
        start_from(options.weights, model, config.data.class_names)
    state = initial_state(model, criterion, hyp, compute, resume, model.frozen(hyp.freeze))
    if hyp.compile:
        model.compile_network()
    loader = _training_loader(train_index, size, config, state, setup)
    batches: Iterator[Batch] = iter(loader)  # workers start meanwhile
    val = _validation_split(val_index, size, model.stride, config, setup)

    splits = {"train": train_index, "val": val_index}
    folder = processes.from_first(lambda: _run_folder(config, resume, splits, processes))
    record = Record(folder, config, state.epoch) if processes.is_first else None
    if record and state.step == 0:
        record.graph(model)
        batches = record.batches(batches, train_index.names, functools.partial(assigned_cells, model, criterion))
    return TrainingRun(config, folder, state, setup, train_index, batches, val, record)


def _compute(config: RunConfig, processes: Processes) -> Compute:
    compute = choose_compute(config.train.device, config.hyp.precision, config.hyp.channels_last, processes.local_rank)
    print(compute if processes.size == 1 else f"{compute}, {processes.size} processes")
    return compute


def _build(task: Task, config: RunConfig, fetch: bool) -> nn.Module:
    try:
        return task.build(config.model, fetch)
    except ConfigError as error:
        raise ConfigError(f"{config.train.cfg}: {error}") from None


def _check_shares(num_images: int, config: RunConfig, processes: Processes) -> None:
    """Synchronised batch statistics wait for every process: none may be left without an image."""
    batch_size = config.train.batch_size
    smallest = min(batch_size, num_images % batch_size or batch_size)
    if config.hyp.sync_bn and smallest < processes.size:
        raise ConfigError(
            f"sync_bn: expected an image for each of {processes.size} processes in every batch, found {smallest} in "
            f"the smallest of {num_images} images with --batch-size {batch_size}; choose another batch size"
        )


def _plan(num_images: int, config: RunConfig) -> Plan:
    options = config.train
    accumulated = accumulated_batches(config.hyp, options.batch_size)
    return Plan(num_batches(num_images, options.batch_size), accumulated, options.epochs, options.first_epochs)


def _training_loader(
    index: DatasetIndex, size: int, config: RunConfig, state: State, setup: Setup
) -> DataLoader[Batch]:
    """All batches that the run still has to see."""
    options, hyp = config.train, config.hyp
    if hyp.augmentations and options.workers and not CAN_FORK:
        raise ConfigError("augmentations: a plugin reaches loading processes only on Linux: expected --workers 0 here")
    store = ImageStore(index, size, hyp.cache, options.workers > 0)
    print(f"train: {store.describe()}")
    mosaic_epochs = options.epochs - min(hyp.close_mosaic, options.epochs // 3)
    dataset = TrainingSet(index, store, size, hyp, options.seed, mosaic_epochs)
    return training_loader(
        dataset,
        options.batch_size,
        options.workers,
        epochs=range(state.epoch, options.epochs),
        pin_memory=setup.compute.device.type == "cuda",
        first_batch=state.tally.steps * setup.plan.batches_per_step,
        share=setup.processes.share_of,
    )


def _validation_split(index: DatasetIndex, size: int, stride: int, config: RunConfig, setup: Setup) -> Split:
    options = config.train
    store = ImageStore(index, size, config.hyp.cache, shared=False)  # decoded images are read in this process
    print(f"val:   {store.describe()}")
    pin_memory, canvas = setup.compute.device.type == "cuda", functools.partial(canvas_size, stride=stride)
    return prepare_split(store, canvas, options.batch_size, options.workers, pin_memory, setup.processes)


def _run_folder(
    config: RunConfig, resume: Resume | None, splits: dict[str, DatasetIndex], processes: Processes
) -> Path:
    """The run's folder; what the dataset's reader left out is said, and kept there as a whole."""
    options = config.train
    folder = resume.folder if resume else make_run_folder(options.project, options.name, options.exist_ok)
    (folder / "weights").mkdir(exist_ok=True)
    mark_launchers(folder, processes.launchers)
    for name, index in splits.items():
        print(f"{name + ':':6} {index.describe()}")
    problems = [line for index in splits.values() for line in index.problems]
    if problems:
        path = folder / "data_problems.txt"
        path.write_text("\n".join(problems) + "\n", encoding="utf-8", errors="backslashreplace")
        print(f"what was left out, in full: {path}")
    return folder
