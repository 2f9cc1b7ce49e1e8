"""Target assignment and losses: pure functions behind plain dicts."""

from yolo_lite.loss.box import BOX_LOSSES as BOX_LOSSES
from yolo_lite.loss.classification import CLS_LOSSES as CLS_LOSSES
