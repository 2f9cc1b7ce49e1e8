"""From raw outputs to detections: a slow greedy loop, torchvision, and the cuts counted by hand."""

import math

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from yolo_lite.config.model import ModelConfig
from yolo_lite.model.heads.detect import COLUMNS, Detect
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.grid import Grid, make_grid
from yolo_lite.ops.nms import DetectOptions, class_nms, survivors
from yolo_lite.structures import Detections, Raw

ANCHORS = torch.tensor([[[10.0, 13], [16, 30]], [[30, 61], [62, 45]]])


def small_grid() -> Grid:
    return make_grid(ANCHORS, (8, 16), 32, 64)  # 4 x 8 and 2 x 4 cells, 2 anchors: 80 slots


def select(raw: torch.Tensor, grid: Grid, options: DetectOptions) -> list[Detections]:
    """What a head with these anchors finds in outputs ``[B, N, 5+C]``."""
    config = ModelConfig(nc=1, anchors=ANCHORS.flatten(1).tolist(), backbone=[], head=[[-1, 1, "Detect", []]])
    head = Detect([1, 1], (8, 16), config)
    return [head.detections(Raw(image, COLUMNS), grid, options) for image in raw]


def random_raw(num_images: int, num_classes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, small_grid().num_slots, 5 + num_classes, generator=generator) * 2


def random_boxes(count: int, seed: int) -> torch.Tensor:
    """xyxy, many of them overlapping, on both sides of 0."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * 100 - 50
    return cxcywh_to_xyxy(torch.cat((centre, torch.rand(count, 2, generator=generator) * 40 + 10), dim=1))


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def slow_nms(box: torch.Tensor, score: torch.Tensor, label: torch.Tensor, iou: float) -> list[int]:
    """Take the best box left, drop what overlaps it within its class, again and again."""
    overlap = box_iou(box, box).tolist()
    left = sorted(range(len(box)), key=lambda index: -score[index].item())
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [other for other in left if label[other] != label[best] or overlap[best][other] <= iou]
    return kept


def slow_detections(raw: torch.Tensor, grid: Grid, options: DetectOptions) -> list[tuple]:
    """(score, label, slot, box) of one image, from the formulas, slot by slot and class by class."""
    found = []
    for slot, row in enumerate(raw.tolist()):
        x, y, w, h, obj, *classes = (1 / (1 + math.exp(-t)) for t in row)
        (left, top), (stride,), anchor = (column[slot].tolist() for column in grid.slots)
        centre = left + (2 * x - 0.5) * stride, top + (2 * y - 0.5) * stride
        half = 2 * w * w * anchor[0], 2 * h * h * anchor[1]
        box = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
        lowest = options.by_class or [options.confidence] * len(classes)
        scores = [(obj * p, label) for label, p in enumerate(classes)]
        found += [(score, label, slot, box) for score, label in scores if score > lowest[label]]
    found = sorted(found, key=lambda row: -row[0])[: options.max_candidates]
    score, label, _, box = zip(*found, strict=True) if found else ((), (), (), ())
    group = torch.zeros(len(label)) if options.agnostic else torch.tensor(label)
    kept = slow_nms(torch.tensor(box).reshape(-1, 4), torch.tensor(score), group, options.iou)
    return [found[index] for index in kept][: options.max_detections]


def assert_same(found: Detections, expected: Detections) -> None:
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(one, other)
    assert found.mask is expected.mask is None


# ---------------------------------------------------------------------------------------------------- class_nms


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou", [0.1, 0.3, 0.5])
def test_class_nms_equals_a_greedy_loop_and_torchvision(seed, iou):
    box = random_boxes(120, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    score, label = torch.rand(120, generator=generator), torch.randint(0, 3, (120,), generator=generator)
    kept = class_nms(box, score, label, iou)
    assert kept.tolist() == slow_nms(box, score, label, iou)
    # torchvision's classes do suppress each other at negative coordinates: it is shown the boxes moved to the right
    assert kept.tolist() == batched_nms(box - box.min(), score, label, iou).tolist()
    assert 3 <= len(kept) < 120


@pytest.mark.parametrize("shift", [0.0, -1000.0, 1e5])
def test_classes_never_suppress_each_other(shift):
    box = torch.tensor([[0.0, 0, 10, 10]]).repeat(200, 1) + shift
    label = torch.arange(100).repeat(2)  # two equal boxes of each class
    score = torch.linspace(1, 0.5, 200)
    assert class_nms(box, score, label, 0.5).tolist() == list(range(100))


def test_class_nms_keeps_a_box_that_overlaps_by_exactly_the_threshold():
    box = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 1/2
    score, label = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert class_nms(box, score, label, 0.5).tolist() == [0, 1]
    assert class_nms(box, score, label, 0.499).tolist() == [0]


def test_agnostic_nms_drops_a_box_for_a_better_one_of_another_class_and_classes_are_chosen_before():
    box = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
    found = Detections(box, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2]))
    assert survivors(found, DetectOptions(agnostic=True)).label.tolist() == [0, 2]
    assert survivors(found, DetectOptions()).label.tolist() == [0, 1, 2]
    assert survivors(found, DetectOptions(agnostic=True, by_class=(1.0, 0.001, 0.001))).label.tolist() == [1, 2]
    assert survivors(
        found, DetectOptions(max_detections=1, by_class=(1.0, 1.0, 0.001))
    ).score.tolist() == pytest.approx([0.7])
    assert survivors(found, DetectOptions(by_class=(1.0,) * 3)).box.shape == (0, 4)


def test_class_nms_of_nothing():
    kept = class_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5)
    assert kept.shape == (0,) and kept.dtype == torch.int64


# ------------------------------------------------------------------------------------------ detections of a head


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        DetectOptions(),
        DetectOptions(confidence=0.4, iou=0.3),
        DetectOptions(max_detections=7),
        DetectOptions(max_candidates=25),
        DetectOptions(confidence=0.0, iou=1.0, max_detections=10**6, max_candidates=10**6),
        DetectOptions(by_class=(0.3, 1.0, 0.2), max_candidates=25),
        DetectOptions(iou=0.3, agnostic=True),
    ],
    ids=["defaults", "strict", "few detections", "few candidates", "everything", "two classes", "agnostic"],
)
def test_detections_equal_a_slow_loop(num_classes, options):
    raw, grid = random_raw(2, num_classes, seed=num_classes), small_grid()
    options = options._replace(by_class=options.by_class and options.by_class[:num_classes])
    for image, found in zip(raw, select(raw, grid, options), strict=True):
        expected = slow_detections(image, grid, options)
        assert len(expected) > 0
        assert found.label.tolist() == [label for _, label, _, _ in expected]
        torch.testing.assert_close(found.score, torch.tensor([score for score, *_ in expected]))
        torch.testing.assert_close(found.box, torch.tensor([box for *_, box in expected]), rtol=1e-5, atol=1e-4)


def test_single_detection_hand_worked():
    grid = small_grid()
    raw = torch.full((1, grid.num_slots, 7), -20.0)
    raw[0, 2 * 9] = torch.tensor([0, 0, 0, 0, logit(0.8), logit(0.5), logit(0.25)])  # cell (1, 1), first anchor
    (found,) = select(raw, grid, DetectOptions())
    assert found.box.tolist() == [[7, 5.5, 17, 18.5]] * 2  # 10 x 13 around (12, 12): one slot, two classes
    assert found.label.tolist() == [0, 1]
    torch.testing.assert_close(found.score, torch.tensor([0.4, 0.2]))


def test_scores_lie_above_the_confidence_and_fall():
    raw, grid = random_raw(1, 3), small_grid()
    for confidence in (0.001, 0.3, 0.8):
        (found,) = select(raw, grid, DetectOptions(confidence=confidence))
        assert (found.score > confidence).all()
        assert (found.score.diff() <= 0).all()
    for logits in ([0.0, 40.0], [40.0, 0.0]):  # a score of exactly 1/2, from either factor
        half = torch.full((1, grid.num_slots, 6), -20.0)
        half[0, 0, 4:] = torch.tensor(logits)
        assert len(select(half, grid, DetectOptions(confidence=0.5))[0].score) == 0
        assert len(select(half, grid, DetectOptions(confidence=0.4999))[0].score) == 1


def test_max_detections_keeps_the_best():
    raw, grid = random_raw(1, 3), small_grid()
    (everything,) = select(raw, grid, DetectOptions())
    (few,) = select(raw, grid, DetectOptions(max_detections=5))
    assert len(everything.score) > 5
    assert_same(few, everything.select(slice(5)))
    (none,) = select(raw, grid, DetectOptions(max_detections=0))
    assert len(none.score) == 0


def test_max_candidates_is_a_cut_before_nms():
    raw, grid = random_raw(1, 1), small_grid()
    raw[0, :, :4] = 0
    raw[0, 1::2, 4] = -40  # one anchor of each cell is left: no two boxes are equal
    (everything,) = select(raw, grid, DetectOptions(confidence=1e-9, iou=0.99))
    (ten,) = select(raw, grid, DetectOptions(confidence=1e-9, iou=0.99, max_candidates=10))
    assert len(everything.score) == 40 and torch.equal(ten.score, everything.score[:10])
    (best,) = select(raw, grid, DetectOptions(iou=0.0, max_candidates=1))
    assert torch.equal(best.score, everything.score[:1])


def test_result_does_not_depend_on_the_batch():
    raw, grid = random_raw(5, 3), small_grid()
    together = select(raw, grid, DetectOptions())
    apart = [found for part in raw.split([1, 3, 1]) for found in select(part, grid, DetectOptions())]
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


def test_equal_scores_keep_the_order_of_the_slots():
    grid = small_grid()
    raw = torch.zeros(1, grid.num_slots, 6)
    (found,) = select(raw, grid, DetectOptions(iou=1.0, max_candidates=30))
    slots = torch.cat((grid.slots.corner + grid.slots.stride / 2, grid.slots.anchor), dim=1)
    assert torch.equal(found.box, cxcywh_to_xyxy(slots)[:30])


@pytest.mark.parametrize("num_classes", [1, 3])
def test_nothing_found_and_no_images(num_classes):
    grid = small_grid()
    (found,) = select(torch.full((1, grid.num_slots, 5 + num_classes), -30.0), grid, DetectOptions())
    assert found.box.shape == (0, 4) and found.score.shape == found.label.shape == (0,)
    assert (found.box.dtype, found.score.dtype, found.label.dtype) == (torch.float32, torch.float32, torch.int64)
    assert select(torch.zeros(0, grid.num_slots, 5 + num_classes), grid, DetectOptions()) == []


def test_bfloat16_equals_float32_of_the_same_values():
    raw, grid = random_raw(2, 3).bfloat16(), small_grid()
    halves, floats = (select(values, grid, DetectOptions()) for values in (raw, raw.float()))
    for one, other in zip(halves, floats, strict=True):
        assert one.score.dtype == one.box.dtype == torch.float32
        assert_same(one, other)


def test_extreme_logits_give_finite_detections():
    grid = small_grid()
    raw = torch.randn(1, grid.num_slots, 8, generator=torch.Generator().manual_seed(3)) * 1e4
    (found,) = select(raw, grid, DetectOptions())
    assert len(found.score) > 0 and found.box.isfinite().all() and ((found.score > 0) & (found.score <= 1)).all()


@pytest.mark.parametrize("max_detections", [3, 40, 5000])
def test_trying_the_best_candidates_first_changes_nothing(monkeypatch: pytest.MonkeyPatch, max_detections: int) -> None:
    from yolo_lite.ops import nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator) * 60
    box = torch.cat((corner, corner + 5 + torch.rand(200, 2, generator=generator) * 30), dim=1)
    score = torch.rand(200, generator=generator).sort(descending=True).values
    label = torch.randint(0, 2, (200,), generator=generator)
    options = DetectOptions(iou=0.5, max_detections=max_detections)
    expected = nms.class_nms(box, score, label, 0.5)[:max_detections]
    for quick in (1, 10, 60, 199, 200):
        monkeypatch.setattr(nms, "QUICK_CANDIDATES", quick)
        found = nms.survivors(Detections(box, score, label), options)
        assert torch.equal(found.box, box[expected]) and torch.equal(found.score, score[expected])
