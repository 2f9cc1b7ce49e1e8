"""``yolo-lite show``: pictures of augmented batches with their boxes."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo_lite.cli.flags import DEFAULT_DATA, DEFAULT_HYP, add_plugin_flag, check_range, find_data


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite show``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite show",
        description="Draw the first training batches as the network would see them, with their boxes.",
    )
    add = parser.add_argument
    add("--data", default=DEFAULT_DATA, help="dataset YAML (default: the embedded shapes, %(default)s)")
    add("--hyp", default=DEFAULT_HYP["yolo"], help="hyperparameter YAML (default: %(default)s)")
    add("--imgsz", type=int, help="side in pixels (default: what the dataset YAML suggests, else 640)")
    add("--batches", type=int, default=2, help="how many, of 8 pictures each (default: %(default)s)")
    add("--seed", type=int, default=0, help="shows what a run of this seed begins with (default: %(default)s)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override keys of hyp.yaml; data.KEY overrides the dataset YAML")  # fmt: skip
    add("--project", default="runs/show", help="folder of runs (default: %(default)s)")
    add("--name", default="exp", help="folder of this run; a number is added if it is there (default: %(default)s)")
    add_plugin_flag(parser)
    return parser


def run(arguments: argparse.Namespace) -> Path:
    """Write ``batch_1.png``, ...; the folder comes back."""
    from yolo_lite.plugins import loaded

    with loaded(arguments.plugin):
        return _show(arguments)


def _show(arguments: argparse.Namespace) -> Path:
    from yolo_lite.config.load import check_overrides, load_dataset_config, load_hyp
    from yolo_lite.data.index import index_split
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.engine.seams import SEAMS
    from yolo_lite.report.pictures import write_picture
    from yolo_lite.tools.show import augmented_sheets

    check_overrides(arguments.set)
    check_range("--batches", arguments.batches, 1, 1000)
    data_file = find_data(arguments.data)
    hyp, data = load_hyp(arguments.hyp, arguments.set, SEAMS), load_dataset_config(data_file, arguments.set)
    size = arguments.imgsz or data.suggested.imgsz or 640
    check_range("--imgsz", size, 32, 8192)
    check_range("--seed", arguments.seed, 0, 2**63 - 1)
    index = index_split(data, data_file, "train", with_outlines=hyp.copy_paste > 0)
    print(f"train: {index.describe()}")
    sheets = list(augmented_sheets(index, hyp, size, arguments.seed, arguments.batches))
    folder = make_run_folder(arguments.project, arguments.name, exist_ok=False)
    for number, sheet in enumerate(sheets, 1):
        write_picture(folder / f"batch_{number}.png", sheet)
    last = f" to batch_{len(sheets)}.png" if len(sheets) > 1 else ""
    print(f"{folder}: batch_1.png{last}")
    return folder
