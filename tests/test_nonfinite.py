"""A step whose loss or gradient is not finite is never taken, and is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import equal_states, tiny_config
from test_optimizer import random_batch

from yolo_lite.config.errors import DivergedError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_model_config
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.optimizer import Plan
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.state import State, initial_state
from yolo_lite.engine.train import train, train_step
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.model.detector import Detector

RECIPE = ("--batch-size", "4", "--set", "nominal_batch=4", "box_loss=wiou")  # 5 steps an epoch


@pytest.fixture
def bad_picture(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every image of a number becomes NaN on its way to the model; its file name."""
    import yolo_lite.engine.train as module

    step = module.train_step

    def spoilt(state, batches, setup):  # type: ignore[no-untyped-def]
        for batch in batches:
            batch.images[batch.position == 7] = float("nan")
        return step(state, batches, setup)

    monkeypatch.setattr(module, "train_step", spoilt)
    return "000007.png"


def test_a_bad_batch_is_skipped_and_named(tiny_data: Path, tmp_path: Path, bad_picture: str, capsys):
    result = train(tiny_config(tiny_data, tmp_path, *RECIPE))
    said = capsys.readouterr().out
    assert said.count("the loss is not finite; 4 images") == 2  # once an epoch
    listed = (result.folder / "nonfinite_steps.txt").read_text()
    assert listed.count(bad_picture) == 2 and len(listed.splitlines()) == 8
    rows = (result.folder / "results.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/skipped_steps")
    assert [row.split(",")[column] for row in rows[1:]] == ["1", "1"]
    content = torch.load(result.folder / "weights/last.pt", weights_only=True)
    assert all(value.isfinite().all() for value in {**content["model"], **content["ema"], **content["losses"]}.values())
    assert all(value == value for value in result.metrics.values())


def test_the_key_nonfinite_ends_the_run_instead(tiny_data: Path, tmp_path: Path, bad_picture: str):
    with pytest.raises(DivergedError, match=r"the loss is not finite; 4 images.*\(key nonfinite: stop\)"):
        train(tiny_config(tiny_data, tmp_path, *RECIPE, "nonfinite=stop"))


# ------------------------------------------------------------------------------------------------------- one step


def fresh(hyp: Hyp) -> tuple[State, Setup]:
    compute = choose_compute("cpu", "fp32", channels_last=False)
    torch.manual_seed(0)
    model = Detector(load_model_config("cfg/yolo_n.yaml").model_copy(update={"nc": 3}))
    state = initial_state(model, AnchorCriterion(hyp, np.ones(3)), hyp, compute)
    state.model.train()
    return state, Setup(hyp, compute, Plan(10, 1, 1), seed=0)


def everything(state: State) -> dict[str, torch.Tensor]:
    moments = state.optimizer.state_dict()["state"]
    tensors = {f"{key}.{name}": value for key, values in moments.items() for name, value in values.items()}
    averaged = {f"ema.{name}": value for name, value in state.average.module.state_dict().items()}
    own = {name: value for name, value in state.model.state_dict().items() if "num_batches" not in name}
    sums = {f"sum{number}": value for number, value in enumerate(state.criterion.step_sums())}
    return {name: value.clone() for name, value in {**tensors, **averaged, **own, **sums}.items()}


@pytest.mark.parametrize("problem", ["loss", "gradient"])
def test_a_skipped_step_leaves_no_trace_but_its_number(problem: str, monkeypatch):
    state, setup = fresh(Hyp(box_loss="wiou"))
    compute = setup.compute
    train_step(state, [random_batch(2, seed=1).to(compute)], setup)
    before = everything(state)
    bad = random_batch(2, seed=2).to(compute)
    if problem == "loss":
        bad.images[0] = float("inf")
    else:
        weight = next(state.model.parameters())
        handle = weight.register_hook(lambda gradient: gradient * float("inf"))
    step = train_step(state, [bad], setup)
    assert step.problem == problem and state.step == 2
    assert equal_states(everything(state), before)
    if problem == "gradient":
        handle.remove()
    assert train_step(state, [random_batch(2, seed=3).to(compute)], setup).problem == ""
    assert not equal_states(everything(state), before)


def test_an_overflow_in_fp16_is_the_scalers_business():
    """With a scale of 2^127 gradients overflow, losses do not: the scaler skips the step and lowers the scale."""
    state, setup = fresh(Hyp())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    step = train_step(state, [random_batch(2, seed=1).to(setup.compute)], setup)
    assert step.problem == "" and not step.norm.isfinite()
    assert state.scaler.get_scale() == 2.0**126
    assert equal_states(dict(state.model.named_parameters()), before)


@pytest.mark.parametrize(("scale", "problem", "after"), [(1.0, "", 0.5), (2.0**-16, "gradient", 2.0**-16)])
def test_a_gradient_that_no_scale_helps_is_a_problem_in_fp16_too(scale: float, problem: str, after: float):
    """At 1 one may help: undivided sums are thousands of times the gradient."""
    state, setup = fresh(Hyp())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    next(state.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    step = train_step(state, [random_batch(2, seed=1).to(setup.compute)], setup)
    assert step.problem == problem and state.scaler.get_scale() == after
