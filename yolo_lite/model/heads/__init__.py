"""The heads that a model YAML may end with. To add one: a file with a subclass of ``Head``, and a line here."""

from yolo_lite.model.heads.class_rows import ClassRows as ClassRows
from yolo_lite.model.heads.detect import Detect as Detect
from yolo_lite.model.heads.detect_free import DetectFree as DetectFree
from yolo_lite.model.heads.head import Head as Head
from yolo_lite.model.heads.segment import Segment as Segment
from yolo_lite.model.heads.segment import SegmentFree as SegmentFree

# A criterion of each is in CRITERIA.
HEADS: dict[str, type[Head]] = {each.__name__: each for each in (Detect, DetectFree, Segment, SegmentFree)}
