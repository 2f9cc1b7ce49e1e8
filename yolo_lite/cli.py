"""The command line: ``yolo-lite train|val|compare|losses``; train.py and val.py are the same doors."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_lite.config.errors import ConfigError, StoppedError, UserError
from yolo_lite.config.load import check_overrides, load_dataset_config, load_hyp, load_model_config, validate
from yolo_lite.config.schema import OPTIMIZER_NAMES, RunConfig, TrainOptions
from yolo_lite.config.yaml_file import Document

if TYPE_CHECKING:
    from yolo_lite.engine.train import Result

DEFAULT_DATA = "data/shapes.yaml"
DEFAULT_HYP = {"yolo": "cfg/hyp.yaml", "faster_rcnn": "cfg/hyp_faster_rcnn.yaml"}  # by family


def train_parser() -> argparse.ArgumentParser:
    """The flags of train.py."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train a detector.")
    add = parser.add_argument
    _add_run_flags(parser)
    add("--project", default="runs/train", help="folder of runs (default: %(default)s)")
    add("--name", default="exp", help="folder of this run; a number is added if it is there (default: %(default)s)")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    add("--resume", nargs="?", const="", help="go on with a run: its folder or last.pt, or the latest below --project")
    add("--save-period", metavar="N", help="write last.pt every N epochs, 0.25 for four times an epoch, or 10min for "
        "every ten minutes and after each epoch (default: 1)")  # fmt: skip
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite compare``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite compare",
        description="Train variants with the same seeds and tell differences from noise. The same command goes on "
        "where it was stopped.",
    )
    add = parser.add_argument
    _add_run_flags(parser)
    add("--vary", metavar="KEY=A,B,...", help="a key of hyp.yaml, or model.KEY, data.KEY, and its values")
    add("--variant", nargs="+", action="append", default=[], metavar="KEY=VALUE",
        help="one variant, several keys at once; once for each variant")  # fmt: skip
    add("--seeds", type=int, default=3, help="seeds of each variant, from --seed on (default: %(default)s)")
    add("--project", default="runs/compare", help="folder of comparisons (default: %(default)s)")
    add("--name", default="exp", help="folder of this comparison (default: %(default)s)")
    parser.set_defaults(save_period=None)
    return parser


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is trained."""
    add = parser.add_argument
    add("--cfg", default="cfg/yolo_s.yaml", help="model YAML (default: %(default)s)")
    add("--hyp", help="hyperparameter YAML (default: cfg/hyp.yaml; for Faster R-CNN cfg/hyp_faster_rcnn.yaml)")
    add("--data", default=DEFAULT_DATA, help="dataset YAML (default: the embedded shapes, %(default)s)")
    add("--weights", help="checkpoint to start from (default: from scratch)")
    add("--epochs", type=int, help="default: what the dataset YAML suggests, else 100")
    add("--batch-size", type=_number_or_auto, metavar="N",
        help="over all processes; auto: the largest power of two that fits on the GPU (default: what the dataset YAML "
        "suggests, else 16)")  # fmt: skip
    add("--imgsz", type=int, help="longest side in pixels (default: what the dataset YAML suggests, else 640)")
    add("--device", default="", help="cpu, 0, cuda:1, mps (default: a GPU if there is one)")
    add("--workers", type=int, help="processes that load data (default: one a core, at most 8)")
    add("--seed", type=int, default=0, help="one seed, one run (default: %(default)s)")
    add(
        "--optimizer",
        choices=OPTIMIZER_NAMES,
        help="default: the key in hyp.yaml; see the comment there",
    )
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override keys of hyp.yaml; model.KEY and data.KEY override the other two files")  # fmt: skip
    _add_plugin_flag(parser)


def _add_plugin_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py",
        help="a Python file of yours with BLOCKS, BOX_LOSSES, CLS_LOSSES or ASSIGNERS; may be repeated")  # fmt: skip


def val_parser() -> argparse.ArgumentParser:
    """The flags of val.py."""
    parser = argparse.ArgumentParser(prog="val.py", description="Validate a checkpoint.")
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint, for example runs/train/exp/weights/best.pt")
    add("--data", help="dataset YAML (default: the one it was trained with)")
    add("--split", default="val", choices=("train", "val", "test"), help="default: %(default)s")
    add("--imgsz", type=int, help="longest side in pixels (default: as trained)")
    add("--batch-size", type=int, help="default: as trained; the result does not depend on it")
    add("--device", default="", help="cpu, 0, cuda:1, mps (default: a GPU if there is one)")
    add("--workers", type=int, help="processes that load data (default: one a core, at most 8)")
    add("--conf", type=float, default=0.001, help="lowest confidence (default: %(default)s)")
    add("--iou", type=float, default=0.6, help="overlap above which NMS drops a box (default: %(default)s)")
    add("--max-det", type=int, default=300, help="most detections of an image (default: %(default)s)")
    _add_plugin_flag(parser)
    add("--project", default="runs/val", help="folder of runs (default: %(default)s)")
    add("--name", default="exp", help="folder of this run; a number is added if it is there (default: %(default)s)")
    add("--exist-ok", action="store_true", help="write into an existing run folder")
    return parser


def _number_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def run_train(arguments: argparse.Namespace) -> Result:
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

    folder = folder_of(arguments.project, launchers)
    if folder is None or arguments.resume is not None or not (folder / "config.yaml").exists():
        return arguments
    stored = load_run_config(read_yaml(folder / "config.yaml").data, str(folder / "config.yaml"))
    if arguments.batch_size == "auto":
        arguments = argparse.Namespace(**{**vars(arguments), "batch_size": stored.train.batch_size})
    if run_config(arguments) != stored:  # another run of the same torchrun, by a script that trains several
        return arguments
    if not (folder / "weights" / "last.pt").exists():
        return argparse.Namespace(**{**vars(arguments), "name": folder.name, "exist_ok": True})
    kept = {name: getattr(arguments, name) for name in ("device", "workers", "plugin", "project")}
    print(f"restarted by torchrun: {folder} goes on")
    return argparse.Namespace(**{**vars(train_parser().parse_args(["--resume", str(folder)])), **kept})


def _resumed(arguments: argparse.Namespace) -> tuple[Any, RunConfig | None]:
    """The run to go on with and its configuration, or neither."""
    from yolo_lite.engine.checkpoint import config_of, load_checkpoint
    from yolo_lite.engine.run_folder import latest_checkpoint
    from yolo_lite.engine.state import Resume, is_finished

    if arguments.resume is None:
        return None, None
    path = Path(arguments.resume) if arguments.resume else latest_checkpoint(arguments.project)
    path = path / "weights" / "last.pt" if path.is_dir() else path
    content = load_checkpoint(path)
    if "optimizer" not in content:
        raise ConfigError(f"--resume {path}: holds no optimizer state, expected the last.pt of a run")
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
    parser = train_parser()
    given = [name for name, value in vars(arguments).items() if name not in free and value != parser.get_default(name)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--resume goes on with the run's own configuration: leave out {names}, or start a new run")
    options = config.train
    wanted = {name: getattr(arguments, name) for name in ("device", "workers", "epochs", "save_period")}
    changes = {name: value for name, value in wanted.items() if value not in (None, "")}
    if arguments.plugin:
        changes["plugin"] = _absolute(arguments.plugin)
    if (epochs := changes.get("epochs", options.epochs)) != options.epochs:
        if epochs <= done:
            raise ConfigError(f"--epochs {epochs}: expected more than the {done} epochs that are done")
        changes["first_epochs"] = options.first_epochs or options.epochs
        print(f"--epochs {epochs} instead of {options.epochs}: the rest of that schedule, without a second warm-up")
    words = {name: f"--{name.replace('_', '-')}" for name in changes}
    changed = validate(TrainOptions, Document("train.py", {**options.model_dump(), **changes}, {}, words))
    return config.model_copy(update={"train": changed})


def _absolute(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(Path(path).resolve()) for path in paths)


def run_config(arguments: argparse.Namespace) -> RunConfig:
    """The resolved configuration of the flags and the files they name.

    Raises:
        ConfigError: anything in them is unusable; all problems at once.
    """
    check_overrides(arguments.set)
    problems: list[str] = []

    def load(loader: Callable[..., Any], path: str) -> Any:
        try:
            return loader(path, arguments.set)
        except ConfigError as error:
            problems.append(str(error))

    data_file, model = _find_data(arguments.data), load(load_model_config, arguments.cfg)
    hyp_file = arguments.hyp or DEFAULT_HYP[model.family if model else "yolo"]
    hyp, data = load(load_hyp, hyp_file), load(load_dataset_config, data_file)
    if hyp and data and isinstance(hyp.cls_weights, tuple) and len(hyp.cls_weights) != len(data.names):
        given = [f"--set {text}" for text in arguments.set if text.startswith("cls_weights=")]
        where, found = (given or [f"{hyp_file}: cls_weights"])[-1], len(hyp.cls_weights)
        problems.append(f"{where}: expected {len(data.names)} weights, one a class, found {found}")
    if problems:
        raise ConfigError("\n".join(problems))
    if arguments.optimizer:
        hyp = hyp.model_copy(update={"optimizer": arguments.optimizer})
    suggested = data.suggested
    flags = {
        **{key: getattr(arguments, key) for key in ("cfg", "weights", "device", "seed")},
        "hyp": hyp_file,
        **{key: getattr(arguments, key) for key in ("project", "name", "exist_ok")},
        "save_period": _first_given(arguments.save_period, "1"),
        "data": arguments.data,
        "plugin": _absolute(arguments.plugin),
        "epochs": _first_given(arguments.epochs, suggested.epochs, 100),
        "batch_size": _first_given(arguments.batch_size, suggested.batch_size, 16),
        "imgsz": _first_given(arguments.imgsz, suggested.imgsz, 640),
        "workers": _first_given(arguments.workers, default_workers()),
    }
    words = {key: f"--{key.replace('_', '-')}" for key in flags}
    options = validate(TrainOptions, Document("train.py", flags, {}, words))
    model = model.model_copy(update={"nc": len(data.names)})
    return RunConfig(train=options, hyp=hyp, model=model, data=data, data_file=str(Path(data_file).resolve()))


def run_compare(arguments: argparse.Namespace) -> None:
    """Train every variant with every seed, print the table."""
    from yolo_lite.plugins import loaded

    with loaded(arguments.plugin):
        _compare(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    from yolo_lite.engine.compare import compare, make_runs, variant_folder

    variants = _variants(arguments)
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds: expected 1 or more, found {arguments.seeds}")
    folder = Path(arguments.project) / arguments.name
    configs = []
    for texts in variants:
        words = {"set": [*arguments.set, *texts], "exist_ok": True}
        own = {**vars(arguments), **words, "project": str(folder / variant_folder(" ".join(texts)))}
        seeds = range(arguments.seed, arguments.seed + arguments.seeds)
        flags = [argparse.Namespace(**{**own, "seed": seed, "name": f"seed{seed}"}) for seed in seeds]
        configs.append((" ".join(texts), [run_config(seed_flags) for seed_flags in flags]))
    print(compare(list(make_runs(configs)), folder))
    print(f"{folder}: comparison.md, comparison.json, comparison.png")


def _variants(arguments: argparse.Namespace) -> list[list[str]]:
    """The ``key=value`` texts of each variant.

    Raises:
        ConfigError: neither or both of --vary and --variant, or fewer than two variants, or two of one folder.
    """
    from yolo_lite.engine.compare import variant_folder

    if bool(arguments.vary) == bool(arguments.variant):
        raise ConfigError("expected either --vary KEY=A,B,... or --variant KEY=VALUE ..., once for each variant")
    variants = arguments.variant
    if arguments.vary:
        key, equals, values = arguments.vary.partition("=")
        if not equals:
            raise ConfigError(f"--vary {arguments.vary}: expected KEY=A,B,...")
        variants = [[f"{key}={value}"] for value in _split_at_commas(values)]
    if len(variants) < 2 or len({variant_folder(" ".join(texts)) for texts in variants}) < len(variants):
        raise ConfigError(f"expected two or more variants, all different, found {[' '.join(v) for v in variants]}")
    return variants


def _split_at_commas(text: str) -> list[str]:
    """Values between commas; commas inside brackets belong to a value."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def run_losses(_: argparse.Namespace) -> None:
    """Every loss with its formula, paper and parameters."""
    from yolo_lite.loss.box import BOX_LOSSES, CONTEXT
    from yolo_lite.loss.classification import CLS_LOSSES
    from yolo_lite.loss.mask import MASK_LOSSES

    print("key box_loss (and rpn_box_loss), BOX_LOSSES")
    _print_losses(BOX_LOSSES, CONTEXT, "{name}_{key}: {value}")
    print("\nkeys obj_loss and cls_loss, CLS_LOSSES")
    _print_losses(CLS_LOSSES, (), "{name}_{key}: {value}")
    print("\nsegmentation masks, MASK_LOSSES")
    _print_losses(MASK_LOSSES, ("ignore_index", "reduction"), "{key}={value}")


def _print_losses(losses: Mapping[str, Callable[..., Any]], context: Sequence[str], form: str) -> None:
    from yolo_lite.loss.parameters import parameters_of

    for name, loss in losses.items():
        parameters = parameters_of(loss, context)
        keys = ", ".join(form.format(name=name, key=key, value=value) for key, value in parameters.items())
        print(f"  {name:<11} {(loss.__doc__ or '').splitlines()[0]}{f'  [{keys}]' if keys else ''}")


def run_val(arguments: argparse.Namespace, in_folder: bool = True) -> dict[str, Any]:
    """Validate a checkpoint and print the table; the content of metrics.json comes back.

    Args:
        in_folder: write metrics.json and a picture into a run folder.
    """
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.engine.validate import prepare_validation, validate_checkpoint
    from yolo_lite.plugins import loaded

    _check_val_flags(arguments)
    if arguments.workers is None:
        arguments.workers = default_workers()
    if arguments.data:
        arguments.data = _find_data(arguments.data)
    with loaded(arguments.plugin):
        prepared = prepare_validation(arguments)
        folder = make_run_folder(arguments.project, arguments.name, arguments.exist_ok) if in_folder else None
        validation = validate_checkpoint(prepared)
    report, place = validation.report, ""
    if folder:
        (folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        validation.write_picture(folder / "val_predictions.png")
        place = f"; {folder / 'metrics.json'}"
    print(f"{validation.table}\n{report['ms_per_image']:.1f} ms an image{place}")
    return report


def _check_val_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for the first number out of range."""
    _check_range("--conf", arguments.conf, 0, 1)
    _check_range("--iou", arguments.iou, 0, 1)
    for flag in ("batch_size", "imgsz", "max_det", "workers"):
        value, least = getattr(arguments, flag), 0 if flag == "workers" else 1
        if value is not None and value < least:
            raise ConfigError(f"--{flag.replace('_', '-')}: expected {least} or more, found {value}")


def default_workers() -> int:
    """One process a core that this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1), 8)  # torchrun's processes share them


def _first_given(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _find_data(path: str) -> str:
    """The default set is found from any folder: it is also looked for beside the package."""
    beside = Path(__file__).resolve().parent.parent / path
    return str(beside) if path == DEFAULT_DATA and not Path(path).exists() and beside.exists() else path


def _check_range(flag: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag}: expected {low}..{high}, found {value}")


def _run(action: Callable[[argparse.Namespace], object], arguments: argparse.Namespace, hint: str = "") -> int:
    """Run a command; what a user can mend ends with its message and exit status 2."""
    try:
        action(arguments)
    except UserError as error:
        # An error from a loading process arrives with that process's traceback in front of its own words.
        message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        print("\n".join(f"error: {line}" for line in message.splitlines()), file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder without the right to write
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def train_main(argv: Sequence[str] | None = None) -> int:
    """``python train.py``."""
    return _run(run_train, train_parser().parse_args(argv), "; go on with --resume")


def val_main(argv: Sequence[str] | None = None) -> int:
    """``python val.py``."""
    return _run(run_val, val_parser().parse_args(argv))


def compare_main(argv: Sequence[str] | None = None) -> int:
    """``yolo-lite compare``."""
    return _run(run_compare, compare_parser().parse_args(argv), "; the same command goes on")


def losses_main(argv: Sequence[str] | None = None) -> int:
    """``yolo-lite losses``."""
    parser = argparse.ArgumentParser(prog="yolo-lite losses", description="List every loss.")
    return _run(run_losses, parser.parse_args(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """``yolo-lite train|val|compare|losses ...``."""
    commands = {"train": train_main, "val": val_main, "compare": compare_main, "losses": losses_main}
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in commands:
        print(f"usage: yolo-lite {{{','.join(commands)}}} ...  (yolo-lite train --help)", file=sys.stderr)
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    return commands[words[0]](words[1:])


def entry() -> None:
    """The console script."""
    sys.exit(main())
