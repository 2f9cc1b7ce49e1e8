"""Laws of the one evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lite.cli.main import val_main
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import ValOptions
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.store import ImageStore
from yolo_lite.engine import evaluation_report
from yolo_lite.engine.checkpoint import load_trained
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth
from yolo_lite.engine.detection_files import write_coco_json, write_yolo_txt
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.evaluate import Evaluation, Split, evaluate, prepare_split
from yolo_lite.engine.processes import ALONE
from yolo_lite.engine.train import _validate
from yolo_lite.engine.validate import Subject, prepare_validation
from yolo_lite.loss.criteria import Criterion
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.nms import DetectOptions, survivors
from yolo_lite.structures import Batch, Detections, Losses, Matches, Objects

CPU = choose_compute("cpu", "fp32", channels_last=True)


class Oracle:
    """A network that finds exactly the labels, save those that ``misses`` names."""

    def __init__(self, misses: int | None = None) -> None:
        self.misses = misses

    def watch(self, split: Split) -> None:
        """The batches to come: a network sees images alone."""
        self.batches = iter(list(split.loader))

    def for_inference(self) -> Oracle:
        return self

    def __call__(self, images: torch.Tensor) -> Batch:
        batch = next(self.batches)
        assert torch.equal(batch.images.float() / 255, images)
        return batch

    def grid(self, height: int, width: int) -> None:
        return None

    def detections(self, raw: Batch, size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        rows = [raw.objects.image == row for row in range(len(raw.images))]
        rows = [own & (raw.objects.label != self.misses) for own in rows]
        return [
            Detections(cxcywh_to_xyxy(raw.objects.box[own]), torch.ones(int(own.sum())), raw.objects.label[own])
            for own in rows
        ]


class Shaky(Oracle):
    """Finds the labels inexactly and sometimes as another class, and invents some; the same for an image always."""

    def detections(self, raw: Batch, size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        return [
            self._shaken(found, torch.Generator().manual_seed(int(position)))
            for found, position in zip(super().detections(raw, size, options), raw.position, strict=True)
        ]

    def _shaken(self, found: Detections, draw: torch.Generator) -> Detections:
        box = torch.cat((found.box + 2 * torch.randn(found.box.shape, generator=draw), found.box + 9))
        label = torch.cat((found.label, found.label))
        label = torch.where(torch.rand(len(label), generator=draw) < 0.1, 0, label)
        return Detections(box, torch.rand(len(label), generator=draw), label)


@pytest.fixture
def val_index(tiny_data: Path) -> DatasetIndex:
    return index_split(load_dataset_config(tiny_data), tiny_data, "val")


class Ones(Criterion):
    """Losses of 1 for each batch, and no object that is learnt."""

    names = ("box", "obj", "cls")

    def losses_of_batch(self, raw: Any, objects: Objects, grid: Any, num_images: int) -> tuple[Losses, Matches]:
        none = objects.image[:0]
        return {name: torch.ones(()) for name in self.names}, Matches(none, none, none, none.float())


def evaluated(index: DatasetIndex, model: Any, size: int, batch_size: int) -> Evaluation:
    store = ImageStore(index, size, "off", shared=False)
    split = prepare_split(store, functools.partial(canvas_size, stride=32), batch_size, workers=0, compute=CPU)
    if isinstance(model, Oracle):
        model.watch(split)
    return evaluate(model, split, Ones(Hyp()), CPU, DetectOptions())


@pytest.mark.quick
@pytest.mark.parametrize("size", [64, 96, 320])
def test_the_labels_themselves_score_one_at_any_size(val_index: DatasetIndex, size: int) -> None:
    result = evaluated(val_index, Oracle(), size, batch_size=3)
    assert result.scores.overall == pytest.approx((1.0, 1.0, 1.0, 1.0, 1.0))
    assert result.fitness == pytest.approx(1.0)
    assert result.losses == {"box": 1.0, "obj": 1.0, "cls": 1.0}
    for position in range(len(val_index)):
        label, xyxy = val_index.objects(position)
        own = result.detections.image == position
        found = result.detections.xyxy[own]
        assert sorted(result.detections.label[own]) == sorted(label)
        assert np.allclose(np.sort(found, axis=0), np.sort(xyxy, axis=0), atol=1e-3)


def test_a_class_that_is_never_found_costs_its_share_of_the_mean(val_index: DatasetIndex) -> None:
    result = evaluated(val_index, Oracle(misses=0), 64, batch_size=8)
    present = len(np.unique(val_index.label))
    assert result.scores.overall.map50 == pytest.approx((present - 1) / present)
    assert result.scores.by_class[0].map50 == 0 and result.scores.by_class[1].map50 == 1


# ------------------------------------------------------------------------------------------------- crowded images

CROWDED = SHARED / "cases/case-16-more-than-100/data/data.yaml"


class Perfect(Oracle):
    """Finds the labels twice, as a network does, with scores of all heights; NMS has its say."""

    def detections(self, raw: Batch, size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        return [self._suppressed(found, options) for found in super().detections(raw, size, options)]

    def _suppressed(self, found: Detections, options: DetectOptions) -> Detections:
        score = torch.linspace(0.9, 0.1, 2 * len(found.box))
        return survivors(Detections(found.box.repeat(2, 1), score, found.label.repeat(2)), options)


def crowded_split() -> tuple[Split, Perfect]:
    store = ImageStore(index_split(load_dataset_config(CROWDED), CROWDED, "val"), 640, "off", shared=False)
    model, canvas = Perfect(), functools.partial(canvas_size, stride=32)
    split = prepare_split(store, canvas, 8, 0, CPU)
    model.watch(split)
    return split, model


@pytest.mark.skipif(not CROWDED.is_file(), reason=f"the crowded set is not there: {CROWDED}")
def test_a_perfect_detector_of_a_crowded_image_scores_one_in_training() -> None:
    """256 objects of one class; by COCO's hundred it would score .396."""
    split, model = crowded_split()
    assert split.limits == (512, 512)
    state = SimpleNamespace(average=SimpleNamespace(module=model), criterion=Ones(Hyp()))
    setup = SimpleNamespace(processes=ALONE, compute=CPU)
    result = _validate(SimpleNamespace(setup=setup, state=state, val=split), SimpleNamespace(check=lambda: None))
    assert result.scores.overall == pytest.approx((1, 1, 1, 1, 1)) and result.fitness == pytest.approx(1)
    content = evaluation_report.report(result)
    assert [content[name] for name in ("max_det", "ap_max_det", "ar")] == pytest.approx([512, 512, 1])
    assert content["ar_100"] == pytest.approx(100 / 256, abs=1e-3)


@pytest.mark.skipif(not CROWDED.is_file(), reason=f"the crowded set is not there: {CROWDED}")
@pytest.mark.parametrize(("rules", "expected"), [({}, 1), ({"coco_rules": True}, 0.396), ({"max_det": 256}, 1)])
def test_a_perfect_detector_of_a_crowded_image_scores_one_in_val(
    rules: dict[str, Any], expected: float, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model = crowded_split()
    config, canvas = load_dataset_config(CROWDED), functools.partial(canvas_size, stride=32)
    subject = Subject(model, None, CPU, config, str(CROWDED), 640, canvas, 8)
    result = prepare_validation(ValOptions(weights="best.pt", workers=0, **rules), subject)()
    assert result.scores.overall.map50_95 == pytest.approx(expected, abs=1e-3)
    assert result.scores.overall[3:] == pytest.approx((1, 1))  # precision and recall count all by any rule
    assert ("crowded images: up to" in capsys.readouterr().out) == (expected == 1)


def test_table_and_report_count_what_the_split_holds(val_index: DatasetIndex) -> None:
    result = evaluated(val_index, Oracle(), 64, batch_size=8)
    first = evaluation_report.table(result).splitlines()[1].split()
    assert first[:3] == ["all", str(len(val_index)), str(len(val_index.label))]
    plain = json.loads(json.dumps(evaluation_report.report(result)))
    assert sum(row["objects"] for row in plain["per_class"].values()) == len(val_index.label)
    assert plain["map50_95"] == pytest.approx(1.0) and plain["images"] == len(val_index)


@pytest.mark.bits
def test_the_same_batches_give_the_same_bits_and_other_batch_sizes_agree_to_rounding(
    tiny_run: Path, val_index: DatasetIndex
) -> None:
    model = load_trained(tiny_run / "weights/last.pt").model
    # Confident outputs, so that many boxes compete.
    with torch.no_grad():
        for head in model.layers[-1].heads:
            head.bias.view(3, -1)[:, 4] += 4
    tables: list[DetectionTable] = [evaluated(val_index, model, 64, n).detections for n in (1, 1, 3, 8)]
    assert len(tables[0].score) > 100
    for mine, again in zip(*tables[:2], strict=True):
        assert np.array_equal(mine, again)
    for table in tables[2:]:
        order, other = (np.lexsort((t.score, t.image)) for t in (tables[0], table))
        assert np.array_equal(tables[0].image[order], table.image[other])
        # Convolutions of other shapes may add in another order: with AVX-512 scores have differed by 1.6e-5.
        assert np.allclose(tables[0].score[order], table.score[other], rtol=0, atol=1e-4)


# ----------------------------------------------------------------------------------------------- what val.py writes


def val_words(run: Path, project: Path, *words: str) -> list[str]:
    weights = run / "weights/last.pt"
    return ["--weights", str(weights), "--project", str(project), "--device", "cpu", "--workers", "0", *words]


def pycocotools_figures(folder: Path) -> list[float]:
    """What pycocotools makes of the files of ``--save-json``: 12 figures as it prints them, NaN for its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(folder / "ground_truth.json")
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats).tolist()


NAMES_OF_COCO = "map50_95 map50 map75 ap_small ap_medium ap_large ar_1 ar_10 ar_100 ar_small ar_medium ar_large"


def figures_of(metrics: dict[str, float | None]) -> list[float]:
    """The figures of metrics.json in the order of pycocotools."""
    return [np.nan if metrics[name] is None else metrics[name] for name in NAMES_OF_COCO.split()]


@pytest.mark.parametrize("words", [[], ["--classes", "star", "circle", "--batch-size", "3"], ["--max-det", "1000"]])
def test_saved_json_gives_pycocotools_the_figures_of_metrics_json(
    tiny_run: Path, tmp_path: Path, words: list[str]
) -> None:
    assert val_main(val_words(tiny_run, tmp_path, "--save-json", "--split", "train", *words)) == 0
    metrics = json.loads((tmp_path / "exp/metrics.json").read_text())
    assert figures_of(metrics) == pytest.approx(pycocotools_figures(tmp_path / "exp"), abs=1e-6, nan_ok=True)
    if "--classes" in words:
        assert list(metrics["per_class"]) == ["star", "circle"]


def test_saved_json_of_a_fair_detector_gives_pycocotools_its_figures(val_index: DatasetIndex, tmp_path: Path) -> None:
    results = [evaluated(val_index, Shaky(), 96, batch_size) for batch_size in (1, 3, 8)]
    write_coco_json(tmp_path, results[0].detections, results[0].split)
    expected = pycocotools_figures(tmp_path)
    assert 0.2 < expected[0] < 0.8 and expected[6] < expected[8]
    for result in results:
        assert figures_of(evaluation_report.report(result)) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_saved_json_has_the_ids_of_a_coco_file(val_index: DatasetIndex, tmp_path: Path) -> None:
    index = dataclasses.replace(
        val_index, image_id=np.arange(len(val_index)) * 7 + 100, category_id=np.arange(len(val_index.names)) * 3 + 1
    )
    result = evaluated(index, Oracle(), 64, batch_size=8)
    write_coco_json(tmp_path, result.detections, Split(index, None, ground_truth(index)))
    found = json.loads((tmp_path / "predictions.json").read_text())
    truth = json.loads((tmp_path / "ground_truth.json").read_text())
    for rows in (found, truth["annotations"]):
        assert {row["image_id"] for row in rows} <= set(index.image_id.tolist())
        assert {row["category_id"] for row in rows} <= set(index.category_id.tolist())
    assert [(one["id"], one["name"]) for one in truth["categories"]][:2] == [(1, "circle"), (4, "square")]
    assert pycocotools_figures(tmp_path)[0] == pytest.approx(1)


def test_saved_text_holds_every_detection_in_fractions(val_index: DatasetIndex, tmp_path: Path) -> None:
    result = evaluated(val_index, Oracle(misses=0), 64, batch_size=3)
    write_yolo_txt(tmp_path, result.detections, Split(val_index, None, ground_truth(val_index)))
    files = sorted((tmp_path / "labels").iterdir())
    assert [file.stem for file in files] == [Path(val_index.path(position)).stem for position in range(len(val_index))]
    for position, file in enumerate(files):
        rows = np.array([line.split() for line in file.read_text().splitlines()], dtype=float).reshape(-1, 6)
        label, xyxy = val_index.objects(position)
        height, width = val_index.size[position]
        centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2 / (width, height)
        expected = np.column_stack((label, centre, (xyxy[:, 2:] - xyxy[:, :2]) / (width, height), np.ones(len(label))))
        expected = expected[label != 0]
        assert np.allclose(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)], atol=1e-4)


def test_pictures_of_one_name_keep_their_folders_or_endings(val_index: DatasetIndex, tmp_path: Path) -> None:
    paths = np.array([b"/set/a/1.jpg", b"/set/b/1.jpg", b"/set/b/2.png", b"/set/b/2.jpg"])
    index = dataclasses.replace(val_index, paths=paths, size=np.full((4, 2), 100))
    table = DetectionTable(np.array([3, 1, 3]), np.ones((3, 4)) * 50, np.array([0.1, 0.2, 0.3]), np.array([0, 1, 2]))
    write_yolo_txt(tmp_path, table, Split(index, None, None))
    files = {str(file.relative_to(tmp_path / "labels")): file.read_text() for file in tmp_path.rglob("*.txt")}
    assert set(files) == {"a/1.txt", "b/1.txt", "b/2.png.txt", "b/2.jpg.txt"}
    assert [line.split()[0] for line in files["b/2.jpg.txt"].splitlines()] == ["2", "0"]  # the best first
    assert files["a/1.txt"] == files["b/2.png.txt"] == ""


def test_a_review_is_written_where_it_is_asked_for(tiny_run: Path, tmp_path: Path, capsys) -> None:
    assert val_main(val_words(tiny_run, tmp_path, "--review", "--classes", "star", "circle")) == 0
    report = json.loads((tmp_path / "exp/metrics.json").read_text())
    misses = (tmp_path / "exp/review/mistakes.csv").read_text().count("\nmisses,")
    assert misses == report["objects"] > 0  # so short a run finds nothing
    assert f"wrong classes: 0, misses: {misses}, " in capsys.readouterr().out
    assert (tmp_path / "exp/review/classes.txt").read_text() == "star\ncircle\n"


def test_unknown_classes_are_refused(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert val_main(val_words(tiny_run, tmp_path, "--classes", "sqare")) == 2
    assert "--classes: expected names of classes, found 'sqare' (nearest: 'square')" in capsys.readouterr().err
    assert val_main(val_words(tiny_run, tmp_path, "--classes", "star", "star")) == 2
    assert not list(tmp_path.iterdir())


def test_nothing_found_is_a_result_too(tiny_run: Path, tmp_path: Path) -> None:
    assert val_main(val_words(tiny_run, tmp_path, "--conf", "1", "--save-json", "--save-txt")) == 0
    metrics = json.loads((tmp_path / "exp/metrics.json").read_text())
    assert [metrics[key] for key in ("map50_95", "recall", "ar_100")] == [0, 0, 0]
    assert json.loads((tmp_path / "exp/predictions.json").read_text()) == []
    assert {file.read_text() for file in (tmp_path / "exp/labels").iterdir()} == {""}
    assert (tmp_path / "exp/worst_images.jpg").exists()


def test_another_set_of_names_is_refused(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("path: .\nval: images\nnames: [cat, dog]\n")
    assert val_main(["--weights", str(tiny_run / "weights/best.pt"), "--data", str(other)]) == 2
    said = capsys.readouterr().err
    assert "names: expected ['circle', " in said and "found ['cat', 'dog']" in said


@pytest.mark.skipif(not (SHARED / "data/raccoon").is_dir(), reason="../shared/data/raccoon is not there")
def test_real_pictures_of_many_sizes_come_back_in_their_own_pixels() -> None:
    data = SHARED / "data/raccoon/data.yaml"
    index = index_split(load_dataset_config(data), data, "val")
    result = evaluated(index, Oracle(), 320, batch_size=16)
    assert result.scores.overall.map50_95 == pytest.approx(1.0)
    assert len({tuple(size) for size in index.size.tolist()}) > 10
