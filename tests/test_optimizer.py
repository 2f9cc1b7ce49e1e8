"""Laws of parameter groups, schedule, accumulation and the moving average."""

from __future__ import annotations

import gc
import itertools
import math
import weakref

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torch import nn

from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_model_config
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.optimizer import (
    MovingAverage,
    Plan,
    accumulated_batches,
    average_decay,
    make_optimizer,
    parameter_groups,
    rates,
    set_rates,
)
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.state import initial_state
from yolo_lite.engine.train import train_step
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.model.detector import Detector
from yolo_lite.structures import Batch, Objects


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(load_model_config(REPOSITORY / "cfg/yolo_n.yaml", ["model.nc=3"]))


def test_every_parameter_is_in_one_group_and_only_weights_decay(detector: Detector) -> None:
    groups = {group["name"]: group for group in parameter_groups(detector, 0.01)}
    assert [groups[name]["weight_decay"] for name in ("weights", "norms", "biases")] == [0.01, 0.0, 0.0]
    ids = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in detector.parameters())
    named = {id(parameter): name for name, parameter in detector.named_parameters()}
    assert all(named[id(p)].endswith("norm.weight") for p in groups["norms"]["params"])
    assert all(named[id(p)].endswith(".bias") for p in groups["biases"]["params"])
    assert all(p.ndim == 4 for p in groups["weights"]["params"])


def test_schedule_goes_from_lr0_to_lrf() -> None:
    plan = Plan(batches_per_epoch=10, batches_per_step=1, epochs=100)
    for cosine in (False, True):
        hyp = Hyp(lr0=0.02, lrf=0.1, warmup_epochs=0.0, cos_lr=cosine)
        assert rates(0, plan, hyp).lr == pytest.approx(0.02)
        assert rates(plan.steps - 1, plan, hyp).lr == pytest.approx(0.002)
        falling = [rates(step, plan, hyp).lr for step in range(plan.steps)]
        assert falling == sorted(falling, reverse=True)
    assert rates(250, plan, Hyp(lr0=1.0, lrf=0.0, warmup_epochs=0.0, cos_lr=True)).lr == pytest.approx(
        (1 + math.cos(math.pi * 250 / 999)) / 2
    )


def test_warmup_ends_before_a_quarter_of_a_short_run() -> None:
    hyp = Hyp(warmup_epochs=3.0)
    assert Plan(9, 1, 10).warmup_steps(hyp) == 90 // 4
    assert Plan(100, 1, 100).warmup_steps(hyp) == 300
    assert Plan(1, 1, 1).warmup_steps(hyp) == 0
    assert rates(0, Plan(1, 1, 1), hyp).lr == pytest.approx(hyp.lr0)


def test_warmup_lifts_weights_and_lowers_biases() -> None:
    plan, hyp = Plan(100, 1, 100), Hyp(lr0=0.01, warmup_bias_lr=0.1, momentum=0.9, warmup_momentum=0.8)
    early, late = rates(0, plan, hyp), rates(299, plan, hyp)
    assert 0 < early.lr < 1e-4 and early.bias_lr > 0.099 and early.momentum == pytest.approx(0.8, abs=1e-3)
    assert late.lr == pytest.approx(rates(300, plan, hyp).lr, rel=0.01)
    assert late.bias_lr == pytest.approx(rates(300, plan, hyp).bias_lr, rel=0.05)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_rates_reach_the_groups_by_name(detector: Detector, name: str) -> None:
    hyp = Hyp(optimizer=name)
    optimizer = make_optimizer(detector, hyp)
    now = rates(0, Plan(100, 1, 100), hyp)
    set_rates(optimizer, now)
    for group in optimizer.param_groups:
        assert group["lr"] == (now.bias_lr if group["name"] == "biases" else now.lr)
        assert (group["betas"][0] if name == "AdamW" else group["momentum"]) == now.momentum


def test_the_nominal_batch_decides_how_many_batches_make_a_step() -> None:
    hyp = Hyp(nominal_batch=16)
    assert [accumulated_batches(hyp, batch) for batch in (1, 2, 4, 8, 16, 64)] == [16, 8, 4, 2, 1, 1]
    assert Plan(batches_per_epoch=13, batches_per_step=4, epochs=2).steps == 8  # 4 + 4 + 4 + 1, twice: none is lost


def random_batch(num_images: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (num_images, 3, 64, 64), dtype=np.uint8))
    m = 4 * num_images
    box = torch.from_numpy(rng.uniform((8, 8, 10, 10), (56, 56, 40, 40), (m, 4))).float()
    label = torch.from_numpy(rng.integers(0, 3, m))
    targets = Objects(torch.arange(num_images).repeat_interleave(4), label, box)
    return Batch(images, targets, torch.arange(num_images), torch.zeros(0), torch.zeros(0))


def part(batch: Batch, first: int, last: int) -> Batch:
    own = (batch.objects.image >= first) & (batch.objects.image < last)
    targets = batch.objects.select(own)._replace(image=batch.objects.image[own] - first)
    return batch._replace(images=batch.images[first:last], objects=targets, position=batch.position[first:last])


def gradient_of(detector: Detector, parts: list[Batch]) -> torch.Tensor:
    compute = choose_compute("cpu", "fp32", channels_last=False)
    """The gradient of a step over some batches, by the hooks of ``train_step``: the optimizer moves nothing."""
    hyp = Hyp(optimizer="SGD", momentum=0.0, warmup_epochs=0.0, clip_norm=0.0, nominal_batch=1)
    state, gradients = initial_state(detector, AnchorCriterion(hyp, np.ones(3)), hyp, compute), []
    state.optimizer.step = lambda *_: gradients.extend(p.grad.flatten().clone() for p in detector.parameters())
    train_step(state, [batch.to(compute) for batch in parts], Setup(hyp, compute, Plan(1, 1, 1), seed=0))
    return torch.cat(gradients)


@pytest.mark.parametrize("cuts", [[0, 4, 8], [0, 1, 8], [0, 2, 4, 6, 8]])
def test_the_gradient_of_a_step_does_not_depend_on_its_split_into_batches(detector: Detector, cuts: list[int]) -> None:
    detector.eval()  # batch normalisation would see each part by itself
    whole = random_batch(8, seed=0)
    parts = [part(whole, first, last) for first, last in itertools.pairwise(cuts)]
    expected, found = gradient_of(detector, [whole]), gradient_of(detector, parts)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())


def test_lr0_means_the_same_whatever_the_batch_size(detector: Detector) -> None:
    # The update of plain SGD is lr * nominal_batch * gradient of the mean loss: also for a batch of another size.
    hyp = Hyp(optimizer="SGD", momentum=0.0, weight_decay=0.0, warmup_epochs=0.0, clip_norm=0.0, lr0=1.0)
    compute, batch = choose_compute("cpu", "fp32", channels_last=False), random_batch(4, seed=1)
    detector.eval()
    gradient = gradient_of(detector, [batch])
    before = torch.cat([parameter.detach().flatten().clone() for parameter in detector.parameters()])
    detector.zero_grad()
    state = initial_state(detector, AnchorCriterion(hyp, np.ones(3)), hyp, compute)
    train_step(state, [batch.to(compute)], Setup(hyp, compute, Plan(1, 1, 1), seed=0))
    after = torch.cat([parameter.detach().flatten() for parameter in detector.parameters()])
    expected = hyp.nominal_batch * gradient
    assert (before - after - expected).norm() < 1e-3 * expected.norm()
    assert state.step == 1 and all(p.grad is None for p in detector.parameters())


def test_gradients_are_clipped(detector: Detector) -> None:
    hyp = Hyp(optimizer="SGD", momentum=0.0, weight_decay=0.0, warmup_epochs=0.0, clip_norm=0.01, lr0=1.0)
    compute, batch = choose_compute("cpu", "fp32", channels_last=False), random_batch(2, seed=1)
    before = [parameter.detach().clone() for parameter in detector.parameters()]
    state = initial_state(detector, AnchorCriterion(hyp, np.ones(3)), hyp, compute)
    train_step(state, [batch.to(compute)], Setup(hyp, compute, Plan(1, 1, 1), seed=0))
    moved = torch.cat([(a - b.detach()).flatten() for a, b in zip(before, detector.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-2)


def test_the_average_follows_its_formula_and_copies_counters() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = MovingAverage(model, ema_decay=0.9)
    expected = None
    for update in range(40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 3))
        average.update_parameters(model)
        weight = model[0].weight.detach().clone()
        decay = min(0.9, (1 + update) / (10 + update))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    assert torch.allclose(average.module[0].weight, expected, atol=1e-5)
    assert average.module[1].num_batches_tracked.item() == 40
    assert not torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_the_memory_of_a_state_is_given_back_with_it_before_garbage_is_collected(detector: Detector) -> None:
    hyp, compute = Hyp(), choose_compute("cpu", "fp32", channels_last=False)
    state = initial_state(detector, AnchorCriterion(hyp, np.ones(3)), hyp, compute)
    for _ in range(2):
        train_step(state, [random_batch(2, seed=1).to(compute)], Setup(hyp, compute, Plan(1, 1, 1), seed=0))
    held = [weakref.ref(each) for each in (state.average, state.average.module, state.optimizer)]
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        del state
        assert [each() for each in held] == [None] * 3
    finally:
        if was_enabled:
            gc.enable()


def test_the_average_spans_about_a_tenth_of_a_short_run() -> None:
    assert average_decay(0, 0.9999) == pytest.approx(0.1)
    assert 1 / (1 - average_decay(780, 0.9999)) == pytest.approx(79 + 9, rel=0.02)
    assert average_decay(10**7, 0.9999) == 0.9999
