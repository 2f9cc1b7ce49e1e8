"""Masks that are found: evaluated in pixels of the image file, drawn, written, predicted."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as reference_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_evaluate import Oracle, evaluated
from torch import Tensor

from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import PredictOptions
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.masks import rings_of, runs_of
from yolo_lite.data.outlines import Outlines
from yolo_lite.deploy.prediction import Outputs, Prediction
from yolo_lite.deploy.predictor import Predictor
from yolo_lite.engine import evaluation_report
from yolo_lite.engine.detection_files import write_coco_json, write_yolo_txt
from yolo_lite.engine.sheets import figures, training_sheet
from yolo_lite.engine.validate import of_classes
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.drawing import draw_masks
from yolo_lite.report.results_csv import results_image, results_text
from yolo_lite.structures import Batch, Detections

SIZE = 256  # of images of 64 px: a cell of a mask, stride 4, is a pixel of the image file


class MaskOracle(Oracle):
    """Finds exactly the labels and their masks, or with ``fills`` the whole boxes."""

    fills = False

    def detections(self, raw: Batch, size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        found = super().detections(raw, size, options)
        if raw.objects.mask is None:
            return [one._replace(mask=torch.ones(len(one.box), size[0] // 4, size[1] // 4)) for one in found]
        masks = torch.ones_like(raw.objects.mask) if self.fills else raw.objects.mask
        logits = 2.0 * masks.float() - 1
        return [one._replace(mask=logits[raw.objects.image == row]) for row, one in enumerate(found)]


@pytest.fixture
def plain_index(tiny_data: Path) -> DatasetIndex:
    return index_split(load_dataset_config(tiny_data), tiny_data, "val")


@pytest.fixture
def index(plain_index: DatasetIndex) -> DatasetIndex:
    """Images of 64 px; each object is an ellipse with a hole in its box, the first of them has its box alone."""
    outlines: list[list[np.ndarray]] = [[]]
    for left, top, right, bottom in plain_index.xyxy[1:].tolist():
        y, x = np.mgrid[:64, :64] + 0.5
        place = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2
        outlines.append(rings_of(((place <= 1) & (place > 0.1)).astype(np.uint8)))
    return dataclasses.replace(plain_index, outlines=Outlines.pack(outlines))


# -------------------------------------------------------------------------------------------------- evaluation


def test_the_labels_themselves_score_one_by_masks(index: DatasetIndex) -> None:
    result = evaluated(index, MaskOracle(), SIZE, batch_size=3)
    assert result.scores.mask is not None and result.detections.mask is not None
    assert result.scores.mask.overall == pytest.approx((1, 1, 1, 1, 1)) and result.fitness == pytest.approx(1)
    expected = sorted(str(one["segmentation"]) for one in result.split.truth.dataset["annotations"])
    assert sorted(map(str, result.detections.mask)) == expected


def test_filled_boxes_score_less_by_masks_and_the_same_by_boxes(index: DatasetIndex) -> None:
    filled = MaskOracle()
    filled.fills = True
    result = evaluated(index, filled, SIZE, batch_size=8)
    masks = result.scores.mask
    assert masks is not None and result.scores.overall.map50_95 == pytest.approx(1)
    # Of a box pi/4 (1 - .1) = .71 is inside: right at .50 to .70, thresholds of which there are ten.
    assert masks.overall.map50 == pytest.approx(1, abs=0.05) and 0.3 < masks.overall.map50_95 < 0.6
    assert result.fitness == pytest.approx((1 + 0.1 * masks.overall.map50 + 0.9 * masks.overall.map50_95) / 2)


@pytest.mark.parametrize("size", [96, 320])
def test_masks_at_other_sizes_agree_with_the_image_file_to_a_cell(index: DatasetIndex, size: int) -> None:
    result = evaluated(index, MaskOracle(), size, batch_size=8)
    assert result.scores.mask is not None and result.scores.mask.overall.map50 > (0.9 if size > 64 else 0.6)


def test_without_outlines_masks_cost_nothing_and_change_nothing(plain_index: DatasetIndex) -> None:
    """A network with masks on labels of boxes, and one without, give the same figures."""
    first, second = (evaluated(plain_index, model, SIZE, batch_size=8) for model in (MaskOracle(), Oracle()))
    assert first.detections.mask is None and repr(first.scores) == repr(second.scores)
    assert first.metrics() == second.metrics() and not any("mask" in key for key in first.metrics())
    assert evaluation_report.table(first) == evaluation_report.table(second)
    assert list(evaluation_report.report(first)) == list(evaluation_report.report(second))
    assert [name for name, _ in figures(first)][-1] == "ap_by_class.png"


def test_figures_of_masks_stand_beside_those_of_boxes(index: DatasetIndex) -> None:
    filled = MaskOracle()
    filled.fills = True
    result = evaluated(index, filled, SIZE, batch_size=8)
    masks, row = result.scores.mask, result.metrics()
    assert masks is not None
    found = [row[f"metrics/mask_{name}"] for name in ("mAP50-95", "mAP50", "mAP75")]
    assert found == list(masks.overall[:3])
    header, first, *_ = evaluation_report.table(result).splitlines()
    assert header.split()[-2:] == ["mask50", "mask50-95"] and first.split()[-1] == f"{masks.overall.map50_95:.3f}"
    plain = json.loads(json.dumps(evaluation_report.report(result)))
    assert plain["mask"]["map50"] == masks.overall.map50 and plain["map50"] == 1 and "ap_small" in plain["mask"]
    name = index.names[int(index.label[1])]
    assert plain["per_class"][name]["mask"]["map50_95"] == masks.by_class[int(index.label[1])].map50_95
    row = {"epoch": 1, "train/mask_loss": 0.5, "val/mask_loss": 0.4, **row}
    assert "metrics/mask_mAP50-95" in results_text([row])
    without = {key: value for key, value in row.items() if "mask_m" not in key}
    assert results_image([row]).shape[1] > results_image([without]).shape[1]  # two panels more


def test_images_of_an_evaluation_show_masks(index: DatasetIndex) -> None:
    filled = MaskOracle()
    filled.fills = True
    result = evaluated(index, filled, SIZE, batch_size=8)
    sheets = dict(figures(result))
    assert {"mask_curves.png", "mask_ap_by_class.png"} < set(sheets)
    boxes = dict(figures(result._replace(detections=result.detections._replace(mask=None))))
    assert sheets["val_predictions.jpg"].shape == boxes["val_predictions.jpg"].shape
    assert not np.array_equal(sheets["val_predictions.jpg"], boxes["val_predictions.jpg"])
    batch = next(iter(result.split.loader))
    assert batch.objects.mask is not None
    bare = batch._replace(objects=batch.objects._replace(mask=None))
    assert not np.array_equal(training_sheet(batch, index.names), training_sheet(bare, index.names))


def test_masks_follow_the_choice_of_classes(index: DatasetIndex) -> None:
    result = evaluated(index, MaskOracle(), SIZE, batch_size=8)
    label = int(index.label[1])
    chosen = of_classes(result, [index.names[label]])
    assert chosen.scores.mask is not None and chosen.scores.mask.overall.map50_95 == pytest.approx(1)
    assert chosen.detections.mask is not None and len(chosen.detections.mask) == (index.label == label).sum()


def test_files_of_validation_score_the_same_by_pycocotools(
    index: DatasetIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = MaskOracle()
    filled.fills = True
    result = evaluated(index, filled, SIZE, batch_size=8)
    write_coco_json(tmp_path, result.detections, result.split)
    truth = COCO(str(tmp_path / "ground_truth.json"))
    scored = COCOeval(truth, truth.loadRes(str(tmp_path / "predictions.json")), "segm")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert result.scores.mask is not None
    assert result.scores.mask.overall[:3] == pytest.approx(scored.stats[:3].tolist(), abs=1e-6)


def test_rows_of_polygons_are_the_masks_to_the_pixel(index: DatasetIndex, tmp_path: Path) -> None:
    """Holes are cut by the way the polygon leads, as YOLO's label files have it."""
    result = evaluated(index, MaskOracle(), SIZE, batch_size=8)
    write_yolo_txt(tmp_path, result.detections, result.split)
    table = result.detections
    assert table.mask is not None
    for position, size in enumerate(index.size.tolist()):
        text = (tmp_path / "labels" / f"{Path(index.path(position)).stem}.txt").read_text()
        for row, mask in zip(text.splitlines(), table.mask[table.image == position], strict=True):
            _, *numbers, confidence = map(float, row.split())
            points = np.array(numbers).reshape(-1, 2) * size[::-1]
            assert confidence == 1 and runs_of([points], *size) == mask


# -------------------------------------------------------------------------------------------------- prediction

NAMES = ("red", "green", "blue")


def painted() -> np.ndarray:
    """64 x 48 px: a red ring, and a green object in two parts."""
    image = np.zeros((64, 48, 3), np.uint8)
    cv2.circle(image, (20, 20), 12, (255, 0, 0), -1)
    cv2.circle(image, (20, 20), 5, (0, 0, 0), -1)
    image[40:50, 5:15, 1] = image[45:60, 25:40, 1] = 255
    return image


def detect_pixels(images: Tensor, options: DetectOptions) -> list[Detections]:
    """The coloured pixels of each colour; logits at stride 4."""
    found = []
    for image in images:
        small = torch.nn.functional.avg_pool2d(image[None].float(), 4)[0]
        inside = (image.amin(0) != 114)[2::4, 2::4]
        rows, masks = [], []
        for label in range(3):
            mask = (small[label] > 127) & inside
            if mask.any():
                y, x = mask.nonzero(as_tuple=True)
                box = [4 * x.min(), 4 * y.min(), 4 * x.max() + 4, 4 * y.max() + 4]
                rows.append([*box, 0.9 - label / 10, label])
                masks.append(mask.float() - 0.5)
        table = torch.tensor(rows).reshape(-1, 6)
        mask = torch.stack(masks) if masks else torch.zeros(0, *small.shape[1:])
        found.append(Detections(table[:, :4], table[:, 4], table[:, 5].long(), mask))
    return found


PIXELS = Predictor(NAMES, SIZE, functools.partial(canvas_size, stride=32), detect_pixels)


def predicted(image: np.ndarray) -> Prediction:
    found = PIXELS.predict(image)
    assert isinstance(found, Prediction)
    return found


def test_found_masks_lie_in_pixels_of_the_image() -> None:
    image = painted()
    found = predicted(image)
    assert found.mask is not None and found.mask.dtype == bool and found.mask.shape == (2, 64, 48)
    for mask, label in zip(found.mask, found.label, strict=True):
        assert np.array_equal(mask, image[..., label] > 127)


def test_polygons_lead_round_holes_and_are_one_a_part() -> None:
    found = predicted(painted())
    assert found.polygons is not None and found.rle is not None and [len(rings) for rings in found.polygons] == [1, 2]
    for rings, rle in zip(found.polygons, found.rle, strict=True):
        assert runs_of(rings, 64, 48) == rle


def test_json_holds_masks_that_pycocotools_reads() -> None:
    image = painted()
    plain = json.loads(predicted(image).to_json())
    for mask, label in zip(plain["masks"], plain["labels"], strict=True):
        assert np.array_equal(reference_mask.decode(mask), image[..., label] > 127)
    nothing = predicted(np.zeros_like(image))
    assert json.loads(nothing.to_json())["masks"] == [] and nothing.polygons == []
    assert nothing.mask is not None and nothing.mask.shape == (0, 64, 48) and nothing.plot().shape == image.shape


def test_plot_draws_masks_on_a_copy() -> None:
    image = painted()
    before, found = image.copy(), predicted(image)
    plotted, boxes = found.plot(), dataclasses.replace(found, rle=None).plot()
    assert np.array_equal(image, before) and not np.array_equal(plotted, boxes)
    drawn = draw_masks(image, [np.eye(64, 48, dtype=np.uint8), np.zeros((64, 48), np.uint8)], np.array([0, 1]))
    assert drawn[10, 10].any() and not drawn[0, 40].any()


def test_crops_are_transparent_outside_of_masks_and_rows_are_polygons(tmp_path: Path) -> None:
    image, options = (
        painted(),
        PredictOptions(weights="a.pt", source="a", save_crop=True, save_txt=True, save_json=True),
    )
    files = Outputs(tmp_path, options)
    found = predicted(image)
    files.add(dataclasses.replace(found, frame=found.frame._replace(stem=Path("a"), drawn=Path("a.png"))))
    files.close()
    crop = np.asarray(Image.open(tmp_path / "crops/red/a_0.png"))
    left, top, right, bottom = found.xyxy[0].round().astype(int)
    assert crop.shape[2] == 4 and np.array_equal(crop[..., 3] > 0, image[top:bottom, left:right, 0] > 127)
    for row, rle in zip((tmp_path / "labels/a.txt").read_text().splitlines(), found.rle or (), strict=True):
        points = np.array(row.split()[1:-1], dtype=float).reshape(-1, 2) * (48, 64)
        assert runs_of([points], 64, 48) == rle
    [record] = json.loads((tmp_path / "predictions.json").read_text())
    assert len(record["masks"]) == 2 and (tmp_path / "a.png").is_file()


def test_supervision_gets_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in has the names of supervision's own arguments, where the library is not installed."""
    try:
        import supervision  # noqa: F401
    except ImportError:
        monkeypatch.setitem(
            sys.modules, "supervision", SimpleNamespace(Detections=lambda **given: SimpleNamespace(**given))
        )
    found = predicted(painted())
    converted = found.to_supervision()
    assert np.array_equal(converted.mask, found.mask) and converted.mask.dtype == bool
    assert predicted(np.zeros((64, 48, 3), np.uint8)).to_supervision().mask.shape == (0, 64, 48)


def test_a_model_without_masks_has_none(tmp_path: Path) -> None:
    bare = dataclasses.replace(PIXELS, detect=lambda *given: [one._replace(mask=None) for one in detect_pixels(*given)])
    found: Any = bare.predict(painted())
    assert found.mask is None and found.rle is None and found.polygons is None and "masks" not in found.to_dict()
