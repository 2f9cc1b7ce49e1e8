"""Images of a run: a training batch as the network sees it, labels beside predictions, and figures of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from yolo_lite.config.errors import DataError
from yolo_lite.data.images import read_image
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.letterbox import GREY
from yolo_lite.engine.confusion import SHOWN_CONFIDENCE, Errors, find_errors
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.masks import decoded
from yolo_lite.engine.operating_points import Points
from yolo_lite.loss.criteria import Criterion
from yolo_lite.ops.box_arrays import xyxy_to_cxcywh
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.report.drawing import as_rgb, contact_sheet, draw_boxes, draw_masks, draw_outlines, enlarge, titled
from yolo_lite.report.evaluation import ap_image, confusion_image, curves_image
from yolo_lite.structures import Batch, Compute

SHOWN_IMAGES = 8  # of a training batch


class Cells(NamedTuple):
    """Which slots learn which objects of a batch, to be looked at; P pairs."""

    image: np.ndarray  # [P] int64, which image of the batch
    target: np.ndarray  # [P] int64, row of its objects
    score: np.ndarray  # [P] float32, how much a pair counts
    xyxy: np.ndarray  # [P, 4] float32, anchor in its cell or, without anchors, the cell; pixels of the network input


@torch.no_grad()
def assigned_cells(model: Any, criterion: Criterion, batch: Batch, compute: Compute) -> Cells | None:
    """The slots that learn the objects of a batch by what the model now predicts; None where it assigns by itself."""
    grid = model.grid(*batch.images.shape[2:])
    if grid is None:
        return None
    batch, predictions = batch.to(compute), None
    if criterion.needs_predictions:
        predictions = criterion.predictions(model.for_inference()(batch.images), grid)
    matches = criterion.assign(batch.objects, grid, predictions)
    slots = grid.slots.select(matches.slot)
    xyxy = cxcywh_to_xyxy(torch.cat((slots.centre, slots.anchor), dim=1))
    return Cells(*(values.cpu().numpy() for values in (matches.image, matches.target, matches.score, xyxy)))


def few_images(batch: Batch, most: int = 16) -> Batch:
    """The first images of a batch, with their objects."""
    return batch._replace(images=batch.images[:most], objects=batch.objects.select(batch.objects.image < most))


def training_sheet(batch: Batch, names: tuple[str, ...], most: int = SHOWN_IMAGES) -> np.ndarray:
    """The first images of a batch (uint8, on the CPU) with their boxes and masks, RGB."""
    images = []
    for row in range(min(len(batch.images), most)):
        own = batch.objects.select(batch.objects.image == row)
        image, labels = as_rgb(batch.images[row].permute(1, 2, 0).numpy()), own.label.numpy()
        if own.mask is not None:
            masks = (cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) for mask in own.mask.numpy())
            image = draw_masks(image, masks, labels)
        images.append(draw_boxes(*enlarge(image, cxcywh_to_xyxy(own.box).numpy()), labels, names))
    return contact_sheet(images, columns=4)


def assignment_sheet(batch: Batch, cells: Cells, names: tuple[str, ...], most: int = 4) -> np.ndarray:
    """Objects of some training images and, thin, in the same colour, the slots that learn them, RGB.

    A dot is the cell of a slot, large where the pair counts much; a shape of anchor is drawn in one of its cells only.
    The images with the fewest objects are shown: in a crowd nothing could be told apart.
    """
    labels, images = batch.objects.label.numpy(), []
    counts = np.bincount(batch.objects.image.numpy(), minlength=len(batch.images))
    for row in np.argsort(np.where(counts > 0, counts, counts.max() + 1), kind="stable")[:most].tolist():
        own, learning = batch.objects.select(batch.objects.image == row), cells.image == row
        target, xyxy = cells.target[learning], cells.xyxy[learning]
        size = xyxy_to_cxcywh(xyxy)[:, 2:].round(2)  # cells far from 0 cost digits
        _, shapes = np.unique(np.column_stack((target, size)), axis=0, return_index=True)
        image = as_rgb(batch.images[row].permute(1, 2, 0).numpy())
        image, boxes = enlarge(image, np.concatenate((cxcywh_to_xyxy(own.box).numpy(), xyxy)), 640, below=640)
        objects, xyxy = np.split(boxes, [len(own.box)])
        centre = xyxy_to_cxcywh(xyxy)[:, :2]
        image = draw_outlines(image, xyxy[shapes], labels[target[shapes]])
        half = 1 + cells.score[learning, None]
        image = draw_outlines(image, np.concatenate((centre - half, centre + half), axis=1), labels[target])
        image = draw_boxes(image, objects, own.label.numpy(), names)
        images.append(titled(image, f"{learning.sum()} slots learn {len(own.box)} objects"))
    return contact_sheet(images, columns=2)


def prediction_sheet(index: DatasetIndex, errors: Errors, positions: np.ndarray, only_errors: bool) -> np.ndarray:
    """Labels beside predictions above 0.25 of some images; what is right is thin and white with ``only_errors``."""
    sides = (
        ("labels: {} of {} missed", errors.objects, errors.is_missed, None),
        ("predictions: {} of {} false", errors.detections, errors.is_false, errors.detections.score),
    )
    pairs = []
    for position in positions.tolist():
        image, pair = as_rgb(pixels_of(index, position)), []
        for title, table, wrong, score in sides:
            own = table.image == position
            shown = own & wrong if only_errors else own
            masks = [] if table.mask is None else decoded(table.mask[shown])
            larger, boxes = enlarge(draw_masks(image, masks, table.label[shown]) if masks else image, table.xyxy)
            larger = draw_outlines(larger, boxes[own & ~shown])
            scores = None if score is None else score[shown]
            larger = draw_boxes(larger, boxes[shown], table.label[shown], index.names, scores)
            pair.append(titled(larger, title.format((own & wrong).sum(), own.sum())))
        pairs.append(contact_sheet(pair, columns=2))
    return contact_sheet(pairs, columns=2)


def pixels_of(index: DatasetIndex, position: int) -> np.ndarray:
    """An image of the index; grey where it cannot be read any more, for a figure is no reason to end a run."""
    try:
        return read_image(index.path(position), index.channels, index.white)
    except DataError:
        return np.full((*index.size[position], index.channels), GREY, np.uint8)


def figures(evaluation: Evaluation, points: Points | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """The images of an evaluation, RGB, and the names of their files: photographs are JPEG, twenty times quicker."""
    index, scores = evaluation.split.dataset, evaluation.scores
    errors = find_errors(index, evaluation.split.truth, evaluation.detections)
    rule = f"detections above confidence {SHOWN_CONFIDENCE}, paired with objects at IoU 0.5 whatever their classes"
    rule = rule if scores.mask is None else f"{rule}, by their masks"
    spread = np.linspace(0, len(index) - 1, min(4, len(index))).round().astype(int)
    yield "val_predictions.jpg", prediction_sheet(index, errors, spread, only_errors=False)
    worst = np.argsort(-errors.by_image(len(index)), kind="stable")[:6]
    yield "worst_images.jpg", prediction_sheet(index, errors, worst, only_errors=True)
    yield "curves.png", curves_image(scores.curves, index.names, points)
    yield "confusion_matrix.png", confusion_image(errors.matrix(len(index.names)), index.names, rule)
    yield "ap_by_class.png", ap_image(index.names, scores.curves.objects, np.array(scores.by_class)[:, :2])
    if masks := scores.mask:
        yield "mask_curves.png", curves_image(masks.curves, index.names)
        yield "mask_ap_by_class.png", ap_image(index.names, masks.curves.objects, np.array(masks.by_class)[:, :2])
