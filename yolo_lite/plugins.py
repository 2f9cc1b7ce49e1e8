"""Plugins: a user's Python file whose blocks, losses, assigners and augmentations join the dicts for a command.

The file holds module-level dicts of the names that the seams have, ``BOX_LOSSES = {"my_iou": my_iou}``. It is code and
is executed: only files that the user names are, never one that a checkpoint or a YAML file names.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import sys
import traceback
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.regular import read_regular
from yolo_lite.config.seams import Seam
from yolo_lite.config.yaml_file import parse_scalar
from yolo_lite.deploy.formats import EXPORT_FORMATS, ExportFormat
from yolo_lite.engine.seams import SEAMS as SEAMS_OF_A_RUN
from yolo_lite.engine.tasks import Task
from yolo_lite.model.backbones import Backbone
from yolo_lite.model.heads import Head
from yolo_lite.report.loggers import Logger

SEAMS = {**SEAMS_OF_A_RUN, "EXPORT_FORMATS": Seam(EXPORT_FORMATS, is_open=True)}
# Of the dicts that hold no functions.
ENTRY_TYPES = {"TASKS": Task, "EXPORT_FORMATS": ExportFormat, "BACKBONES": Backbone}
BASES = {"HEADS": Head, "LOGGERS": Logger}  # of whose entries

_loaded: list[Path] = []


@contextlib.contextmanager
def loaded(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Iterator[None]:
    """The entries of plugin files are in the dicts until the block ends.

    A file that is loaded already stays as it is.

    Raises:
        ConfigError: a file is missing, fails, or does not hold what a plugin may hold; all problems of a file at once.
    """
    with contextlib.ExitStack() as undo:
        for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
            path = Path(given).resolve()
            if path not in _loaded:
                undo.enter_context(_joined(path, os.fspath(given)))
        yield


@contextlib.contextmanager
def _joined(path: Path, given: str) -> Iterator[None]:
    """One plugin, by its absolute path and as the user wrote it."""
    module = _execute(path, given)
    try:
        entries = _checked_entries(module, given)
        for (seam, name), value in entries.items():
            SEAMS[seam].entries[name] = value
        _loaded.append(path)
        try:
            yield
        finally:
            _loaded.remove(path)
            for seam, name in entries:
                del SEAMS[seam].entries[name]
    finally:
        sys.modules.pop(module.__name__, None)


# ------------------------------------------------------------------------------------------------------- execution


def _execute(path: Path, given: str) -> ModuleType:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"--plugin {given}: {found}, expected a Python file (looked in {Path.cwd()})")
    # A name that no other file has, and that TorchScript can write.
    module = ModuleType(f"plugin_{zlib.crc32(str(path).encode()):08x}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        # Not imported: that would write bytecode beside the user's file, and might run stale bytecode.
        code = compile(read_regular(path), str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102, a file that the user named
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        sys.modules.pop(module.__name__, None)
        raise ConfigError(f"--plugin {given}{_line(error, path)}: {type(error).__name__} ({error})") from error
    return module


def _line(error: BaseException, path: Path) -> str:
    """``":12"``, the innermost line of the plugin that an error comes from."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


# ----------------------------------------------------------------------------------------------------------- checks


def _checked_entries(module: ModuleType, given: str) -> dict[tuple[str, Any], Any]:
    """What a plugin brings, by dict and name; ConfigError where something of it cannot be used."""
    dicts = {name: value for name, value in vars(module).items() if name in SEAMS or _is_misspelt(name, value)}
    problems = [] if dicts else [f"brings nothing, expected a dict with entries: {', '.join(SEAMS)}"]
    entries = {}
    for seam, own in dicts.items():
        if problem := _dict_problem(seam, own):
            problems.append(problem)
            continue
        entries.update({(seam, name): value for name, value in own.items()})
        found = {name: _entry_problem(seam, name, value) for name, value in own.items()}
        problems += [f"{seam}[{name!r}]: {problem}" for name, problem in found.items() if problem]
    if problems:
        raise ConfigError("\n".join(f"--plugin {given}: {problem}" for problem in problems))
    return entries


def _is_misspelt(name: str, value: Any) -> bool:
    """A dict in capitals whose name resembles one of ours: ``BOX_LOSES`` would bring nothing, and say nothing."""
    ours = any(value is seam.entries for seam in SEAMS.values())
    meant = name.isupper() and not name.startswith("_") and difflib.get_close_matches(name, SEAMS)
    return isinstance(value, dict) and bool(meant) and not ours


def _dict_problem(name: str, value: Any) -> str | None:
    if name not in SEAMS:
        return f"unknown dict {name!r}{nearest(name, SEAMS)}; begin its name with _ if it is none of them"
    if value is SEAMS[name].entries:
        return f"{name}: expected a dict of the plugin's own, found yolo_lite's; import that under another name"
    if not isinstance(value, dict) or not value:
        return f"{name}: expected a dict from names to functions or classes, found {value!r}"
    return None


def _entry_problem(dict_name: str, name: Any, value: Any) -> str | None:
    """What is wrong with an entry, in itself and for the call that yolo_lite makes.

    The further arguments of a block or a head are a row's: they are seen when it is built.
    """
    seam = SEAMS[dict_name]
    if not isinstance(name, str) or not name.isidentifier() or parse_scalar(name) != name:
        return f"expected a name that YAML reads as a word, such as my_loss, found {name!r}"
    if name in seam.entries:
        return "the name is taken, expected one that neither yolo_lite nor another plugin has"
    if kind := ENTRY_TYPES.get(dict_name):
        return None if isinstance(value, kind) else f"expected a {kind.__name__}, found {value!r}"
    if (base := BASES.get(dict_name)) and not (isinstance(value, type) and issubclass(value, base)):
        return f"expected a subclass of {base.__name__}, found {value!r}"
    if not callable(value):
        return f"expected a function or a class, found {value!r}"
    try:
        signature = inspect.signature(value, eval_str=True)
    except Exception as error:  # annotations are evaluated: they may raise anything
        return f"its signature cannot be read ({error}), expected {seam}"
    handed = (*seam.by_name, *(word for word in seam.context if word in signature.parameters))
    try:
        (signature.bind_partial if seam.is_open else signature.bind)(*seam.positional, **dict.fromkeys(handed))
    except TypeError as error:
        return f"expected {seam}, found {signature}: {error}"
    missing = [word for word in seam.by_name if word not in signature.parameters]  # taken by a ** alone
    return f"expected {seam}, found {signature}: without {', '.join(missing)}" if missing else None
