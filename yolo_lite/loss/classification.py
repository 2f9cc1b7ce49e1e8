"""Binary losses on logits behind one key, element by element: ``CLS_LOSSES[name](logits, target)``.

Logits are float32, targets in 0..1 have their shape, and so has the loss. p = sigmoid(logit), y the target,
p_t = y p + (1 - y) (1 - p). ``positive_weight`` is a factor on the positive term of BCE (keys ``obj_pw``, ``cls_pw``);
what follows it are parameters with the defaults of the papers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from yolo_lite.config.seams import Choice
from yolo_lite.config.types import Fraction, NotNegative, Positive
from yolo_lite.ops.safe import safe_power

BinaryLoss = Callable[..., Tensor]


def bce(logits: Tensor, target: Tensor, positive_weight: float = 1.0) -> Tensor:
    """-y ln p - (1 - y) ln(1 - p), binary cross-entropy."""
    weight = logits.new_full((), positive_weight)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)


def focal(
    logits: Tensor,
    target: Tensor,
    positive_weight: float = 1.0,
    *,
    gamma: NotNegative = 2.0,
    alpha: Fraction | None = 0.25,
) -> Tensor:
    """alpha_t (1 - p_t)^gamma BCE, for easy pairs little (Lin et al., arXiv:1708.02002, eq. 5).

    alpha_t = alpha y + (1 - alpha) (1 - y); ``None`` leaves it out. For hard targets: qfl is for soft ones.
    """
    loss = bce(logits, target, positive_weight)
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss if gamma == 0 else loss * safe_power(1 - _probability_of_truth(logits, target), gamma)


def qfl(logits: Tensor, target: Tensor, positive_weight: float = 1.0, *, beta: Positive = 2.0) -> Tensor:
    """|y - p|^beta BCE, focal for soft targets such as an IoU (Li et al., arXiv:2006.04388, eq. 3)."""
    return bce(logits, target, positive_weight) * safe_power((target - logits.sigmoid()).abs(), beta)


def vfl(
    logits: Tensor, target: Tensor, positive_weight: float = 1.0, *, alpha: NotNegative = 0.75, gamma: Positive = 2.0
) -> Tensor:
    """y BCE where y > 0, alpha p^gamma BCE where y = 0 (Zhang et al., arXiv:2008.13367, eq. 2)."""
    weight = torch.where(target > 0, target, alpha * safe_power(logits.sigmoid(), gamma))
    return bce(logits, target, positive_weight) * weight


def poly(
    logits: Tensor, target: Tensor, positive_weight: float = 1.0, *, epsilon: Annotated[float, Field(ge=-1)] = 1.0
) -> Tensor:
    """BCE + epsilon (1 - p_t), the first polynomial term moved (Leng et al., arXiv:2204.12511, Poly-1)."""
    return bce(logits, target, positive_weight) + epsilon * (1 - _probability_of_truth(logits, target))


CLS_LOSSES: dict[str, BinaryLoss] = {"bce": bce, "focal": focal, "qfl": qfl, "vfl": vfl, "poly": poly}


def _probability_of_truth(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.sigmoid()
    return target * p + (1 - target) * (1 - p)


def binary_loss(choice: Choice, positive_weight: float = 1.0, fl_gamma: float = 0.0) -> BinaryLoss:
    """The loss that hyp.yaml chooses for objectness or classes; ``fl_gamma`` above 0 makes bce focal."""
    name, parameters = choice.name, choice.parameters
    if name == "bce" and fl_gamma > 0:
        name, parameters = "focal", {"gamma": fl_gamma}
    return functools.partial(CLS_LOSSES[name], positive_weight=positive_weight, **parameters)


def one_hot(label: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Class targets ``[P, C]`` float32: 1 - smoothing / 2 for the class, smoothing / 2 for the others."""
    target = torch.full((label.shape[0], num_classes), smoothing / 2, device=label.device)
    return target.scatter_(1, label[:, None], 1 - smoothing / 2)


def class_weights(setting: Sequence[float] | str | None, label_counts: np.ndarray) -> Tensor:
    """Weight of the class loss of an object by its class ``[C]``, scaled so that the mean over all objects is 1.

    Args:
        setting: key ``cls_weights``: a weight for each class, "auto" for 1 / count (a class without objects counts
            as if it had one), or None for equal weights.
        label_counts: objects of each class in the training split ``[C]``.
    """
    counts = (label_counts if label_counts.any() else np.ones_like(label_counts)).astype(np.float64)
    given = {None: np.ones_like(counts), "auto": 1 / counts.clip(1)}
    weights = given[setting] if setting is None or isinstance(setting, str) else np.array(setting, dtype=np.float64)
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)
