"""Laws of every box loss at once: a table of cases, and a slow loop that reads like the papers."""

import itertools
import math
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from yolo_lite.config.seams import read_argument
from yolo_lite.engine.seams import SEAMS
from yolo_lite.loss.box import BOX_LOSSES, BoxLoss, Form
from yolo_lite.ops.boxes import aligned_iou, cxcywh_to_xyxy, xyxy_to_cxcywh

# Pairs A, B (disjoint) and C (contained), xyxy: predicted and target.
GOLDEN_PAIRS = ([[0, 0, 4, 4], [0, 0, 2, 3], [2, 2, 5, 4]], [[1, 1, 5, 6], [5, 4, 9, 6], [0, 0, 8, 10]])
INFINITE = math.inf


class Case(NamedTuple):
    """A loss with parameters, and what it promises."""

    name: str
    parameters: dict[str, Any]
    golden: tuple[float, float, float]  # of the pairs A, B, C: independent formulas in float64, to 6 digits
    most: float  # upper bound for boxes of any size and place
    draws: bool = True  # disjoint boxes are drawn together

    @property
    def loss(self) -> Any:
        return partial(BOX_LOSSES[self.name], **self.parameters)

    @property
    def has_constants(self) -> bool:
        """Whether a factor of the loss is constant in backward."""
        form = self.parameters.get("form", "ciou" if self.name in ("alpha_iou", "inner_iou") else self.name)
        return form in ("ciou", "focal_eiou", "wiou")


# The floor of focal_eiou's weight, 0.01^0.5, replaces the 0 of the formula in B, that of iou_log its infinity.
CASES = {
    "l1": Case("l1", {}, (5, 19, 13), INFINITE),
    "l2": Case("l2", {}, (7, 99, 53), INFINITE),
    "smooth_l1": Case("smooth_l1", {}, (3, 17, 11), INFINITE),
    "smooth_l1 1/9": Case("smooth_l1", {"beta": 1 / 9}, (4.777778, 18.777778, 12.777778), INFINITE),
    "iou": Case("iou", {}, (0.666667, 1, 0.925), 1, draws=False),
    "iou_log": Case("iou_log", {}, (1.098612, 6.907755, 2.590267), math.log(1000), draws=False),
    "giou": Case("giou", {}, (0.766667, 1.740741, 0.925), 2),
    "diou": Case("diou", {}, (0.719945, 1.412393, 0.950915), 2),
    "ciou": Case("ciou", {}, (0.719982, 1.423149, 0.952450), 2.5),
    "eiou": Case("eiou", {}, (0.747723, 1.489554, 1.981540), 4),
    "focal_eiou": Case("focal_eiou", {}, (0.431698, 0.1489554, 0.542667), 4),
    "siou": Case("siou", {}, (0.720834, 1.372113, 1.026951), 3),
    "alpha_iou iou": Case("alpha_iou", {"form": "iou"}, (0.962963, 1, 0.999578), 1, draws=False),
    "alpha_iou giou": Case("alpha_iou", {"form": "giou"}, (0.963963, 1.406442, 0.999578), 2),
    "alpha_iou diou": Case("alpha_iou", {"form": "diou"}, (0.963114, 1.070135, 0.999596), 2),
    "alpha_iou ciou": Case("alpha_iou", {}, (0.963114, 1.070136, 0.999596), 2.125),
    "wiou 1": Case("wiou", {"version": 1}, (0.703149, 1.510428, 0.949284), math.e),
    "wiou 3": Case("wiou", {"mean": torch.tensor(0.5)}, (0.910865, 1.913209, 1.224654), 1.32 * math.e),
    "mpdiou": Case("mpdiou", {}, (0.666675, 1.000121, 0.925065), INFINITE),
    "inner_iou iou 0.7": Case("inner_iou", {"form": "iou"}, (0.797546, 1, 0.925), 1, draws=False),
    "inner_iou ciou 0.7": Case("inner_iou", {}, (0.850861, 1.423149, 0.952450), 2.5),
    "inner_iou iou 1.3": Case("inner_iou", {"ratio": 1.3, "form": "iou"}, (0.570825, 1, 0.925), 1, draws=False),
    "inner_iou ciou 1.3": Case("inner_iou", {"ratio": 1.3}, (0.624140, 1.423149, 0.952450), 2.5),
    "shape_iou": Case("shape_iou", {}, (0.720485, 1.427606, 1.020216), 4),
    "shape_iou 1": Case("shape_iou", {"scale": 1.0}, (0.718020, 1.356246, 1.013322), 4),
    "nwd": Case("nwd", {}, (0.135979, 0.422853, 0.331135), 1),
}
# Losses in pixels, and what makes them free of scale: their own measure, k times as long.
IN_PIXELS = {
    **dict.fromkeys(("l1", "l2", "smooth_l1"), lambda k: {"unit": k}),
    "mpdiou": lambda k: {"image_size": (640 * k, 640 * k)},
    "nwd": lambda k: {"constant": 12.8 * k},
}
ASYMMETRIC = ("shape_iou 1",)  # weighs by the shape of the target
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def random_pairs(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Predicted and target cxcywh ``[count, 4]``, sides of 2..200 px in any ratio; half of the pairs overlap."""
    generator = torch.Generator().manual_seed(seed)
    size, target_size = torch.exp(math.log(2) + math.log(100) * torch.rand(2, count, 2, generator=generator)).to(dtype)
    target = torch.rand(count, 2, generator=generator).to(dtype) * 640
    centre = target + (torch.rand(count, 2, generator=generator).to(dtype) * 2 - 1) * (size + target_size) * 0.7
    return torch.cat((centre, size), dim=1), torch.cat((target, target_size), dim=1)


def loss_and_gradient(case: Case, predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    predicted = predicted.clone().requires_grad_()
    loss = case.loss(predicted, target)
    return loss.detach(), torch.autograd.grad(loss.sum(), predicted)[0]


# ---------------------------------------------------------------------------------------- the formulas, one by one


def facts(predicted: list[float], target: list[float], mean: float = 0.5) -> SimpleNamespace:
    """What the formulas name, from corners."""
    (x, y, w, h), (xg, yg, wg, hg) = predicted, target
    corners = [(cx - a / 2, cy - b / 2, cx + a / 2, cy + b / 2) for cx, cy, a, b in (predicted, target)]
    (left, top, right, bottom), (left_g, top_g, right_g, bottom_g) = corners

    def scaled_iou(ratio: float) -> float:
        inner_width = min(x + w * ratio / 2, xg + wg * ratio / 2) - max(x - w * ratio / 2, xg - wg * ratio / 2)
        inner_height = min(y + h * ratio / 2, yg + hg * ratio / 2) - max(y - h * ratio / 2, yg - hg * ratio / 2)
        both = max(inner_width, 0) * max(inner_height, 0)
        return both / ((w * h + wg * hg) * ratio**2 - both)

    iou = scaled_iou(1)
    cw, ch = max(right, right_g) - min(left, left_g), max(bottom, bottom_g) - min(top, top_g)
    union = (w * h + wg * hg) / (1 + iou)  # as I = IoU U and I + U = both areas
    v = 4 / math.pi**2 * (math.atan(wg / hg) - math.atan(w / h)) ** 2
    beta = (1 - iou) / mean
    return SimpleNamespace(
        corners=[a - b for a, b in zip(*corners, strict=True)],
        **{"iou": iou, "scaled_iou": scaled_iou, "w": w, "h": h, "wg": wg, "hg": hg, "dx": x - xg, "dy": y - yg},
        **{"cw": cw, "ch": ch, "c2": cw**2 + ch**2, "rho2": (x - xg) ** 2 + (y - yg) ** 2},
        **{"empty": (cw * ch - union) / (cw * ch), "v": v, "alpha": v / (1 - iou + v) if v else 0.0},
        rarity=beta / (3 * 1.9 ** (beta - 3)),
    )


def slow_terms(now: SimpleNamespace, held: SimpleNamespace, form: str) -> list[float]:
    distance, aspect = now.rho2 / now.c2, held.alpha * now.v
    return {"iou": [], "giou": [now.empty], "diou": [distance], "ciou": [distance, aspect]}[form]


def slow_eiou(now: SimpleNamespace) -> float:
    sides = ((now.w - now.wg) / now.cw) ** 2 + ((now.h - now.hg) / now.ch) ** 2
    return 1 - now.iou + now.rho2 / now.c2 + sides


def slow_siou(now: SimpleNamespace, theta: float = 4) -> float:
    angle = math.sin(2 * math.asin(min(abs(now.dx), abs(now.dy)) / math.sqrt(now.rho2)))
    distance = sum(1 - math.exp(-(2 - angle) * (d / c) ** 2) for d, c in ((now.dx, now.cw), (now.dy, now.ch)))
    sides = ((now.w, now.wg), (now.h, now.hg))
    shape = sum((1 - math.exp(-abs(a - b) / max(a, b))) ** theta for a, b in sides)
    return 1 - now.iou + (distance + shape) / 2


def slow_shape_iou(now: SimpleNamespace, scale: float = 0) -> float:
    ww = 2 * now.wg**scale / (now.wg**scale + now.hg**scale)
    hh = 2 * now.hg**scale / (now.wg**scale + now.hg**scale)
    distance = hh * now.dx**2 / now.c2 + ww * now.dy**2 / now.c2
    omega = hh * abs(now.w - now.wg) / max(now.w, now.wg), ww * abs(now.h - now.hg) / max(now.h, now.hg)
    return 1 - now.iou + distance + 0.5 * sum((1 - math.exp(-o)) ** 4 for o in omega)


def slow_mpdiou(now: SimpleNamespace, image_size: tuple[int, int] = (640, 640)) -> float:
    left, top, right, bottom = now.corners
    diagonal = image_size[0] ** 2 + image_size[1] ** 2
    return 1 - now.iou + (left**2 + top**2) / diagonal + (right**2 + bottom**2) / diagonal


def slow_nwd(now: SimpleNamespace, constant: float = 12.8) -> float:
    squared = now.rho2 + ((now.w - now.wg) ** 2 + (now.h - now.hg) ** 2) / 4
    return 1 - math.exp(-math.sqrt(squared) / constant)


def slow_smooth_l1(now: SimpleNamespace, beta: float = 1) -> float:
    return sum(d * d / (2 * beta) if abs(d) < beta else abs(d) - beta / 2 for d in now.corners)


# ``held`` are the facts where a gradient is taken: what is constant in backward comes from there.
SLOW = {
    "l1": lambda now, held: sum(map(abs, now.corners)),
    "l2": lambda now, held: sum(d * d for d in now.corners),
    "smooth_l1": lambda now, held, **p: slow_smooth_l1(now, **p),
    "iou": lambda now, held: 1 - now.iou,
    "iou_log": lambda now, held, floor=1e-3: -math.log(max(now.iou, floor)),
    "giou": lambda now, held: 1 - now.iou + now.empty,
    "diou": lambda now, held: 1 - now.iou + now.rho2 / now.c2,
    "ciou": lambda now, held: 1 - now.iou + now.rho2 / now.c2 + held.alpha * now.v,
    "eiou": lambda now, held: slow_eiou(now),
    "focal_eiou": lambda now, held, gamma=0.5: max(held.iou, 0.01) ** gamma * slow_eiou(now),
    "siou": lambda now, held, **p: slow_siou(now, **p),
    "alpha_iou": lambda now, held, alpha=3, form="ciou": (
        1 - now.iou**alpha + sum(term**alpha for term in slow_terms(now, held, form))
    ),
    "wiou": lambda now, held, version=3, mean=None: (
        math.exp(now.rho2 / held.c2) * (1 - now.iou) * (1 if version == 1 else held.rarity)
    ),
    "mpdiou": lambda now, held, **p: slow_mpdiou(now, **p),
    "inner_iou": lambda now, held, ratio=0.7, form="ciou": 1 - now.scaled_iou(ratio) + sum(slow_terms(now, held, form)),
    "shape_iou": lambda now, held, **p: slow_shape_iou(now, **p),
    "nwd": lambda now, held, **p: slow_nwd(now, **p),
}
FURTHER_PARAMETERS = {
    "iou_log floor": Case("iou_log", {"floor": 0.2}, (0, 0, 0), 2),
    "focal_eiou gamma": Case("focal_eiou", {"gamma": 2.0}, (0, 0, 0), 4),
    "siou theta": Case("siou", {"theta": 2.0}, (0, 0, 0), 3),
    "alpha_iou below 1": Case("alpha_iou", {"alpha": 0.5}, (0, 0, 0), 3),
    "mpdiou not square": Case("mpdiou", {"image_size": (96, 320)}, (0, 0, 0), INFINITE),
    "shape_iou 1.5": Case("shape_iou", {"scale": 1.5}, (0, 0, 0), 4),
    "nwd constant": Case("nwd", {"constant": 40.0}, (0, 0, 0), 1),
}
with_parameters = pytest.mark.parametrize(
    "case", [*CASES.values(), *FURTHER_PARAMETERS.values()], ids=[*CASES, *FURTHER_PARAMETERS]
)


@every_loss
def test_golden_values(case):
    predicted, target = (xyxy_to_cxcywh(torch.tensor(boxes, dtype=torch.float64)) for boxes in GOLDEN_PAIRS)
    assert case.loss(predicted, target).tolist() == pytest.approx(case.golden, abs=6e-7)


@with_parameters
def test_loss_equals_a_slow_loop(case):
    predicted, target = random_pairs(300)
    assert 100 < (aligned_iou(predicted, target) > 0).sum() < 200
    both = [facts(*pair) for pair in zip(predicted.tolist(), target.tolist(), strict=True)]
    expected = [SLOW[case.name](now, now, **case.parameters) for now in both]
    absolute = 2e-6 if case.parameters.get("alpha", 1) < 1 else 1e-12  # terms below 1e-12 have the root 0
    assert case.loss(predicted, target).tolist() == pytest.approx(expected, rel=1e-9, abs=absolute)


@with_parameters
def test_gradient_equals_finite_differences_with_constants_held(case):
    predicted, target = random_pairs(60, seed=1)
    gradient = loss_and_gradient(case, predicted, target)[1]
    slopes = []
    for box, other in zip(predicted.tolist(), target.tolist(), strict=True):
        held = facts(box, other)
        for side, step in itertools.product(range(4), (1e-5, -1e-5)):
            moved = facts([*box[:side], box[side] + step, *box[side + 1 :]], other)
            slopes.append(SLOW[case.name](moved, held, **case.parameters) / (2 * step))
    expected = torch.tensor(slopes, dtype=torch.float64).reshape(60, 4, 2).sum(dim=2)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


@with_parameters
def test_gradcheck(case):
    """PyTorch's own, which sees constants as the errors they would be if they were not meant."""
    predicted, target = random_pairs(12, seed=2)
    if case.has_constants:
        with pytest.raises(GradcheckError):
            torch.autograd.gradcheck(lambda box: case.loss(box, target), predicted.requires_grad_())
    else:
        assert torch.autograd.gradcheck(lambda box: case.loss(box, target), predicted.requires_grad_())


# ------------------------------------------------------------------------------------------------ trusted libraries


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("giou", generalized_box_iou_loss), ("diou", distance_box_iou_loss), ("ciou", complete_box_iou_loss)],
)
def test_iou_losses_equal_torchvision(name, theirs):
    predicted, target = random_pairs(500, seed=3)
    ratio = predicted[:, 2] / predicted[:, 3]
    assert ratio.max() > 30 and ratio.min() < 1 / 30  # elongated boxes are among them
    predicted.requires_grad_()
    ours, expected = BOX_LOSSES[name](predicted, target), theirs(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    gradients = [torch.autograd.grad(loss.sum(), predicted)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("l1", F.l1_loss),
        ("l2", F.mse_loss),
        ("smooth_l1", F.smooth_l1_loss),
        ("smooth_l1 1/9", partial(F.smooth_l1_loss, beta=1 / 9)),
    ],
)
def test_coordinate_losses_equal_torch(name, theirs):
    predicted, target = random_pairs(200, seed=4)
    predicted = target + (predicted - target) * 0.02  # on both sides of beta
    expected = theirs(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target), reduction="none").sum(dim=1)
    torch.testing.assert_close(CASES[name].loss(predicted, target), expected)


# -------------------------------------------------------------------------------------------------- a perfect match


@with_parameters
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 2, *[st.floats(1e-4, 1e4)] * 2), min_size=1))
@settings(max_examples=15, deadline=None)
def test_perfect_match_has_loss_and_gradient_zero(case, boxes):
    for dtype in (torch.float32, torch.float64):
        box = torch.tensor(boxes, dtype=dtype)
        loss, gradient = loss_and_gradient(case, box, box)
        assert loss.max() <= 1e-12  # of CIoU: equal sides may differ by a bit in atan, with the lane of the processor
        # relative to the box: a shift by a whole side would change the loss by this
        assert (gradient * box[:, 2:].repeat(1, 2)).abs().max() <= 1e-6


@with_parameters
def test_no_other_match_has_loss_zero(case):
    predicted, target = random_pairs(300, seed=5)
    assert (case.loss(predicted, target) > 0).all()
    close = target * torch.tensor([1, 1, 1.05, 1])
    assert (case.loss(close, target) > 0).all()


# ------------------------------------------------------------------------------------------------ degenerate boxes


SIDES = (0.0, 1e-30, 1e-4, 1.0, 37.0, 1e4)
OFFSETS = {
    "same centre": (0.0, 0.0),
    "all but the same centre": (1e-20, 1e-20),
    "near": (1e-4, 1e-4),
    "touching": (37.0, 0.0),
    "touching at a corner": (1.0, -1.0),
    "far": (-1e5, 1e5),
}


def boxes_at_offsets(
    sizes: list[tuple[float, float]], target_sizes: list[tuple[float, float]]
) -> tuple[Tensor, Tensor]:
    """Every size with every target size at every offset."""
    pairs = list(itertools.product(OFFSETS.values(), sizes, target_sizes))
    predicted = torch.tensor([[*offset, *size] for offset, size, _ in pairs])
    return predicted, torch.tensor([[0.0, 0.0, *size] for *_, size in pairs])


def assert_finite_within_bounds(case: Case, predicted: Tensor, target: Tensor) -> None:
    loss, gradient = loss_and_gradient(case, predicted, target)
    assert loss.isfinite().all() and gradient.isfinite().all()
    assert loss.min() >= 0 and loss.max() <= case.most * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@with_parameters
def test_degenerate_boxes_have_finite_losses_within_bounds_and_finite_gradients(case, dtype):
    """Without area, contained, touching, disjoint, of 1e-4 to 1e4 pixels, up to 1e8 times as long as wide."""
    sizes = list(itertools.product(SIDES, SIDES))
    assert_finite_within_bounds(case, *(box.to(dtype) for box in boxes_at_offsets(sizes, sizes)))


@with_parameters
def test_inverted_boxes_have_finite_losses_within_bounds_and_finite_gradients(case):
    sizes = list(itertools.product((-1e4, -1.0, 0.0, 1.0, 1e4), repeat=2))
    assert_finite_within_bounds(case, *boxes_at_offsets(sizes, sizes))


@with_parameters
def test_predicted_boxes_that_have_all_but_vanished_have_finite_losses_and_gradients(case):
    sides = (0.0, 1e-45, 1e-30, 1e-20, 1e-10, 3.0)
    assert_finite_within_bounds(case, *boxes_at_offsets(list(itertools.product(sides, sides)), [(4.0, 2.0)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("axis", [0, 1], ids=["width", "height"])
@pytest.mark.parametrize("side", [0.0, -2.0])
@pytest.mark.parametrize("name", BOX_LOSSES)
def test_a_side_of_zero_within_the_target_is_told_to_grow(name, side, axis, dtype):
    """A line, in the middle of the target or beside it, short or long, and what lies on the other side of zero."""
    target = torch.tensor([[50.0, 40, 20, 10]] * 3, dtype=dtype)
    predicted = torch.tensor([[50.0, 40, 8, 8], [53, 41, 6, 6], [48, 39, 1, 1]], dtype=dtype)
    predicted[:, 2 + axis] = side
    loss, gradient = loss_and_gradient(Case(name, {}, (0, 0, 0), INFINITE), predicted, target)
    assert loss.isfinite().all() and gradient.isfinite().all() and gradient.abs().max() < 1e4
    assert (gradient[:, 2 + axis] < 0).all()


@every_loss
def test_a_box_without_area_matches_nothing_not_even_itself(case):
    box = torch.tensor([[3.0, 4, 0, 0], [3, 4, 0, 5], [3, 4, 5, 0]])
    by_distance = case.name in ("l1", "l2", "smooth_l1", "nwd")  # these need no area
    assert (case.loss(box, box) > 0).all() != by_distance


@every_loss
def test_no_pairs(case):
    nothing = torch.zeros(0, 4)
    loss, gradient = loss_and_gradient(case, nothing, nothing)
    assert loss.shape == (0,) and gradient.shape == (0, 4)


def test_no_pairs_without_a_running_mean():
    loss, gradient = loss_and_gradient(Case("wiou", {}, (0, 0, 0), 4), torch.zeros(0, 4), torch.zeros(0, 4))
    assert loss.shape == (0,) and gradient.shape == (0, 4)


@pytest.mark.parametrize("floor", [1e-6, 1e-3, 0.5])
def test_iou_log_is_bounded_by_its_floor_and_flat_there(floor):
    predicted, target = torch.tensor([[0.0, 0, 10, 10]] * 3), torch.tensor([[50.0, 0, 10, 10], [0, 0, 1e-5, 1e-5]] * 2)
    case = Case("iou_log", {"floor": floor}, (0, 0, 0), INFINITE)
    loss, gradient = loss_and_gradient(case, predicted, target[:3])
    assert loss.tolist() == pytest.approx([-math.log(floor)] * 3) and (gradient == 0).all()


# ------------------------------------------------------------------------------------------------------ symmetries


@every_loss
def test_loss_is_symmetric(case):
    predicted, target = random_pairs(200, seed=6)
    one, other = case.loss(predicted, target), case.loss(target, predicted)
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-14) == (case not in [CASES[name] for name in ASYMMETRIC])


@with_parameters
def test_swap_of_x_and_y_changes_nothing(case):
    predicted, target = random_pairs(200, seed=7)
    order = [1, 0, 3, 2]
    torch.testing.assert_close(case.loss(predicted[:, order], target[:, order]), case.loss(predicted, target))


@with_parameters
def test_mirror_changes_nothing(case):
    predicted, target = random_pairs(200, seed=8)
    mirror = torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(case.loss(predicted * mirror, target * mirror), case.loss(predicted, target))


@with_parameters
def test_shift_by_1e5_pixels_changes_no_bit_in_float32(case):
    predicted, target = random_pairs(200, seed=9, dtype=torch.float32)
    for box in (predicted, target):
        box[:, :2] = (box[:, :2] * 64).round() / 64  # centres that float32 holds exactly also at 1e5
    shift = torch.tensor([1e5, -1e5, 0, 0])
    here, there = (loss_and_gradient(case, predicted + move, target + move) for move in (shift * 0, shift))
    assert torch.equal(here[0], there[0]) and torch.equal(here[1], there[1])


@with_parameters
def test_scale_changes_nothing_where_the_loss_has_no_unit(case):
    predicted, target = random_pairs(200, seed=10)
    expected = case.loss(predicted, target)
    for factor in (1e-4, 1e4):
        scaled = predicted * factor, target * factor
        if case.name not in IN_PIXELS:
            torch.testing.assert_close(case.loss(*scaled), expected)
        else:
            assert not torch.allclose(case.loss(*scaled), expected, rtol=1e-3, atol=0)
            if case.parameters.keys() <= {"beta"}:  # the measure is the default
                torch.testing.assert_close(case.loss(*scaled, **IN_PIXELS[case.name](factor)), expected)


# -------------------------------------------------------------------------------------------------------- precision


@with_parameters
def test_float32_is_near_float64(case):
    predicted, target = random_pairs(500, seed=11, dtype=torch.float32)
    exact, rounded = case.loss(predicted.double(), target.double()), case.loss(predicted, target)
    assert exact.dtype == torch.float64 and rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@with_parameters
def test_half_precision_equals_float32_of_the_same_values(case, dtype):
    predicted, target = (box.to(dtype) for box in random_pairs(200, seed=12))
    predicted[0], target[0] = torch.tensor([[320.0, 320, 600, 600], [330, 320, 610, 590]], dtype=dtype)  # areas > 65504
    loss, gradient = loss_and_gradient(case, predicted, target)
    expected, full = loss_and_gradient(case, predicted.float(), target.float())
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    assert gradient.dtype == dtype and torch.equal(gradient, full.to(dtype)) and gradient.isfinite().all()


@with_parameters
def test_arguments_are_left_as_they_were(case):
    predicted, target = random_pairs(20)
    before = predicted.clone(), target.clone()
    case.loss(predicted, target)
    assert torch.equal(predicted, before[0]) and torch.equal(target, before[1])


@with_parameters
def test_each_pair_has_a_loss_of_its_own(case):
    predicted, target = random_pairs(20, seed=13)
    alone = [case.loss(predicted[row : row + 1], target[row : row + 1]) for row in range(20)]
    torch.testing.assert_close(torch.cat(alone), case.loss(predicted, target))


# --------------------------------------------------------------------------------------- what the papers claim


def losses(*names: str, predicted: Tensor, target: Tensor) -> list[Tensor]:
    return [CASES[name].loss(predicted, target) for name in names]


@every_loss
def test_disjoint_boxes_are_drawn_together_or_have_no_gradient(case):
    """Along the line between their centres; along one axis alone siou, eiou and shape_iou may push them apart."""
    target = torch.tensor([[50.0, 30, 4, 6], [50, 0, 4, 6], [-7, 8, 3, 3], [6, 0.5, 4, 6], [300, -200, 4, 6]])
    _, gradient = loss_and_gradient(case, torch.tensor([[0.0, 0, 5, 4]]).expand(5, 4), target)
    if case.draws:
        assert ((gradient[:, :2] * target[:, :2]).sum(dim=1) < 0).all()
    else:
        assert (gradient == 0).all()


def test_terms_are_added_never_taken_away():
    predicted, target = random_pairs(500, seed=15)
    by_name = dict(zip(CASES, losses(*CASES, predicted=predicted, target=target), strict=True))
    above_iou = ("iou_log", "giou", "diou", "siou", "alpha_iou iou", "wiou 1", "mpdiou", "shape_iou", "shape_iou 1")
    order = [
        *(("iou", more) for more in above_iou),
        *(("diou", more) for more in ("ciou", "eiou", "shape_iou")),
        *(("focal_eiou", "eiou"), ("smooth_l1", "smooth_l1 1/9"), ("smooth_l1 1/9", "l1")),
        *(("alpha_iou iou", "alpha_iou giou"), ("alpha_iou diou", "alpha_iou ciou")),
        *(("inner_iou iou 0.7", "inner_iou ciou 0.7"), ("inner_iou iou 1.3", "inner_iou ciou 1.3")),
    ]
    for less, more in order:
        assert (by_name[less] <= by_name[more] + 1e-12).all(), (less, more)
        assert (by_name[less] < by_name[more]).any(), (less, more)


def test_disjoint_boxes_tell_giou_diou_and_ciou_how_far_apart_they_are():
    """GIoU < IoU for disjoint boxes, and the limits -1 of GIoU and DIoU: of two boxes infinitely far apart."""
    target = torch.tensor([[0.0, 0, 10, 20]], dtype=torch.float64).expand(4, 4)
    predicted = target.clone()
    predicted[:, 0] = torch.tensor([11.0, 50, 1e3, 1e9])
    for name in ("giou", "diou", "ciou", "eiou", "siou", "wiou 1", "shape_iou"):
        (loss,) = losses(name, predicted=predicted, target=target)
        assert (loss > 1).all() and (loss.diff() > 0).all()
    assert (losses("iou", predicted=predicted, target=target)[0] == 1).all()
    predicted[:, 1] = predicted[:, 0]
    for name in ("giou", "diou"):
        assert losses(name, predicted=predicted, target=target)[0][-1].item() == pytest.approx(2, abs=1e-6)


def test_contained_boxes_have_the_same_iou_and_giou_and_only_diou_sees_the_centre():
    target = torch.tensor([[0.0, 0, 100, 100]]).expand(3, 4)
    predicted = torch.tensor([[0.0, 0, 20, 20], [40, 0, 20, 20], [-40, 40, 20, 20]])
    iou, giou, diou = losses("iou", "giou", "diou", predicted=predicted, target=target)
    torch.testing.assert_close(iou, torch.full((3,), 1 - 0.04))
    torch.testing.assert_close(giou, iou)
    assert diou[0] == iou[0] and diou[0] < diou[1] < diou[2]


def test_same_centres_leave_no_distance():
    predicted, target = random_pairs(200, seed=16)
    predicted[:, :2] = target[:, :2]
    iou, diou, wiou, ciou, eiou = losses("iou", "diou", "wiou 1", "ciou", "eiou", predicted=predicted, target=target)
    assert torch.equal(diou, iou) and torch.equal(wiou, iou)
    assert (ciou > diou).all() and (eiou > diou).all()


def test_same_aspect_ratio_leaves_ciou_the_diou():
    predicted, target = random_pairs(200, seed=17)
    predicted[:, 2:] = target[:, 2:] * torch.tensor([0.1, 3.0]).repeat(100)[:, None]
    ciou, diou, eiou = losses("ciou", "diou", "eiou", predicted=predicted, target=target)
    torch.testing.assert_close(ciou, diou, rtol=0, atol=1e-14)
    assert (eiou > diou + 1e-6).all()  # the sides differ all the same: the paper's case for EIoU


def test_same_sides_leave_no_shape():
    predicted, target = random_pairs(200, seed=18)
    predicted[:, 2:] = target[:, 2:]
    diou, *others = losses("diou", "ciou", "eiou", "shape_iou", predicted=predicted, target=target)
    for other in others:
        torch.testing.assert_close(other, diou)


def test_mpdiou_tells_boxes_of_the_same_centre_and_aspect_apart():
    """The paper's figure: half and twice the side have equal IoU, centre and aspect, and so equal CIoU."""
    target = torch.tensor([[0.0, 0, 40, 60]]).expand(2, 4)
    predicted = target * torch.tensor([[1.0, 1, 0.5, 0.5], [1, 1, 2, 2]])
    ciou, mpdiou = losses("ciou", "mpdiou", predicted=predicted, target=target)
    assert ciou[0] == ciou[1] and mpdiou[0] < mpdiou[1]


@pytest.mark.parametrize("form", get_args(Form))
def test_alpha_1_and_ratio_1_are_the_form_itself(form):
    pairs = random_pairs(200, seed=19)
    expected = BOX_LOSSES[form](*pairs)
    torch.testing.assert_close(BOX_LOSSES["alpha_iou"](*pairs, alpha=1.0, form=form), expected)
    torch.testing.assert_close(BOX_LOSSES["inner_iou"](*pairs, ratio=1.0, form=form), expected)


def test_alpha_above_1_weighs_well_placed_boxes_more():
    """The gradient of IoU^alpha is alpha IoU^(alpha - 1) of IoU's: above 1 for IoU > alpha^(-1 / (alpha - 1))."""
    predicted, target = random_pairs(400, seed=20)
    iou = aligned_iou(predicted, target)
    plain, powered = (loss_and_gradient(CASES[name], predicted, target)[1] for name in ("iou", "alpha_iou iou"))
    torch.testing.assert_close(powered, plain * 3 * iou[:, None].square())
    assert ((powered.norm(dim=1) > plain.norm(dim=1)) == (iou > 3**-0.5)).all()


def test_inner_boxes_sharpen_good_matches_and_outer_boxes_reach_further():
    target = torch.tensor([[0.0, 0, 40, 40]])
    near, far = (torch.tensor([[offset, 0.0, 40, 40]]) for offset in (2.0, 45.0))
    names = ("inner_iou iou 0.7", "iou", "inner_iou iou 1.3")
    inner, plain, outer = (loss_and_gradient(CASES[name], near, target)[1][0, 0].item() for name in names)
    assert inner > plain > outer > 0
    inner, plain, outer = (loss_and_gradient(CASES[name], far, target)[1][0, 0].item() for name in names)
    assert inner == plain == 0 < outer


def test_wiou_3_gives_ordinary_boxes_most_and_is_wiou_1_at_delta():
    missing = torch.tensor([0.03, 0.2, 0.5, 0.779, 0.99])  # 1 - IoU of boxes that differ in width alone
    target = torch.tensor([[0.0, 0, 100, 100]]).expand(5, 4)
    predicted = torch.cat((target[:, :2], 100 * (1 - missing[:, None]), target[:, 3:]), dim=1)
    weight = BOX_LOSSES["wiou"](predicted, target, mean=torch.tensor(0.5)) / missing
    assert weight.argmax() == 3  # beta = 1 / ln alpha = 1.558
    at_delta = BOX_LOSSES["wiou"](predicted[4:], target[4:], mean=torch.tensor(0.33)) / missing[4:]
    assert at_delta.item() == pytest.approx(1, rel=1e-4)


def test_wiou_3_without_a_running_mean_uses_that_of_the_pairs():
    predicted, target = random_pairs(50, seed=21)
    mean = (1 - aligned_iou(predicted, target)).mean()
    assert torch.equal(BOX_LOSSES["wiou"](predicted, target), BOX_LOSSES["wiou"](predicted, target, mean=mean))


def test_shape_iou_weighs_offsets_along_the_short_side_of_the_target_more():
    target = torch.tensor([[0.0, 0, 100, 25]]).expand(2, 4)
    along, across = BOX_LOSSES["shape_iou"](
        target + torch.tensor([[200.0, 0, 0, 0], [0, 200, 0, 0]]), target, scale=1.0
    )
    assert across > along


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_shape_iou_is_finite_for_any_scale(scale):
    case = Case("shape_iou", {"scale": scale}, (0, 0, 0), 4)
    target = torch.tensor([[0.0, 0, 640, 1], [0, 0, 1e4, 1e4], [0, 0, 0, 5], [0, 0, 1e-4, 1e-4]])
    loss, gradient = loss_and_gradient(case, target + 1, target)
    assert loss.isfinite().all() and gradient.isfinite().all()


def test_nwd_falls_smoothly_where_the_iou_of_small_boxes_is_lost():
    target = torch.tensor([[0.0, 0, 6, 6]]).expand(4, 4)
    predicted = target + torch.tensor([[0.0, 0, 0, 0], [3, 0, 0, 0], [6, 0, 0, 0], [9, 0, 0, 0]])
    expected = [1 - math.exp(-shift / 12.8) for shift in (0, 3, 6, 9)]
    assert BOX_LOSSES["nwd"](predicted, target).tolist() == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------- names and keys


def test_every_loss_has_its_row_in_this_table():
    assert {case.name for case in CASES.values()} == set(BOX_LOSSES) == set(SLOW)


def test_every_parameter_has_another_value_here_that_its_annotation_allows():
    for name in BOX_LOSSES:
        for parameter in SEAM.parameters(name).values():
            read_argument(parameter, parameter.default)
            if (name, parameter.name) != ("wiou", "momentum"):  # of the running mean, which is tested by itself
                read_argument(parameter, OTHER_VALUES[name][parameter.name])


# ---------------------------------------------------------------------------------------------------------- BoxLoss

OTHER_VALUES = {
    "smooth_l1": {"beta": 0.3},
    "iou_log": {"floor": 0.1},
    "focal_eiou": {"gamma": 1.0},
    "siou": {"theta": 2.0},
    "alpha_iou": {"alpha": 2.0, "form": "giou"},
    "wiou": {"version": 1, "alpha": 1.5, "delta": 2.0},
    "inner_iou": {"ratio": 1.2, "form": "diou"},
    "shape_iou": {"scale": 1.0},
    "nwd": {"constant": 30.0},
}
SEAM = SEAMS["BOX_LOSSES"]
every_name = pytest.mark.parametrize("name", BOX_LOSSES)


@every_name
def test_the_module_is_the_function_with_the_parameters_that_are_chosen(name):
    pairs = random_pairs(30, dtype=torch.float32)
    mean = {"mean": torch.ones(())} if name == "wiou" else {}
    default = BoxLoss(name)(*pairs)
    assert torch.equal(default, BOX_LOSSES[name](*pairs, **mean))
    for parameter, value in OTHER_VALUES.get(name, {}).items():
        changed = BoxLoss(name, **{parameter: value})(*pairs)
        assert torch.equal(changed, BOX_LOSSES[name](*pairs, **{parameter: value}, **mean))
        assert not torch.equal(changed, default)


def test_the_place_of_use_gives_unit_and_image_size():
    pairs, unit = random_pairs(30, dtype=torch.float32), torch.rand(30, 1) + 1
    for name in ("l1", "l2", "smooth_l1"):
        assert torch.equal(BoxLoss(name)(*pairs, unit=unit), BOX_LOSSES[name](*pairs, unit=unit))
    expected = BOX_LOSSES["mpdiou"](*pairs, image_size=(96, 160))
    assert torch.equal(BoxLoss("mpdiou")(*pairs, image_size=(96, 160)), expected)


def stepped(split: list[int], momentum: float, steps: int = 3) -> tuple[BoxLoss, list[Tensor]]:
    """A BoxLoss after some steps of 30 pairs that come in batches of the sizes ``split``, and the losses."""
    module, found = BoxLoss("wiou", momentum=momentum), []
    for step in range(steps):
        predicted, target = random_pairs(30, seed=step, dtype=torch.float32)
        parts = zip(predicted.split(split), target.split(split), strict=True)
        found.append(torch.cat([module(*part) for part in parts]))
        module.finish_step()
    return module, found


def test_the_running_mean_hand_worked():
    module = BoxLoss("wiou", momentum=0.1)
    target = torch.tensor([[0.0, 0, 10, 10]]).expand(2, 4)
    module(torch.tensor([[0.0, 0, 5, 10], [50, 0, 10, 10]]), target)  # 1 - IoU: 0.5 and 1
    assert module.mean.item() == 1
    module.finish_step()
    assert module.mean.item() == pytest.approx(0.9 * 1 + 0.1 * 0.75)
    module.finish_step()  # a step without a match
    assert module.mean.item() == pytest.approx(0.975)
    module(target, target)
    module.finish_step()
    assert module.mean.item() == pytest.approx(0.9 * 0.975)


@pytest.mark.parametrize("split", [[15, 15], [1, 29], [0, 30], [10] * 3])
def test_the_running_mean_does_not_depend_on_how_a_step_is_split(split):
    (whole, expected), (parts, found) = stepped([30], 0.5), stepped(split, 0.5)
    assert whole.mean.item() < 1
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(found, expected)


def test_the_running_mean_stands_still_in_evaluation_and_under_other_losses():
    pairs = random_pairs(30, dtype=torch.float32)
    for module in (BoxLoss("wiou").eval(), BoxLoss("ciou")):
        module(*pairs)
        module.finish_step()
        assert module.mean.item() == 1


def test_evaluation_within_a_step_leaves_no_trace():
    module, (predicted, target) = BoxLoss("wiou", momentum=1.0), random_pairs(30, dtype=torch.float32)
    module(predicted, target)
    with torch.inference_mode():
        module.eval()(target, target)
    module.train().finish_step()
    assert module.mean.item() == pytest.approx((1 - aligned_iou(predicted, target)).mean().item())


def test_the_running_mean_is_saved_and_gives_the_same_losses():
    module, _ = stepped([30], 0.5)
    assert module.state_dict().keys() == {"mean"}
    fresh = BoxLoss("wiou")
    pairs = random_pairs(30, seed=9, dtype=torch.float32)
    assert not torch.equal(fresh(*pairs), module(*pairs))
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(*pairs), module(*pairs))


@pytest.mark.parametrize("mean", [0.0, 1e-30, 1e-6, 1.0])
def test_wiou_is_finite_for_any_running_mean(mean):
    """A step of perfect matches at a momentum of 1 makes it 0."""
    case = Case("wiou", {"mean": torch.tensor(mean)}, (0, 0, 0), 4)
    predicted, target = random_pairs(50, dtype=torch.float32)
    loss, gradient = loss_and_gradient(case, predicted, target)
    assert loss.isfinite().all() and gradient.isfinite().all()


@every_name
def test_the_step_goes_backward_after_the_mean_has_moved(name):
    module, (predicted, target) = BoxLoss(name), random_pairs(30, dtype=torch.float32)
    loss = module(predicted.requires_grad_(), target).sum()
    module.finish_step()
    loss.backward()
    assert predicted.grad.isfinite().all() and predicted.grad.abs().sum() > 0
