"""Being asked to stop: by Ctrl-C, by SIGTERM, as schedulers and containers send it before they kill, or by SIGHUP.

A search ends a run that promises little between two epochs, by a ``Rule`` over what they came to.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from yolo_lite.config.errors import StoppedError
from yolo_lite.report.results_csv import Row

Rule = Callable[[Sequence[Row]], bool]  # whether a run ends after the epochs whose rows these are


def never(_: Sequence[Row]) -> bool:
    return False


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


_active: list[StopRequest] = []  # of the runs that are under way


def ask_to_stop(number: int) -> bool:
    """Stop a run as if the signal had come; False where none is under way."""
    for request in _active:
        request.number = request.number or number
    return bool(_active)


@contextlib.contextmanager
def stop_requests(folder: Path | None = None) -> Iterator[StopRequest]:
    """Catch SIGINT, SIGTERM and SIGHUP; outside the main thread, where Python has no signals, none ever comes.

    SIGHUP, which a terminal sends when it is closed, stays ignored under nohup. What ends the run that writes into
    ``folder`` is noted with where that stands.
    """
    request = StopRequest()
    numbers = _numbers() if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, request.take) for number in numbers}
    _active.append(request)
    try:
        yield request
    except Exception as error:
        if folder and not isinstance(error, StoppedError) and (note := _where_it_stands(folder, str(error))):
            # As add_note of Python 3.11 has it.
            error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined]
        raise
    finally:
        _active.remove(request)
        for number, handler in before.items():
            signal.signal(number, handler)


def _where_it_stands(folder: Path, said: str) -> str:
    """What a run that has ended can go on with; "" where that was said, or where there is nothing yet."""
    last = folder / "weights" / "last.pt"
    if not folder.exists():
        return f"{folder} was moved or removed while the run went on: --resume goes on with the last.pt it left"
    return f"go on with --resume {last}" if last.exists() and str(last) not in said else ""


def _numbers() -> tuple[int, ...]:
    hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none
    return (signal.SIGINT, signal.SIGTERM, *(one for one in hangup if signal.getsignal(one) != signal.SIG_IGN))
