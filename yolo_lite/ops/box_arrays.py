"""Box formats of numpy arrays, for what never meets a tensor; ``boxes`` has those of tensors."""

from __future__ import annotations

import numpy as np


def xyxy_to_xywh(box: np.ndarray) -> np.ndarray:
    """``[..., 4]`` left, top, right, bottom to ``[..., 4]`` left, top, width, height."""
    top_left, bottom_right = box[..., :2], box[..., 2:]
    return np.concatenate((top_left, bottom_right - top_left), axis=-1)


def xyxy_to_cxcywh(box: np.ndarray) -> np.ndarray:
    """``[..., 4]`` left, top, right, bottom to ``[..., 4]`` centre and size."""
    top_left, bottom_right = box[..., :2], box[..., 2:]
    return np.concatenate(((top_left + bottom_right) / 2, bottom_right - top_left), axis=-1)
