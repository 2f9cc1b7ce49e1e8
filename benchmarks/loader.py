"""Images a second of the training loader alone, by loading processes and image size.

    python benchmarks/loader.py --data ../shared/data/bccd/data.yaml

Every combination is timed in turn, some rounds, medians: images a second by the clock; seconds of all cores an image;
and the milliseconds a batch that the main process spends, which is what a step waits for where others load. Then what
a process sends for a batch, beside its images: bytes, and arrays that are pickled.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data import hand_over
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.hand_over import start_worker
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import collate, training_loader
from yolo_lite.data.store import ImageStore


class Speed(NamedTuple):
    """How fast batches came."""

    rate: float  # images a second
    cpu: float  # milliseconds of all cores an image
    main: float  # milliseconds of the main process a batch


def training_set(index: DatasetIndex, size: int) -> TrainingSet:
    store = ImageStore(index, size, "off", shared=False)
    return TrainingSet(index, store, size, Hyp(), seed=0, mosaic_epochs=10**9)


def cpu_seconds() -> float:
    """Of this process and of those that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def speed(dataset: TrainingSet, batch: int, workers: int, epochs: int) -> Speed:
    """All batches of some epochs; the clock starts with the first, for processes have to be started."""
    used, own = cpu_seconds(), time.process_time()
    batches = iter(training_loader(dataset, batch, workers, range(epochs), pin_memory=torch.cuda.is_available()))
    next(batches)
    start, count = time.perf_counter(), 0
    for one in batches:
        count += len(one.images)
    seconds, own = time.perf_counter() - start, time.process_time() - own
    del batches
    return Speed(count / seconds, (cpu_seconds() - used) / (count + batch) * 1000, own / (count / batch + 1) * 1000)


def sent(dataset: TrainingSet, batch: int) -> str:
    """What a loading process sends for a batch, without its images."""
    keys = [[(0, position) for position in range(batch)]]
    slot = memoryview(bytearray(batch * dataset.size**2 * 3))
    loader = hand_over.ForkedLoader(dataset, keys, collate, 1, len(slot), False, start_worker)
    answer = hand_over._answer(loader, 0, iter(keys), slot)
    arrays = [one for one in leaves(pickle.loads(answer)) if isinstance(one, np.ndarray)]  # noqa: S301 (of this process)
    return f"{len(answer):,} bytes, {len(arrays)} arrays"


def leaves(value: object) -> Iterator[object]:
    """What lists and tuples in one another hold."""
    for one in value if isinstance(value, (list, tuple)) else ():
        yield from leaves(one)
    if not isinstance(value, (list, tuple)):
        yield value


def table(
    index: DatasetIndex, batch: int, sizes: Sequence[int], workers: Sequence[int], flags: argparse.Namespace
) -> str:
    """A row for each combination, the median of the rounds."""
    kinds = list(itertools.product(sizes, workers))
    found: dict[tuple[int, int], list[Speed]] = {kind: [] for kind in kinds}
    for _, (size, count) in itertools.product(range(flags.rounds), kinds):
        found[size, count].append(speed(training_set(index, size), batch, count, flags.epochs))
    rows = ["| px | workers | img/s | CPU ms an image | main process, ms a batch |", "|---|---|---|---|---|"]
    for (size, count), speeds in found.items():
        rate, cpu, main = (statistics.median(column) for column in zip(*speeds, strict=True))
        rows.append(f"| {size} | {count} | {rate:.0f} | {cpu:.2f} | {main:.2f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    index = index_split(load_dataset_config(flags.data), flags.data, "train")
    print(f"{len(index)} images of {flags.data}, {os.cpu_count()} cores, batches of {flags.batch_size}, mosaic\n")
    print(table(index, flags.batch_size, (320, 640), (0, 1, 2), flags))
    print(f"\na batch beside its images: {sent(training_set(index, 320), flags.batch_size)}")


if __name__ == "__main__":
    main()
