"""Images a second of the whole training loop beside the bare forward and backward of the same model.

    python benchmarks/train_step.py --data ../shared/data/bccd/data.yaml

The loop reads, augments, matches, computes the loss, steps the optimizer and averages the weights; the bare step only
runs the network on a resident batch. Both run in turn in one process, so that a drifting machine hits both.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from timing import in_turn
from torch import Tensor

from yolo_lite.config.options import TrainOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import index_split
from yolo_lite.data.loader import training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.optimizer import Plan
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.state import State, initial_state
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.train import train_step
from yolo_lite.structures import Batch, Compute

EPOCHS = 1000  # more than are seen
BLOCK_SECONDS = 8.0  # of one kind of step before the other has its turn
QUEUED = 5  # batches that workers may have ready from the other kind's turn


def started(config: RunConfig) -> tuple[State, Setup]:
    """A model that is about to be trained."""
    task, hyp, options = task_of(config.model), config.hyp, config.train
    compute = choose_compute(options.device, hyp.precision, hyp.channels_last)
    torch.manual_seed(options.seed)
    model: Any = move_model(task.build(config.model), compute)
    criterion = task.criterion(config.model, hyp, np.ones(config.model.nc)).to(compute.device)
    state = initial_state(model, criterion, hyp, compute)
    state.in_training()
    return state, Setup(hyp, compute, Plan(100, 1, EPOCHS), options.seed, has_masks=task.has_masks)


def training_set(config: RunConfig) -> TrainingSet:
    """The train split, augmented as training would."""
    options, has_masks = config.train, task_of(config.model).has_masks
    index = index_split(config.data, config.data_file, "train", with_outlines=has_masks)
    store = ImageStore(index, options.imgsz, config.hyp.cache, shared=options.workers > 0)
    return TrainingSet(index, store, options.imgsz, config.hyp, options.seed, EPOCHS, has_masks)


def full_batches(dataset: TrainingSet, batch_size: int, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """Batches without end; the short one at an epoch's end would count as a full one."""
    loader = training_loader(dataset, batch_size, workers, range(EPOCHS), pin_memory)
    return (batch for batch in loader if len(batch.position) == batch_size)


def bare_step(model: Any, images: Tensor, compute: Compute) -> Callable[[], None]:
    """Forward and backward of the network alone."""

    def step() -> None:
        with compute.autocast():
            raw = model(images).slots
        raw.float().square().mean().backward()
        model.zero_grad()

    return step


def measure(size_name: str, pixels: int, precision: str, flags: argparse.Namespace) -> str:
    """One row of the table."""
    what = {name: getattr(flags, name) for name in ("data", "batch_size", "workers", "device")}
    cfg, hyp = f"cfg/yolo_{size_name}.yaml", {"precision": precision}
    config = run_config(TrainOptions(**what, cfg=cfg, hyp="cfg/hyp.yaml", imgsz=pixels, set=hyp))
    (state, setup), dataset = started(config), training_set(config)
    store, compute = dataset.store, setup.compute
    for position in range(len(dataset)):  # decode once before the clock runs, as from the second epoch on
        store[position]
    batches = full_batches(dataset, flags.batch_size, flags.workers, pin_memory=False)
    kinds = {
        "bare": bare_step(state.model, next(batches).to(compute).images, compute),
        "loop": lambda: train_step(state, [next(batches).to(compute)], setup),
    }
    seconds = in_turn(kinds, compute.device, flags.rounds, BLOCK_SECONDS, QUEUED)
    ratio = statistics.median(a / b for a, b in zip(seconds["bare"], seconds["loop"], strict=True))
    bare_rate, loop_rate = (flags.batch_size / statistics.median(seconds[kind]) for kind in kinds)
    memory = "in memory" if store.memory else "from disk"
    return f"| {size_name} | {pixels} | {precision} | {bare_rate:.1f} | {loop_rate:.1f} | {ratio:.2f} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sizes", nargs="+", default=["n", "s"])
    parser.add_argument("--pixels", nargs="+", type=int, default=[320, 640])
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="")
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {flags.workers} workers")
    print(
        "| model | px | precision | bare img/s | loop img/s | loop / bare | pictures |\n|---|---|---|---|---|---|---|"
    )
    for name in flags.sizes:
        for pixels in flags.pixels:
            for precision in flags.precisions:
                print(measure(name, pixels, precision, flags), flush=True)


if __name__ == "__main__":
    main()
