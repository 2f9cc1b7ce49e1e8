"""The detections of a split as files: COCO's results, and a text file an image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_lite.data.writers import coco_dict
from yolo_lite.engine.masks import Rle, add_masks, plain, polygon
from yolo_lite.engine.run_folder import unique_stems
from yolo_lite.ops.box_arrays import xyxy_to_cxcywh, xyxy_to_xywh

if TYPE_CHECKING:  # what predict does not need need not be loaded
    from yolo_lite.engine.coco_ap import DetectionTable
    from yolo_lite.engine.evaluate import Split


def write_coco_json(folder: Path, table: DetectionTable, split: Split) -> None:
    """predictions.json, COCO's results, and ground_truth.json, which it can be scored against; in pixels.

    Ids are those of the COCO file that the split came from, else positions.
    """
    index = split.dataset
    image_id, category_id = index.image_id[table.image].tolist(), index.category_id[table.label].tolist()
    rows = zip(image_id, category_id, xyxy_to_xywh(table.xyxy).tolist(), table.score.tolist(), strict=True)
    found = [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in rows]
    names = [os.path.basename(index.path(position)) for position in range(len(index))]
    expected = coco_dict(index, index.image_id.tolist(), index.category_id.tolist(), names)
    if table.mask is not None:
        add_masks(found, map(plain, table.mask))
        add_masks(expected["annotations"], map(plain, split.truth.masks))
    (folder / "predictions.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    (folder / "ground_truth.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def write_yolo_txt(folder: Path, table: DetectionTable, split: Split) -> None:
    """labels/<image>.txt: rows as ``yolo_rows`` gives them, the best first.

    Images of several folders keep their folders; of those that differ in their ending alone each keeps its ending.
    """
    index = split.dataset
    stems = unique_stems([index.path(position) for position in range(len(index))])
    order = np.lexsort((-table.score, table.image))
    ends = np.searchsorted(table.image[order], np.arange(1, len(index)))
    for stem, size, own in zip(stems, index.size.tolist(), np.split(order, ends), strict=True):
        place = folder / "labels" / f"{stem}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        one = table.select(own)
        place.write_text(yolo_rows(one.label, one.xyxy, one.score, size, one.mask), encoding="utf-8")


def yolo_rows(
    label: np.ndarray, xyxy: np.ndarray, score: np.ndarray, size: Sequence[int], masks: Iterable[Rle] | None = None
) -> str:
    """A row ``class cx cy w h confidence`` for each of D detections, in fractions of an image's height and width.

    With masks it is ``class x y x y ... confidence``: one polygon, which leads round holes and to all parts.
    """
    height, width = size
    if masks is None:
        places: Iterable[np.ndarray] = xyxy_to_cxcywh(xyxy) / (width, height, width, height)
    else:
        places = ((polygon(mask, box) / (width, height)).ravel() for mask, box in zip(masks, xyxy, strict=True))
    rows = zip(label, places, score, strict=True)
    return "".join(f"{number} {' '.join(f'{one:.6f}' for one in (*place, sure))}\n" for number, place, sure in rows)
