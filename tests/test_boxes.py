"""Box formats and the IoU: hand-worked values, torchvision, and the corners of the float range."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from yolo_lite.ops.boxes import aligned_iou, aligned_overlap, cxcywh_to_xyxy, xyxy_to_cxcywh
from yolo_lite.ops.safe import safe_ratio

# Pairs A, B (disjoint) and C (contained), xyxy, and their IoU.
GOLDEN = [
    ((0, 0, 4, 4), (1, 1, 5, 6), 1 / 3),
    ((0, 0, 2, 3), (5, 4, 9, 6), 0.0),
    ((2, 2, 5, 4), (0, 0, 8, 10), 0.075),
]
SIZES = (0.0, 1e-30, 1e-4, 1.0, 37.0, 1e4, 1e6)


def random_boxes(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """cxcywh ``[count, 4]``, of which many pairs overlap."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([20.0, 20, 30, 30], dtype=dtype)
    return torch.rand(count, 4, generator=generator, dtype=dtype) * sides + torch.tensor([0, 0, 0.1, 0.1], dtype=dtype)


# ------------------------------------------------------------------------------------------------------ formats


def test_conversions_hand_worked():
    assert cxcywh_to_xyxy(torch.tensor([[10.0, 20, 4, 6]])).tolist() == [[8, 17, 12, 23]]
    assert xyxy_to_cxcywh(torch.tensor([8.0, 17, 12, 23])).tolist() == [10, 20, 4, 6]


@pytest.mark.parametrize("shape", [(0, 4), (4,), (7, 4), (2, 3, 4)])
def test_conversions_invert_each_other(shape):
    box = random_boxes(math.prod(shape[:-1])).reshape(shape)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(box)), box)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(box)), box)


# ---------------------------------------------------------------------------------------------------------- IoU


def iou_and_gradient(predicted: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    predicted = predicted.clone().requires_grad_()
    iou = aligned_iou(predicted, target)
    return iou.detach(), torch.autograd.grad(iou.sum(), predicted)[0]


@pytest.mark.parametrize(("a", "b", "iou"), GOLDEN)
def test_golden_pairs(a, b, iou):
    one, other = (xyxy_to_cxcywh(torch.tensor([box], dtype=torch.float64)) for box in (a, b))
    assert aligned_iou(one, other).item() == pytest.approx(iou, abs=1e-12)


def test_iou_equals_torchvision():
    a, b = random_boxes(500, seed=1), random_boxes(500, seed=2)
    iou = aligned_iou(a, b)
    assert (iou == 0).any() and (iou > 0.5).any()  # the pairs show both ends
    torch.testing.assert_close(iou, box_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)).diagonal(), rtol=0, atol=1e-12)


@given(st.tuples(*[st.floats(1e-4, 1e4)] * 2), st.tuples(*[st.floats(-1e4, 1e4)] * 2))
@settings(max_examples=60, deadline=None)
def test_equal_boxes_of_any_size_give_exactly_one(size, centre):
    box = torch.tensor([[*centre, *size]])
    assert aligned_iou(box, box).item() == 1


def test_boxes_that_differ_by_a_few_bits_give_no_iou_above_one():
    """CIoU divides by 1 - IoU + v: below 0 it would explode."""
    generator = torch.Generator().manual_seed(0)
    for bits in (1, 2, 4, 16):
        base = torch.exp2(torch.randint(-3, 8, (20000, 2), generator=generator).float())  # where the spacing changes
        steps = torch.randint(-bits, bits + 1, (2, 20000, 2), generator=generator, dtype=torch.int32)
        sizes = (base.view(torch.int32) + steps).view(torch.float32)
        offset = (torch.rand(20000, 2, generator=generator) - 0.5) * base * bits * 2**-22
        a, b = torch.cat((offset, sizes[0]), dim=1), torch.cat((offset * 0, sizes[1]), dim=1)
        assert (aligned_iou(a, b) <= 1).all()


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2, *[st.floats(0, 1e3)] * 2), min_size=2))
@settings(max_examples=60, deadline=None)
def test_iou_is_symmetric_and_within_its_range(boxes):
    a, b = torch.tensor(boxes), torch.tensor(boxes[::-1])
    iou = aligned_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert torch.equal(iou, aligned_iou(b, a))


def test_no_pairs():
    iou, gradient = iou_and_gradient(torch.zeros(0, 4), torch.zeros(0, 4))
    assert iou.shape == (0,) and gradient.shape == (0, 4)


def test_empty_union_is_zero():
    points = torch.tensor([[3.0, 4, 0, 0], [3, 4, 0, 5], [3, 4, 5, 0]])
    assert aligned_iou(points, points).tolist() == [0, 0, 0]


@pytest.mark.parametrize("offset", [(0.0, 0.0), (3.0, 0.0), (-1e5, 1e5)], ids=["same centre", "near", "far"])
def test_every_size_gives_finite_values_and_gradients(offset):
    sizes = list(itertools.product(SIZES, SIZES))
    pairs = list(itertools.product(sizes, sizes))
    predicted = torch.tensor([[*offset, *p] for p, _ in pairs])
    target = torch.tensor([[0.0, 0.0, *t] for _, t in pairs])
    iou, gradient = iou_and_gradient(predicted, target)
    assert gradient.isfinite().all() and ((iou >= 0) & (iou <= 1)).all()


def test_overlap_and_enclosing_box_hand_worked():
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 2, 10]])
    b = torch.tensor([[3.0, 1, 4, 4], [9, 0, 4, 4], [0, 0, 10, 2]])
    overlap, enclosing = aligned_overlap(a, b)
    assert overlap.tolist() == [[1, 3], [0, 4], [2, 2]]
    assert enclosing.tolist() == [[7, 5], [13, 4], [10, 10]]


def test_ratio_of_nothing_is_zero_without_a_gradient():
    above, below = torch.tensor([0.0, 3.0, 0.0, 6.0], requires_grad=True), torch.tensor([0.0, 0.0, 3.0, 3.0])
    ratio = safe_ratio(above, below)
    assert ratio.tolist() == [0, 0, 0, 2]
    assert torch.autograd.grad(ratio.sum(), above)[0].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3])
