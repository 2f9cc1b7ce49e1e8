"""Curves, confusion matrix, AP by size and recall, and their images."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval as ReferenceCOCOeval
from test_coco_ap import crowded_case, make_index, make_table, pycocotools_inputs, random_case, slow_iou

from yolo_lite.data.index import DatasetIndex, only_classes
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth, score_detections
from yolo_lite.engine.coco_evaluator import IN_CROWD, Truth, match
from yolo_lite.engine.confusion import Errors, find_errors
from yolo_lite.engine.size_scores import SizeScores, score_by_size
from yolo_lite.report.evaluation import LARGEST, Curves, _most_frequent, ap_image, confusion_image, curves_image
from yolo_lite.report.results_csv import results_image

BOX = [10.0, 10, 30, 30]


def with_crowds(index: DatasetIndex, *rows: int) -> DatasetIndex:
    """The same split with some of its objects as crowd regions."""
    crowd = index.crowd.copy()
    crowd[list(rows)] = True
    return dataclasses.replace(index, crowd=crowd)


def magnified(index: DatasetIndex, table: DetectionTable, ratio: float) -> tuple[DatasetIndex, DetectionTable]:
    """The same scene in larger images, so that objects of all sizes occur."""
    larger = dataclasses.replace(index, xyxy=index.xyxy * ratio, area=index.area * ratio**2 * 0.7, size=index.size * 9)
    return larger, table._replace(xyxy=table.xyxy * ratio)


# -------------------------------------------------------------------------------------------------- AP by size


def pycocotools_by_size(truth: Truth, table: DetectionTable, limit: int = 100) -> list[float]:
    """AP small, medium, large, AR 1, 10, 100 (``limit``), small, medium, large as pycocotools prints them."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = ReferenceCOCOeval(*pycocotools_inputs(truth, table), "bbox")
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[3:].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_ap_and_recall_by_size_equal_pycocotools(seed: int) -> None:
    index, table = magnified(*random_case(seed, num_images=40), ratio=4)
    truth = ground_truth(with_crowds(index, 0, 5))
    expected = pycocotools_by_size(truth, table)
    assert min(expected) >= 0 and 0.1 < np.mean(expected) < 0.9
    scores = score_by_size(truth, table)
    assert scores[:-1] == pytest.approx(expected, abs=1e-9) and scores.ar == scores.ar_100


@pytest.mark.parametrize("limit", [100, 130, 400])
def test_of_crowded_images_as_many_detections_count_as_pycocotools_is_asked_for(limit: int) -> None:
    """150 objects of two classes, three detections for each; AR@100 stays what its name says."""
    index, table = magnified(*crowded_case(), ratio=4)
    truth = ground_truth(index)
    expected = pycocotools_by_size(truth, table, limit)
    scores = score_by_size(truth, table, limit)
    assert (scores.ap_small, scores.ap_medium, scores.ap_large) == pytest.approx(expected[:3], abs=1e-9)
    assert (scores.ar_1, scores.ar_10, scores.ar) == pytest.approx(expected[3:6], abs=1e-9)
    assert (scores.ar_small, scores.ar_medium, scores.ar_large) == pytest.approx(expected[6:], abs=1e-9)
    assert scores.ar_100 == pytest.approx(pycocotools_by_size(truth, table)[5], abs=1e-9)
    assert scores.ar_100 < scores.ar or limit == 100


def test_a_size_without_objects_has_no_ap() -> None:
    scores = score_by_size(ground_truth(make_index([[(0, BOX)]], 1)), make_table((0, 0, 0.5, BOX)))
    assert (scores.ap_small, scores.ar_small, scores.ar_1, scores.ar_100) == pytest.approx((1, 1, 1, 1))
    assert math.isnan(scores.ap_large) and math.isnan(scores.ar_medium)
    nothing = score_by_size(ground_truth(make_index([[]], 1)), make_table())
    assert all(map(math.isnan, nothing)) and isinstance(nothing, SizeScores)


# ------------------------------------------------------------------------------------------------------ crowds


def test_crowd_regions_are_no_false_positives() -> None:
    objects = [[(0, BOX), (0, [40, 40, 90, 90])]]
    rows = [(0, 0, 0.9, BOX), (0, 0, 0.8, [45, 45, 60, 60]), (0, 0, 0.7, [60, 60, 80, 80])]  # two in the crowd
    index, table = with_crowds(make_index(objects, 1), 1), make_table(*rows)
    truth = ground_truth(index)
    assert match(truth, table)[0].tolist() == [0, IN_CROWD, IN_CROWD]
    scores = score_detections(truth, table)
    assert scores.overall == pytest.approx((1, 1, 1, 1, 1))
    assert scores.curves.objects.tolist() == [1] and scores.curves.above[0, 0] == 1
    errors = find_errors(index, truth, table)
    assert errors.matrix(1).tolist() == [[1, 0], [0, 0]] and errors.by_image(1).tolist() == [0]
    outside = make_table(*rows, (0, 0, 0.6, [0, 50, 20, 70]))
    assert score_detections(truth, outside).curves.above[0, 0] == 2


# ------------------------------------------------------------------------------------------------------ curves


@pytest.mark.parametrize("seed", range(3))
def test_the_area_below_precision_over_recall_is_ap50(seed: int) -> None:
    index, table = random_case(seed)
    scores = score_detections(ground_truth(index), table)
    assert scores.curves.interpolated.mean(axis=1)[:4] == pytest.approx([row.map50 for row in scores.by_class[:4]])


def test_curves_hand_worked() -> None:
    # Three objects; at .9 a hit, at .6 a miss, at .3 a hit.
    boxes = [[20.0 * row, 0, 20.0 * row + 15, 15] for row in range(3)]
    table = make_table((0, 0, 0.9, boxes[0]), (0, 0, 0.6, [50, 50, 60, 60]), (0, 0, 0.3, boxes[1]))
    curves = score_detections(ground_truth(make_index([[(0, box) for box in boxes]], 1)), table).curves
    at = {
        confidence: int(np.searchsorted(curves.confidence, confidence - 1e-9)) for confidence in (0.2, 0.5, 0.9, 0.95)
    }
    assert [curves.precision[0, at[c]] for c in (0.2, 0.5, 0.9)] == pytest.approx([2 / 3, 1 / 2, 1])
    assert [curves.recall[0, at[c]] for c in (0.2, 0.5, 0.9, 0.95)] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0])
    assert [curves.f1[0, at[c]] for c in (0.2, 0.5, 0.9, 0.95)] == pytest.approx([2 / 3, 2 / 5, 1 / 2, 0])
    assert math.isnan(curves.precision[0, at[0.95]])  # nothing is that sure: there is no share of it


# -------------------------------------------------------------------------------------------- confusion matrix


def slow_matrix(index: DatasetIndex, table: DetectionTable) -> np.ndarray:
    """From the best score down, each detection above .25 takes the free object of any class that it overlaps most."""
    background = len(index.names)
    matrix = np.zeros((background + 1, background + 1), dtype=int)
    for image in range(len(index)):
        labels, boxes = index.objects(image)
        free = set(range(len(labels)))
        rows = np.flatnonzero((table.image == image) & (table.score > 0.25))
        for row in sorted(rows, key=lambda row: -table.score[row]):
            overlaps = {n: slow_iou(boxes[n], table.xyxy[row]) for n in free}
            best = max(overlaps, key=overlaps.get, default=None)
            if best is None or overlaps[best] < 0.5:
                matrix[table.label[row], background] += 1
            else:
                free.remove(best)
                matrix[table.label[row], labels[best]] += 1
        for n in free:
            matrix[background, labels[n]] += 1
    return matrix


@pytest.mark.parametrize("seed", range(4))
def test_the_confusion_matrix_equals_a_slow_loop_and_counts_everything(seed: int) -> None:
    index, table = random_case(seed + 40)
    errors = find_errors(index, ground_truth(index), table)
    matrix = errors.matrix(5)
    assert matrix.tolist() == slow_matrix(index, table).tolist()
    assert matrix[:, :-1].sum(axis=0).tolist() == index.counts.tolist()
    shown = table.label[table.score > 0.25]
    assert matrix[:-1].sum(axis=1).tolist() == np.bincount(shown, minlength=5).tolist()
    wrong = matrix.sum() - np.trace(matrix)
    taken_for_another = (matrix[:-1, :-1] * (1 - np.eye(5, dtype=int))).sum()
    assert errors.by_image(len(index)).sum() == wrong + taken_for_another


def test_with_one_class_the_confusion_matrix_counts_the_hits_of_the_curves() -> None:
    index, table = random_case(3)
    one = dataclasses.replace(index, label=index.label * 0, names=("thing",), category_id=np.arange(1))
    truth, table = ground_truth(one), table._replace(label=table.label * 0)
    matrix, curves = find_errors(one, truth, table).matrix(1), score_detections(truth, table).curves
    at = int(np.searchsorted(curves.confidence, 0.25 + 1e-9))
    assert matrix[0].sum() == curves.above[0, at] and matrix[0, 0] == curves.hits[0, at] > 5


def test_confusion_hand_worked() -> None:
    index = make_index([[(0, BOX), (1, [50, 50, 80, 80])], []], 2)
    table = make_table(
        (0, 1, 0.9, BOX),  # a 0 taken for a 1
        (0, 0, 0.8, BOX),  # too late for that object
        (1, 1, 0.7, BOX),  # nothing is there
        (0, 1, 0.2, [50, 50, 80, 80]),  # not sure enough: that object counts as missed
    )
    errors = find_errors(index, ground_truth(index), table)
    assert errors.matrix(2).tolist() == [[0, 0, 1], [1, 0, 1], [0, 1, 0]]
    assert errors.by_image(2).tolist() == [4, 1]  # the 0 is missed, and its 1 is false


def test_more_than_a_hundred_detections_of_a_picture_are_all_counted() -> None:
    index = make_index([[(0, BOX)]], 1)
    rows = [(0, 0, 0.9 - row / 1000, [50 + row / 10, 50, 80 + row / 10, 90]) for row in range(350)]
    errors = find_errors(index, ground_truth(index), make_table(*rows, (0, 0, 0.3, BOX)))
    assert errors.matrix(1).tolist() == [[1, 350], [0, 0]]


@pytest.mark.parametrize("objects", [[[], []], [[(0, BOX)], []]])
@pytest.mark.parametrize("found", [[], [(1, 1, 0.9, BOX)]])
def test_without_objects_or_detections_everything_is_still_counted(objects: list, found: list) -> None:
    index, table = make_index(objects, 2), make_table(*found)
    truth = ground_truth(index)
    errors, scores = find_errors(index, truth, table), score_detections(truth, table)
    assert errors.matrix(2).sum() == len(found) + len(objects[0])
    assert errors.by_image(2).tolist() == [len(objects[0]), len(found)]
    assert scores.curves.above[1, 0] == len(found)
    for picture in (
        curves_image(scores.curves, ["a", "b"]),
        confusion_image(errors.matrix(2), ["a", "b"], "title"),
        ap_image(["a", "b"], scores.curves.objects, np.array(scores.by_class)[:, :2]),
    ):
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 1


def test_only_classes_leaves_their_ap_as_it_was() -> None:
    index, table = random_case(5)
    whole = score_detections(ground_truth(index), table)
    chosen = only_classes(index, ["class 2", "class 0"])
    kept = np.isin(table.label, (0, 2))
    fewer = table.select(kept)._replace(label=(table.label[kept] == 0).astype(int))
    alone = score_detections(ground_truth(chosen), fewer)
    assert [row[:3] for row in alone.by_class] == [whole.by_class[2][:3], whole.by_class[0][:3]]


# ---------------------------------------------------------------------------------------------------- pictures


def many_curves(num_classes: int) -> Curves:
    random, confidence = np.random.default_rng(0), np.linspace(0.001, 1, 1000)
    above = np.sort(random.integers(0, 50, (num_classes, 1000)))[:, ::-1]
    objects = np.full(num_classes, 60)
    return Curves(confidence, above // 2, above, objects, np.tile(np.linspace(1, 0, 101), (num_classes, 1)))


def test_names_are_cut_and_are_no_formulas() -> None:
    names = ["$x^{$", "a name of very many letters indeed"]
    matrix = np.array([[3, 0, 1], [0, 2, 0], [1, 1, 0]])
    assert confusion_image(matrix, names, "title").std() > 1
    assert curves_image(many_curves(2), names).std() > 1
    assert ap_image(names, np.array([1, 2]), np.array([[0.5, 0.6]] * 2)).shape[1] == 880


@pytest.mark.parametrize("num_classes", [3, 80])
def test_few_classes_have_colours_and_many_are_grey(num_classes: int) -> None:
    picture = curves_image(many_curves(num_classes), [f"a class {n}" for n in range(num_classes)]).astype(int)
    coloured = (np.ptp(picture, axis=2) > 60).sum()
    assert (coloured > 500) == (num_classes == 3)


def test_the_rarest_of_many_classes_are_added_up_and_none_is_lost() -> None:
    matrix = np.random.default_rng(0).integers(0, 9, (81, 81))
    smaller, names = _most_frequent(matrix, [str(label) for label in range(80)])
    assert smaller.shape == (LARGEST + 2, LARGEST + 2) and smaller.sum() == matrix.sum()
    assert names[-1] == "40 others" and names[:-1] == sorted(names[:-1], key=int)
    first = int(names[0])
    assert smaller[-1, 0] == matrix[-1, first] and smaller[0, 0] == matrix[first, first]
    assert set(np.argsort(-matrix[:, :-1].sum(axis=0))[:30]) <= set(map(int, names[:-1]))


@pytest.mark.parametrize("epochs", [1, 7])
def test_results_are_drawn_from_the_columns_that_are_there(epochs: int) -> None:
    numbers = range(1, epochs + 1)
    rows = [{"epoch": one, "train/box_loss": 1 / one, "metrics/mAP50": math.nan, "other": 2} for one in numbers]
    assert results_image(rows).std() > 1


def test_errors_name_the_classes_they_are_taken_for() -> None:
    index = make_index([[(0, BOX)]], 2)
    errors: Errors = find_errors(index, ground_truth(index), make_table((0, 1, 0.9, BOX)))
    assert (errors.taken_for.tolist(), errors.found_as.tolist()) == ([0], [1])
    assert errors.is_false.tolist() == errors.is_missed.tolist() == [True]
