"""``python val.py``, ``yolo-lite val``: validate a checkpoint."""

from __future__ import annotations

from typing import Any

from yolo_lite.cli.adopted import on_adopted_data
from yolo_lite.config.options import ValOptions


@on_adopted_data
def run(options: ValOptions, in_folder: bool = True) -> dict[str, Any]:
    """Validate a checkpoint and print the table; the content of metrics.json comes back.

    Args:
        in_folder: write metrics.json and images into a run folder.
    """
    from yolo_lite.deploy.exported import exported_subject, is_exported
    from yolo_lite.engine import evaluation_report
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.engine.validate import of_classes, prepare_validation, write_results

    validation = prepare_validation(options, exported_subject(options) if is_exported(options.weights) else None)
    folder = make_run_folder(options.project, options.name, options.exist_ok, validation.inputs) if in_folder else None
    evaluation = validation()
    if options.classes:
        evaluation = of_classes(evaluation, options.classes)
    report = evaluation_report.report(evaluation)
    stages = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in report["ms_per_image_by_stage"].items())
    print(f"{evaluation_report.table(evaluation)}\nmilliseconds an image: {stages}")
    if folder:
        write_results(folder, evaluation, report, options)
        print(f"{folder / 'metrics.json'}, images beside it")
    return report
