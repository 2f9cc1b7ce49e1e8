"""How far and how fast each box loss pulls boxes to their targets: the simulation experiment of the DIoU paper.

    python benchmarks/box_regression.py --compile --picture docs/box_regression.png

The cases (Zheng et al., arXiv:1911.08287, section 3): targets of area 1 and 7 aspect ratios (width / height 1/4 to 4),
all centred at (10, 10); anchors of 7 areas and the 7 aspect ratios at 5,000 points spread evenly over a circle of
radius 3 around that centre: 5000 x 7 x 7 x 7 = 1,715,000. Most anchors do not overlap their target at the start.

The step, the same for each loss: box <- box - rate (2 - IoU) gradient, rate 0.1 for 80 % of the iterations, 0.01 up to
90 %, 0.001 to the end. It is run twice, descending on the corners (left, top, right, bottom) and on centre and size:
the first is the second with half the speed for centres and twice the speed for sides. After each step the sides are
clamped to 0.01 from below, which keeps a box a box. The error of a case is the sum of the absolute differences of
centre x, centre y, width and height, under both.

What it does not say: gradients of different losses differ in size (a factor on a loss is a factor on the rate, here as
in the paper), so it compares the losses as they are defined, not at the best rate for each. And a network moves all its
boxes at once through shared weights, with an optimizer that may level the sizes of gradients.

Settings: the defaults of the losses, and for those with a unit the side of a square target, 1: unit 1 for l1, l2 and
smooth_l1, constant 1 for nwd, a picture of 20 x 20 for mpdiou. wiou is run as version 3, its mean of 1 - IoU being that
of all cases one iteration before, and as version 1.

``--compile`` fuses the step with torch.compile: about ten times as fast, needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from yolo_lite.loss.box import BOX_LOSSES
from yolo_lite.ops.boxes import aligned_iou

ASPECT_RATIOS = (1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0)  # width / height
ANCHOR_AREAS = (0.5, 0.67, 0.75, 1.0, 1.33, 1.5, 2.0)
CENTRE, RADIUS = 10.0, 3.0
CASES_AT_A_POINT = len(ANCHOR_AREAS) * len(ASPECT_RATIOS) ** 2  # 343
POINTS = 5000
SMALLEST_SIDE = 0.01
PAPER = ("iou", "giou", "diou", "ciou")
# Factors of the gradient of centre x, centre y, width, height. A step d of left and e of right moves the centre by
# (d + e) / 2 and the width by e - d; by the chain rule that is 1/2 and 2 times the step of centre and width alone.
COORDINATES = {"corners": (0.5, 0.5, 2.0, 2.0), "centre and size": (1.0, 1.0, 1.0, 1.0)}
MARKS = (50, 100, 150, 200)  # iterations in the table
FAILED_IOU = 0.5  # a case that ends below it counts as failed

# Predicted and target boxes cxcywh [P, 4] and the running mean of 1 - IoU to losses [P].
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Result(NamedTuple):
    """What the descent under one loss gave."""

    error: list[float]  # mean over the cases after 0, 1, ... iterations
    iou: list[float]  # the same of IoU
    failed: float  # share of the cases that end below FAILED_IOU
    point_error: Tensor  # [points] mean final error of the cases at each point
    seconds: float


def losses() -> dict[str, Loss]:
    """Every box loss and both versions of wiou, with the settings of the docstring above."""
    units: dict[str, dict[str, object]] = {"nwd": {"constant": 1.0}, "mpdiou": {"image_size": (20, 20)}}
    plain: dict[str, Loss] = {
        name: partial(_without_mean, loss, units.get(name, {})) for name, loss in BOX_LOSSES.items() if name != "wiou"
    }
    wiou = BOX_LOSSES["wiou"]
    return plain | {
        "wiou v1": partial(_without_mean, wiou, {"version": 1}),
        "wiou v3": lambda predicted, target, mean: wiou(predicted, target, mean=mean),
    }


def _without_mean(loss: Callable[..., Tensor], settings: dict[str, object], *boxes_and_mean: Tensor) -> Tensor:
    return loss(*boxes_and_mean[:2], **settings)


# ------------------------------------------------------------------------------------------------------ the cases


def circle_points(number: int) -> Tensor:
    """``[number, 2]`` spread evenly over the circle: a sunflower's seeds, no two draws to tell apart."""
    index = torch.arange(number, dtype=torch.float64)
    angle = index * math.pi * (3 - math.sqrt(5))
    radius = RADIUS * ((index + 0.5) / number).sqrt()
    return CENTRE + torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


def make_cases(num_points: int) -> tuple[Tensor, Tensor]:
    """Anchors and targets cxcywh, point by point, stored as four rows ``[4, points * 343]``."""
    ratio, area = (torch.tensor(values, dtype=torch.float64) for values in (ASPECT_RATIOS, ANCHOR_AREAS))
    points = circle_points(num_points)
    anchor = torch.empty(4, num_points, len(area), len(ratio), len(ratio))  # the last is the target's aspect ratio
    anchor[:2] = points.T[:, :, None, None, None]
    anchor[2] = (area[:, None] * ratio).sqrt()[None, :, :, None]
    anchor[3] = (area[:, None] / ratio).sqrt()[None, :, :, None]
    target = torch.full_like(anchor, CENTRE)
    target[2], target[3] = ratio.sqrt(), (1 / ratio).sqrt()
    return anchor.flatten(1), target.flatten(1)


# ---------------------------------------------------------------------------------------------------- the descent


def step_rate(iteration: int, iterations: int) -> float:
    """Rate of the step after ``iteration`` steps of ``iterations``."""
    if iteration < 0.8 * iterations:
        return 0.1
    return 0.01 if iteration < 0.9 * iterations else 0.001


def step(loss: Loss, box: Tensor, target: Tensor, rate: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of boxes ``[P, 4]`` at ``rate`` ``[4]``.

    Returns:
        The moved boxes; from before the step the sums of their errors and of their IoUs.
    """
    gradient = torch.func.grad(lambda moving: loss(moving, target, mean).sum())(box)
    iou = aligned_iou(box, target)
    moved = box - (2 - iou)[:, None] * rate * gradient
    moved = torch.cat((moved[:, :2], moved[:, 2:].clamp(min=SMALLEST_SIDE)), dim=1)
    return moved, (box - target).abs().sum(), iou.sum()


def regress(loss: Loss, coordinates: str, num_points: int, iterations: int, chunk: int, fused: bool) -> Result:
    """Descend all cases together, ``chunk`` of them at a time: few enough for the processor's cache."""
    factors = torch.tensor(COORDINATES[coordinates])
    boxes, targets = make_cases(num_points)
    num_cases = boxes.shape[1]
    torch.compiler.reset()  # each loss compiles step anew, and after eight torch.compile would run it unfused
    advance = torch.compile(partial(step, loss), dynamic=False) if fused else partial(step, loss)
    errors: list[float] = []
    ious: list[float] = []
    started = time.perf_counter()
    for iteration in tqdm(range(iterations), leave=False):
        rate = step_rate(iteration, iterations) * factors
        mean = torch.tensor(1 - ious[-1] if ious else 1.0)
        error = iou = 0.0
        for first in range(0, num_cases, chunk):
            part = slice(first, first + chunk)
            moved, error_sum, iou_sum = advance(boxes[:, part].T, targets[:, part].T, rate, mean)
            boxes[:, part] = moved.T
            error, iou = error + float(error_sum), iou + float(iou_sum)
        errors.append(error / num_cases)
        ious.append(iou / num_cases)
    seconds = time.perf_counter() - started
    case_error = (boxes - targets).abs().sum(dim=0).double()
    case_iou = aligned_iou(boxes.T, targets.T).double()
    errors.append(float(case_error.mean()))
    ious.append(float(case_iou.mean()))
    failed = float((case_iou < FAILED_IOU).double().mean())
    return Result(errors, ious, failed, case_error.view(num_points, -1).mean(dim=1), seconds)


# ----------------------------------------------------------------------------------------------- table and picture


def first_below(error: list[float], bound: float) -> str:
    """The iteration after which the mean error is below ``bound`` for the first time."""
    return next((str(iteration) for iteration, value in enumerate(error) if value < bound), "never")


def table(results: dict[str, Result], bound: float) -> str:
    """Markdown, the smallest final error first."""
    num_cases = CASES_AT_A_POINT * len(next(iter(results.values())).point_error)
    head = ["loss", "total error at the end", *(f"mean error after {mark}" for mark in MARKS)]
    head += ["mean IoU at the end", f"cases below IoU {FAILED_IOU}", f"mean error < {bound:g} after"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, result in sorted(results.items(), key=lambda item: item[1].error[-1]):
        cells = [name, f"{result.error[-1] * num_cases:,.0f}"]
        cells += [f"{result.error[mark]:.4f}" if mark < len(result.error) else "" for mark in MARKS]
        cells += [f"{result.iou[-1]:.4f}", f"{result.failed:.2%}", first_below(result.error, bound)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# Families share a style of line, so that colours can repeat.
FAMILIES = {
    ("-", 2.4): PAPER,
    ("--", 1.2): ("eiou", "siou", "shape_iou", "inner_iou"),
    ("-.", 1.2): ("iou_log", "alpha_iou", "focal_eiou", "wiou v1", "wiou v3"),
    (":", 1.6): ("l1", "l2", "smooth_l1", "nwd", "mpdiou"),
}
COLOURS = ("tab:red", "tab:orange", "tab:blue", "tab:green", "tab:purple", "tab:brown")


def draw(results: dict[str, dict[str, Result]], path: Path) -> None:
    """Error curves of all losses by coordinates, and for the paper's four where the cases started that failed."""
    from matplotlib import colors, pyplot

    figure = pyplot.figure(figsize=(13, 9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.35, 1), squeeze=False)[:, 0]
    panels = above.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for panel, (coordinates, by_loss) in zip(panels, results.items(), strict=True):
        for (style, width), names in FAMILIES.items():
            for colour, name in zip(COLOURS, names, strict=False):
                if name in by_loss:
                    panel.plot(by_loss[name].error, style, color=colour, linewidth=width, label=name)
        panel.set(title=f"descent on {coordinates}", xlabel="iteration", yscale="log", ylim=(1e-3, 6))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean error of a case")
    above.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, handlelength=3)
    first = next(iter(results.values()))
    maps = [name for name in PAPER if name in first]
    panels = below.subplots(1, len(maps), squeeze=False)[0] if maps else []
    for panel, name in zip(panels, maps, strict=True):
        x, y = circle_points(len(first[name].point_error)).T
        scale = colors.LogNorm(1e-3, 6, clip=True)
        dots = panel.scatter(
            x, y, c=first[name].point_error, s=20_000 / len(x), norm=scale, cmap="viridis", linewidths=0
        )
        panel.set(title=f"{name}: {first[name].error[-1]:.3f}", aspect="equal", xticks=(7, 10, 13), yticks=(7, 10, 13))
    if maps:
        below.colorbar(dots, ax=panels, shrink=0.8, label="mean error of the\ncases of a point")
        below.suptitle(
            f"Error at the end by where the anchor's centre started; targets lie in the middle ({next(iter(results))})"
        )
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=POINTS * CASES_AT_A_POINT, help="fewer points, 343 cases at each")
    parser.add_argument("--losses", nargs="+", default=list(losses()), choices=list(losses()), metavar="NAME")
    parser.add_argument("--coordinates", nargs="+", default=list(COORDINATES), choices=list(COORDINATES))
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--bound", type=float, default=1.0, help="mean error that counts as arrived")
    parser.add_argument("--chunk", type=int, default=50 * CASES_AT_A_POINT, help="cases at a time")
    parser.add_argument("--compile", action="store_true", help="fuse the step with torch.compile")
    parser.add_argument("--picture", type=Path, help="draw the curves here (needs matplotlib)")
    flags = parser.parse_args()
    num_points = max(flags.cases // CASES_AT_A_POINT, 1)
    print(f"{num_points * CASES_AT_A_POINT:,} cases, {flags.iterations} iterations, torch {torch.__version__}")
    results: dict[str, dict[str, Result]] = {coordinates: {} for coordinates in flags.coordinates}
    for name, loss in tqdm([(name, losses()[name]) for name in flags.losses]):
        for coordinates, by_loss in results.items():
            by_loss[name] = regress(loss, coordinates, num_points, flags.iterations, flags.chunk, flags.compile)
            tqdm.write(f"{name}, {coordinates}: {by_loss[name].error[-1]:.4f}, {by_loss[name].seconds:.0f} s")
    for coordinates, by_loss in results.items():
        start = next(iter(by_loss.values())).error[0]
        print(f"\n{coordinates}, mean error at the start {start:.4f}\n\n{table(by_loss, flags.bound)}")
    if flags.picture:
        draw(results, flags.picture)


if __name__ == "__main__":
    main()
