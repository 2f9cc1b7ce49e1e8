"""The dicts that names in YAML choose from, and that a plugin may add to: one row each."""

from __future__ import annotations

from yolo_lite.config.seams import Seam
from yolo_lite.data.effects import AUGMENTATIONS
from yolo_lite.data.readers import FORMATS
from yolo_lite.engine.tasks import TASKS
from yolo_lite.loss.assigners import ASSIGNERS
from yolo_lite.loss.box import BOX_LOSSES, CONTEXT
from yolo_lite.loss.classification import CLS_LOSSES
from yolo_lite.loss.criteria import CRITERIA
from yolo_lite.loss.mask import MASK_LOSSES
from yolo_lite.model.backbones import BACKBONES
from yolo_lite.model.blocks import BLOCKS
from yolo_lite.model.blocks.standard import ACTIVATIONS
from yolo_lite.model.heads import HEADS
from yolo_lite.report.loggers import LOGGERS

SEAMS: dict[str, Seam] = {
    "BLOCKS": Seam(BLOCKS, by_name=("in_channels",), is_open=True),
    "ACTIVATIONS": Seam(ACTIVATIONS, is_open=True),
    "HEADS": Seam(HEADS, ("in_channels", "strides", "config"), is_open=True),
    "CRITERIA": Seam(CRITERIA, ("section", "label_counts")),
    "ASSIGNERS": Seam(ASSIGNERS, ("objects", "grid"), context=("anchor_t", "predictions", "reach")),
    "BOX_LOSSES": Seam(BOX_LOSSES, ("predicted", "target"), context=CONTEXT),
    "CLS_LOSSES": Seam(CLS_LOSSES, ("logits", "target"), ("positive_weight",)),
    "MASK_LOSSES": Seam(MASK_LOSSES, ("logits", "target"), context=("ignore_index", "reduction")),
    "AUGMENTATIONS": Seam(AUGMENTATIONS, ("image", "instances", "rng"), is_open=True),
    "FORMATS": Seam(FORMATS, ("root", "place", "names")),
    "LOGGERS": Seam(LOGGERS),
    "BACKBONES": Seam(BACKBONES, is_open=True),
    "TASKS": Seam(TASKS, is_open=True),
}
