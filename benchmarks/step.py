"""The bare step with normalisation and SiLU as one function, beside torch's two modules: seconds, and what is kept.

    OMP_NUM_THREADS=1 python benchmarks/step.py --data ../shared/data/bccd/data.yaml

Both take turns in one process on the same model and batch. Seconds are those of the processor (all threads), so that
other processes count little. Kept is what autograd holds between forward and backward pass, weights included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from train_step import bare_step, started

from yolo_lite.config.options import TrainOptions
from yolo_lite.engine.resolve import run_config
from yolo_lite.model.blocks import standard
from yolo_lite.model.blocks.norm_silu import normalised
from yolo_lite.structures import Compute


def apart(x: Tensor, norm: nn.Module, activation: nn.Module) -> Any:
    return activation(norm(x))


ARMS = {"apart": apart, "together": normalised}


def gradients(model: Any, images: Tensor, compute: Compute) -> list[Tensor]:
    """Of all parameters, at the same loss as in ``bare_step``."""
    with compute.autocast():
        raw = model(images).slots
    return list(torch.autograd.grad(raw.float().square().mean(), list(model.parameters())))


def megabytes_kept(model: Any, images: Tensor, compute: Compute) -> float:
    """Memory of the distinct tensors that a forward pass keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), compute.autocast():
        raw = model(images)
    assert raw is not None  # and its graph, so that no memory was reused meanwhile
    return sum(kept.values()) / 1e6


def seconds_in_turn(step: Callable[[], None], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of a step of each arm, one figure a round; two rounds before do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for turn in range(-2, rounds):
        for name, arm in ARMS.items():
            standard.normalised = arm
            start = time.process_time()
            step()
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def measure(precision: str, flags: argparse.Namespace) -> str:
    """One row of the table."""
    what = {name: getattr(flags, name) for name in ("cfg", "data", "imgsz", "batch_size")}
    config = run_config(TrainOptions(**what, hyp="cfg/hyp.yaml", device="cpu", set={"precision": precision}))
    state, setup = started(config)
    size = (flags.batch_size, 3, flags.imgsz, flags.imgsz)
    images = torch.rand(size).to(memory_format=setup.compute.memory_format)
    found, kept = {}, {}
    for name, arm in ARMS.items():
        standard.normalised = arm
        found[name] = gradients(state.model, images, setup.compute)
        kept[name] = megabytes_kept(state.model, images, setup.compute)
    is_same = all(torch.equal(one, two) for one, two in zip(found["apart"], found["together"], strict=True))
    seconds = seconds_in_turn(bare_step(state.model, images, setup.compute), flags.rounds)
    ratios = [old / new for old, new in zip(seconds["apart"], seconds["together"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    cells = [precision, f"{statistics.median(seconds['apart']):.3f}", f"{middle:.3f} ({low:.3f} to {high:.3f})"]
    cells += [f"{kept['apart']:.0f}", f"{kept['together']:.0f}", "yes" if is_same else "NO"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cfg", default="cfg/yolo_n.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| precision | s, apart | apart / together | MB kept, apart | MB kept, together | same gradients |")
    print("|---|---|---|---|---|---|")
    for precision in flags.precisions:
        print(measure(precision, flags), flush=True)


if __name__ == "__main__":
    main()
