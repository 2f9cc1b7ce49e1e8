"""What several commands share: flags, and the configuration that they and the files they name come to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import check_overrides, load_dataset_config, load_hyp, load_model_config, validate
from yolo_lite.config.schema import (
    AnyModelConfig,
    DatasetConfig,
    ModelConfig,
    RunConfig,
    TrainOptions,
)
from yolo_lite.config.yaml_file import Document

DEFAULT_DATA = "data/shapes.yaml"
DEFAULT_HYP = {"yolo": "cfg/hyp.yaml", "faster_rcnn": "cfg/hyp_faster_rcnn.yaml"}  # by family


def add_run_flags(parser: argparse.ArgumentParser) -> None:
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
        choices=("SGD", "AdamW"),
        help="default: the key in hyp.yaml; see the comment there",
    )
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override keys of hyp.yaml; model.KEY and data.KEY override the other two files")  # fmt: skip
    add("--no-figures", action="store_true", help="no curves, pictures and graph: they take seconds")
    add_plugin_flag(parser)


def add_fit_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the commands that look at a dataset as a model would see it."""
    add = parser.add_argument
    add("--data", default=DEFAULT_DATA, help="dataset YAML (default: the embedded shapes, %(default)s)")
    add("--cfg", default="cfg/yolo_s.yaml", help="model YAML, for its anchors (default: %(default)s)")
    add("--hyp", default="cfg/hyp.yaml", help="hyperparameter YAML, for anchor_t (default: %(default)s)")
    add("--imgsz", type=int, help="longest side in pixels (default: what the dataset YAML suggests, else 640)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override keys of hyp.yaml; model.KEY and data.KEY override the other two files")  # fmt: skip


class FitConfig(NamedTuple):
    """What the flags of ``add_fit_flags`` come to."""

    data: DatasetConfig
    data_file: str
    model: AnyModelConfig
    anchor_t: float
    longest: int  # side of a picture in pixels, as train.py would scale it


def fit_config(arguments: argparse.Namespace) -> FitConfig:
    """Read the files that the flags name.

    Raises:
        ConfigError: anything in them is unusable.
    """
    check_overrides(arguments.set)
    data_file = find_data(arguments.data)
    data = load_dataset_config(data_file, arguments.set)
    longest = _first_given(arguments.imgsz, data.suggested.imgsz, 640)
    check_range("--imgsz", longest, 32, 8192)
    from yolo_lite.engine.seams import SEAMS

    model = load_model_config(arguments.cfg, arguments.set, SEAMS)
    hyp = load_hyp(arguments.hyp, arguments.set, SEAMS)
    return FitConfig(data, data_file, model, hyp.anchor_t, longest)


def add_plugin_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py",
        help="a Python file of yours with blocks, losses, assigners or augmentations; may be repeated")  # fmt: skip


def _number_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def run_config(arguments: argparse.Namespace) -> RunConfig:
    """The resolved configuration of the flags and the files they name.

    Raises:
        ConfigError: anything in them is unusable; all problems at once.
    """
    from yolo_lite.engine.seams import SEAMS

    check_overrides(arguments.set)
    problems: list[str] = []

    def load(loader: Callable[..., Any], path: str) -> Any:
        try:
            return loader(path, arguments.set, SEAMS)
        except ConfigError as error:
            problems.append(str(error))

    data_file, model = find_data(arguments.data), load(load_model_config, arguments.cfg)
    hyp_file = arguments.hyp or DEFAULT_HYP[model.family if model else "yolo"]
    hyp, data = load(load_hyp, hyp_file), load(load_dataset_config, data_file)
    if hyp and data and isinstance(hyp.cls_weights, tuple) and len(hyp.cls_weights) != len(data.class_names):
        given = [f"--set {text}" for text in arguments.set if text.startswith("cls_weights=")]
        where, found = (given or [f"{hyp_file}: cls_weights"])[-1], len(hyp.cls_weights)
        problems.append(f"{where}: expected {len(data.class_names)} weights, one a class, found {found}")
    if model and data and (problem := _channels_problem(model, data)):
        problems.append(f"{arguments.cfg}: {problem}")
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
        "figures": not arguments.no_figures,
        "data": arguments.data,
        "plugin": absolute(arguments.plugin),
        "epochs": _first_given(arguments.epochs, suggested.epochs, 100),
        "batch_size": _first_given(arguments.batch_size, suggested.batch_size, 16),
        "imgsz": _first_given(arguments.imgsz, suggested.imgsz, 640),
        "workers": _first_given(arguments.workers, default_workers()),
    }
    words = {key: f"--{key.replace('_', '-')}" for key in flags}
    options = validate(TrainOptions, Document("train.py", flags, {}, words))
    channels = {"ch": data.channels} if isinstance(model, ModelConfig) else {}
    model = model.model_copy(update={"nc": len(data.class_names), **channels})
    return RunConfig(train=options, hyp=hyp, model=model, data=data, data_file=str(Path(data_file).resolve()))


def _channels_problem(model: AnyModelConfig, data: DatasetConfig) -> str | None:
    """Why a model cannot read the pictures of a dataset."""
    if isinstance(model, ModelConfig):
        is_given = "ch" in model.model_fields_set and model.ch != data.channels
        return f"ch: expected {data.channels}, the dataset's channels, found {model.ch}" if is_given else None
    return None if data.channels == 3 else f"Faster R-CNN reads 3 channels, the dataset has {data.channels}"


def absolute(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(Path(path).resolve()) for path in paths)


def find_data(path: str) -> str:
    """The default set is found from any folder: it is also looked for beside the package."""
    beside = Path(__file__).resolve().parents[2] / path
    return str(beside) if path == DEFAULT_DATA and not Path(path).exists() and beside.exists() else path


def default_workers() -> int:
    """One process a core that this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1), 8)  # torchrun's processes share them


def _first_given(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def check_range(flag: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag}: expected {low}..{high}, found {value}")
