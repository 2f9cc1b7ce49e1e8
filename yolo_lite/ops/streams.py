"""Streams of random numbers: each is a pure function of the run's seed, a word of its own, and where the run stands.

Nothing is carried from step to step, so any number of workers draws the same, and a run resumes without saved states.
"""

from __future__ import annotations

import zlib
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The word after the seed; a value is never changed nor used again (4 and 5 were copy-paste's and the effects')."""

    SAMPLE = 0  # augmentation; then epoch, index, and the name of the augmentation
    ORDER = 1  # of the images of an epoch; then epoch
    STEP = 2  # torch's generator; then step, process
    SCALE = 3  # multi_scale; then step


class NamedGenerators(dict[str, np.random.Generator]):
    """Generators by name, made when they are first asked for: what one of them draws does not depend on the others."""

    def __init__(self, seed: int, stream: Stream, *words: int) -> None:
        super().__init__()
        self.words = (seed, stream, *words)

    def __missing__(self, name: str) -> np.random.Generator:
        made = self[name] = np.random.default_rng([*self.words, zlib.crc32(name.encode())])
        return made
