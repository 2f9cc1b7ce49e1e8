"""``yolo-lite convert``: write a dataset's labels in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo_lite.cli.flags import DEFAULT_DATA, find_data
from yolo_lite.config.load import load_dataset_config


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite convert``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite convert",
        description="Write a dataset's labels in another format, with a dataset YAML, into a folder of their own.",
    )
    add = parser.add_argument
    add("--data", default=DEFAULT_DATA, help="dataset YAML (default: the embedded shapes, %(default)s)")
    add("--to", required=True, choices=("yolo", "voc", "coco"), help="the format to write")
    add("--out", required=True, metavar="DIR", help="a new folder, outside the dataset")
    add("--polygons", action="store_true", help="yolo: rows with outlines instead of boxes, where they are known")
    add("--copy-images", action="store_true", help="copy the pictures too (default: they are found where they are)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Convert, and say where the new dataset YAML is."""
    from yolo_lite.tools.convert import convert

    data_file = find_data(arguments.data)
    config = load_dataset_config(data_file)
    flags = (arguments.polygons, arguments.copy_images)
    print(convert(config, data_file, arguments.to, Path(arguments.out), *flags))
