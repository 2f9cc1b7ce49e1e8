"""Numbers, pictures and texts for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping


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

    def picture(self, tag: str, png: bytes, step: int) -> None:
        """Adds a picture, as the bytes of a PNG file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        # SummaryWriter.add_image would encode it anew, and slowly: 2 s for a sheet of pictures.
        width, height = (int.from_bytes(png[first : first + 4], "big") for first in (16, 20))
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        self._writer.add_text(tag, markdown, step)

    def close(self) -> None:
        """Writes what is still buffered."""
        self._writer.close()
