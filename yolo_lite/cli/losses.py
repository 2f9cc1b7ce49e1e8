"""``yolo-lite losses``: every loss and assigner with its formula, paper and parameters."""

from __future__ import annotations

from yolo_lite.config.options import LossesOptions
from yolo_lite.engine.seams import SEAMS

TITLES = {
    "key box_loss (and rpn_box_loss)": "BOX_LOSSES",
    "keys obj_loss and cls_loss": "CLS_LOSSES",
    "key mask_loss": "MASK_LOSSES",
    "key assigner": "ASSIGNERS",
}


def run(options: LossesOptions) -> None:
    """Every loss and assigner with its formula, paper and parameters."""
    for title, seam in TITLES.items():
        print(f"{title}, {seam}")
        for name, loss in SEAMS[seam].entries.items():
            known = SEAMS[seam].parameters(name).values()
            parameters = ", ".join(f"{parameter.name}: {parameter.default}" for parameter in known)
            formula = (loss.__doc__ or "").strip().partition("\n")[0]
            print(f"  {name:<12} {formula}{f'  {{{parameters}}}' if parameters else ''}")
        print()
    print("parameters are set with the name: box_loss: {focal_eiou: {gamma: 0.5}}")
