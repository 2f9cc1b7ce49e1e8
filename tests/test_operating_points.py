"""Operating points against brute force, intervals against known distributions, and how --conf goes by them."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import equal_states
from test_coco_ap import make_index, make_table, pycocotools_figures, random_case, slow_true_positives

from yolo_lite import evaluate, load
from yolo_lite.config.confidence import confidence_choice
from yolo_lite.config.errors import ConfigError
from yolo_lite.data.index import DatasetIndex
from yolo_lite.deploy.facts import Facts, read_facts
from yolo_lite.deploy.graph import Suppressed, detections_of
from yolo_lite.engine import evaluation_report
from yolo_lite.engine.best import try_best
from yolo_lite.engine.checkpoint import config_of, load_checkpoint, save_checkpoint
from yolo_lite.engine.checkpoint_fields import OperatingPoints
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth, score_detections
from yolo_lite.engine.evaluate import Evaluation, Split
from yolo_lite.engine.intervals import IOUS, Matched, figures_of_class, half_widths, half_widths_of, intervals, matched
from yolo_lite.engine.operating_points import find_points, judge, lowest_scores, scores_at
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.evaluation import curves_image, row_at

WANTED = (0.7, 0.5)  # precision and recall
SECONDS = dict.fromkeys(("load", "model", "loss", "nms", "ap"), 0.0)
POINTS = {
    "split": "val",
    "images": 9,
    "objects": 30,
    "f1": {"all": 0.4, "by_class": {"cat": 0.3, "dog": None}},
    "precision": {"wanted": 0.95, "all": None, "by_class": {}},
}


def evaluation_of(index: DatasetIndex, table: DetectionTable) -> Evaluation:
    truth = ground_truth(index)
    split = Split(index, SimpleNamespace(), truth)  # type: ignore[arg-type]
    return Evaluation(split, score_detections(truth, table), {}, 0.0, table, SECONDS)


# ---------------------------------------------------------------------------------------------------------- points


def slow_curves(index: DatasetIndex, table: DetectionTable, labels: list[int]) -> dict[float, tuple[float, ...]]:
    """Mean F1, precision and recall over classes from each confidence on, counted one by one."""
    is_true = slow_true_positives(index, table)
    rows = {
        label: [*zip(table.score[table.label == label], np.array(is_true)[table.label == label], strict=True)]
        for label in labels
    }
    found = {}
    for confidence in (row / 1000 for row in range(1, 1001)):
        figures = []
        for label in labels:
            shown = [hit for score, hit in rows[label] if score >= confidence]
            objects, hits = int((index.label == label).sum()), sum(shown)
            precision = hits / len(shown) if shown else math.nan
            figures.append((2 * hits / (len(shown) + objects), precision, hits / objects))
        f1, precision, recall = zip(*figures, strict=True)
        known = [one for one in precision if not math.isnan(one)]
        found[confidence] = (np.mean(f1), np.mean(known) if known else math.nan, np.mean(recall))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_points_equal_brute_force(seed: int) -> None:
    index, table = random_case(seed)
    points = find_points(evaluation_of(index, table), "val", *WANTED)
    present = sorted({*index.label.tolist()})
    assert points["objects"] == len(index.label) and points["images"] == len(index) and points["split"] == "val"
    for name, labels in [("all", present), *((index.names[label], [label]) for label in present)]:
        curves = slow_curves(index, table, labels)
        best = max(f1 for f1, _, _ in curves.values())
        expected = {
            "f1": next(c for c, (f1, _, _) in curves.items() if f1 >= best - 1e-12),
            "precision": next((c for c, (_, own, _) in curves.items() if own >= WANTED[0] - 1e-12), None),
            "recall": next((c for c, (*_, own) in reversed(curves.items()) if own >= WANTED[1] - 1e-12), None),
        }
        for kind, confidence in expected.items():
            found = points[kind]["all"] if name == "all" else points[kind]["by_class"][name]
            assert found == confidence, (name, kind)
    assert points["f1"]["all"] == evaluation_of(index, table).scores.confidence


def test_points_hand_worked() -> None:
    """Three objects; from the best score down a hit at .9, a false one at .6, hits at .5 and .3, a false one at .2."""
    boxes = [[20.0 * row, 0, 20.0 * row + 15, 15] for row in range(3)]
    rows = [(0.9, boxes[0]), (0.6, [0, 60, 9, 69]), (0.5, boxes[1]), (0.3, boxes[2]), (0.2, [30, 60, 39, 69])]
    result = evaluation_of(make_index([[(0, box) for box in boxes]], 2), make_table(*((0, 0, *row) for row in rows)))
    points = find_points(result, "val", precision=0.75, recall=0.6)
    assert points["f1"] == {"all": 0.201, "by_class": {"class 0": 0.201}}  # 3 of 4 right, 3 of 3 found
    assert points["precision"] == {"wanted": 0.75, "all": 0.201, "by_class": {"class 0": 0.201}}
    assert points["recall"] == {"wanted": 0.6, "all": 0.5, "by_class": {"class 0": 0.5}}
    never = find_points(result, "val", recall=1.0, precision=1.0)
    assert never["precision"]["all"] == 0.601 and never["recall"]["all"] == 0.3


def test_what_nothing_reaches_is_none() -> None:
    result = evaluation_of(make_index([[(0, [10.0, 10, 30, 30])]], 2), make_table((0, 0, 0.5, [50, 50, 60, 60])))
    points = find_points(result, "val", precision=0.5, recall=0.5)
    for kind in ("f1", "precision", "recall"):
        assert points[kind]["all"] is None and points[kind]["by_class"] == {"class 0": None}
    judged, judgement = judge(result, "val", None, 0.5, None)
    assert judged.scores.confidence == result.scores.confidence
    assert "never" in evaluation_report.points(judged, judgement, "val")
    empty = evaluation_of(make_index([[]], 1), make_table())
    assert find_points(empty, "val")["f1"] == {"all": None, "by_class": {}}


def test_no_point_lies_where_nothing_was_detected() -> None:
    """With a --conf of 0.6 the curves below are flat: there the lowest confidence that reaches something is no find."""
    index, table = random_case(1)
    every = find_points(evaluation_of(index, table), "val", *WANTED)
    found = find_points(evaluation_of(index, table.select(table.score >= 0.6)), "val", *WANTED, lowest=0.6)
    for kind in ("f1", "precision", "recall"):
        for name, one in {"all": found[kind]["all"], **found[kind]["by_class"]}.items():
            own = every[kind]["all"] if name == "all" else every[kind]["by_class"][name]
            assert one is None or one >= 0.6
            assert own is None or own < 0.6 or one == own


def test_scores_at_their_own_confidence_are_the_same() -> None:
    scores = evaluation_of(*random_case(1)).scores
    assert repr(scores_at(scores, scores.confidence)) == repr(scores)


def test_points_of_one_split_are_tried_on_another() -> None:
    index, table = random_case(4)
    points = find_points(evaluation_of(*random_case(2)), "val", *WANTED)
    judged, judgement = judge(evaluation_of(index, table), "test", points, WANTED[0], None)
    confidence, present = points["f1"]["all"], sorted({*index.label.tolist()})
    assert judgement.points is points and judged.scores.confidence == confidence
    _, precision, recall = slow_curves(index, table, present)[confidence]
    assert judged.scores.overall[3:] == pytest.approx((precision, recall))
    told = evaluation_report.points(judged, judgement, "test")
    assert "found on val (12 images" in told and "tried on test" in told
    other, _ = judge(evaluation_of(index, table), "test", points, 0.9, None)  # a precision that the points lack
    assert other.scores.confidence == evaluation_of(index, table).scores.confidence


# -------------------------------------------------------------------------------------------------------- intervals


def repeated(index: DatasetIndex, table: DetectionTable, times: list[int]) -> tuple[DatasetIndex, DetectionTable]:
    """Each image as often as it says."""
    objects, rows, place = [], [], 0
    for image, count in enumerate(times):
        labels, boxes = index.objects(image)
        for _ in range(count):
            objects.append(list(zip(labels.tolist(), boxes.tolist(), strict=True)))
            own = np.flatnonzero(table.image == image)
            rows += [(place, int(table.label[row]), table.score[row], table.xyxy[row].tolist()) for row in own]
            place += 1
    return make_index(objects, len(index.names)), make_table(*rows)


@pytest.mark.parametrize("seed", range(2))
def test_weights_of_images_count_as_images_that_lie_there_so_often(seed: int) -> None:
    index, table = random_case(seed)
    times = np.random.default_rng(seed).integers(1, 4, len(index)).tolist()
    larger, longer = repeated(index, table, times)
    _, precision = pycocotools_figures(ground_truth(larger), longer)
    sample, weights = matched(ground_truth(index), table, 100), np.array([times, [1] * len(index)], dtype=float)
    scores = score_detections(ground_truth(index), table)
    for label in range(4):
        figures, _ = figures_of_class(sample, label, scores.confidence, weights)
        ap = precision[:, :, label].mean(axis=1)
        assert figures[0, :2] == pytest.approx([ap.mean(), ap[0]], abs=1e-9)
        own = scores.by_class[label]
        assert figures[1] == pytest.approx([own.map50_95, own.map50, own.precision, own.recall], abs=1e-9)


def test_crowds_and_limits_count_in_replicates_as_in_ap() -> None:
    index, table = random_case(3)
    crowd = index.crowd.copy()
    crowd[[0, 5, 9]] = True
    truth = ground_truth(dataclasses.replace(index, crowd=crowd))
    for limit in (100, 1):
        scores, sample = score_detections(truth, table, limit), matched(truth, table, limit)
        for label in range(4):
            figures, _ = figures_of_class(sample, label, scores.confidence, np.ones((1, len(index))))
            own = scores.by_class[label]
            expected = [own.map50_95, own.map50, own.precision, own.recall]
            assert figures[0] == pytest.approx(expected, abs=1e-9)


def drawn(rng: np.random.Generator, num_images: int, recall: float, false: float, mean: float = 2) -> Matched:
    """Two objects of an image in the mean, found with this probability; false detections, all less sure."""
    owner = np.repeat(np.arange(num_images), rng.poisson(mean, num_images))
    hit = rng.random(len(owner)) < recall
    wrong = np.repeat(np.arange(num_images), rng.poisson(false, num_images))
    found = np.concatenate((np.flatnonzero(hit), np.full(len(wrong), -1)))
    image, none = np.concatenate((owner[hit], wrong)), np.zeros(len(found), dtype=np.int64)
    score = np.concatenate((np.full(hit.sum(), 0.9), np.full(len(wrong), 0.5)))
    every = np.tile(found, (len(IOUS), 1))
    return Matched(every, image, score, none, none == 0, owner, np.zeros(len(owner), dtype=np.int64))


@pytest.mark.parametrize(("num_images", "recall", "false"), [(20, 0.7, 0.5), (40, 0.9, 0.2), (10, 0.97, 0.05)])
def test_intervals_hold_the_truth_as_often_as_they_promise(num_images: int, recall: float, false: float) -> None:
    """Recall and precision of the distribution are known, and AP is as much of the curve as is found: the recall."""
    truth = np.array([recall, recall, 2 * recall / (2 * recall + false), recall])
    rng, within, trials = np.random.default_rng(7), np.zeros(4), 60
    for _ in range(trials):
        sample = drawn(rng, num_images, recall, false)
        figures, _ = figures_of_class(sample, 0, 0.4, np.ones((1, num_images)))
        widths = half_widths_of(sample, 0.4, num_images, 1)
        assert widths[0] == pytest.approx(widths[1])  # one class is all
        within += np.abs(figures[0] - truth) <= widths[1] + 1 / 101  # AP has steps of that
    assert (within >= 0.85 * trials).all() and within.mean() >= 0.9 * trials


def test_intervals_are_no_wider_than_they_need_be() -> None:
    rng = np.random.default_rng(3)
    figures, widths = [], []
    for _ in range(40):
        sample = drawn(rng, 60, 0.8, 0.5)
        figures.append(figures_of_class(sample, 0, 0.4, np.ones((1, 60)))[0][0])
        widths.append(half_widths_of(sample, 0.4, 60, 1)[0])
    assert np.mean(widths, axis=0) == pytest.approx(1.96 * np.std(figures, axis=0), rel=0.35)


def test_few_images_tell_little_however_many_objects_they_show() -> None:
    rng, within, trials = np.random.default_rng(5), np.zeros(4), 60
    for _ in range(trials):
        sample = drawn(rng, 3, 0.7, 10, 30)
        figures, _ = figures_of_class(sample, 0, 0.4, np.ones((1, 3)))
        widths = half_widths_of(sample, 0.4, 3, 1)[1]
        within += np.abs(figures[0] - [0.7, 0.7, 21 / 31, 0.7]) <= widths + 1 / 101
    assert (within >= 0.9 * trials).all()
    alone = half_widths_of(drawn(rng, 1, 0.7, 10, 30), 0.4, 1, 1)
    assert np.isnan(alone).all()
    figures = dict.fromkeys(("map50_95", "map50", "precision", "recall"), 0.7)
    assert [*intervals(figures, alone[1]).values()] == [None] * 4


@pytest.mark.parametrize("number", [2, 3, 30])
def test_a_few_objects_that_are_all_found_do_not_pass_for_certainty(number: int) -> None:
    box = [10.0, 10, 30, 30]
    index = make_index([[(0, box)] for _ in range(number)], 2)
    result = evaluation_of(index, make_table(*((image, 0, 0.9, box) for image in range(number))))
    widths = half_widths(result)
    assert widths[1] == pytest.approx([1.96 * math.sqrt(2) / (number + 4)] * 4) and np.isnan(widths[2]).all()
    text, (_, judgement) = (
        evaluation_report.table(*judge(result, "val", None, None, None)),
        judge(result, "val", None, None, None),
    )
    assert text.splitlines()[1].count("±") == 4 and text.splitlines()[3].split()[-4:] == ["-"] * 4
    plain = json.loads(json.dumps(evaluation_report.report(result, judgement)))
    assert plain["intervals"]["map50"] == pytest.approx([1 - widths[1, 1], 1])
    assert plain["per_class"]["class 1"]["intervals"]["recall"] is None
    assert plain["operating_points"] == judgement.points


def test_intervals_stay_within_0_and_1_and_are_the_same_each_time() -> None:
    result = evaluation_of(*random_case(6))
    assert np.array_equal(half_widths(result), half_widths(result), equal_nan=True)
    row = intervals(
        {"map50_95": 0.9, "map50": 0.05, "precision": None, "recall": 0.5}, np.array([0.2, 0.1, np.nan, 0.1])
    )
    assert row == {
        "map50_95": [pytest.approx(0.7), 1.0],
        "map50": [0.0, pytest.approx(0.15)],
        "precision": None,
        "recall": [pytest.approx(0.4), pytest.approx(0.6)],
    }


# ------------------------------------------------------------------------------------------------------------- conf


@pytest.mark.parametrize(
    ("value", "base", "by_class"),
    [
        (0.3, 0.3, {}),
        ("0.3", 0.3, {}),
        (1, 1.0, {}),
        ("auto", "auto", {}),
        ("F1", "f1", {}),
        ("precision/class", "precision/class", {}),
        ("cat=0.4,dog=0.6", "auto", {"cat": 0.4, "dog": 0.6}),
        ("0.3, a=b=0.4", 0.3, {"a=b": 0.4}),
        ({"a,b": 0.4}, "auto", {"a,b": 0.4}),
    ],
)
def test_a_confidence_is_a_number_a_point_or_numbers_by_class(
    value: Any, base: Any, by_class: dict[str, float]
) -> None:
    assert confidence_choice(value) == (base, by_class) == confidence_choice(confidence_choice(value))


@pytest.mark.parametrize(
    "value", [7, -0.1, math.nan, True, "f2", "cat=2", "cat", "", "0.1,0.2", "a=1,a=0.5", {"a": "x"}, [1]]
)
def test_what_is_no_confidence_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.1, auto, f1, .* found"):
        confidence_choice(value)


def test_a_choice_goes_by_what_the_weights_know() -> None:
    def lowest(value: Any, points: Any = POINTS) -> tuple[Any, ...]:
        return tuple(lowest_scores(value, points, ("cat", "dog")))

    below = float(np.nextafter(np.float32(0.4), np.float32(0)))  # float32(0.4) is above 0.4
    assert lowest("auto") == lowest("f1") == (below, None, "0.4 (best F1 on val)")
    assert lowest("auto", None) == (0.25, None, "0.25")
    assert lowest(0.4) == (0.4, None, "0.4")
    confidence, by_class, told = lowest("f1/class")
    assert (
        by_class == pytest.approx((0.3, 0.4))
        and confidence == min(by_class)
        and told == "of each class (best F1 on val)"
    )
    confidence, by_class, told = lowest("dog=0.7")
    assert by_class == (below, 0.7) and told == "dog 0.7, others 0.4 (best F1 on val)"
    assert lowest("0.2,cat=0.2")[1] is None
    for value, points in (("precision", POINTS), ("recall", POINTS), ("f1", None)):
        with pytest.raises(ConfigError, match=f"conf: {value} is not known of these weights; val.py .*--save-points"):
            lowest(value, points)
    with pytest.raises(ConfigError, match=r"conf: unknown class 'cta' \(nearest: 'cat'\)"):
        lowest("cta=0.1")


@pytest.mark.parametrize("confidence", [0.001, 0.25, 0.3, 0.5, 0.7, 0.999, 1.0])
def test_from_a_point_on_means_the_detections_that_its_curves_count(confidence: float) -> None:
    """Scores are float32: also one that is just the confidence, or next to it."""
    own = np.float32(confidence)
    scores = np.array([np.nextafter(own, np.float32(0)), own, np.nextafter(own, np.float32(2))])
    points = {**POINTS, "f1": {"all": confidence, "by_class": {}}}
    lowest = lowest_scores("f1", points, ("cat",)).confidence
    shown = (torch.from_numpy(scores) > lowest).tolist()
    assert shown == (scores.astype(float) >= np.arange(1, 1001)[row_at(confidence)] / 1000).tolist()


def test_nms_in_a_file_has_a_confidence_of_each_class() -> None:
    box = torch.tensor([[10.0, 10, 8, 8], [40, 40, 8, 8], [70, 70, 8, 8]])
    scores = torch.tensor([[0.5, 0.0], [0.0, 0.5], [0.7, 0.2]])
    predictions = torch.cat((box, torch.ones(3, 1), scores), dim=1)[None]
    decoded = torch.nn.Module()
    decoded.detector = SimpleNamespace(config=SimpleNamespace(nc=2))
    decoded.forward = lambda _: predictions
    options = DetectOptions(0.1, 0.5, 5, 6, by_class=(0.6, 0.1))
    (ours,), (theirs,) = (
        detections_of(one, options) for one in (Suppressed(decoded, options, False)(torch.zeros(1)), (predictions,))
    )
    for found in (ours, theirs):
        assert found.label.tolist() == [0, 1, 1] and found.score.tolist() == pytest.approx([0.7, 0.5, 0.2])


def test_metadata_carry_the_points_and_older_files_have_none() -> None:
    given = {name: one for name, one in POINTS.items() if name != "precision"}
    facts = Facts(("cat", "dog"), 3, 32, 32, 64, 1, (), "fp32", False, operating_points=OperatingPoints(**given))
    strings = facts.strings()
    assert json.loads(strings["operating_points"]) == given == read_facts(strings).points
    assert read_facts({name: one for name, one in strings.items() if name != "operating_points"}).points is None


# ---------------------------------------------------------------------------------------------------------- commands


def test_curves_show_the_points() -> None:
    result = evaluation_of(*random_case(1))
    points = find_points(result, "val", *WANTED)
    curves, names = result.scores.curves, result.split.dataset.names
    assert not np.array_equal(curves_image(curves, names, points)[:-60], curves_image(curves, names)[:-60])


def test_best_pt_learns_how_it_is_used_and_is_tried_on_test(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = load_checkpoint(tiny_run / "weights/best.pt")
    config = config_of(content, "best.pt")
    data = config.data.model_copy(update={"test": ("images/val",)})
    config = config.model_copy(
        update={"data": data, "train": config.train.model_copy(update={"recall": 0.1, "figures": False})}
    )
    best = tmp_path / "weights/best.pt"
    best.parent.mkdir()
    save_checkpoint(best, {**content, "config": config.plain()})
    shutil.copy(tiny_run / "metrics.json", tmp_path)
    try_best(config, tmp_path, content["epoch"])
    metrics, said = json.loads((tmp_path / "metrics.json").read_text()), capsys.readouterr().out
    points = load_checkpoint(best)["operating_points"]
    assert points == metrics["operating_points"] and points["split"] == "val" and points["recall"]["wanted"] == 0.1
    assert metrics["best"].keys() == {"epoch", "val", "test"} and "intervals" in metrics["best"]["test"]
    assert (
        "best.pt on test" in said and metrics["map50"] == json.loads((tiny_run / "metrics.json").read_text())["map50"]
    )
    assert equal_states(load_checkpoint(best)["ema"], content["ema"])

    report = evaluate(weights=best, precision=0, save_points=True, device="cpu", workers=0)
    own = load_checkpoint(best)["operating_points"]
    assert own == report["operating_points"] and own["precision"]["wanted"] == 0 and "recall" not in own
    assert own["f1"] == points["f1"] and load(best, device="cpu").points == own
    evaluate(weights=best, split="test", conf=0.5, save_points=True, device="cpu", workers=0)  # found anew
    own = load_checkpoint(best)["operating_points"]
    assert own["split"] == "test" and "precision" not in own and (own["f1"]["all"] is None or own["f1"]["all"] >= 0.5)
    with pytest.raises(ConfigError, match=r"--save-points: expected a checkpoint, found x\.onnx"):
        evaluate(weights="x.onnx", save_points=True)
    with pytest.raises(ConfigError, match="--save-points: expected the points of all classes, found --classes"):
        evaluate(weights=best, classes=["circle"], save_points=True)
