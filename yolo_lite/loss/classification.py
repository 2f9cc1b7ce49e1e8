"""Binary losses on logits, element by element."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_ALPHA = 0.25  # weight of the positives, as in the paper


def binary_loss(logits: Tensor, target: Tensor, positive_weight: float = 1.0, gamma: float = 0.0) -> Tensor:
    """BCE with logits, or focal loss where ``gamma > 0``; same shape as ``logits``.

    Focal loss (Lin et al., arXiv:1708.02002, eq. 5), for soft targets t in 0..1: with p_t = t p + (1-t)(1-p), BCE is
    weighted by (0.25 t + 0.75 (1-t)) (1-p_t)^gamma.

    Args:
        logits: float32.
        target: same shape, in 0..1.
        positive_weight: factor on the positive term of BCE.
    """
    loss = F.binary_cross_entropy_with_logits(
        logits, target, reduction="none", pos_weight=logits.new_full((), positive_weight)
    )
    if gamma == 0:
        return loss
    p = logits.sigmoid()
    p_t = target * p + (1 - target) * (1 - p)
    alpha_t = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
    return loss * alpha_t * _power(1 - p_t, gamma)


def _power(base: Tensor, exponent: float) -> Tensor:
    """``base ** exponent`` for base in 0..1, with a finite gradient at 0 for exponents below 1."""
    return base.clamp(min=torch.finfo(base.dtype).tiny if exponent >= 1 else 1e-12).pow(exponent)


def one_hot(label: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Class targets ``[P, C]`` float32: 1 - smoothing / 2 for the class, smoothing / 2 for the others."""
    target = torch.full((label.shape[0], num_classes), smoothing / 2, device=label.device)
    return target.scatter_(1, label[:, None], 1 - smoothing / 2)
