"""What the keys of the recipe promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from test_nonfinite import fresh
from test_optimizer import random_batch
from torch import nn
from torch.nn import functional as F

import yolo_lite.engine.train as train_module
from yolo_lite.cli.main import train_main
from yolo_lite.config.errors import ConfigError, UserError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.shortage import memory_errors_explained
from yolo_lite.engine.batch_size import largest_that_fits
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.device import choose_compute, deterministic
from yolo_lite.engine.multi_scale import multi_scaled
from yolo_lite.engine.train import train, train_step

CPU = choose_compute("cpu", "fp32", channels_last=False)


# --------------------------------------------------------------------------------------------------------- freeze


FROZEN = [
    pytest.param("backbone", range(10), id="backbone", marks=pytest.mark.slow),
    pytest.param("[0, 3]", (0, 3), id="rows"),
]


@pytest.mark.parametrize(("freeze", "rows"), FROZEN)
def test_what_is_frozen_stays_as_it_is_and_all_else_learns(tiny_data: Path, tmp_path: Path, freeze: str, rows):
    words = ("--set", f"freeze={freeze}", "weight_decay=0.1")
    contents = []
    for epochs in ("1", "3"):
        folder = train(tiny_config(tiny_data, tmp_path / epochs, "--epochs", epochs, *words)).folder
        contents.append(load_checkpoint(folder / "weights/last.pt"))
    for part in ("model", "ema"):
        one, three = (content[part] for content in contents)
        same = {name for name in one if torch.equal(one[name], three[name])}
        frozen = {name for name in one if name.startswith(tuple(f"layers.{row}." for row in rows))}
        assert frozen <= same  # weights, running means and counters
        learning = {name for name in one if name.endswith(("weight", "running_mean")) and name not in frozen}
        assert not learning & same


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["freeze=[25]"], "freeze: expected rows 0..24, found [25]"),
        (["freeze=neck"], "freeze"),
        (["freeze=[-1]"], "freeze"),
        (["sync_bn=true"], "sync_bn: torch synchronises batch statistics on GPUs only"),
    ],
)
def test_unusable_recipes_are_refused(tiny_data: Path, tmp_path: Path, words: list[str], expected: str):
    with pytest.raises(UserError) as refused:
        train(tiny_config(tiny_data, tmp_path, "--set", *words))
    assert expected in str(refused.value) and not (tmp_path / "exp").exists()


# ---------------------------------------------------------------------------------------------------- multi-scale


def test_each_step_has_a_size_of_its_own_and_boxes_follow():
    batch = random_batch(2, seed=0).to(CPU)
    sizes = set()
    for step in range(40):
        (scaled,) = multi_scaled([batch], 0.5, 16, (0, step))
        height, width = scaled.images.shape[2:]
        assert height == width and height % 16 == 0 and 32 <= height <= 96
        assert torch.allclose(scaled.objects.box, batch.objects.box * (height / 64))
        expected = F.interpolate(batch.images, size=(height, width), mode="bilinear", align_corners=False)
        assert torch.equal(scaled.images, expected if height != 64 else batch.images)
        again = multi_scaled([batch, batch], 0.5, 16, (0, step))
        assert all(torch.equal(other.images, scaled.images) for other in again)  # one size for all batches of a step
        sizes.add(height)
    assert sizes == {32, 48, 64, 80, 96}
    other_seed = [multi_scaled([batch], 0.5, 16, (1, step))[0].images.shape[2] for step in range(20)]
    assert other_seed != [multi_scaled([batch], 0.5, 16, (0, step))[0].images.shape[2] for step in range(20)]


def test_training_uses_the_sizes(tiny_data: Path, tmp_path: Path, monkeypatch):
    step, sizes = train_module.train_step, []

    def watched(state, batches, setup):  # type: ignore[no-untyped-def]
        sizes.append({tuple(batch.images.shape[2:]) for batch in batches})
        return step(state, batches, setup)

    monkeypatch.setattr(train_module, "train_step", watched)
    train(tiny_config(tiny_data, tmp_path, "--epochs", "3", "--set", "multi_scale=0.5"))
    assert all(len(of_step) == 1 for of_step in sizes) and len({min(of_step) for of_step in sizes}) > 1


# ------------------------------------------------------------------------------------------------------- patience


def test_no_run_ends_before_min_epochs(tiny_data: Path, tmp_path: Path):
    words = ["--epochs", "9", "--set", "patience=1", "min_epochs=4", "lr0=1e-12", "warmup_bias_lr=0", "mosaic=0"]
    result = train(tiny_config(tiny_data, tmp_path, *words))
    assert len(result.seconds) == 4 and result.best_epoch < 4


# --------------------------------------------------------------------------------------------------- deterministic


def test_deterministic_holds_while_the_run_goes_on(tiny_data: Path, tmp_path: Path, monkeypatch):
    step, seen = train_module.train_step, []

    def watched(*arguments):  # type: ignore[no-untyped-def]
        seen.append(torch.are_deterministic_algorithms_enabled())
        return step(*arguments)

    monkeypatch.setattr(train_module, "train_step", watched)
    train(tiny_config(tiny_data, tmp_path, "--epochs", "1", "--set", "deterministic=true"))
    assert seen == [True] * len(seen) and seen
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


# -------------------------------------------------------------------------------------------------------- compile


@pytest.mark.slow
def test_a_compiled_step_is_the_step():
    steps = []
    for compiled in (False, True):
        state, setup = fresh(Hyp())
        if compiled:
            state.model.compile_network()
        batch = random_batch(2, seed=1).to(CPU)
        steps.append([train_step(state, [batch], setup) for _ in range(2)])
    for plain, fast in zip(*steps, strict=True):
        assert torch.allclose(plain.losses, fast.losses, rtol=1e-3)
        assert fast.norm.item() == pytest.approx(plain.norm.item(), rel=1e-2)


def test_a_compiled_model_can_be_copied_and_saved():
    state, _ = fresh(Hyp())
    before = set(state.model.state_dict())
    state.model.compile_network()
    assert set(state.model.state_dict()) == before
    copy = state.model.for_inference()
    assert isinstance(copy, nn.Module) and getattr(copy, "_compiled_call_impl", None) is None


# --------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("fits", [1, 5, 64, 3000])
def test_the_largest_power_of_two_that_fits(fits: int):
    def share(count: int) -> float:
        if count > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.5

    assert largest_that_fits(share) == min(2 ** (fits.bit_length() - 1), 1024)
    assert largest_that_fits(lambda count: count / 100) == 64


def test_where_nothing_fits_it_is_said():
    with pytest.raises(ConfigError, match="not even one image fits"):
        largest_that_fits(lambda count: 1.0)


def test_the_batch_size_is_measured_on_gpus_only(tiny_data: Path, tmp_path: Path, capsys):
    words = ["--data", str(tiny_data), "--batch-size", "auto", "--device", "cpu", "--project", str(tmp_path)]
    assert train_main(words) == 2
    assert "--batch-size auto: measures the memory of a CUDA GPU, found cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("[enforce fail] can't allocate memory")],
)
def test_memory_errors_name_what_to_make_smaller(error: Exception):
    words = "out of memory with --batch-size 64 at --imgsz 640: try --batch-size 32"
    with pytest.raises(UserError, match=words), memory_errors_explained(64, 640):
        raise error
    with pytest.raises(UserError, match="try --imgsz 320"), memory_errors_explained(1, 640):
        raise error


def test_other_errors_stay_what_they_are():
    for kind in (RuntimeError, NotImplementedError):
        with pytest.raises(kind, match="shapes differ"), memory_errors_explained(64, 640):
            raise kind("shapes differ")
