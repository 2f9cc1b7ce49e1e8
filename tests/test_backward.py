"""What is quicker than torch's operations gives what they give, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from yolo_lite.model.blocks.backward import SHORT, SiLU, join
from yolo_lite.model.blocks.standard import C3, activation_maker

LAYOUTS = (torch.channels_last, torch.contiguous_format)


def maps(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=random) * 3 + 1).to(dtype).to(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [(16, 16), (8, 24, 32), (64, 16), (1, 3)])
def test_joined_maps_and_their_gradients_are_torchs(
    channels: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    parts = [maps((2, count, 6, 5), dtype, layout, count).requires_grad_() for count in channels]
    gradient = maps((2, sum(channels), 6, 5), dtype, layout, seed=9)
    expected, found = torch.cat(parts, dim=1), join(parts)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    wanted, given = (torch.autograd.grad(out, parts, gradient) for out in (expected, found))
    assert all(torch.equal(one, two) for one, two in zip(given, wanted, strict=True))


def test_short_parts_of_a_bf16_gradient_come_dense_and_long_ones_are_not_copied() -> None:
    given: dict[int, Tensor] = {}
    parts = [maps((2, count, 4, 4), torch.bfloat16, torch.channels_last).requires_grad_() * 1 for count in (16, SHORT)]
    for part in parts:
        part.register_hook(lambda gradient: given.update({gradient.shape[1]: gradient}))
    join(parts).backward(maps((2, 16 + SHORT, 4, 4), torch.bfloat16, torch.channels_last))
    assert given[16].is_contiguous(memory_format=torch.channels_last)
    assert given[SHORT].stride(3) == 16 + SHORT


@pytest.mark.parametrize("mixed", [False, True])
def test_a_c3_has_the_gradients_of_torchs_operations(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = C3(16, 32, repeats=2, activation=activation_maker("nn.SiLU()")).to(memory_format=torch.channels_last)
    images = maps((2, 16, 24, 24), torch.float32, torch.channels_last)

    def step(module: nn.Module) -> list[Tensor]:
        x = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            out = module(x)
        return [out, *torch.autograd.grad(out.float().square().sum(), [x, *module.parameters()])]

    found = step(copy.deepcopy(block))
    monkeypatch.setattr("yolo_lite.model.blocks.standard.join", lambda maps: torch.cat(maps, dim=1))
    monkeypatch.setattr(SiLU, "forward", lambda self, x: nn.functional.silu(x, inplace=True))
    expected = step(copy.deepcopy(block))
    assert len(found) > 10 and all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_the_gradients_of_a_join_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "bfloat16", torch.float64)  # so that float64 takes the way of bf16
    parts = [maps((2, count, 3, 2), torch.float64, torch.channels_last).requires_grad_() for count in (2, 3)]
    assert join(parts).grad_fn.name().startswith("_Join")
    assert torch.autograd.gradcheck(lambda *maps: join(maps), parts)
    assert torch.autograd.gradgradcheck(lambda *maps: join(maps).square(), parts)


def test_silu_changes_its_input_only_where_no_backward_pass_follows() -> None:
    x = maps((2, 4, 3, 3), torch.float32, torch.channels_last)
    expected, in_graph = nn.functional.silu(x), x.clone().requires_grad_() * 1
    out = SiLU()(in_graph)
    assert torch.equal(in_graph, x) and torch.equal(out, expected)
    with torch.no_grad():
        assert SiLU()(x).data_ptr() == x.data_ptr() and torch.equal(x, expected)


def test_silu_copies_nothing_in_training() -> None:
    with torch.profiler.profile() as profile:
        SiLU()(torch.randn(1, 2, 3, 3, requires_grad=True) * 1)
    names = {event.name for event in profile.events()}
    assert "aten::silu" in names and "aten::clone" not in names
