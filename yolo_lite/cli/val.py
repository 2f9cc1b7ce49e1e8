"""``python val.py``, ``yolo-lite val``: validate a checkpoint."""

from __future__ import annotations

import json
from typing import Any

from yolo_lite.config.options import ValOptions


def run(options: ValOptions, in_folder: bool = True) -> dict[str, Any]:
    """Validate a checkpoint and print the table; the content of metrics.json comes back.

    Args:
        in_folder: write metrics.json and images into a run folder.
    """
    from yolo_lite.deploy.exported import exported_subject, is_exported
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.engine.validate import prepare_validation, validate_checkpoint

    prepared = prepare_validation(options, exported_subject(options) if is_exported(options.weights) else None)
    folder = make_run_folder(options.project, options.name, options.exist_ok) if in_folder else None
    validation = validate_checkpoint(prepared)
    if options.classes:
        validation = validation.of_classes(options.classes)
    report = validation.report
    stages = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in report["ms_per_image_by_stage"].items())
    print(f"{validation.table}\nmilliseconds an image: {stages}")
    if folder:
        (folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        validation.write_images(folder)
        if options.save_json:
            validation.write_json(folder)
        if options.save_txt:
            validation.write_txt(folder)
        print(f"{folder / 'metrics.json'}, images beside it")
    return report
