"""Flags of YOLOv5 and words of ultralytics: what they are called here, which key they are, or why there is none."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import takewhile

from yolo_lite.config.errors import ConfigError

# The same under another name, in the commands that have it.
SAME = {
    **{"--img": "--imgsz", "--img-size": "--imgsz", "--batch": "--batch-size", "--noplots": "--no-figures"},
    **{"--conf-thres": "--conf", "--iou-thres": "--iou", "--nosave": "--no-save", "--task": "--split"},
    **{"--include": "--format", "--topk-all": "--max-det", "--model": "--weights"},
}

# Flags that take several values there and one here.
ONE = {
    "--format": "one format at a time",
    "--imgsz": "one number, pixels of the longest side: images keep their shape",
    "--weights": "one checkpoint: there are no ensembles",
}


def _freeze(words: Sequence[str]) -> str:
    """``10`` is the first ten rows, ``0 2 4`` is these rows."""
    if len(words) == 1:
        return str(list(range(int(words[0])))) if words[0].isdecimal() else words[0]
    return f"[{','.join(words)}]"


# Flags there that are keys here: what stands behind --set, made of the words behind the flag.
KEYS: dict[str, Callable[[Sequence[str]], str]] = {
    "--cache": lambda words: f"cache={' '.join(words) or 'ram'}",
    "--cache-images": lambda words: "cache=ram",
    "--cos-lr": lambda words: "cos_lr=true",
    "--freeze": lambda words: f"freeze={_freeze(words)}",
    "--label-smoothing": lambda words: f"label_smoothing={' '.join(words)}",
    "--linear-lr": lambda words: "cos_lr=false",
    "--multi-scale": lambda words: f"multi_scale={' '.join(words) or 0.5}",
    "--patience": lambda words: f"patience={' '.join(words)}",
    "--single-cls": lambda words: "data.single_cls=true",
    "--sync-bn": lambda words: "sync_bn=true",
}

# What these ask for is so in any case.
ALWAYS = ("--noautoanchor", "--save-conf", "--verbose", "--local-rank", "--inplace", "--plots", "--save")

_NO_TRACKER = (
    "curves are in results.csv, and where the key loggers says: TensorBoard; nothing is sent that it does not name"
)
_NO_EVOLUTION = "yolo-lite search finds keys of hyp.yaml, by trials that learn from one another"
_NO_WINDOW = "nothing is shown in a window: annotated images are in the run folder"
_DRAWING = "what is drawn is fixed: in Python found.xyxy and found.class_names are there to draw from"
_MOBILE = "that is for a format that is not written: --format onnx, torchscript, torch_export"
WHY_NOT = {
    **dict.fromkeys(("--bucket", "--entity", "--upload-dataset", "--bbox-interval", "--artifact-alias"), _NO_TRACKER),
    **dict.fromkeys(("--evolve", "--evolve-population", "--resume-evolve"), _NO_EVOLUTION),
    **dict.fromkeys(("--line-thickness", "--line-width", "--hide-labels", "--hide-conf"), _DRAWING),
    **dict.fromkeys(("--keras", "--optimize", "--per-tensor", "--mlmodel", "--workspace", "--topk-per-class"), _MOBILE),
    **dict.fromkeys(("--noval", "--notest"), "every epoch is validated, which best.pt and patience go by"),
    "--adam": "--optimizer AdamW is the one, with an lr0 near 0.0015",
    "--agnostic-nms": "boxes of different classes never drop each other here, but in yolo-lite predict",
    "--augment": "there is no test-time augmentation",
    "--cache": "nothing is kept from one run of it to the next",
    "--data": "the names of the classes are in the checkpoint",
    "--device": "it computes on the CPU",
    "--dnn": "an .onnx file runs in ONNX Runtime",
    "--half": "the precision is that of training (key precision, auto by default)",
    "--image-weights": "images of rare classes are drawn more often by key balance: --set balance=0.1",
    "--nosave": "best.pt and last.pt are always written, last.pt less often with --save-period N",
    "--opset": "the opset is chosen by yolo_lite",
    "--quad": "there is no quad loader: take a larger --imgsz and a smaller --batch-size",
    "--rect": "images are trained in squares; validation and prediction use rectangles anyway",
    "--save-csv": "--save-json has the same figures",
    "--save-format": "--save-txt writes YOLO's rows, --save-json boxes in pixels",
    "--save-hybrid": "labels are not mixed with predictions: --save-json writes both, in files of their own",
    "--simplify": "the file has no superfluous nodes that ONNX Runtime would not drop itself",
    "--single-cls": "the classes are those of training: train with --single-cls",
    "--update": "yolo-lite import reads weights of YOLOv5",
    "--vid-stride": "every frame is read",
    **dict.fromkeys(("--view-img", "--show"), _NO_WINDOW),
}


def as_ours(words: Sequence[str], own: Collection[str], program: str) -> list[str]:
    """The words of a command line, in the flags ``own`` of a command.

    Raises:
        ConfigError: flags are unknown, or there are words ``key=value`` where flags are expected.
    """
    pairs, takes_flags_only = list(takewhile(re.compile(r"[A-Za-z]\w*=").match, words)), all(map(_is_flag, own))
    ours, problems = list[str](), list[str]()
    groups = map(_flag_of, pairs) if takes_flags_only else iter([pairs])
    for group in (*groups, *_groups(words[len(pairs) :])):
        try:
            ours += _translated(group, own)
        except ConfigError as error:
            problems.append(str(error))
    if pairs and takes_flags_only:
        program = f"python {program}" if program.endswith(".py") else program
        problems.insert(0, f"expected flags, found {pairs[0]}; in flags: {program} {shlex.join(ours)}")
    if problems:
        raise ConfigError("\n  ".join(problems))
    return ours


def _is_flag(word: str) -> bool:
    return word.startswith("-")


def _flag_of(pair: str) -> list[str]:
    """``epochs=3`` as ``--epochs 3``, ``lr0=0.1`` as ``--set lr0=0.1``, ``save_txt=True`` as ``--save-txt``."""
    key, _, value = pair.partition("=")
    key = "cfg" if key == "model" and value.endswith((".yaml", ".yml")) else key
    flag = f"--{key.replace('_', '-')}"
    if flag not in KEYS and key != "optimizer" and _is_hyp_key(key):
        return ["--set", pair]
    return [] if value == "False" else [flag] if value == "True" else [flag, value]


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    """Each flag, ``--like-this`` or ``-o``, with the words behind it; first the words before all flags."""
    group: list[str] = []
    for word in words:
        if re.match(r"--|-[A-Za-z]", word):
            yield group
            group = []
        group.append(word)
    yield group


def _translated(group: list[str], own: Collection[str]) -> list[str]:
    """A flag and its values in our words."""
    if not group or not group[0].startswith("--") or group[0] == "--":
        return group
    word, equals, value = group[0].partition("=")
    values = [value, *group[1:]] if equals else group[1:]
    name = word.replace("_", "-")
    name = SAME[name] if SAME.get(name) in own else name
    if name in own:
        values = _as_written_here(name, values)
        return [f"{name}={values[0]}", *values[1:]] if equals else [name, *values]
    if name in KEYS and "--set" in own:
        return ["--set", KEYS[name](values)]
    if name in ALWAYS:
        return []
    if name in WHY_NOT:
        raise ConfigError(f"{word}: {WHY_NOT[name]}")
    if any(flag.startswith(name) for flag in own):  # an abbreviation
        return group
    raise ConfigError(f"unrecognized arguments: {' '.join(group)}{_advice(name, values, own)}")


def _as_written_here(flag: str, values: list[str]) -> list[str]:
    """Values of a flag that is called the same, where YOLOv5 writes them in another way."""
    if flag == "--dynamic" and not values:
        return ["batch", "size"]
    if flag == "--batch-size" and values == ["-1"]:
        return ["auto"]
    if flag == "--imgsz" and len(set(values)) == 1:
        return values[:1]
    if flag == "--device" and any("," in value for value in values):
        count = values[0].count(",") + 1
        raise ConfigError(f"--device {values[0]}: for {count} GPUs: torchrun --nproc_per_node={count} train.py ...")
    if flag in ONE and len(values) > 1:
        raise ConfigError(f"{flag} {' '.join(values)}: {ONE[flag]}")
    return values


def _advice(name: str, values: Sequence[str], own: Collection[str]) -> str:
    key = name.strip("-").replace("-", "_")
    if "--set" in own and _is_hyp_key(key):
        return f" (a key of hyp.yaml: --set {key}={','.join(values)})"
    from yolo_lite.config.foreign import resembles

    return resembles(name, own)


def _is_hyp_key(key: str) -> bool:
    from yolo_lite.config.hyp import Hyp  # as _advice's: --help needs neither

    return key in Hyp.model_fields
