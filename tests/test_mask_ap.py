"""Mask AP against pycocotools and a slow greedy loop: COCO's polygons and crowds, random masks, the empty cases."""

from __future__ import annotations

import contextlib
import dataclasses
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
from test_coco_ap import make_index, make_table, random_case

from yolo_lite.config.data import DatasetConfig
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.masks import rings_of, runs_of
from yolo_lite.data.outlines import Outlines
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth, score_detections
from yolo_lite.engine.confusion import find_errors
from yolo_lite.engine.masks import truth_masks
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
    stats = np.where(evaluation.stats < 0, math.nan, evaluation.stats).tolist()
    return stats, np.stack((ap.mean(axis=0), ap[0], ap[5]), axis=1)


def as_results(table: DetectionTable, image_id: np.ndarray, category_id: np.ndarray) -> list[dict[str, Any]]:
    columns = (image_id[table.image].tolist(), category_id[table.label].tolist(), table.mask, table.score.tolist())
    names = ("image_id", "category_id", "segmentation", "score")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def noisy(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mask moved by some pixels, grown or shrunk."""
    moved = cv2.warpAffine(mask, np.array([[1, 0, random.normal(0, 1)], [0, 1, random.normal(0, 1)]]), mask.shape[::-1])
    side = int(random.integers(1, 5))
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
    assert score_by_size(truth, table, kind="segm")[:9] == pytest.approx(stats[3:], abs=1e-6, nan_ok=True)
    boxes = score_detections(truth, table._replace(mask=None))
    assert repr(scores._replace(mask=None)) == repr(boxes)  # NaN does not equal itself


def random_masks(random: np.random.Generator, count: int, side: int = 90) -> list[np.ndarray]:
    """Blobs with holes, in several parts; some of single pixels, some of the whole image."""
    masks = []
    for number in range(count):
        noise = cv2.GaussianBlur(random.normal(size=(side, side)), (0, 0), float(random.uniform(2, 9)))
        mask = (noise > np.quantile(noise, random.uniform(0.3, 0.97))).astype(np.uint8)
        low, high = random.integers(0, side // 2, 2), random.integers(side // 2, side, 2)
        mask[: low[0]] = mask[:, : low[1]] = mask[high[0] + 1 :] = mask[:, high[1] + 1 :] = 0
        mask[low[0], low[1]] = 1
        masks.append(np.ones_like(mask) if number % 25 == 24 else mask)
    return masks


def split_of(masks: list[np.ndarray], random: np.random.Generator, num_images: int = 6) -> DatasetIndex:
    """A split whose objects have these masks as their outlines; one of fifteen is a crowd."""
    objects: list[list[tuple[int, list[float]]]] = [[] for _ in range(num_images)]
    owner = np.sort(random.integers(0, num_images, len(masks)))
    for image, mask in zip(owner.tolist(), masks, strict=True):
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        objects[image].append((int(random.integers(0, 3)), [float(value) for value in box]))
    index = make_index(objects, 3, size=len(masks[0]))
    area = np.array([mask.sum() for mask in masks], dtype=np.float64)
    outlines = Outlines.pack([rings_of(mask) for mask in masks])
    return dataclasses.replace(index, outlines=outlines, area=area, crowd=np.arange(len(masks)) % 15 == 7)


@pytest.mark.parametrize("seed", range(3))
def test_mask_ap_of_random_masks_equals_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = random_masks(random, 60)
    index = split_of(masks, random)
    truth, table = ground_truth(index), noisy_copies(index, masks, seed)
    same = [encoded(mask) for mask in masks]
    assert [one["segmentation"] for one in truth.dataset["annotations"]] == same  # outlines of masks lose no pixel
    content = json.loads(json.dumps(ground_truth(dataclasses.replace(index, outlines=None)).dataset))
    for one, mask in zip(content["annotations"], same, strict=True):
        one["segmentation"] = mask
    stats, by_class = pycocotools_scores(content, as_results(table, index.image_id, index.category_id))
    scores = score_detections(truth, table).mask
    assert scores is not None and 0.05 < stats[0] < 0.9
    assert scores.overall[:3] == pytest.approx(stats[:3], abs=1e-6)
    np.testing.assert_allclose(np.array(scores.by_class)[:, :3], by_class, rtol=0, atol=1e-6)
    assert score_by_size(truth, table, kind="segm")[:9] == pytest.approx(stats[3:], abs=1e-6, nan_ok=True)


def test_a_crowded_image_counts_as_many_masks_as_boxes() -> None:
    random = np.random.default_rng(0)
    masks = []
    for row in range(150):
        mask = np.zeros((200, 200), np.uint8)
        mask[10 * (row // 15) : 10 * (row // 15) + 8, 10 * (row % 15) : 10 * (row % 15) + 8] = 1
        masks.append(mask)
    index = dataclasses.replace(split_of(masks, random, 1), crowd=np.zeros(150, bool), label=np.zeros(150, int))
    index = dataclasses.replace(index, names=("thing",), category_id=np.array([0]))
    score = np.linspace(0.9, 0.1, 150)
    table = DetectionTable(index.owner, index.xyxy, score, index.label, np.array([*map(encoded, masks)], dtype=object))
    by_limit = {limit: score_detections(ground_truth(index), table, limit) for limit in (100, 300)}
    for scores in by_limit.values():
        assert scores.mask is not None and scores.mask.overall == pytest.approx(scores.overall)
    assert by_limit[300].overall.map50_95 == pytest.approx(1) and by_limit[100].overall.map50_95 < 0.7


# --------------------------------------------------------------------------------------------------- hand-worked


def squares(*cut: tuple[int, int]) -> np.ndarray:
    """A square of 20 x 20 pixels, without the rows that are named."""
    mask = np.zeros((100, 100), np.uint8)
    mask[10:30, 10:30] = 1
    for first, end in cut:
        mask[first:end] = 0
    return mask


def test_masks_are_compared_not_their_boxes() -> None:
    """The box is exact; of the mask 8 rows of 20 are missing: IoU .6, which counts at .50, .55 and .60."""
    index = make_index([[(0, [10, 10, 30, 30])]], 1)
    index = dataclasses.replace(index, outlines=Outlines.pack([rings_of(squares())]))
    table = with_masks(make_table((0, 0, 0.8, [10, 10, 30, 30])), [encoded(squares((15, 23)))])
    scores = score_detections(ground_truth(index), table)
    assert scores.mask is not None and scores.overall == pytest.approx((1, 1, 1, 1, 1))
    assert scores.mask.overall == pytest.approx((0.3, 1, 0, 1, 1))
    assert scores.fitness == pytest.approx((1 + 0.1 + 0.9 * 0.3) / 2)  # the mean of both
    assert scores._replace(mask=None).fitness == pytest.approx(1)


def test_holes_are_no_part_of_an_object() -> None:
    """A ring whose hole is found filled: the 10 x 20 pixels of the hole are half of what was found."""
    ring, filled = squares((15, 25)), squares()
    index = make_index([[(0, [10, 10, 30, 30])]], 1)
    index = dataclasses.replace(index, outlines=Outlines.pack([rings_of(ring)]))
    for mask, expected in ((ring, 1), (filled, 0.1)):  # IoU .5: at the first of ten thresholds
        table = with_masks(make_table((0, 0, 0.8, [10, 10, 30, 30])), [encoded(mask)])
        scores = score_detections(ground_truth(index), table).mask
        assert scores is not None and scores.overall.map50_95 == pytest.approx(expected)


def test_an_object_without_an_outline_has_the_mask_of_its_box() -> None:
    index = make_index([[(0, [10, 10, 30, 30]), (0, [50, 50, 60, 80])]], 1)
    index = dataclasses.replace(index, outlines=Outlines.pack([[], rings_of(squares())]))
    found = ground_truth(index).dataset["annotations"]
    assert [one["segmentation"] for one in found] == [encoded(squares())] * 2


def slow_pairs(masks: list[np.ndarray], found: list[np.ndarray], scores: list[float]) -> list[bool]:
    """COCO's rule at IoU 0.5 in one image and class: the best detection takes the best object that is still free."""
    free, is_true = set(range(len(masks))), [False] * len(found)
    for row in sorted(range(len(found)), key=lambda row: -scores[row]):
        both = {n: (masks[n] & found[row]).sum() / (masks[n] | found[row]).sum() for n in free}
        best = max(both, key=both.__getitem__, default=None)
        if best is not None and both[best] >= 0.5:
            free.remove(best)
            is_true[row] = True
    return is_true


@pytest.mark.parametrize("seed", range(4))
def test_worst_images_go_by_masks_and_equal_a_slow_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = random_masks(random, 12)
    index = dataclasses.replace(split_of(masks, random, 1), crowd=np.zeros(12, bool), label=np.zeros(12, int))
    rows = [number for number in range(12) for _ in range(int(random.integers(0, 3)))]
    found = [noisy(masks[row], random) for row in rows]
    scores = (0.3 + 0.6 * random.random(len(rows))).tolist()
    table = make_table(*[(0, 0, score, index.xyxy[row]) for row, score in zip(rows, scores, strict=True)])
    errors = find_errors(index, ground_truth(index), with_masks(table, [*map(encoded, found)]))
    is_true = slow_pairs(masks, found, scores)
    assert (~errors.is_false).tolist() == is_true and sum(is_true) > 0
    assert errors.by_image(1).tolist() == [len(rows) - sum(is_true) + 12 - sum(is_true)]


# -------------------------------------------------------------------------------------------------------- empty


def test_an_outline_that_leads_far_away_has_the_pixels_of_its_part_in_the_image() -> None:
    """COCO's code follows every line, in memory, as far as it leads."""
    index = make_index([[(0, [1, 2, 30, 40])], [(0, [1, 2, 30, 40])]], 1)
    rings = [[np.array([[1, 2], [30, 2], [30, 40], [1, far]], np.float32)] for far in (5e3, 1e9)]
    near, far = truth_masks(dataclasses.replace(index, outlines=Outlines.pack(rings)))
    assert reference_mask.area(near) == reference_mask.area(far) == 29 * 98
    assert near == runs_of(rings[0], 100, 100)


def test_no_detections_score_zero_and_no_objects_nan() -> None:
    masks = random_masks(np.random.default_rng(0), 10)
    index = split_of(masks, np.random.default_rng(0))
    none = with_masks(make_table(), [])
    scores = score_detections(ground_truth(index), none)
    assert scores.mask is not None and scores.mask.overall[:3] == (0, 0, 0)
    empty = dataclasses.replace(make_index([[], []], 2), outlines=Outlines.pack([]))
    for table in (none, with_masks(make_table((1, 0, 0.5, [0, 0, 10, 10])), [encoded(squares())])):
        nothing = score_detections(ground_truth(empty), table).mask
        assert nothing is not None and all(map(math.isnan, nothing.overall))
    blank = np.zeros((90, 90), np.uint8)
    rows = [
        (int(image), int(label), 0.5, box)
        for image, label, box in zip(index.owner, index.label, index.xyxy, strict=True)
    ]
    blanks = score_detections(ground_truth(index), with_masks(make_table(*rows), [encoded(blank)] * len(rows)))
    assert blanks.mask is not None and blanks.mask.overall.map50 == 0 and blanks.overall.map50 > 0.9


def test_without_masks_nothing_is_scored_and_no_result_changes() -> None:
    index, table = random_case(3)
    with_outlines = dataclasses.replace(index, outlines=Outlines.pack([[]] * len(index.label)))
    plain = score_detections(ground_truth(index), table)
    assert plain.mask is None and "segmentation" not in ground_truth(index).dataset["annotations"][0]
    assert repr(score_detections(ground_truth(with_outlines), table)) == repr(plain)
