"""Samples as pure functions of (seed, epoch, index), so that any number of workers sees the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.hyp import AugmentSection
from yolo_lite.data import augment, effects, tiles
from yolo_lite.data.balance import repeat_factors
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.instances import Instances, Sample, scale_matrix
from yolo_lite.data.letterbox import Canvas, Letterbox
from yolo_lite.data.store import ImageStore
from yolo_lite.data.unreadable import first_readable, reason_of
from yolo_lite.ops.streams import NamedGenerators, Stream


class DatasetItem(NamedTuple):
    """One sample as ``collate`` gets it."""

    image: np.ndarray  # uint8 [H, W, channels]
    instances: Instances  # in pixels of the network input
    position: int  # row of the DatasetIndex
    original_size: tuple[int, int]  # height, width
    letterbox: Letterbox
    unreadable: tuple[tuple[int, str], ...] = ()  # positions and reasons of images in whose place others are, or none


def objects_of(index: DatasetIndex, position: int, with_outlines: bool) -> Instances:
    """The objects of an image, in its pixels."""
    height, width = index.size[position]
    label, xyxy = index.objects(position)
    packed = index.outlines if with_outlines else None
    outlines = packed and packed.select(index.rows(position)).within(xyxy, (width, height))
    return Instances(label, xyxy, np.ones(len(label)), outlines)


@dataclass(eq=False)
class TrainingSet:
    """Augmented square images by (epoch, index); a ConfigError where copy_paste is on and no label has a polygon."""

    index: DatasetIndex
    store: ImageStore
    size: int
    hyp: AugmentSection
    seed: int
    mosaic_epochs: int  # from this epoch on there is no mosaic, mixup or copy-paste
    with_outlines: bool = False  # samples come with the outlines of their objects where the index has them
    unreadable: dict[int, str] = field(default_factory=dict, init=False)  # of the sample that is made: position, reason

    def __post_init__(self) -> None:
        index, hyp = self.index, self.hyp
        self.weights = repeat_factors(index, hyp.balance) if hyp.balance else None  # [n] how often each is drawn
        # A turned object needs its outline: the box around its turned box is too large.
        self.loads_outlines = self.with_outlines or hyp.turns
        self.summed_weights = None if self.weights is None else self.weights.cumsum() / self.weights.sum()
        if hyp.copy_paste and not (index.outlines and len(index.outlines.corner)):
            raise ConfigError("copy_paste: expected labels with polygons, found boxes alone")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> DatasetItem:
        epoch, position = key
        random = NamedGenerators(self.seed, Stream.SAMPLE, epoch, position)
        sample = self._warped(position, epoch, random)
        if self._mixes("mixup", epoch, random):
            [other] = self._partners(1, random["mixup"])
            sample = augment.mixup(sample, self._warped(other, epoch, random), random["mixup"])
        sample = effects.apply_effects(sample, self.hyp, random)
        instances = sample.instances.select(augment.worth_learning(sample.instances))
        if self.with_outlines and instances.outlines is None:
            wanted = "masks are drawn from outlines: expected functions (image, instances, rng), see data/effects.py"
            raise ConfigError(f"augmentations: {wanted}")
        instances = instances if self.with_outlines else replace(instances, outlines=None)
        size = tuple(self.index.size[position].tolist())
        # The image of a training sample has been warped: it has no letterbox to undo.
        unreadable, self.unreadable = tuple(self.unreadable.items()), {}
        return DatasetItem(sample.image, instances, position, size, Letterbox(1.0, 1.0, 0, 0), unreadable)

    def _mixes(self, name: str, epoch: int, random: NamedGenerators) -> bool:
        """Draw whether an augmentation that mixes images happens, with the chance of its key."""
        chance = getattr(self.hyp, name)
        return epoch < self.mosaic_epochs and chance > 0 and random[name].random() < chance

    def _partners(self, count: int, rng: np.random.Generator) -> list[int]:
        """Draw images to be mixed with another, in proportion to their weights."""
        if self.summed_weights is None:
            return rng.integers(len(self), size=count).tolist()
        drawn = np.searchsorted(self.summed_weights, rng.random(count), side="right")
        return drawn.clip(max=len(self) - 1).tolist()

    def _warped(self, position: int, epoch: int, random: NamedGenerators) -> Sample:
        """One image or a mosaic of four after the random warp, ``size`` pixels square."""
        if self._mixes("mosaic", epoch, random):
            positions = (position, *self._partners(3, random["mosaic"]))
            samples = [self._pasted(one, epoch, random) for one in positions]
            sample = augment.mosaic(samples, self.size, random["mosaic"])
        else:
            sample = augment.centre(self._pasted(position, epoch, random), self.size)
            if not any(getattr(self.hyp, name) for name in ("degrees", "translate", "scale", "shear", "perspective")):
                return sample
        matrix = augment.random_warp(sample.image.shape, self.size, self.hyp, random["warp"])
        return augment.warp(sample, matrix, self.size, self.index.channels)

    def _pasted(self, position: int, epoch: int, random: NamedGenerators) -> Sample:
        """One image, with objects of another pasted in with the chance ``copy_paste``."""
        if not self._mixes("copy_paste", epoch, random):
            return self._load(position, self.loads_outlines, random)
        [other] = self._partners(1, random["copy_paste"])
        host, donor = (self._load(one, True, random) for one in (position, other))
        image, instances = augment.copy_paste(host, donor, random["copy_paste"])
        return Sample(image, instances if self.loads_outlines else replace(instances, outlines=None))

    def _load(self, position: int, with_outlines: bool, random: NamedGenerators) -> Sample:
        """One image or a view of it, or the next that can be read, and its objects, in pixels of the resized image."""
        position, image = first_readable(self.store.__getitem__, position, len(self), self.unreadable)
        height, width = self.index.size[position]
        instances = objects_of(self.index, position, with_outlines)
        sample = Sample(image, instances.warped(scale_matrix(image.shape[1] / width, image.shape[0] / height)))
        return tiles.random_view(sample, self.hyp.tile, self.size, random["tile"]) if self.hyp.tile else sample


@dataclass(eq=False)
class EvaluationSet:
    """Letterboxed images by index, each on a canvas of the size that ``canvas`` gives for it, whatever its batch."""

    index: DatasetIndex
    store: ImageStore
    canvas: Canvas
    with_outlines: bool = False  # samples come with the outlines of their objects, as TrainingSet's

    def __len__(self) -> int:
        return len(self.store.image)

    def shape(self, number: int) -> tuple[int, int]:
        """Height and width of the network input for this image."""
        return self.canvas(*self.store.shape[number].tolist())

    def __getitem__(self, number: int) -> DatasetItem:
        position = int(self.store.image[number])
        original = tuple(self.index.size[position].tolist())
        try:
            image, letterbox = self.store.on_canvas(number, self.canvas)
        except DataError as error:  # ``collate`` leaves it out
            none = Instances(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
            why = ((position, reason_of(error)),)
            return DatasetItem(np.zeros((0, 0, 3), np.uint8), none, position, original, Letterbox(1.0, 1.0, 0, 0), why)
        instances = objects_of(self.index, position, self.with_outlines).warped(scale_matrix(*letterbox))
        return DatasetItem(image, instances, number, original, letterbox)
