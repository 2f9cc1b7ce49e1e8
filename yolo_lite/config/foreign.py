"""YAML files that were written for other programs: what in them has no effect here, and what they take for granted."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.model import ModelConfig
from yolo_lite.config.yaml_file import Document

# Keys of a dataset YAML that exporters and other trainers write: about the set, and about keypoints.
ABOUT = "author authors created date description docs homepage info licence license roboflow source url version"
OF_POSES = "flip_idx kpt_names"
DATASET_KEYS = frozenset(f"{ABOUT} {OF_POSES}".split())

# Keys of a hyp file of YOLOv5 that have no effect here, and why.
HYP_KEYS = {
    "iou_t": "nothing reads it in YOLOv5 either",
    "anchors": "anchors are in the model YAML, yolo-lite anchors finds some that fit",
}


class ConfigWarning(UserWarning):
    """Something in a file of the user's has no effect; the command line prints it in one line, once."""


def known_dataset_keys(document: Document) -> Document:
    """A dataset YAML without the keys that mean nothing here, and without those that have no value.

    Exporters write keys of their own, and none of them changes what is trained: unknown ones are warned of.

    Raises:
        ConfigError: ``names`` is there, but misspelt.
    """
    data, fields = dict(document.data), DatasetConfig.model_fields
    if "val" not in data and "valid" in data:  # the name that other programs have for the split
        data["val"] = data.pop("valid")
    unknown = [key for key in data if key not in fields and key not in DATASET_KEYS]
    for key in unknown:
        if "names" not in data and isinstance(data[key], (list, dict)) and resembles(key, ["names"]):
            where = f"{document.source}:{_line(document, key)}"
            raise ConfigError(f"{where}: the key 'names' is missing (nearest: {key!r})")
    _warn(document, {key: resembles(key, fields) for key in unknown})
    # "test:" with nothing behind it is not given, but names of nothing are a mistake.
    kept = {key: value for key, value in data.items() if key in fields and (value is not None or key == "names")}
    return document._replace(data=kept)


def hyp_as_meant(document: Document, overrides: Sequence[str] = ()) -> Document:
    """A hyp file as it is meant where it was written: without YOLOv5's idle keys, and with its optimizer."""
    data = document.data
    idle = {key: f" ({why})" for key, why in HYP_KEYS.items() if key in data}
    _warn(document, idle)
    kept = {key: value for key, value in data.items() if key not in idle}
    if "optimizer" not in data and not any(text.startswith("optimizer=") for text in overrides) and _is_for_sgd(data):
        told = "figures of YOLOv5 and no key 'optimizer': trains with SGD, as there; --optimizer chooses another"
        warnings.warn(f"{document.source}: {told}", ConfigWarning, stacklevel=3)
        kept["optimizer"] = "SGD"
    return document._replace(data=kept)


def model_of_ours(document: Document) -> Document:
    """The same document; ConfigError, in one line, where it is no model YAML or one in the grammar of another program.

    It is taken for one without ``anchors`` and with several keys that resemble none of ours, or without any row.
    """
    data, fields = document.data, ModelConfig.model_fields
    unknown = [key for key in data if key not in fields and not resembles(str(key), fields)]
    has_rows = "backbone" in data or "head" in data
    if "family" in data or "anchors" in data or not unknown or (has_rows and len(unknown) < 2):
        return document
    owners = {"a hyp file (--hyp)": Hyp.model_fields, "a dataset YAML (--data)": DatasetConfig.model_fields}
    seems = next((kind for kind, keys in owners.items() if not has_rows and keys.keys() & unknown), None)
    keys = ", ".join(f"{key!r} in line {_line(document, key)}" for key in unknown[:3])
    more = f" and {len(unknown) - 3} more" if unknown[3:] else ""
    raise ConfigError(
        f"{document.source}: seems to be {seems or 'a model file of another program'}: unknown keys {keys}{more}; "
        "expected a model YAML in the grammar of YOLOv5 v6: nc, depth_multiple, width_multiple, anchors, and rows "
        "[from, repeats, module, args] in backbone and head, as in cfg/yolo_s.yaml"
    )


def _is_for_sgd(data: Mapping[str, Any]) -> bool:
    """Whether a hyp file without an optimizer carries the figures of YOLOv5, where SGD is the default of a flag.

    AdamW would take its lr0 for ten times its own. Any of three things is enough, and no file of ours has one: the key
    ``iou_t``; biases that begin the warm-up above lr0 (.1 against .01 there, as in all that were evolved from it); or,
    if neither is there any more, momentum .937 with an lr0 that is for SGD. Stated figures count, not our defaults.
    """
    lr0, momentum, bias_lr = (data.get(key) for key in ("lr0", "momentum", "warmup_bias_lr"))
    if not isinstance(lr0, (int, float)):
        return False
    biases_begin_above = isinstance(bias_lr, (int, float)) and bias_lr > lr0
    return "iou_t" in data or biases_begin_above or (momentum == 0.937 and lr0 >= 0.005)


def resembles(word: str, choices: Iterable[str]) -> str:
    """As ``nearest``, but ``""`` when no choice resembles the word."""
    hint = nearest(word, choices)
    return hint if hint.startswith(" (nearest") else ""


def _warn(document: Document, remarks: dict[Any, str]) -> None:
    """One line for all keys that have no effect, each with its line in the file and what there is to say about it."""
    if remarks:
        keys = ", ".join(f"{key!r} in line {_line(document, key)}{remark}" for key, remark in remarks.items())
        warnings.warn(f"{document.source}: keys without effect: {keys}", ConfigWarning, stacklevel=4)


def _line(document: Document, key: Any) -> int:
    return document.lines.get((str(key),), 1)
