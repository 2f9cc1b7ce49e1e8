"""The labels of many images in packed arrays.

Lists of Python objects would be copied page by page into every worker process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from yolo_lite.data.labels import Labels
from yolo_lite.data.outlines import Outlines, gather_rows, offsets_of

OF_OBJECTS = ("label", "xyxy", "area", "crowd")  # arrays with a row for each object


class PackedLabels(NamedTuple):
    """What the files of n images say, T objects together; the fields that DatasetIndex has too are explained there."""

    size: np.ndarray  # [n, 2], 0 0 where an image is left out
    first: np.ndarray
    label: np.ndarray
    xyxy: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    outlines: Outlines | None
    problems: list[list[str]]  # [n] what was left out of each image, and why

    @property
    def usable(self) -> np.ndarray:
        """The images that are not left out, int64."""
        return np.flatnonzero(self.size.all(axis=1))

    def select(self, images: np.ndarray) -> PackedLabels:
        """The labels of some images, in this order; ``images`` [m] int64."""
        rows, first = gather_rows(self.first, images)
        return PackedLabels(
            size=self.size[images],
            first=first,
            outlines=self.outlines and self.outlines.select(rows),
            problems=[self.problems[image] for image in images],
            **{name: getattr(self, name)[rows] for name in OF_OBJECTS},
        )

    @staticmethod
    def concat(parts: Sequence[PackedLabels]) -> PackedLabels:
        """The images of all parts, one part behind the other."""
        outlines = [part.outlines for part in parts if part.outlines]
        return PackedLabels(
            size=np.concatenate([part.size for part in parts]),
            first=offsets_of(np.concatenate([np.diff(part.first) for part in parts])),
            outlines=Outlines.concat(outlines) if len(outlines) == len(parts) else None,
            problems=[lines for part in parts for lines in part.problems],
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in OF_OBJECTS},
        )


def pack_labels(found: Sequence[tuple[tuple[int, int], Labels] | str], with_outlines: bool) -> PackedLabels:
    """The labels of images by their size (height, width) and labels, or by why an image is left out."""
    nothing = Labels(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool), [], [])
    labels = [nothing if isinstance(one, str) else one[1] for one in found]
    return PackedLabels(
        size=np.array([(0, 0) if isinstance(one, str) else one[0] for one in found], np.int64).reshape(-1, 2),
        first=offsets_of([len(one.label) for one in labels]),
        outlines=Outlines.pack(rings for one in labels for rings in one.rings) if with_outlines else None,
        problems=[[one] if isinstance(one, str) else [problem.text for problem in one[1].problems] for one in found],
        **{name: np.concatenate([getattr(one, name) for one in (nothing, *labels)]) for name in OF_OBJECTS},
    )
