"""The errors a user can cause and mend; the command line prints them as one message, without a traceback."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

from yolo_lite.config.bounds import printable, shortened


class UserError(ValueError):
    """Something given by the user is unusable; the message says what, where, and what was expected."""

    def __init__(self, message: str) -> None:
        # torch raises an error of a loading process anew, with that process's traceback in front of its words.
        words = message.rpartition(f"{type(self).__name__}: ")[2] if message.startswith("Caught ") else message
        super().__init__("\n".join(printable(shortened(line)) for line in words.strip().split("\n")))

    def at(self, place: str) -> UserError:
        """The same error with where it has stopped a run."""
        return type(self)(f"{self}; stopped{place}")


class ConfigError(UserError):
    """A YAML file, a ``--set`` override or a flag is unusable."""


class DataError(UserError):
    """A dataset, an image or a label file is unusable."""


class DivergedError(UserError):
    """A loss is no longer finite."""


class LostProcessError(UserError):
    """Another process of a distributed run has ended."""


class ShortageError(UserError):
    """The system is short of memory, files or processes, or has ended a loading process: between two steps."""


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable or of another kind."""


class StoppedError(Exception):
    """A run was asked to stop and has saved where it stands."""

    def __init__(self, number: int, place: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{place}")
        self.number = number
        self.exit_status = 128 + number  # as shells report it: 130 for SIGINT, 143 for SIGTERM

    def at(self, place: str) -> StoppedError:
        """The same with where the run has stopped."""
        return StoppedError(self.number, place)


def nearest(word: str, choices: Iterable[str]) -> str:
    """``" (nearest: 'lr0')"`` when a choice resembles the word, otherwise the list of all choices."""
    known = list(choices)
    if not known:
        return " (there is none; --plugin may bring some)"
    by_lower_case = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1, cutoff=0.6)
    return f" (nearest: {by_lower_case[close[0]]!r})" if close else f" (choices: {', '.join(known)})"
