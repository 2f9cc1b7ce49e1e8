"""The loss against the formulas in a slow loop, torchvision, values worked out by hand, and its laws."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_lite.config.hyp import Hyp
from yolo_lite.loss.assigners import build_targets
from yolo_lite.loss.box import BOX_LOSSES
from yolo_lite.loss.classification import CLS_LOSSES
from yolo_lite.loss.criteria.anchor import AnchorCriterion, compute_loss, loss_gains, objectness_balance
from yolo_lite.model.heads.detect import COLUMNS
from yolo_lite.ops.grid import Grid, make_grid
from yolo_lite.structures import Losses, Matches, Objects, Raw

ANCHORS = torch.tensor(
    [
        [[10.0, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
)
STRIDES = (8, 16, 32)
PLAIN = Hyp(box=1.0, obj=1.0, cls=1.0)
RICH = Hyp(box=0.07, obj=0.8, cls=0.3, obj_pw=1.7, cls_pw=0.6, label_smoothing=0.1)
HYPS = {
    "defaults": Hyp(),
    "weights and smoothing": RICH,
    "focal": Hyp(fl_gamma=1.5),
    "all together": RICH.model_copy(update={"fl_gamma": 2.0}),
}
BY_BOX_LOSS = {name: Hyp(box_loss=name) for name in BOX_LOSSES}
BY_BINARY_LOSS = {f"obj and cls {name}": Hyp(obj_loss=name, cls_loss=name) for name in CLS_LOSSES}
EVERY_LOSS = HYPS | BY_BOX_LOSS | BY_BINARY_LOSS


def as_targets(*rows: tuple[int, int, list[float]]) -> Objects:
    """Rows of (image, label, cxcywh)."""
    box = torch.tensor([box for *_, box in rows], dtype=torch.float32).reshape(-1, 4)
    image, label = (torch.tensor([row[column] for row in rows], dtype=torch.int64) for column in (0, 1))
    return Objects(image, label, box)


def random_case(
    num_images: int, num_classes: int, count: int = 40, size: tuple[int, int] = (96, 160), seed: int = 0
) -> tuple[Tensor, Objects, Grid]:
    """Raw outputs, targets, grid; not square."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    grid = make_grid(ANCHORS, STRIDES, height, width)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    sides = torch.exp(torch.rand(count, 2, generator=generator) * math.log(60) + math.log(4))
    image = torch.randint(0, num_images, (count,), generator=generator)
    label = torch.randint(0, num_classes, (count,), generator=generator)
    raw = torch.randn(num_images, grid.num_slots, 5 + num_classes, generator=generator) * 1.5
    return raw, Objects(image, label, torch.cat((centre, sides), dim=1)), grid


def losses_of(hyp: Hyp, raw: Tensor) -> AnchorCriterion:
    return AnchorCriterion(hyp, np.ones(raw.shape[2] - 5))


def step_totals(matches: Sequence[Matches], grid: Grid, num_images: int) -> tuple[Tensor, ...]:
    return AnchorCriterion(Hyp(), np.ones(1)).totals(matches, [grid] * len(matches), num_images)


def loss_of_batch(raw: Tensor, targets: Objects, matches: Matches, grid: Grid, hyp: Hyp) -> Losses:
    """The losses of a batch that is a step of its own."""
    totals = step_totals([matches], grid, len(raw))
    return losses_of(hyp, raw)(Raw(raw, COLUMNS), targets, matches, grid, totals)


def losses_and_gradient(
    raw: Tensor,
    targets: Objects,
    grid: Grid,
    hyp: Hyp,
    matches: Matches | None = None,
    totals: tuple[Tensor, ...] | None = None,
) -> tuple[Losses, Tensor]:
    raw = raw.clone().requires_grad_()
    matches = matches or build_targets(targets, grid, hyp.anchor_t)
    totals = totals or step_totals([matches], grid, len(raw))
    parts = compute_loss(Raw(raw, COLUMNS), targets, matches, grid, losses_of(hyp, raw), totals)
    assert list(parts) == ["box", "obj", "cls"] and all(part.requires_grad for part in parts.values())
    (gradient,) = torch.autograd.grad(parts["box"] + parts["obj"] + parts["cls"], raw)
    return {name: part.detach() for name, part in parts.items()}, gradient


def assert_finite(parts: Losses, gradient: Tensor) -> None:
    assert all(part.isfinite() and part.shape == () and part.dtype == torch.float32 for part in parts.values())
    assert gradient.isfinite().all()


# --------------------------------------------------------------------------------------- the formulas, one by one


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_bce(x: float, target: float, positive_weight: float, gamma: float) -> float:
    p = sigmoid(x)
    loss = -positive_weight * target * math.log(p) - (1 - target) * math.log(1 - p)
    if gamma > 0:
        p_t = target * p + (1 - target) * (1 - p)
        loss *= (target * 0.25 + (1 - target) * 0.75) * (1 - p_t) ** gamma
    return loss


def slow_ciou(a: list[float], b: list[float]) -> tuple[float, float]:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    intersection = max(width, 0) * max(height, 0)
    iou = intersection / (aw * ah + bw * bh - intersection)
    enclosing_width = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    enclosing_height = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    distance = ((ax - bx) ** 2 + (ay - by) ** 2) / (enclosing_width**2 + enclosing_height**2)
    return iou - distance - v / (1 - iou + v) * v, iou


def slow_loss(
    raw: Tensor, targets: Objects, matches: Matches, anchors: Tensor, size: tuple[int, int], hyp: Hyp
) -> tuple[float, float, float]:
    """Box, obj, cls: level by level, slot by slot; yolov5-facts 2.2 and 2.3, objectness against the IoU."""
    (height, width), num_levels, num_classes = size, len(anchors), raw.shape[2] - 5
    slots = [
        (level, 8 * 2**level, x, y, anchor)
        for level in range(num_levels)
        for y in range(height // (8 * 2**level))
        for x in range(width // (8 * 2**level))
        for anchor in anchors[level].tolist()
    ]
    learns = {(i, s): t for i, s, t, _ in zip(*(values.tolist() for values in matches), strict=True)}
    box, obj, cls = ([[] for _ in range(num_levels)] for _ in range(3))
    for image, rows in enumerate(raw.tolist()):
        for slot, (row, (level, stride, x, y, anchor)) in enumerate(zip(rows, slots, strict=True)):
            target, iou = learns.get((image, slot)), 0.0
            if target is not None:
                a, b, c, d = (2 * sigmoid(t) for t in row[:4])
                found = [(x + a - 0.5) * stride, (y + b - 0.5) * stride, c**2 * anchor[0], d**2 * anchor[1]]
                ciou, iou = slow_ciou(found, targets.box[target].tolist())
                box[level].append(1 - ciou)
                hot = [hyp.label_smoothing / 2] * num_classes
                hot[targets.label[target]] = 1 - hyp.label_smoothing / 2
                cls[level] += [slow_bce(*pair, hyp.cls_pw, hyp.fl_gamma) for pair in zip(row[5:], hot, strict=True)]
            obj[level].append(slow_bce(row[4], iou, hyp.obj_pw, hyp.fl_gamma))
    balance = (4.0, 1.0, 0.4) if num_levels == 3 else (4.0, 1.0, 0.25, 0.06, 0.02)
    box_loss, cls_loss = (sum(sum(values) / len(values) for values in levels if values) for levels in (box, cls))
    obj_loss = sum(weight * sum(values) / len(values) for weight, values in zip(balance, obj, strict=False))
    return (
        box_loss * hyp.box * 3 / num_levels,
        obj_loss * hyp.obj * height * width / 640**2 * 3 / num_levels,
        cls_loss * hyp.cls * num_classes / 80 * 3 / num_levels if num_classes > 1 else 0.0,
    )


@pytest.mark.parametrize("hyp", HYPS.values(), ids=HYPS)
@pytest.mark.parametrize("num_classes", [1, 4])
def test_loss_equals_a_slow_loop(hyp, num_classes):
    raw, targets, grid = random_case(2, num_classes)
    matches = build_targets(targets, grid, hyp.anchor_t)
    assert (step_totals([matches], grid, 2)[1] > 1).all()  # every level has several positives
    parts = loss_of_batch(raw, targets, matches, grid, hyp)
    expected = slow_loss(raw, targets, matches, ANCHORS, (96, 160), hyp)
    assert [part.item() for part in parts.values()] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_levels", [1, 2, 4, 5])
def test_other_numbers_of_levels_equal_a_slow_loop(num_levels):
    anchors = torch.stack([ANCHORS[min(level, 2), :2] for level in range(num_levels)])
    grid = make_grid(anchors, [8 * 2**level for level in range(num_levels)], 128, 128)
    _, targets, _ = random_case(2, 3, size=(128, 128))
    raw = torch.randn(2, grid.num_slots, 8, generator=torch.Generator().manual_seed(1))
    matches = build_targets(targets, grid, 4.0)
    parts = loss_of_batch(raw, targets, matches, grid, Hyp())
    expected = slow_loss(raw, targets, matches, anchors, (128, 128), Hyp())
    assert [part.item() for part in parts.values()] == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------------------------- hand-worked


def four_cells() -> Grid:
    """2 x 2 cells of 8 pixels, one anchor of 16 x 16."""
    return make_grid(torch.tensor([[[16.0, 16]]]), (8,), 16, 16)


def test_single_perfect_target_hand_worked():
    # Raw zeros: a box of the anchor's size in the middle of its cell, every score 1/2. The target lies there too.
    targets = as_targets((0, 1, [4, 4, 16, 16]))
    parts, gradient = losses_and_gradient(torch.zeros(1, 4, 7), targets, four_cells(), PLAIN)
    assert parts["box"].item() == 0
    # One level: gains times 3; its balance is 4; the pictures have 16 * 16 of 640 * 640 pixels; 2 of 80 classes
    assert parts["obj"].item() == pytest.approx(math.log(2) * 4 * 3 * 256 / 640**2)
    assert parts["cls"].item() == pytest.approx(math.log(2) * 3 * 2 / 80)
    obj_gain, cls_gain = 4 * 3 * 256 / 640**2, 3 * 2 / 80
    # d BCE / d logit = p - t, over 4 slots and over 2 classes
    assert gradient[0, :, 4].tolist() == pytest.approx([-0.5 / 4 * obj_gain] + [0.5 / 4 * obj_gain] * 3)
    assert gradient[0, 0, 5:].tolist() == pytest.approx([0.5 / 2 * cls_gain, -0.5 / 2 * cls_gain])
    assert (gradient[0, 1:, 5:] == 0).all() and (gradient[0, 1:, :4] == 0).all()


def test_single_flat_target_hand_worked():
    targets = as_targets((0, 0, [4, 4, 16, 8]))  # the slot's box is 16 x 16: IoU 1/2, equal centres
    parts, gradient = losses_and_gradient(torch.zeros(1, 4, 7), targets, four_cells(), Hyp(obj=1.0))
    v = 4 / math.pi**2 * (math.atan(2) - math.pi / 4) ** 2  # 0.041957
    assert parts["box"].item() == pytest.approx(0.05 * 3 * (0.5 + v**2 / (0.5 + v)), rel=1e-6)  # 0.075487
    assert parts["box"].item() == pytest.approx(0.0754872, abs=1e-7)
    obj_gain = 4 * 3 * 256 / 640**2
    assert gradient[0, 0, 4].item() == pytest.approx((0.5 - 0.5) / 4 * obj_gain)  # the target of objectness is the IoU
    assert gradient[0, 0, 3] > 0  # a lower box fits better


def test_background_only_hand_worked():
    grid = make_grid(ANCHORS, STRIDES, 96, 160)
    raw = torch.zeros(3, grid.num_slots, 9)
    parts, gradient = losses_and_gradient(raw, as_targets(), grid, PLAIN)
    assert (parts["box"].item(), parts["cls"].item()) == (0, 0)
    # ln 2 is the mean of every level
    assert parts["obj"].item() == pytest.approx((4 + 1 + 0.4) * math.log(2) * 96 * 160 / 640**2)
    assert (gradient[..., :4] == 0).all() and (gradient[..., 5:] == 0).all()
    # p - t = 1/2, over the 3 pictures' slots of a level
    for level, balance in zip(grid.levels, (4, 1, 0.4), strict=True):
        slots = level.height * level.width * 3
        own = gradient[:, level.first_slot : level.first_slot + slots, 4]
        expected = 0.5 * balance / (3 * slots) * 96 * 160 / 640**2
        torch.testing.assert_close(own, torch.full_like(own, expected))


def test_gains_and_balance_hand_worked():
    hyp = Hyp(box=0.05, obj=1.0, cls=0.5)
    assert loss_gains(hyp, 3, 80, (640, 640)) == pytest.approx((0.05, 1.0, 0.5))
    assert loss_gains(hyp, 4, 20, (320, 640)) == pytest.approx((0.0375, 0.375, 0.09375))
    assert objectness_balance(3) == (4.0, 1.0, 0.4)
    assert objectness_balance(4) == (4.0, 1.0, 0.25, 0.06)
    assert objectness_balance(5) == (4.0, 1.0, 0.25, 0.06, 0.02)


def test_step_totals_hand_worked():
    grid = make_grid(ANCHORS, STRIDES, 32, 32)  # 48, 12 and 3 slots
    slots = [torch.tensor([0, 47, 48, 60]), torch.tensor([5]), torch.tensor([], dtype=torch.int64)]
    matches = [Matches(torch.zeros_like(slot), slot, torch.zeros_like(slot), slot.float()) for slot in slots]
    images, positives = step_totals(matches, grid, 7)
    assert images == 7 and positives.tolist() == [3, 1, 1]


# ----------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("hyp", EVERY_LOSS.values(), ids=EVERY_LOSS)
@pytest.mark.parametrize("sizes", [[2, 2], [1, 3], [1, 1, 1, 1], [3, 1]])
def test_gradient_does_not_depend_on_how_a_batch_is_split(hyp, sizes):
    raw, targets, grid = random_case(4, 3, count=60)
    # Very unequal: the third picture has one object, the last has none.
    kept = (targets.image < 2) | ((targets.image == 2).cumsum(0) == 1) & (targets.image == 2)
    targets = targets.select(kept)
    assert torch.bincount(targets.image, minlength=4)[2:].tolist() == [1, 0]
    whole, expected = losses_and_gradient(raw, targets, grid, hyp)

    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    pieces = []
    for first, size in zip(firsts, sizes, strict=True):
        own = (targets.image >= first) & (targets.image < first + size)
        pieces.append(targets.select(own)._replace(image=targets.image[own] - first))
    matches = [build_targets(piece, grid, hyp.anchor_t) for piece in pieces]
    totals = step_totals(matches, grid, 4)
    results = [
        losses_and_gradient(raw[first : first + size], piece, grid, hyp, match, totals=totals)
        for first, size, piece, match in zip(firsts, sizes, pieces, matches, strict=True)
    ]
    gradient = torch.cat([part for _, part in results])
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)
    for name in whole:
        total = sum(parts[name] for parts, _ in results)
        torch.testing.assert_close(total, whole[name], rtol=1e-5, atol=1e-9)


def test_a_validated_batch_is_its_own_step():
    raw, targets, grid = random_case(2, 3)
    found, matches = losses_of(Hyp(), raw).losses_of_batch(Raw(raw, COLUMNS), targets, grid, 2)
    assert found == loss_of_batch(raw, targets, matches, grid, Hyp())


def test_order_of_matches_does_not_matter():
    raw, targets, grid = random_case(2, 3, count=60)
    matches = build_targets(targets, grid, 4.0)
    order = torch.randperm(len(matches.slot), generator=torch.Generator().manual_seed(0))
    one = losses_and_gradient(raw, targets, grid, Hyp(), matches)
    other = losses_and_gradient(raw, targets, grid, Hyp(), Matches(*(column[order] for column in matches)))
    assert torch.equal(one[0]["obj"], other[0]["obj"]) and torch.equal(one[1][..., 4], other[1][..., 4])
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_objectness_target_is_the_detached_iou_under_every_box_loss(name):
    """Where objectness equals the IoU its gradient is 0, and objectness alone moves no box."""
    _, targets, grid = random_case(1, 3, count=10)
    matches = build_targets(targets, grid, 4.0)
    raw = torch.zeros(1, grid.num_slots, 8)
    only_obj = Hyp(box=0.0, cls=0.0, box_loss=name)
    for image, slot, target, _ in zip(*(values.tolist() for values in matches), strict=True):
        corner, stride, anchor = grid.slots.select(slot)
        box = [*(corner + stride / 2).tolist(), *anchor.tolist()]  # of raw zeros
        iou = slow_ciou(box, targets.box[target].tolist())[1]
        raw[image, slot, 4] = math.log(iou / (1 - iou)) if 0 < iou < 1 else -50.0
    _, gradient = losses_and_gradient(raw, targets, grid, only_obj, matches)
    background = gradient[0, :, 4].clone()
    background[matches.slot] = torch.inf
    assert gradient[matches.image, matches.slot, 4].abs().max() < 1e-5 * background.min()
    assert (gradient[..., :4] == 0).all() and (gradient[..., 5:] == 0).all()


def test_one_class_has_no_class_loss():
    raw, targets, grid = random_case(2, 1)
    parts, gradient = losses_and_gradient(raw, targets, grid, Hyp())
    assert parts["cls"].item() == 0 and (gradient[..., 5] == 0).all()
    assert parts["box"] > 0 and gradient[..., :4].abs().sum() > 0


@pytest.mark.parametrize("hyp", EVERY_LOSS.values(), ids=EVERY_LOSS)
def test_bfloat16_equals_float32_of_the_same_values(hyp):
    raw, targets, grid = random_case(2, 3)
    half = raw.bfloat16()
    parts, gradient = losses_and_gradient(half, targets, grid, hyp)
    expected, full_gradient = losses_and_gradient(half.float(), targets, grid, hyp)
    assert all(part.dtype == torch.float32 for part in parts.values()) and parts == expected
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.float(), full_gradient, rtol=2**-8, atol=1e-12)


ODD_TARGETS = {
    "no targets": as_targets(),
    "one level": as_targets((0, 0, [80, 48, 12, 14])),  # fits no anchor of the coarse levels
    "edges": as_targets((1, 0, [0, 0, 20, 30]), (1, 0, [160, 96, 20, 30]), (0, 0, [160, 0, 60, 60])),
    "no area": as_targets((0, 0, [80, 48, 0, 0]), (0, 0, [80, 48, 0, 30]), (1, 0, [80, 48, 1e-20, 1e-20])),
    "huge": as_targets((0, 0, [80, 48, 1e6, 1e6]), (0, 0, [80, 48, 160, 96]), (1, 0, [80, 48, 1e6, 1e-6])),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hyp", [HYPS["defaults"], HYPS["all together"]], ids=["defaults", "all together"])
@pytest.mark.parametrize("spread", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("targets", ODD_TARGETS.values(), ids=ODD_TARGETS)
def test_losses_and_gradients_are_finite(targets, num_classes, spread, hyp, dtype):
    grid = make_grid(ANCHORS, STRIDES, 96, 160)
    generator = torch.Generator().manual_seed(0)
    raw = (torch.randn(2, grid.num_slots, 5 + num_classes, generator=generator) * spread).to(dtype)
    parts, gradient = losses_and_gradient(raw, targets, grid, hyp)
    assert_finite(parts, gradient)
    assert gradient.dtype == dtype and gradient.shape == raw.shape
    if len(build_targets(targets, grid, 4.0).slot) == 0:
        assert parts["box"].item() == parts["cls"].item() == 0


@pytest.mark.parametrize("hyp", EVERY_LOSS.values(), ids=EVERY_LOSS)
def test_every_loss_is_finite_for_odd_targets_and_saturated_logits(hyp):
    grid = make_grid(ANCHORS, STRIDES, 96, 160)
    raw = torch.randn(2, grid.num_slots, 8, generator=torch.Generator().manual_seed(0))
    for targets in ODD_TARGETS.values():
        for spread, dtype in ((1.0, torch.float32), (1e4, torch.float32), (1e4, torch.float16)):
            assert_finite(*losses_and_gradient((raw * spread).to(dtype), targets, grid, hyp))


def test_a_level_without_positives_adds_nothing_to_box_and_class():
    raw, _, grid = random_case(2, 3)
    targets = as_targets((0, 1, [84, 52, 6, 8]))  # only the finest level's first anchor is near enough, only one cell
    matches = build_targets(targets, grid, 2.0)
    assert step_totals([matches], grid, 2)[1].tolist() == [1, 0, 0]
    parts, gradient = losses_and_gradient(raw, targets, grid, PLAIN, matches)
    assert_finite(parts, gradient)
    expected = slow_loss(raw, targets, matches, ANCHORS, (96, 160), PLAIN)
    assert [part.item() for part in parts.values()] == pytest.approx(expected, rel=1e-5)


def test_arguments_are_left_as_they_were():
    raw, targets, grid = random_case(2, 3)
    matches = build_targets(targets, grid, 4.0)
    arguments = (raw, *targets[:3], *matches, *grid[1:-1], *grid.slots)
    before = [values.clone() for values in arguments]
    loss_of_batch(raw, targets, matches, grid, Hyp())
    assert all(torch.equal(one, other) for one, other in zip(before, arguments, strict=True))


# ----------------------------------------------------------------------------------- what would stall a GPU


class CountSynchronisation(TorchDispatchMode):
    """Counts the operators that make the host wait for a GPU, and all others."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        self.calls += 1
        # .item(), .tolist(), bool(); sizes that depend on values; a tensor made of Python numbers is a copy to the GPU
        if name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2"):
            self.waits[name] += 1
        if name == "lift_fresh":
            self.waits["tensor from Python numbers"] += 1
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            self.waits["nonzero"] += 1  # a mask becomes indices
        return function(*args, **(kwargs or {}))


PROBES = {
    "item": lambda values: values[0].item(),
    "bool": lambda values: bool(values[0] > 0),
    "mask": lambda values: values[values > 1],
    "list index": lambda values: values[[2, 1]],
    "new_tensor": lambda values: values.new_tensor([1.0, 2.0]),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_the_counter_sees_what_it_is_to_see(probe):
    with CountSynchronisation() as count:
        probe(torch.arange(3.0))
    assert count.waits.total() == 1


@pytest.mark.parametrize("hyp", [HYPS["all together"], *BY_BOX_LOSS.values()], ids=["all together", *BY_BOX_LOSS])
def test_only_the_selection_of_matches_waits_for_the_gpu(hyp, monkeypatch):
    monkeypatch.setattr(Tensor, "tolist", lambda self: pytest.fail("tolist"))  # no operator on a CPU: not counted
    calls = []
    for count in (10, 200):
        raw, targets, grid = random_case(2, 3, count=count)
        raw.requires_grad_()
        losses = losses_of(hyp, raw)
        with CountSynchronisation() as selection:
            matches = build_targets(targets, grid, hyp.anchor_t)
        # which shapes fit, which cells exist, which claim to a slot is the first: three sizes that depend on values
        assert selection.waits == {"nonzero": 3}
        with CountSynchronisation() as loss:
            totals = losses.totals([matches], [grid], 2)
            sum(losses(Raw(raw, COLUMNS), targets, matches, grid, totals).values()).backward()
        assert loss.waits == {}
        calls.append(selection.calls + loss.calls)
    assert calls[0] == calls[1]  # no loop over targets
