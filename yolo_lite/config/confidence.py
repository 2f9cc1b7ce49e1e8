"""What ``--conf`` takes: a number, the name of an operating point, or numbers by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULT = 0.25  # where nothing better is known
POINTS = ("f1", "precision", "recall")  # engine/operating_points.py
WORDS = ("auto", *POINTS, *(f"{name}/class" for name in POINTS))  # /class: each class has its own
FORMS = f"0..1, {', '.join(WORDS)}, or numbers by class as in cat=0.4,dog=0.6"


class ConfidenceChoice(NamedTuple):
    """What detections must come up to."""

    base: float | str  # a number, or one of WORDS
    by_class: dict[str, float] = {}  # of those classes that have a number of their own

    def __str__(self) -> str:
        own = [f"{name}={value:g}" for name, value in self.by_class.items()]
        return ",".join(map(str, [self.base, *own]))


def confidence_choice(value: Any) -> ConfidenceChoice:
    """``0.4``, ``"auto"``, ``"F1"``, ``"cat=0.4,dog=0.6"`` (other classes as with auto), ``"0.3,cat=0.4"``, or a dict.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, ConfidenceChoice):
        return value
    if isinstance(value, Mapping):
        return ConfidenceChoice("auto", {str(name): _fraction(one) for name, one in value.items()})
    if not isinstance(value, str):
        return ConfidenceChoice(_fraction(value))
    pairs = [part.strip().rpartition("=") for part in value.split(",")]
    own = {name.strip(): _fraction(number) for name, sign, number in pairs if sign}
    bases = [word for _, sign, word in pairs if not sign] or ["auto"]
    if len(bases) > 1 or len(own) + len(bases) < len(pairs):
        raise ValueError(f"expected {FORMS}, each once, found {value!r}")
    word = bases[0].lower()
    return ConfidenceChoice(word if word in WORDS else _fraction(bases[0]), own)


def _fraction(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError(f"expected {FORMS}, found {value!r}")
    return number
