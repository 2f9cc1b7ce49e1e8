"""What configurations of earlier versions mean now: keys ``<loss>_<parameter>`` became parameters of a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_lite.config.seams import Seams

KEYS = {"box_loss": "BOX_LOSSES", "rpn_box_loss": "BOX_LOSSES", "obj_loss": "CLS_LOSSES", "cls_loss": "CLS_LOSSES"}


def split_flat_key(word: str, seams: Seams) -> tuple[str, str, str] | None:
    """``"siou_theta"`` to ``("box_loss", "siou", "theta")``; None where the word is no such key."""
    for key, seam in KEYS.items():
        for name in seams[seam].entries if seam in seams else ():
            parameter = word.removeprefix(f"{name}_")
            if word.startswith(f"{name}_") and parameter in seams[seam].parameters(name):
                return key, name, parameter
    return None


def upgraded(plain: Mapping[str, Any], seams: Seams) -> dict[str, Any]:
    """A stored configuration whose hyperparameters have flat keys, as it would be stored today."""
    parts = {word: (split_flat_key(word, seams), value) for word, value in plain.get("hyp", {}).items()}
    hyp = {word: value for word, (part, value) in parts.items() if part is None}
    for key in KEYS:
        own = {part[2]: value for part, value in parts.values() if part and part[1] == hyp.get(key)}
        if own:
            hyp[key] = {hyp[key]: own}
    return {**plain, "hyp": hyp}
