"""Laws of a run from good weights: rates of the backbone, thawing, still statistics, and what a start takes over."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, equal_states, tiny_config
from test_nonfinite import fresh
from test_optimizer import random_batch
from test_resume import assert_same_run, go_on, send, stop_after
from torch import Tensor, nn

from yolo_lite.config.errors import CheckpointError, ConfigError, StoppedError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_hyp, load_model_config
from yolo_lite.engine.checkpoint import load_checkpoint, save_checkpoint
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.freezing import frozen_by
from yolo_lite.engine.optimizer import Plan, make_optimizer, parameter_groups, rates, set_rates
from yolo_lite.engine.start import start_from
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.train import train, train_step
from yolo_lite.model.detector import Detector

CPU = choose_compute("cpu", "fp32", channels_last=False)
OPTIMIZERS = ["AdamW", "SGD"]


def detector(name: str = "yolo_n", nc: int = 3, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector(load_model_config(REPOSITORY / f"cfg/{name}.yaml", [f"model.nc={nc}"]))


def in_backbone(name: str) -> bool:
    return int(name.split(".")[1]) < 10


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# ---------------------------------------------------------------------------------------------------- backbone_lr


def test_a_factor_of_one_leaves_the_groups_as_they_were():
    model = detector()
    assert [group["name"] for group in make_optimizer(model, Hyp()).param_groups] == ["weights", "norms", "biases"]
    assert all(group.keys() == {"name", "params", "weight_decay"} for group in parameter_groups(model, 0.1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factor", [0.0, 0.25, 3.0])
def test_each_step_of_the_schedule_gives_the_backbone_its_share(optimizer: str, factor: float):
    model, plan = detector(), Plan(10, 1, 10)
    hyp = Hyp(backbone_lr=factor, optimizer=optimizer, warmup_bias_lr=0.1)
    made = make_optimizer(model, hyp)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = [id(parameter) for group in made.param_groups for parameter in group["params"]]
    assert sorted(seen) == sorted(named)  # each once
    for step in (0, 12, 60):  # in the warm-up and after it
        now = rates(step, plan, hyp)
        set_rates(made, now)
        for group in made.param_groups:
            for parameter in group["params"]:
                name = named[id(parameter)]
                expected = now.bias_lr if name.endswith("bias") else now.lr
                assert group["lr"] == expected * (factor if in_backbone(name) else 1.0)
            is_weight = group["name"] in ("weights", "backbone_weights")
            assert group["weight_decay"] == (hyp.weight_decay if is_weight else 0.0)


def test_a_step_of_sgd_moves_the_backbone_by_the_factor():
    moved = {}
    for factor in (1.0, 0.25):
        hyp = Hyp(optimizer="SGD", backbone_lr=factor, warmup_epochs=0.0, weight_decay=0.0, momentum=0.0, lr0=0.01)
        state, setup = fresh(hyp)
        before = weights_of(state.model)
        train_step(state, [random_batch(2, seed=1).to(CPU)], setup)
        after = weights_of(state.model)
        moved[factor] = {name: after[name].double() - before[name].double() for name in before}
    for name, whole in moved[1.0].items():
        expected = whole * (0.25 if in_backbone(name) else 1.0)
        assert torch.allclose(moved[0.25][name], expected, rtol=1e-3, atol=2e-7)
    assert max(change.abs().max() for change in moved[1.0].values()) > 1e-4


# --------------------------------------------------------------------------------------- freeze_epochs, freeze_norm


def reference_step(optimizer: str, lr: float, hyp: Hyp, gradient: Tensor) -> Tensor:
    """What the first step of a parameter subtracts, without decay: by the papers of both optimizers."""
    if optimizer == "SGD":  # Nesterov: gradient + momentum * buffer, and the buffer is the gradient
        return lr * (1 + hyp.momentum) * gradient
    return lr * gradient / (gradient.abs() + 1e-8)  # Adam: both moments are unbiased, 1412.6980, algorithm 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_step_of_what_was_frozen_is_the_first_step_of_an_optimizer(optimizer: str):
    hyp = Hyp(optimizer=optimizer, freeze="backbone", freeze_epochs=1, warmup_epochs=0.0, weight_decay=0.0)
    hyp = hyp.model_copy(update={"clip_norm": 0.0})
    state, setup = fresh(hyp)
    state.in_training()
    for _ in range(3):
        train_step(state, [random_batch(2, seed=1).to(CPU)], setup)
    state.epoch = 1
    state.in_training()
    before, gradients = weights_of(state.model), {}
    step = state.optimizer.step

    def watched(*arguments: Any) -> Any:
        named = state.model.named_parameters()
        gradients.update({name: parameter.grad.clone() for name, parameter in named})
        return step(*arguments)

    state.optimizer.step = watched  # type: ignore[method-assign]
    lr = rates(state.step, setup.plan, hyp).lr
    train_step(state, [random_batch(2, seed=2).to(CPU)], setup)
    after = weights_of(state.model)
    for name in filter(in_backbone, before):
        expected = reference_step(optimizer, lr, hyp, gradients[name])
        assert torch.allclose(before[name] - after[name], expected, rtol=1e-2, atol=1e-6)
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in filter(in_backbone, before))


THAWING = ("--batch-size", "4", "--epochs", "3", "--set", "nominal_batch=8", "freeze=backbone", "freeze_epochs=1")
THAWING = (*THAWING, "backbone_lr=0.5", "freeze_norm=true")


# The zero that fused SGD starts from is written when an epoch begins: SGD is the harder case.
STOPPED = [pytest.param("AdamW", marks=pytest.mark.slow), "SGD"]


@pytest.fixture(scope="module", params=STOPPED)
def thawed(request: pytest.FixtureRequest, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose backbone learns from its second epoch on, which nobody stopped."""
    words = (*THAWING, "--optimizer", request.param)
    return train(tiny_config(tiny_data, tmp_path_factory.mktemp(request.param), *words)).folder


# Of 3 an epoch: before, at, and after the thaw.
@pytest.mark.parametrize("steps", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_goes_on_to_the_bit_from_either_side_of_the_thaw(
    thawed: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
):
    kind = load_checkpoint(thawed / "weights/last.pt")["config"]["hyp"]["optimizer"]
    stop_after(monkeypatch, steps, send(15))
    with pytest.raises(StoppedError):
        train(tiny_config(tiny_data, tmp_path, *THAWING, "--optimizer", kind))
    monkeypatch.undo()
    stopped = load_checkpoint(tmp_path / "exp/weights/last.pt")
    go_on(tmp_path)
    assert_same_run(tmp_path / "exp", thawed)
    optimizer = stopped["optimizer"]
    of_backbone = [group for group in optimizer["param_groups"] if group["name"].startswith("backbone_")]
    known = [number in optimizer["state"] for group in of_backbone for number in group["params"]]
    assert known == [steps > 3] * len(known) and known


def test_the_backbone_moves_from_the_epoch_after_freeze_epochs_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import yolo_lite.engine.train as module

    seen, close = [], module._close_epoch

    def noted(state: Any, evaluation: Any) -> None:
        seen.append({name: value.clone() for name, value in state.model.state_dict().items()})
        close(state, evaluation)

    monkeypatch.setattr(module, "_close_epoch", noted)
    words = ("--epochs", "4", "--set", "freeze=[0, 3]", "freeze_epochs=2", "freeze_norm=true")
    train(tiny_config(tiny_data, tmp_path, *words))
    rows = ("layers.0.", "layers.3.")
    for before, after in itertools.pairwise(seen[:2]):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert not any(name.startswith(rows) for name in changed)
        assert "layers.1.conv.weight" in changed and "layers.24.heads.0.bias" in changed
    for before, after in itertools.pairwise(seen[1:]):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        weights = {name for name in before if name.endswith(("conv.weight", "norm.weight"))}
        assert weights <= changed  # those of the thawed rows too
        still = {name for name in before if "running_" in name and in_backbone(name)}
        assert not still & changed and {name for name in before if "running_" in name} - still <= changed


def test_what_never_learns_is_not_thawed():
    model = detector()
    model.layers[0].conv.weight.requires_grad_(False)  # as torchvision does with the first stages
    frozen = frozen_by(Hyp(freeze="backbone", freeze_epochs=1), model)
    optimizer = make_optimizer(model, Hyp())
    for epoch, learning in ((0, False), (1, True), (0, False), (2, True)):
        frozen.hold(epoch, optimizer)
        assert not model.layers[0].conv.weight.requires_grad
        assert model.layers[1].conv.weight.requires_grad is learning is model.layers[1].training
        assert model.layers[10].conv.weight.requires_grad


def test_freeze_epochs_alone_is_refused():
    with pytest.raises(ConfigError, match="freeze_epochs: expected 0 without freeze, found 3"):
        frozen_by(Hyp(freeze_epochs=3), detector())


# ------------------------------------------------------------------------------------------------------- the recipe


def test_the_recipe_says_only_what_differs_and_keys_to_try():
    recipe, default = load_hyp("hyp_finetune"), Hyp()
    differing = {key for key in Hyp.model_fields if getattr(recipe, key) != getattr(default, key)}
    assert {"backbone_lr", "warmup_epochs"} <= differing and recipe.backbone_lr < 1
    assert recipe.warmup_bias_lr <= recipe.lr0  # a new head's biases do not run ahead of a good backbone


# ---------------------------------------------------------------------------------------------- --weights across models


def saved(model: Detector, path: Path, names: tuple[str, ...] = ("a", "b", "c")) -> str:
    content = {"config": {"data": {"names": list(names)}}, "ema": model.state_dict(), "losses": {}, "epoch": 1}
    save_checkpoint(path, content)
    return str(path)


@pytest.mark.parametrize(("theirs", "ours"), [("yolo_n", "yolo_n_free"), ("yolo_n_free", "yolo_n")])
def test_another_head_starts_with_backbone_and_neck(theirs: str, ours: str, tmp_path: Path, capsys: Any):
    given, model, before = detector(theirs), detector(ours, seed=1), detector(ours, seed=1)
    start_from(saved(given, tmp_path / "a.pt"), model, ("a", "b", "c"))
    found, own, fresh_ones = model.state_dict(), given.state_dict(), before.state_dict()
    for name in found:
        assert torch.equal(found[name], (fresh_ones if name.startswith("layers.24.") else own)[name]), name
    head = sum(name.startswith("layers.24.") and not name.endswith("anchors") for name in found)
    said = capsys.readouterr().out
    counts = f"342 of {342 + head} tensors taken over (backbone 198 of 198, neck 144 of 144, head 0 of {head}), not: "
    assert counts in said and said.count("\n") == 1 and len(said) < 300 + len(str(tmp_path))


def test_another_size_is_refused_where_only_counters_and_biases_would_fit(tmp_path: Path):
    # 57 counters of batches and the biases of three outputs have the same shape in every size.
    given, model, before = detector("yolo_n"), detector("yolo_s", seed=1), detector("yolo_s", seed=1)
    own, theirs = model.state_dict(), given.state_dict()
    fitting = [name for name in own if own[name].shape == theirs[name].shape and not name.endswith("anchors")]
    assert {name.rpartition(".")[2] for name in fitting} == {"num_batches_tracked", "bias"}
    with pytest.raises(CheckpointError, match="not one layer fits the model of --cfg"):
        start_from(saved(given, tmp_path / "a.pt"), model, ("a", "b", "c"))
    assert equal_states(model.state_dict(), before.state_dict())


def test_a_layer_is_taken_whole_or_not_at_all(tmp_path: Path, capsys: Any):
    given = detector()
    for parameter in given.parameters():
        nn.init.constant_(parameter, 0.5)
    model = detector(seed=1)
    model.layers[1].conv = nn.Conv2d(16, 32, 5, bias=False)  # another kernel, the same norm after it
    model.layers[3].norm = nn.BatchNorm2d(64)
    given.layers[3].norm = nn.BatchNorm2d(32)  # of which only the counter fits
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from(saved(given, tmp_path / "a.pt"), model, ("a", "b", "c"))
    found, theirs = model.state_dict(), given.state_dict()
    left = {name for name in found if name == "layers.1.conv.weight" or name.startswith("layers.3.norm.")}
    assert len(left) == 6
    for name in found.keys() - {"layers.24.anchors"}:
        assert torch.equal(found[name], (before if name in left else theirs)[name]), name
    said = capsys.readouterr().out
    assert (
        "342 of 348 tensors taken over (backbone 192 of 198, neck 144 of 144, head 6 of 6), not: layers.1.conv" in said
    )


@pytest.fixture
def two_stage() -> Any:
    config = load_model_config(REPOSITORY / "cfg/faster_rcnn.yaml", ["model.nc=3"])
    torch.manual_seed(0)
    return task_of(config).build(config)


def test_faster_rcnn_knows_its_parts(two_stage: Any, tmp_path: Path, capsys: Any):
    weights = saved(two_stage, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not one layer fits"):
        start_from(weights, detector(), ("a", "b", "c"))
    with pytest.raises(CheckpointError, match="not one layer fits"):
        start_from(saved(detector(), tmp_path / "b.pt"), two_stage, ("a", "b", "c"))
    two_stage.rpn.head.cls_logits = nn.Conv2d(two_stage.rpn.head.cls_logits.in_channels, 7, 1)
    start_from(weights, two_stage, ("a", "b", "c"))
    body = [name for name in two_stage.state_dict() if name.startswith("backbone.body.")]
    said = capsys.readouterr().out
    assert f"(backbone {len(body)} of {len(body)}, neck " in said
    assert said.endswith("not: rpn.head.cls_logits.weight, rpn.head.cls_logits.bias\n")

    frozen, learned = frozen_by(Hyp(freeze="backbone", freeze_epochs=2), two_stage), []
    optimizer = make_optimizer(two_stage, Hyp(backbone_lr=0.1))
    for epoch in (1, 2):
        frozen.hold(epoch, optimizer)
        learned.append({name for name, parameter in two_stage.named_parameters() if parameter.requires_grad})
    inside = {name for name in learned[1] if name.startswith("backbone.body.")}
    assert inside and learned[0] == learned[1] - inside
    slower = [group for group in optimizer.param_groups if group["name"].startswith("backbone_")]
    assert sum(len(group["params"]) for group in slower) == len(inside)
    assert {group["lr_factor"] for group in slower} == {0.1}
