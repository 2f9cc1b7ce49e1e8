"""``yolo-lite import``: make a checkpoint of weights of YOLOv5."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import ImportOptions
from yolo_lite.data.outputs import Inputs, check_file
from yolo_lite.tools.import_weights import read_weights, write_checkpoint


def run(options: ImportOptions) -> None:
    """Read the weights, build their model, write both as a checkpoint that train.py and val.py take."""
    files = (options.weights, *filter(None, (options.cfg, options.data)))
    output = check_file(options.output, Inputs(files=tuple(map(str, files))), "-o")
    if output.suffix != ".pt":
        raise ConfigError(f"-o {output}: expected a name that ends with .pt")
    if output.exists() and not options.exist_ok:
        raise ConfigError(f"-o {output}: is there already; --exist-ok overwrites it")
    weights = read_weights(Path(options.weights), options.cfg, options.data)
    source = write_checkpoint(weights, output)
    print(f"{output}: {len(weights.tensors)} tensors, {len(weights.names)} classes; {source}")
