"""Laws of every binary loss at once, the formulas in a slow loop, torchvision, and the weights of classes."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from test_loss import loss_of_batch, losses_and_gradient, random_case, step_totals
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from yolo_lite.config.hyp import Hyp
from yolo_lite.config.seams import Choice
from yolo_lite.engine.seams import SEAMS
from yolo_lite.loss.assigners import build_targets
from yolo_lite.loss.classification import CLS_LOSSES, binary_loss, class_weights, one_hot
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.model.heads.detect import COLUMNS
from yolo_lite.structures import Raw

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bce": ("bce", {}),
    "bce weighted": ("bce", {"positive_weight": 2.5}),
    "focal": ("focal", {}),
    "focal 0": ("focal", {"gamma": 0.0}),
    "focal 0.5 weighted": ("focal", {"gamma": 0.5, "alpha": 0.4, "positive_weight": 2.5}),
    "focal without alpha": ("focal", {"gamma": 1.5, "alpha": None}),
    "qfl": ("qfl", {}),
    "qfl 0.5": ("qfl", {"beta": 0.5}),
    "vfl": ("vfl", {}),
    "vfl 1.5 weighted": ("vfl", {"alpha": 0.5, "gamma": 1.5, "positive_weight": 2.5}),
    "poly": ("poly", {}),
    "poly -1 weighted": ("poly", {"epsilon": -1.0, "positive_weight": 2.5}),
}
CALLS = {key: partial(CLS_LOSSES[name], **parameters) for key, (name, parameters) in CASES.items()}
every_loss = pytest.mark.parametrize("key", CASES)
SATURATED = (-1e30, -1e4, -100.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 100.0, 1e4, 1e30)
# A loss whose least value over p lies at p = y for soft targets y, and that value.
LEAST = {
    "bce": lambda y: entropy(y),
    "qfl": lambda y: 0,
    "qfl 0.5": lambda y: 0,
    "vfl": lambda y: y * entropy(y),
}


def entropy(y: float) -> float:
    return -y * math.log(y) - (1 - y) * math.log(1 - y)


def loss_and_gradient(key: str, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    loss = CALLS[key](logits, target)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


def random_logits(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and targets, a third of the targets 0, 1 and soft each."""
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(50, generator=generator)
    logits = torch.randn(50, 3, generator=generator) * 3
    return logits.to(dtype), torch.stack((soft * 0, soft * 0 + 1, soft), dim=1).to(dtype)


# -------------------------------------------------------------------------------------------------------- formulas


def slow_bce(p: float, y: float, weight: float) -> float:
    return -weight * y * math.log(p) - (1 - y) * math.log(1 - p)


def slow_focal(p: float, y: float, weight: float, gamma: float = 2, alpha: float | None = 0.25) -> float:
    p_t, alpha_t = y * p + (1 - y) * (1 - p), 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return alpha_t * (1 - p_t) ** gamma * slow_bce(p, y, weight)


def slow_vfl(p: float, y: float, weight: float, alpha: float = 0.75, gamma: float = 2) -> float:
    return y * slow_bce(p, y, weight) if y > 0 else -alpha * p**gamma * math.log(1 - p)


SLOW = {
    "bce": slow_bce,
    "focal": slow_focal,
    "qfl": lambda p, y, weight, beta=2: abs(y - p) ** beta * slow_bce(p, y, weight),
    "vfl": slow_vfl,
    "poly": lambda p, y, weight, epsilon=1: slow_bce(p, y, weight) + epsilon * (1 - y * p - (1 - y) * (1 - p)),
}


@every_loss
def test_loss_equals_a_slow_loop(key):
    logits, target = random_logits()
    name, parameters = CASES[key]
    others = dict(parameters)
    weight = others.pop("positive_weight", 1.0)
    pairs = zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True)
    expected = [SLOW[name](1 / (1 + math.exp(-x)), y, weight, **others) for x, y in pairs]
    assert CALLS[key](logits, target).flatten().tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("key", "zero", "half", "one"),
    [  # p = 1/2, against y = 0, 1/2, 1
        ("bce", math.log(2), math.log(2), math.log(2)),
        ("bce weighted", math.log(2), 1.75 * math.log(2), 2.5 * math.log(2)),
        ("focal", 0.1875 * math.log(2), 0.125 * math.log(2), 0.0625 * math.log(2)),
        ("focal 0", 0.75 * math.log(2), 0.5 * math.log(2), 0.25 * math.log(2)),
        ("qfl", 0.25 * math.log(2), 0, 0.25 * math.log(2)),
        ("vfl", 0.1875 * math.log(2), 0.5 * math.log(2), math.log(2)),
        ("poly", math.log(2) + 0.5, math.log(2) + 0.5, math.log(2) + 0.5),
    ],
)
def test_hand_worked(key, zero, half, one):
    assert CALLS[key](torch.zeros(3), torch.tensor([0, 0.5, 1])).tolist() == pytest.approx([zero, half, one])


@every_loss
def test_gradcheck(key):
    logits, target = random_logits(seed=1)
    assert torch.autograd.gradcheck(lambda x: CALLS[key](x, target[:5]), logits[:5].requires_grad_())


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("alpha", [0.25, 0.6, None])
def test_focal_equals_torchvision(gamma, alpha):
    logits, target = random_logits(torch.float32, seed=2)
    logits = torch.cat((logits.flatten(), torch.tensor(SATURATED).repeat(2))).requires_grad_()
    target = torch.cat((target.flatten(), torch.arange(2.0).repeat_interleave(len(SATURATED))))
    ours = CLS_LOSSES["focal"](logits, target, gamma=gamma, alpha=alpha)
    theirs = sigmoid_focal_loss(logits, target, alpha=-1 if alpha is None else alpha, gamma=gamma)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_bce_and_its_positive_weight_are_those_of_torch():
    logits, target = random_logits()
    for weight in (1.0, 2.5):
        expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=torch.tensor(weight))
        torch.testing.assert_close(CLS_LOSSES["bce"](logits, target, weight), expected)


def test_every_loss_can_become_bce():
    logits, target = random_logits()
    bce = CLS_LOSSES["bce"](logits, target)
    assert torch.equal(CLS_LOSSES["focal"](logits, target, gamma=0.0, alpha=None), bce)
    assert torch.equal(CLS_LOSSES["poly"](logits, target, epsilon=0.0), bce)
    torch.testing.assert_close(CLS_LOSSES["qfl"](logits, target, beta=1e-9), bce, rtol=1e-6, atol=0)
    hard = target[:, :2]
    vfl = CLS_LOSSES["vfl"](logits[:, :2], hard, alpha=1.0, gamma=1e-9)
    torch.testing.assert_close(vfl, bce[:, :2], rtol=1e-6, atol=0)


def test_qfl_of_hard_targets_is_focal_without_alpha():
    logits, target = (values[:, :2] for values in random_logits())
    focal = CLS_LOSSES["focal"](logits, target, gamma=2.0, alpha=None)
    torch.testing.assert_close(CLS_LOSSES["qfl"](logits, target), focal)


# ------------------------------------------------------------------------------------------------------------ laws


@every_loss
def test_saturated_logits_give_finite_losses_and_gradients(key):
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor(SATURATED, dtype=dtype).repeat(6)
        target = torch.tensor([0, 1e-30, 0.3, 0.999, 1 - 2**-24, 1], dtype=dtype).repeat_interleave(len(SATURATED))
        loss, gradient = loss_and_gradient(key, logits, target)
        assert loss.isfinite().all() and gradient.isfinite().all()
        assert loss.min() >= -1e-6  # poly with epsilon -1 is a difference


@every_loss
def test_perfect_match_has_loss_and_gradient_zero(key):
    loss, gradient = loss_and_gradient(key, torch.tensor([-1e4, 1e4]), torch.tensor([0.0, 1]))
    assert (loss == 0).all() and (gradient == 0).all()


@pytest.mark.parametrize("key", LEAST)
def test_least_value_lies_at_the_target_also_where_it_is_soft(key):
    for y in (0.1, 0.5, 0.73, 0.98):
        target = torch.full((401,), y, dtype=torch.float64)
        logits = math.log(y / (1 - y)) + torch.linspace(-4, 4, 401, dtype=torch.float64)
        loss, gradient = loss_and_gradient(key, logits, target)
        assert loss.argmin() == 200 and loss[200].item() == pytest.approx(LEAST[key](y), abs=1e-6)
        # below 1 the power has a kink there
        assert abs(gradient[200]) < 1e-6 and (gradient[:200] < 0).all() and (gradient[201:] > 0).all()


def test_focal_and_poly_of_soft_targets_have_their_least_value_elsewhere():
    """Known, and why qfl and vfl exist: p_t is defined for y of 0 and 1. Poly-1 adds epsilon (1 - 2 y) p."""
    y = torch.full((999,), 0.7, dtype=torch.float64)
    p = torch.arange(1, 1000) / 1000
    for key in ("focal", "poly"):
        best = p[CALLS[key](p.double().logit(), y).argmin()].item()
        assert best != pytest.approx(0.7, abs=0.02)


@every_loss
def test_gradient_points_towards_hard_targets(key):
    logits = torch.linspace(-8, 8, 50, dtype=torch.float64).repeat(2)
    target = torch.arange(2.0, dtype=torch.float64).repeat_interleave(50)
    _, gradient = loss_and_gradient(key, logits, target)
    assert (gradient[:50] > 0).all() and (gradient[50:] < 0).all()


@pytest.mark.parametrize("key", ["focal without alpha", "qfl"])
def test_easy_pairs_count_less_than_under_bce(key):
    """Lin et al.: with gamma 2 a pair with p_t = 0.9 counts a 100th, one with 0.968 less than a 1000th."""
    logits = torch.tensor([0.9, 0.968]).logit()
    name = CASES[key][0]
    parameters = {"gamma": 2.0, "alpha": None} if name == "focal" else {}
    ratio = CLS_LOSSES[name](logits, torch.ones(2), **parameters) / CLS_LOSSES["bce"](logits, torch.ones(2))
    assert ratio[0].item() == pytest.approx(0.01, rel=1e-3) and ratio[1].item() < 1 / 960


def test_vfl_leaves_positives_whole_and_weighs_them_by_their_target():
    logits = torch.tensor([0.0, 3.0])
    bce = CLS_LOSSES["bce"](logits, torch.tensor([0.8, 0.8]))
    assert torch.equal(CLS_LOSSES["vfl"](logits, torch.tensor([0.8, 0.8])), bce * 0.8)


@every_loss
def test_shape_is_kept_and_arguments_left_as_they_were(key):
    for shape in ((0,), (0, 3), (7,), (2, 3, 4)):
        logits, target = torch.randn(shape), torch.rand(shape)
        before = logits.clone(), target.clone()
        loss, gradient = loss_and_gradient(key, logits, target)
        assert loss.shape == gradient.shape == shape and loss.dtype == torch.float32
        assert torch.equal(logits, before[0]) and torch.equal(target, before[1])


@every_loss
def test_float32_is_near_float64(key):
    logits, target = random_logits(torch.float32, seed=3)
    exact = CALLS[key](logits.double(), target.double())
    torch.testing.assert_close(CALLS[key](logits, target).double(), exact, rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- keys


def test_every_loss_has_its_row_in_this_table():
    assert {name for name, _ in CASES.values()} == set(CLS_LOSSES)


@pytest.mark.parametrize("kind", ["obj", "cls"])
@pytest.mark.parametrize("name", CLS_LOSSES)
def test_keys_reach_the_loss(name, kind):
    logits, target = random_logits(torch.float32)
    other = {"gamma": 1.3, "alpha": 0.4, "beta": 1.7, "epsilon": 0.6}
    default = getattr(AnchorCriterion(Hyp(**{f"{kind}_loss": name}), np.ones(3)), kind)(logits, target)
    assert torch.equal(default, CLS_LOSSES[name](logits, target))
    chosen = {p: other[p] for p in SEAMS["CLS_LOSSES"].parameters(name)}
    keys = {f"{kind}_loss": {name: chosen}, f"{kind}_pw": 2.0}
    changed = getattr(AnchorCriterion(Hyp(**keys), np.ones(3)), kind)(logits, target)
    assert torch.equal(changed, CLS_LOSSES[name](logits, target, 2.0, **chosen))
    assert not torch.equal(changed, default)


@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0])
def test_fl_gamma_is_focal_on_objectness_and_classes_with_the_alpha_of_yolov5(gamma):
    logits, target = random_logits(torch.float32)
    for kind in ("obj", "cls"):
        found = getattr(AnchorCriterion(Hyp(fl_gamma=gamma), np.ones(3)), kind)(logits, target)
        assert torch.equal(found, CLS_LOSSES["focal"](logits, target, gamma=gamma, alpha=0.25))
        named = binary_loss(Choice(name="focal", parameters={"gamma": gamma}))
        assert torch.equal(found, named(logits, target))


@pytest.mark.parametrize("key", ["obj_loss", "cls_loss"])
@pytest.mark.parametrize("name", [name for name in CLS_LOSSES if name != "bce"])
def test_fl_gamma_beside_another_loss_is_refused(name, key):
    with pytest.raises(ValueError, match="fl_gamma above 0 turns bce into focal"):
        Hyp(**{key: name, "fl_gamma": 1.5})


def test_one_hot_hand_worked():
    label = torch.tensor([2, 0])
    assert one_hot(label, 3, 0.0).tolist() == [[0, 0, 1], [1, 0, 0]]
    torch.testing.assert_close(one_hot(label, 3, 0.1), torch.tensor([[0.05, 0.05, 0.95], [0.95, 0.05, 0.05]]))
    assert one_hot(label[:0], 3, 0.1).shape == (0, 3)


# --------------------------------------------------------------------------------------------- in the whole loss


def test_objectness_and_classes_have_losses_of_their_own():
    raw, targets, grid = random_case(2, 3)
    plain = losses_and_gradient(raw, targets, grid, Hyp())[0]
    for name in CLS_LOSSES:
        obj, cls = (losses_and_gradient(raw, targets, grid, Hyp(**{key: name}))[0] for key in ("obj_loss", "cls_loss"))
        assert (obj["box"], obj["cls"]) == (plain["box"], plain["cls"]) and (obj["obj"] == plain["obj"]) == (
            name == "bce"
        )
        assert (cls["box"], cls["obj"]) == (plain["box"], plain["obj"]) and (cls["cls"] == plain["cls"]) == (
            name == "bce"
        )


@pytest.mark.parametrize(
    ("setting", "counts", "expected"),
    [
        (None, [7, 2, 0], [1, 1, 1]),
        ("auto", [6, 2, 4], [2 / 3, 2, 1]),  # 1 / count, times 12 objects over 3 classes
        ("auto", [6, 2, 0], [2 / 3, 2, 4]),  # the third as if it had one
        ((1.0, 3.0), [10, 10], [0.5, 1.5]),
        ((1.0, 100.0), [10, 0], [1, 100]),  # a class without objects changes no mean
        ((2.0, 6.0), [0, 0], [0.5, 1.5]),
        ("auto", [0, 0], [1, 1]),
    ],
)
def test_class_weights_hand_worked(setting, counts, expected):
    found = class_weights(setting, np.array(counts))
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("setting", [None, "auto", (0.3, 2.0, 5.0, 1.0)])
def test_mean_class_weight_over_all_objects_is_one(setting):
    label = np.random.default_rng(0).choice(4, 500, p=[0.7, 0.2, 0.1, 0.0])
    weights = class_weights(setting, np.bincount(label, minlength=4))
    assert weights[label].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
@pytest.mark.parametrize("setting", ["auto", (0.3, 2.0, 5.0)])
def test_class_weights_weigh_the_class_loss_of_an_object_by_its_class(setting, cls_loss):
    raw, targets, grid = random_case(2, 3, count=60)
    hyp, counts = Hyp(cls_loss=cls_loss), np.bincount(targets.label, minlength=3)
    matches = build_targets(targets, grid, hyp.anchor_t)
    totals = step_totals([matches], grid, 2)
    found = []
    for one in (hyp, hyp.model_copy(update={"cls_weights": setting})):
        rows = raw.clone().requires_grad_()
        parts = AnchorCriterion(one, counts)(Raw(rows, COLUMNS), targets, matches, grid, totals)
        found.append((parts, torch.autograd.grad(sum(parts.values()), rows)[0]))
    (plain, gradient), (weighted, weighted_gradient) = found
    assert (weighted["box"], weighted["obj"]) == (plain["box"], plain["obj"]) and weighted["cls"] != plain["cls"]
    row = matches.image, matches.slot
    weight = class_weights(setting, counts)[targets.label[matches.target]]
    torch.testing.assert_close(weighted_gradient[row][:, 5:], gradient[row][:, 5:] * weight[:, None])
    assert torch.equal(weighted_gradient[..., :5], gradient[..., :5])


def test_equal_class_weights_change_nothing():
    raw, targets, grid = random_case(2, 3)
    matches = build_targets(targets, grid, 4.0)
    plain = loss_of_batch(raw, targets, matches, grid, Hyp())
    equal = loss_of_batch(raw, targets, matches, grid, Hyp(cls_weights=(7.0, 7.0, 7.0)))
    assert plain == equal
