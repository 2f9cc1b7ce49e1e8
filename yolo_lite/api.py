"""``yolo_lite.train`` and ``yolo_lite.evaluate``: the commands train.py and val.py as functions; and ``load``.

Options of commands are the flags, ``--batch-size 8`` as ``batch_size=8``. They go through the parsers of the command
line, so both doors know the same options, defaults and checks.
"""

from __future__ import annotations

import argparse
import inspect
import json
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from yolo_lite.cli import train as train_command
from yolo_lite.cli import val as val_command
from yolo_lite.config.errors import ConfigError, nearest

if TYPE_CHECKING:
    from yolo_lite.deploy.predictor import Predictor
    from yolo_lite.engine.train import Result


def train(**options: Any) -> Result:
    """Train a detector, or go on with a run: ``train(cfg="cfg/yolo_n.yaml", data="mine.yaml", epochs=3)``.

    Options are the flags of train.py. ``set`` is a dict, ``set={"box_loss": "giou", "model.width_multiple": 0.5}``;
    ``resume`` is a path or True, for the latest run; ``plugin`` is a path or a list of paths.

    Returns:
        Folder of the run (with ``weights/best.pt``), best epoch, metrics of the last epoch, seconds of each epoch.

    Raises:
        UserError: an option, a file or the data cannot be used, or the loss is no longer finite.
    """
    return train_command.run(_arguments("train", train_command.make_parser(), options))


def evaluate(**options: Any) -> dict[str, Any]:
    """Validate a checkpoint: ``evaluate(weights="runs/train/exp/weights/best.pt", split="test")``.

    Options are the flags of val.py. A run folder is written only where ``project``, ``name``, ``save_json`` or
    ``save_txt`` is given.

    Returns:
        The content of metrics.json: ``map50_95``, ``map50``, ``per_class``, ...

    Raises:
        UserError: an option, the checkpoint or the data cannot be used.
    """
    arguments = _arguments("evaluate", val_command.make_parser(), options)
    in_folder = any(options.get(name) not in (None, False) for name in ("project", "name", "save_json", "save_txt"))
    return val_command.run(arguments, in_folder)


def load(
    weights: str | os.PathLike[str],
    device: str = "",
    imgsz: int | None = None,
    plugin: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
) -> Predictor:
    """A trained detector: ``load("best.pt").predict("image.jpg").plot()``.

    Args:
        device: "cpu", "0", "cuda:1", "mps"; "" picks a GPU if there is one.
        imgsz: pixels of a picture's longest side in the network; None: as trained.
        plugin: a Python file of yours that the checkpoint was trained with, or a list of them.

    Raises:
        UserError: the checkpoint, the device or a plugin cannot be used.
    """
    from yolo_lite.deploy import predictor
    from yolo_lite.plugins import loaded

    plugins = [plugin] if isinstance(plugin, (str, os.PathLike)) else plugin
    with loaded([os.fspath(path) for path in plugins]):
        return predictor.load(os.fspath(weights), device, imgsz)


def _arguments(function: str, parser: argparse.ArgumentParser, options: Mapping[str, Any]) -> argparse.Namespace:
    """What the parser makes of the options, written as flags.

    Raises:
        ConfigError: an option is unknown, missing or of another type.
    """
    actions = _actions(parser)
    for name in options:
        if name not in actions:
            raise ConfigError(f"{function}(): unknown option {name!r}{nearest(name, actions)}")

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{function}(): {message}")

    parser.error = refuse  # type: ignore[method-assign]
    given = {name: value for name, value in options.items() if value is not None}
    return parser.parse_args([word for name, value in given.items() for word in _words(actions[name], value)])


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def _words(action: argparse.Action, value: Any) -> list[str]:
    """An option as the command line has it."""
    flag = action.option_strings[0]
    if action.dest == "set":
        return [flag, *_overrides(value)] if value else []
    if isinstance(value, bool) and (action.nargs in (0, "?")):  # exist_ok and resume
        return [flag] if value else []
    if action.nargs == 0:
        raise ConfigError(f"{action.dest}: expected True or False, found {value!r}")
    several = isinstance(value, (list, tuple)) and action.dest in ("plugin", "classes")
    return [f"{flag}={_text(action.dest, item)}" for item in (value if several else [value])]


def _overrides(value: Any) -> list[str]:
    """``{"mosaic": 0}`` as ``["mosaic=0"]``; texts ``"key=value"`` are taken as they are."""
    if isinstance(value, Mapping):
        return [f"{key}={item if isinstance(item, str) else _json(key, item)}" for key, item in value.items()]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"set: expected a dict of keys and values, found {value!r}")
    return list(texts)


def _json(key: Any, value: Any) -> str:
    try:
        return json.dumps(value, default=lambda number: number.item())  # JSON is YAML; numpy's numbers have item()
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(f"set: {key}: expected a plain value, found {value!r}") from None


def _text(name: str, value: Any) -> str:
    if isinstance(value, (str, numbers.Real, os.PathLike)):  # numpy's numbers too
        return str(value)
    raise ConfigError(f"{name}: expected text, a number or a path, found {value!r}")


def _signature(function: Callable[..., Any], parser: argparse.ArgumentParser) -> inspect.Signature:
    """What ``help`` shows: every option with its default."""
    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    defaults = {name: empty if action.required else action.default for name, action in _actions(parser).items()}
    options = [inspect.Parameter(name, kind, default=default) for name, default in defaults.items()]
    return inspect.Signature(options, return_annotation=inspect.signature(function).return_annotation)


train.__signature__ = _signature(train, train_command.make_parser())  # type: ignore[attr-defined]
evaluate.__signature__ = _signature(evaluate, val_command.make_parser())  # type: ignore[attr-defined]
