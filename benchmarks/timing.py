"""The clock of the other benchmarks: it waits for a GPU, and kinds of work take turns: a drifting machine hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

WARM_UP = 2  # calls of each kind before the clock runs: libraries choose algorithms, allocators grow


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Seconds of some calls one after the other; a GPU is waited for before the first and after the last alone."""
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return time.perf_counter() - start


def in_turn(
    kinds: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, block: float = 0.0, uncounted: int = 0
) -> dict[str, list[float]]:
    """Seconds of a call of each kind, one figure a round, after calls to warm up.

    Args:
        block: seconds of a kind's turn, which is one call at least.
        uncounted: calls with which a turn begins, such as those whose batches were ready before.
    """
    calls = {}
    for kind, call in kinds.items():
        seconds_of(call, device, WARM_UP)
        calls[kind] = max(round(block / seconds_of(call, device)), 1)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, call in kinds.items():
            seconds_of(call, device, uncounted)
            seconds[kind].append(seconds_of(call, device, calls[kind]) / calls[kind])
    return seconds
