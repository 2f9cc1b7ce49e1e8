"""Numbers, pictures and texts for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping

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
        self._writer.add_image(tag, image_rgb, step, dataformats="HWC")

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        self._writer.add_text(tag, markdown, step)

    def close(self) -> None:
        """Writes what is still buffered."""
        self._writer.close()
