"""The keys of hyp.yaml that choose and weigh losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from yolo_lite.config.seams import Choice, Section, chosen_from
from yolo_lite.config.types import NotNegative, Positive, Several, described

ClassWeights = Annotated[
    Several[Positive] | Literal["auto"] | None,
    described("auto, a list with a weight above 0 for each class, or null"),
]


class LossSection(Section):
    """Losses and target assignment; each choice may carry parameters."""

    box_loss: Annotated[Choice, chosen_from("BOX_LOSSES")] = Choice(name="ciou")
    rpn_box_loss: Annotated[Choice, chosen_from("BOX_LOSSES")] = Choice(name="smooth_l1")  # first stage of Faster R-CNN
    obj_loss: Annotated[Choice, chosen_from("CLS_LOSSES")] = Choice(name="bce")
    cls_loss: Annotated[Choice, chosen_from("CLS_LOSSES")] = Choice(name="bce")
    cls_weights: ClassWeights = None
    box: NotNegative = 0.05
    rpn_box: NotNegative = 1.0  # first stage of Faster R-CNN
    obj: NotNegative = 1.0
    cls: NotNegative = 0.5
    obj_pw: Positive = 1.0
    cls_pw: Positive = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fl_gamma: NotNegative = 0.0  # above 0: bce becomes focal with this gamma, as in YOLOv5
    assigner: Annotated[Choice, chosen_from("ASSIGNERS")] = Choice(name="anchor_ratio")
    anchor_t: Annotated[float, Field(gt=1)] = 4.0

    @model_validator(mode="after")
    def _losses_agree(self) -> LossSection:
        others = [key for key in ("obj_loss", "cls_loss") if getattr(self, key).name != "bce"]
        if self.fl_gamma > 0 and others:
            found = ", ".join(f"{key}: {getattr(self, key)}" for key in others)
            raise ValueError(f"fl_gamma above 0 turns bce into focal: expected it to be 0 beside {found}")
        if self.cls_loss.name == "vfl" and self.label_smoothing > 0:
            raise ValueError("label_smoothing leaves no negatives to vfl: expected it to be 0 beside cls_loss: vfl")
        return self
