"""From the options of a command and the files they name to the configuration that they come to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.find import find_yaml
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_hyp, load_model_config, validate
from yolo_lite.config.model import AnyModelConfig, ModelConfig
from yolo_lite.config.options import DEFAULT_DATA, Options, TrainOptions
from yolo_lite.config.run import RunConfig, RunSection
from yolo_lite.config.seams import Seams
from yolo_lite.config.yaml_file import Document
from yolo_lite.data.names import load_dataset

DEFAULT_HYP = {"yolo": "cfg/hyp.yaml", "faster_rcnn": "cfg/hyp_faster_rcnn.yaml"}  # by family
DATA_OF_MASKS = "data/shapes_holes.yaml"
T = TypeVar("T")


def run_config(options: TrainOptions, seams: Seams | None = None) -> RunConfig:
    """The resolved configuration of a run.

    Args:
        seams: the dicts that names in its files are checked against; empty: none is, and torch is not imported.

    Raises:
        ConfigError: an option or a file that it names is unusable, all problems at once; or the files do not fit.
    """
    chosen = (f"optimizer={options.optimizer}",) if options.optimizer else ()
    overrides = (*options.set, *chosen)
    problems, seams = list[str](), _all_seams() if seams is None else seams

    def attempt(load: Callable[..., T], file: Any) -> T | None:
        try:
            return load(file, overrides, seams)
        except ConfigError as error:
            problems.append(str(error))
            return None

    model = attempt(load_model_config, options.cfg)
    hyp_file = str(options.hyp or DEFAULT_HYP[model.family if model else "yolo"])
    data_yaml = str(options.data or _brought_data(model))
    hyp, data = attempt(load_hyp, hyp_file), attempt(load_dataset, data_yaml)
    if not (model and hyp and data):
        raise ConfigError("\n".join(problems))
    _check_fit(options, hyp_file, model, hyp, data)
    channels = {"ch": data.channels} if isinstance(model, ModelConfig) else {}
    model = model.model_copy(update={"nc": len(data.class_names), **channels})
    # What is given comes before what the dataset suggests, and that before the defaults.
    own = {name: getattr(options, name, None) for name in RunSection.model_fields}
    given = {name: value for name, value in own.items() if value is not None}
    files = {"hyp": hyp_file, "data": data_yaml, "plugin": absolute(options)}
    plain = {**data.suggested.model_dump(exclude_none=True), **given, **files, "figures": not options.no_figures}
    flags = {name: f"--{name.replace('_', '-')}" for name in plain}
    train = validate(RunSection, Document("train.py", plain, {}, flags))
    data_file = str(find_yaml(data_yaml, "data").resolve())
    return RunConfig(train=train, hyp=hyp, model=model, data=data, data_file=data_file)


def shared_config(options: Options, seams: Seams | None = None) -> RunConfig:
    """What train.py would go by if it were given those options of another command that it has too."""
    own = {name: getattr(options, name) for name in TrainOptions.model_fields if hasattr(options, name)}
    return run_config(TrainOptions(**own), seams)


def _all_seams() -> Seams:
    from yolo_lite.engine.seams import SEAMS

    return SEAMS


def _brought_data(model: AnyModelConfig | None) -> str:
    """The embedded set that a model learns from where no other is given."""
    from yolo_lite.engine.tasks import task_of

    return DATA_OF_MASKS if model and task_of(model).has_masks else DEFAULT_DATA


def _check_fit(options: TrainOptions, hyp_file: str, model: AnyModelConfig, hyp: Hyp, data: DatasetConfig) -> None:
    """Whether a model and the weights of the classes fit the dataset."""
    num_classes, channels = len(data.class_names), data.channels
    if isinstance(hyp.cls_weights, tuple) and len(hyp.cls_weights) != num_classes:
        where = _place(options, hyp_file, "cls_weights")
        raise ConfigError(f"{where}: expected {num_classes} weights, one a class, found {len(hyp.cls_weights)}")
    if isinstance(model, ModelConfig):
        if hyp.assigner.name != "auto":
            _check_assigner(options, hyp_file, model.head[-1].module, hyp.assigner.name)
        if "ch" in model.model_fields_set and model.ch != channels:
            raise ConfigError(f"{options.cfg}: ch: expected {channels}, the dataset's channels, found {model.ch}")
    elif channels != 3:
        raise ConfigError(f"{options.cfg}: Faster R-CNN reads 3 channels, the dataset has {channels}")


def _check_assigner(options: TrainOptions, hyp_file: str, head: str, found: str) -> None:
    from yolo_lite.loss.criteria import CRITERIA, Criterion

    fitting = getattr(CRITERIA.get(head), "assigners", ())
    if found in Criterion.assigners and fitting and found not in fitting:  # those of plugins are taken as they are
        where, choices = _place(options, hyp_file, "assigner"), ", ".join(("auto", *fitting))
        raise ConfigError(f"{where}: expected one that fits {head}, of {choices}, found {found}")


def _place(options: TrainOptions, hyp_file: str, key: str) -> str:
    """Where a key of hyp.yaml has its value from."""
    given = [f"--set {text}" for text in options.set if text.startswith(f"{key}=")]
    return (given or [f"{hyp_file}: {key}"])[-1]


def absolute(options: TrainOptions) -> tuple[str, ...]:
    """The absolute paths of the plugins."""
    return tuple(str(Path(path).resolve()) for path in cast("tuple[str, ...]", options.plugin))
