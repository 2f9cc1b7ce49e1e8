"""The commands train, val and adopt as functions, ``yolo_lite.train``, ``evaluate`` and ``adopt``; and ``load``.

Their parameters are the fields of the sections from which the flags are made, ``--batch-size 8`` as ``batch_size=8``.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, get_type_hints

from yolo_lite.cli import adopt as adopt_command
from yolo_lite.cli import train as train_command
from yolo_lite.cli import val as val_command
from yolo_lite.cli.main import with_plugins
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import validate
from yolo_lite.config.options import AdoptOptions, Options, TrainOptions, ValOptions
from yolo_lite.config.yaml_file import Document

if TYPE_CHECKING:
    from pathlib import Path

    from yolo_lite.deploy.predictor import Predictor
    from yolo_lite.engine.train import Result

P = ParamSpec("P")
SomeOptions = TypeVar("SomeOptions", bound=Options)
T = TypeVar("T")


def with_options_of(section: Callable[P, SomeOptions]) -> Callable[[Callable[[SomeOptions], T]], Callable[P, T]]:
    """Gives a function of a section of options the fields of the section as parameters, and loads its plugins.

    The function raises ConfigError where an option is unknown, missing, or of another type.
    """
    kind = cast("type[SomeOptions]", section)

    def decorate(action: Callable[[SomeOptions], T]) -> Callable[P, T]:
        @functools.wraps(action)
        def function(*given: P.args, **options: P.kwargs) -> T:
            name = f"{action.__name__}()"
            if given:
                raise ConfigError(f"{name}: expected options by name, found {given[0]!r}")
            return with_plugins(action, validate(kind, Document(name, options, {}, noun="option")))

        function.__signature__ = _signature(kind, action)  # type: ignore[attr-defined]
        fields = "\n".join(f"    {name}: {field.description}" for name, field in kind.model_fields.items())
        function.__doc__ = f"{inspect.getdoc(action)}\n\nArgs:\n{fields}\n"
        return function

    return decorate


def _signature(kind: type[Options], action: Callable[..., Any]) -> inspect.Signature:
    """What ``help`` shows: every option with its type and default."""
    kind.model_rebuild()  # the sections are built when they are first needed
    hints, options = get_type_hints(kind), inspect.signature(kind).parameters.values()
    parameters = [option.replace(annotation=hints[option.name]) for option in options]
    return inspect.Signature(parameters, return_annotation=inspect.signature(action).return_annotation)


@with_options_of(TrainOptions)
def train(options: TrainOptions) -> Result:
    """Train a detector, or go on with a run: ``train(cfg="cfg/yolo_n.yaml", data="mine.yaml", epochs=3)``.

    ``set`` is a dict, ``set={"box_loss": "giou", "model.width_multiple": 0.5}``; ``resume`` is a path or True, for the
    latest run; ``plugin`` is a path or a list of paths.

    Returns:
        Folder of the run (with ``weights/best.pt``), best epoch, metrics of the last epoch, seconds of each epoch.

    Raises:
        UserError: an option, a file or the data cannot be used, or the loss is no longer finite.
    """
    return train_command.run(options)


@with_options_of(ValOptions)
def evaluate(options: ValOptions) -> dict[str, Any]:
    """Validate a checkpoint: ``evaluate(weights="runs/train/exp/weights/best.pt", split="test")``.

    A run folder is written only where ``project``, ``name``, ``save_json``, ``save_txt`` or ``review`` is given.

    Returns:
        The content of metrics.json: ``map50_95``, ``map50``, ``per_class``, ...

    Raises:
        UserError: an option, the checkpoint or the data cannot be used.
    """
    writes = {"project", "name"} & options.model_fields_set or options.save_json or options.save_txt or options.review
    return val_command.run(options, bool(writes))


@with_options_of(AdoptOptions)
def adopt(options: AdoptOptions) -> Path:
    """Make a dataset YAML for an export as it is: ``adopt(source="export.zip", output="mine.yaml")``.

    Returns:
        The path of the dataset YAML.

    Raises:
        UserError: an option cannot be used, nothing is recognised, or several things fit equally.
    """
    return adopt_command.run(options)


def load(
    weights: str | os.PathLike[str],
    device: str | int = "",
    imgsz: int | None = None,
    plugin: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    half: bool = False,
) -> Predictor:
    """A trained detector: ``load("best.pt").predict("image.jpg").plot()``.

    Args:
        weights: a checkpoint, or an exported file.
        device: "cpu", "0", "cuda:1", "mps"; "" picks a GPU if there is one.
        imgsz: pixels of an image's longest side in the network; None: as trained.
        plugin: a Python file of yours that the checkpoint was trained with, or a list of them.
        half: compute in 16 bits, whatever the checkpoint says.

    Raises:
        UserError: the checkpoint, the device or a plugin cannot be used.
    """
    from yolo_lite.deploy import predictor
    from yolo_lite.plugins import loaded

    with loaded(plugin):
        return predictor.load(os.fspath(weights), str(device), imgsz, half)
