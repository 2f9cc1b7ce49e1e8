"""What users hand over from Python, as pixels ``[H, W, channels]``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from yolo_lite.config.errors import DataError
from yolo_lite.data.images import as_channels
from yolo_lite.deploy.sources import Frame, read_picture


def is_several(pictures: Any) -> bool:
    """Whether predictions of it come as a list: a list or tuple of images, or a tensor with a batch axis."""
    return isinstance(pictures, (list, tuple)) or (isinstance(pictures, Tensor) and pictures.ndim == 4)


def as_frame(picture: Any, channels: int = 3) -> Frame:
    """One image: a path, a numpy array, a PIL image or a tensor.

    Args:
        image: arrays are uint8 ``[H, W, 3]`` in RGB order (what ``cv2.imread`` gives is BGR: turn it round) or grey
            ``[H, W]``; tensors ``[3, H, W]`` RGB, uint8 or floats in 0..1, which are rounded to 255 steps. Files and
            PIL images are turned as their EXIF data says.
        channels: of the frame: grey and RGB become one another, other numbers have to be the image's.

    Raises:
        DataError: it is something else, or cannot be read.
    """
    if isinstance(picture, (str, os.PathLike)):
        return Frame(read_picture(os.fspath(picture), channels), os.fspath(picture))
    if isinstance(picture, Image.Image):
        name = getattr(picture, "filename", "")
        return Frame(as_channels(_from_pil(picture), channels, name or "PIL image"), name)
    if isinstance(picture, Tensor):
        return Frame(as_channels(_from_tensor(picture, channels), channels, "tensor"))
    if isinstance(picture, np.ndarray):
        return Frame(as_channels(_from_array(picture, channels), channels, "array"))
    raise DataError(f"expected a path, a numpy array, a PIL image or a tensor, found {type(picture).__name__}")


def _from_pil(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"expected a PIL image of 8 bits, found mode {picture.mode}")
    try:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError) as error:  # PIL decodes late: the file may be cut off
        raise DataError(f"{getattr(picture, 'filename', '') or 'PIL image'}: not a readable image: {error}") from error


def _from_tensor(picture: Tensor, channels: int) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[0] not in (3, channels):
        raise DataError(f"expected a tensor [3, H, W] (RGB), found {list(picture.shape)}")
    if picture.is_floating_point():
        low, high = (float(value) for value in picture.aminmax()) if picture.numel() else (0.0, 0.0)
        if not 0 <= low <= high <= 1:
            raise DataError(f"expected floats in 0..1 in a tensor, found {low:g}..{high:g}")
        picture = (picture.float() * 255).round().to(torch.uint8)
    return _from_array(picture.detach().permute(1, 2, 0).cpu().numpy(), channels)


def _from_array(picture: np.ndarray, channels: int) -> np.ndarray:
    has_shape = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, channels))
    if picture.dtype != np.uint8 or not has_shape or not picture.size:
        raise DataError(
            f"expected pixels uint8 [H, W, 3] (RGB) or [H, W] (grey), found {picture.dtype} {list(picture.shape)}"
        )
    return np.ascontiguousarray(picture if picture.ndim == 3 else picture[..., None])
