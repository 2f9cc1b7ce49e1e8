"""Masks as COCO's run-length code: those of a split, and what becomes of those that are found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.masks import join_rings, rings_of, runs_of
from yolo_lite.data.outlines import of_boxes

Rle = dict[str, Any]  # "size": height and width, "counts": COCO's text of the runs


def truth_masks(index: DatasetIndex) -> list[Rle]:
    """The mask of each object of a split with outlines, that of its box where it has none."""
    boxes, sizes, far = of_boxes(index.xyxy), index.size[index.owner].tolist(), 2 * int(index.size.max(initial=1))
    known = index.outlines and index.outlines.clipped((-far, -far), (far, far))  # a line takes memory by its length
    outlines = ((known and known.of(row)) or boxes.of(row) for row in range(len(index.label)))
    return [runs_of(rings, height, width) for rings, (height, width) in zip(outlines, sizes, strict=True)]


def add_masks(annotations: Sequence[dict[str, Any]], masks: Iterable[Rle]) -> None:
    """Give COCO's annotations their masks."""
    for annotation, mask in zip(annotations, masks, strict=True):
        annotation["segmentation"] = mask


def decoded(masks: Iterable[Rle]) -> Iterator[np.ndarray]:
    """Each mask as pixels uint8 ``[H, W]``, one after the other: all of a large image would fill the memory."""
    return (coco_mask.decode(mask) for mask in masks)


def plain(mask: Rle) -> Rle:
    """A mask as JSON can hold it, and as COCO's files do."""
    counts = mask["counts"]
    return {"size": list(mask["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def polygon(mask: Rle, xyxy: np.ndarray) -> np.ndarray:
    """One ring ``[q, 2]`` along the edges of the pixels, round holes and all parts; that of the box without pixels."""
    rings = rings_of(coco_mask.decode(mask))
    return join_rings(rings or of_boxes(xyxy[None]).of(0))
