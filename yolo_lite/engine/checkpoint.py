"""Checkpoints: state dicts and plain data, loadable with ``weights_only=True``, never half written."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

import yolo_lite
from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.load import load_run_config
from yolo_lite.config.schema import RunConfig

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write to a temporary file in the same folder, flush it to disk, rename it: the old file stays until then."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, "yolo_lite": yolo_lite.__version__, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}; the older file is untouched") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU.

    Raises:
        CheckpointError: missing, unreadable, not ours, or from a newer yolo_lite.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(content, dict) or "yolo_lite" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of yolo_lite")
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: written by yolo_lite {content['yolo_lite']} in format {content['format']}, "
            f"this yolo_lite {yolo_lite.__version__} reads up to format {FORMAT}"
        )
    return content


def config_of(checkpoint: dict[str, Any], path: str | Path) -> RunConfig:
    """The resolved configuration that a checkpoint was trained with."""
    return load_run_config(checkpoint["config"], f"{path} (config)")
