"""Torch archives of other programs, read without running anything of them.

A torch file is a zip of raw storages and of a pickle, a program for a small machine that may call whatever it can name.
Here it can name nothing: whatever class or function it asks for, it gets a ``Record``, which only keeps what it is
given. What a record stands for is looked up afterwards, as data.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolo_lite.config.errors import CheckpointError

# What a pickle may name; a name is never looked up or called. Others show that the file is no checkpoint of a model.
KNOWN_NAMES = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.set|_codecs\.encode|pathlib\.\w*Path|argparse\.Namespace"
    r"|torch\.(\w+Storage|Size|device)|torch\._utils\._rebuild_(tensor_v2|parameter)"
    r"|numpy\.(_?core\.multiarray\.(_reconstruct|scalar)|ndarray|dtype)"
    r"|(torch\.nn\.modules|models|utils|ultralytics)(\.\w+)+"
)
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
}
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch before 1.6 begins its files

# What zipfile, pickle, torch and the lines below raise for damaged or hostile files.
UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, MemoryError, RecursionError, RuntimeError),
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, NotImplementedError),
)


class Record:
    """Stands for an object of a class that the pickle names; the name is that of the record's own class."""

    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *arguments: Any) -> Record:
        record = object.__new__(cls)
        record.arguments, record.state, record.items = arguments, None, {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


class Storage(NamedTuple):
    """The numbers that tensors are views of."""

    kind: str
    key: str  # name of its entry in the archive
    length: int


class StoredTensor(NamedTuple):
    """Where the numbers of a tensor lie; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile(NamedTuple):
    """What a torch archive holds."""

    path: Path
    content: Any  # plain data and records
    storages: dict[str, bytearray]

    def stored_tensors(self, module: Any) -> dict[str, StoredTensor]:
        """The tensors of a module and of those in it, by the names of a state dict.

        Raises:
            CheckpointError: it is no module.
        """
        with _damage_named(self.path):
            return dict(_stored_tensors(module, "", set()))

    def tensor(self, stored: StoredTensor) -> Tensor:
        """A view of its storage.

        Raises:
            CheckpointError: it does not lie in its storage.
        """
        with _damage_named(self.path):
            storage = stored.storage
            numbers = torch.frombuffer(self.storages[storage.key], dtype=STORAGES[storage.kind])
            # A stride of 0 could blow a few numbers up to any size.
            if len(numbers) != storage.length or math.prod(stored.shape) > storage.length:
                raise ValueError("a tensor is larger than its storage")
            return numbers.as_strided(stored.shape, stored.strides, stored.offset)  # checks the bounds


def read_torch_file(path: str | Path) -> TorchFile:
    """Read an archive of ``torch.save``.

    Raises:
        CheckpointError: missing, damaged, none, or its pickle names what a checkpoint of a model does not.
    """
    path = Path(path)
    try:
        with _damage_named(path):
            return TorchFile(path, *_read(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Whatever a damaged file leads to is one clear line."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of a model") from error


def _read(path: Path) -> tuple[Any, dict[str, bytearray]]:
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(len(OLD_FORMAT)) == OLD_FORMAT:
                raise CheckpointError("in the format of torch before 1.6, expected a zip: save it with a newer torch")
        raise CheckpointError("damaged, or not a checkpoint: expected a zip")
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in infos:
            raise CheckpointError("a zip, but not a checkpoint: without data.pkl")
        # torch does not compress: entries that come to more than the file would fill the memory.
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise CheckpointError("damaged, or not a checkpoint: its entries are larger than the file")
        content = {name: archive.read(info) for name, info in infos.items()}
    if content.get("byteorder", b"little") != b"little":
        raise CheckpointError("written on a big-endian machine, expected little-endian numbers")
    storages = {name[5:]: bytearray(data) for name, data in content.items() if name.startswith("data/")}
    return _unpickled(content["data.pkl"]), storages


def _unpickled(program: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name.startswith("EXT"):  # may be found in a table that find_class does not see
            raise CheckpointError(f"refused: its pickle names extension {argument}, expected tensors and plain data")
        if "PUT" in opcode.name and int(argument or 0) > len(program):  # the machine would make room for as many
            raise ValueError("more values than the pickle can hold")
    return _Unpickler(io.BytesIO(program)).load()


class _Unpickler(pickle.Unpickler):
    """Python's unpickler without access to anything: names become classes of records."""

    def find_class(self, module: str, name: str) -> type[Record]:
        full = f"{module}.{name}"
        if "." in name or not KNOWN_NAMES.fullmatch(full):
            raise CheckpointError(f"refused: its pickle names {full!r}, expected tensors and plain data")
        return type(full, (Record,), {})

    def persistent_load(self, pid: Any) -> Storage:
        word, kind, key, _, length = pid
        if word != "storage" or kind.__name__ not in STORAGES:
            raise ValueError(f"unknown storage {pid!r}")
        return Storage(kind.__name__, key, length)


def _is(value: Any, name: str) -> bool:
    return isinstance(value, Record) and type(value).__name__ == name


def _stored_tensors(module: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, StoredTensor]]:
    """A module that is part of several others, an activation for example, is looked into once."""
    if not isinstance(module, Record):
        raise ValueError(f"expected a module at {prefix!r}, found {type(module).__name__}")
    if id(module) in seen:
        return
    seen.add(id(module))
    for name, value in (*_entries(module.state["_parameters"]), *_entries(module.state["_buffers"])):
        yield f"{prefix}{name}", _stored(value)
    for name, child in _entries(module.state["_modules"]):
        yield from _stored_tensors(child, f"{prefix}{name}.", seen)


def _entries(value: Any) -> list[tuple[Any, Any]]:
    """The content of a dict, or of the record of an OrderedDict, without None."""
    content = value.items if _is(value, "collections.OrderedDict") else value
    return [(name, entry) for name, entry in dict(content).items() if entry is not None]


def _stored(value: Any) -> StoredTensor:
    if _is(value, "torch._utils._rebuild_parameter"):
        value = value.arguments[0]
    if not _is(value, "torch._utils._rebuild_tensor_v2"):
        raise ValueError(f"expected a tensor, found {type(value).__name__}")
    storage, offset, shape, strides = value.arguments[:4]
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return StoredTensor(storage, offset, tuple(shape), strides)
