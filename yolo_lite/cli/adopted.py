"""``--data`` with a folder or an archive, which is adopted on the fly."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from yolo_lite.config.errors import UserError
from yolo_lite.config.find import own_yamls
from yolo_lite.config.options import AdoptOptions, CheckOptions, TrainOptions

T = TypeVar("T")
RunOptions = TypeVar("RunOptions", TrainOptions, CheckOptions)
ADOPTED = "data.yaml"  # in a run folder


def is_export(data: str | os.PathLike[str] | None) -> TypeGuard[str | os.PathLike[str]]:
    """Whether ``--data`` is a folder or an archive; a bare word that also names a dataset YAML is that."""
    from yolo_lite.tools.unpack import is_archive

    if data is None:
        return False
    given = os.fspath(data)
    if os.path.isdir(given):
        return os.sep in given or "/" in given or given not in own_yamls("data")
    return is_archive(given)


def adopted_into_run(options: RunOptions) -> RunOptions:
    """Adopts the data into the run folder, where the run finds it when it goes on, and a user what a report names."""
    if getattr(options, "resume", None) or not is_export(options.data):
        return options
    from yolo_lite.data.outputs import Inputs
    from yolo_lite.engine.run_folder import make_run_folder, removed
    from yolo_lite.tools.adopt import adopt  # scipy's graphs take a tenth of a second

    is_folder, data = os.path.isdir(options.data), os.fspath(options.data)
    inputs = Inputs((data,) if is_folder else (), () if is_folder else (data,))
    was_there = os.path.lexists(options.project)
    folder = make_run_folder(options.project, options.name, options.exist_ok, inputs)
    try:
        with contextlib.redirect_stdout(sys.stderr if getattr(options, "as_json", False) else sys.stdout):
            file = adopt(AdoptOptions(source=options.data, output=folder / ADOPTED))
            if (place := file.with_suffix("")).is_dir():
                print(f"  unpacked into {place}; to keep one copy: yolo-lite adopt {options.data} -o mine.yaml")
    except UserError:
        removed(folder, not was_there)
        raise
    return in_run_folder(options, folder)


def in_run_folder(options: RunOptions, folder: Path) -> RunOptions:
    """The options of a run whose data were adopted into its folder."""
    return options.model_copy(update={"data": str(folder / ADOPTED), "name": folder.name, "exist_ok": True})


def on_adopted_data(run: Callable[..., T]) -> Callable[..., T]:
    """Lets a command read an export, through a dataset YAML in a temporary folder."""

    @functools.wraps(run)
    def run_on_yaml(options: Any, *more: Any) -> T:
        if not options.data or not is_export(options.data):
            return run(options, *more)
        from yolo_lite.tools.adopt import adopt

        with tempfile.TemporaryDirectory() as folder:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for what the command itself says
                file = adopt(AdoptOptions(source=options.data, output=Path(folder, ADOPTED)))
            try:
                return run(options.model_copy(update={"data": str(file)}), *more)
            except UserError as error:
                raise type(error)(str(error).replace(str(file), str(options.data))) from error

    return run_on_yaml
