"""How often each image is drawn in an epoch."""

from __future__ import annotations

import numpy as np

from yolo_lite.data.index import DatasetIndex


def repeat_factors(index: DatasetIndex, threshold: float) -> np.ndarray:
    """Weights ``[n]`` of images by their rarest class (repeat factors, Gupta et al., arXiv:1908.03195).

    A class that occurs in a fraction f of the images weighs max(1, sqrt(threshold / f)), an image as much as its rarest
    class. Backgrounds weigh as much as the other images do on average, so they keep their part of an epoch.
    """
    num_images, num_classes = len(index), len(index.names)
    seen = (index.owner * num_classes + index.label)[~index.crowd]
    image, label = np.divmod(np.unique(seen), num_classes)  # each class of an image once
    frequency = np.bincount(label, minlength=num_classes) / num_images
    weight = np.zeros(num_images)
    np.maximum.at(weight, image, np.maximum(1, np.sqrt(threshold / frequency[label])))
    weight[weight == 0] = weight[weight > 0].mean()
    return weight


def draw_order(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw n images ``[n]`` in random order, each in proportion to its weight, rounded up or down.

    Systematic resampling: one random number shifts a comb of n teeth over the summed weights.
    """
    total = weights.cumsum()
    teeth = (np.arange(len(weights)) + rng.random()) * (total[-1] / len(weights))
    return rng.permutation(np.searchsorted(total, teeth, side="right").clip(max=len(weights) - 1))
