"""Laws of the head without anchors, its boxes and its criterion; each number by hand, by a slow loop, by a library."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SHARED, tiny_config, with_figures
from test_criteria import CPU
from test_export import FORMATS, SUFFIX, assert_near, assert_same, detections_in
from test_optimizer import part, random_batch
from test_resume import assert_same_run, go_on, last_of, send, stop_after
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError, StoppedError
from yolo_lite.config.foreign import ConfigWarning
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_model_config
from yolo_lite.deploy.exported import load_exported
from yolo_lite.deploy.graph import Decoded
from yolo_lite.engine.checkpoint import save_checkpoint
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.optimizer import Plan
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.start import start_from
from yolo_lite.engine.state import initial_state
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.train import Step, train, train_step
from yolo_lite.loss.criteria import FreeCriterion
from yolo_lite.loss.criteria.free import distribution_focal
from yolo_lite.model.builder import build_layers
from yolo_lite.model.detector import Detector
from yolo_lite.model.heads.detect_free import Arguments, branch_widths
from yolo_lite.ops.boxes import aligned_iou, cxcywh_to_xyxy
from yolo_lite.ops.distances import decode_distances, distances, distances_to_sides
from yolo_lite.ops.grid import Grid, Slots, make_grid
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Batch, Matches, Objects, Raw

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
FREE = str(REPOSITORY / "cfg/yolo_n_free.yaml")
SMALL = """
nc: {nc}
width_multiple: 0.25
backbone:
  - [-1, 1, Conv, [32, 6, 2, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [96, 3, 2]]
head:
  - [[2, 3], 1, DetectFree, {row}]
"""


def small(folder: Path, row: str = "[nc]", nc: int = 3) -> Detector:
    (folder / "small.yaml").write_text(SMALL.format(nc=nc, row=row))
    torch.manual_seed(0)
    return Detector(load_model_config(folder / "small.yaml"))


def criterion_of(nc: int = 3, **keys: object) -> FreeCriterion:
    return FreeCriterion(Hyp(**keys), np.arange(1, nc + 1))


# ------------------------------------------------------------------------------------------------------------ boxes

ONE_SLOT = Slots(torch.tensor([16.0, 24.0]), torch.tensor([8.0]), torch.tensor([8.0, 8.0]))  # its centre is (20, 28)


def test_a_box_by_hand():
    # Four bins: all of left on 1, top half on 0 and half on 1, right on 3, bottom evenly on 0 to 3, which is 1.5.
    far = 40.0
    left, top, right = [0, far, 0, 0], [far, far, 0, 0], [0, 0, 0, far]
    raw = torch.tensor([*left, *top, *right, 0, 0, 0, 0], dtype=torch.float32)
    assert distances(raw).tolist() == pytest.approx([1, 0.5, 3, 1.5])
    # From 20 - 8 to 20 + 24 and from 28 - 4 to 28 + 12.
    assert decode_distances(raw, ONE_SLOT).tolist() == pytest.approx([28, 32, 32, 16])
    plain = torch.tensor([2.0, 1.0, 3.0, 1.5]).expm1().log()  # softplus of which is that
    assert decode_distances(plain, ONE_SLOT).tolist() == pytest.approx([24, 30, 40, 20])


@pytest.mark.parametrize("bins", [1, 4, 16])
def test_boxes_are_what_a_slow_loop_makes_of_them(bins: int):
    grid = make_grid(torch.tensor([[[8.0, 8.0]], [[16.0, 16.0]]]), (8, 16), 32, 48)
    raw = torch.randn(2, grid.num_slots, 4 * bins, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = decode_distances(raw, grid.slots)
    for image, slot in itertools.product(range(2), range(grid.num_slots)):
        side = []
        for logits in raw[image, slot].reshape(4, bins).tolist():
            powers = [math.exp(logit) for logit in logits]
            mean = sum(number * power for number, power in enumerate(powers)) / sum(powers)
            side.append((mean if bins > 1 else math.log1p(powers[0])) * grid.slots.stride[slot].item())
        x, y = grid.slots.centre[slot].tolist()
        left, top, right, bottom = x - side[0], y - side[1], x + side[2], y + side[3]
        expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        assert found[image, slot].tolist() == pytest.approx(expected, rel=1e-6)
    assert bool((found[..., 2:] > 0).all())


def test_sides_and_boxes_are_inverse():
    box = torch.tensor([[20.0, 30.0, 24.0, 40.0], [14.0, 22.0, 20.0, 36.0]], dtype=torch.float64)
    slots = Slots(*(column.expand(2, -1) for column in ONE_SLOT))
    assert distances_to_sides(box, slots)[0].tolist() == [1.5, 2.25, 1.5, 2.75]
    plain = distances_to_sides(box, slots).clamp(min=1e-3).expm1().log()
    torch.testing.assert_close(decode_distances(plain, slots)[0], box[0])


@pytest.mark.parametrize("bins", [1, 5])
def test_gradients_of_boxes_are_finite_differences(bins: int):
    raw = torch.randn(3, 4 * bins, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decode_distances(x, ONE_SLOT), raw)
    distance = torch.rand(3, 4, dtype=torch.float64) * 6 - 1
    assert torch.autograd.gradcheck(lambda x: distribution_focal(x, distance), raw)


# ------------------------------------------------------------------------------------------- distribution focal loss


def test_distribution_focal_loss_by_hand():
    raw = torch.tensor([0.0, math.log(3), 0.0, math.log(5)]).repeat(4)[None]  # probabilities .1 .3 .1 .5
    # Distances 1.25, 3, 7 (as 3) and -2 (as 0).
    found = distribution_focal(raw, torch.tensor([[1.25, 3.0, 7.0, -2.0]]))
    sides = [-0.75 * math.log(0.3) - 0.25 * math.log(0.1), -math.log(0.5), -math.log(0.5), -math.log(0.1)]
    assert found.item() == pytest.approx(sum(sides) / 4)


def test_distribution_focal_loss_is_cross_entropy_with_the_two_bins_around_it():
    generator = torch.Generator().manual_seed(0)
    raw, distance = torch.randn(50, 64, generator=generator), torch.rand(50, 4, generator=generator) * 15
    low = distance.floor().clamp(max=14).long()
    entropy = functools.partial(nn.functional.cross_entropy, raw.reshape(-1, 16), reduction="none")
    low_loss, high_loss = (entropy(bins.flatten()).reshape(50, 4) for bins in (low, low + 1))
    expected = ((low + 1 - distance) * low_loss + (distance - low) * high_loss).mean(dim=1)
    torch.testing.assert_close(distribution_focal(raw, distance), expected)


def test_distribution_focal_loss_is_lowest_at_the_target_and_nothing_for_plain_distances():
    target = torch.tensor([[2.5, 0.0, 3.0, 1.0]])
    at_target = ((1 - (target[..., None] - torch.arange(4)).abs()).clamp(min=0) + 1e-9).log().flatten(1)
    raw = at_target.clone().requires_grad_()
    distribution_focal(raw, target).sum().backward()
    assert raw.grad.abs().max() < 1e-6
    assert distribution_focal(torch.randn(7, 4), torch.rand(7, 4)).tolist() == [0] * 7


# ------------------------------------------------------------------------------------------------------ the criterion


class Case:
    """Random outputs for two images, objects, and pairs with scores."""

    def __init__(self, bins: int = 4, nc: int = 3, size: tuple[int, int] = (32, 48)) -> None:
        generator = torch.Generator().manual_seed(bins)
        self.grid: Grid = make_grid(torch.tensor([[[8.0, 8.0]], [[16.0, 16.0]]]), (8, 16), *size)
        box = torch.tensor([[20.0, 16, 24, 20], [30, 10, 30, 16], [24, 16, 40, 30], [90, 16, 10, 10]])
        self.objects = Objects(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 0]) % nc, box)
        slots = torch.randn(2, self.grid.num_slots, 4 * bins + nc, generator=generator)
        self.raw = Raw(slots.requires_grad_(), {"box": slice(0, 4 * bins), "cls": slice(4 * bins, None)})
        pairs = [(0, 7, 0, 0.9), (0, 8, 0, 0.4), (0, 9, 1, 0.7), (1, 14, 2, 0.3), (1, 25, 2, 1.0), (1, 11, 3, 0.2)]
        image, slot, target, score = zip(*pairs, strict=True)
        columns = (torch.tensor(column) for column in (image, slot, target))
        self.matches = Matches(*columns, torch.tensor(score))


def slow_losses(
    raw: Tensor, case: Case, bins: int, smoothing: float = 0.0, weights: list[float] | None = None
) -> dict[str, Tensor]:
    """BCE, GIoU and DFL by loops, from outputs ``[B, N, 4R + C]``; undivided, with the gains of hyp.yaml."""
    num_classes = raw.shape[2] - 4 * bins
    pairs = {(i, s): (t, score) for i, s, t, score in zip(*(c.tolist() for c in case.matches), strict=True)}
    box_loss = cls_loss = dfl_loss = raw.sum() * 0
    for image, slot in itertools.product(range(2), range(case.grid.num_slots)):
        target, score = pairs.get((image, slot), (None, 0.0))
        label = None if target is None else int(case.objects.label[target])
        for number in range(num_classes):
            share = 1 - smoothing / 2 if number == label else smoothing / 2
            p, y = raw[image, slot, 4 * bins + number].sigmoid(), score * share
            weight = 1 if weights is None or label is None else weights[label]
            cls_loss = cls_loss - weight * (y * p.log() + (1 - y) * (1 - p).log())
        if target is None:
            continue
        sides = raw[image, slot, : 4 * bins].reshape(4, bins)
        stride, (x, y) = case.grid.slots.stride[slot].item(), case.grid.slots.centre[slot].tolist()
        left, top, right, bottom = [
            (nn.functional.softplus(side[0]) if bins == 1 else (side.softmax(0) * torch.arange(bins)).sum()) * stride
            for side in sides
        ]
        box = torch.stack((x - left, y - top, x + right, y + bottom))
        x1, y1, x2, y2 = cxcywh_to_xyxy(case.objects.box[target]).tolist()
        truth = torch.tensor([x1, y1, x2, y2], dtype=raw.dtype)
        box_loss = box_loss + score * generalized_box_iou_loss(box, truth, eps=1e-12)
        if bins > 1:
            for side, distance in zip(sides, ((x - x1), (y - y1), (x2 - x), (y2 - y)), strict=True):
                d = min(max(distance / stride, 0), bins - 1)
                low = min(int(d), bins - 2)
                p = side.softmax(0)
                dfl_loss = dfl_loss - score * ((low + 1 - d) * p[low].log() + (d - low) * p[low + 1].log()) / 4
    return {"box": 7.5 * box_loss, "cls": 0.5 * cls_loss, "dfl": 1.5 * dfl_loss}


@pytest.mark.parametrize("bins", [1, 4, 16])
@pytest.mark.parametrize(
    ("nc", "keys"), [(3, {}), (1, {}), (2, {"label_smoothing": 0.2}), (3, {"cls_weights": "auto"})]
)
def test_losses_and_gradient_are_those_of_a_slow_loop(bins: int, nc: int, keys: dict[str, object]):
    case, criterion = Case(bins, nc), criterion_of(nc, box_loss="giou", **keys)
    exact = case.raw.slots.detach().double().requires_grad_()
    weights = criterion.class_weight.tolist() if "cls_weights" in keys else None
    expected = slow_losses(exact, case, bins, float(keys.get("label_smoothing", 0)), weights)
    found = criterion(case.raw, case.objects, case.matches, case.grid, None)
    assert tuple(found) == criterion.names
    for name in criterion.names:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5), name
    sum(found.values()).backward()
    sum(expected.values()).backward()
    torch.testing.assert_close(case.raw.slots.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_the_slow_loop_is_finite_differences():
    case = Case(bins=3, nc=2, size=(16, 16))
    case.matches = Matches(*(torch.tensor(column) for column in ([0, 1], [1, 4], [0, 2])), torch.tensor([0.5, 0.8]))
    raw = torch.randn(2, case.grid.num_slots, 14, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sum(slow_losses(x, case, 3, 0.1).values()), raw)


@pytest.mark.parametrize("cls_loss", ["bce", "qfl", "vfl", "focal", "poly", {"qfl": {"beta": 1.5}}])
@pytest.mark.parametrize("box_loss", ["ciou", "wiou", "l1", "nwd"])
def test_every_pair_of_losses_is_finite_and_learns(cls_loss: object, box_loss: str):
    case = Case()
    losses = criterion_of(cls_loss=cls_loss, box_loss=box_loss)(case.raw, case.objects, case.matches, case.grid, None)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert case.raw.slots.grad.isfinite().all() and bool((case.raw.slots.grad != 0).any(dim=2).all())


def test_cls_pw_is_a_factor_on_the_positive_term():
    case = Case(nc=1)
    one, two, three = (
        criterion_of(1, cls_pw=weight)(case.raw, case.objects, case.matches, case.grid, None)["cls"].item()
        for weight in (1.0, 2.0, 3.0)
    )
    matched = case.raw["cls"][case.matches.image, case.matches.slot, 0]
    positive = -(case.matches.score * matched.sigmoid().log()).sum().item() * 0.5
    assert two - one == pytest.approx(positive, rel=1e-4) and three - two == pytest.approx(positive, rel=1e-4)


@pytest.mark.parametrize("assigner", ["tal", "simota", "atss"])
@pytest.mark.parametrize("nc", [1, 2])
def test_without_objects_losses_are_finite_and_carry_a_gradient(assigner: str, nc: int):
    case, criterion = Case(nc=nc), criterion_of(nc, assigner=assigner)
    nothing = case.objects.select(torch.zeros(4, dtype=torch.bool))
    matches = criterion.assign(nothing, case.grid, criterion.predictions(case.raw, case.grid))
    losses = criterion(case.raw, nothing, matches, case.grid, None)
    sum(losses.values()).backward()
    assert losses["box"] == losses["dfl"] == 0 and losses["cls"] > 0 and criterion.divisor(matches) == 0
    assert all(loss.requires_grad for loss in losses.values()) and case.raw.slots.grad.isfinite().all()


def test_predictions_are_decoded_in_float32_and_say_how_far_sides_reach():
    case = Case(bins=16)
    half = Raw(case.raw.slots.detach().bfloat16(), case.raw.columns)
    predictions = criterion_of().predictions(half, case.grid)
    assert predictions.box.dtype == predictions.score.dtype == torch.float32 and predictions.reach == 15
    exact = decode_distances(half["box"].double(), case.grid.slots)
    torch.testing.assert_close(predictions.box.double(), exact, rtol=1e-5, atol=1e-4)
    assert criterion_of().predictions(Case(bins=1).raw, case.grid).reach == math.inf
    losses = criterion_of()(half, case.objects, case.matches, case.grid, None)
    exact_losses = criterion_of()(half.float(), case.objects, case.matches, case.grid, None)
    assert all(torch.equal(losses[name], exact_losses[name]) for name in losses)


def test_pairs_that_an_assigner_does_not_grade_count_as_much_as_their_boxes_overlap():
    case, criterion = Case(bins=1), criterion_of(assigner="atss")
    predictions = criterion.predictions(case.raw, case.grid)
    matches = criterion.assign(case.objects, case.grid, predictions)
    iou = aligned_iou(predictions.box[matches.image, matches.slot], case.objects.box[matches.target])
    assert criterion.needs_predictions and len(iou) and torch.equal(matches.score, iou.clamp(min=0.1))


def test_atss_stands_in_for_the_first_epochs():
    case = Case()
    static, tal, atss = (
        criterion_of(**keys) for keys in ({"static_epochs": 2}, {"assigner": "tal"}, {"assigner": "atss"})
    )
    predictions = tal.predictions(case.raw, case.grid)
    by_epoch = []
    for number in (0, 1, 2, 5, 1):
        static.start_epoch(number)
        by_epoch.append(static.assign(case.objects, case.grid, predictions))
    expected = [one.assign(case.objects, case.grid, predictions) for one in (atss, atss, tal, tal, atss)]
    for found, other in zip(by_epoch, expected, strict=True):
        assert all(map(torch.equal, found, other))
    assert by_epoch[0].slot.tolist() != by_epoch[2].slot.tolist()


# ------------------------------------------------------------------------------------------------- the law of splitting


def step_over(detector: Detector, parts: list[Batch], **keys: object) -> tuple[Step, Tensor]:
    """One optimizer step over some batches, and its gradient; batch normalisation stands still, no weight moves."""
    keys = {"optimizer": "SGD", "momentum": 0.0, "warmup_epochs": 0.0, "clip_norm": 0.0, "nominal_batch": 1, **keys}
    hyp, gradient = Hyp(**keys), []
    state = initial_state(detector, FreeCriterion(hyp, np.ones(3)), hyp, CPU)
    state.optimizer.step = lambda *_: gradient.extend(p.grad.flatten().clone() for p in detector.parameters())
    step = train_step(state, [one.to(CPU) for one in parts], Setup(hyp, CPU, Plan(1, 1, 1), seed=0))
    return step, torch.cat(gradient)


@pytest.mark.parametrize("keys", [{}, {"assigner": "simota"}, {"assigner": "atss", "cls_loss": "vfl"}])
@pytest.mark.parametrize("cuts", [[0, 4, 8], [0, 1, 8], [0, 3, 3, 5, 8]])
def test_the_gradient_does_not_depend_on_how_the_step_is_split(
    tmp_path: Path, keys: dict[str, object], cuts: list[int]
):
    detector, whole = small(tmp_path).eval(), random_batch(8, seed=0)
    whole = whole._replace(objects=whole.objects.select(whole.objects.image != 2))  # no object in one image
    expected, gradient = step_over(detector, [whole], **keys)
    found, split = step_over(detector, [part(whole, *pair) for pair in itertools.pairwise(cuts)], **keys)
    assert (split - gradient).norm() < 1e-5 * gradient.norm() and gradient.norm() > 0
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-8)


def test_a_step_is_divided_by_its_summed_scores(tmp_path: Path):
    detector, batch = small(tmp_path).eval(), random_batch(3, seed=1)
    step, _ = step_over(detector, [batch])
    criterion, grid = criterion_of(), detector.grid(64, 64)
    with torch.no_grad():
        raw = detector(batch.to(CPU).images)
        matches = criterion.assign(batch.objects, grid, criterion.predictions(raw, grid))
        losses = criterion(raw, batch.objects, matches, grid, None)
    assert matches.score.sum() > 1
    torch.testing.assert_close(step.losses, torch.stack(tuple(losses.values())) / matches.score.sum())


# ------------------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize("row", ["[nc]", "[3, 1]", "[nc, 8, true]", "[]"])
def test_first_outputs_are_boxes_four_cells_wide_and_eight_objects_a_level(tmp_path: Path, row: str):
    detector = small(tmp_path, row).eval()
    for branch in (*detector.head.box, *detector.head.cls):
        nn.init.zeros_(branch[-1].weight)
    raw, grid = detector(torch.rand(1, 3, 640, 640)), detector.grid(640, 640)
    size = detector.head.boxes(raw, grid)[0, :, 2:] / grid.slots.stride
    assert bool(((size > 3.2) & (size <= 4.001)).all())  # 16 bins cut the tail off, 8 more of it
    expected = raw["cls"].sigmoid().sum(dim=2)[0]
    logistic = [expected[grid.level == level].sum().item() for level in range(2)]
    assert logistic == pytest.approx([8, 8], rel=0.01)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("[nc, 0]", "R of 1 to 64"),
        ("[nc, 65]", "found ['nc', 65]"),
        ("[nc, 16, 1]", "true or false"),
        ("[nc, 16, true, 3]", "found ['nc', 16, True, 3]"),
        ("[nc, true]", "R of 1 to 64"),
        ("[nc, anchors]", "DetectFree takes [nc, R, depthwise]"),
        ("[80]", "found [80]"),
    ],
)
def test_a_row_that_does_not_fit_is_one_line(tmp_path: Path, row: str, words: str):
    with pytest.raises(ConfigError, match="head row 0") as error:
        small(tmp_path, row)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_key_anchors_is_refused():
    with pytest.raises(ConfigError, match="leave the key anchors out"):
        Detector(load_model_config(FREE, ["model.anchors=3"]))


def test_the_budget_knows_what_the_head_costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    spent: list[float] = []
    monkeypatch.setattr("yolo_lite.model.budget.Budget.spend", lambda _, parameters, *more: spent.append(parameters))
    head = small(tmp_path).head
    convolutions = sum(module.weight.numel() for module in head.modules() if isinstance(module, nn.Conv2d))
    assert sum(spent[-4:]) == convolutions
    monkeypatch.undo()
    (tmp_path / "bomb.yaml").write_text(
        SMALL.format(nc=50_000, row="[nc]").replace("96", "65000").replace("64", "65000")
    )
    with pytest.raises(ConfigError, match="expected a"):
        build_layers(load_model_config(tmp_path / "bomb.yaml"))


def test_widths_of_the_branches():
    assert branch_widths(64, Arguments())[:2] == (64, 64) and branch_widths(320, Arguments(), 32) == (80, 320, 80)
    assert branch_widths(64, Arguments(bins=1))[:2] == (16, 64)
    assert branch_widths(16, Arguments(bins=1), 32) == (16, 16, 32)


@pytest.mark.parametrize(("size", "parameters", "operations"), [("n", 2_524_048, 7.1), ("s", 9_153_136, 24.0)])
def test_the_header_of_a_file_says_what_the_summary_says(size: str, parameters: int, operations: float):
    path = REPOSITORY / f"cfg/yolo_{size}_free.yaml"
    described = Detector(load_model_config(path)).describe(640)
    assert f"{parameters:,} parameters, {operations:.1f} GFLOPs at 640 px" in described
    assert f"{parameters:,} parameters at nc 80, {operations:.1f} GFLOPs at 640 px" in path.read_text()


@pytest.mark.parametrize("size", ["n", "s", "m", "l", "x"])
def test_backbone_and_neck_are_those_of_the_anchor_head(size: str):
    free, anchors = (load_model_config(REPOSITORY / f"cfg/yolo_{size}{kind}.yaml") for kind in ("_free", ""))
    assert free.backbone == anchors.backbone and free.head[:-1] == anchors.head[:-1]
    assert (free.depth_multiple, free.width_multiple) == (anchors.depth_multiple, anchors.width_multiple)
    assert free.head[-1].source == anchors.head[-1].source and free.anchors is None


def test_a_fused_detector_computes_the_same(tmp_path: Path):
    detector, images = small(tmp_path, "[nc, 16, true]").eval(), torch.rand(2, 3, 64, 96)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    fused = detector.for_inference()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused(images).slots, detector(images).slots, rtol=1e-4, atol=1e-4)


def test_a_short_cut_over_slots_loses_no_detection(tmp_path: Path):
    detector = small(tmp_path).eval()
    raw, grid = detector(torch.rand(1, 3, 64, 64)), detector.grid(64, 64)
    raw.slots.data[..., -3:] += 4 + torch.randn(grid.num_slots, 3)
    for confidence in (0.001, 0.3, 0.5):
        above = (detector.head.scores(raw)[0] > confidence).any(dim=1).nonzero().squeeze(1)
        assert torch.equal(detector.head.likely(raw.select(0), confidence), above)


def test_class_rows_are_those_of_the_last_convolution(tmp_path: Path):
    detector = small(tmp_path)
    state = detector.state_dict()
    for name, rows in detector.class_rows().items():
        assert len(state[name]) == rows.count(3) and rows.of([2, 0], 3) == [2, 0]
    assert len(detector.class_rows()) == 4


# ----------------------------------------------------------------------------------------------------------- whole runs


def saved(detector: Detector, tiny_data: Path, folder: Path, cfg: str, *words: str) -> Path:
    config = tiny_config(tiny_data, folder, "--cfg", cfg, "--set", "precision=fp32", *words)
    criterion = task_of(config.model).criterion(config.model, config.hyp, np.ones(5))
    states = {"ema": detector.state_dict(), "losses": criterion.state_dict()}
    save_checkpoint(folder / "weights.pt", {"config": config.plain(), "epoch": 0, "metrics": {}, **states})
    return folder / "weights.pt"


def test_weights_of_the_anchor_head_give_backbone_and_neck(tiny_data: Path, tmp_path: Path, capsys):
    anchors, free = (
        Detector(load_model_config(REPOSITORY / f"cfg/yolo_n{kind}.yaml", ["model.nc=5"])) for kind in ("", "_free")
    )
    weights = saved(anchors, tiny_data, tmp_path, "yolo_n")
    start_from(str(weights), free, ["circle", "square", "triangle", "star", "heart"])
    mine, theirs = free.state_dict(), anchors.state_dict()
    shared = [name for name in mine if not name.startswith("layers.24.")]
    assert all(torch.equal(mine[name], theirs[name]) for name in shared)
    said = capsys.readouterr().out
    counts = f"{len(shared)} of {len(mine)} tensors taken over (backbone 198 of 198, neck 144 of 144, head 0 of "
    assert f"{counts}{len(mine) - len(shared)}), not: layers.24." in said
    assert said.count("\n") == 1


def test_classes_follow_by_name(tiny_data: Path, tmp_path: Path):
    before, after = small(tmp_path, nc=5), small(tmp_path, nc=3)
    for parameter in after.head.parameters():
        nn.init.zeros_(parameter)
    weights = saved(before, tiny_data, tmp_path, str(tmp_path / "small.yaml"))
    start_from(str(weights), after, ["star", "new", "circle"])
    for mine, theirs in zip(after.head.cls, before.head.cls, strict=True):
        assert torch.equal(mine[2].weight[[0, 2]], theirs[2].weight[[3, 0]]) and not mine[2].weight[1].any()
        assert torch.equal(mine[0].conv.weight, theirs[0].conv.weight)


@pytest.mark.parametrize("steps", [1, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (2, 3, 5))])
def test_a_run_goes_on_to_the_bit_from_either_side_of_the_static_start(
    tiny_data: Path, tmp_path: Path, monkeypatch, steps: int
):
    words = ("--cfg", FREE, "--epochs", "3", "--set", "static_epochs=1", "box_loss=wiou")
    straight = train(tiny_config(tiny_data, tmp_path / "straight", *words)).folder
    with monkeypatch.context() as patch:
        stop_after(patch, steps, send(15))
        with pytest.raises(StoppedError):
            train(tiny_config(tiny_data, tmp_path / "stopped", *words))
    go_on(tmp_path / "stopped")
    assert_same_run(last_of(tmp_path / "stopped").parents[1], straight)


@pytest.mark.parametrize("key", ["assigner=anchor_ratio", "assigner={anchor_ratio: {}}"])
def test_an_assigner_that_fits_another_head_is_refused_in_one_line(tiny_data: Path, tmp_path: Path, key: str):
    with pytest.raises(ConfigError) as error:
        tiny_config(tiny_data, tmp_path, "--cfg", FREE, "--set", key)
    assert "--set assigner" in str(error.value) and "\n" not in str(error.value)
    assert "fits DetectFree, of auto, tal, simota, atss, found anchor_ratio" in str(error.value)
    assert tiny_config(tiny_data, tmp_path, "--set", key).hyp.assigner.name == "anchor_ratio"


def test_keys_of_the_anchor_head_are_said_to_have_no_effect():
    with pytest.warns(ConfigWarning, match=r"^obj, anchor_t: without effect on DetectFree$"):
        FreeCriterion(Hyp(obj=2.0, anchor_t=3.0, dfl=1.0), np.ones(3))


def test_in_fp16_undivided_sums_start_unscaled(tmp_path: Path):
    half = choose_compute("cpu", "bf16", True)._replace(dtype=torch.float16)
    state = initial_state(small(tmp_path), FreeCriterion(Hyp(), np.ones(3)), Hyp(), half)
    assert state.scaler.get_scale() == 1.0


def test_auto_is_the_assigner_of_the_head_and_takes_no_parameters(tiny_data: Path, tmp_path: Path):
    for cfg, own in (("yolo_n", "anchor_ratio"), (FREE, "tal")):
        config = tiny_config(tiny_data, tmp_path, "--cfg", cfg)
        criterion = task_of(config.model).criterion(config.model, config.hyp, np.ones(5))
        assert config.hyp.assigner.name == "auto" and criterion.assigner.name == own
    with pytest.raises(ConfigError, match=r"auto takes no parameters, found .'topk': 3"):
        tiny_config(tiny_data, tmp_path, "--set", "assigner={auto: {topk: 3}}")


SLOW = [*itertools.product(["yolo_n"], ["auto", "tal", "simota", "atss"])]
SLOW += [*itertools.product([FREE], ["tal", "simota", "atss"])]


@pytest.mark.parametrize(
    ("cfg", "assigner"), [(FREE, "auto"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]
)
def test_the_image_of_assignments_is_drawn_for_every_assigner(
    tiny_data: Path, tmp_path: Path, cfg: str, assigner: str, monkeypatch
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("yolo_lite.engine.record.EPOCHS_BETWEEN_FIGURES", 1)
    words = ("--cfg", cfg, "--set", f"assigner={assigner}", "mosaic=0")
    folder = train(with_figures(tiny_config(tiny_data, tmp_path, *words))).folder
    assert (folder / "assigned_anchors.jpg").stat().st_size > 10_000
    events = EventAccumulator(str(folder)).Reload()
    drawn = [image.step for image in events.Images("train/assigned_anchors")]
    by_predictions = cfg == FREE or assigner in ("tal", "simota")
    assert drawn == ([0, 1, 2] if by_predictions else [0])


@pytest.mark.slow
def test_a_resumed_run_draws_assignments_too(tiny_data: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(with_figures(tiny_config(tiny_data, tmp_path, "--cfg", FREE)))
    go_on(tmp_path, "--epochs", "4")
    events = EventAccumulator(str(last_of(tmp_path).parents[1])).Reload()
    assert [image.step for image in events.Images("train/assigned_anchors")] == [0, 2, 4]
    assert [image.step for image in events.Images("train/batch")] == [0]


@pytest.mark.slow
def test_drawing_assignments_changes_nothing(tiny_data: Path, tmp_path: Path):
    plain, drawn = (
        train(change(tiny_config(tiny_data, tmp_path / name, "--cfg", FREE))).folder
        for name, change in (("plain", lambda config: config), ("drawn", with_figures))
    )
    assert (plain / "results.csv").read_bytes() == (drawn / "results.csv").read_bytes()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("nms", [False, True])
@torch.inference_mode()
def test_an_exported_file_gives_the_same_detections(kind: str, nms: bool, tiny_data: Path, tmp_path: Path):
    detector = small(tmp_path, nc=5).eval()
    for branch in detector.head.cls:  # sure of much
        nn.init.normal_(branch[2].weight, std=2)
        nn.init.zeros_(branch[2].bias)
    weights = saved(detector, tiny_data, tmp_path, str(tmp_path / "small.yaml"))
    path, flags = tmp_path / f"file{SUFFIX[kind]}", ["--nms", "--conf", "0.3"] if nms else []
    assert main(["export", "--weights", str(weights), "--format", kind, "-o", str(path), *flags]) == 0
    images, (model, _) = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), load_exported(path)
    outputs = model(images)
    if not nms:
        return assert_near(*outputs, Decoded(detector.for_inference())(images))
    expected = detector.detections(detector(images), (64, 64), DetectOptions(0.3, 0.45, 300))
    for one, other in zip(detections_in(outputs), expected, strict=True):
        assert_same(one, other)


@pytest.mark.skipif(not (SHARED / "data/bccd/data.yaml").exists(), reason="../shared/data is not here")
def test_commands_know_a_model_without_anchors(tmp_path: Path, capsys):
    data = str(SHARED / "data/bccd/data.yaml")
    assert main(["anchors", "--cfg", FREE, "--data", data]) == 2
    assert "expected a YOLO with anchors" in capsys.readouterr().err
    assert main(["check", "--cfg", FREE, "--data", data, "--project", str(tmp_path)]) == 0
