"""``python train.py``, ``yolo-lite train``: train a detector, or go on with a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_lite.cli.flags import absolute, add_run_flags, run_config
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import validate
from yolo_lite.config.schema import RunConfig, TrainOptions
from yolo_lite.config.yaml_file import Document

if TYPE_CHECKING:
    from yolo_lite.engine.train import Result

HINT = "; go on with --resume"  # where it was interrupted


def make_parser() -> argparse.ArgumentParser:
    """The flags of train.py."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train a detector.")
    add = parser.add_argument
    add_run_flags(parser)
    add("--project", default="runs/train", help="folder of runs (default: %(default)s)")
    add("--name", default="exp", help="folder of this run; a number is added if it is there (default: %(default)s)")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    add("--resume", nargs="?", const="", help="go on with a run: its folder or last.pt, or the latest below --project")
    add("--save-period", metavar="N", help="write last.pt every N epochs, 0.25 for four times an epoch, or 10min for "
        "every ten minutes and after each epoch (default: 1)")  # fmt: skip
    return parser


def run(arguments: argparse.Namespace) -> Result:
    """Train from flags, or go on with a run."""
    from yolo_lite.engine.processes import joined
    from yolo_lite.engine.train import train
    from yolo_lite.plugins import loaded

    with loaded(arguments.plugin), joined() as processes:
        if processes.launchers:
            arguments = processes.from_first(lambda: _restarted(arguments, processes.launchers))
        # The first process reads a checkpoint for all: others may run where its file is not.
        resume, config = processes.from_first(lambda: _resumed(arguments))
        if arguments.batch_size == "auto" and config is None:
            arguments = processes.from_first(lambda: _with_measured_batch_size(arguments, processes.size))
        return train(config or run_config(arguments), resume, processes)


def _with_measured_batch_size(arguments: argparse.Namespace, num_processes: int) -> argparse.Namespace:
    from yolo_lite.engine.batch_size import largest_batch_size

    one = run_config(argparse.Namespace(**{**vars(arguments), "batch_size": 1}))
    batch_size = largest_batch_size(one) * num_processes
    print(f"--batch-size auto: {batch_size}")
    return argparse.Namespace(**{**vars(arguments), "batch_size": batch_size})


def _restarted(arguments: argparse.Namespace, launchers: Sequence[str]) -> argparse.Namespace:
    """Where torchrun starts its command anew, the run goes on in its folder, from its last.pt if there is one yet."""
    from yolo_lite.config.load import load_run_config
    from yolo_lite.config.yaml_file import read_yaml
    from yolo_lite.engine.run_folder import folder_of
    from yolo_lite.engine.seams import SEAMS

    folder = folder_of(arguments.project, launchers)
    if folder is None or arguments.resume is not None or not (folder / "config.yaml").exists():
        return arguments
    stored = load_run_config(read_yaml(folder / "config.yaml").data, str(folder / "config.yaml"), SEAMS)
    if arguments.batch_size == "auto":
        arguments = argparse.Namespace(**{**vars(arguments), "batch_size": stored.train.batch_size})
    if run_config(arguments) != stored:  # another run of the same torchrun, by a script that trains several
        return arguments
    if not (folder / "weights" / "last.pt").exists():
        return argparse.Namespace(**{**vars(arguments), "name": folder.name, "exist_ok": True})
    kept = {name: getattr(arguments, name) for name in ("device", "workers", "plugin", "project")}
    print(f"restarted by torchrun: {folder} goes on")
    return argparse.Namespace(**{**vars(make_parser().parse_args(["--resume", str(folder)])), **kept})


def _resumed(arguments: argparse.Namespace) -> tuple[Any, RunConfig | None]:
    """The run to go on with and its configuration, or neither."""
    from yolo_lite.engine.checkpoint import check_resumable, config_of, load_checkpoint
    from yolo_lite.engine.run_folder import latest_checkpoint
    from yolo_lite.engine.state import Resume, is_finished

    if arguments.resume is None:
        return None, None
    path = Path(arguments.resume) if arguments.resume else latest_checkpoint(arguments.project)
    path = path / "weights" / "last.pt" if path.is_dir() else path
    content = load_checkpoint(path)
    check_resumable(content, path)
    config = _with_changes(config_of(content, path), content["epoch"], arguments)
    if is_finished(content, config):
        if content["epoch"] < config.train.epochs:
            raise ConfigError(
                f"--resume {path}: this run has ended for lack of progress (key patience) after {content['epoch']} "
                f"epochs; a new run can start from it with --weights {path}"
            )
        of = f"{content['epoch']} of {config.train.epochs} epochs"
        raise ConfigError(f"--resume {path}: this run is finished, {of}; --epochs N with a larger N goes on")
    return Resume(path.resolve().parent.parent, content), config


def _with_changes(config: RunConfig, done: int, arguments: argparse.Namespace) -> RunConfig:
    """A resumed run keeps its configuration; its length, where it is computed and how it is loaded may change.

    With another number of epochs the rest of the new schedule is followed from where the run stands: the learning rate
    is what it would be there in a run that was given so many epochs from the start. There is no second warm-up.

    So may the path of a plugin: it is the one that the user has given now.

    Raises:
        ConfigError: another flag was given too.
    """
    free = ("resume", "project", "device", "workers", "plugin", "epochs", "save_period")
    parser = make_parser()
    given = [name for name, value in vars(arguments).items() if name not in free and value != parser.get_default(name)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--resume goes on with the run's own configuration: leave out {names}, or start a new run")
    options = config.train
    wanted = {name: getattr(arguments, name) for name in ("device", "workers", "epochs", "save_period")}
    changes = {name: value for name, value in wanted.items() if value not in (None, "")}
    if arguments.plugin:
        changes["plugin"] = absolute(arguments.plugin)
    if (epochs := changes.get("epochs", options.epochs)) != options.epochs:
        if epochs <= done:
            raise ConfigError(f"--epochs {epochs}: expected more than the {done} epochs that are done")
        changes["first_epochs"] = options.first_epochs or options.epochs
        print(f"--epochs {epochs} instead of {options.epochs}: the rest of that schedule, without a second warm-up")
    words = {name: f"--{name.replace('_', '-')}" for name in changes}
    changed = validate(TrainOptions, Document("train.py", {**options.model_dump(), **changes}, {}, words))
    return config.model_copy(update={"train": changed})
