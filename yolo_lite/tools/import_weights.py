"""Load weights of YOLOv5 (v6 and v7), by the names of its state dict, into our detector."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config, load_model_config, validate
from yolo_lite.config.model import ModelConfig
from yolo_lite.config.run import RunConfig, RunSection
from yolo_lite.config.yaml_file import Document
from yolo_lite.engine.checkpoint import save_checkpoint
from yolo_lite.engine.checkpoint_fields import first_of, in_short
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.tasks import task_of
from yolo_lite.model.blocks.standard import C3, SPP, SPPF, Bottleneck, Conv
from yolo_lite.model.detector import Detector
from yolo_lite.model.heads import Detect, Segment
from yolo_lite.model.heads.segment import Prototypes
from yolo_lite.tools.torch_file import read_torch_file, tensors_of
from yolo_lite.tools.unpack import read_npz

STATE_DICTS = (".npz", ".safetensors")  # file types

# Parts of our blocks that have another name in YOLOv5.
THEIR_NAMES: dict[type[nn.Module], dict[str, str]] = {
    Conv: {"norm": "bn"},
    Bottleneck: {"reduce": "cv1", "expand": "cv2"},
    C3: {"deep": "cv1", "plain": "cv2", "merge": "cv3", "bottlenecks": "m"},
    SPP: {"reduce": "cv1", "merge": "cv2"},
    SPPF: {"reduce": "cv1", "merge": "cv2"},
    Detect: {"heads": "m"},
    Segment: {"heads": "m", "prototypes": "proto"},
    Prototypes: {"before": "cv1", "behind": "cv2", "mix": "cv3"},
}


class Weights(NamedTuple):
    """Tensors by the names of YOLOv5's state dict, and the model that they belong to."""

    path: Path
    config: ModelConfig
    names: tuple[str, ...]  # of the classes
    tensors: dict[str, Tensor]


def read_weights(path: Path, cfg: str | os.PathLike[str] | None, data: str | os.PathLike[str] | None) -> Weights:
    """Read a checkpoint, or a state dict for the model and the class names of these two YAMLs.

    Raises:
        CheckpointError: the file is neither.
        ConfigError: a YAML is unusable, missing, or given beside a checkpoint.
    """
    if path.suffix not in STATE_DICTS:
        if cfg or data:
            raise ConfigError(f"{path}: a checkpoint brings its own model and names: leave out --cfg and --data")
        return read_checkpoint(path)
    if not (cfg and data):
        raise ConfigError(f"{path}: a state dict tells neither model nor names: expected --cfg and --data")
    config = load_model_config(cfg, seams=SEAMS)
    if not isinstance(config, ModelConfig):
        raise ConfigError(f"--cfg {cfg}: expected a YOLO model, found the family {config.family}")
    return read_state_dict(path, config, load_dataset_config(data).class_names)


def read_checkpoint(path: str | Path) -> Weights:
    """Read a checkpoint of YOLOv5 (``.pt``), which has its own YAML and names; none of its code is run.

    Raises:
        CheckpointError: it is none, or its pickle names what a checkpoint does not.
        ConfigError: its YAML is unusable.
    """
    path, content = Path(path), read_torch_file(path)
    content = content if isinstance(content, dict) else {}
    if "format" in content:
        raise CheckpointError(f"{path}: already a checkpoint of yolo_lite")
    model = next((content[key] for key in ("ema", "model") if content.get(key) is not None), None)
    if model is None:
        raise CheckpointError(f"{path}: expected a checkpoint of YOLOv5, found no 'ema' or 'model' in it")
    tensors = tensors_of(path, model)
    own_yaml, names = model.state.get("yaml"), model.state.get("names")
    if not isinstance(own_yaml, dict) or not isinstance(names, (list, dict)):
        raise CheckpointError(f"{path}: expected a model of YOLOv5, found one without YAML or names")
    try:
        config = validate(ModelConfig, Document(f"{path} (its YAML)", own_yaml, {}), SEAMS)
        names = validate(DatasetConfig, Document(f"{path} (its names)", {"names": names}, {})).names
    except ConfigError as error:
        raise ConfigError(in_short(str(error))) from None
    if len(names) != config.nc:
        raise CheckpointError(f"{path}: expected {config.nc} names, the classes of its YAML, found {len(names)}")
    return Weights(path, config, names, tensors)


def read_state_dict(path: str | Path, config: ModelConfig, names: tuple[str, ...]) -> Weights:
    """Read a state dict of YOLOv5 (``.npz`` or ``.safetensors``) for the model of a YAML.

    Raises:
        CheckpointError: it is none.
        ConfigError: the package that reads it is missing.
    """
    path = Path(path)
    unreadable: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile)
    try:
        if path.suffix == ".npz":
            tensors = {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
        else:
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            unreadable = (*unreadable, SafetensorError)
            tensors = load_file(path)
    except ImportError:
        raise ConfigError(f"{path}: reading it needs the package safetensors: pip install safetensors") from None
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except unreadable as error:
        raise CheckpointError(f"{path}: damaged, or not a {path.suffix} file of tensors") from error
    return Weights(path, config.model_copy(update={"nc": len(names)}), names, tensors)


def write_checkpoint(weights: Weights, output: Path) -> str:
    """Write the converted weights as a checkpoint of ours; returns where they come from, in words.

    Raises:
        CheckpointError, ConfigError: as ``build_detector``.
    """
    detector = build_detector(weights)
    options, data = RunSection(weights=str(weights.path)), DatasetConfig(names=weights.names)
    config = RunConfig(train=options, hyp=Hyp(), model=detector.config, data=data, data_file="")
    source = f"converted from YOLOv5's {weights.path.name}; such weights keep their licence (GPL-3.0 or AGPL-3.0)"
    losses = task_of(config.model).criterion(config.model, config.hyp, np.zeros(config.model.nc))
    states = {"ema": detector.state_dict(), "losses": losses.state_dict()}
    save_checkpoint(output, {"config": config.plain(), "epoch": 0, "metrics": {}, **states, "source": source})
    return source


def build_detector(weights: Weights) -> Detector:
    """Build the detector with these weights in float32 and the anchors they were trained with.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; the message holds the list.
        ConfigError: the YAML makes no detector.
    """
    try:
        with torch.device("meta"):  # allocates nothing
            blank = Detector(weights.config)
    except ConfigError as error:
        raise ConfigError(f"{weights.path}: {error}") from None
    their_names = {
        f"layers.{index}.{name}": f"model.{index}.{_their_name(layer, name)}"
        for index, layer in enumerate(blank.layers)
        for name in layer.state_dict()
    }
    expected = blank.state_dict()
    _check_complete(weights, {their_name: expected[name].shape for name, their_name in their_names.items()})
    # Copies, because a view would be saved with all of its storage.
    state = {
        name: weights.tensors[their_name].to(expected[name].dtype, copy=True).contiguous()
        for name, their_name in their_names.items()
    }
    sizes = state[next(name for name in state if name.endswith(".anchors"))]
    sizes *= torch.tensor(blank.strides)[:, None, None]  # kept in cells there, in pixels here
    anchors = tuple(tuple(level) for level in sizes.flatten(1).tolist())
    detector = Detector(weights.config.model_copy(update={"anchors": anchors}))
    detector.load_state_dict(state)
    return detector


def _their_name(module: nn.Module, name: str) -> str:
    """Translate a name: ``"deep.norm.weight"`` of a C3 is ``"cv1.bn.weight"``."""
    parts = []
    for part in name.split("."):
        parts.append(THEIR_NAMES.get(type(module), {}).get(part, part))
        module = getattr(module, part)
    return ".".join(parts)


def _check_complete(weights: Weights, expected: dict[str, torch.Size]) -> None:
    found = {name: tensor.shape for name, tensor in weights.tensors.items()}
    differing = [name for name, shape in expected.items() if found.get(name, shape) != shape]
    others = {
        "missing": [name for name in expected if name not in found],
        # v5 and v6.0 keep the anchors a second time.
        "left over": [name for name in found if name not in expected and not name.endswith(".anchor_grid")],
        "of another shape": [f"{name} {list(found[name])}, expected {list(expected[name])}" for name in differing],
    }
    if problems := [f"{kind}: {first_of(names)}" for kind, names in others.items() if names]:
        raise CheckpointError(f"{weights.path}: its tensors do not fit the model; {'; '.join(problems)}")
