"""What many pictures hold, in packed arrays: lists of Python objects would be copied page by page into every worker.

Things of different lengths lie behind each other, and ``first`` says where each begins: those of thing i are the rows
``first[i]:first[i + 1]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from yolo_lite.data.labels import Labels
from yolo_lite.data.outlines import Outlines, gather, starts


class Entries(NamedTuple):
    """What the files of n images say, T objects together; the fields that DatasetIndex has too are explained there."""

    size: np.ndarray  # [n, 2], 0 0 where an image is left out
    first: np.ndarray
    label: np.ndarray
    xyxy: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    rings: Outlines | None
    problems: dict[int, list[str]]  # by image

    @property
    def usable(self) -> np.ndarray:
        """Which images ``[n]`` are not left out."""
        return np.asarray(self.size.all(axis=1))

    def chosen(self, images: np.ndarray) -> Entries:
        """Some of the images, or all in another order, ``images`` [m] int64."""
        things, first = gather(self.first, images)
        return Entries(
            self.size[images],
            first,
            self.label[things],
            self.xyxy[things],
            self.area[things],
            self.crowd[things],
            self.rings and self.rings.select(things),
            {new: self.problems[old] for new, old in enumerate(images.tolist()) if old in self.problems},
        )


def packed(found: Sequence[tuple[tuple[int, int], Labels] | str], with_rings: bool) -> Entries:
    """Entries of images by their size and labels, or by why they are left out."""
    labels = [None if isinstance(one, str) else one[1] for one in found]
    known = [one for one in labels if one is not None]
    problems = [[one] if isinstance(one, str) else [problem.text for problem in one[1].problems] for one in found]
    return Entries(
        size=np.array([(0, 0) if isinstance(one, str) else one[0] for one in found], np.int64).reshape(-1, 2),
        first=starts([0 if one is None else len(one.label) for one in labels]),
        label=_joined([one.label for one in known], np.zeros(0, np.int64)),
        xyxy=_joined([one.xyxy for one in known], np.zeros((0, 4))),
        area=_joined([one.area for one in known], np.zeros(0)),
        crowd=_joined([one.crowd for one in known], np.zeros(0, bool)),
        rings=Outlines.pack(rings for one in known for rings in one.rings) if with_rings else None,
        problems={image: lines for image, lines in enumerate(problems) if lines},
    )


def both(one: Entries, other: Entries) -> Entries:
    """The images of the one, and behind them those of the other."""
    rings = Outlines.concat([one.rings, other.rings]) if one.rings and other.rings else None
    joined = {
        name: np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("size", "label", "xyxy", "area", "crowd")
    }
    problems = one.problems | {len(one.size) + image: lines for image, lines in other.problems.items()}
    return Entries(first=_behind(one.first, other.first), rings=rings, problems=problems, **joined)


def _behind(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.concatenate([first, first[-1] + other[1:]])


def _joined(arrays: Iterable[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *arrays])
