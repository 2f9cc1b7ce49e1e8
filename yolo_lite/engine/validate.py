"""Validation of a checkpoint: what val.py does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from yolo_lite.config.errors import ConfigError, DataError, nearest
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.schema import DatasetConfig, RunConfig
from yolo_lite.data.index import index_split, only_classes
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth, score_by_size, score_detections
from yolo_lite.engine.detection_files import write_coco_json, write_yolo_txt
from yolo_lite.engine.device import Compute, choose_compute, libraries_left_uncollected, place
from yolo_lite.engine.evaluate import Evaluation, Split, evaluate, format_table, prepare_split, report, rounded_up
from yolo_lite.engine.families import FAMILIES, ModelFamily
from yolo_lite.engine.figures import figures
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.pictures import write_picture


class Prepared(NamedTuple):
    """A checkpoint and a split, ready for ``evaluate``."""

    family: ModelFamily
    model: nn.Module
    split: Split
    losses: nn.Module
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

    def write_pictures(self, folder: Path) -> None:
        for name, image_rgb in figures(self.evaluation, self.split):
            write_picture(folder / f"{name}.png", image_rgb)

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


def prepare_validation(flags: argparse.Namespace) -> Prepared:
    """The averaged weights of a checkpoint and a split, by the flags of val.py."""
    content = load_checkpoint(flags.weights)
    config = config_of(content, flags.weights)
    compute = choose_compute(flags.device, config.hyp.precision, config.hyp.channels_last)
    data, data_file = _dataset(config, flags)
    index = index_split(data, data_file, flags.split)
    print(f"{flags.split}: {index.describe()}")
    _check_classes(flags.classes, index.names)
    family = FAMILIES[config.model.family]
    model = family.build(config.model, fetch=False)
    model.load_state_dict(content["ema"])
    model, stride = place(model, compute), family.stride(model)
    losses = family.losses(config.hyp, np.zeros(config.model.nc))  # weights by label counts come with the state
    losses.load_state_dict(content["losses"])
    size = rounded_up(flags.imgsz or config.train.imgsz, stride)
    batch_size = flags.batch_size or config.train.batch_size
    pin_memory = compute.device.type == "cuda"
    store = ImageStore(index, size, "off", flags.workers > 0)
    split = prepare_split(store, stride, batch_size, flags.workers, pin_memory)
    options = DetectOptions(flags.conf, flags.iou, flags.max_det)
    print(f"{compute}, {size} px")
    return Prepared(family, model, split, losses.to(compute.device), compute, options)


def validate_checkpoint(prepared: Prepared) -> Validation:
    """Evaluate what ``prepare_validation`` made ready."""
    with libraries_left_uncollected():
        return Validation(prepared.split, evaluate(*prepared))


def _check_classes(wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise ConfigError(f"--classes: expected names of classes, found {name!r}{nearest(name, names)}")
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"--classes: expected each name once, found {' '.join(wanted)}")


def _dataset(config: RunConfig, flags: argparse.Namespace) -> tuple[DatasetConfig, str]:
    if not flags.data:
        if not config.data_file:
            raise ConfigError(f"{flags.weights}: imported weights, which know no dataset, expected --data")
        return config.data, config.data_file
    data = load_dataset_config(flags.data)
    if data.class_names != config.data.class_names:
        raise DataError(
            f"{flags.data}: names differ from those {flags.weights} was trained with: "
            f"expected {list(config.data.class_names)}, found {list(data.class_names)}"
        )
    if data.channels != config.data.channels:
        expected = f"expected {config.data.channels} as {flags.weights} was trained with, found {data.channels}"
        raise DataError(f"{flags.data}: channels: {expected}")
    return data, flags.data
