"""What users hand over from Python, as RGB pixels."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from yolo_lite.config.errors import DataError
from yolo_lite.deploy.sources import Frame, read_picture


def is_several(pictures: Any) -> bool:
    """Whether predictions of it come as a list: a list or tuple of pictures, or a tensor with a batch axis."""
    return isinstance(pictures, (list, tuple)) or (isinstance(pictures, Tensor) and pictures.ndim == 4)


def as_frame(picture: Any) -> Frame:
    """One picture: a path, a numpy array, a PIL image or a tensor.

    Args:
        picture: arrays are uint8 ``[H, W, 3]`` in RGB order (what ``cv2.imread`` gives is BGR: turn it round) or grey
            ``[H, W]``; tensors ``[3, H, W]`` RGB, uint8 or floats in 0..1, which are rounded to 255 steps. Files and
            PIL images are turned as their EXIF data says.

    Raises:
        DataError: it is something else, or cannot be read.
    """
    if isinstance(picture, (str, os.PathLike)):
        return Frame(read_picture(os.fspath(picture)), os.fspath(picture))
    if isinstance(picture, Image.Image):
        return Frame(_from_pil(picture), getattr(picture, "filename", ""))
    if isinstance(picture, Tensor):
        return Frame(_from_tensor(picture))
    if isinstance(picture, np.ndarray):
        return Frame(_from_array(picture))
    raise DataError(f"expected a path, a numpy array, a PIL image or a tensor, found {type(picture).__name__}")


def _from_pil(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"expected a PIL image of 8 bits, found mode {picture.mode}")
    try:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError) as error:  # PIL decodes late: the file may be cut off
        raise DataError(f"{getattr(picture, 'filename', '') or 'PIL image'}: not a readable image: {error}") from error


def _from_tensor(picture: Tensor) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise DataError(f"expected a tensor [3, H, W] (RGB), found {list(picture.shape)}")
    if picture.is_floating_point():
        low, high = (float(value) for value in picture.aminmax()) if picture.numel() else (0.0, 0.0)
        if not 0 <= low <= high <= 1:
            raise DataError(f"expected floats in 0..1 in a tensor, found {low:g}..{high:g}")
        picture = (picture.float() * 255).round().to(torch.uint8)
    return _from_array(picture.detach().permute(1, 2, 0).cpu().numpy())


def _from_array(picture: np.ndarray) -> np.ndarray:
    has_shape = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    if picture.dtype != np.uint8 or not has_shape or not picture.size:
        raise DataError(
            f"expected pixels uint8 [H, W, 3] (RGB) or [H, W] (grey), found {picture.dtype} {list(picture.shape)}"
        )
    return np.ascontiguousarray(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))
