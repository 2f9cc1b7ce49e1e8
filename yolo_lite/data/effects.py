"""Effects: what happens to a training image once it is mixed and warped. ``AUGMENTATIONS`` holds them by name.

An augmentation is a function ``(image, instances, rng) -> (image, instances)``: image uint8 ``[H, W, channels]``, which
keeps its shape; ``Instances`` in its pixels, of which some may go; ``rng``, a stream of random numbers that belongs to
the sample and the augmentation's name, from which all that is random comes. One that needs no outlines may be
``(image, label, xyxy, rng) -> (image, label, xyxy)`` too: label ``[m]`` int64, xyxy ``[m, 4]`` float64 in pixels.

The built-in ones happen with the chance that the key of their name states, and are given the keys of hyp.yaml that
they name behind a ``*``; those of a plugin happen where the key ``augmentations`` lists them, as ``name`` or with
parameters that stand behind their ``*``, ``{name: {strength: 0.5}}``.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import AugmentSection
from yolo_lite.data.augment import MIN_VISIBLE, worth_learning
from yolo_lite.data.instances import Instances, Sample, scale_matrix
from yolo_lite.data.letterbox import GREY
from yolo_lite.ops.streams import NamedGenerators

BLUR_SIGMA = (0.5, 2.0)  # pixels of the network input
JPEG_QUALITY = (20, 90)
ERASED_AREA = (0.02, 0.33)  # of the image; this and the next as in arXiv:1708.04896
ERASED_ASPECT = (0.3, 1 / 0.3)

Augmented = tuple[np.ndarray, Instances]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, label, xyxy

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks a server for its newest version when imported


def hsv(
    image: np.ndarray, instances: Instances, rng: np.random.Generator, *, hsv_h: float, hsv_s: float, hsv_v: float
) -> Augmented:
    """Hue, saturation and value times random factors of 1 +- hsv_h, hsv_s, hsv_v; if not RGB, hsv_v scales all."""
    factors = 1 + rng.uniform(-1, 1, 3) * (hsv_h, hsv_s, hsv_v)
    if not (hsv_h or hsv_s or hsv_v):
        return image, instances
    table = np.arange(256)[:, None] * factors  # [256, 3]
    table[:, 0] %= 180
    table = table.clip(0, 255).astype(np.uint8)
    if image.shape[2] != 3:
        return cv2.LUT(image, table[:, 2].copy()).reshape(image.shape), instances
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None]), cv2.COLOR_HSV2RGB), instances


def flipud(image: np.ndarray, instances: Instances, rng: np.random.Generator) -> Augmented:
    return cv2.flip(image, 0).reshape(image.shape), instances.warped(scale_matrix(1, -1, 0, image.shape[0]))


def fliplr(image: np.ndarray, instances: Instances, rng: np.random.Generator) -> Augmented:
    return cv2.flip(image, 1).reshape(image.shape), instances.warped(scale_matrix(-1, 1, image.shape[1], 0))


def grayscale(image: np.ndarray, instances: Instances, rng: np.random.Generator) -> Augmented:
    """Without colours; images of other than three channels stay as they are."""
    if image.shape[2] != 3:
        return image, instances
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), instances


def blur(image: np.ndarray, instances: Instances, rng: np.random.Generator) -> Augmented:
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(*BLUR_SIGMA)).reshape(image.shape), instances


def jpeg(image: np.ndarray, instances: Instances, rng: np.random.Generator) -> Augmented:
    return jpeg_noise(image, round(rng.uniform(*JPEG_QUALITY))), instances


def jpeg_noise(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after JPEG compression; channels that are no RGB go one by one."""
    if image.shape[2] not in (1, 3):
        return np.dstack([jpeg_noise(image[..., [channel]], quality) for channel in range(image.shape[2])])
    # RGB goes as if it were BGR: which of red and blue keeps more detail is of no matter here.
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return decoded.reshape(image.shape)


def erasing(image: np.ndarray, instances: Instances, rng: np.random.Generator) -> Augmented:
    """A grey rectangle (Zhong et al., arXiv:1708.04896; DeVries, Taylor, arXiv:1708.04552) hides what is below."""
    height, width = image.shape[:2]
    erased, aspect = height * width * rng.uniform(*ERASED_AREA), np.exp(rng.uniform(*np.log(ERASED_ASPECT)))
    rows, columns = min(round((erased * aspect) ** 0.5), height), min(round((erased / aspect) ** 0.5), width)
    top, left = rng.integers(0, (height - rows, width - columns), endpoint=True)
    image = image.copy()
    image[top : top + rows, left : left + columns] = GREY
    hidden = instances.clipped((left, top), (left + columns, top + rows)).share
    return image, replace(instances, share=instances.share - hidden)


# The built-in ones in the order in which they happen, and the keys of hyp.yaml that each is given.
_OWN = (hsv, flipud, fliplr, grayscale, blur, jpeg, erasing)
AUGMENTATIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in _OWN}
BUILT_IN = {name: inspect.getfullargspec(function).kwonlyargs for name, function in AUGMENTATIONS.items()}


def apply_effects(sample: Sample, hyp: AugmentSection, random: NamedGenerators) -> Sample:
    """The sample after the built-in effects, then those that the key ``augmentations`` lists, which are checked."""
    for name, keys in BUILT_IN.items():
        chance = getattr(hyp, name, 1.0)
        if chance and random[name].random() < chance:
            sample = Sample(*AUGMENTATIONS[name](*sample, random[name], **{key: getattr(hyp, key) for key in keys}))
    for choice in hyp.augmentations:
        kept = sample.instances.select(worth_learning(sample.instances))
        given = {key: getattr(hyp, key) for key in BUILT_IN.get(choice.name, ())} | choice.parameters
        sample = _apply_listed(choice.name, Sample(sample.image, kept), random[choice.name], given)
    return sample


def _apply_listed(name: str, sample: Sample, rng: np.random.Generator, given: dict[str, Any]) -> Sample:
    """The sample after a function that the key ``augmentations`` lists; what it returns is checked."""
    function, where = AUGMENTATIONS[name], f"augmentations: {name}"
    parameters = inspect.signature(function).parameters.values()
    if sum(one.default is one.empty and one.kind is not one.KEYWORD_ONLY for one in parameters) == 3:
        made = function(*sample, rng, **given)
        if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], Instances):
            raise ConfigError(f"{where}: expected (image, instances), found {type(made).__name__}")
        instances = made[1]
    else:
        made = function(sample.image, sample.instances.label, sample.instances.xyxy, rng, **given)
        if not isinstance(made, tuple) or len(made) != 3:
            raise ConfigError(f"{where}: expected (image, label, xyxy), found {type(made).__name__}")
        label, xyxy = np.asarray(made[1], np.int64).reshape(-1), np.asarray(made[2], np.float64)
        if xyxy.shape != (len(label), 4) and (xyxy.size or len(label)):
            expected = f"boxes [{len(label)}, 4], one for each label"
            raise ConfigError(f"{where}: expected {expected}, found {list(xyxy.shape)}")
        instances = Instances(label, xyxy.reshape(-1, 4), np.ones(len(label)))
    image = np.ascontiguousarray(made[0])
    if image.dtype != np.uint8 or image.shape != sample.image.shape:
        expected = f"uint8 {list(sample.image.shape)}"
        raise ConfigError(f"{where}: expected an image of {expected}, found {image.dtype} {list(image.shape)}")
    return Sample(image, instances.clipped((0, 0), (image.shape[1], image.shape[0])))


def from_albumentations(transforms: Any) -> Callable[..., Arrays]:
    """An entry for ``AUGMENTATIONS`` of a list of Albumentations' transforms, or of one; boxes go with the image."""
    albumentations = importlib.import_module("albumentations")
    boxes = albumentations.BboxParams("pascal_voc", label_fields=["label"], min_visibility=MIN_VISIBLE, clip=True)
    pipeline = albumentations.Compose(transforms, bbox_params=boxes)

    def augmentation(image: np.ndarray, label: np.ndarray, xyxy: np.ndarray, rng: np.random.Generator) -> Arrays:
        pipeline.set_random_seed(int(rng.integers(2**32)))
        made = pipeline(image=image, bboxes=xyxy, label=label)
        return made["image"], np.asarray(made["label"], dtype=np.int64), np.asarray(made["bboxes"])

    return augmentation
