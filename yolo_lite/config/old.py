"""What old keys of hyp.yaml mean now: keys ``<loss>_<parameter>`` became parameters of a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_lite.config.foreign import HYP_KEYS

# As they were then, whatever the functions are called by now.
BOX = {
    **{"smooth_l1": ("beta",), "iou_log": ("floor",), "focal_eiou": ("gamma",), "siou": ("theta",)},
    **{"alpha_iou": ("alpha", "form"), "wiou": ("version", "alpha", "delta", "momentum")},
    **{"inner_iou": ("ratio", "form"), "shape_iou": ("scale",), "nwd": ("constant",)},
}
BINARY = {"focal": ("gamma", "alpha"), "qfl": ("beta",), "vfl": ("alpha", "gamma"), "poly": ("epsilon",)}
LOSSES = {"box_loss": BOX, "rpn_box_loss": BOX, "obj_loss": BINARY, "cls_loss": BINARY}

FLAT_KEYS = {
    f"{name}_{word}": f"parameters stand with their loss now, as in {key}: {{{name}: {{{word}: ...}}}}"
    for key, losses in (("box_loss", BOX), ("obj_loss", BINARY))
    for name, words in losses.items()
    for word in words
}
# What to do about keys that hyp.yaml has no more, and about those of YOLOv5 that it never had.
ADVICE = {**HYP_KEYS, **FLAT_KEYS}


def upgraded(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration whose hyperparameters may have flat keys, as it would be stored today."""
    stored = plain.get("hyp", {})
    hyp = {key: value for key, value in stored.items() if key not in FLAT_KEYS}
    if hyp.get("fl_gamma") and "focal_alpha" in stored:  # bce was focal, with this gamma and the alpha of that key
        hyp |= {"obj_loss": "focal", "cls_loss": "focal", "fl_gamma": 0.0}
        stored = {**stored, "focal_gamma": stored["fl_gamma"]}
    for key, losses in LOSSES.items():
        name = hyp.get(key)
        words = losses.get(name, ()) if isinstance(name, str) else ()
        if own := {word: stored[f"{name}_{word}"] for word in words if f"{name}_{word}" in stored}:
            hyp[key] = {name: own}
    return {**plain, "hyp": hyp}
