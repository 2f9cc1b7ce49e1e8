"""``yolo-lite check``: the dataset doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from yolo_lite.cli.adopted import adopted_into_run
from yolo_lite.config.options import CheckOptions
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.engine.resolve import shared_config
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.tools.anchors import model_anchors
from yolo_lite.tools.convert import check_new_folder
from yolo_lite.tools.doctor import diagnose, write_cleaned
from yolo_lite.tools.doctor_report import make_report, report_text, write_report

FILES = {"cfg", "hyp", "set", "plugin"}  # of the user's


def run(options: CheckOptions) -> int:
    """Print the report and write it into a run folder; returns 1 where training would be harmed."""
    options = adopted_into_run(options)
    # What yolo_lite brings needs no check of its names, for which everything would be imported, torch too.
    config = shared_config(options, None if FILES & options.model_fields_set else {})
    inputs = dataset_inputs(config.data, config.data_file)
    if options.fix_into:
        check_new_folder(options.fix_into, config.data, config.data_file, "--fix-into")
    anchors = model_anchors(config.model)
    diagnosis = diagnose(config.data, config.data_file, config.train.imgsz, config.hyp.tile)
    report = make_report(diagnosis, anchors, config.hyp.anchor_t, str(options.cfg))
    folder = make_run_folder(options.project, options.name, options.exist_ok, inputs)
    write_report(folder, report, diagnosis, anchors)
    written = f"{folder}: report.txt, report.json, dataset.png"
    print(json.dumps(report, indent=2) if options.as_json else f"{report_text(report)}\n\n{written}")
    if options.fix_into:
        copy = write_cleaned(diagnosis, Path(options.fix_into))
        print(f"a copy without what is wrong: {copy}", file=sys.stderr if options.as_json else sys.stdout)
    return int(report["severities"].get("error", 0) > 0)
