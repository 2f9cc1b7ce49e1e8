"""The criteria of heads. To add one: a file with a subclass of ``Criterion``, and a line here."""

from collections.abc import Callable

from yolo_lite.loss.criteria.anchor import AnchorCriterion as AnchorCriterion
from yolo_lite.loss.criteria.criterion import Criterion as Criterion

CRITERIA: dict[str, Callable[..., Criterion]] = {"Detect": AnchorCriterion}  # by the names that HEADS has
