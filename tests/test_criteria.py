"""Laws of every criterion: names, finite losses, and a gradient that does not depend on how a step is split."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from test_optimizer import part, random_batch
from torch import Tensor, nn

from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_model_config
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.optimizer import Plan
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.state import initial_state
from yolo_lite.engine.train import Step, train_step
from yolo_lite.loss.assigners import ASSIGNERS
from yolo_lite.loss.criteria import CRITERIA, AnchorCriterion
from yolo_lite.model.detector import Detector
from yolo_lite.ops.boxes import aligned_iou
from yolo_lite.ops.grid import Grid
from yolo_lite.structures import Batch, Matches, Objects, Predictions

CPU = choose_compute("cpu", "fp32", channels_last=False)


def nearest_predictions(objects: Objects, grid: Grid, *, predictions: Predictions, topk: int = 3) -> Matches:
    """A toy assigner: each object takes the slots of its image whose predicted centres lie nearest to its own.

    A slot that several objects want goes to the last of them. Pairs are graded by the overlap of their boxes.
    """
    taken: dict[tuple[int, int], int] = {}
    for row, (image, box) in enumerate(zip(objects.image.tolist(), objects.box, strict=True)):
        distance = (predictions.box[image, :, :2] - box[:2]).square().sum(dim=1)
        taken |= dict.fromkeys(((image, slot) for slot in distance.topk(topk, largest=False).indices.tolist()), row)
    image, slot = (torch.tensor([key[column] for key in taken], dtype=torch.int64) for column in (0, 1))
    target = torch.tensor(list(taken.values()), dtype=torch.int64)
    score = 0.1 + aligned_iou(predictions.box[image, slot], objects.box[target])
    return Matches(image, slot, target, score)


@pytest.fixture(autouse=True)
def toy_assigner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ASSIGNERS, "nearest_predictions", nearest_predictions)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(load_model_config(REPOSITORY / "cfg/yolo_n.yaml", ["model.nc=3"])).eval()


def criterion_of(assigner: object) -> AnchorCriterion:
    return AnchorCriterion(Hyp(assigner=assigner), np.ones(3))


def step_over(detector: Detector, parts: list[Batch], assigner: object) -> tuple[Step, Tensor]:
    """One optimizer step over some batches, and its gradient; batch normalisation stands still, no weight moves."""
    hyp = Hyp(optimizer="SGD", momentum=0.0, warmup_epochs=0.0, clip_norm=0.0, nominal_batch=1, assigner=assigner)
    state, gradient = initial_state(detector, criterion_of(assigner), hyp, CPU), []
    state.optimizer.step = lambda *_: gradient.extend(p.grad.flatten().clone() for p in detector.parameters())
    step = train_step(state, [one.to(CPU) for one in parts], Setup(hyp, CPU, Plan(1, 1, 1), seed=0))
    return step, torch.cat(gradient)


@pytest.mark.parametrize("assigner", ["anchor_ratio", "nearest_predictions", {"nearest_predictions": {"topk": 5}}])
@pytest.mark.parametrize("cuts", [[0, 4, 8], [0, 1, 8], [0, 3, 3, 5, 8]])
def test_the_gradient_does_not_depend_on_how_the_step_is_split(detector: Detector, assigner: object, cuts: list[int]):
    whole = random_batch(8, seed=0)
    few = torch.bincount(whole.objects.image, minlength=8)[whole.objects.image] > 0
    few &= (whole.objects.image != 2) & ((whole.objects.image != 6) | (torch.arange(len(few)) % 4 == 0))
    whole = whole._replace(objects=whole.objects.select(few))  # no object in one image, one in another
    expected, gradient = step_over(detector, [whole], assigner)
    found, split = step_over(detector, [part(whole, *pair) for pair in itertools.pairwise(cuts)], assigner)
    assert (split - gradient).norm() < 1e-5 * gradient.norm() and gradient.norm() > 0
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=1e-8)


def test_losses_of_graded_pairs_are_sums_over_the_summed_scores(detector: Detector):
    """The step's losses against the definition: each pair by its score, each slot by its level's balance."""
    batch = random_batch(3, seed=1).to(CPU)
    criterion, grid = criterion_of("nearest_predictions"), detector.grid(64, 64)
    with torch.no_grad():
        raw = detector(batch.images)
        predictions = criterion.predictions(raw, grid)
        matches = criterion.assign(batch.objects, grid, predictions)
        losses, again = criterion.losses_of_batch(raw, batch.objects, grid, 3)
    assert all(map(torch.equal, matches, again)) and criterion.needs_predictions
    total = matches.score.sum()
    box = sum(
        score * criterion.box(predictions.box[image, slot][None], batch.objects.box[target][None])[0]
        for image, slot, target, score in zip(*matches, strict=True)
    )
    gain = 0.05  # of three levels
    assert losses["box"].item() == pytest.approx((box / total * gain).item(), rel=1e-4)
    target = torch.zeros(3, grid.num_slots)
    target[matches.image, matches.slot] = aligned_iou(
        predictions.box[matches.image, matches.slot], batch.objects.box[matches.target]
    )
    error = nn.functional.binary_cross_entropy_with_logits(raw["obj"], target, reduction="none")
    balance = torch.tensor([4.0, 1.0, 0.4])[grid.level]
    expected = (error * balance).sum() / total * (64 * 64) / 640**2
    assert losses["obj"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert all(loss.isfinite() for loss in losses.values())


def test_a_step_without_objects_is_finite_under_every_assigner(detector: Detector):
    batch = random_batch(2, seed=0)
    batch = batch._replace(objects=batch.objects.select(torch.zeros(8, dtype=torch.bool)))
    for assigner in ("anchor_ratio", "nearest_predictions"):
        step, gradient = step_over(detector, [batch], assigner)
        assert step.problem == "" and gradient.isfinite().all() and step.losses[1] > 0


def test_every_head_has_a_criterion_whose_names_are_gains_of_hyp():
    for make in CRITERIA.values():
        criterion = make(Hyp(), np.ones(3))
        assert criterion.names and all(hasattr(criterion.section, name) for name in criterion.names)
