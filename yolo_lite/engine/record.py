"""What a run leaves behind while it goes on: results.csv, what its loggers take, images, lines in the terminal."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from yolo_lite.config.bounds import printable
from yolo_lite.config.durable import write_text
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.regular import read_regular, read_text
from yolo_lite.config.run import RunConfig
from yolo_lite.engine import evaluation_report, sheets
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.state import State, is_finished
from yolo_lite.report.drawing import write_image
from yolo_lite.report.loggers import LOGGERS, Logger
from yolo_lite.report.results_csv import Row, results_image, results_rows, results_text
from yolo_lite.structures import Batch, Compute

FIGURES_OF_A_RUN = 8  # how often the images of an evaluation are drawn
AP_SHOWN = ("mAP50", "mAP50-95")  # in the line of an epoch
EPOCHS_BETWEEN_FIGURES = 5  # at least: they take seconds
FLAGS = ("cfg", "data", "weights", "epochs", "batch_size", "imgsz", "seed")  # that change a result


def loggers_of(hyp: Hyp) -> list[Logger]:
    """The loggers that a run names; ConfigError where the package of one is not installed."""
    loggers = []
    for choice in hyp.loggers:
        try:
            loggers.append(LOGGERS[choice.name](**choice.parameters))
        except ModuleNotFoundError as error:
            raise ConfigError(f"loggers: {choice.name} needs {error.name}: pip install {error.name}") from None
    return loggers


class Record(contextlib.AbstractContextManager["Record"]):
    """The record of a run in ``folder``; that of the epochs done, whose rows are given, is made whole again."""

    def __init__(self, folder: Path, config: RunConfig, rows: Sequence[Row], loggers: Sequence[Logger]) -> None:
        self.folder, self.config, self.loggers, self.is_finished = folder, config, loggers, False
        self.assignments: Callable[[int], None] | None = None  # draws those after so many epochs
        plain = config.plain()
        write_text(folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        if rows:
            keep_other_table(folder / "results.csv", table := results_text(rows))
            write_text(folder / "results.csv", table)
        else:  # of a run that was here before
            (folder / "results.csv").unlink(missing_ok=True)
        values = {key: getattr(config.train, key) for key in FLAGS} | plain["hyp"]
        values = {key: one if isinstance(one, (int, float)) else printable(str(one)) for key, one in values.items()}
        for logger in loggers:
            logger.start(folder, values, rows)

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:  # where one fails the others end too
            for logger in self.loggers:
                stack.callback(logger.end, self.is_finished)

    def graph(self, model: Any) -> None:
        """The operations of a network; the size of the image changes none of them."""
        side = 2 * model.stride
        for logger in self.loggers:
            try:
                logger.graph(model.to_trace(), torch.zeros(1, self.config.data.channels, side, side))
            except RuntimeError as error:  # a plugin's block may do what cannot be traced
                print(f"there is no graph of this model: {str(error).strip().splitlines()[0]}")

    def batches(self, batches: Iterator[Batch], state: State, compute: Compute) -> Iterator[Batch]:
        """Pass batches on; the first one of a run is also drawn, and the first one here shows who learns what."""
        if state.step == 0:
            self.graph(state.model)
        first = next(batches)
        self.assignments = functools.partial(self._assignments, state, sheets.few_images(first), compute)
        if state.step == 0:
            self._image("train/batch", "train_batch.jpg", sheets.training_sheet(first, self.config.data.class_names), 0)
            self.assignments(0)
        yield first
        yield from batches

    def _assignments(self, state: State, batch: Batch, compute: Compute, number: int) -> None:
        """Draw which slots learn which objects of some images; what goes by no predictions is always the same."""
        if number and not state.criterion.needs_predictions:
            return
        cells = sheets.assigned_cells(state.model, state.criterion, batch, compute)
        if cells and len(cells.image):
            sheet = sheets.assignment_sheet(batch, cells, self.config.data.class_names)
            self._image("train/assigned_anchors", "assigned_anchors.jpg", sheet, number)

    def epoch(self, rows: Sequence[Row], seconds: Mapping[str, float], evaluation: Evaluation) -> None:
        """Record the last of the rows (``epoch`` counted from 1), and now and then the images of its evaluation."""
        number = int(rows[-1]["epoch"])
        # Without seconds: a resumed run would differ from one that was not stopped.
        write_text(self.folder / "results.csv", results_text(rows))
        for logger in self.loggers:
            logger.row({**rows[-1], **seconds})
        epochs = self.config.train.epochs
        every = max(epochs // FIGURES_OF_A_RUN, EPOCHS_BETWEEN_FIGURES)
        is_due = number % every == 0 and number < epochs  # those of the last epoch come with the end of the run
        if is_due and self.config.train.figures:
            self._figures(evaluation, number)

    def finish(self, state: State, evaluation: Evaluation) -> None:
        """The last epoch: images, metrics.json, the per-class table."""
        number = state.epoch
        if number < self.config.train.epochs and is_finished(number, state.best_epoch, self.config):
            print(f"stopped: no progress for {self.config.hyp.patience} epochs (key patience)")
        if self.config.train.figures:
            self._figures(evaluation, number)
            self._image("figures/results", "results.png", results_image(state.rows), number)
        text = json.dumps(evaluation_report.report(evaluation), indent=2)
        write_text(self.folder / "metrics.json", text + "\n")
        print(f"last epoch:\n{evaluation_report.table(evaluation)}")
        self.is_finished = True

    def _figures(self, evaluation: Evaluation, number: int) -> None:
        if self.assignments is not None:
            self.assignments(number)
        for name, image_rgb in sheets.figures(evaluation):
            self._image(f"figures/{Path(name).stem}", name, image_rgb, number)
        curves = evaluation.scores.curves
        present = {name: row for row, name in enumerate(evaluation.split.dataset.names) if curves.objects[row]}
        for logger in self.loggers:
            logger.pr_curves(present, curves, number)

    def _image(self, tag: str, name: str, image_rgb: np.ndarray, step: int) -> None:
        for logger in self.loggers:
            logger.image(tag, image_rgb, step)
        write_image(self.folder / name, image_rgb)


def keep_other_table(path: Path, table: str) -> None:
    """Keep a results.csv that somebody has saved with other columns or encoding; OSError if it is no regular file."""
    header = table.partition("\n")[0].encode()
    if not path.exists() or not (found := read_regular(path)).strip(b"\0") or found.split(b"\n")[0].rstrip() == header:
        return
    print(f"{path}: its columns are not those of the run; kept as {set_aside(path)}, and written again")


def set_aside(path: Path) -> str:
    """Rename a results.csv, over no other file; returns its new name."""
    names = (f"results_before{number}.csv" for number in itertools.chain(("",), itertools.count(2)))
    kept = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    path.replace(kept)
    return kept.name


def with_rows(checkpoint: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content of a run's last.pt, with the rows of the epochs done; an older one left them to results.csv.

    Raises:
        CheckpointError: rows of epochs in between are missing.
    """
    done, path = checkpoint["epoch"], folder / "results.csv"
    kept = checkpoint.get("rows")
    try:
        rows = [*kept] if kept is not None else [one for one in results_rows(read_text(path)) if one["epoch"] <= done]
    except (OSError, ValueError, KeyError):
        rows = []
    found = [row["epoch"] for row in rows]
    if found == list(range(done - len(rows) + 1, done + 1)) and (rows or kept is not None or not done):
        return {**checkpoint, "rows": rows}
    if kept is not None:
        raise CheckpointError(f"--resume {folder}: damaged: expected rows of epochs up to {done}, found {found}")
    kept = f"kept as {set_aside(path)}, begun anew" if path.exists() else "begun anew"
    print(f"{path}: expected whole rows of epochs 1 to {done}, found {found}; {kept}")
    return {**checkpoint, "rows": []}


def closing_line(folder: Path, state: State, save: Callable[[str, dict[str, Any]], None]) -> str:
    """Where the best weights are; where best.pt is gone or broken it is saved again if the last epoch was the best."""
    path = folder / "weights" / "best.pt"
    best = f"best was epoch {state.best_epoch}"
    try:
        found = load_checkpoint(path)["epoch"]
        problem = "" if found == state.best_epoch else f"{path}: holds epoch {found}"
    except CheckpointError as error:
        problem = str(error)
    if problem and state.best_epoch == state.epoch:
        save("best.pt", state.averaged())
        return f"{best}: {path}, written again ({problem})"
    lost = f", whose weights are lost: {problem}; those of epoch {state.epoch} are in {path.with_name('last.pt')}"
    return best + (lost if problem else f": {path}")


def say(row: Mapping[str, float], seconds: float, epochs: int) -> None:
    """An epoch in one line of the terminal."""
    losses = "  ".join(f"{key[6:-5]} {row[key]:.4f}" for key in row if key.startswith("train/") and "_loss" in key)
    kinds = [kind for kind in ("", "mask_") if f"metrics/{kind}mAP50" in row]
    metrics = "  ".join(f"{kind}{name} {row[f'metrics/{kind}{name}']:.4f}" for kind in kinds for name in AP_SHOWN)
    print(f"epoch {int(row['epoch']):>3}/{epochs}  {losses}  {metrics}  {seconds:.1f} s", flush=True)
