"""Pictures of a run: a training batch as the network sees it, and labels beside predictions."""

from __future__ import annotations

import numpy as np

from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex
from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.report.pictures import contact_sheet, draw_boxes, enlarge, side_by_side
from yolo_lite.structures import Batch

SHOWN_CONFIDENCE = 0.25


def training_sheet(batch: Batch, names: tuple[str, ...], most: int = 8) -> np.ndarray:
    """The first pictures of a batch (uint8, on the CPU) with their boxes, RGB."""
    pictures = []
    for row in range(min(len(batch.images), most)):
        own = batch.targets.image == row
        xyxy = cxcywh_to_xyxy(batch.targets.box[own]).numpy()
        image = batch.images[row].permute(1, 2, 0).numpy()
        pictures.append(draw_boxes(*enlarge(image, xyxy), batch.targets.label[own].numpy(), names))
    return contact_sheet(pictures, columns=4)


def prediction_sheet(index: DatasetIndex, table: DetectionTable, most: int = 4) -> np.ndarray:
    """Labels beside predictions above 0.25 for pictures spread evenly over a split, RGB."""
    chosen = np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).round().astype(int))
    return contact_sheet([_labels_and_predictions(index, table, int(position)) for position in chosen], columns=2)


def _labels_and_predictions(index: DatasetIndex, table: DetectionTable, position: int) -> np.ndarray:
    image = read_image(index.path(position))
    label, xyxy = index.objects(position)
    own = (table.image == position) & (table.score > SHOWN_CONFIDENCE)
    left = draw_boxes(*enlarge(image, xyxy), label, index.names)
    right = draw_boxes(*enlarge(image, table.xyxy[own]), table.label[own], index.names, table.score[own])
    return side_by_side(left, right)
