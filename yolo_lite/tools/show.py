"""Sheets of the images that a run begins with, as its network would see them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from yolo_lite.config.hyp import Hyp
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.loader import training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.sheets import SHOWN_IMAGES, training_sheet


def augmented_sheets(index: DatasetIndex, hyp: Hyp, size: int, seed: int, count: int) -> Iterator[np.ndarray]:
    """Draw ``count`` sheets of augmented images with their boxes, RGB."""
    dataset = TrainingSet(index, ImageStore(index, size, "off", shared=False), size, hyp, seed, mosaic_epochs=count)
    batches = training_loader(dataset, SHOWN_IMAGES, workers=0, epochs=range(count), pin_memory=False)
    return (training_sheet(batch, index.names) for batch in itertools.islice(batches, count))
