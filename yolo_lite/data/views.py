"""Evaluation of large images view by view: windows and the whole, numbered over all images."""

from __future__ import annotations

import numpy as np

from yolo_lite.data.augment import worth_learning
from yolo_lite.data.dataset import DatasetItem, EvaluationSet
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import Canvas, Letterbox, fitted_size, to_canvas
from yolo_lite.data.store import ImageStore
from yolo_lite.data.tiles import view_on_canvas
from yolo_lite.ops.tiles import Tiles, views_of


class ViewStore(ImageStore):
    """The views of the images of an index, each resized so that its longest side has ``longest`` pixels."""

    def __init__(self, index: DatasetIndex, longest: int, cache: str, shared: bool, tiles: Tiles) -> None:
        super().__init__(index, None, cache, shared)
        views = [views_of(height, width, tiles) for height, width in index.size.tolist()]
        self.longest, self.view = longest, np.concatenate(views)  # [V, 4]
        self.image = np.repeat(self.image, list(map(len, views)))
        sides = (self.view[:, 2:] - self.view[:, :2]).tolist()
        self.shape = np.array([fitted_size(height, width, longest) for width, height in sides])
        self.last: tuple[int, np.ndarray] | None = None  # image: its views come one after the other

    def on_canvas(self, number: int, canvas: Canvas) -> tuple[np.ndarray, Letterbox]:
        position = int(self.image[number])
        if self.last is None or self.last[0] != position:
            self.last = position, self[position]
        return view_on_canvas(self.last[1], self.view[number], self.longest, canvas)


class ViewSet(EvaluationSet):
    """Views by number; of objects that a seam cuts, what training would learn."""

    store: ViewStore

    def __getitem__(self, position: int) -> DatasetItem:
        item = super().__getitem__(position)
        left, top, right, bottom = to_canvas(self.store.view[position], item.letterbox).tolist()
        seen = item.instances.clipped((left, top), (right, bottom))
        return item._replace(instances=seen.select(worth_learning(seen)))


def open_store(index: DatasetIndex, longest: int, cache: str, shared: bool, tiles: Tiles) -> ImageStore:
    """The images of a split for evaluation, or their views where there are tiles."""
    return ViewStore(index, longest, cache, shared, tiles) if tiles.size else ImageStore(index, longest, cache, shared)


def evaluation_set(store: ImageStore, canvas: Canvas) -> EvaluationSet:
    """What is in a store, letterboxed, with the outlines that its index has."""
    kind = ViewSet if isinstance(store, ViewStore) else EvaluationSet
    return kind(store.index, store, canvas, with_outlines=store.index.outlines is not None)
