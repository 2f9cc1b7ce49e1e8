"""The model of a checkpoint, for whatever comes after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from yolo_lite.config.run import RunConfig
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.tasks import Task, task_of


class Trained(NamedTuple):
    """A model with the averaged weights of a checkpoint, on the CPU, and all else that it holds."""

    task: Task
    model: Any  # a Network
    config: RunConfig
    content: dict[str, Any]


def load_trained(path: str | Path) -> Trained:
    """Read a checkpoint and build its model.

    Raises:
        CheckpointError: missing, unreadable, not ours, or from a newer yolo_lite.
        ConfigError: its configuration is unusable.
    """
    return build_trained(load_checkpoint(path), path)


def build_trained(content: dict[str, Any], path: str | Path) -> Trained:
    """As ``load_trained``, of what has been read of a checkpoint.

    Raises:
        ConfigError: its configuration is unusable.
    """
    config = config_of(content, path)
    task = task_of(config.model)
    model = task.build(config.model, False)
    model.load_state_dict(content["ema"])
    return Trained(task, model, config, content)
