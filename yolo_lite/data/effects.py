"""What happens to a finished training picture: loss of colour, blur, JPEG noise, erasing, and a plugin's functions.

``AUGMENTATIONS`` is empty until a plugin brings functions ``(image, label, xyxy, rng) -> (image, label, xyxy)``: image
uint8 ``[H, W, channels]``, label ``[m]`` int64, xyxy ``[m, 4]`` in pixels; the picture keeps its shape, objects may go.
All that is random has to come from ``rng``: a sample is a function of (seed, epoch, index).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.schema import AugmentSection
from yolo_lite.data.augment import MIN_VISIBLE
from yolo_lite.data.instances import Instances, Sample
from yolo_lite.data.letterbox import GREY

BLUR_SIGMA = (0.5, 2.0)  # pixels of the network input
JPEG_QUALITY = (20, 90)
ERASED_AREA = (0.02, 0.33)  # of the picture; this and the next as in arXiv:1708.04896
ERASED_ASPECT = (0.3, 1 / 0.3)

Objects = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, label, xyxy
AUGMENTATIONS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], Objects]] = {}

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks a server for its newest version when imported


def random_effects(image: np.ndarray, hyp: AugmentSection, rng: np.random.Generator) -> np.ndarray:
    """Grey (RGB only), blurred, or with the noise of JPEG, with the chances ``grayscale``, ``blur`` and ``jpeg``."""
    # Drawn whether needed or not: switching one effect on leaves the others as they were.
    is_grey, is_blurred, is_jpeg = rng.random(3) < (hyp.grayscale, hyp.blur, hyp.jpeg)
    blur, jpeg = rng.random(2)
    if is_grey and image.shape[2] == 3:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if is_blurred:
        image = cv2.GaussianBlur(image, (0, 0), _between(BLUR_SIGMA, blur)).reshape(image.shape)
    return jpeg_noise(image, round(_between(JPEG_QUALITY, jpeg))) if is_jpeg else image


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def jpeg_noise(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG compression; channels that are no RGB go one by one."""
    if image.shape[2] not in (1, 3):
        return np.dstack([jpeg_noise(image[..., [channel]], quality) for channel in range(image.shape[2])])
    # RGB goes as if it were BGR: which of red and blue keeps more detail is of no matter here.
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return decoded.reshape(image.shape)


def random_erasing(sample: Sample, rng: np.random.Generator) -> Sample:
    """A random rectangle turned grey (Zhong et al., arXiv:1708.04896; grey as in DeVries, Taylor, arXiv:1708.04552).

    The boxes stay, what lies under the rectangle counts as hidden.
    """
    height, width = sample.image.shape[:2]
    erased = height * width * rng.uniform(*ERASED_AREA)
    aspect = np.exp(rng.uniform(*np.log(ERASED_ASPECT)))
    rows, columns = min(round((erased * aspect) ** 0.5), height), min(round((erased / aspect) ** 0.5), width)
    top, left = rng.integers(0, (height - rows, width - columns), endpoint=True)
    image = sample.image.copy()
    image[top : top + rows, left : left + columns] = GREY
    hidden = sample.instances.clipped((left, top), (left + columns, top + rows)).share
    return Sample(image, replace(sample.instances, share=sample.instances.share - hidden))


def augmented(name: str, sample: Sample, rng: np.random.Generator) -> Sample:
    """A sample after a plugin's function.

    Raises:
        ConfigError: the function does not give what it should.
    """
    made = AUGMENTATIONS[name](sample.image, sample.instances.label, sample.instances.xyxy, rng)
    where = f"augmentations: {name}"
    if not isinstance(made, tuple) or len(made) != 3:
        raise ConfigError(f"{where}: expected (image, label, xyxy), found {type(made).__name__}")
    image, label, xyxy = np.ascontiguousarray(made[0]), np.asarray(made[1]), np.asarray(made[2], dtype=np.float64)
    if image.dtype != np.uint8 or image.shape != sample.image.shape:
        expected = f"uint8 {list(sample.image.shape)}"
        raise ConfigError(f"{where}: expected an image of {expected}, found {image.dtype} {list(image.shape)}")
    label, xyxy = label.reshape(-1).astype(np.int64), xyxy.reshape(-1, 4) if xyxy.size % 4 == 0 else xyxy
    if len(label) != len(xyxy):
        raise ConfigError(f"{where}: expected a label for each box, found {len(label)} and {len(xyxy)}")
    instances = Instances(label, xyxy, np.ones(len(label)))
    return Sample(image, instances.clipped((0, 0), (image.shape[1], image.shape[0])))


def from_albumentations(transforms: Any) -> Callable[..., Objects]:
    """An entry for ``AUGMENTATIONS`` of a list of Albumentations' transforms, or of one; boxes go with the picture."""
    albumentations = importlib.import_module("albumentations")
    boxes = albumentations.BboxParams("pascal_voc", label_fields=["label"], min_visibility=MIN_VISIBLE, clip=True)
    pipeline = albumentations.Compose(transforms, bbox_params=boxes)

    def augmentation(image: np.ndarray, label: np.ndarray, xyxy: np.ndarray, rng: np.random.Generator) -> Objects:
        pipeline.set_random_seed(int(rng.integers(2**32)))
        made = pipeline(image=image, bboxes=xyxy, label=label)
        return made["image"], np.asarray(made["label"], dtype=np.int64), np.asarray(made["bboxes"])

    return augmentation
