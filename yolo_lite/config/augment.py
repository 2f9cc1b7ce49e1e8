"""The keys of hyp.yaml for augmentation."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from yolo_lite.config.seams import Section, chosen_from
from yolo_lite.config.types import CountOrZero, Fraction, Listed

Augmentations = Annotated[
    Listed[Annotated[str, chosen_from("AUGMENTATIONS")]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


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
    multi_scale: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0.5: each step at 0.5 to 1.5 times --imgsz
