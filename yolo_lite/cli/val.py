"""``python val.py``, ``yolo-lite val``: validate a checkpoint."""

from __future__ import annotations

from typing import Any

from yolo_lite.cli.adopted import on_adopted_data
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import ValOptions


@on_adopted_data
def run(options: ValOptions, in_folder: bool = True) -> dict[str, Any]:
    """Validate a checkpoint and print the table; the content of metrics.json comes back.

    Args:
        in_folder: write metrics.json and images into a run folder.
    """
    from yolo_lite.deploy.exported import exported_subject, is_exported
    from yolo_lite.engine import evaluation_report
    from yolo_lite.engine.operating_points import judge
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.engine.validate import of_classes, prepare_validation, save_points, write_results

    if options.save_points and is_exported(options.weights):
        raise ConfigError(f"--save-points: expected a checkpoint, found {options.weights}; export keeps its points")
    if options.save_points and options.classes:
        raise ConfigError("--save-points: expected the points of all classes, found --classes")
    validation = prepare_validation(options, exported_subject(options) if is_exported(options.weights) else None)
    folder = make_run_folder(options.project, options.name, options.exist_ok, validation.inputs) if in_folder else None
    evaluation = validation()
    if options.classes:
        evaluation = of_classes(evaluation, options.classes)
    known = None if options.save_points else validation.points  # else they are found anew
    evaluation, judgement = judge(evaluation, options.split, known, options.precision, options.recall, options.conf)
    report = evaluation_report.report(evaluation, judgement)
    stages = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in report["ms_per_image_by_stage"].items())
    print(evaluation_report.table(evaluation, judgement))
    print(f"{evaluation_report.points(evaluation, judgement, options.split)}\nmilliseconds an image: {stages}")
    if folder:
        write_results(folder, evaluation, report, options, judgement.points)
        print(f"{folder / 'metrics.json'}, images beside it")
    if options.save_points:
        save_points(str(options.weights), judgement.points)
    return report
