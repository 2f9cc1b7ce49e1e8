"""Microseconds of every box loss for 10,000 pairs, forward and backward, beside torchvision's GIoU, DIoU and CIoU.

    python benchmarks/box_losses.py

All run in turn, round by round, on one thread, and what counts is the processor's time: on a busy machine the ratios
hold, the microseconds less. Ours take boxes cxcywh, as the network predicts them; torchvision's take corners. They are
run twice: on boxes that are corners already, and as they would be used here, with the conversion of the predicted and
target boxes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import ops

from yolo_lite.loss.box import BOX_LOSSES
from yolo_lite.ops.boxes import cxcywh_to_xyxy

THEIRS = {
    "giou": ops.generalized_box_iou_loss,
    "diou": ops.distance_box_iou_loss,
    "ciou": ops.complete_box_iou_loss,
}
UNIT = "torchvision ciou"  # what everything is compared with


class Entry(NamedTuple):
    loss: Callable[[Tensor, Tensor], Tensor]
    predicted: Tensor  # [P, 4]
    target: Tensor  # [P, 4]


def make_pairs(number: int) -> tuple[Tensor, Tensor]:
    """Predicted and target boxes cxcywh ``[number, 4]`` of 8 to 300 pixels in an image of 640, most overlapping."""
    random = torch.Generator().manual_seed(0)
    target = torch.cat(
        (640 * torch.rand(number, 2, generator=random), 8 + 292 * torch.rand(number, 2, generator=random)), 1
    )
    noise = torch.randn(number, 4, generator=random)
    centre = target[:, :2] + noise[:, :2] * target[:, 2:] / 4
    return torch.cat((centre, target[:, 2:] * (noise[:, 2:] / 4).exp()), dim=1), target


def _with_conversion(loss: Callable[..., Tensor], predicted: Tensor, target: Tensor) -> Tensor:
    return loss(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target))


def entries(num_pairs: int) -> dict[str, Entry]:
    """Ours, torchvision's on corners, and torchvision's with the conversion."""
    predicted, target = make_pairs(num_pairs)
    corners = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target)
    ours = {name: Entry(loss, predicted, target) for name, loss in BOX_LOSSES.items()}
    bare = {f"torchvision {name}": Entry(loss, *corners) for name, loss in THEIRS.items()}
    converted = {
        f"torchvision {name}, converted": Entry(partial(_with_conversion, loss), predicted, target)
        for name, loss in THEIRS.items()
    }
    return ours | bare | converted


def forward_backward(entry: Entry) -> tuple[float, float]:
    """Processor seconds of forward with the sum over the pairs, and of backward."""
    predicted = entry.predicted.clone().requires_grad_()
    start = time.process_time()
    total = entry.loss(predicted, entry.target).sum()
    middle = time.process_time()
    torch.autograd.grad(total, predicted)
    return middle - start, time.process_time() - middle


def table(rounds: list[dict[str, tuple[float, float]]]) -> str:
    """Markdown of medians over the rounds; a ratio is the median of the rounds' ratios."""

    def ratio(name: str, other: str) -> str:
        return f"{statistics.median(sum(times[name]) / sum(times[other]) for times in rounds):.2f}"

    lines = [f"| loss | forward, us | backward, us | both, us | / {UNIT} | / torchvision's own |", f"|{'---|' * 6}"]
    for name in rounds[0]:
        forward, backward = (statistics.median(times[name][part] for times in rounds) for part in (0, 1))
        both = statistics.median(sum(times[name]) for times in rounds)
        cells = [f"{1e6 * seconds:.0f}" for seconds in (forward, backward, both)]
        own = ratio(name, f"torchvision {name}") if name in THEIRS else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio(name, UNIT)} | {own} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=200)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    kinds = entries(flags.pairs)
    for entry in kinds.values():
        forward_backward(entry)
    rounds = [{name: forward_backward(entry) for name, entry in kinds.items()} for _ in range(flags.rounds)]
    print(f"torch {torch.__version__}, {flags.pairs:,} pairs, {flags.rounds} rounds\n")
    print(table(rounds))


if __name__ == "__main__":
    main()
