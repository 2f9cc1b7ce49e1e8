"""One sample, as a pure function of (seed, epoch, index): any number of workers sees the same samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from yolo_lite.config.schema import Hyp
from yolo_lite.data import augment
from yolo_lite.data.augment import Sample
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import Letterbox, canvas_size, on_canvas, to_canvas
from yolo_lite.data.store import ImageStore

# Streams of random numbers are told apart by the first word after the seed.
SAMPLE_STREAM, ORDER_STREAM = 0, 1


class Item(NamedTuple):
    """What a dataset hands to ``collate``."""

    image: np.ndarray  # uint8 [H, W, channels]
    label: np.ndarray  # [m] int64
    xyxy: np.ndarray  # [m, 4] float64, pixels of the network input
    position: int  # row of the DatasetIndex
    original_size: tuple[int, int]  # height, width
    letterbox: Letterbox


class TrainingSet:
    """Augmented square pictures; asked by (epoch, index)."""

    def __init__(
        self, index: DatasetIndex, store: ImageStore, size: int, hyp: Hyp, seed: int, mosaic_epochs: int
    ) -> None:
        self.index, self.store, self.size, self.hyp = index, store, size, hyp
        self.seed = seed
        self.mosaic_epochs = mosaic_epochs  # epochs from this one on have neither mosaic nor mixup

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, position = key
        rng = np.random.default_rng([self.seed, SAMPLE_STREAM, epoch, position])
        mixes = epoch < self.mosaic_epochs
        sample = self._warped(position, mixes, rng)
        if mixes and rng.random() < self.hyp.mixup:
            sample = augment.mixup(sample, self._warped(int(rng.integers(len(self))), mixes, rng), rng)
        sample = sample._replace(image=augment.random_hsv(sample.image, self.hyp, rng))
        sample = augment.random_flips(sample, self.hyp, rng)
        kept = augment.worth_learning(sample)
        size = (int(self.index.size[position, 0]), int(self.index.size[position, 1]))
        # The picture of a training sample has been warped: it has no letterbox to undo.
        return Item(sample.image, sample.label[kept], sample.xyxy[kept], position, size, Letterbox(1.0, 1.0, 0, 0))

    def _warped(self, position: int, mixes: bool, rng: np.random.Generator) -> Sample:
        """One picture or a mosaic of four, through the random warp, ``size`` pixels square."""
        if mixes and rng.random() < self.hyp.mosaic:
            partners = rng.integers(len(self), size=3)
            samples = [self._load(other) for other in (position, *map(int, partners))]
            sample = augment.mosaic(samples, self.size, rng)
        else:
            sample = augment.centred(self._load(position), self.size)
            if not augment.needs_warp(self.hyp):
                return sample
        height, width = sample.image.shape[:2]
        return augment.warp(sample, augment.random_warp(width, height, self.size, self.hyp, rng), self.size)

    def _load(self, position: int) -> Sample:
        image = self.store[position]
        label, xyxy = self.index.objects(position)
        height, width = self.index.size[position]
        scale_x, scale_y = image.shape[1] / width, image.shape[0] / height
        return Sample(image, label, xyxy * (scale_x, scale_y, scale_x, scale_y), np.ones(len(label)))


class EvaluationSet:
    """Letterboxed pictures, each padded to a multiple of the stride; asked by index.

    The shape of a picture depends on nothing but the picture, so results do not depend on the batch size.
    """

    def __init__(self, index: DatasetIndex, store: ImageStore, stride: int) -> None:
        self.index, self.store, self.stride = index, store, stride

    def __len__(self) -> int:
        return len(self.index)

    def shape(self, position: int) -> tuple[int, int]:
        """Height and width of the network input for this picture."""
        height, width = self.store.size[position]
        return canvas_size(int(height), int(width), self.stride)

    def __getitem__(self, position: int) -> Item:
        original = (int(self.index.size[position, 0]), int(self.index.size[position, 1]))
        image, letterbox = on_canvas(self.store[position], original, self.shape(position))
        label, xyxy = self.index.objects(position)
        return Item(image, label, to_canvas(xyxy, letterbox), position, original, letterbox)
