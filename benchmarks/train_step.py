"""Images a second of the whole training loop beside the bare forward and backward of the same model.

    python benchmarks/train_step.py --data ../shared/data/bccd/data.yaml

The loop reads, augments, matches, computes the loss, steps the optimizer and averages the weights; the bare step only
runs the network on a resident batch. Both run in turn in one process, so that a drifting machine hits both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from yolo_lite.config.load import load_dataset_config, load_hyp, load_model_config
from yolo_lite.config.model import ModelConfig
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import num_batches, training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.optimizer import Plan
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.state import initial_state
from yolo_lite.engine.train import train_step
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.model.detector import Detector

BLOCK_SECONDS = 8.0  # of one kind of step before the other has its turn
QUEUED = 5  # batches that workers may have ready from the other kind's turn: not counted where steps are quick


def median_rates(kinds: dict[str, Callable[[], None]], batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of each kind, one figure a round, in turn."""
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for step in kinds.values():
        step()
    start = time.perf_counter()
    next(iter(kinds.values()))()
    seconds = time.perf_counter() - start
    steps, uncounted = max(round(BLOCK_SECONDS / seconds), 2), QUEUED if seconds < 1 else 1
    for _ in range(rounds):
        for kind, step in kinds.items():
            for _ in range(uncounted):
                step()
            start = time.perf_counter()
            for _ in range(steps):
                step()
            rates[kind].append(batch_size * steps / (time.perf_counter() - start))
    return rates


def measure(size_name: str, pixels: int, precision: str, index: DatasetIndex, flags: argparse.Namespace) -> str:
    """One row of the table."""
    hyp = load_hyp("cfg/hyp.yaml")
    compute = choose_compute(flags.device, precision, channels_last=True)
    config = load_model_config(f"cfg/yolo_{size_name}.yaml").model_copy(update={"nc": len(index.names)})
    assert isinstance(config, ModelConfig)
    model = move_model(Detector(config), compute)
    epochs = 1000
    plan = Plan(num_batches(len(index), flags.batch_size), 1, epochs)
    state = initial_state(model, AnchorCriterion(hyp, index.counts).to(compute.device), hyp, compute)
    state.in_training()
    setup = Setup(hyp, compute, plan, seed=0)
    store = ImageStore(index, pixels, "auto", shared=flags.workers > 0)
    dataset = TrainingSet(index, store, pixels, hyp, seed=0, mosaic_epochs=epochs)
    for position in range(len(index)):  # decode once before the clock runs, as from the second epoch on
        store[position]
    batches = iter(training_loader(dataset, flags.batch_size, flags.workers, range(epochs), pin_memory=False))
    resident = next(batches).to(compute)

    def bare() -> None:
        with compute.autocast():
            raw = model(resident.images).slots
        raw.float().square().mean().backward()
        model.zero_grad()
        _wait(compute.device)

    def loop() -> None:
        batch = next(batches)
        while len(batch.position) < flags.batch_size:  # the short batch at an epoch's end would count as a full one
            batch = next(batches)
        train_step(state, [batch.to(compute)], setup)
        _wait(compute.device)

    rates = median_rates({"bare": bare, "loop": loop}, flags.batch_size, flags.rounds)
    ratio = statistics.median(a / b for a, b in zip(rates["loop"], rates["bare"], strict=True))
    bare_rate, loop_rate = (statistics.median(rates[kind]) for kind in ("bare", "loop"))
    memory = "in memory" if store.memory else "from disk"
    return f"| {size_name} | {pixels} | {precision} | {bare_rate:.1f} | {loop_rate:.1f} | {ratio:.2f} | {memory} |"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
    index = index_split(load_dataset_config(flags.data), flags.data, "train")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {flags.workers} workers, {len(index)} images")
    print(
        "| model | px | precision | bare img/s | loop img/s | loop / bare | pictures |\n|---|---|---|---|---|---|---|"
    )
    for name in flags.sizes:
        for pixels in flags.pixels:
            for precision in flags.precisions:
                print(measure(name, pixels, precision, index, flags), flush=True)


if __name__ == "__main__":
    main()
