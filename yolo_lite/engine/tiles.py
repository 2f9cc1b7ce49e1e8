"""What is found in the views of large images, as detections of the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from yolo_lite.data.views import ViewStore
from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.engine.masks import Rle
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.ops.tiles import merge, sight_of


def joined(tables: Iterable[DetectionTable], views: ViewStore | None, options: DetectOptions) -> DetectionTable:
    """The detections of a split; where there are views, ``image`` of a table is the number of one."""
    table = DetectionTable.concat(tables)
    return table if views is None else DetectionTable.concat(_by_image(table, views, options))


def _by_image(table: DetectionTable, views: ViewStore, options: DetectOptions) -> Iterator[DetectionTable]:
    """The detections of each image; a table without any at first, for there may be none."""
    yield table.select(np.zeros(0, np.int64))
    image = views.image[table.image]
    order = np.argsort(image, kind="stable")
    found, first = np.unique(image[order], return_index=True)
    for position, rows in zip(found.tolist(), np.split(order, first)[1:], strict=True):
        own, size = table.select(rows), views.index.size[position]
        whole = of_image(own, views.view[own.image], size, options)
        yield whole._replace(image=np.full(len(whole.score), position))


def of_image(table: DetectionTable, view: np.ndarray, size: Iterable[int], options: DetectOptions) -> DetectionTable:
    """The detections of an image of ``size`` (height, width) from those in views ``[K, 4]`` of it."""
    height, width = size
    if (view[:, 2:] - view[:, :2] == (width, height)).all():
        return table
    box = np.clip(table.xyxy, view[:, [0, 1, 0, 1]], view[:, [2, 3, 2, 3]])
    merged, rows = merge(box, table.score, table.label, sight_of(box, view, height, width), options)
    masks = None
    if table.mask is not None:
        masks = np.array([_union(table.mask[own], view[own]) for own in rows], dtype=object)
    return table.select(np.array([own[0] for own in rows], np.int64))._replace(xyxy=merged, mask=masks)


def _union(masks: np.ndarray, view: np.ndarray) -> Rle:
    """The pixels of the pieces of an object, of each those in its view."""
    height, width = masks[0]["size"]
    corners = np.column_stack((view[:, :2], view[:, 2:] - view[:, :2])).astype(np.float64)
    windows = coco_mask.frPyObjects(corners, height, width)
    return coco_mask.merge([coco_mask.merge(list(pair), True) for pair in zip(masks, windows, strict=True)])
