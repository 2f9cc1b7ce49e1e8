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
    by_class: Mapping[str, float]  # of those classes that have a number of their own


def confidence_choice(value: Any) -> ConfidenceChoice:
    """``0.4``, ``"F1"``, ``"cat=0.4,dog=0.6"`` (others as with auto), ``"0.3,cat=0.4"``, or a dict; else ValueError."""
    if isinstance(value, ConfidenceChoice):
        return value
    if not isinstance(value, (str, Mapping)):
        return ConfidenceChoice(_fraction(value), {})
    if isinstance(value, Mapping):
        return ConfidenceChoice("auto", {str(name): _fraction(one) for name, one in value.items()})
    pairs = [part.strip().rpartition("=") for part in value.split(",")]
    own = {name.strip(): _fraction(number) for name, sign, number in pairs if sign}
    words = [word for _, sign, word in pairs if not sign]
    if len(own) + len(words) < len(pairs) or len(words) > 1:
        raise ValueError(f"expected {FORMS}, each once, found {value!r}")
    base = words[0].lower() if words else "auto"
    return ConfidenceChoice(base if base in WORDS else _fraction(base), own)


def _fraction(value: Any) -> float:
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"expected {FORMS}, found {value!r}")
    return number
