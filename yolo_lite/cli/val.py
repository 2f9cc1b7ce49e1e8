"""``python val.py``, ``yolo-lite val``: validate a checkpoint."""

from __future__ import annotations

import argparse
import json
from typing import Any

from yolo_lite.cli.flags import add_plugin_flag, check_range, default_workers, find_data
from yolo_lite.config.errors import ConfigError


def make_parser() -> argparse.ArgumentParser:
    """The flags of val.py."""
    parser = argparse.ArgumentParser(prog="val.py", description="Validate a checkpoint.")
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint, for example runs/train/exp/weights/best.pt, or an exported file")
    add("--data", help="dataset YAML (default: the one it was trained with)")
    add("--split", default="val", choices=("train", "val", "test"), help="default: %(default)s")
    add("--imgsz", type=int, help="longest side in pixels (default: as trained)")
    add("--batch-size", type=int, help="default: as trained; the result does not depend on it")
    add("--device", default="", help="cpu, 0, cuda:1, mps (default: a GPU if there is one)")
    add("--workers", type=int, help="processes that load data (default: one a core, at most 8)")
    add("--conf", type=float, default=0.001, help="lowest confidence (default: %(default)s)")
    add("--iou", type=float, default=0.6, help="overlap above which NMS drops a box (default: %(default)s)")
    add("--max-det", type=int, default=300, help="most detections of an image (default: %(default)s)")
    add("--classes", nargs="+", action="extend", default=[], metavar="NAME", help="report these classes alone")
    add("--save-json", action="store_true",
        help="write predictions.json, COCO's results, and ground_truth.json, with boxes in pixels")  # fmt: skip
    add("--save-txt", action="store_true",
        help="write labels/<picture>.txt, rows of class cx cy w h confidence in fractions of the picture")  # fmt: skip
    add_plugin_flag(parser)
    add("--project", default="runs/val", help="folder of runs (default: %(default)s)")
    add("--name", default="exp", help="folder of this run; a number is added if it is there (default: %(default)s)")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    return parser


def run(arguments: argparse.Namespace, in_folder: bool = True) -> dict[str, Any]:
    """Validate a checkpoint and print the table; the content of metrics.json comes back.

    Args:
        in_folder: write metrics.json and pictures into a run folder.
    """
    from yolo_lite.deploy.exported import exported_subject, is_exported
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.engine.validate import prepare_validation, validate_checkpoint
    from yolo_lite.plugins import loaded

    _check_val_flags(arguments)
    if arguments.workers is None:
        arguments.workers = default_workers()
    if arguments.data:
        arguments.data = find_data(arguments.data)
    with loaded(arguments.plugin):
        prepared = prepare_validation(
            arguments, exported_subject(arguments) if is_exported(arguments.weights) else None
        )
        folder = make_run_folder(arguments.project, arguments.name, arguments.exist_ok) if in_folder else None
        validation = validate_checkpoint(prepared)
    if arguments.classes:
        validation = validation.of_classes(arguments.classes)
    report = validation.report
    stages = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in report["ms_per_image_by_stage"].items())
    print(f"{validation.table}\nmilliseconds an image: {stages}")
    if folder:
        (folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        validation.write_pictures(folder)
        if arguments.save_json:
            validation.write_json(folder)
        if arguments.save_txt:
            validation.write_txt(folder)
        print(f"{folder / 'metrics.json'}, pictures beside it")
    return report


def _check_val_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for the first number out of range."""
    check_range("--conf", arguments.conf, 0, 1)
    check_range("--iou", arguments.iou, 0, 1)
    for flag in ("batch_size", "imgsz", "max_det", "workers"):
        value, least = getattr(arguments, flag), 0 if flag == "workers" else 1
        if value is not None and value < least:
            raise ConfigError(f"--{flag.replace('_', '-')}: expected {least} or more, found {value}")
