"""Measure how well anchors fit the objects of a dataset, and find anchors that fit better.

T objects, A anchors; sizes are width and height in pixels of the network input.
"""

from __future__ import annotations

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.config.model import AnyModelConfig, ModelConfig
from yolo_lite.data.doubts import best_ratios

TRIALS = 10  # k-means runs from different starts; the best is kept


def model_anchors(config: AnyModelConfig) -> np.ndarray | None:
    """Read the anchors ``[levels, anchors a level, 2]`` in pixels; None for a model that does not match by shape."""
    if not isinstance(config, ModelConfig) or config.anchors is None:
        return None
    if not isinstance(config.anchors, int):
        return np.array(config.anchors).reshape(len(config.anchors), -1, 2)
    from yolo_lite.model.detector import Detector  # imports torch

    return Detector(config).head.anchor_sizes().numpy()  # their sizes follow from the strides of the network


def measure_fit(size: np.ndarray, anchors: np.ndarray, anchor_t: float) -> tuple[float, float]:
    """Return the share of the objects ``[T, 2]`` that can be learnt, and their mean ratio to the nearest anchor."""
    ratios = best_ratios(size, anchors.reshape(-1, 2))
    return float((ratios < anchor_t).mean()), float(ratios.mean())


def fit_anchors(size: np.ndarray, num_anchors: int, anchor_t: float, seed: int = 0) -> np.ndarray:
    """Find anchors ``[A, 2]``, from small to large, by k-means on the logarithms of the sizes; to a tenth of a pixel.

    The best of several starts is returned, by the mean of 1 / ratio, 0 where the ratio is not below ``anchor_t``.

    Raises:
        DataError: there are fewer different sizes than anchors.
    """
    from scipy.cluster.vq import kmeans2  # a third of a second

    logs = np.log(size)
    if (found := len(np.unique(logs.round(3), axis=0))) < num_anchors:
        raise DataError(f"expected objects of at least {num_anchors} different sizes, found {found}")
    trials = [kmeans2(logs, num_anchors, iter=30, minit="++", seed=seed + trial)[0] for trial in range(TRIALS)]
    ratios = np.array([best_ratios(size, np.exp(trial)) for trial in trials])  # [TRIALS, T]
    best = np.where(ratios < anchor_t, 1 / ratios, 0).mean(axis=1).argmax()
    anchors = np.exp(trials[best])
    return np.maximum(anchors[anchors.prod(axis=1).argsort()].round(1), 0.1)
