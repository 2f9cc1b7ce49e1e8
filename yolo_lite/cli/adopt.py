"""``yolo-lite adopt``: a dataset YAML for a set as another program has exported it."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.config.errors import UserError
from yolo_lite.config.options import AdoptOptions


def run(options: AdoptOptions) -> Path:
    """Write the dataset YAML, say what was assumed, what training would read, and how to train; its path comes back."""
    from yolo_lite.config.load import load_dataset_config
    from yolo_lite.data.index import index_split
    from yolo_lite.tools.adopt import adopt

    file = adopt(options)
    config = load_dataset_config(file)
    for split in config.splits:
        try:
            print(f"{split}: {index_split(config, file, split).describe()}")
        except UserError as error:  # the YAML is right, or a key like labels_are has to be added to it
            print(f"error: {error}")
    print(f"next: yolo-lite check --data {options.output}, then yolo-lite train --data {options.output}")
    return file
