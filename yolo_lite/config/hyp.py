"""The keys of hyp.yaml: a flat file of sections, of which each room reads its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from yolo_lite.config.seams import Choice, Section, chosen_from
from yolo_lite.config.summed import Summed, summed_from
from yolo_lite.config.types import Count, CountOrZero, Fraction, Listed, NotNegative, Positive, Several, Tile, described

Freeze = Annotated[Listed[CountOrZero] | Literal["backbone"], described("backbone, or a list of rows, counted from 0")]


class OptimSection(Section):
    """Optimizer and schedule."""

    optimizer: Literal["SGD", "AdamW"] = "AdamW"
    lr0: Positive = 0.0015
    backbone_lr: NotNegative = 1.0  # factor on the learning rate of the backbone
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
    freeze_epochs: CountOrZero = 0  # the first ones, in which it holds; 0 is the whole run
    freeze_norm: bool = False  # the backbone's batch statistics stand still
    nonfinite: Literal["skip", "stop"] = "skip"  # what becomes of a step whose loss or gradient is not finite


_WEIGHTS = described("auto, a list with a weight above 0 for each class, or null")
ClassWeights = Annotated[Several[Positive] | Literal["auto"] | None, _WEIGHTS]


class LossSection(Section):
    """Losses and target assignment; each choice may carry parameters."""

    box_loss: Annotated[Choice, chosen_from("BOX_LOSSES")] = Choice(name="ciou")
    rpn_box_loss: Annotated[Choice, chosen_from("BOX_LOSSES")] = Choice(name="smooth_l1")  # first stage of Faster R-CNN
    obj_loss: Annotated[Choice, chosen_from("CLS_LOSSES")] = Choice(name="bce")
    cls_loss: Annotated[Choice, chosen_from("CLS_LOSSES")] = Choice(name="bce")
    mask_loss: Annotated[Summed, summed_from("MASK_LOSSES")] = Summed(choices=(Choice(name="bce"),))
    cls_weights: ClassWeights = None
    box: NotNegative = 0.05
    rpn_box: NotNegative = 1.0  # first stage of Faster R-CNN
    obj: NotNegative = 1.0
    cls: NotNegative = 0.5
    dfl: NotNegative = 1.5  # of heads that predict distributions
    mask: NotNegative = 0.05
    mask_norm: Literal["area", "step"] = "area"  # how masks are averaged: each counts the same, or each pixel
    obj_pw: Positive = 1.0
    cls_pw: Positive = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fl_gamma: NotNegative = 0.0  # above 0: bce becomes focal with this gamma, as in YOLOv5
    assigner: Annotated[Choice, chosen_from("ASSIGNERS", "auto")] = Choice(name="auto")  # auto: the head's own
    static_epochs: CountOrZero = 0  # the first ones, in which atss stands in for an assigner by predictions
    anchor_t: Annotated[float, Field(gt=1)] = 4.0

    @model_validator(mode="after")
    def _losses_agree(self) -> LossSection:
        others = [key for key in ("obj_loss", "cls_loss") if getattr(self, key).name != "bce"]
        if self.fl_gamma > 0 and others:
            found = ", ".join(f"{key}: {getattr(self, key)}" for key in others)
            raise ValueError(f"fl_gamma above 0 turns bce into focal: expected it to be 0 beside {found}")
        if self.cls_loss.name == "vfl" and self.label_smoothing > 0:
            raise ValueError("label_smoothing leaves no negatives to vfl: expected it to be 0 beside cls_loss: vfl")
        return self


_ONE_OR_MORE = BeforeValidator(lambda value: [value] if isinstance(value, (str, dict)) else value)
Augmentations = Annotated[Listed[Annotated[Choice, chosen_from("AUGMENTATIONS")]], _ONE_OR_MORE]
Loggers = Annotated[Listed[Annotated[Choice, chosen_from("LOGGERS")]], _ONE_OR_MORE]


class AugmentSection(Section):
    """Augmentation, and how often images are drawn."""

    hsv_h: Annotated[float, Field(ge=0, le=0.5)] = 0.015
    hsv_s: Fraction = 0.7
    hsv_v: Fraction = 0.4
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.5
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    perspective: Annotated[float, Field(ge=0, le=0.001)] = 0.0
    flipud: Fraction = 0.0
    fliplr: Fraction = 0.5
    mosaic: Fraction = 1.0
    mixup: Fraction = 0.0
    copy_paste: Fraction = 0.0  # chance of an image to get objects of another, cut out along their polygons
    close_mosaic: CountOrZero = 10  # the last epochs are trained without these three
    grayscale: Fraction = 0.0  # chance to lose the colours
    blur: Fraction = 0.0
    jpeg: Fraction = 0.0  # chance of the noise of JPEG compression
    erasing: Fraction = 0.0  # chance of a rectangle turned grey
    augmentations: Augmentations = ()  # of plugins, one after the other
    balance: Fraction = 0.0  # images with classes that fewer than this share show are drawn more often; 0 is off
    tile: Tile = 0  # pixels of a window's side: training and validation look at images in windows; 0 is off
    multi_scale: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0.5: each step at 0.5 to 1.5 times --imgsz

    @property
    def turns(self) -> bool:
        """Whether upright boxes do not stay upright: an object's box then comes from its outline."""
        return bool(self.degrees or self.shear or self.perspective)

    @property
    def needs_outlines(self) -> bool:
        return self.turns or self.copy_paste > 0


class Hyp(AugmentSection, LossSection, OptimSection):
    """All keys of hyp.yaml: those of the sections, and how a run is computed."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    cache: Literal["auto", "ram", "disk", "off"] = "auto"
    compile: bool = False
    deterministic: bool = False
    sync_bn: bool = False
    loggers: Loggers = (Choice(name="tensorboard"),)  # where figures and images go, beside the run's folder
