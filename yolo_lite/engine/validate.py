"""Validation of a checkpoint: what val.py does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError, nearest
from yolo_lite.config.find import find_yaml
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import ValOptions
from yolo_lite.data.index import index_split, only_classes
from yolo_lite.data.letterbox import Canvas, canvas_size
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth, score_by_size, score_detections
from yolo_lite.engine.detection_files import write_coco_json, write_yolo_txt
from yolo_lite.engine.device import choose_compute, libraries_left_uncollected, move_model
from yolo_lite.engine.evaluate import Evaluation, Split, evaluate, format_table, prepare_split, report, rounded_up
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.sheets import figures
from yolo_lite.engine.tasks import Inference
from yolo_lite.engine.trained import load_trained
from yolo_lite.loss.criteria import Criterion
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.drawing import write_image
from yolo_lite.structures import Compute


class Subject(NamedTuple):
    """What is validated."""

    model: Inference
    criterion: Criterion | None
    compute: Compute
    names: tuple[str, ...]  # of the classes
    channels: int  # of the images
    size: int  # pixels of the longest side in the network
    canvas: Canvas
    batch_size: int
    data: tuple[DatasetConfig, str] | None  # what it was trained with, and its file


class ValidationRun(NamedTuple):
    """A model and a split, ready for ``evaluate``."""

    model: Inference
    split: Split
    criterion: Criterion | None
    compute: Compute
    options: DetectOptions


@dataclass(frozen=True)
class Validation:
    """The evaluation of a checkpoint on a split."""

    split: Split
    evaluation: Evaluation

    @property
    def report(self) -> dict[str, Any]:
        by_size = score_by_size(self.split.truth, self.evaluation.detections)
        return report(self.evaluation, self.split.dataset, by_size)

    @property
    def table(self) -> str:
        return format_table(self.evaluation, self.split.dataset)

    def write_images(self, folder: Path) -> None:
        for name, image_rgb in figures(self.evaluation, self.split):
            write_image(folder / f"{name}.png", image_rgb)

    def write_json(self, folder: Path) -> None:
        write_coco_json(folder, self.evaluation.detections, self.split)

    def write_txt(self, folder: Path) -> None:
        write_yolo_txt(folder, self.evaluation.detections, self.split)

    def of_classes(self, names: Sequence[str]) -> Validation:
        """The same detections, as if there were no other classes than these; losses stay those of all."""
        index, table = self.split.dataset, self.evaluation.detections
        chosen = only_classes(index, names)
        new_label = np.array([names.index(name) if name in names else -1 for name in index.names])[table.label]
        table = DetectionTable(*(column[new_label >= 0] for column in table._replace(label=new_label)))
        split = self.split._replace(dataset=chosen, truth=ground_truth(chosen))
        scores = score_detections(split.truth, table)
        return Validation(split, self.evaluation._replace(scores=scores, detections=table))


def prepare_validation(options: ValOptions, subject: Subject | None = None) -> ValidationRun:
    """A model and a split; without a subject, the checkpoint that the options name."""
    subject = subject or _checkpoint(options)
    index = index_split(*_dataset(subject, options), options.split)
    print(f"{options.split}: {index.describe()}")
    _check_classes(options.classes, index.names)
    store = ImageStore(index, subject.size, "off", options.workers > 0)
    batch_size, pin_memory = options.batch_size or subject.batch_size, subject.compute.device.type == "cuda"
    split = prepare_split(store, subject.canvas, batch_size, options.workers, pin_memory)
    choice = DetectOptions(options.conf, options.iou, options.max_det)
    print(f"{subject.compute}, {subject.size} px")
    return ValidationRun(subject.model, split, subject.criterion, subject.compute, choice)


def _checkpoint(options: ValOptions) -> Subject:
    """The averaged weights of a checkpoint."""
    task, model, config, content = load_trained(str(options.weights))
    compute = choose_compute(str(options.device), config.hyp.precision, config.hyp.channels_last)
    model = move_model(model, compute)
    # Weights by label counts come with the state.
    criterion = task.criterion(config.model, config.hyp, np.zeros(config.model.nc))
    criterion.load_state_dict(content["losses"])
    size = rounded_up(options.imgsz or config.train.imgsz, model.stride)
    return Subject(
        model,
        criterion.to(compute.device),
        compute,
        names=config.data.class_names,
        channels=config.data.channels,
        size=size,
        canvas=functools.partial(canvas_size, stride=model.stride),
        batch_size=config.train.batch_size,
        data=(config.data, config.data_file) if config.data_file else None,
    )


def validate_checkpoint(prepared: ValidationRun) -> Validation:
    """Evaluate what ``prepare_validation`` made ready."""
    with libraries_left_uncollected():
        return Validation(prepared.split, evaluate(*prepared))


def _check_classes(wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise ConfigError(f"--classes: expected names of classes, found {name!r}{nearest(name, names)}")
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"--classes: expected each name once, found {' '.join(wanted)}")


def _dataset(subject: Subject, options: ValOptions) -> tuple[DatasetConfig, str]:
    if not options.data:
        if not subject.data:
            raise ConfigError(f"{options.weights}: imported and exported weights know no dataset, expected --data")
        return subject.data
    data_file = str(find_yaml(options.data, "data"))
    data = load_dataset_config(data_file, seams=SEAMS)
    if data.class_names != subject.names:
        raise DataError(
            f"{data_file}: names differ from those {options.weights} was trained with: "
            f"expected {list(subject.names)}, found {list(data.class_names)}"
        )
    if data.channels != subject.channels:
        expected = f"expected {subject.channels} as {options.weights} was trained with, found {data.channels}"
        raise DataError(f"{data_file}: channels: {expected}")
    return data, data_file
