"""hyp.yaml: a flat file of several sections."""

from __future__ import annotations

from yolo_lite.config.augment import AugmentSection
from yolo_lite.config.loss import LossSection
from yolo_lite.config.optim import OptimSection
from yolo_lite.config.runtime import RuntimeSection


class Hyp(RuntimeSection, AugmentSection, LossSection, OptimSection):
    """All keys of hyp.yaml, which is flat; each room reads the section that is its own."""
