"""The labels of many images in packed arrays.

Lists of Python objects would be copied page by page into every worker process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from yolo_lite.data.labels import Labels
from yolo_lite.data.outlines import Outlines, gather_rows, offsets_of


class PackedLabels(NamedTuple):
    """What the files of n images say, T objects together; the fields that DatasetIndex has too are explained there."""

    size: np.ndarray  # [n, 2], 0 0 where an image is left out
    first: np.ndarray
    label: np.ndarray
    xyxy: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    outlines: Outlines | None
    problems: dict[int, list[str]]  # by image

    @property
    def usable(self) -> np.ndarray:
        """Which images ``[n]`` are not left out."""
        return np.asarray(self.size.all(axis=1))

    def select(self, images: np.ndarray) -> PackedLabels:
        """The labels of some images, in this order; ``images`` [m] int64."""
        rows, first = gather_rows(self.first, images)
        return PackedLabels(
            self.size[images],
            first,
            self.label[rows],
            self.xyxy[rows],
            self.area[rows],
            self.crowd[rows],
            self.outlines and self.outlines.select(rows),
            {new: self.problems[old] for new, old in enumerate(images.tolist()) if old in self.problems},
        )

    @staticmethod
    def concat(parts: Sequence[PackedLabels]) -> PackedLabels:
        """The images of all parts, one part behind the other."""
        outlines = [part.outlines for part in parts if part.outlines]
        before = offsets_of([len(part.size) for part in parts])
        return PackedLabels(
            first=offsets_of(np.concatenate([np.diff(part.first) for part in parts])),
            outlines=Outlines.concat(outlines) if len(outlines) == len(parts) else None,
            problems={
                int(before[number]) + image: lines
                for number, part in enumerate(parts)
                for image, lines in part.problems.items()
            },
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("size", "label", "xyxy", "area", "crowd")
            },
        )


def pack_labels(found: Sequence[tuple[tuple[int, int], Labels] | str], with_outlines: bool) -> PackedLabels:
    """The labels of images by their size (height, width) and labels, or by why an image is left out."""
    labels = [None if isinstance(one, str) else one[1] for one in found]
    known = [one for one in labels if one is not None]
    problems = [[one] if isinstance(one, str) else [problem.text for problem in one[1].problems] for one in found]
    return PackedLabels(
        size=np.array([(0, 0) if isinstance(one, str) else one[0] for one in found], np.int64).reshape(-1, 2),
        first=offsets_of([0 if one is None else len(one.label) for one in labels]),
        label=_concat([one.label for one in known], np.zeros(0, np.int64)),
        xyxy=_concat([one.xyxy for one in known], np.zeros((0, 4))),
        area=_concat([one.area for one in known], np.zeros(0)),
        crowd=_concat([one.crowd for one in known], np.zeros(0, bool)),
        outlines=Outlines.pack(rings for one in known for rings in one.rings) if with_outlines else None,
        problems={image: lines for image, lines in enumerate(problems) if lines},
    )


def _concat(arrays: Iterable[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *arrays])
