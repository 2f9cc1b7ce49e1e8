"""Search hyperparameters with Optuna by short runs, and test the best on seeds that the search has not seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy import stats

from yolo_lite.config.durable import write_text
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import validate
from yolo_lite.config.regular import read_text
from yolo_lite.config.yaml_file import Document, read_yaml
from yolo_lite.engine.seams import SEAMS
from yolo_lite.report.results_csv import Row, results_rows
from yolo_lite.tools.compare import MASK_METRICS, METRICS, Run, check_same_run, compare, finish

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial
except ModuleNotFoundError:
    raise ConfigError("yolo-lite search needs Optuna: pip install optuna") from None

STARTUP_TRIALS = 5  # that must have come to their end before one is pruned
DIGITS = 4  # significant ones of a number that is tried
Space = dict[str, BaseDistribution]  # by keys of hyp.yaml


class Trial(NamedTuple):
    """A trial that has ended."""

    params: dict[str, Any]  # as Optuna has chosen them
    values: list[float]  # mAP50-95 after each epoch, of masks where the model has some
    state: str  # complete, pruned, or why it has failed


class Search(NamedTuple):
    """What a search goes by."""

    space: Space
    make_run: Callable[[str, Sequence[str], int], Run]  # from a name, key=value texts and a seed
    default: Run  # whose seed every trial has, and Optuna
    folder: Path

    def changes(self, params: Mapping[str, Any]) -> list[str]:
        """What parameters change in the default, as ``key=value``."""
        plain, texts = plain_hyp(self.default), []
        for key, value in params.items():
            if isinstance(one := self.space[key], FloatDistribution):
                value = min(max(float(f"{value:.{DIGITS}g}"), one.low), one.high)
            if value not in (plain[key], _text(plain[key])):
                texts.append(f"{key}={_text(value)}")
        return texts


def plain_hyp(run: Run) -> dict[str, Any]:
    return run.config.hyp.model_dump(mode="json")


def read_space(path: str) -> Space:
    """The distributions of a space.yaml; ConfigError for what hyp.yaml may not have."""
    document = read_yaml(path)
    if not document.data:
        raise ConfigError(f"{path}: expected keys of hyp.yaml, found none")
    return {key: _distribution(document, key, given) for key, given in document.data.items()}


def _distribution(document: Document, key: str, given: Any) -> BaseDistribution:
    place = f"{document.source}:{document.lines.get((key,), 1)}: {key}"
    field = Hyp.model_fields.get(key)
    kind = {int: IntDistribution, float: FloatDistribution}.get(type(field.default)) if field else FloatDistribution
    is_range = isinstance(given, dict) and {"low", "high"} <= given.keys() <= {"low", "high", "log", "step"}
    if is_range:
        steps = int if kind is IntDistribution else (int, float)
        is_range = bool(kind and isinstance(given.get("log", False), bool) and isinstance(given.get("step", 1), steps))
    if not is_range and not (isinstance(given, list) and len(given) > 1):
        expected = "{low: A, high: B}, of numbers, with log: true or step: S, or a list of two or more choices"
        raise ConfigError(f"{place}: expected {expected}, found {given!r}")
    values = (given["low"], given["high"]) if is_range else given
    read = [validate(Hyp, document._replace(data={key: value}), SEAMS) for value in values]
    if not kind or not is_range:  # as plain_hyp has them, where a 1 is 1.0: so the default is found among them
        return CategoricalDistribution([_text(one.model_dump(mode="json")[key]) for one in read])
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}") from None


def _text(value: Any) -> str:
    """A value as ``--set`` reads it: ``ciou``, ``0.5``, ``{"focal_eiou": {"gamma": 0.5}}``."""
    return value if isinstance(value, str) else json.dumps(value)


def search(plan: Search, num_trials: int) -> list[Trial]:
    """Carry out the trials; those that are done are read, and one that was interrupted resumes from its last.pt.

    What Optuna chooses is a pure function of the seed and of the trials before, which trials.json holds.

    Raises:
        ConfigError: the folder holds a search of another space, or runs of another configuration.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path, space = plan.folder / "trials.json", {key: str(one) for key, one in plan.space.items()}
    content = json.loads(read_text(path)) if path.exists() else {"space": space, "trials": []}
    if content["space"] != space:
        raise ConfigError(f"{path}: holds a search of {content['space']}, expected {space}; choose another --name")
    done = [Trial(*trial) for trial in content["trials"]]
    for number in range(max(num_trials, len(done))):
        asked = ask(plan, done) if number == len(done) else None
        params = asked.params if asked else done[number].params
        changes = plan.changes(params)
        print(f"trial {number}: {' '.join(changes) or 'the default'}: ", end="", flush=True)
        try:
            run = plan.make_run(f"trial{number:03}", changes, plan.default.seed)
        except ConfigError as error:  # keys that do not agree with each other
            trial = Trial(params, [], str(error))
        else:
            check_same_run(run)
            trial = _carried_out(run, asked) if asked else done[number]
        ended = {"complete": "", "pruned": f" after epoch {len(trial.values)}, below the median"}
        print(f"{trial.values[-1]:.4f}{ended[trial.state]}" if trial.state in ended else trial.state, flush=True)
        if asked:
            done.append(trial)
            write_text(path, json.dumps({"space": space, "trials": done}) + "\n")
    return done


def ask(plan: Search, done: Sequence[Trial]) -> optuna.Trial:
    """The trial after those that are done; the first is the default where the space holds it."""
    seed = int(np.random.SeedSequence([plan.default.seed, len(done)]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=seed)
    pruner = optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=plan.default.config.train.epochs // 4)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    for params, values, state in done:  # what has failed is as bad as what is pruned before its first epoch
        ended: dict[str, Any] = {"state": TrialState.PRUNED}
        if state == "complete":
            ended = {"state": TrialState.COMPLETE, "value": values[-1]}
        steps = dict(enumerate(values))
        study.add_trial(create_trial(params=params, distributions=plan.space, intermediate_values=steps, **ended))
    plain = plain_hyp(plan.default)
    default = {key: _held(one, plain[key]) for key, one in plan.space.items()}
    if not done and None not in default.values():
        study.enqueue_trial(default)
    return study.ask(plan.space)


def _held(one: Any, value: Any) -> Any:
    """A value as a distribution has it, None where it does not."""
    if isinstance(one, CategoricalDistribution):
        return _text(value) if _text(value) in one.choices else None
    is_on_grid = not one.step or round((value - one.low) / one.step, 6) % 1 == 0
    return value if one.low <= value <= one.high and is_on_grid else None


def _carried_out(run: Run, asked: optuna.Trial) -> Trial:
    """Train a trial, or the rest of it, to the last epoch or until its best is below the median of those before."""
    values, pruned, epochs = list[float](), [], run.config.train.epochs

    def is_pruned(rows: Sequence[Row]) -> bool:
        for row in rows[len(values) :]:
            values.append(row.get(MASK_METRICS[0], row[METRICS[0]]))
            asked.report(values[-1], len(values) - 1)
            if len(values) < epochs and asked.should_prune():
                pruned.append(len(values))
                break
        return bool(pruned)

    if problem := finish(run, is_pruned).problem:
        return Trial(asked.params, [], problem)
    state = "pruned" if is_pruned(results_rows(read_text(run.folder / "results.csv"))) else "complete"
    return Trial(asked.params, values, state) if np.isfinite(values).all() else Trial(asked.params, [], "mAP is NaN")


def confirm(plan: Search, done: Sequence[Trial], num_seeds: int) -> str:
    """Train the best trial and the default with fresh seeds; returns what that shows, and writes winner.yaml."""
    complete = [number for number, trial in enumerate(done) if trial.state == "complete"]
    if not complete:
        raise ConfigError(f"{plan.folder}: none of {len(done)} trials came to its end")
    best = max(complete, key=lambda number: done[number].values[-1])
    changes, value = plan.changes(done[best].params), done[best].values[-1]
    print(f"best: trial {best}, mAP50-95 {value:.4f}: {' '.join(changes) or 'the default'}", flush=True)
    if not changes:
        return f"no trial of {len(done)} came above the default: nothing is gained"
    seeds = range(plan.default.seed + 1, plan.default.seed + 1 + num_seeds)
    variants = {"default": [], f"trial{best:03}": changes}
    runs = [plan.make_run(name, texts, seed) for seed in seeds for name, texts in variants.items()]
    table = compare(runs, plan.folder)
    content = json.loads(read_text(plan.folder / "comparison.json"))
    default, found = content.get("mask_variants", content["variants"])
    told = f"on the fresh seeds {seeds[0]} to {seeds[-1]} trial {best} {verdict(default, found, len(done))}"
    hyp = yaml.safe_dump(plain_hyp(runs[1]), sort_keys=False, allow_unicode=True)
    write_text(plan.folder / "winner.yaml", "".join(f"# {line}\n" for line in told.splitlines()) + hyp)
    return f"{table}\n\n{told}"


def verdict(default: Mapping[str, Any], found: Mapping[str, Any], num_trials: int) -> str:
    """What a row of a comparison says of the winner, and what chance alone would have done."""
    gain, half_width, spread = found["difference"], found["half_width"], default["map50_95"][1]
    words = {
        "better": "beats the default beyond noise",
        "worse": "is worse than the default, beyond noise: keep the default",
        "noise": "differs from the default by no more than noise: no gain is shown",
    }
    told = words.get(found["verdict"], f"shows nothing: {found['verdict']}")
    if half_width is not None:
        told += f", {gain:+.4f} ± {half_width:.4f} (95 %)"
    if spread:
        luck = f"of {num_trials} trials no better than it the best is expected {expected_luck(num_trials) * spread:.4f}"
        told += f"\nnoise: the default varies by {spread:.4f} (standard deviation) from seed to seed; {luck} above it"
    return told


def expected_luck(count: int) -> float:
    """The expected largest of so many normal numbers, in standard deviations, to 2 %.

    Chen and Tyler 1999, "Accurate approximation to the extreme order statistics of Gaussian samples".
    """
    return max(float(stats.norm.ppf(0.5264 ** (1 / count))), 0.0)
