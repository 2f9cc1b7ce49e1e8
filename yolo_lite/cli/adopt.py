"""``yolo-lite adopt``: a dataset YAML for a set as another program has exported it."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.config.options import AdoptOptions


def run(options: AdoptOptions) -> Path:
    """Write the dataset YAML, say what was assumed and how to train; its path comes back."""
    from yolo_lite.tools.adopt import Choices, adopt

    names = [name.strip() for text in options.names for name in text.split(",") if name.strip()]
    choices = Choices(options.format, names, options.val, options.test, options.seed)
    file = adopt(Path(options.source), Path(options.output), choices)
    print(f"yolo-lite train --data {options.output}")
    return file
