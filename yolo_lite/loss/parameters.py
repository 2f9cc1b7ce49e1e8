"""How the parameters of a loss function become keys of hyp.yaml: ``<loss>_<parameter>``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from yolo_lite.config.schema import LossSection


def parameters_of(loss: Callable[..., Any], context: Sequence[str] = ()) -> dict[str, Any]:
    """Parameters behind the ``*`` of a loss function and their defaults, save those that its ``context`` gives."""
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in context}


def arguments_of(name: str, loss: Callable[..., Any], hyp: LossSection, context: Sequence[str] = ()) -> dict[str, Any]:
    """The values that hyp.yaml has for them."""
    return {parameter: getattr(hyp, f"{name}_{parameter}") for parameter in parameters_of(loss, context)}
