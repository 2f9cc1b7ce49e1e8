"""COCO's figures against pycocotools, precision and recall against a slow greedy loop, and the empty cases."""

import contextlib
import copy
import dataclasses
import gzip
import io
import json
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from conftest import boxes_only
from pycocotools.coco import COCO as ReferenceCOCO
from pycocotools.cocoeval import COCOeval as ReferenceCOCOeval

from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.masks import mask_of
from yolo_lite.engine.coco_ap import (
    ClassScores,
    DetectionTable,
    detection_limits,
    ground_truth,
    score_detections,
)
from yolo_lite.engine.coco_evaluator import IN_CROWD, UNMATCHED, Truth, accumulated, match, run_coco
from yolo_lite.engine.size_scores import score_by_size

COCO128 = Path(__file__).parents[2] / "shared/reference/coco128_detections.json.gz"
NUM_CLASSES = 5


def make_index(objects: list[list[tuple[int, list[float]]]], num_classes: int, size: int = 100) -> DatasetIndex:
    """A split of square images; for each image rows of (label, xyxy in pixels)."""
    counts = [len(rows) for rows in objects]
    flat = [row for rows in objects for row in rows]
    return DatasetIndex(
        names=tuple(f"class {label}" for label in range(num_classes)),
        paths=np.array([f"{number}.jpg".encode() for number in range(len(objects))]),
        size=np.full((len(objects), 2), size, dtype=np.int64),
        first=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        label=np.array([label for label, _ in flat], dtype=np.int64),
        **boxes_only(np.array([box for _, box in flat], dtype=np.float64).reshape(-1, 4)),
        image_id=np.arange(len(objects)),
        category_id=np.arange(num_classes),
        problems=(),
    )


def make_table(*rows: tuple[int, int, float, list[float]]) -> DetectionTable:
    """Rows of (image, label, score, xyxy)."""
    image, label, score, box = zip(*rows, strict=True) if rows else ((), (), (), ())
    return DetectionTable(
        np.array(image, dtype=np.int64),
        np.array(box, dtype=np.float64).reshape(-1, 4),
        np.array(score, dtype=np.float64),
        np.array(label, dtype=np.int64),
    )


def random_case(seed: int, num_images: int = 12) -> tuple[DatasetIndex, DetectionTable]:
    """Objects of classes 0..3 of 5, some images empty; detections near them, doubled, misplaced, mislabelled."""
    random = np.random.default_rng(seed)
    objects, rows = [], []
    for image in range(num_images):
        own = []
        for _ in range(random.integers(0, 7) if image % 4 else 0):
            corner, side = random.uniform(0, 60, 2), random.uniform(5, 40, 2)
            box = np.concatenate((corner, corner + side))
            label = int(random.integers(0, 4))
            own.append((label, box.tolist()))
            for _ in range(random.integers(0, 4)):
                wrong = random.random() < 0.15
                moved = box + random.normal(0, 0.08, 4) * np.tile(side, 2)
                rows.append((image, int(random.integers(0, NUM_CLASSES)) if wrong else label, random.random(), moved))
        for _ in range(random.integers(0, 4)):
            corner = random.uniform(0, 60, 2)
            box = np.concatenate((corner, corner + random.uniform(5, 40, 2)))
            rows.append((image, int(random.integers(0, NUM_CLASSES)), 0.6 * random.random(), box))
        objects.append(own)
    return make_index(objects, NUM_CLASSES), make_table(*rows)


def crowded_case(num_objects: int = 150) -> tuple[DatasetIndex, DetectionTable]:
    """One image with as many objects, near each of them three detections, and one image with a single object."""
    random = np.random.default_rng(1)
    corner = random.uniform(0, 900, (num_objects, 2))
    boxes = np.concatenate((corner, corner + random.uniform(5, 40, (num_objects, 2))), axis=1)
    labels = random.integers(0, 2, num_objects)
    rows = [
        (0, int(label), random.random(), box + random.normal(0, 1.5, 4))
        for label, box in zip(labels, boxes, strict=True)
        for _ in range(3)
    ]
    objects = [list(zip(labels.tolist(), boxes.tolist(), strict=True)), [(0, boxes[0].tolist())]]
    return make_index(objects, 2, size=1000), make_table(*rows, (1, 0, 0.9, boxes[0]))


def pycocotools_inputs(truth: Truth, table: DetectionTable) -> tuple[ReferenceCOCO, ReferenceCOCO]:
    """Objects and detections as pycocotools wants them."""
    reference = ReferenceCOCO()
    reference.dataset = copy.deepcopy(truth.dataset)
    size = table.xyxy[:, 2:] - table.xyxy[:, :2]
    rows = np.column_stack((table.image, table.xyxy[:, :2], size, table.score, table.label))
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        return reference, reference.loadRes(rows)


def pycocotools_figures(truth: Truth, table: DetectionTable, limit: int = 100) -> tuple[list[float], np.ndarray]:
    """AP, AP50 and AP75 as pycocotools prints them, and its precision ``[T, R, C]`` (all areas)."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = ReferenceCOCOeval(*pycocotools_inputs(truth, table), "bbox")
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    if limit == 100:  # of another number it prints no AP
        return evaluation.stats[:3].tolist(), precision
    return [one[one > -1].mean() for one in (precision, precision[0], precision[5])], precision


def slow_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    return intersection / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection)


def slow_true_positives(index: DatasetIndex, table: DetectionTable) -> list[bool]:
    """COCO's rule at IoU 0.5: from the best score down, each detection takes the best object that is still free."""
    is_true = [False] * len(table.score)
    for image in range(len(index)):
        labels, boxes = index.objects(image)
        free = set(range(len(labels)))
        for row in sorted(np.flatnonzero(table.image == image), key=lambda row: -table.score[row]):
            overlaps = {n: slow_iou(boxes[n], table.xyxy[row]) for n in free if labels[n] == table.label[row]}
            best = max(overlaps, key=overlaps.get, default=None)
            if best is not None and overlaps[best] >= 0.5:
                free.remove(best)
                is_true[row] = True
    return is_true


def slow_best_f1(index: DatasetIndex, table: DetectionTable) -> tuple[list[tuple[float, float]], float]:
    """(precision, recall) of the classes that have objects at the confidence with the best mean F1."""
    is_true = slow_true_positives(index, table)
    classes = sorted(set(index.label.tolist()))
    best = (-1.0, [], 0.0)
    for confidence in (row / 1000 for row in range(1, 1001)):
        pairs = []
        for label in classes:
            rows = np.flatnonzero((table.label == label) & (table.score >= confidence))
            hits = sum(is_true[row] for row in rows)
            pairs.append((hits / len(rows) if len(rows) else 0.0, hits / (index.label == label).sum()))
        f1 = np.mean([2 * p * r / (p + r) if p + r else 0.0 for p, r in pairs])
        if f1 > best[0] + 1e-12:
            best = (f1, pairs, confidence)
    return best[1], best[2]


# -------------------------------------------------------------------------------------------------- pycocotools


@pytest.mark.skipif(not COCO128.is_file(), reason=f"the reference detections are not there: {COCO128}")
def test_coco128_equals_the_figures_of_pycocotools():
    content = json.loads(gzip.decompress(COCO128.read_bytes()))
    truth = Truth.of({name: content[name] for name in ("images", "annotations", "categories")})
    rows = []
    for found in content["detections"]:
        x, y, width, height = found["bbox"]
        rows.append((found["image_id"], found["category_id"], found["score"], [x, y, x + width, y + height]))
    scores = score_detections(truth, make_table(*rows))
    assert scores.overall[:3] == pytest.approx((0.36218, 0.56371, 0.36542), abs=1e-5)
    assert 0 < scores.overall.precision <= 1 and 0 < scores.overall.recall <= 1
    by_size = (0.17353, 0.40002, 0.53622, 0.30612, 0.49351, 0.53933)
    assert score_by_size(truth, make_table(*rows))[:6] == pytest.approx(by_size, abs=1e-5)
    with_objects = {annotation["category_id"] for annotation in content["annotations"]}
    for label, row in enumerate(scores.by_class):
        assert all(math.isnan(value) != (label in with_objects) for value in row)


@pytest.mark.parametrize("seed", range(4))
def test_random_sets_equal_pycocotools(seed):
    index, table = random_case(seed)
    truth = ground_truth(index)
    scores = score_detections(truth, table)
    expected, precision = pycocotools_figures(truth, table)
    assert 0.1 < expected[0] < 0.9
    assert scores.overall[:3] == pytest.approx(expected, abs=1e-9)
    for label, row in enumerate(scores.by_class[:4]):
        by_threshold = precision[:, :, label].mean(axis=1)
        assert row[:3] == pytest.approx((by_threshold.mean(), by_threshold[0], by_threshold[5]), abs=1e-9)
    assert all(map(math.isnan, scores.by_class[4]))  # no objects: left out of the means
    np.testing.assert_allclose(scores.overall, np.mean(scores.by_class[:4], axis=0), atol=1e-12)


def test_precision_and_recall_equal_pycocotools_to_the_bit():
    """All sizes and limits, with crowds."""
    index, table = crowded_case()
    truth = ground_truth(dataclasses.replace(index, crowd=np.arange(len(index.label)) % 7 == 0))
    precision, recall = accumulated(run_coco(truth, table, "bbox", max_dets=[1, 10, 100]))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = ReferenceCOCOeval(*pycocotools_inputs(truth, table), "bbox")
        reference.evaluate()
        reference.accumulate()
    np.testing.assert_array_equal(precision, reference.eval["precision"])
    np.testing.assert_array_equal(recall, reference.eval["recall"])


def test_each_detection_finds_what_it_finds_by_pycocotools():
    index, table = crowded_case()
    crowd = np.arange(len(index.label)) % 7 == 0
    truth = ground_truth(dataclasses.replace(index, crowd=crowd))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = ReferenceCOCOeval(*pycocotools_inputs(truth, table), "bbox")
        reference.params.maxDets = [len(table.score)]
        reference.params.areaRng = [[0, 1e10]]
        reference.evaluate()
    expected = np.full((10, len(table.score)), UNMATCHED)
    for cell in filter(None, reference.evalImgs):
        things = cell["dtMatches"].astype(int) - 1
        expected[:, np.array(cell["dtIds"]) - 1] = np.where(
            things < 0, UNMATCHED, np.where(crowd[things], IN_CROWD, things)
        )
    assert {UNMATCHED, IN_CROWD} < set(expected.ravel().tolist())
    np.testing.assert_array_equal(match(truth, table, ious=np.linspace(0.5, 0.95, 10).tolist()), expected)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="loading processes are not forked here"
)
def test_a_process_forked_after_an_evaluation_draws_masks():
    """The evaluator's threads are gone there: what loading processes call must not wait for them."""
    index, table = random_case(0)
    score_detections(ground_truth(index), table)
    ring = np.array([[0, 0], [600, 0], [600, 600.0]])
    process = multiprocessing.get_context("fork").Process(target=mask_of, args=([ring] * 50, (640, 640)))
    process.start()
    process.join(60)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()


def test_only_the_best_hundred_detections_of_an_image_and_class_count():
    box = [10, 10, 30, 30]
    misses = [(0, 0, 0.9 - row / 1000, [60, 60, 61 + row / 10, 70]) for row in range(99)]
    index = make_index([[(0, box)]], 1)
    for extra, found in (([], 1), (misses[:1], 0)):  # the hit comes 100th, then 101st
        truth, table = (
            ground_truth(index),
            make_table(*misses, *[(0, 0, 0.95, row[3]) for row in extra], (0, 0, 0.1, box)),
        )
        scores = score_detections(truth, table)
        assert scores.overall[:3] == pytest.approx(pycocotools_figures(truth, table)[0], abs=1e-9)
        assert (scores.overall.map50 > 0) == bool(found)
        assert scores.overall.recall == 1  # the curves know all


def test_two_hundred_exact_detections_of_two_hundred_objects_are_all_right():
    """AP counts COCO's hundred of them, precision and recall all: as the confusion matrix does."""
    boxes = [
        [10.0 * column, 10.0 * row, 10.0 * column + 8, 10.0 * row + 8] for column in range(20) for row in range(10)
    ]
    index = make_index([[(0, box) for box in boxes]], 1, size=200)
    table = make_table(*[(0, 0, 0.9 - place / 1000, box) for place, box in enumerate(boxes)])
    scores = score_detections(ground_truth(index), table)
    assert scores.overall[3:] == (1, 1)
    assert (scores.curves.hits[0, :600] == 200).all() and scores.curves.f1[0].max() == 1


@pytest.mark.parametrize("limit", [100, 130, 400])
def test_as_many_detections_count_as_pycocotools_is_asked_for(limit):
    index, table = crowded_case()
    truth = ground_truth(index)
    scores = score_detections(truth, table, limit)
    expected, _ = pycocotools_figures(truth, table, limit)
    assert scores.overall[:3] == pytest.approx(expected, abs=1e-9) and 0.1 < expected[0] < 0.9
    assert (scores.overall[:3] > score_detections(truth, table).overall[:3]) == (limit > 100)
    assert scores.overall[3:] == score_detections(truth, table).overall[3:]


@pytest.mark.parametrize(
    ("most", "max_det", "coco_rules", "expected"),
    [
        (0, None, False, (300, 100)),
        (50, None, False, (300, 100)),  # a hundred are twice as many: what validation has always been
        (51, None, False, (300, 300)),
        (150, None, False, (300, 300)),
        (151, None, False, (302, 302)),
        (256, None, False, (512, 512)),
        (256, None, True, (512, 100)),
        (256, 1000, False, (1000, 1000)),
        (256, 60, False, (60, 100)),
        (50, 1000, False, (1000, 100)),
    ],
)
def test_limits_of_detections_by_hand(most, max_det, coco_rules, expected):
    """Of the most crowded image; crowd regions are no objects."""
    box = [1.0, 1, 9, 9]
    index = make_index([[(0, box)] * most, [(0, box)] * (most + 200), [], [(1, box)] * min(most, 1)], 2)
    index = dataclasses.replace(index, crowd=np.repeat([False, True, False], (most, most + 200, min(most, 1))))
    limits = detection_limits(index, max_det, coco_rules)
    assert limits == expected and bool(limits.remark) == (expected[1] > 100)
    assert str(limits.per_class) in limits.remark or not limits.remark


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("most", [1, 50, 51, 99, 101, 200, 257])
def test_a_perfect_detector_scores_one_however_crowded_its_images_are(most, num_classes):
    """Found twice over, which costs nothing while the second detections come last."""
    objects = [
        (row % num_classes, [8.0 * (row % 40), 8.0 * (row // 40), 8.0 * (row % 40) + 6, 8.0 * (row // 40) + 6])
        for row in range(most)
    ]
    index = make_index([objects, objects[: most // 2]], num_classes, size=400)
    limits = detection_limits(index)
    rows = [
        (image, label, 0.9 - place / 9999, box)
        for image in (0, 1)
        for place, (label, box) in enumerate(objects[: most // (image + 1)])
    ]
    rows = sorted(
        [*rows, *((image, label, score / 100, box) for image, label, score, box in rows)], key=lambda row: -row[2]
    )
    kept = [row for image in (0, 1) for row in [row for row in rows if row[0] == image][: limits.per_image]]
    scores = score_detections(ground_truth(index), make_table(*kept), limits.per_class)
    assert scores.overall == pytest.approx((1, 1, 1, 1, 1))


def test_equal_scores_equal_pycocotools():
    index, table = random_case(7)
    table = table._replace(score=np.round(table.score, 1))
    truth = ground_truth(index)
    assert score_detections(truth, table).overall[:3] == pytest.approx(pycocotools_figures(truth, table)[0], abs=1e-9)


# --------------------------------------------------------------------------------------------------- hand-worked


def test_five_of_ten_objects_found_is_half_an_ap():
    objects = [(0, [8.0 * row, 10, 8.0 * row + 6, 30]) for row in range(10)]
    table = make_table(*[(0, 0, 0.9 - row / 100, objects[row][1]) for row in range(5)])
    scores = score_detections(ground_truth(make_index([objects], 1)), table)
    # Precision 1 at the recall points 0, .01, ..., .5: 51 of 101
    assert scores.overall[:3] == pytest.approx((51 / 101,) * 3)
    assert (scores.overall.precision, scores.overall.recall) == (1, 0.5)
    assert scores.confidence == pytest.approx(0.001)  # of equal F1 the lowest confidence


def test_iou_thresholds_hand_worked():
    # 20 x 20 against 20 x 13: IoU .65 counts at .50 .55 .60 (and not at .65: 260/400 lies within rounding of it)
    index = make_index([[(0, [0, 0, 20, 20])]], 1)
    scores = score_detections(ground_truth(index), make_table((0, 0, 0.8, [0, 0, 20, 13.2])))
    assert scores.overall == pytest.approx((0.4, 1, 0, 1, 1))
    scores = score_detections(ground_truth(index), make_table((0, 0, 0.8, [0, 0, 20, 9.9])))
    assert scores.overall == pytest.approx((0, 0, 0, 0, 0))


def test_precision_and_recall_stand_at_the_best_f1():
    boxes = [[20.0 * row, 0, 20.0 * row + 15, 15] for row in range(4)]
    misses = [[20.0 * row, 50, 20.0 * row + 15, 65] for row in range(4)]
    hits = [(0, 0, score, box) for score, box in zip((0.9, 0.8, 0.7), boxes, strict=False)]
    table = make_table(*hits, (0, 0, 0.75, misses[0]), *[(0, 0, 0.3, miss) for miss in misses])
    scores = score_detections(ground_truth(make_index([[(0, box) for box in boxes]], 1)), table)
    # From confidence .301 to .7: 3 of 4 right, 3 of 4 found. Lower, 4 more misses come in; higher, a hit is lost.
    assert (scores.overall.precision, scores.overall.recall) == (0.75, 0.75)
    assert scores.confidence == pytest.approx(0.301)


@pytest.mark.parametrize("thousandths", [7, 35, 282, 700, 1000])
def test_a_detection_of_exactly_the_confidence_that_is_printed_counts(thousandths):
    """The figures hold for detections at or above the number as metrics.json has it."""
    hit, miss = [0, 0, 10, 10], [50, 50, 60, 60]
    score = float(f"{thousandths / 1000:.3f}")
    table = make_table((0, 0, score, hit), (0, 0, score - 1e-9, miss), (0, 0, score - 0.0005, miss))
    scores = score_detections(ground_truth(make_index([[(0, hit)]], 1)), table)
    printed = json.loads(json.dumps(scores.confidence))
    assert printed == score and scores.overall[3:] == (1, 1)
    assert ((table.score >= printed).sum(), scores.curves.above[0, thousandths - 1]) == (1, 1)


def test_a_second_detection_of_an_object_is_false():
    box = [10, 10, 30, 30]
    table = make_table((0, 0, 0.9, box), (0, 0, 0.9, box), (0, 0, 0.9, box))
    scores = score_detections(ground_truth(make_index([[(0, box)]], 1)), table)
    assert scores.overall.recall == 1 and scores.overall.precision == pytest.approx(1 / 3)


# ----------------------------------------------------------------------------------------- precision and recall


@pytest.mark.parametrize("seed", range(6))
def test_precision_and_recall_equal_a_slow_loop(seed):
    index, table = random_case(seed + 20)
    scores = score_detections(ground_truth(index), table)
    pairs, confidence = slow_best_f1(index, table)
    assert scores.confidence == pytest.approx(confidence)
    assert [row[3:] for row in scores.by_class[:4]] == [pytest.approx(pair, abs=1e-12) for pair in pairs]
    assert scores.overall[3:] == pytest.approx(np.mean(pairs, axis=0))


def test_recall_is_never_above_one():
    # Three stacked objects and many detections that fit each of them at one threshold or another
    random = np.random.default_rng(0)
    box = np.array([10.0, 10, 50, 50])
    index = make_index([[(0, (box + shift).tolist()) for shift in (0, 3, 6)]] * 3, 1)
    rows = [(row % 3, 0, random.random(), box + random.normal(3, 5, 4)) for row in range(90)]
    scores = score_detections(ground_truth(index), make_table(*rows))
    assert all(0 <= value <= 1 for value in scores.overall)
    assert scores.overall.recall > 0.5


# -------------------------------------------------------------------------------------------------------- empty


def test_no_detections_score_zero():
    index, _ = random_case(0)
    scores = score_detections(ground_truth(index), make_table())
    assert scores.overall == ClassScores(0, 0, 0, 0, 0)
    assert scores.by_class[:4] == [ClassScores(0, 0, 0, 0, 0)] * 4
    assert all(map(math.isnan, scores.by_class[4]))


def test_no_objects_score_nan():
    index = make_index([[], []], 2)
    for table in (make_table(), make_table((1, 0, 0.5, [0, 0, 10, 10]))):
        scores = score_detections(ground_truth(index), table)
        assert all(map(math.isnan, scores.overall))
        assert len(scores.by_class) == 2 and all(math.isnan(value) for row in scores.by_class for value in row)


def test_detections_on_pictures_without_objects_count_as_false():
    box = [10, 10, 30, 30]
    truth = ground_truth(make_index([[(0, box)], []], 1))
    alone = score_detections(truth, make_table((0, 0, 0.5, box)))
    disturbed = score_detections(truth, make_table((0, 0, 0.5, box), (1, 0, 0.9, box)))
    assert alone.overall.map50 == pytest.approx(1) and disturbed.overall.map50 == pytest.approx(0.5)


def test_boxes_without_area_do_no_harm():
    box = [10, 10, 30, 30]
    index = make_index([[(0, box), (1, [5, 5, 5, 20])]], 2)
    table = make_table((0, 0, 0.5, box), (0, 0, 0.4, [10, 10, 10, 10]), (0, 1, 0.3, [5, 5, 5, 20]))
    truth = ground_truth(index)
    scores = score_detections(truth, table)
    assert all(0 <= value <= 1 for value in scores.overall)
    assert scores.overall[:3] == pytest.approx(pycocotools_figures(truth, table)[0], abs=1e-9)


def test_float32_table_and_scoring_twice_give_the_same():
    index, table = random_case(3)
    truth = ground_truth(index)
    before = [values.copy() for values in table[:4]]
    first = score_detections(truth, table)
    assert repr(first) == repr(score_detections(truth, table))  # repr: NaN does not equal itself
    assert all((one == other).all() for one, other in zip(before, table[:4], strict=True))
    singles = table._replace(xyxy=table.xyxy.astype(np.float32), score=table.score.astype(np.float32))
    np.testing.assert_allclose(score_detections(truth, singles).overall, first.overall, atol=1e-3)


# ------------------------------------------------------------------------------------------------- ground truth


def test_ground_truth_hand_worked():
    truth = ground_truth(make_index([[(1, [10, 20, 30, 60])], [], [(0, [0, 0, 100, 50])]], 2))
    assert truth.coco.get_img_ids() == [0, 1, 2] and truth.coco.get_cat_ids() == [0, 1]
    fields = ("image_id", "category_id", "bbox", "area", "iscrowd")
    rows = [tuple(annotation[name] for name in fields) for annotation in truth.dataset["annotations"]]
    assert rows == [(0, 1, pytest.approx([10, 20, 20, 40]), pytest.approx(800), 0), (2, 0, [0, 0, 100, 50], 5000, 0)]
