"""The keys of hyp.yaml for optimizer and schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from yolo_lite.config.seams import Section
from yolo_lite.config.types import Count, CountOrZero, Fraction, Listed, NotNegative, Positive

# Rows of the model YAML, counted from 0, or its backbone.
Freeze = Listed[CountOrZero] | Literal["backbone"]


class OptimSection(Section):
    """Optimizer and schedule."""

    optimizer: Literal["SGD", "AdamW"] = "AdamW"
    lr0: Positive = 0.0015
    lrf: Fraction = 0.01  # last learning rate, as a fraction of lr0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # beta1 of AdamW
    weight_decay: NotNegative = 0.0005
    warmup_epochs: NotNegative = 3.0
    warmup_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    warmup_bias_lr: NotNegative = 0.0
    cos_lr: bool = False
    nominal_batch: Count = 16  # gradients of several batches are averaged up to about this many images a step
    clip_norm: NotNegative = 10.0  # 0 is off
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    patience: CountOrZero = 100  # epochs without progress before the run ends; 0 is never
    min_epochs: CountOrZero = 0  # before which patience ends no run
    freeze: Freeze = ()
    nonfinite: Literal["skip", "stop"] = "skip"  # what becomes of a step whose loss or gradient is not finite
