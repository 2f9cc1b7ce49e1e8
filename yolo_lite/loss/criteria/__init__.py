"""The criteria of heads. To add one: a file with a subclass of ``Criterion``, and a line here."""

from collections.abc import Callable

from yolo_lite.loss.criteria.anchor import AnchorCriterion as AnchorCriterion
from yolo_lite.loss.criteria.criterion import Criterion as Criterion
from yolo_lite.loss.criteria.free import FreeCriterion as FreeCriterion
from yolo_lite.loss.criteria.segment import SegmentCriterion as SegmentCriterion
from yolo_lite.loss.criteria.segment import SegmentFreeCriterion as SegmentFreeCriterion

CRITERIA: dict[str, Callable[..., Criterion]] = {  # as in HEADS
    **{"Detect": AnchorCriterion, "DetectFree": FreeCriterion},
    **{"Segment": SegmentCriterion, "SegmentFree": SegmentFreeCriterion},
}
