"""Target assignment and losses: pure functions behind plain dicts."""

from yolo_lite.loss.box import BOX_LOSSES as BOX_LOSSES
from yolo_lite.loss.classification import CLS_LOSSES as CLS_LOSSES
from yolo_lite.loss.mask import MASK_LOSSES as MASK_LOSSES
