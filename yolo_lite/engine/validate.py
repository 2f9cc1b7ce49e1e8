"""Validation of a checkpoint: what val.py does."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError, ConfigError, DataError, nearest
from yolo_lite.config.find import find_yaml
from yolo_lite.config.options import ValOptions
from yolo_lite.config.shortage import memory_errors_explained
from yolo_lite.data.index import index_split, only_classes
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.data.letterbox import Canvas, canvas_size
from yolo_lite.data.names import load_dataset
from yolo_lite.data.outputs import Inputs
from yolo_lite.data.unreadable import check_index
from yolo_lite.data.views import open_store
from yolo_lite.engine.checkpoint import FORMAT, load_checkpoint, load_trained, save_checkpoint
from yolo_lite.engine.checkpoint_fields import load_fitting
from yolo_lite.engine.coco_ap import detection_limits, ground_truth, score_detections
from yolo_lite.engine.detection_files import write_coco_json, write_yolo_txt
from yolo_lite.engine.device import choose_compute, libraries_left_uncollected, move_model
from yolo_lite.engine.evaluate import Evaluation, evaluate, prepare_split, rounded_up
from yolo_lite.engine.operating_points import Points
from yolo_lite.engine.review import write_review
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.sheets import figures
from yolo_lite.engine.tasks import Inference
from yolo_lite.loss.criteria import Criterion
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.ops.tiles import Tiles
from yolo_lite.report.drawing import write_image
from yolo_lite.structures import Compute


class Subject(NamedTuple):
    """What is validated."""

    model: Inference
    criterion: Criterion | None
    compute: Compute
    data: DatasetConfig  # what it was trained with
    data_file: str  # its file; "" where only names and channels are known
    size: int  # pixels of the longest side in the network
    canvas: Canvas
    batch_size: int
    has_masks: bool = False  # whether it finds masks, which are then compared with outlines
    source: str = ""  # where start weights come from, and their licence
    tile: int = 0  # pixels of a window's side in training, 0 without
    points: Points | None = None  # from which confidence on it is used


class Validation(NamedTuple):
    """A validation that is ready to go."""

    run: Callable[[], Evaluation]
    inputs: Inputs  # what it reads
    points: Points | None = None  # that the model knows

    def __call__(self) -> Evaluation:
        return self.run()


def prepare_validation(options: ValOptions, subject: Subject | None = None) -> Validation:
    """What evaluates a model on a split: the checkpoint that the options name, unless there is a subject."""
    subject = subject or _checkpoint(options)
    dataset = _dataset(subject, options)
    index = index_split(*dataset, options.split, with_outlines=subject.has_masks)
    check_index(index, dataset[1], options.split)
    print(f"{options.split}: {index.describe()}")
    for name in options.classes:
        if name not in index.names:
            raise ConfigError(f"--classes: expected names of classes, found {name!r}{nearest(name, index.names)}")
    if len(set(options.classes)) < len(options.classes):
        raise ConfigError(f"--classes: expected each name once, found {' '.join(options.classes)}")
    tiles = Tiles(subject.tile if options.tile is None else options.tile, options.overlap)
    store = open_store(index, subject.size, "off", options.workers > 0, tiles)
    batch_size = options.batch_size or subject.batch_size
    limits = detection_limits(index, options.max_det, options.coco_rules)
    split = prepare_split(store, subject.canvas, batch_size, options.workers, subject.compute)._replace(limits=limits)
    choice = DetectOptions(options.conf, options.iou, limits.per_image)
    print(f"{subject.compute}, {subject.size} px{tiles}")
    if subject.source:
        print(f"weights: {subject.source}")
    if limits.remark:
        print(limits.remark)

    @libraries_left_uncollected()
    def validation() -> Evaluation:
        with memory_errors_explained(batch_size, subject.size):
            return evaluate(subject.model, split, subject.criterion, subject.compute, choice)

    return Validation(validation, dataset_inputs(*dataset, [index]), subject.points)


def of_classes(evaluation: Evaluation, names: Sequence[str]) -> Evaluation:
    """The same detections, as if there were no other classes than these; losses stay those of all."""
    split, table = evaluation.split, evaluation.detections
    index = only_classes(split.dataset, names)
    new_label = np.array([names.index(name) if name in names else -1 for name in split.dataset.names])[table.label]
    table = table._replace(label=new_label).select(new_label >= 0)
    split = split._replace(dataset=index, truth=ground_truth(index))
    scores = score_detections(split.truth, table, split.limits.per_class)
    return evaluation._replace(split=split, scores=scores, detections=table)


def write_results(
    folder: Path, evaluation: Evaluation, report: dict[str, Any], options: ValOptions, points: Points | None = None
) -> None:
    """metrics.json, images, and the detections in the forms that are asked for."""
    (folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, image_rgb in figures(evaluation, points):
        write_image(folder / name, image_rgb)
    if options.save_json:
        write_coco_json(folder, evaluation.detections, evaluation.split)
    if options.save_txt:
        write_yolo_txt(folder, evaluation.detections, evaluation.split)
    if options.review:
        print(write_review(folder, evaluation, f"{options.weights}, {options.split}: "))


def save_points(weights: str, points: Points) -> None:
    """Keep operating points in a checkpoint; CheckpointError where an older yolo_lite wrote it."""
    content = load_checkpoint(weights)
    if content["format"] != FORMAT:
        raise CheckpointError(f"--save-points: {weights}: written by an older yolo_lite, which knew none")
    save_checkpoint(Path(weights), {**content, "operating_points": points})
    print(f"{weights}: keeps its operating points")


def _checkpoint(options: ValOptions) -> Subject:
    """The averaged weights of a checkpoint."""
    task, model, config, content = load_trained(str(options.weights))
    compute = choose_compute(str(options.device), config.hyp.precision, config.hyp.channels_last)
    model = move_model(model, compute)
    # Weights by label counts come with the state.
    criterion = task.criterion(config.model, config.hyp, np.zeros(config.model.nc)).to(compute.device)
    load_fitting(criterion, content["losses"], f"{options.weights}: losses")
    size = rounded_up(options.imgsz or config.train.imgsz, model.stride)
    canvas = functools.partial(canvas_size, stride=model.stride)
    known = (config.data, config.data_file, size, canvas, config.train.batch_size)
    own = (content.get("source", ""), config.hyp.tile, content.get("operating_points"))
    return Subject(model, criterion, compute, *known, task.has_masks, *own)


def _dataset(subject: Subject, options: ValOptions) -> tuple[DatasetConfig, str]:
    if not options.data:
        if not subject.data_file:
            raise ConfigError(f"{options.weights}: imported and exported weights know no dataset, expected --data")
        return subject.data, subject.data_file
    data_file, known = str(find_yaml(options.data, "data")), subject.data
    data = load_dataset(data_file, seams=SEAMS, names=known.names)
    names = (list(known.class_names), list(data.class_names))
    for kind, (expected, found) in {"names": names, "channels": (known.channels, data.channels)}.items():
        if found != expected:
            wanted = f"expected {expected} as {options.weights} was trained with"
            raise DataError(f"{data_file}: {kind}: {wanted}, found {found}")
    return data, data_file
