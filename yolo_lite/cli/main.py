"""The door of every command: ``yolo-lite COMMAND``; train.py and val.py are two of them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import yolo_lite
from yolo_lite.cli.arguments import SomeOptions, read_options
from yolo_lite.config.errors import StoppedError, UserError, nearest
from yolo_lite.config.foreign import ConfigWarning
from yolo_lite.config.options import COMMANDS
from yolo_lite.config.run_lock import RunWarning, folders_released

T = TypeVar("T")

# Each command is a module of this folder with run(options), whose int is the exit status if it returns one, and,
# where it can go on after Ctrl-C, a HINT how.
MODULES = {"import": "import_weights"}  # of commands whose name Python keeps for itself
SCRIPTS = {"train": "train.py", "val": "val.py"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; its exit status comes back."""
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            for stream in (sys.stdout, sys.stderr):  # what is left, the interpreter would find it at its exit
                print(end="", file=stream, flush=True)
    except BrokenPipeError:
        if not (closed := [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:
            os.dup2(nowhere, stream.fileno())  # what a buffer still holds goes there
        return 128 + signal.SIGPIPE  # as of tools that the signal ends: scripts with pipefail know this status


def _has_no_reader(stream: Any) -> bool:
    """Whether a stream leads into a pipe whose other end is closed, as that of ``| head`` is."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # without poll on Windows, or a stream that is no file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main(words: Sequence[str]) -> int:
    gc.set_threshold(100_000, 50, 100)  # imports make a million objects: to look for garbage among them takes .4 s
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    if words[:1] == ["--version"]:
        print(f"yolo-lite {yolo_lite.__version__}")
        return 0
    if not words or words[0] not in COMMANDS:
        print(_usage(), file=sys.stderr)
        if words[:1] in (["-h"], ["--help"]):
            return 0
        if words:
            advice = " (it is called predict)" if words[0] == "detect" else nearest(words[0], COMMANDS)
            print(f"error: unknown command {words[0]!r}{advice}", file=sys.stderr)
        return 2
    return _run(words[0], words[1:])


def with_plugins(action: Callable[[SomeOptions], T], options: SomeOptions) -> T:
    """Carry out a command while what its plugins bring is in the dicts."""
    with folders_released():
        if not getattr(options, "plugin", ()):
            return action(options)
        from yolo_lite.plugins import loaded  # imports torch

        with loaded(options.plugin):  # type: ignore[attr-defined]
            return action(options)


def _usage() -> str:
    purposes = {name: (section.__doc__ or "").partition("\n")[0] for name, section in COMMANDS.items()}
    lines = "".join(f"\n  {name:<10} {purpose}" for name, purpose in purposes.items())
    return f"usage: yolo-lite COMMAND ...  (yolo-lite train --help; yolo-lite --version){lines}"


def train_main(argv: Sequence[str] | None = None) -> int:
    """``python train.py``."""
    return main(["train", *(sys.argv[1:] if argv is None else argv)])


def val_main(argv: Sequence[str] | None = None) -> int:
    """``python val.py``."""
    return main(["val", *(sys.argv[1:] if argv is None else argv)])


def _run(name: str, words: Sequence[str]) -> int:
    """Run a command; what a user can mend ends with its message and exit status 2."""
    hint = ""
    try:
        options = read_options(COMMANDS[name], words, SCRIPTS.get(name, f"yolo-lite {name}"))
        command = importlib.import_module(f"yolo_lite.cli.{MODULES.get(name, name)}")  # with torch, where it needs it
        hint = getattr(command, "HINT", "")
        with _warnings_in_one_line():
            status = with_plugins(command.run, options)
    except UserError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
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
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Say each of our warnings once; of several processes the first one does."""
    others, is_first, said = warnings.showwarning, os.environ.get("RANK", "0") == "0", set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if not issubclass(category, (ConfigWarning, RunWarning)):
            others(message, category, *place)
        elif is_first and str(message) not in said:
            said.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        for kind in (ConfigWarning, RunWarning):
            warnings.simplefilter("always", kind)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # one for each damaged image
        warnings.filterwarnings("ignore", r"Reading `\.npy`")
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def entry() -> None:
    """The console script."""
    sys.exit(main())
