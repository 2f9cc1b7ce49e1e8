"""``yolo-lite check``: the dataset doctor."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from yolo_lite.cli.flags import add_fit_flags, fit_config


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite check``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite check",
        description="Read a whole dataset as training would, and say what is wrong with it. Nothing in it is changed. "
        "Exit status 1 where training would be harmed.",
    )
    add = parser.add_argument
    add_fit_flags(parser)
    add("--json", action="store_true", help="print the whole report as JSON")
    add("--fix-into", metavar="DIR", help="write a copy without what is wrong into a new folder outside the dataset")
    add("--project", default="runs/check", help="folder of reports (default: %(default)s)")
    add("--name", default="exp", help="folder of this report; a number is added if it is there (default: %(default)s)")
    add("--exist-ok", action="store_true", help="write into an existing folder")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the report and write it into a run folder; returns 1 where training would be harmed."""
    from yolo_lite.data.index import dataset_root
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.tools.anchors import model_anchors
    from yolo_lite.tools.convert import check_folder
    from yolo_lite.tools.doctor import diagnose, write_cleaned
    from yolo_lite.tools.doctor_report import make_report, report_text, write_report

    config = fit_config(arguments)
    if arguments.fix_into:
        check_folder(Path(arguments.fix_into), dataset_root(config.data, config.data_file))
    anchors = model_anchors(config.model)
    diagnosis = diagnose(config.data, config.data_file, config.longest)
    report = make_report(diagnosis, anchors, config.anchor_t, arguments.cfg)
    folder = make_run_folder(arguments.project, arguments.name, arguments.exist_ok)
    write_report(folder, report, diagnosis, anchors)
    written = f"{folder}: report.txt, report.json, dataset.png"
    print(json.dumps(report, indent=2) if arguments.json else f"{report_text(report)}\n\n{written}")
    if arguments.fix_into:
        copy = write_cleaned(diagnosis, Path(arguments.fix_into))
        print(f"a copy without what is wrong: {copy}", file=sys.stderr if arguments.json else sys.stdout)
    return int(report["severities"].get("error", 0) > 0)
