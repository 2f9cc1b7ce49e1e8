"""Batches of samples: their order, how samples are joined, and the processes that load them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from yolo_lite.data.balance import draw_order
from yolo_lite.data.dataset import DatasetItem, EvaluationSet, TrainingSet
from yolo_lite.data.hand_over import ForkedLoader, Loader, start_worker
from yolo_lite.data.masks import learnt_masks
from yolo_lite.data.store import CAN_FORK
from yolo_lite.ops.boxes import xyxy_to_cxcywh
from yolo_lite.ops.streams import Stream
from yolo_lite.structures import Batch, Objects

Share = Callable[[Sequence[tuple[int, int]]], Sequence[tuple[int, int]]]  # ``list`` takes everything


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches of an epoch; the last may be smaller."""
    return -(-num_images // batch_size)


@dataclass(eq=False)
class EpochBatches(Sampler[Sequence[tuple[int, int]]]):
    """Lists of (epoch, index) for all epochs of a run, each epoch in its own order: a pure function of (seed, epoch).

    One iteration covers the whole run, so that workers go on with the next epoch while the last one is validated.
    """

    num_images: int
    batch_size: int
    seed: int
    epochs: range
    first_batch: int = 0  # at which the first epoch starts, for a run that is resumed in the middle of one
    share: Share = list  # selects this process's part of the global batch; it may be empty
    weights: np.ndarray | None = None  # [n] how often each image is drawn; without them each is drawn once

    def __len__(self) -> int:
        count = num_batches(self.num_images, self.batch_size)
        return len(self.epochs) * count - min(self.first_batch, count)  # the last step of an epoch may have had fewer

    def __iter__(self) -> Iterator[Sequence[tuple[int, int]]]:
        first = self.first_batch
        for epoch in self.epochs:
            rng = np.random.default_rng([self.seed, Stream.ORDER, epoch])
            order = rng.permutation(self.num_images) if self.weights is None else draw_order(self.weights, rng)
            for start in range(first * self.batch_size, self.num_images, self.batch_size):
                yield self.share([(epoch, int(index)) for index in order[start : start + self.batch_size]])
            first = 0


def same_shape_batches(dataset: EvaluationSet, batch_size: int) -> list[list[int]]:
    """Indices of all images in batches of images of the same shape."""
    in_order = sorted(range(len(dataset)), key=dataset.shape)
    groups = [list(group) for _, group in itertools.groupby(in_order, key=dataset.shape)]
    return [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]


def collate(items: list[DatasetItem], memory: memoryview | None = None) -> Batch:
    """Join samples of one shape, their images in ``memory`` if it is given; boxes become cxcywh, outlines masks."""
    unreadable = tuple(one for item in items for one in item.unreadable)
    items = [item for item in items if item.image.size]
    if not items:
        return EMPTY._replace(unreadable=unreadable) if unreadable else EMPTY
    arrays, instances, position, original_size, letterbox, _ = zip(*items, strict=True)
    image = torch.arange(len(items)).repeat_interleave(torch.tensor([len(own) for own in instances]))
    label = torch.from_numpy(np.concatenate([own.label for own in instances]))
    box = xyxy_to_cxcywh(torch.from_numpy(np.concatenate([own.xyxy for own in instances]))).float()
    # In memory they are [B, H, W, 3]: seen as [B, 3, H, W] they are channels-last without a copy.
    place = None if memory is None else np.ndarray((len(items), *arrays[0].shape), np.uint8, memory)
    images = torch.from_numpy(np.stack(arrays, out=place)).permute(0, 3, 1, 2)
    masks = [learnt_masks(own, *arrays[0].shape[:2]) for own in instances if own.outlines]
    mask = torch.from_numpy(np.concatenate(masks)) if masks else None
    sizes, letterboxes = torch.tensor(original_size), torch.tensor(letterbox, dtype=torch.float64)
    return Batch(images, Objects(image, label, box, mask), torch.tensor(position), sizes, letterboxes, unreadable)


# A process's part of a batch with fewer images than processes. No network sees it: three channels do for any dataset.
_NONE, _IMAGES = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, 0, 0, dtype=torch.uint8)
EMPTY = Batch(_IMAGES, Objects(_NONE, _NONE, torch.zeros(0, 4)), _NONE, _NONE.view(0, 2), torch.zeros(0, 4).double())


def training_loader(
    dataset: TrainingSet,
    batch_size: int,
    workers: int,
    epochs: range,
    pin_memory: bool,
    first_batch: int = 0,
    share: Share = list,
) -> Loader:
    """All batches of all ``epochs``, to be iterated once; see ``EpochBatches``."""
    batches = EpochBatches(len(dataset), batch_size, dataset.seed, epochs, first_batch, share, dataset.weights)
    largest = len(share([(0, 0)] * min(batch_size, len(dataset)))) * dataset.size**2 * dataset.index.channels
    return _loader(dataset, batches, workers, pin_memory, largest)


def evaluation_loader(
    dataset: EvaluationSet, batch_size: int, workers: int, pin_memory: bool, part: slice = slice(None)
) -> Loader:
    """Every image once, or ``part`` of the batches; their order depends on the images' shapes alone."""
    # Decoded images only need a border, which is faster than sending them from another process.
    workers = 0 if dataset.store.memory else workers
    batches = same_shape_batches(dataset, batch_size)[part]
    largest = max((len(batch) * math.prod(dataset.shape(batch[0])) for batch in batches), default=0)
    return _loader(dataset, batches, workers, pin_memory, largest * dataset.index.channels)


def _loader(dataset, batches, workers: int, pin_memory: bool, batch_bytes: int) -> Loader:  # type: ignore[no-untyped-def]
    workers = max(min(workers, len(batches) - 1), 0)  # the first batch is waited for, whoever loads it
    # Without a GPU the network runs on the same cores, and one displaced thread holds up all the others.
    start = partial(start_worker, niceness=0 if pin_memory else 10)
    if workers and CAN_FORK:
        return ForkedLoader(dataset, batches, collate, workers, max(batch_bytes, 1), pin_memory, start)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=start,
    )
