"""Mask AP against pycocotools and a slow greedy loop: COCO's polygons and crowds, random masks, the empty cases."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as reference_mask
from pycocotools.coco import COCO as ReferenceCOCO
from pycocotools.cocoeval import COCOeval as ReferenceCOCOeval
from test_coco_ap import make_table

from yolo_lite.config.data import DatasetConfig
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth, score_detections
from yolo_lite.engine.size_scores import score_by_size

COCO128 = Path(__file__).parents[2] / "shared/data/coco128"
needs_coco128 = pytest.mark.skipif(not COCO128.is_dir(), reason=f"the data set is not there: {COCO128}")


def encoded(mask: np.ndarray) -> dict[str, Any]:
    return reference_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def with_masks(table: DetectionTable, masks: list[dict[str, Any]]) -> DetectionTable:
    return table._replace(mask=np.array(masks, dtype=object))


def pycocotools_scores(truth: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[list[float], np.ndarray]:
    """The twelve figures that pycocotools prints of masks, and AP, AP50, AP75 ``[C, 3]`` of each class."""
    reference = ReferenceCOCO()
    reference.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluation = ReferenceCOCOeval(reference, reference.loadRes(rows), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap = np.nanmean(np.where((p := evaluation.eval["precision"][..., 0, 2]) < 0, math.nan, p), axis=1)  # [T, C]
    return evaluation.stats.tolist(), np.stack((ap.mean(axis=0), ap[0], ap[5]), axis=1)


def as_results(table: DetectionTable, image_id: np.ndarray, category_id: np.ndarray) -> list[dict[str, Any]]:
    columns = (image_id[table.image].tolist(), category_id[table.label].tolist(), table.mask, table.score.tolist())
    names = ("image_id", "category_id", "segmentation", "score")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def noisy(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mask moved by some pixels, grown or shrunk."""
    moved = cv2.warpAffine(mask, np.array([[1, 0, random.normal(0, 2)], [0, 1, random.normal(0, 2)]]), mask.shape[::-1])
    side = int(random.integers(1, 8))
    return (cv2.dilate if random.random() < 0.5 else cv2.erode)(moved, np.ones((side, side), np.uint8))


def noisy_copies(index: DatasetIndex, masks: list[np.ndarray], seed: int) -> DetectionTable:
    """Detections near every object, crowds too: some twice, some of another class, some missing, some nowhere."""
    random, rows, found = np.random.default_rng(seed), [], []
    for row, image in enumerate(index.owner.tolist()):
        for _ in range(random.choice(4, p=(0.15, 0.6, 0.15, 0.1))):
            mask = noisy(masks[row], random) if random.random() < 0.9 else np.roll(masks[row], 40, axis=1)
            label = int(random.integers(0, len(index.names))) if random.random() < 0.1 else int(index.label[row])
            rows.append((image, label, round(float(random.random()), 3), index.xyxy[row]))
            found.append(encoded(mask))
    return with_masks(make_table(*rows), found)


# -------------------------------------------------------------------------------------------------- pycocotools


@needs_coco128
@pytest.mark.parametrize("seed", [0, 1])
def test_mask_ap_of_coco128_equals_pycocotools(seed: int) -> None:
    """929 polygons and 10 crowds through the reader and the index, against the annotation file itself."""
    file = COCO128 / "instances_coco128.json"
    content = json.loads(file.read_text())
    names = tuple(one["name"] for one in content["categories"])
    config = DatasetConfig(train="images", labels=str(file), format="coco", names=names)
    index = index_split(config, COCO128 / "data.yaml", "train", with_outlines=True)
    reference = ReferenceCOCO()
    reference.dataset, order = content, {(one["image_id"], one["category_id"]): [] for one in content["annotations"]}
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
    for one in content["annotations"]:
        order[one["image_id"], one["category_id"]].append(one)
    images, classes = index.image_id[index.owner].tolist(), index.category_id[index.label].tolist()
    rows = [order[key].pop(0) for key in zip(images, classes, strict=True)]  # the file's, in the order of the index
    assert len(rows) == len(content["annotations"]) == 939 and index.crowd.sum() == 10
    table = noisy_copies(index, [reference.annToMask(one) for one in rows], seed)
    truth = ground_truth(index)
    same = [reference.annToRLE(row) for row in rows]
    differing = [n for n, one in enumerate(truth.dataset["annotations"]) if one["segmentation"] != same[n]]
    assert not differing
    stats, by_class = pycocotools_scores(content, as_results(table, index.image_id, index.category_id))
    scores = score_detections(truth, table)
    assert scores.mask is not None and 0.3 < stats[0] < 0.8
    assert scores.mask.overall[:3] == pytest.approx(stats[:3], abs=1e-6)
    order_of_ids = np.argsort(index.category_id)
    np.testing.assert_allclose(np.array(scores.mask.by_class)[order_of_ids, :3], by_class, rtol=0, atol=1e-6)
    assert score_by_size(truth, table, kind="segm")[:9] == pytest.approx(stats[3:], abs=1e-6)
    assert scores[:3] == score_detections(truth, table._replace(mask=None))[:3]  # of boxes
