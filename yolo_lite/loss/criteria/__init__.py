"""Criteria by the name of the head that they belong to: ``CRITERIA[head](section, label_counts)``.

To add one: subclass ``Criterion`` in a file of this folder, add a line here under the name that ``HEADS`` has.
"""

from __future__ import annotations

from collections.abc import Callable

from yolo_lite.loss.criteria.anchor import AnchorCriterion
from yolo_lite.loss.criteria.criterion import Criterion as Criterion

CRITERIA: dict[str, Callable[..., Criterion]] = {"Detect": AnchorCriterion}
