"""Checkpoints: state dicts and plain data, loadable with ``weights_only=True``, never half written."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple
from zipfile import BadZipFile, is_zipfile

import torch

import yolo_lite
from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.load import load_run_config
from yolo_lite.config.old import upgraded
from yolo_lite.config.run import RunConfig
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.tasks import Task, task_of

FORMAT = 4
OLDEST = 3  # that is still read, though such a run cannot go on

# What torch raises for an archive that is damaged or holds more than plain data.
UNREADABLE = (UnpicklingError, BadZipFile, struct.error, EOFError, RuntimeError, ValueError, TypeError, LookupError)


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
    model = task.build(config.model, False)
    model.load_state_dict(content["ema"])
    return Trained(task, model, config, content)


def config_of(checkpoint: dict[str, Any], path: str | Path) -> RunConfig:
    """The resolved configuration that a checkpoint was trained with; ConfigError where it is unusable."""
    return load_run_config(checkpoint["config"], f"{path} (config)", SEAMS)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU.

    Raises:
        CheckpointError: missing, unreadable, not ours, or from a newer yolo_lite.
    """
    content: Any = None
    try:
        with open(path, "rb") as file:
            if is_zipfile(file):
                file.seek(0)
                content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise CheckpointError(f"{path}: {reason}") from error
    except UNREADABLE:
        pass
    if problem := _problem(content):
        raise CheckpointError(f"{path}: {problem}")
    return content if content["format"] == FORMAT else _upgraded(content)


def _problem(content: Any) -> str:
    """Why the content of a file is no checkpoint that can be read; "" where it is one."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        return "damaged, or not a checkpoint of yolo_lite; weights of YOLOv5 come in by yolo-lite import"
    version, found = content.get("yolo_lite"), content["format"]
    if found > FORMAT:
        reader = f"this yolo_lite {yolo_lite.__version__} reads format {FORMAT}"
        return f"written by yolo_lite {version} in format {found}, {reader}"
    if found < OLDEST:
        expected = f"expected format {OLDEST} or newer: train again, or use the yolo_lite that wrote it"
        return f"written in format {found} by an older yolo_lite, {expected}"
    missing = {"config", "ema", "losses", "epoch"} - content.keys()
    return f"not a checkpoint of yolo_lite: without {', '.join(sorted(missing))}" if missing else ""


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 3 as weights to use: there the anchors lay beside the layers, not in the head."""
    weights = dict(content["ema"])
    if "anchors" in weights:
        last = max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
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
    """Write to a temporary file in the same folder, flush it to disk, rename it: the old file stays until then."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed run left is overwritten
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "yolo_lite": yolo_lite.__version__, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch's archive writer hides a full disk behind a RuntimeError of its own.
        hidden = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(hidden, "strerror", hidden)
        raise CheckpointError(f"{path}: cannot be written: {reason}; the older file is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)
