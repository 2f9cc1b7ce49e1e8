"""Checkpoints: state dicts and plain data, loadable with ``weights_only=True``, never half written."""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any, NamedTuple
from zipfile import BadZipFile

import torch
from torch import Tensor

import yolo_lite
from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.durable import replacing
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.load import load_run_config, validate
from yolo_lite.config.old import upgraded
from yolo_lite.config.run import RunConfig
from yolo_lite.config.yaml_file import Document
from yolo_lite.engine.archive import ADVICE, UNKNOWN, read_archive, record_of, seal
from yolo_lite.engine.checkpoint_fields import built_within, check_fields, first_of, in_short, load_fitting, shown
from yolo_lite.engine.plain_pickle import check_pickle
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.tasks import Task, task_of
from yolo_lite.model.heads import ClassRows

FORMAT = 4
OLDEST = 3  # that is still read, though such a run cannot go on

# What torch raises for an archive that is damaged or holds more than plain data.
UNREADABLE: tuple[type[Exception], ...] = (
    UnpicklingError,
    BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    MemoryError,
)
UNREADABLE += (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)


NOT_OURS = (
    f"damaged, or not a checkpoint of yolo_lite; weights of YOLOv5 come in by yolo-lite import; if damaged, {ADVICE}"
)
# What the pickle of a checkpoint may name.
KNOWN_NAMES = re.compile(
    r"collections\.OrderedDict|torch\.(\w+Storage|Size)|torch\._utils\._rebuild_(tensor_v2|parameter)"
)


class Trained(NamedTuple):
    """A model with the averaged weights of a checkpoint, on the CPU, and all else that it holds."""

    task: Task
    model: Any  # a Network
    config: RunConfig
    content: dict[str, Any]


def load_trained(path: str | Path) -> Trained:
    """Read a checkpoint, with errors as ``load_checkpoint`` and ``config_of``, and build its model."""
    content = load_checkpoint(path)
    config = config_of(content, path)
    task = task_of(config.model)
    with built_within(content["ema"], path):
        model = task.build(config.model, False)
    load_fitting(model, content["ema"], f"{path}: ema")
    return Trained(task, model, config, content)


def build_model(config: RunConfig, states: Mapping[str, Any] | None) -> Any:
    """The model of a run, and for one that goes on no larger than its tensors ``states``; ConfigError as the task's."""
    try:
        with built_within(states, f"--resume {config.train.cfg}"):
            return task_of(config.model).build(config.model, not (states or config.train.weights))
    except ConfigError as error:
        raise ConfigError(f"{config.train.cfg}: {error}") from None


def start_from(weights: str, model: Any, names: Sequence[str]) -> str:
    """Take over the layers of a checkpoint whose tensors all fit by name and shape, and say which did not.

    Of the tensors that depend on the classes, rows of classes of the same name are taken, and rows that all share.
    A counter or a bias that fits where the weights of its layer do not is worth nothing alone.
    Returns where the checkpoint's own start weights come from, "" where that is nowhere.

    Raises:
        CheckpointError: it cannot be read, or nothing in it fits.
    """
    content, class_rows = load_checkpoint(weights), model.class_rows()
    given, own = content["ema"], {name: own for name, own in model.state_dict().items() if isinstance(own, Tensor)}
    if not isinstance(stored := content["config"].get("data"), dict):
        raise CheckpointError(f"{weights}: config.data: expected keys and values, found {shown(stored)}")
    with _in_short():
        data = validate(DatasetConfig, Document(f"{weights} (config)", stored, {}))
    anchors = {name for name in own if name.rpartition(".")[2] == "anchors"}  # which are those of --cfg
    taken = {}
    for name in own.keys() & given.keys() - anchors:
        found = given[name]
        if not isinstance(found, Tensor):
            continue
        if name in class_rows:
            found = _with_rows_of(own[name], found, class_rows[name], names, data.class_names)
        if found.shape == own[name].shape:
            taken[name] = found
    broken = {_layer(name) for name in own.keys() - taken.keys() - anchors}
    taken = {name: found for name, found in taken.items() if _layer(name) not in broken}
    if not taken:
        raise CheckpointError(f"{weights}: not one layer fits the model of --cfg by name and shape")
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken and name not in anchors]
    rest = f" ({_counted(model, own.keys() - anchors, taken)}), not: {first_of(left)}" if left else ""
    print(f"{weights}: {len(taken)} of {len(taken) + len(left)} tensors taken over{rest}")
    if list(names) != list(data.class_names):
        _say_classes(names, data.class_names)
    theirs = {name: given[name] for name in anchors & given.keys() if isinstance(given[name], Tensor)}
    if any(not torch.equal(sizes, own[name].cpu()) for name, sizes in theirs.items()):
        print(f"{weights}: was trained with other anchors; those of --cfg stay")
    if source := content.get("source", ""):
        print(f"{weights}: {source}")
    return source


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _counted(model: Any, names: Collection[str], taken: Collection[str]) -> str:
    """``"backbone 120 of 120, neck 180 of 180, head 0 of 49"``: how many tensors of each part were taken over."""
    parts = {"backbone": model.frozen("backbone"), "head": [model.head] if hasattr(model, "head") else []}
    places = {f"{name}.": part for part, own in parts.items() for name, one in model.named_modules() if one in own}
    part_of = {name: next((places[one] for one in places if name.startswith(one)), "neck") for name in names}
    all_of, taken_of = Counter(part_of.values()), Counter(part_of[name] for name in taken)
    return ", ".join(
        f"{part} {taken_of[part]} of {all_of[part]}" for part in ("backbone", "neck", "head") if all_of[part]
    )


def _with_rows_of(
    own: Tensor, given: Tensor, rows: ClassRows, own_names: Sequence[str], given_names: Sequence[str]
) -> Tensor:
    """``own`` with the rows of ``given`` that mean the same; ``given`` itself where it is laid out in another way."""
    if given.ndim != own.ndim or given.shape[1:] != own.shape[1:] or len(given) != rows.count(len(given_names)):
        return given
    shared = [name for name in own_names if name in given_names]
    to, source = ([names.index(name) for name in shared] for names in (own_names, given_names))
    merged = own.clone()
    merged[rows.of(to, len(own_names))] = given[rows.of(source, len(given_names))].to(own)
    return merged


def _say_classes(own: Sequence[str], given: Sequence[str]) -> None:
    kinds = {
        "taken over": [name for name in own if name in given],
        "new": [name for name in own if name not in given],
        "left behind": [name for name in given if name not in own],
    }
    parts = [f"{kind}: {shorten(', '.join(names), 200)}" for kind, names in kinds.items() if names]
    print(f"rows of classes {'; '.join(parts)}")


def config_of(checkpoint: dict[str, Any], path: str | Path) -> RunConfig:
    """The resolved configuration that a checkpoint was trained with; ConfigError where it is unusable."""
    with _in_short():
        return load_run_config(checkpoint["config"], f"{path} (config)", SEAMS)


@contextlib.contextmanager
def _in_short() -> Iterator[None]:
    """Shorten what is wrong with a configuration that nobody typed, and that may hold anything."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(in_short(str(error))) from None


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU.

    Raises:
        CheckpointError: missing, unreadable, not ours, or from a newer yolo_lite.
    """
    content: Any = None
    try:
        content = read_plain(path)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        if re.match(r"yolov\d", Path(path).name):
            reason += "; nothing is downloaded, and weights of YOLOv5 come in by yolo-lite import"
        raise CheckpointError(f"{path}: {reason}") from error
    except CheckpointError as error:
        text = str(error)
        if not text.startswith("damaged: "):  # it may be another program's
            text = f"{NOT_OURS} ({text.removeprefix(UNKNOWN).removeprefix(': ')})"
        raise CheckpointError(f"{path}: {text}") from error
    except UNREADABLE:
        pass
    if problem := _problem(content):
        raise CheckpointError(f"{path}: {problem}")
    check_fields(content, path)
    return content if content["format"] == FORMAT else _upgraded(content, path)


def read_plain(path: str | Path) -> Any:
    """What ``torch.save`` wrote, verified, where that is tensors and plain data; errors as ``UNREADABLE`` and below.

    Raises:
        OSError: as ``open_regular``.
        CheckpointError: damaged, or it holds more than plain data; the message does not name the file.
    """
    data, _ = verified(path, KNOWN_NAMES)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def verified(path: str | Path, known_names: re.Pattern[str]) -> tuple[bytes, set[str]]:
    """A verified archive of ``torch.save``, and the full names that its pickle may call; errors as ``read_plain``."""
    data = read_archive(path)
    program = record_of(data, "data.pkl")
    if program is None:
        raise CheckpointError("a zip, but not a checkpoint: without data.pkl")
    return data, check_pickle(program, known_names)


def _problem(content: Any) -> str:
    """Why the content of a file is no checkpoint that can be read; "" where it is one."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        return NOT_OURS
    version, found = content.get("yolo_lite"), content["format"]
    if found > FORMAT:
        reader = f"this yolo_lite {yolo_lite.__version__} reads format {FORMAT}"
        return f"written by yolo_lite {version} in format {found}, {reader}"
    if found < OLDEST:
        expected = f"expected format {OLDEST} or newer: train again, or use the yolo_lite that wrote it"
        return f"written in format {found} by an older yolo_lite, {expected}"
    missing = [name for name in ("config", "ema", "epoch", "losses") if name not in content]
    return f"not a checkpoint of yolo_lite: without {', '.join(missing)}" if missing else ""


def _upgraded(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A checkpoint of format 3 as weights to use: there the anchors lay beside the layers, not in the head."""
    weights = dict(content["ema"])
    if "anchors" in weights:
        layers = [int(found[1]) for name in weights if (found := re.match(r"layers\.(\d{1,6})\.", name))]
        if not layers or not isinstance(content["config"].get("hyp"), dict):
            raise CheckpointError(f"{path}: a checkpoint of format 3 without layers, or without hyp in its config")
        last = max(layers)
        weights[f"layers.{last}.anchors"] = weights.pop("anchors")
    return {**content, "ema": weights, "config": upgraded(content["config"])}


def check_resumable(content: dict[str, Any], path: str | Path) -> None:
    """Raise CheckpointError unless a run can go on from this checkpoint."""
    if content["format"] < FORMAT:
        raise CheckpointError(
            f"--resume {path}: written in format {content['format']} by yolo_lite {content.get('yolo_lite')}, whose "
            f"runs this one cannot continue: start a new run with --weights {path}, or resume with that version"
        )
    if "optimizer" not in content:
        raise CheckpointError(f"--resume {path}: holds no optimizer state, expected the last.pt of a run")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint in the place of an older one, which stays until it is on the disk; raises CheckpointError."""
    try:
        with replacing(path) as file:
            torch.serialization.set_crc32_options(True)
            torch.save({"format": FORMAT, "yolo_lite": yolo_lite.__version__, **content}, file)
            seal(file)
    except (OSError, RuntimeError) as error:
        # torch's archive writer hides a full disk behind a RuntimeError of its own.
        hidden = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(hidden, "strerror", hidden)
        raise CheckpointError(f"{path}: cannot be written: {reason}; the older file is untouched") from error
