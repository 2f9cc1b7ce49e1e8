"""The segmentation losses against slow loops, torch, torchvision, values worked out by hand, and their laws.

Losses of the dict are named in the tests with the kind of mask they are tried on: 1 logit (binary) or 4 (multi-class).
"""

import inspect
import itertools
import math

import pytest
import torch
from test_loss import CountSynchronisation
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from yolo_lite.loss import mask
from yolo_lite.loss.mask import MASK_LOSSES

OVERLAP = ("iou", "iou_log", "dice", "tversky", "lovasz")
SOFT = ("iou", "iou_log", "dice", "tversky")  # of TP, FP and FN
PIXELWISE = ("bce", "ce", "focal")
IGNORED = 255

every_loss = pytest.mark.parametrize("name", MASK_LOSSES)
every_overlap_loss = pytest.mark.parametrize("name", OVERLAP)
binary_and_not = pytest.mark.parametrize("num_classes", [1, 4])


def random_case(
    num_classes: int, size: tuple[int, int, int] = (3, 5, 7), ignored: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits float64 and target of B, H, W; not square."""
    generator = torch.Generator().manual_seed(seed)
    images, height, width = size
    logits = torch.randn(images, num_classes, height, width, generator=generator, dtype=torch.float64) * 2
    target = torch.randint(0, max(num_classes, 2), size, generator=generator)
    return logits, target.masked_fill(torch.rand(size, generator=generator) < ignored, IGNORED)


def confident(target: Tensor, num_classes: int, size: float = 1e4) -> Tensor:
    """Logits of ±size that say the target; zeros where it is ignored."""
    hot = F.one_hot(target.clamp(max=max(num_classes, 2) - 1), max(num_classes, 2))[..., -num_classes:].movedim(3, 1)
    return (hot * 2.0 - 1) * size * (target != IGNORED)[:, None]


def loss_and_gradient(name: str, logits: Tensor, target: Tensor, **options) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    loss = MASK_LOSSES[name](logits, target, ignore_index=IGNORED, **options)
    assert loss.requires_grad
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.dtype == logits.dtype
    return loss.detach(), gradient


# ------------------------------------------------------------------------------------------------ slow references


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def probabilities(row: list[float]) -> list[float]:
    """Of every class that the logits of one pixel tell; of a binary logit background and foreground."""
    return [1 - sigmoid(row[0]), sigmoid(row[0])] if len(row) == 1 else softmax(row)


def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    """1 - IoU of the truth and a mask that is wrong in the given pixels; no loss where both are empty."""
    union = truth | wrong
    return 1 - len(truth - wrong) / len(union) if union else 0.0


def slow_lovasz(errors: list[float], truth: list[int]) -> float:
    """The extension by its integral, sum over thresholds of the set function of all errors above: no sorted steps."""
    own = {k for k, y in enumerate(truth) if y}
    levels = sorted({0.0, *errors})
    return sum(
        (upper - lower) * jaccard_loss({k for k, error in enumerate(errors) if error > lower}, own)
        for lower, upper in itertools.pairwise(levels)
    )


def slow_overlap(name: str, p: list[float], truth: list[int], logit: list[float] | None) -> float:
    """Loss of one image and class over its pixels, with the parameters' defaults."""
    tp = sum(a * y for a, y in zip(p, truth, strict=True))
    fp = sum(a * (1 - y) for a, y in zip(p, truth, strict=True))
    fn = sum((1 - a) * y for a, y in zip(p, truth, strict=True))
    errors = [abs(y - a) for a, y in zip(p, truth, strict=True)]
    if logit is not None:
        errors = [max(0.0, 1 - x * (2 * y - 1)) for x, y in zip(logit, truth, strict=True)]
    if name == "lovasz":
        return slow_lovasz(errors, truth) if any(truth) else sum(errors) / len(errors)
    index = {
        "iou": (tp + 1) / (tp + fp + fn + 1),
        "iou_log": (tp + 1) / (tp + fp + fn + 1),
        "dice": (2 * tp + 1) / (2 * tp + fp + fn + 1),
        "tversky": (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1),
    }[name]
    if not any(truth):
        index = 1 - fp / len(p)
    return -math.log(max(index, 1e-6)) if name == "iou_log" else 1 - index


def slow_pixel(name: str, p: list[float], label: int) -> float:
    if name in ("bce", "ce"):
        return -math.log(p[label])
    return -(0.75 if label == 0 else 0.25) * (1 - p[label]) ** 2 * math.log(p[label])


def slow_losses(name: str, logits: Tensor, target: Tensor) -> list[float]:
    """Losses that count, pixel by pixel: of every image and class, or of every pixel."""
    losses = []
    for image, mask_of_image in zip(logits, target, strict=True):
        rows, labels = image.flatten(1).T.tolist(), mask_of_image.flatten().tolist()
        pixels = [(row, label) for row, label in zip(rows, labels, strict=True) if label != IGNORED]
        if name in PIXELWISE:
            losses += [slow_pixel(name, probabilities(row), label) for row, label in pixels]
            continue
        for channel in range(len(image)) if pixels else ():
            own = channel if len(image) > 1 else 1
            p, truth = [probabilities(row)[own] for row, _ in pixels], [int(label == own) for _, label in pixels]
            losses.append(slow_overlap(name, p, truth, [row[0] for row, _ in pixels] if len(image) == 1 else None))
    return losses


@every_loss
@binary_and_not
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_loss_equals_a_slow_loop(name, num_classes, ignored):
    logits, target = random_case(num_classes, size=(4, 4, 6), ignored=ignored)
    target[1] = 0  # an image without any object
    target[2, :3] = IGNORED
    target[3] = IGNORED
    expected = slow_losses(name, logits, target)
    mean, gradient = loss_and_gradient(name, logits, target)
    assert mean.item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    total, _ = loss_and_gradient(name, logits, target, reduction="sum")
    assert total.item() == pytest.approx(sum(expected), rel=1e-12)
    assert (gradient[3] == 0).all() and gradient[:3].abs().sum() > 0


# ---------------------------------------------------------------------------------------------------- hand-worked

# One image of 2 x 3 pixels; logits of probability 0.8, 0.6, 0.5 | 0.2, 0.5, 0.4 for the foreground.
HAND_P = torch.tensor([[[0.8, 0.6, 0.5], [0.2, 0.5, 0.4]]], dtype=torch.float64)
HAND_LOGITS = torch.logit(HAND_P)[None]
HAND_TARGET = torch.tensor([[[1, 1, 0], [0, 0, 1]]])
# TP = 0.8 + 0.6 + 0.4 = 1.8, FP = 0.5 + 0.2 + 0.5 = 1.2, FN = 0.2 + 0.4 + 0.6 = 1.2
HAND_WORKED = {
    ("iou", 0.0): 1 - 1.8 / 4.2,
    ("iou", 1.0): 1 - 2.8 / 5.2,
    ("iou_log", 0.0): math.log(4.2 / 1.8),
    ("iou_log", 1.0): math.log(5.2 / 2.8),
    ("dice", 0.0): 1 - 3.6 / 6.0,
    ("dice", 1.0): 1 - 4.6 / 7.0,
    ("tversky", 0.0): 1 - 1.8 / (1.8 + 0.36 + 0.84),
    ("tversky", 1.0): 1 - 2.8 / (2.8 + 0.36 + 0.84),
}


@pytest.mark.parametrize(("name", "smooth"), HAND_WORKED)
def test_overlap_losses_hand_worked(name, smooth):
    loss = MASK_LOSSES[name](HAND_LOGITS, HAND_TARGET, smooth=smooth)
    assert loss.item() == pytest.approx(HAND_WORKED[name, smooth])
    # as two classes (0, x): the background has TP = 0.5 + 0.8 + 0.5 = 1.8 too, and FP and FN change places
    wide = torch.cat((torch.zeros_like(HAND_LOGITS), HAND_LOGITS), dim=1)
    pair = MASK_LOSSES[name](wide, HAND_TARGET, smooth=smooth, reduction="none")
    assert pair.shape == (1, 2) and pair[0, 1].item() == pytest.approx(HAND_WORKED[name, smooth])
    assert pair[0, 0].item() == pytest.approx(HAND_WORKED[name, smooth])  # FP = FN here


def test_lovasz_softmax_hand_worked():
    # Truth: the first two of four pixels; errors 0.1, 0.6 | 0.3, 0: probabilities 0.9, 0.4 | 0.3, 0
    p = torch.tensor([0.9, 0.4, 0.3, 1e-300], dtype=torch.float64)
    logits = torch.stack((torch.zeros(4), torch.logit(p))).reshape(1, 2, 2, 2)
    target = torch.tensor([[[1, 1], [0, 0]]])
    # second, third, first pixel wrong: Jaccard loss 1/2, then 1 - 1/3, then 1
    expected = 0.6 * 1 / 2 + 0.3 * (2 / 3 - 1 / 2) + 0.1 * (1 - 2 / 3)
    loss = MASK_LOSSES["lovasz"](logits, target, reduction="none")
    assert loss[0, 1].item() == pytest.approx(expected)


def test_lovasz_hinge_hand_worked():
    logits = torch.tensor([2.0, -0.5, 0.2, -3.0]).reshape(1, 1, 2, 2)  # margins missed by 0, 1.5, 1.2, 0
    target = torch.tensor([[[1, 1], [0, 0]]])
    expected = 1.5 * 1 / 2 + 1.2 * (2 / 3 - 1 / 2)
    assert MASK_LOSSES["lovasz"](logits, target).item() == pytest.approx(expected)


def test_focal_hand_worked():
    # p_t = 0.8 and 0.75: 1/4 0.2^2 ln 1.25 for the object, 3/4 0.25^2 ln 4/3 for the ground
    logits = torch.logit(torch.tensor([0.8, 0.25], dtype=torch.float64)).reshape(1, 1, 1, 2)
    loss = MASK_LOSSES["focal"](logits, torch.tensor([[[1, 0]]]), reduction="none")
    assert loss.flatten().tolist() == pytest.approx([0.01 * math.log(1.25), 0.75 * 0.0625 * math.log(4 / 3)])


# --------------------------------------------------------------------------------------------- trusted libraries


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.2, 1.0, 3.0, 0.0])], ids=["plain", "weighted"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_ce_equals_torch(reduction, weight, label_smoothing):
    logits, target = random_case(4, ignored=0.3)
    weight = None if weight is None else weight.double()
    options = {"reduction": reduction, "weight": weight, "label_smoothing": label_smoothing}
    ours, gradient = loss_and_gradient("ce", logits, target, **options)
    logits.requires_grad_()
    theirs = F.cross_entropy(logits, target, ignore_index=IGNORED, **options)
    torch.testing.assert_close(ours, theirs.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), logits)[0])


def test_binary_ce_equals_torch_and_its_foreground_weight_is_pos_weight():
    logits, target = random_case(1)
    truth = target[:, None].double()
    torch.testing.assert_close(MASK_LOSSES["ce"](logits, target), F.binary_cross_entropy_with_logits(logits, truth))
    weighted = MASK_LOSSES["ce"](logits, target, weight=torch.tensor([1.0, 3.0]), reduction="sum")
    theirs = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=torch.tensor(3.0), reduction="sum")
    torch.testing.assert_close(weighted, theirs)
    smoothed = F.binary_cross_entropy_with_logits(logits, truth * 0.9 + 0.05)
    torch.testing.assert_close(MASK_LOSSES["ce"](logits, target, label_smoothing=0.1), smoothed)


def test_weighted_ce_of_a_mean_is_a_weighted_mean():
    logits, target = random_case(4)
    weight = torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64)
    plain = MASK_LOSSES["ce"](logits, target, reduction="none")
    expected = (plain * weight[target]).sum() / weight[target].sum()
    torch.testing.assert_close(MASK_LOSSES["ce"](logits, target, weight=weight), expected)
    torch.testing.assert_close(MASK_LOSSES["ce"](logits, target, weight=weight * 7), expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [0.25, 0.8, None])
def test_binary_focal_equals_torchvision(gamma, alpha):
    values = torch.cat((torch.randn(190) * 4, torch.tensor([-100.0, -30, -8, 0, 0, 0, 8, 30, 60, 100])))
    logits = values.repeat(2).reshape(2, 1, 20, 10).double()
    target = torch.arange(2).repeat_interleave(200).reshape(2, 20, 10)
    ours, gradient = loss_and_gradient("focal", logits, target, gamma=gamma, alpha=alpha, reduction="none")
    logits.requires_grad_()
    theirs = sigmoid_focal_loss(logits[:, 0], target.double(), -1 if alpha is None else alpha, gamma)
    torch.testing.assert_close(ours, theirs.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), logits)[0])


@binary_and_not
def test_focal_with_gamma_zero_and_no_alpha_is_ce(num_classes):
    logits, target = random_case(num_classes, ignored=0.3)
    focal = loss_and_gradient("focal", logits, target, gamma=0.0, alpha=None)
    torch.testing.assert_close(focal, loss_and_gradient("ce", logits, target))


# --------------------------------------------------------------------------------------------- laws of every loss


@every_loss
@binary_and_not
def test_a_perfect_confident_mask_has_loss_zero(name, num_classes):
    _, target = random_case(num_classes, ignored=0.2)
    target[1] = 0
    loss, gradient = loss_and_gradient(name, confident(target, num_classes), target, reduction="none")
    assert (loss == 0).all() and (gradient == 0).all()


@every_loss
@binary_and_not
def test_losses_are_not_negative_and_a_wrong_mask_is_worse_than_half_a_guess(name, num_classes):
    _, target = random_case(num_classes)
    right = confident(target, num_classes, 5.0)
    values = [MASK_LOSSES[name](scale * right, target).item() for scale in (1, 0, -1)]
    assert 0 <= values[0] < values[1] < values[2]


DEGENERATE = {
    "all background": lambda target: torch.zeros_like(target),
    "all foreground": lambda target: torch.ones_like(target),
    "all ignored": lambda target: torch.full_like(target, IGNORED),
    "one pixel": lambda target: torch.zeros_like(target).index_fill_(1, torch.tensor([2]), 1) * (target[:, :1] == 1),
    "one image ignored": lambda target: torch.cat((target[:-1], torch.full_like(target[-1:], IGNORED))),
    "no image": lambda target: target[:0],
}
SPREADS = {"zeros": 0.0, "small": 1.0, "saturated": 1e4}
OPTIONS = [
    (name, options)
    for name in MASK_LOSSES
    for options in (
        [{"absent": absent} for absent in ("area", "formula", "skip")]
        if name in OVERLAP
        else [{}, {"gamma": 0.5}, {"gamma": 0.0}]
        if name == "focal"
        else [{}, {"positive_weight": 3.0}]
        if name == "bce"
        else [{}, {"weight": 1}, {"label_smoothing": 0.1}]
    )
] + [(name, {"smooth": 0.0, "absent": absent}) for name in SOFT for absent in ("area", "formula", "skip")]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_losses_and_gradients_are_finite(name, options):
    """Under every kind of mask, of logits, of float type."""
    for num_classes, kind, spread, dtype in itertools.product(
        (1, 4), DEGENERATE.values(), SPREADS.values(), (torch.float32, torch.float16)
    ):
        logits, target = random_case(num_classes)
        target = kind(target)
        logits = (logits.sign() * spread if spread > 1 else logits * spread)[: len(target)].to(dtype)
        given = options | ({"weight": torch.ones(max(num_classes, 2))} if "weight" in options else {})
        loss, gradient = loss_and_gradient(name, logits, target, **given)
        assert loss.isfinite() and loss >= 0 and loss.dtype == torch.float32 and loss.shape == ()
        assert gradient.isfinite().all() and gradient.shape == logits.shape


@every_loss
@binary_and_not
def test_where_all_is_ignored_the_loss_is_zero_with_a_graph(name, num_classes):
    logits, target = random_case(num_classes)
    for reduction in ("mean", "sum", "none"):
        loss, gradient = loss_and_gradient(name, logits, torch.full_like(target, IGNORED), reduction=reduction)
        assert (loss == 0).all() and (gradient == 0).all()


@every_loss
@binary_and_not
@pytest.mark.parametrize("garbage", [1e4, -1e4, math.inf, math.nan])
def test_ignored_pixels_change_nothing(name, num_classes, garbage):
    logits, target = random_case(num_classes, ignored=0.4)
    expected = loss_and_gradient(name, logits, target)
    ignored = (target == IGNORED)[:, None]
    assert (expected[1] == 0)[ignored.expand_as(logits)].all()
    found = loss_and_gradient(name, logits.masked_fill(ignored, garbage), target)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@every_loss
@binary_and_not
def test_ignored_pixels_are_as_if_cut_away(name, num_classes):
    logits, target = random_case(num_classes)
    padded = F.pad(target, (0, 3, 2, 0), value=IGNORED)
    for reduction in ("mean", "sum"):
        cut = MASK_LOSSES[name](logits, target, reduction=reduction)
        whole = MASK_LOSSES[name](
            F.pad(logits, (0, 3, 2, 0), value=9.0), padded, ignore_index=IGNORED, reduction=reduction
        )
        torch.testing.assert_close(whole, cut)


@every_loss
@binary_and_not
def test_gradients_equal_finite_differences(name, num_classes):
    logits, target = random_case(num_classes, size=(2, 2, 3), ignored=0.2)
    target[1] = 0
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: MASK_LOSSES[name](x, target, ignore_index=IGNORED), logits)


@every_loss
@binary_and_not
def test_reductions_belong_together(name, num_classes):
    logits, target = random_case(num_classes, ignored=0.3)
    mean, total, single = (
        MASK_LOSSES[name](logits, target, ignore_index=IGNORED, reduction=reduction)
        for reduction in ("mean", "sum", "none")
    )
    assert single.shape == (target.shape if name in PIXELWISE else logits.shape[:2])
    counted = int((target != IGNORED).sum()) if name in PIXELWISE else single.numel()
    torch.testing.assert_close(total, single.sum())
    torch.testing.assert_close(mean, total / counted)
    if name in PIXELWISE:
        assert (single[target == IGNORED] == 0).all()


@every_loss
@binary_and_not
def test_an_image_is_on_its_own(name, num_classes):
    logits, target = random_case(num_classes, ignored=0.3)
    together = MASK_LOSSES[name](logits, target, ignore_index=IGNORED, reduction="none")
    apart = [
        MASK_LOSSES[name](logits[k : k + 1], target[k : k + 1], ignore_index=IGNORED, reduction="none")
        for k in range(len(target))
    ]
    torch.testing.assert_close(together, torch.cat(apart))


@every_loss
@binary_and_not
def test_order_of_pixels_does_not_matter_nor_does_memory_format(name, num_classes):
    logits, target = random_case(num_classes)
    expected = MASK_LOSSES[name](logits, target)
    torch.testing.assert_close(MASK_LOSSES[name](logits.flip(2).mT, target.flip(1).mT), expected)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(MASK_LOSSES[name](channels_last, target), expected)


@every_loss
@binary_and_not
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_float32_of_the_same_values(name, num_classes, dtype):
    logits, target = random_case(num_classes, ignored=0.2)
    half = logits.to(dtype)
    loss, gradient = loss_and_gradient(name, half, target)
    expected, full_gradient = loss_and_gradient(name, half.float(), target)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    torch.testing.assert_close(gradient.float(), full_gradient, rtol=2**-7, atol=1e-7)


@every_loss
def test_large_masks_of_fp16_logits_are_summed_in_float32(name):
    """Sums of 640^2 pixels are past the largest fp16 number, 65504."""
    logits = torch.randn(1, 1, 640, 640, generator=torch.Generator().manual_seed(0)).half()
    target = (torch.arange(640) < 200).long().expand(1, 640, 640)
    loss, gradient = loss_and_gradient(name, logits, target, reduction="sum")
    exact, exact_gradient = loss_and_gradient(name, logits.double(), target, reduction="sum")
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)
    assert gradient.isfinite().all()
    _, gradient = loss_and_gradient(name, logits.float(), target, reduction="sum")
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-6 * exact_gradient.abs().max())


@pytest.mark.parametrize("name", [name for name in MASK_LOSSES if name != "lovasz"])  # hinge and softmax are two losses
def test_a_binary_logit_is_the_second_of_two_classes(name):
    logits, target = random_case(1, ignored=0.3)
    wide = torch.cat((torch.zeros_like(logits), logits), dim=1)
    one, other = (MASK_LOSSES[name](x, target, ignore_index=IGNORED, reduction="none") for x in (logits, wide))
    torch.testing.assert_close(one, other if name in PIXELWISE else other[:, 1:])


@every_loss
def test_arguments_are_left_as_they_were(name):
    logits, target = random_case(4, ignored=0.3)
    before = logits.clone(), target.clone()
    MASK_LOSSES[name](logits, target, ignore_index=IGNORED)
    assert torch.equal(logits, before[0]) and torch.equal(target, before[1])


@every_loss
def test_parameters_follow_one_pattern(name):
    words = list(inspect.signature(MASK_LOSSES[name]).parameters.values())
    assert [word.name for word in words[:4]] == ["logits", "target", "ignore_index", "reduction"]
    assert all(word.kind is word.KEYWORD_ONLY for word in words[2:])


# -------------------------------------------------------------------------------------------- laws between losses


def test_weighted_bce_equals_torch_on_a_binary_mask():
    logits, target = random_case(1)
    found = MASK_LOSSES["bce"](logits, target, positive_weight=3.0)
    truth = target[:, None].double()
    expected = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=torch.tensor(3.0).double())
    torch.testing.assert_close(found, expected)


@binary_and_not
def test_dice_follows_from_iou(num_classes):
    """D = 2 J / (1 + J) without smoothing, and for the log form J = e^-loss, where the class is there."""
    logits, target = random_case(num_classes, size=(3, 20, 20))
    none = {"reduction": "none", "smooth": 0.0}
    index = 1 - MASK_LOSSES["iou"](logits, target, **none)
    torch.testing.assert_close(1 - MASK_LOSSES["dice"](logits, target, **none), 2 * index / (1 + index))
    torch.testing.assert_close((-MASK_LOSSES["iou_log"](logits, target, **none)).exp(), index)


@binary_and_not
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("absent", ["area", "formula", "skip"])
def test_tversky_has_iou_and_dice_as_special_cases(num_classes, smooth, absent):
    logits, target = random_case(num_classes, ignored=0.2)
    target[1] = 0
    same = {"ignore_index": IGNORED, "reduction": "none", "absent": absent}
    tversky = MASK_LOSSES["tversky"](logits, target, alpha=1.0, beta=1.0, smooth=smooth, **same)
    torch.testing.assert_close(tversky, MASK_LOSSES["iou"](logits, target, smooth=smooth, **same))
    tversky = MASK_LOSSES["tversky"](logits, target, alpha=0.5, beta=0.5, smooth=smooth / 2, **same)
    torch.testing.assert_close(tversky, MASK_LOSSES["dice"](logits, target, smooth=smooth, **same))


def test_beta_above_alpha_prefers_too_much_to_too_little():
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[:, 2:6, 2:6] = 1
    more, less = target.clone(), target.clone()
    more[:, 6, 2:6], less[:, 5, 2:6] = 1, 0  # a row too many, a row too few
    more, less = confident(more, 1), confident(less, 1)
    values = {
        beta: [MASK_LOSSES["tversky"](x, target, alpha=1 - beta, beta=beta) for x in (more, less)]
        for beta in (0.3, 0.7)
    }
    assert values[0.7][0] < values[0.7][1] and values[0.3][0] > values[0.3][1]


def test_log_loss_is_at_most_its_floor_and_has_a_slope_until_there():
    target = torch.zeros(1, 64, 64, dtype=torch.int64)
    target[0, :2] = 1
    wrong = confident(1 - target, 1)
    assert MASK_LOSSES["iou_log"](wrong, target).item() == pytest.approx(math.log(64 * 64 + 1))  # ln(1 + N / smooth)
    assert MASK_LOSSES["iou_log"](wrong, target, smooth=0.0).item() == pytest.approx(-math.log(1e-6))
    assert MASK_LOSSES["iou_log"](wrong, target, floor=0.01).item() == pytest.approx(-math.log(0.01))
    lost = torch.full((1, 1, 64, 64), -8.0)  # p = 0.0003 everywhere, J = 0.008
    log, plain = (loss_and_gradient(name, lost, target)[1][0, 0, 0, 0].item() for name in ("iou_log", "iou"))
    assert log < 50 * plain < 0
    assert (loss_and_gradient("iou_log", lost, target, floor=0.01)[1] == 0).all()


# --------------------------------------------------------------------------------------- the Lovasz extension


def hard_errors(wrong: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Logits whose errors are 1 in the wrong pixels and 0 in the others, under hinge and softmax."""
    if num_classes == 1:  # 1 - 0 and 1 - 1
        return ((2.0 * target - 1) * ~wrong)[:, None]
    return confident(torch.where(wrong, (target + 1) % num_classes, target), num_classes)


@binary_and_not
def test_lovasz_interpolates_the_jaccard_loss_of_hard_masks(num_classes):
    _, target = random_case(num_classes, size=(6, 4, 5))
    wrong = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    found = MASK_LOSSES["lovasz"](hard_errors(wrong, target, num_classes), target, reduction="none", absent="formula")
    for image, own, bad in zip(found, target.flatten(1), wrong.flatten(1), strict=True):
        predicted = torch.where(bad, (own + 1) % max(num_classes, 2), own)
        for loss, label in zip(image, range(max(num_classes, 2))[-num_classes:], strict=True):
            union = ((predicted == label) | (own == label)).sum()
            both = ((predicted == label) & (own == label)).sum()
            assert loss.item() == pytest.approx((1 - both / union).item() if union else 0.0)


def test_lovasz_and_soft_iou_agree_on_hard_masks():
    _, target = random_case(4, size=(6, 4, 5))
    logits = confident(random_case(4, size=(6, 4, 5), seed=1)[1], 4)
    lovasz, iou = (
        MASK_LOSSES[name](logits, target, reduction="none", **options)
        for name, options in (("lovasz", {}), ("iou", {"smooth": 0.0}))
    )
    torch.testing.assert_close(lovasz, iou)


@pytest.mark.parametrize("seed", range(4))
@binary_and_not
def test_lovasz_is_the_largest_of_all_orders(seed, num_classes):
    """A submodular function's extension is the maximum over all orders of sum m_k (J_k - J_{k-1}): brute force."""
    logits, target = random_case(num_classes, size=(1, 1, 6), seed=seed)
    found = MASK_LOSSES["lovasz"](logits, target, reduction="none", absent="formula")[0]
    for own, loss in zip(range(max(num_classes, 2))[-num_classes:], found.tolist(), strict=True):
        truth = {k for k, label in enumerate(target.flatten().tolist()) if label == own}
        rows = logits[0].flatten(1).T.tolist()
        errors = [
            max(0.0, 1 - row[0] * (1 if k in truth else -1))
            if num_classes == 1
            else abs(probabilities(row)[own] - (k in truth))
            for k, row in enumerate(rows)
        ]
        values = []
        for order in itertools.permutations(range(6)):
            jaccard = [jaccard_loss(set(order[:k]), truth) for k in range(7)]
            values.append(sum(errors[pixel] * (jaccard[k + 1] - jaccard[k]) for k, pixel in enumerate(order)))
        assert loss == pytest.approx(max(values))


# ----------------------------------------------------------------------------------- classes that are not there


@every_overlap_loss
def test_false_positives_on_a_background_only_image_are_punished_pixel_by_pixel(name):
    logits = torch.full((1, 1, 32, 32), -0.5, dtype=torch.float64)
    target = torch.zeros(1, 32, 32, dtype=torch.int64)
    loss, gradient = loss_and_gradient(name, logits, target)
    p = sigmoid(-0.5)
    expected = {"iou_log": -math.log(1 - p), "lovasz": 0.5}.get(name, p)
    assert loss.item() == pytest.approx(expected)
    assert (gradient > 0).all() and gradient.max() == pytest.approx(gradient.min())
    _, weak = loss_and_gradient(name, logits, target, absent="formula")
    if name in ("iou", "dice", "tversky"):
        assert weak.max() < 0.03 * gradient.min()  # punished in name only
    if name == "lovasz":
        assert (weak != 0).sum() == 1
    skipped = loss_and_gradient(name, logits, target, absent="skip")
    assert skipped[0] == 0 and (skipped[1] == 0).all()


@every_overlap_loss
@pytest.mark.parametrize("absent", ["area", "formula", "skip"])
def test_absent_says_what_counts_in_the_mean(name, absent):
    logits, target = random_case(4)
    target[target == 3] = 0
    target[1] = 1
    single = MASK_LOSSES[name](logits, target, reduction="none", absent=absent)
    present = torch.stack([(target == label).flatten(1).any(dim=1) for label in range(4)], dim=1)
    assert present.sum() == 7
    kept = single[present] if absent == "skip" else single
    torch.testing.assert_close(MASK_LOSSES[name](logits, target, absent=absent), kept.mean())
    assert ((single == 0) == ~present).all() if absent == "skip" else (single > 0).all()
    torch.testing.assert_close(single[present], MASK_LOSSES[name](logits, target, reduction="none")[present])


# ------------------------------------------------------------------------------- why soft: an argmax cannot learn


def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes of the IoU of the argmax."""
    found = logits.argmax(dim=1)
    pairs = [(found == label, target == label) for label in range(logits.shape[1])]
    return torch.stack([(a & b).sum() / (a | b).sum() for a, b in pairs]).mean()


def test_iou_of_an_argmax_has_no_gradient_and_the_soft_one_raises_it():
    logits, target = random_case(3, size=(1, 16, 16))
    learnt = (logits / 4).requires_grad_()
    before = hard_iou(learnt, target)
    assert before < 0.4 and not (1 - before).requires_grad  # nothing to train on
    for _ in range(30):
        (gradient,) = torch.autograd.grad(MASK_LOSSES["iou"](learnt, target), learnt)
        learnt = (learnt - 200 * gradient).detach().requires_grad_()
    assert hard_iou(learnt, target) > 0.99
    # and on hard masks both say the same
    hard = confident(learnt.argmax(dim=1), 3)
    torch.testing.assert_close(1 - MASK_LOSSES["iou"](hard, target, smooth=0.0), hard_iou(hard, target))


# ----------------------------------------------------------------------------------------------- wrong arguments

GOOD = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
WRONG = {
    "no batch": (GOOD[0][0], GOOD[1][0], {}, "logits are torch.float32 \\[3, 4, 5\\], expected a float"),
    "integer logits": (GOOD[0].long(), GOOD[1], {}, "logits are torch.int64"),
    "no pixels": (GOOD[0][:, :, :0], GOOD[1][:, :0], {}, "logits are"),
    "float target": (GOOD[0], GOOD[1].float(), {}, "target is torch.float32 .* expected torch.int64 \\[2, 4, 5\\]"),
    "one-hot target": (GOOD[0], GOOD[0].long(), {}, "target is torch.int64 \\[2, 3, 4, 5\\]"),
    "other size": (GOOD[0], GOOD[1][:, :3], {}, "target is"),
    "other batch": (GOOD[0], GOOD[1][:1], {}, "target is"),
    "class too high": (GOOD[0], GOOD[1] + 3, {}, "target holds 3, expected 0..2 or ignore_index -100"),
    "binary 255": (GOOD[0][:, :1], GOOD[1] + 255, {}, "target holds 255, expected 0..1"),
    "negative class": (GOOD[0], GOOD[1] - 1, {"ignore_index": 255}, "target holds -1, .* ignore_index 255"),
    "reduction": (*GOOD, {"reduction": "average"}, "reduction is 'average'"),
}


@every_loss
@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_told(name, case):
    logits, target, options, message = WRONG[case]
    with pytest.raises(ValueError, match=f"mask loss: {message}"):
        MASK_LOSSES[name](logits, target, **options)


def test_wrong_weight_and_absent_are_told():
    with pytest.raises(ValueError, match="weight has shape \\[2\\], expected \\[3\\]"):
        MASK_LOSSES["ce"](*GOOD, weight=torch.ones(2))
    for name in OVERLAP:
        with pytest.raises(ValueError, match="absent is 'present'"):
            MASK_LOSSES[name](*GOOD, absent="present")


# ----------------------------------------------------------------------------------------- what would stall a GPU


@every_loss
@binary_and_not
def test_nothing_waits_for_the_gpu(name, num_classes, monkeypatch):
    monkeypatch.setattr(mask, "_check_values", lambda *arguments: None)  # looks at values on a CPU only
    logits, target = random_case(num_classes, ignored=0.3)
    logits.requires_grad_()
    options = {"weight": torch.ones(max(num_classes, 2))} if name == "ce" else {}
    with CountSynchronisation() as count:
        MASK_LOSSES[name](logits, target, ignore_index=IGNORED, **options).backward()
    assert count.calls > 0 and count.waits == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_loss
@binary_and_not
def test_on_a_gpu_the_loss_is_the_same_and_nothing_waits(name, num_classes):
    logits, target = random_case(num_classes, ignored=0.3)
    expected = loss_and_gradient(name, logits, target)
    logits, target = logits.cuda(), target.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, gradient = loss_and_gradient(name, logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close((loss.cpu(), gradient.cpu()), expected)
