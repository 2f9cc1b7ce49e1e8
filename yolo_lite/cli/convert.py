"""``yolo-lite convert``: write a dataset's labels in another format."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.config.find import find_yaml
from yolo_lite.config.options import ConvertOptions
from yolo_lite.data.names import load_dataset
from yolo_lite.engine.seams import SEAMS
from yolo_lite.tools.convert import convert


def run(options: ConvertOptions) -> None:
    """Convert, and say where the new dataset YAML is."""
    data_file = str(find_yaml(options.data, "data"))
    config = load_dataset(data_file, seams=SEAMS)
    print(convert(config, data_file, options.to, Path(options.out), options.polygons, options.copy_images))
