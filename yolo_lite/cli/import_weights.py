"""``yolo-lite import``: make a checkpoint of weights of YOLOv5."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_lite.cli.flags import find_data
from yolo_lite.config.errors import ConfigError

if TYPE_CHECKING:
    from yolo_lite.tools.import_weights import Weights

STATE_DICTS = (".npz", ".safetensors")


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite import``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite import", description="Make a checkpoint of weights of YOLOv5 v6 or v7; no code in them is run."
    )
    add = parser.add_argument
    add("weights", metavar="FILE", help="a checkpoint (.pt), or its state dict (.npz, .safetensors)")
    add("-o", "--output", required=True, metavar="FILE", help="the checkpoint to write")
    add("--cfg", help="model YAML, for a state dict; a checkpoint brings its own")
    add("--data", help="dataset YAML with the names of the classes, for a state dict; a checkpoint brings its own")
    add("--exist-ok", action="store_true", help="overwrite an existing file")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Read the weights, build their model, write both as a checkpoint that train.py and val.py take."""
    output = Path(arguments.output)
    if output.exists() and not arguments.exist_ok:
        raise ConfigError(f"-o {output}: is there already; --exist-ok overwrites it")
    weights = _read(arguments)

    import numpy as np

    from yolo_lite.config.schema import DatasetConfig, Hyp, RunConfig, TrainOptions
    from yolo_lite.engine.checkpoint import save_checkpoint
    from yolo_lite.engine.families import FAMILIES
    from yolo_lite.tools.import_weights import convert

    detector = convert(weights)
    config = RunConfig(
        train=TrainOptions(weights=str(weights.path)),
        hyp=Hyp(),
        model=detector.config,
        data=DatasetConfig(names=weights.names),
        data_file="",
    )
    source = f"converted from YOLOv5's {weights.path.name}; such weights keep their licence (GPL-3.0 or AGPL-3.0)"
    content = {
        "config": config.plain(),
        "epoch": 0,
        "metrics": {},
        "ema": detector.state_dict(),
        "losses": FAMILIES[config.model.family].losses(config.hyp, np.zeros(config.model.nc)).state_dict(),
        "source": source,
    }
    save_checkpoint(output, content)
    print(f"{output}: {len(weights.shapes)} tensors, {len(weights.names)} classes; {source}")


def _read(arguments: argparse.Namespace) -> Weights:
    from yolo_lite.config.load import load_dataset_config, load_model_config
    from yolo_lite.config.schema import ModelConfig
    from yolo_lite.tools.import_weights import read_checkpoint, read_state_dict

    path, flags = Path(arguments.weights), (arguments.cfg, arguments.data)
    if path.suffix not in STATE_DICTS:
        if any(flags):
            raise ConfigError(f"{path}: a checkpoint brings its own model and names: leave out --cfg and --data")
        return read_checkpoint(path)
    if not all(flags):
        raise ConfigError(f"{path}: a state dict tells neither model nor names: expected --cfg and --data")
    config = load_model_config(arguments.cfg)
    if not isinstance(config, ModelConfig):
        raise ConfigError(f"--cfg {arguments.cfg}: expected a YOLO model, found the family {config.family}")
    return read_state_dict(path, config, load_dataset_config(find_data(arguments.data)).class_names)
