"""Laws of the one evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from torch import nn

from yolo_lite.cli.main import val_main
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.schema import Hyp
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.evaluate import Evaluation, evaluate, format_table, prepare_split, report
from yolo_lite.engine.families import BatchLosses, Yolo
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Batch, Detections, LossParts

CPU = choose_compute("cpu", "fp32", channels_last=True)


class Oracle(Yolo):
    """Finds exactly the labels, save those that ``misses`` names."""

    def __init__(self, misses: int | None = None) -> None:
        self.misses = misses

    def for_inference(self, model: nn.Module) -> nn.Module:
        return model

    def forward(self, model: nn.Module, batch: Batch, compute: object) -> Batch:
        return batch

    def detections(self, model: nn.Module, raw: Batch, batch: Batch, options: DetectOptions) -> list[Detections]:
        rows = [batch.targets.image == row for row in range(len(batch.images))]
        rows = [own & (batch.targets.label != self.misses) for own in rows]
        return [
            Detections(cxcywh_to_xyxy(raw.targets.box[own]), torch.ones(int(own.sum())), raw.targets.label[own])
            for own in rows
        ]

    def validation_losses(self, model: nn.Module, raw: Batch, batch: Batch, losses: nn.Module) -> BatchLosses:
        return BatchLosses(LossParts(*torch.ones(3)), torch.tensor(0))


@pytest.fixture
def val_index(tiny_data: Path) -> DatasetIndex:
    return index_split(load_dataset_config(tiny_data), tiny_data, "val")


def evaluated(index: DatasetIndex, family: Yolo, model: nn.Module, size: int, batch_size: int) -> Evaluation:
    store = ImageStore(index, size, "off", shared=False)
    split = prepare_split(store, 32, batch_size, workers=0, pin_memory=False)
    losses = family.losses(Hyp(), np.ones(len(index.names)))
    return evaluate(family, model, split, losses, CPU, DetectOptions())


@pytest.mark.parametrize("size", [64, 96, 320])
def test_the_labels_themselves_score_one_at_any_size(val_index: DatasetIndex, size: int) -> None:
    result = evaluated(val_index, Oracle(), nn.Identity(), size, batch_size=3)
    assert result.scores.overall == pytest.approx((1.0, 1.0, 1.0, 1.0, 1.0))
    assert result.fitness == pytest.approx(1.0)
    assert result.losses == {"box_loss": 1.0, "obj_loss": 1.0, "cls_loss": 1.0}
    for position in range(len(val_index)):
        label, xyxy = val_index.objects(position)
        own = result.detections.image == position
        found = result.detections.xyxy[own]
        assert sorted(result.detections.label[own]) == sorted(label)
        assert np.allclose(np.sort(found, axis=0), np.sort(xyxy, axis=0), atol=1e-3)


def test_a_class_that_is_never_found_costs_its_share_of_the_mean(val_index: DatasetIndex) -> None:
    result = evaluated(val_index, Oracle(misses=0), nn.Identity(), 64, batch_size=8)
    present = len(np.unique(val_index.label))
    assert result.scores.overall.map50 == pytest.approx((present - 1) / present)
    assert result.scores.by_class[0].map50 == 0 and result.scores.by_class[1].map50 == 1


def test_table_and_report_count_what_the_split_holds(val_index: DatasetIndex) -> None:
    result = evaluated(val_index, Oracle(), nn.Identity(), 64, batch_size=8)
    first = format_table(result, val_index).splitlines()[1].split()
    assert first[:3] == ["all", str(len(val_index)), str(len(val_index.label))]
    plain = json.loads(json.dumps(report(result, val_index)))
    assert sum(row["objects"] for row in plain["per_class"].values()) == len(val_index.label)
    assert plain["map50_95"] == pytest.approx(1.0) and plain["images"] == len(val_index)


def test_detections_do_not_depend_on_the_batch_size(tiny_run: Path, val_index: DatasetIndex) -> None:
    content = load_checkpoint(tiny_run / "weights/last.pt")
    model = Yolo().build(config_of(content, "").model)
    model.load_state_dict(content["ema"])
    # Confident outputs, so that many boxes compete.
    with torch.no_grad():
        for head in model.layers[-1].heads:
            head.bias.view(3, -1)[:, 4] += 4
    tables: list[DetectionTable] = [evaluated(val_index, Yolo(), model, 64, n).detections for n in (1, 3, 8)]
    assert len(tables[0].score) > 100
    for table in tables[1:]:
        order, other = (np.lexsort((t.score, t.image)) for t in (tables[0], table))
        assert np.array_equal(tables[0].image[order], table.image[other])
        assert np.allclose(tables[0].score[order], table.score[other], atol=1e-6)


def test_another_set_of_names_is_refused(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("path: .\nval: images\nnames: [cat, dog]\n")
    assert val_main(["--weights", str(tiny_run / "weights/best.pt"), "--data", str(other)]) == 2
    assert "names differ" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "data/raccoon").is_dir(), reason="../shared/data/raccoon is not there")
def test_real_pictures_of_many_sizes_come_back_in_their_own_pixels() -> None:
    data = SHARED / "data/raccoon/data.yaml"
    index = index_split(load_dataset_config(data), data, "val")
    result = evaluated(index, Oracle(), nn.Identity(), 320, batch_size=16)
    assert result.scores.overall.map50_95 == pytest.approx(1.0)
    assert len({tuple(size) for size in index.size.tolist()}) > 10
