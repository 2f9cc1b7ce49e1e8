"""How often images are drawn: the key ``balance``."""

from __future__ import annotations

import numpy as np

from yolo_lite.data.index import DatasetIndex


def repeat_factors(index: DatasetIndex, threshold: float) -> np.ndarray:
    """Weights ``[n]`` of images by their rarest class (repeat factors, Gupta et al., arXiv:1908.03195).

    A class that occurs in a fraction f of the images weighs max(1, sqrt(threshold / f)), an image as much as its rarest
    class. Backgrounds weigh as much as the other images do on average, so they keep their part of an epoch.
    """
    pairs = np.stack((index.owner, index.label))[:, ~index.crowd]
    image, label = np.unique(pairs, axis=1)  # each class of an image once
    frequency = np.bincount(label, minlength=len(index.names)) / len(index)
    weight = np.zeros(len(index))
    np.maximum.at(weight, image, np.maximum(1, np.sqrt(threshold / frequency[label])))
    weight[weight == 0] = weight[weight > 0].mean()
    return weight


def draw_order(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw n images ``[n]`` in random order, each in proportion to its weight, rounded up or down."""
    total = weights.cumsum()
    # Systematic resampling: one random number shifts a comb of n teeth over the summed weights.
    teeth = (np.arange(len(weights)) + rng.random()) * (total[-1] / len(weights))
    return rng.permutation(np.searchsorted(total, teeth, side="right").clip(max=len(weights) - 1))
