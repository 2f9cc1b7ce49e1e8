"""Numbers, pictures and texts for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping

import cv2
import numpy as np


class TensorBoard:
    """An event file in `folder`; a resumed run hides what was logged from step `purge_step` on."""

    def __init__(self, folder: str | os.PathLike[str], purge_step: int | None = None):
        # imported here since it costs about 2 s, which commands that log nothing need not pay
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(os.fspath(folder), purge_step=purge_step, flush_secs=20)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of each tag; "loss/box" and "loss/obj" share a section."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def picture(self, tag: str, image_rgb: np.ndarray, step: int) -> None:
        """Adds a picture, uint8 [H, W, 3] RGB."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        # SummaryWriter.add_image compresses harder: 2 s for a sheet of pictures, where OpenCV takes 0.2 s.
        png = cv2.imencode(".png", image_rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        height, width, _ = image_rgb.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        self._writer.add_text(tag, markdown, step)

    def close(self) -> None:
        """Writes what is still buffered."""
        self._writer.close()
