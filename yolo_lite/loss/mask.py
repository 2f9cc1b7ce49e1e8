"""Segmentation losses behind one key: ``MASK_LOSSES[name](logits, target)``.

Logits ``[B, 1, H, W]`` are binary (sigmoid; target 0 or 1), logits ``[B, C, H, W]`` with C >= 2 multi-class (softmax;
target 0..C-1, class 0 the background where a loss knows one). Targets are int64 ``[B, H, W]``; pixels that hold
``ignore_index`` have no influence, whatever their logits. Everything is computed and summed in float32 (float64 for
float64 logits): the sums over a mask of 1024^2 pixels overflow in fp16.

Legend: B images, C classes (1 if binary: the foreground), N = H W pixels. p the probability, y 0 or 1 the truth of a
pixel and a class.

Overlap losses (iou, iou_log, dice, tversky, lovasz) are one number per image and class, over the image's pixels that
are not ignored: TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y. All C classes count, the background too.

reduction   overlap losses                                    bce, ce, focal
"none"      ``[B, C]``, 0 where nothing counts                ``[B, H, W]``, 0 where ignored
"sum"       sum of these                                      sum of these
"mean"      sum / number of (image, class) that count         sum / number of pixels (ce: / sum of their weights)

An image that is ignored as a whole does not count; where nothing counts at all the loss is 0, with a graph.

``absent`` says what a class costs in an image that shows none of it (background-only images, in binary masks):
"area"      FP / n, the mean probability over the image's n pixels, in place of 1 - index: every false positive has the
            same slope 1 / n. For lovasz the mean error.
"formula"   what the formula gives with TP = FN = 0, for iou and dice FP / (FP + smooth): its slope all but vanishes
            where FP is many pixels and is steep for the last ones, which costs small objects (LOG.md). For lovasz the
            image's largest error, whose slope is in one pixel.
"skip"      nothing: the pair does not count, false positives there are never punished.

On a GPU nothing waits for the host, so target values out of range are found by the device's own assertions; on a CPU
they are a ValueError, as wrong shapes and types are on both.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from yolo_lite.config.types import Fraction, NotNegative, Positive
from yolo_lite.ops.safe import safe_ratio

MaskLoss = Callable[..., Tensor]
Reduction = Literal["mean", "sum", "none"]
Absent = Literal["area", "formula", "skip"]


class Pixels(NamedTuple):
    """What every formula starts from."""

    logits: Tensor  # [B, C, N] float32 or float64, 0 where ignored
    label: Tensor  # [B, N] int64, 0 where ignored
    valid: Tensor  # [B, 1, N] bool, not ignored
    size: tuple[int, ...]  # H, W

    @property
    def truth(self) -> Tensor:
        """One-hot ``[B, C, N]`` bool, nothing where ignored."""
        hot = torch.zeros_like(self.pair_logits, dtype=torch.bool).scatter_(1, self.label[:, None], self.valid)
        return hot[:, -self.logits.shape[1] :]

    @property
    def probability(self) -> Tensor:
        """``[B, C, N]``."""
        return self.logits.sigmoid() if self.logits.shape[1] == 1 else self.logits.softmax(dim=1)

    @property
    def pair_logits(self) -> Tensor:
        """``[B, C, N]`` with C >= 2: a binary logit x as the two classes (0, x), whose softmax is the sigmoid of x."""
        return self.logits if self.logits.shape[1] > 1 else F.pad(self.logits, (0, 0, 1, 0))


def _pixels(logits: Tensor, target: Tensor, ignore_index: int) -> Pixels:
    if logits.ndim != 4 or not logits.is_floating_point() or 0 in logits.shape[1:]:
        raise ValueError(f"mask loss: logits are {logits.dtype} {list(logits.shape)}, expected a float [B, C, H, W]")
    expected = [logits.shape[0], *logits.shape[2:]]
    if list(target.shape) != expected or target.dtype != torch.int64:
        found = f"{target.dtype} {list(target.shape)}"
        raise ValueError(f"mask loss: target is {found}, expected torch.int64 {expected} for these logits")
    valid = target.flatten(1) != ignore_index
    label = target.flatten(1).masked_fill(~valid, 0)
    _check_values(label, max(logits.shape[1], 2) - 1, ignore_index)
    exact = logits if logits.dtype == torch.float64 else logits.float()
    exact = exact.flatten(2).masked_fill(~valid[:, None], 0)
    return Pixels(exact, label, valid[:, None], tuple(logits.shape[2:]))


def _check_values(label: Tensor, most: int, ignore_index: int) -> None:
    for value in map(int, label.aminmax()) if label.device.type == "cpu" and label.numel() else ():
        if not 0 <= value <= most:
            raise ValueError(f"mask loss: target holds {value}, expected 0..{most} or ignore_index {ignore_index}")


def _mask_loss(formula: Callable[..., tuple[Tensor, Tensor]]) -> MaskLoss:
    """The loss of a formula, which returns losses ``[B, C]`` or ``[B, H, W]``, and weights that divide their mean."""

    @functools.wraps(formula, assigned=("__name__", "__doc__"))
    def loss(
        logits: Tensor, target: Tensor, *, ignore_index: int = -100, reduction: Reduction = "mean", **parameters: Any
    ) -> Tensor:
        losses, weight = formula(_pixels(logits, target, ignore_index), **parameters)
        if reduction == "mean":
            return safe_ratio(losses.sum(), weight.sum())
        if reduction == "sum":
            return losses.sum()
        if reduction == "none":
            return losses
        raise ValueError(f"mask loss: reduction is {reduction!r}, expected 'mean', 'sum' or 'none'")

    # What plugins and `yolo-lite losses` read: the formula's parameters behind those that all losses have.
    common = inspect.signature(loss, follow_wrapped=False, eval_str=True)
    shown, own = (
        list(common.parameters.values())[:-1],
        list(inspect.signature(formula, eval_str=True).parameters.values()),
    )
    loss.__signature__ = common.replace(parameters=[*shown, *own[1:]])  # type: ignore[attr-defined]
    return loss


@_mask_loss
def iou(pixels: Pixels, *, smooth: NotNegative = 1.0, absent: Absent = "area") -> tuple[Tensor, Tensor]:
    """1 - (TP + smooth) / (TP + FP + FN + smooth), soft Jaccard (Rahman and Wang, ISVC 2016; smooth is ours)."""
    return _lost_share(pixels, 1.0, 1.0, smooth, absent)


@_mask_loss
def iou_log(
    pixels: Pixels,
    *,
    smooth: NotNegative = 1.0,
    absent: Absent = "area",
    floor: Annotated[float, Field(gt=0, lt=1)] = 1e-6,
) -> tuple[Tensor, Tensor]:
    """-ln max(J, floor), J the index of ``iou``: at most -ln floor = 13.8, and constant there.

    With smooth > 0 an image of N pixels has J >= smooth / (N + smooth) for its present classes: up to a megapixel the
    default floor is not reached, and there is always a gradient.
    """
    kept, lost, counts = _shares(pixels, 1.0, 1.0, smooth, absent)
    return -safe_ratio(kept, kept + lost).clamp(min=floor).log() * counts, counts


@_mask_loss
def dice(pixels: Pixels, *, smooth: NotNegative = 1.0, absent: Absent = "area") -> tuple[Tensor, Tensor]:
    """1 - (2 TP + smooth) / (2 TP + FP + FN + smooth) (Milletari et al., arXiv:1606.04797, without its squares)."""
    return _lost_share(pixels, 0.5, 0.5, smooth / 2, absent)


@_mask_loss
def tversky(
    pixels: Pixels,
    *,
    alpha: NotNegative = 0.3,
    beta: NotNegative = 0.7,
    smooth: NotNegative = 1.0,
    absent: Absent = "area",
) -> tuple[Tensor, Tensor]:
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth) (Salehi et al., arXiv:1706.05721).

    beta > alpha finds more, at the price of false positives. (1, 1) is ``iou``; (1/2, 1/2) is ``dice`` of twice the
    smooth.
    """
    return _lost_share(pixels, alpha, beta, smooth, absent)


def _lost_share(pixels: Pixels, alpha: float, beta: float, smooth: float, absent: Absent) -> tuple[Tensor, Tensor]:
    """1 - index ``[B, C]``, and 1 where the pair counts, else 0."""
    kept, lost, counts = _shares(pixels, alpha, beta, smooth, absent)
    return safe_ratio(lost, kept + lost) * counts, counts


def _shares(pixels: Pixels, alpha: float, beta: float, smooth: float, absent: Absent) -> tuple[Tensor, Tensor, Tensor]:
    """Three ``[B, C]``: kept and lost, the index being kept / (kept + lost), and 1 where the pair counts, else 0.

    FP and FN are summed each by itself and not as differences of large sums: a perfect mask has exactly 0.
    """
    probability, truth = pixels.probability * pixels.valid, pixels.truth
    hit, miss, false = probability * truth, (1 - probability) * truth, probability * ~truth
    true_positive, false_negative, false_positive = (part.sum(dim=2) for part in (hit, miss, false))  # [B, C]
    kept, lost = true_positive + smooth, alpha * false_positive + beta * false_negative
    present, counts = _presence(pixels.valid, truth, absent, probability.dtype)
    if absent == "area":
        num_pixels = pixels.valid.sum(dim=2)  # [B, 1]
        kept = torch.where(present, kept, num_pixels - false_positive)
        lost = torch.where(present, lost, false_positive)
    return kept, lost, counts


def _presence(valid: Tensor, truth: Tensor, absent: Absent, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Whether an image shows a class, ``[B, C]`` bool, and whether the pair counts, ``[B, C]`` 0 or 1."""
    if absent not in ("area", "formula", "skip"):
        raise ValueError(f"mask loss: absent is {absent!r}, expected 'area', 'formula' or 'skip'")
    present = truth.any(dim=2)
    counts = present if absent == "skip" else valid.any(dim=2).expand_as(present)
    return present, counts.to(dtype)


@_mask_loss
def lovasz(pixels: Pixels, *, absent: Absent = "area") -> tuple[Tensor, Tensor]:
    """Lovász extension of the Jaccard loss over the pixels' errors (Berman et al., arXiv:1705.08790).

    Errors are max(0, 1 - x) and max(0, 1 + x) of a logit x in a binary mask (Lovász hinge), |y - p| in a multi-class
    one (Lovász-Softmax). Sorted downwards, m_1 >= m_2 ..., they give sum m_k (J_k - J_{k-1}), J_k the Jaccard loss of a
    mask that is wrong in the first k pixels. Without smoothing; the authors' multi-class default is absent="skip".
    """
    truth = pixels.truth
    if pixels.logits.shape[1] == 1:  # the hinge, not yet cut at 0
        error = 1 - torch.where(truth, pixels.logits, -pixels.logits)
    else:
        probability = pixels.probability
        error = torch.where(truth, 1 - probability, probability)
    error = error.masked_fill(~pixels.valid, -1)  # ignored pixels come after every error
    ordered, order = error.sort(dim=2, descending=True)
    ordered = ordered.clamp(min=0)
    loss = (ordered * _jaccard_steps(truth.gather(2, order), ordered.dtype)).sum(dim=2)  # [B, C]
    present, counts = _presence(pixels.valid, truth, absent, loss.dtype)
    mean = ordered.sum(dim=2) / pixels.valid.sum(dim=2).clamp(min=1)
    loss = torch.where(present, loss, mean if absent == "area" else ordered[:, :, 0])
    return loss * counts, counts


def _jaccard_steps(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """J_k - J_{k-1} ``[B, C, N]`` for pixels wrong one after the other; ``truth`` in that order.

    Written out and not subtracted, which would cancel in float32: a missed pixel takes 1 from the intersection I, so
    the loss 1 - I / U grows by 1 / U; a false one adds 1 to the union U and grows it by I / (U (U - 1)), U with it.
    Exact below 2^24 pixels. All 0 for an empty mask.
    """
    missed = truth.cumsum(dim=2, dtype=dtype)  # so far
    present = missed[:, :, -1:]
    wrong = torch.arange(1, truth.shape[2] + 1, device=truth.device, dtype=dtype)
    intersection, union = present - missed, present + wrong - missed
    return torch.where(truth, 1 / union, intersection / union / (union - 1).clamp(min=1))


@_mask_loss
def ce(pixels: Pixels, *, weight: Tensor | None = None, label_smoothing: Fraction = 0.0) -> tuple[Tensor, Tensor]:
    """-w ln p of the true class, cross-entropy (weighted as in Ronneberger et al., arXiv:1505.04597, by class).

    As in torch "mean" divides by the sum of the weights, so that it is a weighted mean; it is 0, not NaN, where all
    is ignored.

    Args:
        weight: of each class ``[C]``, of background and foreground ``[2]`` in a binary mask, on the logits' device.
        label_smoothing: part of the truth, 0..1, that is spread evenly over all classes (of a binary mask too).
    """
    wide = pixels.pair_logits
    if weight is not None and list(weight.shape) != [wide.shape[1]]:
        raise ValueError(f"mask loss: weight has shape {list(weight.shape)}, expected [{wide.shape[1]}]")
    weight = None if weight is None else weight.to(wide.dtype)
    valid = pixels.valid[:, 0].to(wide.dtype)  # [B, N]
    loss = F.cross_entropy(wide, pixels.label, weight, reduction="none", label_smoothing=label_smoothing) * valid
    pixel_weight = valid if weight is None else weight[pixels.label] * valid
    return loss.unflatten(1, pixels.size), pixel_weight


@_mask_loss
def bce(pixels: Pixels, *, positive_weight: Positive = 1.0) -> tuple[Tensor, Tensor]:
    """-w ln p of the true class, binary cross-entropy; w is 1 for class 0, the background.

    Unlike ``ce`` "mean" divides by the number of pixels, whatever their weights.
    """
    log_p = pixels.pair_logits.log_softmax(dim=1).gather(1, pixels.label[:, None])[:, 0]  # [B, N]
    valid = pixels.valid[:, 0].to(log_p.dtype)
    loss = -log_p * valid * (1 + (positive_weight - 1) * (pixels.label > 0))
    return loss.unflatten(1, pixels.size), valid


@_mask_loss
def focal(pixels: Pixels, *, gamma: NotNegative = 2.0, alpha: Fraction | None = 0.25) -> tuple[Tensor, Tensor]:
    """-alpha_t (1 - p_t)^gamma ln p_t, p_t the probability of the true class (Lin et al., arXiv:1708.02002, eq. 5).

    alpha_t is 1 - alpha for class 0, the background, and alpha for the others; ``None`` leaves it out.
    """
    log_p = pixels.pair_logits.log_softmax(dim=1).gather(1, pixels.label[:, None])[:, 0]  # [B, N]
    # a base of 0 has no finite slope for gamma < 1; expm1 keeps the digits of a small 1 - p
    loss = -log_p * (-torch.expm1(log_p)).clamp(min=1e-12).pow(gamma)
    if alpha is not None:
        loss = loss * (alpha + (1 - 2 * alpha) * (pixels.label == 0))
    valid = pixels.valid[:, 0].to(loss.dtype)
    return (loss * valid).unflatten(1, pixels.size), valid


MASK_LOSSES: dict[str, MaskLoss] = {
    loss.__name__: loss for loss in (iou, iou_log, dice, tversky, lovasz, bce, ce, focal)
}
