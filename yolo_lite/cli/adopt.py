"""``yolo-lite adopt``: a dataset YAML for a set as another program has exported it."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.config.options import AdoptOptions


def run(options: AdoptOptions) -> Path:
    """Write the dataset YAML, say what was assumed and how to train; its path comes back."""
    from yolo_lite.tools.adopt import adopt

    file = adopt(options)
    print(f"yolo-lite check --data {options.output}")
    print(f"yolo-lite train --data {options.output}")
    return file
