"""Box losses behind one key: ``BOX_LOSSES[name](predicted, target)``.

P aligned pairs of boxes cxcywh in pixels, ``[P, 4]``, of any float type; the losses come as ``[P]``, float32 (float64
for float64 boxes). What follows the pair are parameters with the defaults of the papers. Notation of the formulas: I
and U are the areas of intersection and union, C that of the smallest box around both, cw and ch its sides, c its
diagonal, rho the distance of the centres, w and h the sides of the predicted, wg and hg those of the target box.

A perfect match of a box with an area has loss 0 and gradient 0 under every loss. A box without an area has IoU 0, with
itself too. No loss depends on the unit of the boxes but l1, l2, smooth_l1, mpdiou and nwd, which say so.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from yolo_lite.config.types import NotNegative, Positive
from yolo_lite.ops.boxes import aligned_iou, aligned_overlap, aligned_union
from yolo_lite.ops.safe import floored, safe_power, safe_ratio

BoxLossFunction = Callable[..., Tensor]
AboveOne = Annotated[float, Field(gt=1)]
Form = Literal["iou", "giou", "diou", "ciou"]

# Pixels; where both sides are below it the gradient of a predicted box's aspect, 1 / (w^2 + h^2), would overflow.
SMALLEST_SIDE = 1e-6
# Focal-EIoU weighs pairs by a power of their IoU: one this small still counts, or disjoint boxes would learn nothing.
FOCAL_EIOU_FLOOR = 0.01


class Pair(NamedTuple):
    """What the losses of the IoU family know of each pair."""

    predicted: Tensor  # [P, 4]
    target: Tensor  # [P, 4]
    iou: Tensor  # [P] in 0..1
    union: Tensor  # [P] area
    enclosing: Tensor  # [P, 2] cw, ch
    offset: Tensor  # [P, 2] from centre to centre
    distance: Tensor  # [P] rho^2
    diagonal: Tensor  # [P] c^2


def _pair(predicted: Tensor, target: Tensor) -> Pair:
    # Negative sides count as 0: else the centres might be farther apart than the box around both is long.
    exact = (_exact(box) for box in (predicted, target))
    predicted, target = (torch.cat((box[:, :2], floored(box[:, 2:], 0)), dim=1) for box in exact)
    overlap, enclosing = aligned_overlap(predicted, target)
    intersection, union = aligned_union(predicted, target, overlap)
    offset = predicted[:, :2] - target[:, :2]
    squares = offset.square().sum(dim=1), enclosing.square().sum(dim=1)
    return Pair(predicted, target, safe_ratio(intersection, union), union, enclosing, offset, *squares)


def _exact(box: Tensor) -> Tensor:
    """At least float32: squares of pixels overflow in fp16, differences of pixels round in bf16."""
    return box if box.dtype == torch.float64 else box.float()


def l1(predicted: Tensor, target: Tensor, *, unit: Tensor | float = 1.0, encoded: bool = False) -> Tensor:
    """Sum of |b - g| over left, top, right, bottom, in ``unit`` pixels (Girshick et al., arXiv:1311.2524)."""
    return _differences(predicted, target, unit, encoded).abs().sum(dim=1)


def l2(predicted: Tensor, target: Tensor, *, unit: Tensor | float = 1.0, encoded: bool = False) -> Tensor:
    """Sum of (b - g)^2 over left, top, right, bottom, in ``unit`` pixels (Redmon et al., arXiv:1506.02640)."""
    return _differences(predicted, target, unit, encoded).square().sum(dim=1)


def smooth_l1(
    predicted: Tensor, target: Tensor, *, unit: Tensor | float = 1.0, beta: Positive = 1.0, encoded: bool = False
) -> Tensor:
    """l2 / (2 beta) below ``beta`` units, l1 - beta / 2 above (Girshick, arXiv:1504.08083, eq. 3)."""
    size = _differences(predicted, target, unit, encoded).abs()
    return torch.where(size < beta, size.square() / (2 * beta), size - beta / 2).sum(dim=1)


def _differences(predicted: Tensor, target: Tensor, unit: Tensor | float = 1.0, encoded: bool = False) -> Tensor:
    """Differences ``[P, 4]`` of left, top, right, bottom in units, exact for boxes far from 0; or of encoded boxes."""
    difference = _exact(predicted) - _exact(target)
    if encoded:
        return difference
    centre, size = difference.split(2, dim=1)
    return torch.cat((centre - size / 2, centre + size / 2), dim=1) / unit


def iou(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU; no gradient for disjoint boxes (Yu et al., arXiv:1608.01471, in its linear form)."""
    return 1 - _pair(predicted, target).iou


def iou_log(predicted: Tensor, target: Tensor, *, floor: Annotated[float, Field(gt=0, lt=1)] = 1e-3) -> Tensor:
    """-ln max(IoU, floor), at most -ln floor and constant there (Yu et al., arXiv:1608.01471, UnitBox).

    A predicted side of 0 has the gradient of the floor, or it would stay 0.
    """
    pair = _pair(predicted, target)
    is_empty = (pair.predicted[:, 2:] <= 0).any(dim=1)
    return -torch.where(is_empty, floored(pair.iou, floor), pair.iou.clamp(min=floor)).log()


def giou(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU + (C - U) / C (Rezatofighi et al., arXiv:1902.09630)."""
    pair = _pair(predicted, target)
    return 1 - pair.iou + _empty_share(pair)


def diou(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU + rho^2 / c^2 (Zheng et al., arXiv:1911.08287, eq. 7)."""
    pair = _pair(predicted, target)
    return 1 - pair.iou + _centre_distance(pair)


def ciou(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU + rho^2 / c^2 + alpha v, v from the aspect ratios (Zheng et al., arXiv:1911.08287, eq. 10).

    v = 4 / pi^2 (atan(wg / hg) - atan(w / h))^2 and alpha = v / (1 - IoU + v), constant in backward as its authors
    have it.
    """
    pair = _pair(predicted, target)
    return 1 - pair.iou + _centre_distance(pair) + _aspect(pair)


def eiou(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU + rho^2 / c^2 + (w - wg)^2 / cw^2 + (h - hg)^2 / ch^2 (Zhang et al., arXiv:2101.08158)."""
    return _efficient(_pair(predicted, target))


def focal_eiou(predicted: Tensor, target: Tensor, *, gamma: NotNegative = 0.5) -> Tensor:
    """IoU^gamma EIoU, weight constant in backward and for IoUs of at least 0.01 (Zhang et al., arXiv:2101.08158).

    With a gradient through the weight a nearly disjoint box would be pushed away, and IoU^gamma has none at 0.
    """
    pair = _pair(predicted, target)
    return pair.iou.detach().clamp(min=FOCAL_EIOU_FLOOR).pow(gamma) * _efficient(pair)


def siou(predicted: Tensor, target: Tensor, *, theta: AboveOne = 4.0) -> Tensor:
    """1 - IoU + (distance, weighted by the angle, + shape) / 2 (Gevorgyan, arXiv:2205.12740).

    The angle cost sin(2 asin(min(|dx|, |dy|) / rho)) is written as 2 |dx| |dy| / rho^2, which is the same.
    """
    pair = _pair(predicted, target)
    angle = safe_ratio(2 * pair.offset.abs().prod(dim=1), pair.offset.square().sum(dim=1))  # [P] in 0..1
    distance = 1 - torch.exp(-(2 - angle[:, None]) * safe_ratio(pair.offset, pair.enclosing).square())  # [P, 2]
    return 1 - pair.iou + (distance.sum(dim=1) + _shape(pair, theta).sum(dim=1)) / 2


def alpha_iou(predicted: Tensor, target: Tensor, *, alpha: Positive = 3.0, form: Form = "ciou") -> Tensor:
    """1 - IoU^alpha, further terms of ``form`` to the power alpha too (He et al., arXiv:2110.13675)."""
    pair = _pair(predicted, target)
    return 1 - safe_power(pair.iou, alpha) + sum(safe_power(term, alpha) for term in _penalties(pair, form))


def wiou(
    predicted: Tensor,
    target: Tensor,
    *,
    version: Literal[1, 3] = 3,
    alpha: AboveOne = 1.9,
    delta: Positive = 3.0,
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.01,
    mean: Tensor | None = None,
) -> Tensor:
    """exp(rho^2 / c^2) (1 - IoU), c constant in backward; version 3 weighs by rarity (Tong et al., arXiv:2301.10051).

    Version 3 multiplies by beta / (delta alpha^(beta - delta)), beta = (1 - IoU) / mean: ordinary pairs learn most,
    perfect and hopeless ones little.

    Args:
        momentum: of the running mean, which ``BoxLoss`` keeps.
        mean: running mean of 1 - IoU; without it the mean over these pairs.
    """
    pair = _pair(predicted, target)
    distance = safe_ratio(pair.distance, pair.diagonal.detach())
    loss = distance.exp() * (1 - pair.iou)
    if version == 1:
        return loss
    missing = (1 - pair.iou).detach()
    beta = safe_ratio(missing, missing.mean() if mean is None else mean)
    return loss * beta / (delta * alpha ** (beta - delta))


def mpdiou(predicted: Tensor, target: Tensor, *, image_size: tuple[int, int] = (640, 640)) -> Tensor:
    """1 - IoU + (d1^2 + d2^2) / (W^2 + H^2), d between like corners, W and H of the input (arXiv:2307.07662).

    ``image_size`` is (height, width) in pixels.
    """
    predicted, target = _exact(predicted), _exact(target)  # once: a half-precision gradient is rounded only at its end
    squares = _differences(predicted, target).square().sum(dim=1)
    return 1 - _pair(predicted, target).iou + squares / (image_size[0] ** 2 + image_size[1] ** 2)


def inner_iou(predicted: Tensor, target: Tensor, *, ratio: Positive = 0.7, form: Form = "ciou") -> Tensor:
    """Loss of ``form`` with the IoU of both boxes scaled by ``ratio`` instead of IoU (Zhang et al., arXiv:2311.02877).

    Below 1 well placed boxes get larger gradients, above 1 badly placed ones.
    """
    pair = _pair(predicted, target)
    scaled = (torch.cat((box[:, :2], box[:, 2:] * ratio), dim=1) for box in (pair.predicted, pair.target))
    return 1 - aligned_iou(*scaled) + sum(_penalties(pair, form))


def shape_iou(predicted: Tensor, target: Tensor, *, scale: NotNegative = 0.0) -> Tensor:
    """1 - IoU + distance + shape / 2, both weighted by the target's shape^scale (Zhang et al., arXiv:2312.17663)."""
    pair = _pair(predicted, target)
    sides = pair.target[:, 2:].clamp(min=SMALLEST_SIDE)
    power = (sides / sides.amax(dim=1, keepdim=True)).pow(scale)  # [P, 2] wg^s, hg^s in a unit in which none overflows
    weight = 2 * power / power.sum(dim=1, keepdim=True)  # ww, hh
    crosswise = weight.flip(1)  # an offset along the short side weighs more
    distance = safe_ratio((crosswise * pair.offset.square()).sum(dim=1), pair.diagonal)
    return 1 - pair.iou + distance + _shape(pair, 4.0, crosswise).sum(dim=1) / 2


def nwd(predicted: Tensor, target: Tensor, *, constant: Positive = 12.8) -> Tensor:
    """1 - exp(-W2 / constant), W2 the Wasserstein distance of the boxes as Gaussians (Wang et al., arXiv:2110.13389).

    ``constant``: mean size of the objects in pixels, 12.8 for the paper's aerial images.
    """
    centre, size = (_exact(predicted) - _exact(target)).split(2, dim=1)
    squared = centre.square().sum(dim=1) + size.square().sum(dim=1) / 4
    return 1 - torch.exp(-squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt() / constant)


def _empty_share(pair: Pair) -> Tensor:
    """(C - U) / C ``[P]``: how much of the enclosing box is in neither box."""
    area = pair.enclosing.prod(dim=1)
    return safe_ratio(area - pair.union, area).clamp(min=0)


def _centre_distance(pair: Pair) -> Tensor:
    """rho^2 / c^2 ``[P]`` in 0..1."""
    return safe_ratio(pair.distance, pair.diagonal)


def _aspect(pair: Pair) -> Tensor:
    """alpha v ``[P]`` of CIoU. ``atan2`` keeps the gradient finite where one predicted side is 0."""
    size = pair.predicted[:, 2:]
    has_vanished = (size < SMALLEST_SIDE).all(dim=1)
    width, height = (side.masked_fill(has_vanished, SMALLEST_SIDE) for side in size.unbind(dim=1))
    angle = torch.atan2(*pair.target[:, 2:].unbind(dim=1)) - torch.atan2(width, height)
    v = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        alpha = safe_ratio(v, 1 - pair.iou + v)
    return alpha * v


def _penalties(pair: Pair, form: str) -> list[Tensor]:
    """What the forms of the IoU family add to 1 - IoU, each ``[P]`` and not negative."""
    terms = {"iou": (), "giou": (_empty_share,), "diou": (_centre_distance,), "ciou": (_centre_distance, _aspect)}
    return [term(pair) for term in terms[form]]


def _efficient(pair: Pair) -> Tensor:
    sides = safe_ratio(pair.predicted[:, 2:] - pair.target[:, 2:], pair.enclosing).square().sum(dim=1)
    return 1 - pair.iou + _centre_distance(pair) + sides


def _shape(pair: Pair, theta: float, weight: Tensor | float = 1.0) -> Tensor:
    """(1 - exp(-weight |w - wg| / max(w, wg)))^theta and the same for heights, ``[P, 2]``."""
    predicted, target = pair.predicted[:, 2:], pair.target[:, 2:]
    difference = safe_ratio((predicted - target).abs(), torch.maximum(predicted, target))
    return safe_power(1 - torch.exp(-weight * difference), theta)


_IOU_FAMILY = (iou, iou_log, giou, diou, ciou, eiou, focal_eiou, siou, alpha_iou, wiou, mpdiou, inner_iou, shape_iou)
BOX_LOSSES: dict[str, BoxLossFunction] = {loss.__name__: loss for loss in (l1, l2, smooth_l1, *_IOU_FAMILY, nwd)}

# What the place of use hands over to the losses that have a parameter of that name.
CONTEXT = ("unit", "image_size", "mean", "encoded")


class BoxLoss(nn.Module):
    """A box loss by its name, with parameters: ``BoxLoss("focal_eiou", gamma=0.5)``.

    Its only state is the running mean of 1 - IoU that wiou compares with: a buffer, so that it is saved. It moves once
    an optimizer step, by ``finish_step``: how the step is split into batches changes nothing. In evaluation mode it
    stands still.
    """

    def __init__(self, name: str, **parameters: Any) -> None:
        super().__init__()
        self.function, self.chosen = BOX_LOSSES[name], parameters
        known = inspect.signature(self.function).parameters
        self.wanted = [word for word in CONTEXT if word in known]
        self.momentum = parameters.get("momentum", known["momentum"].default if "momentum" in known else 0.0)
        self.mean = nn.Buffer(torch.ones(()))
        self.seen = nn.Buffer(torch.zeros(2), persistent=False)  # in a step: the sum of 1 - IoU, and the pairs

    def forward(self, predicted: Tensor, target: Tensor, **context: Any) -> Tensor:
        """Losses ``[P]`` of aligned boxes cxcywh ``[P, 4]``.

        Args:
            context: ``unit``, pixels ``[P, 1]`` or a number, what l1, l2 and smooth_l1 measure in; ``image_size``,
                height and width of the network input, for mpdiou; ``encoded``, whether boxes are what a network
                predicts of them, which l1, l2 and smooth_l1 compare number by number.
        """
        context["mean"] = self.mean
        if self.training and "mean" in self.wanted:
            missing = 1 - aligned_iou(predicted.detach().float(), target.float())
            self.seen.add_(torch.stack((missing.sum(), missing.new_full((), len(target)))))
        given = {word: context[word] for word in self.wanted if word in context}
        return self.function(predicted, target, **self.chosen, **given)

    @property
    def of_coordinates(self) -> bool:
        """Whether the loss compares coordinates, also encoded ones, not areas."""
        return "encoded" in self.wanted

    def finish_step(self) -> None:
        """Move the running mean by what the training step has seen."""
        total, count = self.seen
        self.mean.add_(self.momentum * (total / count.clamp(min=1) - self.mean) * (count > 0))
        self.seen.zero_()
