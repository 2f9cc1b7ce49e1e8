"""What follows a run: how best.pt is to be used, found on val, and what it is worth, told by test."""

from __future__ import annotations

import json
from pathlib import Path

from yolo_lite.config.durable import write_text
from yolo_lite.config.errors import UserError
from yolo_lite.config.options import Split, ValOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.data.split import sources_of
from yolo_lite.engine import evaluation_report
from yolo_lite.engine.operating_points import judge
from yolo_lite.engine.validate import prepare_validation, save_points
from yolo_lite.report.drawing import write_image
from yolo_lite.report.evaluation import curves_image


def try_best(config: RunConfig, folder: Path, epoch: int) -> None:
    """Find best.pt's operating points on val, keep them in it, and try them on test where the dataset has one.

    What cannot be read is said: the run itself is finished.
    """
    splits: tuple[Split, ...] = ("val", "test") if sources_of(config.data, "test") else ("val",)
    for split in splits:
        try:
            _try_on(split, config, folder, epoch)
        except UserError as error:
            print(f"best.pt is not tried on {split}: {error}")


def _try_on(split: Split, config: RunConfig, folder: Path, epoch: int) -> None:
    train, best, path = config.train, folder / "weights" / "best.pt", folder / "metrics.json"
    validation = prepare_validation(ValOptions(weights=best, split=split, device=train.device, workers=train.workers))
    known = None if split == "val" else validation.points
    evaluation, judgement = judge(validation(), split, known, train.precision, train.recall)
    overall = evaluation_report.table(evaluation, judgement).splitlines()[:2]
    print("\n".join([f"best.pt on {split}:", *overall, evaluation_report.points(evaluation, judgement, split)]))
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics.setdefault("best", {"epoch": epoch})[split] = evaluation_report.report(evaluation, judgement)
    write_text(path, json.dumps({**metrics, "operating_points": judgement.points}, indent=2) + "\n")
    if split == "val":
        save_points(str(best), judgement.points)
        if train.figures:
            names, curves = evaluation.split.dataset.names, evaluation.scores.curves
            write_image(folder / "operating_points.png", curves_image(curves, names, judgement.points))
