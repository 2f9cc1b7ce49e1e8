"""Checkpoints: state dicts and plain data, loadable with ``weights_only=True``, never half written."""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import torch

import yolo_lite
from yolo_lite.config.durable import replacing
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.load import load_run_config
from yolo_lite.config.old import upgraded
from yolo_lite.config.run import RunConfig
from yolo_lite.engine.archive import ADVICE, UNKNOWN, read_archive, record_of, seal
from yolo_lite.engine.checkpoint_fields import built_within, check_fields, in_short, load_fitting
from yolo_lite.engine.plain_pickle import check_pickle
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.tasks import Task, task_of

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
        model = task.build(config.model)
    load_fitting(model, content["ema"], f"{path}: ema")
    return Trained(task, model, config, content)


def build_model(config: RunConfig, states: Mapping[str, Any] | None) -> Any:
    """The model of a run, and for one that goes on no larger than its tensors ``states``; ConfigError as the task's."""
    try:
        with built_within(states, f"--resume {config.train.cfg}"):
            return task_of(config.model).build(config.model)
    except ConfigError as error:
        raise ConfigError(f"{config.train.cfg}: {error}") from None


def config_of(checkpoint: dict[str, Any], path: str | Path) -> RunConfig:
    """The resolved configuration that a checkpoint was trained with; ConfigError where it is unusable."""
    with shortened():
        return load_run_config(checkpoint["config"], f"{path} (config)", SEAMS)


@contextlib.contextmanager
def shortened() -> Iterator[None]:
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
