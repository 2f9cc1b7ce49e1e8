"""Box formats and the IoU family: hand-worked values, torchvision, and the corners of the float range."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, complete_box_iou_loss

from yolo_lite.loss.box import ciou
from yolo_lite.ops.boxes import aligned_iou, cxcywh_to_xyxy, xyxy_to_cxcywh

# Pairs A, B (disjoint) and C (contained), xyxy, and their IoU and 1 - CIoU by independent formulas in float64.
GOLDEN = [
    ((0, 0, 4, 4), (1, 1, 5, 6), 1 / 3, 0.719982),
    ((0, 0, 2, 3), (5, 4, 9, 6), 0.0, 1.423149),
    ((2, 2, 5, 4), (0, 0, 8, 10), 0.075, 0.952450),
]
SIZES = (0.0, 1e-30, 1e-4, 1.0, 37.0, 1e4, 1e6)


def aligned_ciou(predicted: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 1 - ciou(predicted, target), aligned_iou(predicted, target)


def random_boxes(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """cxcywh ``[count, 4]``, of which many pairs overlap."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([20.0, 20, 30, 30], dtype=dtype)
    return torch.rand(count, 4, generator=generator, dtype=dtype) * sides + torch.tensor([0, 0, 0.1, 0.1], dtype=dtype)


def slow_ciou(a: list[float], b: list[float]) -> float:
    """Zheng et al., eq. 10, from corners, one pair at a time."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    left, right = max(ax - aw / 2, bx - bw / 2), min(ax + aw / 2, bx + bw / 2)
    top, bottom = max(ay - ah / 2, by - bh / 2), min(ay + ah / 2, by + bh / 2)
    intersection = max(right - left, 0) * max(bottom - top, 0)
    iou = intersection / (aw * ah + bw * bh - intersection)
    enclosing_width = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    enclosing_height = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    alpha = v / (1 - iou + v) if v else 0
    return iou - ((ax - bx) ** 2 + (ay - by) ** 2) / (enclosing_width**2 + enclosing_height**2) - alpha * v


def ciou_and_gradient(predicted: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    predicted = predicted.clone().requires_grad_()
    ciou, iou = aligned_ciou(predicted, target)
    (gradient,) = torch.autograd.grad(ciou.sum(), predicted)
    return ciou.detach(), iou.detach(), gradient


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


@pytest.mark.parametrize(("a", "b", "iou", "ciou_loss"), GOLDEN)
def test_golden_pairs(a, b, iou, ciou_loss):
    one, other = (xyxy_to_cxcywh(torch.tensor([box], dtype=torch.float64)) for box in (a, b))
    assert aligned_iou(one, other).item() == pytest.approx(iou, abs=1e-12)
    ciou, same_iou = aligned_ciou(one, other)
    assert same_iou.item() == pytest.approx(iou, abs=1e-12)
    assert 1 - ciou.item() == pytest.approx(ciou_loss, abs=6e-7)


def test_iou_and_ciou_equal_torchvision():
    a, b = random_boxes(500, seed=1), random_boxes(500, seed=2)
    corners = cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)
    ciou, iou = aligned_ciou(a, b)
    assert (iou == 0).any() and (iou > 0.5).any()  # the pairs show both ends
    torch.testing.assert_close(iou, aligned_iou(a, b), rtol=0, atol=0)
    torch.testing.assert_close(iou, box_iou(*corners).diagonal(), rtol=0, atol=1e-12)
    theirs = complete_box_iou_loss(*corners)  # with an eps of 1e-7 in its denominators
    torch.testing.assert_close(1 - ciou, theirs, rtol=0, atol=1e-7)


def test_ciou_equals_a_slow_loop():
    a, b = random_boxes(200, seed=3), random_boxes(200, seed=4)
    expected = [slow_ciou(one, other) for one, other in zip(a.tolist(), b.tolist(), strict=True)]
    torch.testing.assert_close(aligned_ciou(a, b)[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_float32_is_near_float64():
    a, b = random_boxes(500, seed=5), random_boxes(500, seed=6)
    exact, rounded = aligned_ciou(a, b)[0], aligned_ciou(a.float(), b.float())[0]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=5e-6)


@given(
    st.tuples(*[st.floats(1e-4, 1e4)] * 2),
    st.tuples(*[st.floats(-1e4, 1e4)] * 2),
)
@settings(max_examples=60, deadline=None)
def test_equal_boxes_of_any_size_give_exactly_one(size, centre):
    box = torch.tensor([[*centre, *size]])
    ciou, iou, gradient = ciou_and_gradient(box, box)
    assert iou.item() == 1 and ciou.item() == 1
    assert gradient.isfinite().all()


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2, *[st.floats(0, 1e3)] * 2), min_size=2))
@settings(max_examples=60, deadline=None)
def test_iou_is_symmetric_and_within_its_range(boxes):
    a, b = torch.tensor(boxes), torch.tensor(boxes[::-1])
    iou = aligned_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert torch.equal(iou, aligned_iou(b, a))
    ciou = aligned_ciou(a, b)[0]
    assert ((ciou >= -1.5 - 1e-6) & (ciou <= iou)).all()


def test_shift_and_scale_change_nothing():
    a, b = random_boxes(100, seed=7), random_boxes(100, seed=8)
    expected = aligned_ciou(a, b)[0]
    shift = torch.tensor([-50.0, 70, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(aligned_ciou(a + shift, b + shift)[0], expected)
    torch.testing.assert_close(aligned_ciou(a * 1e-3, b * 1e-3)[0], expected)


def test_no_pairs():
    nothing = torch.zeros(0, 4, requires_grad=True)
    ciou, iou = aligned_ciou(nothing, torch.zeros(0, 4))
    assert ciou.shape == iou.shape == aligned_iou(nothing, nothing).shape == (0,)
    (gradient,) = torch.autograd.grad(ciou.sum(), nothing)
    assert gradient.shape == (0, 4)


def test_empty_union_is_zero():
    points = torch.tensor([[3.0, 4, 0, 0], [3, 4, 0, 5], [3, 4, 5, 0]])
    assert aligned_iou(points, points).tolist() == [0, 0, 0]


# ---------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("offset", [(0.0, 0.0), (3.0, 0.0), (-1e5, 1e5)], ids=["same centre", "near", "far"])
def test_every_predicted_size_gives_finite_values_and_gradients(offset):
    sizes = list(itertools.product(SIZES, SIZES))
    pairs = [(p, t) for p in sizes for t in sizes if min(t) > 0]  # nothing learns a target without area
    predicted = torch.tensor([[*offset, *p] for p, _ in pairs])
    target = torch.tensor([[0.0, 0.0, *t] for _, t in pairs])
    ciou, iou, gradient = ciou_and_gradient(predicted, target)
    assert ciou.isfinite().all() and iou.isfinite().all() and gradient.isfinite().all()
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((ciou >= -1.5 - 1e-6) & (ciou <= 1)).all()


def test_targets_without_area_give_finite_values():
    sizes = list(itertools.product(SIZES, SIZES))
    flat = [size for size in sizes if min(size) == 0]
    pairs = list(itertools.product(sizes, flat))
    predicted = torch.tensor([[1.0, 2.0, *p] for p, _ in pairs])
    target = torch.tensor([[1.0, 2.5, *t] for _, t in pairs])
    ciou, iou = aligned_ciou(predicted, target)
    assert ciou.isfinite().all() and (iou == 0).all()


def test_disjoint_boxes_are_drawn_together():
    predicted, target = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[50.0, 30, 4, 4]])
    _, iou, gradient = ciou_and_gradient(predicted, target)
    assert iou.item() == 0
    assert gradient[0, 0] > 0 and gradient[0, 1] > 0  # CIoU grows towards the target


def test_alpha_is_constant_in_backward():
    a, b = random_boxes(200, seed=9), random_boxes(200, seed=10)
    gradient = ciou_and_gradient(a, b)[2]

    def by_formula(alpha_is_constant: bool) -> torch.Tensor:
        box = a.clone().requires_grad_()
        corners, other = cxcywh_to_xyxy(box), cxcywh_to_xyxy(b)
        top_left, bottom_right = corners[:, :2].maximum(other[:, :2]), corners[:, 2:].minimum(other[:, 2:])
        intersection = (bottom_right - top_left).clamp(min=0).prod(dim=1)
        iou = intersection / (box[:, 2:].prod(dim=1) + b[:, 2:].prod(dim=1) - intersection)
        enclosing = corners[:, 2:].maximum(other[:, 2:]) - corners[:, :2].minimum(other[:, :2])
        distance = (box[:, :2] - b[:, :2]).square().sum(dim=1) / enclosing.square().sum(dim=1)
        v = 4 / math.pi**2 * ((b[:, 2] / b[:, 3]).atan() - (box[:, 2] / box[:, 3]).atan()).square()
        alpha = v / (1 - iou + v)
        alpha = alpha.detach() if alpha_is_constant else alpha
        return torch.autograd.grad((iou - distance - alpha * v).sum(), box)[0]

    torch.testing.assert_close(gradient, by_formula(alpha_is_constant=True), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(gradient, by_formula(alpha_is_constant=False), rtol=1e-3)


def test_gradient_equals_finite_differences_with_alpha_frozen():
    a, b = random_boxes(40, seed=11), random_boxes(40, seed=12)
    gradient = ciou_and_gradient(a, b)[2]
    step = 1e-6
    for row in range(len(a)):
        box, target = a[row].tolist(), b[row].tolist()
        alpha = frozen_alpha(box, target)
        for side in range(4):
            above, below = list(box), list(box)
            above[side] += step
            below[side] -= step
            slope = (with_alpha(above, target, alpha) - with_alpha(below, target, alpha)) / (2 * step)
            assert gradient[row, side].item() == pytest.approx(slope, abs=1e-6)


def shape_term(a: list[float], b: list[float]) -> float:
    return 4 / math.pi**2 * (math.atan(b[2] / b[3]) - math.atan(a[2] / a[3])) ** 2


def frozen_alpha(a: list[float], b: list[float]) -> float:
    iou = aligned_iou(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)).item()
    return shape_term(a, b) / (1 - iou + shape_term(a, b))


def with_alpha(a: list[float], b: list[float], alpha: float) -> float:
    """CIoU with a given alpha."""
    return slow_ciou(a, b) + (frozen_alpha(a, b) - alpha) * shape_term(a, b)


def test_ciou_has_a_finite_gradient_where_a_predicted_box_has_all_but_vanished():
    for side in (0.0, 1e-45, 1e-30, 1e-20, 1e-10):
        predicted = torch.tensor([[5.0, 5.0, side, side], [5.0, 5.0, side, 3.0]], requires_grad=True)
        ciou, _ = aligned_ciou(predicted, torch.tensor([[6.0, 5.0, 4.0, 2.0]]).expand(2, 4))
        (1 - ciou).sum().backward()
        assert torch.isfinite(ciou).all() and torch.isfinite(predicted.grad).all()
