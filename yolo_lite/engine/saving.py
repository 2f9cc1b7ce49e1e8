"""When last.pt is due: ``--save-period``."""

from __future__ import annotations

import time
from collections.abc import Callable

from yolo_lite.config.run import SavePeriod


class Saving:
    """Tells when to write last.pt; a whole number of epochs may pass, or a part of one, or minutes."""

    def __init__(
        self, period: SavePeriod, steps_per_epoch: int, step: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.period, self.clock = period, clock
        self.steps = max(round(period.number * steps_per_epoch), 1)
        self.last_step, self.last_time = step - step % steps_per_epoch, clock()

    def due_after_step(self, step: int) -> bool:
        """Whether it is due within an epoch; then it counts as written."""
        if self.period.unit == "min":
            due = self.clock() - self.last_time >= 60 * self.period.number
        else:
            due = self.period.number < 1 and step - self.last_step >= self.steps
        return due and self._written(step)

    def due_after_epoch(self, step: int) -> bool:
        """Whether it is due at the end of an epoch; then it counts as written."""
        due = self.period.unit == "min" or self.period.number < 1 or step - self.last_step >= self.steps
        return due and self._written(step)

    def _written(self, step: int) -> bool:
        self.last_step, self.last_time = step, self.clock()
        return True
