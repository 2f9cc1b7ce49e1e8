"""Being asked to stop: by Ctrl-C, or by SIGTERM, as schedulers and containers send it before they kill."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from yolo_lite.config.errors import StoppedError


class StopRequest:
    """Whether a signal has come. The second SIGINT stops at once."""

    number = 0  # of the signal

    def __bool__(self) -> bool:
        return self.number != 0

    def take(self, number: int, _: FrameType | None) -> None:
        """The signal handler."""
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def check(self) -> None:
        """Raise StoppedError if a signal has come."""
        if self:
            raise StoppedError(self.number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM; outside the main thread, where Python has no signals, none ever comes."""
    request = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, request.take) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
