"""``yolo-lite import``: make a checkpoint of weights of YOLOv5."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo_lite.cli.flags import find_data
from yolo_lite.config.errors import ConfigError


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
    from yolo_lite.tools.import_weights import read_weights, write_checkpoint

    data = find_data(arguments.data) if arguments.data else None
    weights = read_weights(Path(arguments.weights), arguments.cfg, data)
    source = write_checkpoint(weights, output)
    print(f"{output}: {len(weights.tensors)} tensors, {len(weights.names)} classes; {source}")
