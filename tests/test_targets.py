"""Which slot learns which target: cells worked out by hand, a slow loop, YOLOv5's rule, and laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.loss.assigners import build_targets
from yolo_lite.ops.grid import Grid, make_grid
from yolo_lite.structures import Matches, Objects

ANCHORS = torch.tensor(
    [
        [[10.0, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
)
STRIDES = (8, 16, 32)


def as_targets(*boxes: list[float], image: list[int] | None = None) -> Objects:
    image = image or [0] * len(boxes)
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Objects(torch.tensor(image, dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.int64), box)


def random_targets(count: int, num_images: int, height: int, width: int, seed: int) -> Objects:
    """Sizes of all kinds, log-uniform; a third of the centres on whole pixels, so on grid lines and in cell middles."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    centre[::3] = (centre[::3] / 4).round() * 4
    size = torch.exp(torch.rand(count, 2, generator=generator) * math.log(300) + math.log(2))
    image = torch.randint(0, num_images, (count,), generator=generator)
    return Objects(image, torch.randint(0, 5, (count,), generator=generator), torch.cat((centre, size), dim=1))


def one_level(height: int = 32, width: int = 48) -> Grid:
    """4 x 6 cells of 8 pixels with one anchor of 16 x 16."""
    return make_grid(torch.tensor([[[16.0, 16]]]), (8,), height, width)


def cells_of(centre: tuple[float, float]) -> list[tuple[int, int]]:
    """(x, y) of the cells that learn a target of 16 x 16 pixels, one entry for every match."""
    matches = build_targets(as_targets([*centre, 16, 16]), one_level(), 4.0)
    return sorted((slot % 6, slot // 6) for slot in matches.slot.tolist())


def as_dict(matches: Matches) -> dict[tuple[int, int], int]:
    """(image, slot) -> target; every pair must occur once."""
    pairs = list(zip(matches.image.tolist(), matches.slot.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return dict(zip(pairs, matches.target.tolist(), strict=True))


def slow_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    intersection = max(width, 0) * max(height, 0)
    return intersection / (aw * ah + bw * bh - intersection)


def slow_matches(
    targets: Objects, anchors: torch.Tensor, strides: tuple[int, ...], height: int, width: int, anchor_t: float
) -> dict[tuple[int, int], int]:
    """The rule as its docstring states it: targets, levels, anchors, cells, one by one."""
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for target, (image, (x, y, w, h)) in enumerate(zip(targets.image.tolist(), targets.box.tolist(), strict=True)):
        first_slot = 0
        for stride, shapes in zip(strides, anchors.tolist(), strict=True):
            rows, columns = height // stride, width // stride
            for number, (anchor_w, anchor_h) in enumerate(shapes):
                if min(w, h) <= 0 or max(w / anchor_w, anchor_w / w, h / anchor_h, anchor_h / h) >= anchor_t:
                    continue
                column, row = min(int(x // stride), columns - 1), min(int(y // stride), rows - 1)
                cells = [(column, row)]
                cells += [(nearest, row) for nearest in neighbours(column, x / stride, columns)]
                cells += [(column, nearest) for nearest in neighbours(row, y / stride, rows)]
                for cell_x, cell_y in cells:
                    slot = first_slot + (cell_y * columns + cell_x) * len(shapes) + number
                    middle = ((cell_x + 0.5) * stride, (cell_y + 0.5) * stride)
                    claim = (-slow_iou((*middle, anchor_w, anchor_h), (x, y, w, h)), target)
                    best[image, slot] = min(best.get((image, slot), claim), claim)
            first_slot += rows * columns * len(shapes)
    return {place: target for place, (_, target) in best.items()}


def neighbours(cell: int, position: float, count: int) -> list[int]:
    """The neighbour whose middle is nearer to ``position`` (in cells), if it exists; none if both are equally near."""
    before, after = position - (cell - 0.5), (cell + 1.5) - position
    nearest = [] if before == after else [cell - 1 if before < after else cell + 1]
    return [index for index in nearest if 0 <= index < count]


# --------------------------------------------------------------------------------------------------- hand-worked


@pytest.mark.parametrize(
    ("centre", "cells"),
    [
        ((17, 9), [(1, 1), (2, 0), (2, 1)]),  # the upper left quadrant of cell (2, 1): left and upper neighbour
        ((23, 9), [(2, 0), (2, 1), (3, 1)]),
        ((17, 15), [(1, 1), (2, 1), (2, 2)]),
        ((23, 15), [(2, 1), (2, 2), (3, 1)]),
        ((20, 12), [(2, 1)]),  # exactly in the middle: no nearest neighbour
        ((20, 9), [(2, 0), (2, 1)]),
        ((17, 12), [(1, 1), (2, 1)]),
        ((16, 9), [(1, 1), (2, 0), (2, 1)]),  # on a grid line: the cell to the right of it, its neighbour to the left
        ((16, 8), [(1, 1), (2, 0), (2, 1)]),
        ((0, 0), [(0, 0)]),
        ((48, 32), [(5, 3)]),  # the far corner belongs to the last cell
        ((48, 0), [(5, 0)]),
        ((0, 32), [(0, 3)]),
        ((-1, -9), [(0, 0)]),  # beyond the edges: the nearest cell
        ((49, 41), [(5, 3)]),
        ((1, 12), [(0, 1)]),  # the nearest neighbour in x lies outside
        ((7, 9), [(0, 0), (0, 1), (1, 1)]),
        ((47, 31), [(5, 3)]),
        ((41, 25), [(4, 3), (5, 2), (5, 3)]),
    ],
)
def test_cells_hand_worked(centre, cells):
    assert cells_of(centre) == cells


@pytest.mark.parametrize("stride", STRIDES)
def test_a_centre_on_a_grid_line_is_counted_once(stride):
    grid = make_grid(ANCHORS, STRIDES, 96, 160)
    for line in range(0, 97, stride):
        matches = build_targets(as_targets([line, line, 40, 50], [line, 33, 20, 25]), grid, 4.0)
        assert len(as_dict(matches)) == len(matches.slot) > 0


@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [
        (16, 16, True),
        (64, 16, False),  # exactly 4 times the anchor
        (63.99, 16, True),
        (4, 16, False),  # exactly a quarter
        (4.01, 16, True),
        (16, 64, False),
        (16, 4, False),
        (63.99, 4.01, True),  # both sides may be far off
        (0, 16, False),
        (16, 0, False),
        (0, 0, False),
        (1e6, 1e6, False),
    ],
)
def test_a_ratio_of_anchor_t_or_more_is_not_matched(width, height, fits):
    matches = build_targets(as_targets([20, 12, width, height]), one_level(), 4.0)
    assert matches.slot.tolist() == ([8] if fits else [])


def test_a_target_without_an_anchor_leaves_the_others_alone():
    grid = make_grid(ANCHORS, STRIDES, 96, 160)
    alone = build_targets(as_targets([50, 40, 30, 30]), grid, 4.0)
    among = build_targets(as_targets([51, 41, 0, 30], [50, 40, 30, 30], [52, 42, 5000, 1]), grid, 4.0)
    assert alone.slot.numel() > 0 and torch.equal(alone.slot, among.slot)
    assert among.target.unique().tolist() == [1]


def test_the_better_fit_with_the_anchor_gets_the_slot():
    exact, larger = [20, 12, 16, 16], [20, 12, 20, 20]  # both in the middle of cell 8; the anchor is 16 x 16
    assert as_dict(build_targets(as_targets(larger, exact), one_level(), 4.0)) == {(0, 8): 1}
    assert as_dict(build_targets(as_targets(exact, larger), one_level(), 4.0)) == {(0, 8): 0}
    # the box of the anchor size loses where it lies further away: IoU (16-3)/(16+3) against 256/324
    moved = [17, 12, 16, 16]
    assert as_dict(build_targets(as_targets(moved, [20, 12, 18, 18]), one_level(), 4.0)) == {(0, 8): 1, (0, 7): 0}
    # and in another image there is nothing to fight for
    apart = build_targets(as_targets(larger, exact, image=[1, 0]), one_level(), 4.0)
    assert as_dict(apart) == {(0, 8): 1, (1, 8): 0}


def test_of_equal_fits_the_first_target_gets_the_slot():
    twins = as_targets([17, 9, 16, 16], [17, 9, 16, 16], [17, 9, 16, 16])
    assert as_dict(build_targets(twins, one_level(), 4.0)) == {(0, 8): 0, (0, 7): 0, (0, 2): 0}
    mirrored = as_targets([20, 12, 8, 16], [20, 12, 16, 8])  # both IoU 1/2
    assert as_dict(build_targets(mirrored, one_level(), 4.0)) == {(0, 8): 0}


@pytest.mark.parametrize("targets", [as_targets(), as_targets([20, 12, 1e4, 1])], ids=["no targets", "none fits"])
def test_no_matches(targets):
    matches = build_targets(targets, make_grid(ANCHORS, STRIDES, 64, 96), 4.0)
    assert [values.shape for values in matches] == [(0,)] * 4
    assert {values.dtype for values in matches[:3]} == {torch.int64} and matches.score.dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (64, 64), (32, 96)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("anchor_t", [4.0, 1.7])
def test_matches_equal_a_slow_loop(height, width, seed, anchor_t):
    targets = random_targets(150, 3, height, width, seed)
    found = as_dict(build_targets(targets, make_grid(ANCHORS, STRIDES, height, width), anchor_t))
    assert len(found) > 50
    assert found == slow_matches(targets, ANCHORS, STRIDES, height, width, anchor_t)


@pytest.mark.parametrize("anchors", [ANCHORS[:1], ANCHORS[:2, :1], ANCHORS[[0, 1, 2, 2]]], ids=["1", "2", "4 levels"])
def test_any_number_of_levels_and_anchors(anchors):
    strides = (8, 16, 32, 64)[: len(anchors)]
    targets = random_targets(60, 2, 64, 128, seed=7)
    found = as_dict(build_targets(targets, make_grid(anchors, strides, 64, 128), 4.0))
    assert found and found == slow_matches(targets, anchors, strides, 64, 128, 4.0)


def test_cells_are_those_of_yolov5_off_the_grid_lines():
    generator = torch.Generator().manual_seed(0)
    for x, y in (torch.rand(200, 2, generator=generator) * torch.tensor([48.0, 32])).tolist():
        u, v = x / 8, y / 8
        cells = {(int(u), int(v))}
        cells |= {(int(u) - 1, int(v))} if u % 1 < 0.5 and u > 1 else set()
        cells |= {(int(u), int(v) - 1)} if v % 1 < 0.5 and v > 1 else set()
        cells |= {(int(u) + 1, int(v))} if (6 - u) % 1 < 0.5 and 6 - u > 1 else set()
        cells |= {(int(u), int(v) + 1)} if (4 - v) % 1 < 0.5 and 4 - v > 1 else set()
        assert set(cells_of((x, y))) == cells


# ---------------------------------------------------------------------------------------------------------- laws


def test_order_of_targets_does_not_matter():
    targets = random_targets(150, 2, 96, 160, seed=1)
    grid = make_grid(ANCHORS, STRIDES, 96, 160)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(2))
    straight = as_dict(build_targets(targets, grid, 4.0))
    shuffled = as_dict(build_targets(targets.select(order), grid, 4.0))
    assert straight == {place: order[target].item() for place, target in shuffled.items()}


def test_images_do_not_know_each_other():
    targets = random_targets(150, 3, 96, 160, seed=3)
    grid = make_grid(ANCHORS, STRIDES, 96, 160)
    together = as_dict(build_targets(targets, grid, 4.0))
    for image in range(3):
        rows = (targets.image == image).nonzero().squeeze(1)
        alone = as_dict(build_targets(targets.select(rows), grid, 4.0))
        own = {place: target for place, target in together.items() if place[0] == image}
        assert own == {place: rows[target].item() for place, target in alone.items()}


# Whole pixels among the centres: grid lines, cell middles and the border come up.
centres = st.tuples(st.one_of(st.integers(0, 96), st.floats(0, 96)), st.one_of(st.integers(0, 64), st.floats(0, 64)))
sizes = st.tuples(st.floats(0, 500), st.floats(0, 500))


@given(st.lists(st.tuples(centres, sizes, st.integers(0, 1)), max_size=12))
@settings(max_examples=80, deadline=None)
def test_every_match_is_a_box_that_its_slot_can_decode_to_and_comes_once(rows):
    grid = make_grid(ANCHORS, STRIDES, 64, 96)
    targets = as_targets(*[[*centre, *size] for centre, size, _ in rows], image=[image for *_, image in rows])
    matches = build_targets(targets, grid, 4.0)
    as_dict(matches)  # no (image, slot) twice
    assert torch.equal(matches.image, targets.image[matches.target])
    box = targets.box[matches.target]
    offset = (box[:, :2] - grid.slots.corner[matches.slot]) / grid.slots.stride[matches.slot]
    ratio = box[:, 2:] / grid.slots.anchor[matches.slot]
    assert ((offset >= -0.5) & (offset <= 1.5)).all()
    assert ((ratio > 0.2499) & (ratio < 4.0001)).all()


@given(centres, st.floats(1, 400), st.floats(1, 400))
@settings(max_examples=80, deadline=None)
def test_one_target_takes_at_most_three_cells_of_a_shape(centre, width, height):
    grid = make_grid(ANCHORS, STRIDES, 64, 96)
    targets = as_targets([*centre, width, height])
    slots = build_targets(targets, grid, 4.0).slot
    shapes = grid.level[slots] * 3 + slots % 3  # every level begins at a multiple of its 3 anchors
    counts = torch.bincount(shapes, minlength=9)
    assert (counts <= 3).all()
    ratio = targets.box[:, 2:].double() / ANCHORS.reshape(9, 2)
    fits = (ratio.maximum(1 / ratio) < 4).all(dim=1)
    assert torch.equal(counts > 0, fits)


def test_targets_and_grid_are_left_as_they_were():
    targets, grid = random_targets(40, 2, 64, 96, seed=4), make_grid(ANCHORS, STRIDES, 64, 96)
    before = [values.clone() for values in (*targets[:3], *grid[1:-1], *grid.slots)]
    build_targets(targets, grid, 4.0)
    assert all(
        torch.equal(one, other) for one, other in zip(before, (*targets[:3], *grid[1:-1], *grid.slots), strict=True)
    )
