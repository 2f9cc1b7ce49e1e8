"""``python train.py``, ``yolo-lite train``: train a detector, or go on with a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_lite.cli.adopted import ADOPTED, adopted_into_run, in_run_folder, is_export
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import load_run_config, validate
from yolo_lite.config.options import TrainOptions
from yolo_lite.config.run import RunConfig, RunSection
from yolo_lite.config.yaml_file import Document, read_yaml

if TYPE_CHECKING:
    from yolo_lite.engine.state import Resume
    from yolo_lite.engine.train import Result

HINT = "; go on with --resume"  # where it was interrupted
# What may be given beside --resume.
FREE = ("resume", "data", "project", "device", "workers", "plugin", "epochs", "save_period", "changed_data")
POINTS = ("precision", "recall")  # of its end


def run(options: TrainOptions) -> Result:
    """Train a new detector, or go on with a run."""
    from yolo_lite.engine.best import try_best
    from yolo_lite.engine.processes import joined
    from yolo_lite.engine.resolve import run_config
    from yolo_lite.engine.train import train

    with joined() as processes:
        if processes.launchers:
            options = processes.from_first(lambda: _restarted(options, processes.launchers))
        options = processes.from_first(lambda: adopted_into_run(options))
        # The first process reads a checkpoint for all: others may run where its file is not.
        resume, config = processes.from_first(lambda: _resumed(options, bool(processes.launchers)))
        if not config and options.batch_size == "auto":
            options = processes.from_first(lambda: _with_measured_batch_size(options, processes.size))
        config = config or run_config(options)
        if options.download and not options.weights:
            from yolo_lite.tools.download_weights import download_weights, names_to_fetch

            processes.from_first(lambda: download_weights(names_to_fetch(config.model)))
        result = train(config, resume, processes)
        if processes.is_first:
            try_best(config, result.folder, result.best_epoch)
        return result


def _with_measured_batch_size(options: TrainOptions, num_processes: int) -> TrainOptions:
    from yolo_lite.engine.batch_size import largest_batch_size
    from yolo_lite.engine.resolve import run_config

    batch_size = largest_batch_size(run_config(options.model_copy(update={"batch_size": 1}))) * num_processes
    print(f"--batch-size auto: {batch_size}")
    return options.model_copy(update={"batch_size": batch_size})


def _restarted(options: TrainOptions, launchers: Sequence[str]) -> TrainOptions:
    """Where torchrun starts its command anew, the run goes on in its folder, from its last.pt if there is one yet."""
    from yolo_lite.engine.resolve import run_config
    from yolo_lite.engine.run_folder import folder_of
    from yolo_lite.engine.seams import SEAMS

    folder = folder_of(str(options.project), launchers)
    if folder is None or options.resume or not (file := folder / "config.yaml").exists():
        return options
    given = options
    if is_export(options.data) and (folder / ADOPTED).exists():
        options = in_run_folder(options, folder)
    stored = load_run_config(read_yaml(file).data, str(file), SEAMS)
    if options.batch_size == "auto":
        options = options.model_copy(update={"batch_size": stored.train.batch_size})
    if run_config(options) != stored:  # another run of the same torchrun, by a script that trains several
        return given
    if not (folder / "weights" / "last.pt").exists():
        return options.model_copy(update={"name": folder.name, "exist_ok": True})
    kept = options.model_fields_set & {"device", "workers", "plugin", "project"}
    print(f"restarted by torchrun: {folder} goes on")
    return TrainOptions(resume=folder, **{name: getattr(options, name) for name in kept})


def _resumed(options: TrainOptions, by_torchrun: bool) -> tuple[Resume | None, RunConfig | None]:
    """The run to go on with and its configuration, or neither."""
    from yolo_lite.engine.checkpoint import check_resumable, config_of, load_checkpoint
    from yolo_lite.engine.record import with_rows
    from yolo_lite.engine.run_folder import RESTART_PATIENCE, latest_checkpoint, owned
    from yolo_lite.engine.same_data import check_yaml, with_data_at
    from yolo_lite.engine.state import Resume, is_finished

    if not options.resume:
        if options.changed_data:
            raise ConfigError("--changed-data: expected beside --resume")
        return None, None
    path = latest_checkpoint(str(options.project)) if options.resume is True else Path(options.resume)
    path = path / "weights" / "last.pt" if path.is_dir() else path
    if path.is_file() and path.resolve().parent.name == "weights":
        # From here on nobody writes another last.pt.
        owned(path.resolve().parent.parent, RESTART_PATIENCE if by_torchrun else 0.0)
    content = load_checkpoint(path)
    check_resumable(content, path)
    config, data_moved = config_of(content, path), "data" in options.model_fields_set
    if data_moved:
        config = with_data_at(config, str(options.data), content)
    else:
        check_yaml(config, content, options.changed_data)
    config = _with_changes(config, content["epoch"], options)
    done, epochs = content["epoch"], config.train.epochs
    if is_finished(done, content["best_epoch"], config):
        if done < epochs:
            ended = f"this run has ended for lack of progress (key patience) after {done} epochs"
            raise ConfigError(f"--resume {path}: {ended}; a new run can start from it with --weights {path}")
        finished = f"this run is finished, {done} of {epochs} epochs"
        raise ConfigError(f"--resume {path}: {finished}; --epochs N with a larger N goes on")
    if path.resolve().parent.name != "weights":
        raise ConfigError(f"--resume {path}: expected the weights/last.pt of a run folder, into which the run writes")
    folder = path.resolve().parent.parent
    return Resume(folder, with_rows(content, folder), data_moved, options.changed_data), config


def _with_changes(config: RunConfig, done: int, options: TrainOptions) -> RunConfig:
    """A resumed run keeps its configuration; its length, where it is computed, how it is loaded and plugins may change.

    With another number of epochs the rest of the new schedule is followed from where the run stands: the learning rate
    is what it would be there in a run that was given so many epochs from the start. There is no second warm-up.

    Raises:
        ConfigError: another option was given too.
    """
    from yolo_lite.engine.resolve import absolute

    fields, given = TrainOptions.model_fields, options.model_fields_set
    others = [
        name for name in fields if name in given - {*FREE, *POINTS} and getattr(options, name) != fields[name].default
    ]
    if others:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ConfigError(f"--resume goes on with the run's own configuration: leave out {names}, or start a new run")
    old = config.train
    wanted = {"device", "workers", "epochs", "save_period", *POINTS} & given
    changes: dict[str, Any] = {name: getattr(options, name) for name in wanted if getattr(options, name) != ""}
    if options.plugin:
        changes["plugin"] = absolute(options)
    if (epochs := changes.get("epochs", old.epochs)) != old.epochs:
        if epochs <= done:
            raise ConfigError(f"--epochs {epochs}: expected more than the {done} epochs that are done")
        changes["first_epochs"] = old.first_epochs or old.epochs
        print(f"--epochs {epochs} instead of {old.epochs}: the rest of that schedule, without a second warm-up")
    words = {name: f"--{name.replace('_', '-')}" for name in changes}
    changed = validate(RunSection, Document("train.py", {**old.model_dump(), **changes}, {}, words))
    return config.model_copy(update={"train": changed})
