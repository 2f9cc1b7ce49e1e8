"""hyp.yaml: a flat file of several sections."""

from __future__ import annotations

from yolo_lite.config.augment import AugmentSection
from yolo_lite.config.loss import LossSection
from yolo_lite.config.optim import OptimSection
from yolo_lite.config.runtime import RuntimeSection


class Hyp(RuntimeSection, AugmentSection, LossSection, OptimSection):
    """All keys of hyp.yaml, which is flat; each room reads the section that is its own."""


# Keys of YOLOv5's hyp files that have no counterpart here, and what to do about them.
RETIRED_HYP_KEYS = {
    "iou_t": "it has no effect in YOLOv5 either: remove the line",
    "anchors": "anchors belong to the model YAML: remove the line",
}
