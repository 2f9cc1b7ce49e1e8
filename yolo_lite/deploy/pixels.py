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
from yolo_lite.deploy.sources import Frame, read_frame_image


def is_several(images: Any) -> bool:
    """Whether predictions of it come as a list: a list or tuple of images, or a tensor with a batch axis."""
    return isinstance(images, (list, tuple)) or (isinstance(images, Tensor) and images.ndim == 4)


def as_frame(image: Any, channels: int = 3) -> Frame:
    """One image: a path, a numpy array, a PIL image or a tensor.

    Args:
        image: arrays are uint8 ``[H, W, 3]`` in RGB order (what ``cv2.imread`` gives is BGR: turn it round) or grey
            ``[H, W]``; tensors ``[3, H, W]`` RGB, uint8 or floats in 0..1, which are rounded to 255 steps. Files and
            PIL images are turned as their EXIF data says.
        channels: of the frame: grey and RGB become one another, other numbers have to be the image's.

    Raises:
        DataError: it is something else, or cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return Frame(read_frame_image(os.fspath(image), channels), os.fspath(image))
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "")
        return Frame(as_channels(_from_pil(image), channels, name or "PIL image"), name)
    if isinstance(image, Tensor):
        return Frame(as_channels(_from_tensor(image, channels), channels, "tensor"))
    if isinstance(image, np.ndarray):
        return Frame(as_channels(_from_array(image, channels), channels, "array"))
    raise DataError(f"expected a path, a numpy array, a PIL image or a tensor, found {type(image).__name__}")


def _from_pil(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise DataError(f"expected a PIL image of 8 bits, found mode {image.mode}")
    try:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError) as error:  # PIL decodes late: the file may be cut off
        raise DataError(f"{getattr(image, 'filename', '') or 'PIL image'}: not a readable image: {error}") from error


def _from_tensor(image: Tensor, channels: int) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (3, channels):
        raise DataError(f"expected a tensor [3, H, W] (RGB), found {list(image.shape)}")
    if image.is_floating_point():
        low, high = (float(value) for value in image.aminmax()) if image.numel() else (0.0, 0.0)
        if not 0 <= low <= high <= 1:
            raise DataError(f"expected floats in 0..1 in a tensor, found {low:g}..{high:g}")
        image = (image.float() * 255).round().to(torch.uint8)
    return _from_array(image.detach().permute(1, 2, 0).cpu().numpy(), channels)


def _from_array(image: np.ndarray, channels: int) -> np.ndarray:
    has_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, channels))
    if image.dtype != np.uint8 or not has_shape or not image.size:
        raise DataError(
            f"expected pixels uint8 [H, W, 3] (RGB) or [H, W] (grey), found {image.dtype} {list(image.shape)}"
        )
    return np.ascontiguousarray(image if image.ndim == 3 else image[..., None])
