"""The slots and the decode: their order, counted by hand, and boxes worked out by hand."""

import math

import pytest
import torch

from yolo_lite.ops.grid import Grid, Level, Slots, decode_anchors, make_grid

ANCHORS = torch.tensor(
    [
        [[10.0, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
)
STRIDES = (8, 16, 32)


def decode_rows(raw: torch.Tensor, grid: Grid, rows: slice | torch.Tensor) -> torch.Tensor:
    return decode_anchors(raw, grid.slots.select(rows))


def test_slots_come_by_level_then_cell_row_by_row_then_anchor():
    anchors = torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]])
    grid = make_grid(anchors, (8, 16), height=16, width=32)  # 2 x 4 and 1 x 2 cells: not square
    assert grid.levels == (Level(8, 2, 4, 0), Level(16, 1, 2, 16))
    assert grid.num_slots == 20
    # cells:          first row                second row               the coarse level
    left_of_cells = [0, 8, 16, 24, 0, 8, 16, 24, 0, 16]
    top_of_cells = [0, 0, 0, 0, 8, 8, 8, 8, 0, 0]
    corners = [[x, y] for x, y in zip(left_of_cells, top_of_cells, strict=True) for _ in range(2)]
    assert grid.slots.corner.tolist() == corners
    assert grid.slots.anchor.tolist() == [[1, 2], [3, 4]] * 8 + [[5, 6], [7, 8]] * 2
    assert grid.slots.stride.tolist() == [[8]] * 16 + [[16]] * 4
    assert grid.level.tolist() == [0] * 16 + [1] * 4


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (32, 32), (160, 320)])
def test_grid_equals_a_slow_loop(height, width):
    rows = [
        (level, x * stride, y * stride, stride, *anchor)
        for level, stride in enumerate(STRIDES)
        for y in range(height // stride)
        for x in range(width // stride)
        for anchor in ANCHORS[level].tolist()
    ]
    grid = make_grid(ANCHORS, STRIDES, height, width)
    columns = torch.cat((grid.level[:, None], *grid.slots), dim=1)
    assert torch.equal(columns, torch.tensor(rows))
    firsts = [level.first_slot for level in grid.levels]
    assert firsts == [[row[0] for row in rows].index(level) for level in range(3)]


def test_640_pixels_have_25200_slots():
    assert make_grid(ANCHORS, STRIDES, 640, 640).num_slots == 25200


def test_grid_is_float32_and_int64_whatever_the_anchors_are():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        grid = make_grid(ANCHORS.to(dtype), STRIDES, 64, 64)
        floats = (grid.anchors, *grid.slots)
        assert {values.dtype for values in floats} == {torch.float32} and grid.level.dtype == torch.int64


def test_decode_hand_worked():
    corner, stride, anchor = torch.tensor([[16.0, 24]]), torch.tensor([[8.0]]), torch.tensor([[10.0, 13]])
    zero = decode_anchors(torch.zeros(1, 4), Slots(corner, stride, anchor))
    assert zero.tolist() == [[20, 28, 10, 13]]  # the middle of the cell, the anchor's size
    # sigmoid(ln 3) = 3/4: the centre lies 2 * 3/4 - 1/2 = 1 cell further, the size is (3/2)^2 = 9/4 anchors;
    # sigmoid(-ln 3) = 1/4: the centre lies on the corner, the size is 1/4 anchor
    raw = torch.tensor([[math.log(3), -math.log(3), math.log(3), -math.log(3)]])
    torch.testing.assert_close(
        decode_anchors(raw, Slots(corner, stride, anchor)), torch.tensor([[24.0, 24, 22.5, 3.25]])
    )


def test_decode_equals_a_slow_loop():
    grid = make_grid(ANCHORS, STRIDES, 64, 96)
    raw = torch.randn(grid.num_slots, 4, generator=torch.Generator().manual_seed(0)) * 3
    expected = []
    for slot, logits in enumerate(raw.tolist()):
        x, y, w, h = (2 / (1 + math.exp(-t)) for t in logits)
        (left, top), (stride,), anchor = (column[slot].tolist() for column in grid.slots)
        expected.append([left + (x - 0.5) * stride, top + (y - 0.5) * stride, w * w * anchor[0], h * h * anchor[1]])
    torch.testing.assert_close(decode_rows(raw, grid, slice(None)), torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_decode_of_rows_is_rows_of_decode():
    grid = make_grid(ANCHORS, STRIDES, 64, 96)
    raw = torch.randn(2, grid.num_slots, 4, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([0, 5, 5, grid.num_slots - 1])
    everything = decode_rows(raw, grid, slice(None))
    torch.testing.assert_close(decode_rows(raw[:, rows], grid, rows), everything[:, rows])
    assert decode_rows(raw[:, :0], grid, slice(0)).shape == (2, 0, 4)


def test_decode_stays_within_half_a_cell_and_four_anchors():
    grid = make_grid(ANCHORS, STRIDES, 64, 96)
    for logit in (-1e4, -20.0, 20.0, 1e4):
        raw = torch.full((grid.num_slots, 4), logit, requires_grad=True)
        box = decode_rows(raw, grid, slice(None))
        offset, scale = (box[:, :2] - grid.slots.corner) / grid.slots.stride, box[:, 2:] / grid.slots.anchor
        torch.testing.assert_close(offset, torch.full_like(offset, -0.5 if logit < 0 else 1.5), rtol=0, atol=1e-5)
        torch.testing.assert_close(scale, torch.full_like(scale, 0 if logit < 0 else 4), rtol=0, atol=1e-5)
        (gradient,) = torch.autograd.grad(box.sum(), raw)
        assert gradient.isfinite().all()


def test_decode_of_bfloat16_is_float32_work_on_its_values_once_upcast():
    grid = make_grid(ANCHORS, STRIDES, 64, 64)
    raw = torch.randn(grid.num_slots, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
    box = decode_rows(raw.float(), grid, slice(None))
    assert box.dtype == torch.float32
    assert (box - decode_rows(raw, grid, slice(None))).abs().max() > 0.1  # without the cast a box is off by tenths
