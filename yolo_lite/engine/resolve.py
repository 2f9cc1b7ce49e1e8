"""From the options of a command and the files they name to the configuration that they come to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.find import find_yaml
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config, load_hyp, load_model_config, validate
from yolo_lite.config.model import AnyModelConfig, ModelConfig
from yolo_lite.config.options import FitOptions, TrainOptions
from yolo_lite.config.run import RunConfig, RunSection
from yolo_lite.config.yaml_file import Document
from yolo_lite.engine.seams import SEAMS

DEFAULT_HYP = {"yolo": "cfg/hyp.yaml", "faster_rcnn": "cfg/hyp_faster_rcnn.yaml"}  # by family
T = TypeVar("T")


def run_config(options: TrainOptions) -> RunConfig:
    """The resolved configuration of a run.

    Raises:
        ConfigError: an option or a file that it names is unusable; all problems at once.
    """
    overrides = tuple(options.set)
    problems: list[str] = []

    def attempt(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigError as error:
            problems.append(str(error))
            return None

    model = attempt(lambda: load_model_config(options.cfg, overrides, SEAMS))
    hyp_file = options.hyp or DEFAULT_HYP[model.family if model else "yolo"]
    hyp = attempt(lambda: load_hyp(hyp_file, overrides, SEAMS))
    data = attempt(lambda: load_dataset_config(options.data, overrides, SEAMS))
    if hyp and data and (problem := _weights_problem(hyp, data, overrides, str(hyp_file))):
        problems.append(problem)
    if model and data and (problem := _channels_problem(model, data)):
        problems.append(f"{options.cfg}: {problem}")
    if problems or not (model and hyp and data):
        raise ConfigError("\n".join(problems))
    if options.optimizer:
        hyp = hyp.model_copy(update={"optimizer": options.optimizer})
    channels = {"ch": data.channels} if isinstance(model, ModelConfig) else {}
    model = model.model_copy(update={"nc": len(data.class_names), **channels})
    train = _run_section(options, data, str(hyp_file))
    data_file = str(find_yaml(options.data, "data").resolve())
    return RunConfig(train=train, hyp=hyp, model=model, data=data, data_file=data_file)


def _run_section(options: TrainOptions, data: DatasetConfig, hyp_file: str) -> RunSection:
    """What is given comes before what the dataset suggests, and that before the defaults."""
    own = {name: getattr(options, name) for name in RunSection.model_fields if hasattr(options, name)}
    given = {name: value for name, value in own.items() if value is not None}
    suggested = data.suggested.model_dump(exclude_none=True)
    files = {"hyp": hyp_file, "plugin": absolute(options)}
    plain = {**suggested, **given, **files, "figures": not options.no_figures}
    flags = {name: f"--{name.replace('_', '-')}" for name in plain}
    return validate(RunSection, Document("train.py", plain, {}, flags))


def absolute(options: TrainOptions) -> tuple[str, ...]:
    """The absolute paths of the plugins."""
    return tuple(str(Path(path).resolve()) for path in cast("tuple[str, ...]", options.plugin))


def _weights_problem(hyp: Hyp, data: DatasetConfig, overrides: tuple[str, ...], hyp_file: str) -> str | None:
    """Why the weights of the classes do not fit the dataset."""
    expected = len(data.class_names)
    if not isinstance(hyp.cls_weights, tuple) or len(hyp.cls_weights) == expected:
        return None
    given = [f"--set {text}" for text in overrides if text.startswith("cls_weights=")]
    where = (given or [f"{hyp_file}: cls_weights"])[-1]
    return f"{where}: expected {expected} weights, one a class, found {len(hyp.cls_weights)}"


def _channels_problem(model: AnyModelConfig, data: DatasetConfig) -> str | None:
    """Why a model cannot read the images of a dataset."""
    if isinstance(model, ModelConfig):
        is_given = "ch" in model.model_fields_set and model.ch != data.channels
        return f"ch: expected {data.channels}, the dataset's channels, found {model.ch}" if is_given else None
    return None if data.channels == 3 else f"Faster R-CNN reads 3 channels, the dataset has {data.channels}"


class FitConfig(NamedTuple):
    """A dataset, and the model that shall fit it."""

    data: DatasetConfig
    data_file: str
    model: AnyModelConfig
    anchor_t: float
    longest: int  # side of an image in pixels, as train.py would scale it


def fit_config(options: FitOptions) -> FitConfig:
    """Read the files that the options name.

    Raises:
        ConfigError: anything in them is unusable.
    """
    overrides = tuple(options.set)
    data_file = str(find_yaml(options.data, "data"))
    data = load_dataset_config(data_file, overrides, SEAMS)
    model, hyp = load_model_config(options.cfg, overrides, SEAMS), load_hyp(options.hyp, overrides, SEAMS)
    return FitConfig(data, data_file, model, hyp.anchor_t, image_size(options.imgsz, data))


def image_size(given: int | None, data: DatasetConfig) -> int:
    """Longest side of an image in pixels: what is given, else what the dataset suggests, else the default."""
    size = given or data.suggested.imgsz
    plain = {"imgsz": size} if size else {}
    return validate(RunSection, Document("imgsz", plain, {}, {"imgsz": "--imgsz"})).imgsz
