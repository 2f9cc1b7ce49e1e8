"""Which slot learns which object by tal, simota and atss: hand-worked cases, slow loops, libraries, and laws."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_convert, box_iou

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import load_hyp
from yolo_lite.engine.seams import SEAMS
from yolo_lite.loss.assigners import ASSIGNERS
from yolo_lite.loss.assigners.pairs import slots_inside, slots_nearby
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.ops.grid import Grid, make_grid
from yolo_lite.structures import Matches, Objects, Predictions, Raw

tal, simota, atss = (ASSIGNERS[name] for name in ("tal", "simota", "atss"))
STRIDES = (8, 16, 32)
CELLS = torch.tensor(STRIDES).float()[:, None, None].expand(3, 1, 2)  # a head without anchors
ANCHORS = torch.tensor([[[10.0, 13], [33, 23]], [[30, 61], [62, 45]], [[116, 90], [156, 198]]])
HEADS = pytest.mark.parametrize("anchors", [CELLS, ANCHORS], ids=["free", "anchors"])
NAMES = pytest.mark.parametrize("name", ["tal", "simota", "atss"])
BY_PREDICTIONS = pytest.mark.parametrize("name", ["tal", "simota"])


def objects_of(*boxes: list[float], image: list[int] | None = None, label: list[int] | None = None) -> Objects:
    image, label = (torch.tensor(column or [0] * len(boxes), dtype=torch.int64) for column in (image, label))
    return Objects(image, label, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def one_level(height: int = 32, width: int = 48) -> Grid:
    """4 x 6 cells of 8 pixels, centres at 4, 12, 20, ..."""
    return make_grid(CELLS[:1], (8,), height, width)


def random_objects(count: int, num_images: int, height: int, width: int, seed: int, smallest: float = 1.0) -> Objects:
    """Sizes of all kinds; centres and sides are eighths of a pixel, so that what the rules compare is exact."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    centre[::3] = (centre[::3] / 4).round() * 4  # on grid lines and in the middle of cells
    size = torch.exp(torch.rand(count, 2, generator=generator) * math.log(200 / smallest) + math.log(smallest))
    box = (torch.cat((centre, size), dim=1) * 8).round() / 8
    image, label = (torch.randint(0, most, (count,), generator=generator) for most in (num_images, 4))
    return Objects(image, label, box)


def random_predictions(grid: Grid, num_images: int, seed: int) -> Predictions:
    """Boxes around their slots, of a few cells."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, grid.num_slots, 2)
    centre = grid.slots.centre + torch.randn(shape, generator=generator) * grid.slots.stride
    size = torch.exp(torch.randn(shape, generator=generator)) * grid.slots.stride * 4
    score = torch.rand(*shape[:2], 4, generator=generator)
    return Predictions(torch.cat((centre, size), dim=2), score)


def assign(name: str, objects: Objects, grid: Grid, predictions: Predictions, **parameters: float) -> Matches:
    given = {} if name == "atss" else {"predictions": predictions}
    return ASSIGNERS[name](objects, grid, **given, **parameters)


def as_dict(matches: Matches) -> dict[tuple[int, int], int]:
    """(image, slot) -> object; every pair must occur once."""
    pairs = list(zip(matches.image.tolist(), matches.slot.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return dict(zip(pairs, matches.target.tolist(), strict=True))


def slots_by_object(matches: Matches) -> dict[int, list[int]]:
    found = defaultdict(list)
    for (_, slot), target in as_dict(matches).items():
        found[target].append(slot)
    return dict(found)


# ------------------------------------------------------------------------- the rules once more, slowly and one by one


class Slot(NamedTuple):
    number: int
    level: int
    stride: int
    x: float
    y: float
    anchor: tuple[float, float]


class Slow:
    """A scene for the slow loops: plain numbers, and the questions that the rules ask."""

    def __init__(self, objects: Objects, anchors: Tensor, height: int, width: int, reach: float) -> None:
        self.image, self.label, self.box = objects.image.tolist(), objects.label.tolist(), objects.box.tolist()
        self.rows, self.reach, self.size = range(len(self.box)), reach, (width, height)
        self.slots: list[Slot] = []
        for level, (stride, shapes) in enumerate(zip(STRIDES, anchors.tolist(), strict=True)):
            for row in range(height // stride):
                for column in range(width // stride):
                    for shape in shapes:
                        middle = (column + 0.5) * stride, (row + 0.5) * stride
                        self.slots.append(Slot(len(self.slots), level, stride, *middle, tuple(shape)))

    def is_inside(self, row: int, slot: Slot) -> bool:
        """Inside the box, and no side too far."""
        x, y, w, h = self.box[row]
        sides = slot.x - (x - w / 2), (x + w / 2) - slot.x, slot.y - (y - h / 2), (y + h / 2) - slot.y
        return min(sides) > 0 and max(sides) <= self.reach * slot.stride

    def offset(self, row: int, slot: Slot) -> tuple[float, float]:
        """From the centre of the object, or the point of the image next to it, in x and in y."""
        x, y = (min(max(place, 0), end) for place, end in zip(self.box[row][:2], self.size, strict=True))
        return abs(slot.x - x), abs(slot.y - y)

    def distance(self, row: int, slot: Slot) -> float:
        dx, dy = self.offset(row, slot)
        return dx * dx + dy * dy

    def nearest(self, row: int, owner: dict[tuple[int, int], int]) -> tuple[float, int] | None:
        """Distance and number of the nearest slot that is free, or else of an object with several."""
        x, y, w, h = self.box[row]
        if min(w, h) <= 0 or x + w / 2 <= 0 or y + h / 2 <= 0 or x - w / 2 >= self.size[0] or y - h / 2 >= self.size[1]:
            return None
        found = []
        for slot in self.slots:
            holder = owner.get((self.image[row], slot.number))
            spare = holder is None or sum(one == holder for one in owner.values()) > 1
            if max(self.offset(row, slot)) < 1.5 * slot.stride and spare:
                beyond = max(abs(slot.x - x) + w / 2, abs(slot.y - y) + h / 2) / slot.stride - self.reach
                found.append((holder is not None, max(beyond, 0), self.distance(row, slot), slot.number))
        return min(found)[2:] if found else None

    def settle(self, claims: dict[int, dict[int, float]]) -> dict[tuple[int, int], int]:
        """(image, slot) -> object, of the fits of each object's claims by slot."""
        owner: dict[tuple[int, int], int] = {}
        for row in self.rows:
            if not claims.get(row) and (near := self.nearest(row, {})):
                claims[row] = {near[1]: -1 - near[0]}
        while True:
            bids = defaultdict(list)
            for row, fits in claims.items():
                for slot, fit in fits.items():
                    bids[self.image[row], slot].append((len(fits) > 1, -fit, row))
            spent = set[int]()  # objects that gave a slot up in this round
            for place, rows in sorted(bids.items(), key=lambda bid: (min(bid[1])[1], bid[0])):
                if place not in owner or owner[place] not in spent:
                    spent |= {owner[place]} if place in owner else set()
                    owner[place] = min(rows)[2]
            left = [row for row in self.rows if row not in owner.values()]
            nearest = {row: near for row in left if (near := self.nearest(row, owner))}
            if not nearest:
                return owner
            claims = {row: {slot: -far} for row, (far, slot) in nearest.items()}


def slow_iou(a: list[float], b: list[float]) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    common = max(width, 0) * max(height, 0)
    return common / (aw * ah + bw * bh - common) if aw * ah > 0 and bw * bh > 0 else 0.0


Scored = dict[tuple[int, int], tuple[int, float]]  # (image, slot) -> object and score


def slow_tal(scene: Slow, box: list, score: list, alpha=1.0, beta=6.0, topk=13, floor=0.1) -> Scored:
    def overlap(row: int, slot: int) -> float:
        return slow_iou(box[scene.image[row]][slot], scene.box[row])

    def alignment(row: int, slot: int) -> float:
        return score[scene.image[row]][slot][scene.label[row]] ** alpha * overlap(row, slot) ** beta

    claims = {}
    for row in scene.rows:
        inside = [slot for slot in scene.slots if scene.is_inside(row, slot)]
        ranked = sorted((-alignment(row, slot.number), scene.distance(row, slot), slot.number) for slot in inside)
        kept = [number for t, _, number in ranked if t < 0][:topk] or [number for *_, number in ranked[:1]]
        claims[row] = {number: overlap(row, number) for number in kept}
    owner = scene.settle(claims)
    return graded(owner, {place: alignment(row, place[1]) for place, row in owner.items()}, overlap, floor)


def graded(owner: dict, value: dict, overlap, floor: float) -> Scored:
    """A pair's value over the largest of its object, times the object's largest overlap."""
    pairs = defaultdict(list)
    for place, row in owner.items():
        pairs[row].append(place)
    scored = {}
    for row, places in pairs.items():
        most, best = max(value[place] for place in places), max(overlap(row, slot) for _, slot in places)
        for place in places:
            score = value[place] / most * best if most > 0 else 0.0
            scored[place] = row, max(score, floor) if value[place] == most else score
    return scored


def slow_simota(
    scene: Slow, box: list, score: list, radius: float = 2.5, iou_weight=3.0, topk=10, floor: float = 0.1
) -> Scored:
    def overlap(row: int, slot: int) -> float:
        return slow_iou(box[scene.image[row]][slot], scene.box[row])

    def cost(row: int, slot: int) -> float:
        chances = score[scene.image[row]][slot]
        right = [p if label == scene.label[row] else 1 - p for label, p in enumerate(chances)]
        return -sum(map(math.log, right)) - iou_weight * math.log(overlap(row, slot) + 1e-8)

    claims = {}
    for row in scene.rows:
        near = [
            slot.number
            for slot in scene.slots
            if scene.is_inside(row, slot)
            and max(abs(slot.x - scene.box[row][0]), abs(slot.y - scene.box[row][1])) < radius * slot.stride
        ]
        count = max(int(sum(sorted((overlap(row, slot) for slot in near), reverse=True)[:topk])), 1)
        kept = sorted(near, key=lambda slot, row=row: (cost(row, slot), scene.distance(row, scene.slots[slot]), slot))[
            :count
        ]
        claims[row] = {slot: 1 / (1 + cost(row, slot)) for slot in kept}
    owner = scene.settle(claims)
    return graded(owner, {place: overlap(row, place[1]) for place, row in owner.items()}, overlap, floor)


def slow_atss(scene: Slow, box: list, score: list, topk: int = 9, cells: float = 8.0) -> Scored:
    def overlap(row: int, slot: Slot) -> float:
        times = cells if slot.anchor == (slot.stride, slot.stride) else 1
        return slow_iou([slot.x, slot.y, slot.anchor[0] * times, slot.anchor[1] * times], scene.box[row])

    anchors = Counter((slot.level, slot.x, slot.y) for slot in scene.slots).most_common(1)[0][1]
    claims = {}
    for row in scene.rows:
        candidates = []
        for level in range(len(STRIDES)):
            own = [slot for slot in scene.slots if slot.level == level]
            own.sort(key=lambda slot, row=row: (scene.distance(row, slot), slot.number))
            candidates += own[: topk * anchors]
        overlaps = [overlap(row, slot) for slot in candidates]
        mean = sum(overlaps) / len(overlaps)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in overlaps) / (len(overlaps) - 1))
        claims[row] = {
            slot.number: value
            for slot, value in zip(candidates, overlaps, strict=True)
            if value >= mean + deviation - 1e-6 and scene.is_inside(row, slot)
        }
    return {place: (row, 1.0) for place, row in scene.settle(claims).items()}


SLOW = {"tal": slow_tal, "simota": slow_simota, "atss": slow_atss}


@NAMES
@HEADS
@pytest.mark.parametrize(
    ("height", "width", "reach", "count", "parameters"),
    [
        (64, 96, math.inf, 14, {}),
        (96, 64, 3.0, 24, {}),
        (32, 160, 2.0, 10, {"topk": 4}),
        (96, 160, 15.0, 150, {}),
        (64, 64, math.inf, 120, {"topk": 2}),  # crowded: 60 objects an image in 84 cells
    ],
)
def test_matches_and_scores_equal_a_slow_loop(name, anchors, height, width, reach, count, parameters):
    objects, grid = random_objects(count, 2, height, width, seed=count), make_grid(anchors, STRIDES, height, width)
    predictions = random_predictions(grid, 2, seed=1)
    found = assign(name, objects, grid, predictions, reach=reach, **parameters)
    scene = Slow(objects, anchors, height, width, reach)
    expected = SLOW[name](scene, predictions.box.tolist(), predictions.score.tolist(), **parameters)
    assert as_dict(found) == {place: row for place, (row, _) in expected.items()}
    scores = [expected[place][1] for place in as_dict(found)]
    assert found.score.tolist() == pytest.approx(scores, rel=1e-4, abs=1e-6)


def dense_overlaps(objects: Objects, predictions: Predictions) -> Tensor:
    """IoU of every object of one image with every predicted box ``[M, N]``."""
    corners = [box_convert(box, "cxcywh", "xyxy") for box in (objects.box, predictions.box[0])]
    return box_iou(*corners)


def apart(grid: Grid) -> tuple[Objects, Tensor]:
    """Objects that have no slot in common, and which slots lie inside each ``[M, N]``."""
    objects = objects_of([40, 40, 60, 44], [120, 36, 50, 66], [56, 100, 88, 40], label=[0, 1, 3])
    offset = (grid.slots.centre[None] - objects.box[:, None, :2]).abs()
    return objects, (offset < objects.box[:, None, 2:] / 2).all(dim=2)


def test_tal_equals_the_dense_form_with_torchvision():
    grid = make_grid(CELLS, STRIDES, 128, 160)
    objects, inside = apart(grid)
    predictions = random_predictions(grid, 1, seed=3)
    overlap = dense_overlaps(objects, predictions)
    alignment = predictions.score[0][:, objects.label].T.sqrt() * overlap**4 * inside
    values, slots = alignment.topk(5, dim=1)
    assert (values > 0).all()
    score = values / values[:, :1] * overlap.gather(1, slots).amax(dim=1, keepdim=True)
    found = tal(objects, grid, predictions=predictions, alpha=0.5, beta=4.0, topk=5, floor=0.0)
    expected = {(0, slot): row for row in range(3) for slot in slots[row].tolist()}
    assert as_dict(found) == expected
    table = torch.zeros_like(overlap).scatter_(1, slots, score)
    torch.testing.assert_close(found.score, table[found.target, found.slot])


def test_simota_equals_the_dense_form_with_torchvision():
    grid = make_grid(CELLS, STRIDES, 128, 160)
    objects, inside = apart(grid)
    offset = (grid.slots.centre[None] - objects.box[:, None, :2]).abs() / grid.slots.stride
    inside &= (offset < 2).all(dim=2)
    predictions = random_predictions(grid, 1, seed=4)
    overlap = dense_overlaps(objects, predictions)
    truth = F.one_hot(objects.label, 4).float()[:, None].expand(-1, grid.num_slots, -1)
    score = predictions.score.expand(3, -1, -1)
    cost = F.binary_cross_entropy(score, truth, reduction="none").sum(dim=2) - 3 * (overlap + 1e-8).log()
    counts = (overlap * inside).topk(10, dim=1).values.sum(dim=1).int().clamp(min=1).tolist()
    assert len(set(counts)) > 1  # the dynamic k is at work
    ranked = cost.masked_fill(~inside, math.inf).argsort(dim=1)
    expected = {(0, slot): row for row, count in enumerate(counts) for slot in ranked[row, :count].tolist()}
    found = simota(objects, grid, predictions=predictions, radius=2.0, floor=0.0)
    assert as_dict(found) == expected
    torch.testing.assert_close(found.score, overlap[found.target, found.slot])


@pytest.mark.parametrize(
    "anchors", [CELLS, ANCHORS, torch.cat((CELLS, ANCHORS), dim=1)], ids=["free", "anchors", "both"]
)
def test_atss_equals_the_dense_form_with_numpy(anchors: Tensor):
    grid = make_grid(anchors, STRIDES, 128, 160)
    objects, inside = apart(grid)
    size = grid.slots.anchor * (8 if anchors is CELLS else 1)
    boxes = Predictions(torch.cat((grid.slots.centre, size), dim=1)[None], torch.zeros(0))
    overlap = dense_overlaps(objects, boxes).numpy()
    squares = (grid.slots.centre[None] - objects.box[:, None, :2]).square().sum(dim=2).numpy()
    expected = {}
    for row in range(3):
        near = [np.flatnonzero(grid.level == level) for level in range(3)]
        near = np.concatenate(
            [own[np.argsort(squares[row, own], kind="stable")[: 9 * anchors.shape[1]]] for own in near]
        )
        values = overlap[row, near]
        chosen = near[(values >= values.mean() + values.std(ddof=1)) & inside[row].numpy()[near]]
        expected |= {(0, slot): row for slot in chosen.tolist()}
    found = atss(objects, grid)
    assert as_dict(found) == expected and Counter(expected.values()).keys() == {0, 1, 2}
    assert found.score.tolist() == [1] * len(expected)


# ------------------------------------------------------------------------------------------------------- hand-worked


@pytest.mark.parametrize(
    ("box", "reach", "cells"),
    [
        ([20, 12, 16, 8], math.inf, [8]),  # 12..28 by 8..16: the centres at x 12 and 28 lie on the border
        ([20, 12, 17, 8], math.inf, [7, 8, 9]),
        ([20, 12, 8, 8], math.inf, [8]),
        ([16, 8, 4, 4], math.inf, []),  # between four centres
        ([16, 8, 10, 10], math.inf, [1, 2, 7, 8]),
        ([0, 0, 30, 20], math.inf, [0, 1]),  # half outside
        ([-30, 12, 20, 20], math.inf, []),  # wholly outside
        ([24, 16, 1000, 1000], math.inf, list(range(24))),
        ([24, 16, 1000, 1000], 15.0, []),
        ([20, 12, 40, 8], 2.5, [8]),  # 0..40: sides 2.5 cells from the centre at 20, 3.5 from those at 12 and 28
        ([20, 12, 40, 8], 3.5, [7, 8, 9]),
        ([20, 12, 40, 8], 2.4, []),
        ([20, 12, 0, 8], math.inf, []),
    ],
)
def test_slots_inside_hand_worked(box, reach, cells):
    target, slot = slots_inside(torch.tensor([box], dtype=torch.float32), one_level(), reach)
    assert slot.tolist() == cells and target.tolist() == [0] * len(cells)


def test_slots_of_a_radius_hand_worked():
    box = torch.tensor([[20.0, 12, 200, 200], [16, 8, 200, 200], [-5, 50, 200, 200]])
    target, slot = slots_inside(box[:2], one_level(), radius=1.0)
    assert list(zip(target.tolist(), slot.tolist(), strict=True)) == [(0, 8), (1, 1), (1, 2), (1, 7), (1, 8)]
    target, slot = slots_nearby(box, one_level(), 1.5)
    by_box = [slot[target == row].tolist() for row in range(3)]
    assert by_box == [[1, 2, 3, 7, 8, 9, 13, 14, 15], [1, 2, 7, 8], [18]]  # the last is moved into the corner


def uniform(grid: Grid, box: list[float], score: float = 0.5, num_images: int = 1) -> Predictions:
    """Every slot predicts the same."""
    boxes = torch.tensor(box, dtype=torch.float32).expand(num_images, grid.num_slots, 4).clone()
    return Predictions(boxes, torch.full((num_images, grid.num_slots, 2), score))


def test_tal_hand_worked():
    grid, objects = one_level(), objects_of([20, 12, 20, 10], label=[1])  # cells 7, 8, 9
    predictions = uniform(grid, [300, 300, 1, 1])
    predictions.box[0, 7] = torch.tensor([20.0, 12, 10, 10])  # u = 1/2
    predictions.box[0, 9] = torch.tensor([20.0, 12, 20, 10])  # u = 1
    predictions.score[0, [7, 9], 1] = torch.tensor([0.8, 0.1])
    # t = 0.8 * 1/4 = 0.2 and 0.1 * 1: the largest u, 1, goes to the slot with the largest t
    both = tal(objects, grid, predictions=predictions, beta=2.0)
    assert both.slot.tolist() == [7, 9] and both.score.tolist() == pytest.approx([1, 0.5])
    # with u^6 it is 0.0125 against 0.1
    six = tal(objects, grid, predictions=predictions)
    assert six.slot.tolist() == [7, 9] and six.score.tolist() == pytest.approx([0.125, 1])
    one = tal(objects, grid, predictions=predictions, beta=2.0, topk=1)
    assert one.slot.tolist() == [7] and one.score.tolist() == [0.5]


def test_simota_hand_worked():
    grid, objects = one_level(), objects_of([20, 12, 20, 10], label=[1])
    predictions = uniform(grid, [300, 300, 1, 1])
    predictions.box[0, [7, 8]] = torch.tensor([[20.0, 12, 16, 10], [20, 12, 10, 10]])  # IoU 0.8 and 0.5: k = 1
    predictions.score[0, 8] = torch.tensor([0.1, 0.9])
    # costs: 2 ln 2 - 3 ln 0.8 = 2.06 and -2 ln 0.9 - 3 ln 0.5 = 2.29
    found = simota(objects, grid, predictions=predictions)
    assert found.slot.tolist() == [7] and found.score.tolist() == pytest.approx([0.8])
    # by classes alone the other
    assert simota(objects, grid, predictions=predictions, iou_weight=0.0).slot.tolist() == [8]
    predictions.box[0, 9] = torch.tensor([20.0, 12, 20, 7.5])  # IoU 0.75: k = 2
    assert simota(objects, grid, predictions=predictions).slot.tolist() == [7, 9]
    assert simota(objects, grid, predictions=predictions, topk=1).slot.tolist() == [7]


def test_atss_hand_worked():
    # Anchors 64 x 64, 24 cells: those of x 4 .. 44 in row 1. The object is anchor 8, at (20, 12), but for its place.
    objects = objects_of([20, 12, 64, 64])
    found = atss(objects, one_level(), topk=5)
    # candidates 8; 2, 7, 9, 14: IoU 1 and (64 - 8) / (64 + 8) = 7/9: mean 37/45, deviation 0.0994, threshold 0.92
    assert found.slot.tolist() == [8] and found.score.tolist() == [1]
    # of equal overlaps all pass: a small object in all five anchors
    assert atss(objects_of([20, 12, 20, 20]), one_level(), topk=5).slot.tolist() == [2, 7, 8, 9, 14]
    for side in range(18, 38):  # whatever the rounding of their mean
        assert len(atss(objects_of([20, 12, side, side]), one_level(), cells=7.0).slot) == 9
    # with cells for anchors they overlap it by 8 x 8 and 6 x 8
    assert atss(objects_of([20, 12, 20, 20]), one_level(), topk=5, cells=1.0).slot.tolist() == [8]


@NAMES
def test_a_tiny_object_learns_in_the_nearest_slot_and_a_larger_one_around_it_lets_it(name: str):
    grid = one_level()
    tiny, large = [17.0, 9, 2, 2], [24.0, 16, 48, 32]  # no centre lies in 16..18; cell 8, at (20, 12), is the nearest
    predictions = uniform(grid, large)  # where the large one fits
    assert slots_by_object(assign(name, objects_of(tiny), grid, predictions)) == {0: [8]}
    for boxes in ([tiny, large], [large, tiny]):
        found = assign(name, objects_of(*boxes), grid, predictions)
        own = slots_by_object(found)
        assert own[boxes.index(tiny)] == [8] and len(own[boxes.index(large)]) >= (1 if name == "atss" else 9)
        assert found.score[found.slot == 8].item() == pytest.approx(1.0 if name == "atss" else 0.1)


@NAMES
def test_objects_on_one_point_share_the_slots_around_it(name: str):
    grid = one_level()
    twins = objects_of(*[[21, 13, 2, 2]] * 5, label=[0, 1, 0, 1, 0])  # 2, 50, 50, 82 and 82 square pixels away
    own = slots_by_object(assign(name, twins, grid, uniform(grid, [21, 13, 2, 2])))
    assert own == {0: [8], 1: [9], 2: [14], 3: [2], 4: [7]}
    # ten find nine slots
    many = objects_of(*[[20, 12, 2, 2]] * 10)
    own = slots_by_object(assign(name, many, grid, uniform(grid, [20, 12, 2, 2])))
    assert own.keys() == set(range(9)) and sorted(slot for slots in own.values() for slot in slots) == [
        1,
        2,
        3,
        7,
        8,
        9,
        13,
        14,
        15,
    ]


@NAMES
def test_two_equal_objects_both_keep_a_slot(name: str):
    grid = make_grid(CELLS, STRIDES, 128, 160)
    twins = objects_of([70, 60, 50, 40], [70, 60, 50, 40])
    own = slots_by_object(assign(name, twins, grid, uniform(grid, [70, 60, 50, 40])))
    assert len(own[0]) >= len(own[1]) == 1


def test_a_slot_that_two_claim_goes_to_the_larger_overlap_and_of_equals_to_the_first():
    grid = one_level()
    boxes = [20.0, 12, 20, 10], [20.0, 12, 22, 10]  # both have cells 7, 8, 9 inside
    predictions = uniform(grid, boxes[1])
    predictions.box[0, 8] = torch.tensor(boxes[0])
    for order in ((0, 1), (1, 0)):
        found = tal(objects_of(*(boxes[row] for row in order)), grid, predictions=predictions)
        assert as_dict(found) == {(0, 7): order.index(1), (0, 8): order.index(0), (0, 9): order.index(1)}
    equal = uniform(grid, [20.0, 12, 20, 10])
    wide, high = [20.0, 12, 40, 10], [20.0, 12, 20, 20]  # twice as large, in one direction or the other: u = 1/2
    found = tal(objects_of(wide, high), grid, predictions=equal)
    assert slots_by_object(found)[0] == [6, 7, 8, 9, 10] and as_dict(found)[0, 8] == 0
    assert as_dict(tal(objects_of(high, wide), grid, predictions=equal))[0, 8] == 0


@NAMES
def test_an_object_larger_than_reach_learns_on_the_coarsest_level(name: str):
    grid = make_grid(CELLS, STRIDES, 128, 160)
    predictions = random_predictions(grid, 1, seed=5)
    found = assign(name, objects_of([83, 60, 160, 120]), grid, predictions, reach=2.0)  # 5 x 3.75 coarse cells
    assert [grid.level[slot].item() for slot in found.slot] == [2]
    assert grid.slots.centre[found.slot].tolist() == [[80, 48]]  # of (80, 48) and (80, 80), 12 and 20 pixels away
    assert found.score.item() >= 0.1
    near = assign(name, objects_of([83, 60, 160, 120]), grid, predictions, reach=3.0)
    assert set(grid.level[near.slot].tolist()) == {2}  # from some coarse cells all sides are within 3 cells


@NAMES
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_an_object_that_no_slot_can_reach_takes_none_that_another_has_inside(name: str, order: list[int]):
    grid, boxes = one_level(), [[20, 12, 1000, 1000], [20, 12, 9, 9]]
    found = assign(name, objects_of(*(boxes[row] for row in order)), grid, uniform(grid, [300, 300, 1, 1]), reach=3.0)
    assert slots_by_object(found) == {order.index(1): [8], order.index(0): [2]}


@NAMES
@pytest.mark.parametrize(
    "box", [[20, 12, 0, 8], [20, 12, 8, 0], [-20, 12, 16, 8], [20, 60, 8, 16], [20, 12, 0, 0]], ids=str
)
def test_objects_without_an_area_or_outside_the_image_learn_nowhere(name: str, box: list[float]):
    grid = one_level()
    found = assign(name, objects_of(box, [20, 12, 16, 16]), grid, uniform(grid, [20, 12, 16, 16]))
    assert set(found.target.tolist()) == {1}


@NAMES
def test_an_object_of_which_a_corner_lies_in_the_image_learns_there(name: str):
    grid = one_level()
    found = assign(name, objects_of([50, 34, 8, 8]), grid, uniform(grid, [20, 12, 16, 16]))  # from 46, 30
    assert found.slot.tolist() == [23]


@NAMES
def test_no_objects(name: str):
    grid = one_level()
    found = assign(name, objects_of(), grid, uniform(grid, [20, 12, 16, 16]))
    assert [column.shape for column in found] == [(0,)] * 4
    assert {column.dtype for column in found[:3]} == {torch.int64} and found.score.dtype == torch.float32


@BY_PREDICTIONS
def test_the_best_pair_of_an_object_counts_floor_at_least(name: str):
    grid, objects = one_level(), objects_of([20, 12, 20, 20], [36, 20, 9, 9])
    predictions = uniform(grid, [300, 300, 1, 1])  # no box touches any object
    for floor in (0.0, 0.1, 0.4):  # the nearest slot of each
        found = assign(name, objects, grid, predictions, floor=floor)
        assert found.slot.tolist() == [8, 16] and found.score.tolist() == pytest.approx([floor] * 2)
    # it lifts the best pair alone: nothing changes where overlaps are larger
    good = random_predictions(grid, 1, seed=6)
    low, high = (assign(name, objects_of([24, 16, 40, 24]), grid, good, floor=floor) for floor in (0.0, 0.1))
    assert low.score.max() > 0.1 and torch.equal(low.score, high.score)


# --------------------------------------------------------------------------------------------- unusual predictions


@BY_PREDICTIONS
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_finite_number_is_no_overlap_and_no_score(name: str, value: float):
    grid, objects = make_grid(CELLS, STRIDES, 64, 96), random_objects(12, 2, 64, 96, seed=8)
    predictions = random_predictions(grid, 2, seed=9)
    predictions.box[:, ::3] = value
    if math.isnan(value):
        predictions.score[:, ::5] = value
    found = assign(name, objects, grid, predictions)
    assert found.score.isfinite().all() and (found.score >= 0).all() and (found.score <= 1).all()
    zero = Predictions(torch.where(predictions.box.isfinite(), predictions.box, 0), predictions.score.nan_to_num(0))
    expected = assign(name, objects, grid, zero)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    worst = Predictions(torch.full_like(zero.box, value), torch.full_like(zero.score, math.nan))
    assert assign(name, objects, grid, worst).score.max().item() == pytest.approx(0.1)


@BY_PREDICTIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_taken_as_their_float_values(name: str, dtype: torch.dtype):
    grid, objects = make_grid(CELLS, STRIDES, 64, 96), random_objects(12, 2, 64, 96, seed=8)
    half = Predictions(*(column.to(dtype) for column in random_predictions(grid, 2, seed=9)[:2]))
    exact = Predictions(*(column.float() for column in half[:2]))
    found, expected = (assign(name, objects, grid, predictions) for predictions in (half, exact))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert found.score.dtype == torch.float32


# --------------------------------------------------------------------------------------------------------- laws


@NAMES
@HEADS
def test_the_order_of_objects_does_not_change_which_slot_learns_which(name: str, anchors: Tensor):
    objects, grid = random_objects(150, 2, 96, 160, seed=1, smallest=12.0), make_grid(anchors, STRIDES, 96, 160)
    predictions = random_predictions(grid, 2, seed=2)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(3))
    straight = assign(name, objects, grid, predictions, reach=15.0)
    shuffled = assign(name, objects.select(order), grid, predictions, reach=15.0)
    assert torch.equal(straight.target, order[shuffled.target]) and len(straight.slot) > 150
    others = zip((straight.image, straight.slot, straight.score), (shuffled[0], shuffled[1], shuffled[3]), strict=True)
    assert all(torch.equal(one, other) for one, other in others)  # to the bit, pairs in the same order


@NAMES
@HEADS
def test_a_batch_is_its_images_one_by_one(name: str, anchors: Tensor):
    objects, grid = random_objects(150, 3, 96, 160, seed=4), make_grid(anchors, STRIDES, 96, 160)
    predictions = random_predictions(grid, 3, seed=5)
    together, parts = assign(name, objects, grid, predictions), []
    for image in range(3):
        rows = (objects.image == image).nonzero()[:, 0]
        own = objects.select(rows)._replace(image=torch.zeros_like(rows))
        part = Predictions(predictions.box[image : image + 1], predictions.score[image : image + 1])
        alone = assign(name, own, grid, part)
        parts.append((alone.image + image, alone.slot, rows[alone.target], alone.score))
    *pairs, score = (torch.cat(column) for column in zip(*parts, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(together, pairs, strict=False))
    torch.testing.assert_close(together.score, score)


places = st.tuples(
    st.one_of(st.integers(-8, 104), st.floats(-8, 104)), st.one_of(st.integers(-8, 72), st.floats(-8, 72))
)
side = st.one_of(st.just(0), st.floats(0.01, 200))
sides = st.tuples(side, side)


def test_of_equal_objects_around_a_corner_of_the_image_each_has_a_slot():
    grid = make_grid(CELLS, STRIDES, 64, 96)
    found = assign(
        "tal", objects_of([0, 0, 33, 38], [0, 0, 33, 38]), grid, random_predictions(grid, 2, seed=0), reach=15.0
    )
    assert set(found.target.tolist()) == {0, 1}


@NAMES
@given(st.lists(st.tuples(places, sides, st.integers(0, 1)), max_size=9), st.sampled_from([1.5, 15.0, math.inf]))
@settings(max_examples=60, deadline=None)
def test_every_visible_object_has_a_slot_that_another_can_spare_and_no_slot_two_objects(name: str, rows, reach: float):
    grid = make_grid(CELLS, STRIDES, 64, 96)
    boxes, image = [[*place, *size] for place, size, _ in rows], [image for *_, image in rows]
    objects = objects_of(*boxes, image=image)
    found = assign(name, objects, grid, random_predictions(grid, 2, seed=0), reach=reach)
    as_dict(found)  # no (image, slot) twice
    low, high = objects.box[:, :2] - objects.box[:, 2:] / 2, objects.box[:, :2] + objects.box[:, 2:] / 2
    is_visible = ((low < high) & (high > 0) & (low < torch.tensor([96, 64]))).all(dim=1)
    assert set(found.target.tolist()) <= set(is_visible.nonzero()[:, 0].tolist())
    assert torch.equal(found.image, objects.image[found.target])
    scene, count = Slow(objects, CELLS, 64, 96, reach), Counter(found.target.tolist())
    holder = dict(zip(zip(found.image.tolist(), found.slot.tolist(), strict=True), found.target.tolist(), strict=True))
    for row in set(is_visible.nonzero()[:, 0].tolist()) - set(count):  # every slot around it is all that another has
        near = [slot.number for slot in scene.slots if max(scene.offset(row, slot)) < 1.5 * slot.stride]
        assert near and all(count[holder[scene.image[row], slot]] == 1 for slot in near)
    offset = (grid.slots.centre[found.slot] - objects.box[found.target, :2]).abs()
    far = (offset >= objects.box[found.target, 2:] / 2).any(dim=1)  # outside its object: only what else had none
    assert (torch.bincount(found.target, minlength=len(boxes))[found.target[far]] == 1).all()
    assert (found.score >= 0).all() and (found.score <= 1).all()


@NAMES
def test_inputs_are_left_as_they_were(name: str):
    objects, grid = random_objects(40, 2, 64, 96, seed=4), make_grid(ANCHORS, STRIDES, 64, 96)
    predictions = random_predictions(grid, 2, seed=5)
    before = [column.clone() for column in (*objects[:3], *predictions[:2], *grid[1:-1], *grid.slots)]
    assign(name, objects, grid, predictions)
    after = (*objects[:3], *predictions[:2], *grid[1:-1], *grid.slots)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor has that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            self.most = max(self.most, value.numel() if isinstance(value, Tensor) else 0)
        return out


@NAMES
def test_ten_thousand_objects_make_no_matrix(name: str):
    grid = make_grid(CELLS, STRIDES, 640, 640)  # 8,400 slots
    objects = random_objects(10_000, 16, 640, 640, seed=6)
    objects.box[:, 2:].clamp_(max=24)
    predictions = random_predictions(grid, 16, seed=7)
    with LargestTensor() as seen:
        found = assign(name, objects, grid, predictions)
    # 24 pixels hold 9 + 4 + 1 centres, the window of atss 8 x 8 of each level, and a box is four numbers: the matrix
    # would have 84 million.
    assert seen.most <= 4 * 10_000 * (3 * 64 if name == "atss" else 14)
    assert set(found.target.tolist()) == set(range(10_000))


# ------------------------------------------------------------------------------------------------- reading and use


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("assigner: {tal: {topk: 0}}", "assigner.tal.topk: expected 1 or more, found 0"),
        ("assigner: {tal: {beta: -1}}", "assigner.tal.beta: expected 0 or more, found -1"),
        ("assigner: {tal: {floor: 2}}", "assigner.tal.floor: expected 1 or less, found 2"),
        ("assigner: {tal: {topk: 2.5}}", "assigner.tal.topk: expected a whole number, found 2.5"),
        ("assigner: {tal: {gamma: 1}}", "assigner.tal.gamma: unknown parameter"),
        ("assigner: {tal: {reach: 3}}", "assigner.tal.reach: unknown parameter"),
        ("assigner: {tal: {predictions: 3}}", "assigner.tal.predictions: unknown parameter"),
        ("assigner: {simota: {radius: 0}}", "assigner.simota.radius: expected more than 0, found 0"),
        ("assigner: {simota: {iou_weight: x}}", "assigner.simota.iou_weight: expected a number, found 'x'"),
        ("assigner: {atss: {cells: 0}}", "assigner.atss.cells: expected more than 0, found 0"),
        ("assigner: {atss: {topk: 0}}", "assigner.atss.topk: expected 1 or more, found 0"),
        ("assigner: tla", "assigner: unknown name 'tla' (nearest: 'tal')"),
    ],
)
def test_an_unusable_assigner_is_named(text: str, expected: str, tmp_path: Path):
    (tmp_path / "hyp.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_hyp(tmp_path / "hyp.yaml", (), SEAMS)
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["tal", "{tal: {alpha: 0.5, beta: 6, topk: 10}}", "{simota: {topk: 5}}", "atss"])
def test_an_assigner_from_yaml_gives_finite_losses_and_gradients_on_the_anchor_head(text: str, tmp_path: Path):
    (tmp_path / "hyp.yaml").write_text(f"assigner: {text}\n")
    criterion = AnchorCriterion(load_hyp(tmp_path / "hyp.yaml", (), SEAMS), np.ones(4))
    grid, objects = make_grid(ANCHORS, STRIDES, 64, 96), random_objects(12, 2, 64, 96, seed=8)
    logits = torch.randn(2, grid.num_slots, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    raw = Raw(logits, {"box": slice(0, 4), "obj": 4, "cls": slice(5, 9)})
    given = (criterion.predictions(raw, grid),) if criterion.needs_predictions else ()
    matches = criterion.assign(objects, grid, *given)
    totals = None if given else criterion.totals([matches], [grid], 2)
    sum(criterion(raw, objects, matches, grid, totals).values()).backward()
    assert set(matches.target.tolist()) == set(range(12)) and logits.grad.isfinite().all() and logits.grad.any()
