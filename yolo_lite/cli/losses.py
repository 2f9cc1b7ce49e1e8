"""``yolo-lite losses``: every loss with its formula, paper and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from yolo_lite.config.options import LossesOptions


def run(options: LossesOptions) -> None:
    """Every loss with its formula, paper and parameters."""
    from yolo_lite.plugins import loaded

    with loaded(options.plugin):
        _print_all()


def _print_all() -> None:
    from yolo_lite.loss.box import BOX_LOSSES, CONTEXT
    from yolo_lite.loss.classification import CLS_LOSSES
    from yolo_lite.loss.mask import MASK_LOSSES

    print("key box_loss (and rpn_box_loss), BOX_LOSSES")
    _print_losses(BOX_LOSSES, CONTEXT, "{name}_{key}: {value}")
    print("\nkeys obj_loss and cls_loss, CLS_LOSSES")
    _print_losses(CLS_LOSSES, (), "{name}_{key}: {value}")
    print("\nsegmentation masks, MASK_LOSSES")
    _print_losses(MASK_LOSSES, ("ignore_index", "reduction"), "{key}={value}")


def _print_losses(losses: Mapping[str, Callable[..., Any]], context: Sequence[str], form: str) -> None:
    from yolo_lite.loss.parameters import parameters_of

    for name, loss in losses.items():
        parameters = parameters_of(loss, context)
        keys = ", ".join(form.format(name=name, key=key, value=value) for key, value in parameters.items())
        formula = (loss.__doc__ or "").strip().partition("\n")[0]
        print(f"  {name:<11} {formula}{f'  [{keys}]' if keys else ''}")
