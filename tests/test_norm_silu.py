"""Normalisation and SiLU in one: torch's own two modules are the reference, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolo_lite.model.blocks.norm_silu import normalised
from yolo_lite.model.blocks.standard import Conv

LAYOUTS = (torch.channels_last, torch.contiguous_format)
Arm = Callable[[Tensor, nn.Module, nn.Module], Tensor]


def apart(x: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
    return activation(norm(x))


def block(channels: int, seed: int = 0) -> tuple[nn.BatchNorm2d, nn.SiLU]:
    """With weights and running statistics that are not those of a start."""
    norm, random = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03), torch.Generator().manual_seed(seed)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert values is not None
        values.data = torch.rand(channels, generator=random) + 0.5
    return norm, nn.SiLU(inplace=True)


def maps(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=random) * 3 + 1).to(dtype).to(memory_format=layout)


def passed(arm: Arm, norm: nn.Module, activation: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Everything a step of training sees or changes."""
    norm, x = copy.deepcopy(norm), x.clone().requires_grad_()
    y = arm(x * 1, norm, activation)  # a leaf may not be changed in place
    value = y.detach().clone()
    y.backward(gradient)
    found = {"value": value, "x": x.grad, **{name: each.grad for name, each in norm.named_parameters()}}
    found.update({f"buffer {name}": each for name, each in norm.named_buffers()})
    return {name: each for name, each in found.items() if each is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(4, 16, 24, 24), (3, 5, 7, 9), (2, 64, 1, 1)])
def test_values_gradients_and_running_statistics_are_torchs_to_the_bit(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    norm, activation = block(shape[1])
    norm = norm.double() if dtype == torch.float64 else norm
    x, gradient = maps(shape, dtype, layout), maps(shape, dtype, layout, seed=2)
    expected = passed(apart, norm, activation, x, gradient)
    found = passed(normalised, norm, activation, x, gradient)
    assert set(found) == set(expected) and len(found) == 7
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert int(found["buffer num_batches_tracked"]) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [8, 16, 32, 64])
def test_the_gradient_of_one_half_of_joined_maps_gives_what_torch_gives(channels: int, dtype: torch.dtype) -> None:
    norm, activation = block(channels)
    x = maps((2, channels, 20, 20), dtype, torch.channels_last)
    gradient = maps((2, 2 * channels, 20, 20), dtype, torch.channels_last, seed=2)[:, :channels]
    assert not gradient.is_contiguous(memory_format=torch.channels_last)
    expected, found = (passed(arm, norm, activation, x, gradient) for arm in (apart, normalised))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_block_in_training_gives_the_gradients_of_its_modules(mixed: bool) -> None:
    torch.manual_seed(0)
    conv = Conv(3, 16, 3, 2).to(memory_format=torch.channels_last)
    other = copy.deepcopy(conv)
    images = maps((4, 3, 32, 32), torch.float32, torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        found, expected = conv(images), other.activation(other.norm(other.conv(images)))
    assert found.grad_fn.name().startswith("_NormSiLU") and found.dtype == (torch.bfloat16 if mixed else torch.float32)
    for out in (found, expected):
        out.float().square().sum().backward()
    assert torch.equal(found, expected)
    for (name, one), two in zip(conv.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None and torch.equal(one.grad, two.grad), name


def test_gradients_are_those_of_finite_differences() -> None:
    norm, activation = block(3)
    norm = norm.double()
    x = maps((2, 3, 4, 3), torch.float64, torch.channels_last).requires_grad_()

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(Together(norm, activation), {"norm.weight": weight, "norm.bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, norm.weight, norm.bias))


class Together(nn.Module):
    def __init__(self, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Any:
        return normalised(x, self.norm, self.activation)


def kept_maps(arm: Arm, x: Tensor) -> int:
    """How many maps of the size of ``x`` autograd keeps for the backward pass."""
    kept: dict[int, Tensor] = {}
    norm, activation = block(x.shape[1])

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        arm(x, norm, activation)
    return sum(tensor.numel() == x.numel() for tensor in kept.values())


def test_one_map_is_kept_where_torch_keeps_two() -> None:
    x = maps((2, 16, 8, 8), torch.float32, torch.channels_last).requires_grad_() * 1
    assert kept_maps(apart, x) == 2 and kept_maps(normalised, x) == 1


@pytest.mark.parametrize("frozen", [{"weight"}, {"bias"}, {"weight", "bias"}, {"x"}])
def test_what_is_frozen_gets_no_gradient_and_the_others_get_theirs(frozen: set[str]) -> None:
    x, (norm, activation) = maps((2, 4, 6, 6), torch.float32, torch.channels_last), block(4)
    x = x if "x" in frozen else x.requires_grad_() * 1
    for name, parameter in norm.named_parameters():
        parameter.requires_grad_(name not in frozen)
    wanted = [each for name, each in (("x", x), *norm.named_parameters()) if name not in frozen]
    found, expected = (torch.autograd.grad(arm(x, norm, activation).sum(), wanted) for arm in (normalised, apart))
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("case", ["evaluation", "no gradient", "other activation", "other norm", "no momentum", "hook"])
def test_elsewhere_the_modules_themselves_are_called(case: str) -> None:
    x, (norm, activation) = maps((2, 4, 6, 6), torch.float32, torch.channels_last).requires_grad_() * 1, block(4)
    called: list[str] = []
    other: nn.Module = nn.ReLU() if case == "other activation" else activation
    kind: nn.Module = nn.GroupNorm(2, 4) if case == "other norm" else norm
    norm.momentum = None if case == "no momentum" else norm.momentum
    if case == "evaluation":
        norm.eval()
    if case == "hook":
        norm.register_forward_hook(lambda *_: called.append("norm"))
    with torch.set_grad_enabled(case != "no gradient"):
        found = normalised(x, kind, other)
        assert len(called) == (case == "hook")
        assert torch.equal(found, apart(x, kind, other))
    assert found.grad_fn is None or not found.grad_fn.name().startswith("_NormSiLU")


def test_a_single_value_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalised(torch.ones(1, 4, 1, 1, requires_grad=True) * 1, *block(4))
