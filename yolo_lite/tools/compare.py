"""Train variants of a configuration with the same seeds and test whether they differ by more than noise."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from yolo_lite.config.durable import write_text
from yolo_lite.config.errors import ConfigError, DivergedError
from yolo_lite.config.load import load_run_config
from yolo_lite.config.run import RunConfig
from yolo_lite.config.yaml_file import read_yaml
from yolo_lite.engine.checkpoint import check_resumable, load_checkpoint
from yolo_lite.engine.record import with_rows
from yolo_lite.engine.run_folder import owned
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.state import Resume, is_finished
from yolo_lite.engine.stop import Rule, never
from yolo_lite.engine.train import train
from yolo_lite.report.comparison import VariantRow, comparison_image, comparison_table
from yolo_lite.report.drawing import write_image

METRICS = ("metrics/mAP50-95", "metrics/mAP75", "metrics/mAP50")
MASK_METRICS = tuple(key.replace("metrics/", "metrics/mask_") for key in METRICS)
CONFIDENCE = 0.95  # with which the intervals of all variants hold at the same time
# May differ between a run and its continuation; of files it is what they say that may not.
FREE_FLAGS = {"hyp.loggers", *(f"train.{flag}" for flag in ("device", "workers", "exist_ok", "cfg", "hyp", "data"))}


class Run(NamedTuple):
    """One variant with one seed."""

    variant: str
    seed: int
    config: RunConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.train.project).expanduser() / self.config.train.name


class Outcome(NamedTuple):
    """The result of a finished run; ``metrics`` is empty if its loss was no longer finite."""

    # METRICS, and those of masks where there are some, of the last epoch: the best would flatter the noisier variant.
    metrics: dict[str, float]
    seconds: float | None  # of all epochs; None where the run was interrupted
    problem: str | None


def variant_folder(variant: str) -> str:
    """Turn ``"box_loss=siou box=0.1"`` into the name of a folder."""
    return re.sub(r"[^\w=.,+-]+", "_", variant)


def compare(runs: Sequence[Run], folder: Path) -> str:
    """Train every run that is not finished yet; the table of all is written after each seed and returned at the end.

    A comparison goes on where it was stopped: finished runs are read, a broken one resumes from its last.pt.

    Args:
        runs: all variants with one seed, then all with the next, so that an interrupted comparison can be read.

    Raises:
        ConfigError: a run folder holds a run of another configuration.
    """
    table = ""
    outcomes: dict[str, list[Outcome]] = {run.variant: [] for run in runs}
    for number, (run, outcome) in enumerate(zip(runs, trained(runs), strict=True), 1):
        outcomes[run.variant].append(outcome)
        if number % len(outcomes) == 0:  # every variant has been trained with this seed
            table = _write(folder, [first.seed for first in runs[: number : len(outcomes)]], outcomes)
    return table


def trained(runs: Sequence[Run]) -> Iterator[Outcome]:
    """Train run after run; finished ones are read. ConfigError before the first if one has a folder of another run."""
    for run in runs:
        check_same_run(run)
    for number, run in enumerate(runs, 1):
        print(f"run {number}/{len(runs)}: {run.variant}, seed {run.seed}: ", end="", flush=True)
        outcome = finish(run)
        print(outcome.problem or f"mAP50-95 {outcome.metrics[METRICS[0]]:.4f}", flush=True)
        yield outcome


def _write(folder: Path, seeds: list[int], outcomes: dict[str, list[Outcome]]) -> str:
    """Write table, JSON and image of the results so far; returns the table."""
    rows = summarise(outcomes)
    table, panels = comparison_table(rows), {"": rows}
    if masks := {name: own for name, own in outcomes.items() if any(MASK_METRICS[0] in one.metrics for one in own)}:
        panels = {"boxes": rows, "masks": summarise(masks, MASK_METRICS)}
        table = "\n\n".join(f"{title}:\n\n{comparison_table(own)}" for title, own in panels.items())
    content = {
        "seeds": seeds,
        "confidence": CONFIDENCE,
        "variants": _plain(rows),
        **({"mask_variants": _plain(panels["masks"])} if "masks" in panels else {}),
        "runs": {variant: [outcome._asdict() for outcome in own] for variant, own in outcomes.items()},
    }
    content = json.loads(json.dumps(content), parse_constant=lambda _: None)  # JSON knows no NaN
    (folder / "comparison.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "comparison.md").write_text(table + "\n", encoding="utf-8")
    write_image(folder / "comparison.png", comparison_image(panels))
    return table


def _plain(rows: Sequence[VariantRow]) -> list[dict[str, Any]]:
    return [{**row._asdict(), "verdict": row.verdict} for row in rows]


def finish(run: Run, until: Rule = never) -> Outcome:
    """Train a run, or the rest of it, and keep its outcome; ``check_same_run`` has seen its folder."""
    path = run.folder / "outcome.json"
    if not path.exists():
        text = json.dumps(_train(run, until)._asdict()) + "\n"
        write_text(path, text)  # never half written
    return Outcome(**json.loads(path.read_text(encoding="utf-8")))


def check_same_run(run: Run) -> None:
    """Raise ConfigError for a folder whose run was started with another configuration."""
    path = run.folder / "config.yaml"
    if not path.exists():
        return
    stored, wanted = _flat(load_run_config(read_yaml(path).data, str(path), SEAMS)), _flat(run.config)
    for key in {**wanted, **stored}:
        found, expected = stored.get(key), wanted.get(key)
        if found != expected:
            other = f"{run.folder}: holds a run with another {key}: found {found!r}, expected {expected!r}"
            raise ConfigError(f"{other}; choose another name or --project")


def _flat(config: RunConfig) -> dict[str, Any]:
    tree = config.plain()
    parts = {f"{part}.{key}": value for part in ("train", "hyp", "model", "data") for key, value in tree[part].items()}
    drawn = config.data.generate is not None  # by its keys, wherever its YAML lies
    place = {} if drawn else {"data_file": tree["data_file"]}
    return {key: value for key, value in parts.items() if key not in FREE_FLAGS} | place


def _train(run: Run, until: Rule) -> Outcome:
    """Train a run, or the rest of it; its output goes to log.txt in its folder."""
    run.folder.mkdir(parents=True, exist_ok=True)
    owned(run.folder)
    checkpoint = run.folder / "weights" / "last.pt"
    resume = None
    if checkpoint.exists():
        check_resumable(content := load_checkpoint(checkpoint), checkpoint)
        resume = Resume(run.folder, with_rows(content, run.folder))
    done = resume.checkpoint if resume else {}
    if done and (is_finished(done["epoch"], done["best_epoch"], run.config) or until(done["rows"])):
        metrics, seconds = done["metrics"], None
    else:
        with open(run.folder / "log.txt", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            try:
                result = train(run.config, resume, until=until)
            except DivergedError as error:  # this variant cannot be trained: the others can
                return Outcome({}, None, str(error))
        metrics, seconds = result.metrics, None if resume else sum(result.seconds)
    return Outcome({key: metrics[key] for key in (*METRICS, *MASK_METRICS) if key in metrics}, seconds, None)


def summarise(outcomes: dict[str, list[Outcome]], keys: Sequence[str] = METRICS) -> list[VariantRow]:
    """Make one row a variant: mean and standard deviation, and the paired difference to the first variant.

    A difference is more than noise if the interval of Student's t for paired samples excludes 0. The intervals are
    wide enough for all of them to hold at the same time with 95 % (Bonferroni): otherwise one of twenty equal variants
    would pass as better or worse.
    """
    confidence, rows = 1 - (1 - CONFIDENCE) / max(len(outcomes) - 1, 1), list[VariantRow]()
    for variant, own in outcomes.items():
        values = [[outcome.metrics.get(key, math.nan) for outcome in own] for key in keys]
        map50_95, map75, map50 = map(mean_and_deviation, values)
        difference, half_width = paired_difference(values[0], rows[0].values, confidence) if rows else (None, None)
        times = [outcome.seconds for outcome in own if outcome.seconds is not None]
        seconds = float(np.mean(times)) if times else None
        rows.append(VariantRow(variant, values[0], map50_95, map75, map50, difference, half_width, seconds))
    return rows


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean and the sample standard deviation, None for a single value; NaN gives NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(own: Sequence[float], others: Sequence[float], confidence: float) -> tuple[float, float | None]:
    """Compute the mean difference of pairs and half the width of its t interval, None for a single pair."""
    differences = np.subtract(own, others)
    if len(differences) == 1:
        return float(differences[0]), None
    # Not by ttest_rel, which divides by the deviation and warns where all differences are the same.
    quantile = stats.t.ppf((1 + confidence) / 2, df=len(differences) - 1)
    return float(differences.mean()), float(quantile * stats.sem(differences))
