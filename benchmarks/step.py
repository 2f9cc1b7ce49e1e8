"""The bare step with the blocks' quick backward pass, beside torch's own operations in their place.

    OMP_NUM_THREADS=1 python benchmarks/step.py --data ../shared/data/bccd/data.yaml

Both take turns in one process on the same model and batch. Seconds are those of the processor (all threads), so that
other processes count little; with ``--wall`` those of the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from train_step import bare_step, started

from yolo_lite.config.options import TrainOptions
from yolo_lite.engine.resolve import run_config
from yolo_lite.model.blocks import standard
from yolo_lite.model.blocks.backward import SiLU, join
from yolo_lite.structures import Compute


def torch_silu(_: SiLU, x: Tensor) -> Tensor:
    return nn.functional.silu(x, inplace=True)


def torch_join(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(maps), dim=1)


ARMS: dict[str, tuple[Any, Any]] = {"torch": (torch_silu, torch_join), "quick": (SiLU.forward, join)}


def use(arm: str) -> None:
    """Let the blocks compute by one of the ``ARMS`` from now on."""
    SiLU.forward, standard.join = ARMS[arm]  # type: ignore[method-assign, attr-defined]


def gradients(model: Any, images: Tensor, compute: Compute) -> list[Tensor]:
    """Of all parameters, at the same loss as in ``bare_step``."""
    with compute.autocast():
        raw = model(images).slots
    return list(torch.autograd.grad(raw.float().square().mean(), list(model.parameters())))


def seconds_in_turn(step: Callable[[], None], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of a step of each arm, one figure a round; two rounds before do not count."""
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for turn in range(-2, rounds):
        for arm in ARMS:
            use(arm)
            start = clock()
            step()
            if turn >= 0:
                seconds[arm].append(clock() - start)
    return seconds


def measure(precision: str, flags: argparse.Namespace) -> str:
    """One row of the table."""
    what = {name: getattr(flags, name) for name in ("cfg", "data", "imgsz", "batch_size")}
    config = run_config(TrainOptions(**what, hyp="cfg/hyp.yaml", device="cpu", set={"precision": precision}))
    state, setup = started(config)
    size = (flags.batch_size, 3, flags.imgsz, flags.imgsz)
    images = torch.rand(size).to(memory_format=setup.compute.memory_format)
    found = []
    for arm in ARMS:
        use(arm)
        found.append(gradients(state.model, images, setup.compute))
    is_same = all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    clock = time.perf_counter if flags.wall else time.process_time
    seconds = seconds_in_turn(bare_step(state.model, images, setup.compute), flags.rounds, clock)
    ratios = [old / new for old, new in zip(seconds["torch"], seconds["quick"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    times = " | ".join(f"{statistics.median(seconds[arm]):.3f}" for arm in ARMS)
    return f"| {precision} | {times} | {middle:.3f} ({low:.3f} to {high:.3f}) | {'yes' if is_same else 'NO'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cfg", default="cfg/yolo_n.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--wall", action="store_true")
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| precision | s, torch | s, quick | torch / quick (quartiles) | same gradients |\n|---|---|---|---|---|")
    for precision in flags.precisions:
        print(measure(precision, flags), flush=True)


if __name__ == "__main__":
    main()
