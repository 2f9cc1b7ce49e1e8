"""The last chapter of a run: how best.pt is to be used, found on val, and what it is worth, told by test."""

from __future__ import annotations

import functools
import json
from typing import Any

from yolo_lite.config.durable import write_text
from yolo_lite.config.errors import CheckpointError, StoppedError, UserError
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.split import sources_of
from yolo_lite.data.store import ImageStore
from yolo_lite.data.unreadable import check_index
from yolo_lite.engine import evaluation_report
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.evaluate import Evaluation, Split, evaluate, prepare_split, rounded_up
from yolo_lite.engine.operating_points import Points, judge
from yolo_lite.engine.prepare import TrainingRun
from yolo_lite.engine.record import closing_line
from yolo_lite.engine.stop import StopRequest
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.drawing import write_image
from yolo_lite.report.evaluation import curves_image


def close_run(run: TrainingRun, last: Evaluation, stop: StopRequest) -> None:
    """Record the last epoch; find best.pt's operating points on val, keep them in it, and try them on test.

    Raises:
        StoppedError: a signal came; the run itself is finished.
    """
    if run.record is not None:
        run.record.finish(run.state.rows, last)
        print(closing_line(run.folder, run.state, run.save))
    content = run.setup.processes.from_first(lambda: _best(run))
    if content is None:
        return
    try:
        val = last if content["epoch"] == run.state.epoch else _evaluated(run, content, run.val, stop)
        points = _on_val(run, content, val)
        if test := _test_split(run):
            _say(run, "test", _evaluated(run, content, test, stop), points)
    except StoppedError as stopped:
        raise stopped.at(" while best.pt was tried; the run is finished, val.py tries it too") from stopped


def _best(run: TrainingRun) -> dict[str, Any] | None:
    """The content of best.pt; None where it is lost, which has been said."""
    try:
        content = load_checkpoint(run.folder / "weights" / "best.pt")
    except CheckpointError:
        return None
    return content if content["epoch"] == run.state.best_epoch else None


def _evaluated(run: TrainingRun, content: dict[str, Any], split: Split, stop: StopRequest) -> Evaluation:
    """best.pt on a split, in the place of the weights of the last epoch, which are no longer needed."""
    averaged, processes = run.state.average.module, run.setup.processes
    averaged.load_state_dict(content["ema"])
    options, check = DetectOptions(max_detections=split.limits.per_image), stop.check if processes.size == 1 else None
    return evaluate(averaged, split, None, run.setup.compute, options, processes, check)


def _on_val(run: TrainingRun, content: dict[str, Any], val: Evaluation) -> Points | None:
    """Find the operating points and keep them, in the first process; None in the others."""
    if run.record is None:
        return None
    points = _say(run, "val", val, None)
    run.save("best.pt", {**content, "operating_points": points})
    if run.config.train.figures:
        image = curves_image(val.scores.curves, val.split.dataset.names, points)
        write_image(run.folder / "operating_points.png", image)
    return points


def _say(run: TrainingRun, name: str, evaluation: Evaluation, known: Points | None) -> Points | None:
    """Print what best.pt comes to on a split, and add it to metrics.json; the points come back."""
    if run.record is None:
        return None
    options, path = run.config.train, run.folder / "metrics.json"
    evaluation, judgement = judge(evaluation, name, known, (options.precision, options.recall))
    table = evaluation_report.table(evaluation, judgement).splitlines()[:2]
    points = evaluation_report.points(evaluation, judgement, name, with_classes=False)
    print("\n".join([f"best.pt on {name}:", *table, points]))
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics.setdefault("best", {"epoch": run.state.best_epoch})[name] = evaluation_report.report(evaluation, judgement)
    write_text(path, json.dumps({**metrics, "operating_points": judgement.points}, indent=2) + "\n")
    return judgement.points


def _test_split(run: TrainingRun) -> Split | None:
    """The split test, where the dataset has one that can be read."""
    config, setup, model = run.config, run.setup, run.state.model
    if not sources_of(config.data, "test"):
        return None

    def read() -> DatasetIndex:
        index = index_split(config.data, config.data_file, "test", setup.has_masks)
        check_index(index, config.data_file, "test")
        return index

    try:
        index = setup.processes.from_first(read)
    except UserError as error:
        if run.record is not None:
            print(f"test: {error}; best.pt is not tried on it")
        return None
    store = ImageStore(index, rounded_up(config.train.imgsz, model.stride), "off", shared=False)
    canvas, options = functools.partial(canvas_size, stride=model.stride), config.train
    return prepare_split(store, canvas, options.batch_size, options.workers, setup.compute, setup.processes)
