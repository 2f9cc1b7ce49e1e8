"""The heads that a model YAML may end with. To add one: a file with a subclass of ``Head``, and a line here."""

from yolo_lite.model.heads.detect import Detect as Detect
from yolo_lite.model.heads.detect_free import DetectFree as DetectFree
from yolo_lite.model.heads.head import ClassRows as ClassRows
from yolo_lite.model.heads.head import Head as Head

HEADS: dict[str, type[Head]] = {"Detect": Detect, "DetectFree": DetectFree}  # a criterion of each is in CRITERIA
