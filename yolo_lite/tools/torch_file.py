"""Read torch archives of other programs without running any of their code.

A torch file is a zip of raw storages and of a pickle, a program for a small machine that may call whatever it can name.
torch's own reader of plain weights knows tensors and dicts; any other class that a checkpoint names is replaced by a
stand-in, which only keeps what it is given. What it stands for is looked up afterwards, as data.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.regular import open_regular
from yolo_lite.engine.checkpoint import UNREADABLE, verified
from yolo_lite.engine.checkpoint_fields import problem_of_tensor

# Names that a pickle may contain; other names show that the file is no checkpoint of a model.
KNOWN_NAMES = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.set|_codecs\.encode|pathlib\.\w*Path|argparse\.Namespace"
    r"|torch\.(\w+Storage|Size|device)|torch\._utils\._rebuild_(tensor_v2|parameter)"
    r"|numpy\.(_?core\.multiarray\.(_reconstruct|scalar)|ndarray|dtype)"
    r"|(torch\.nn\.modules|models|utils|ultralytics)(\.\w+)+"
)
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch before 1.6 begins its files


class PickledObject:
    """Stands for an object of a class that the pickle names; its own class has that name."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> PickledObject:
        stand_in = object.__new__(cls)
        stand_in.arguments, stand_in.state = arguments, None
        return stand_in

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_torch_file(path: str | Path) -> Any:
    """Read an archive of ``torch.save`` as plain data, tensors and stand-ins.

    Raises:
        CheckpointError: missing, damaged, none, or its pickle names what a checkpoint of a model does not.
    """
    path = Path(path)
    with _damage_named(path):
        data, names = _verified(path)
        with safe_globals([_stand_in(name) for name in names]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def tensors_of(path: Path, module: Any) -> dict[str, Tensor]:
    """Collect the tensors of a module and its children, named as in a state dict.

    Raises:
        CheckpointError: it is no module.
    """
    with _damage_named(path):
        return dict(_tensors_of(module, "", set()))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a missing or damaged file raises into one clear line."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of a model") from error


def _verified(path: Path) -> tuple[bytes, set[str]]:
    """The archive, and everything that its pickle may call, by its full name."""
    with open_regular(path) as file:
        if file.read(len(OLD_FORMAT)) == OLD_FORMAT:
            raise CheckpointError("in the format of torch before 1.6, expected a zip: save it with a newer torch")
    return verified(path, KNOWN_NAMES)


def _stand_in(full_name: str) -> type[PickledObject]:
    module, _, name = full_name.rpartition(".")
    return type(name, (PickledObject,), {"__module__": module, "__qualname__": name})


def _tensors_of(module: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Visit a module that several others share, an activation for example, only once."""
    if not isinstance(module, PickledObject):
        raise ValueError(f"expected a module at {prefix!r}, found {type(module).__name__}")
    if id(module) in seen:
        return
    seen.add(id(module))
    for name, value in (module.state["_parameters"] | module.state["_buffers"]).items():
        if value is None:  # a layer without a bias
            continue
        if not isinstance(value, Tensor) or problem_of_tensor(value.detach()):
            raise ValueError(f"expected a tensor of plain numbers at {prefix + name!r}")
        yield f"{prefix}{name}", value.detach()
    for name, child in module.state["_modules"].items():
        if child is not None:
            yield from _tensors_of(child, f"{prefix}{name}.", seen)
