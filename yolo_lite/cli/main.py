"""The door of every command: ``yolo-lite COMMAND``; train.py and val.py are two of them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import yolo_lite
from yolo_lite.cli.arguments import SomeOptions, read_options
from yolo_lite.cli.failure import end_of
from yolo_lite.cli.streams import Guarded, guarded_streams
from yolo_lite.config.errors import StoppedError, UserError, nearest
from yolo_lite.config.options import COMMANDS
from yolo_lite.config.run_lock import RunWarning, folders_released

T = TypeVar("T")

# Each command is a module of this folder with run(options), whose int is the exit status if it returns one, and,
# where it can go on after Ctrl-C, a HINT how.
MODULES = {"import": "import_weights"}  # of commands whose name Python keeps for itself
LONG = ("train", "compare", "search")  # what they have to say is in files too: they go on when their terminal is gone
SCRIPTS = {"train": "train.py", "val": "val.py"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; its exit status comes back."""
    with guarded_streams() as streams:
        try:
            try:
                return _main(list(sys.argv[1:] if argv is None else argv), streams)
            finally:
                for stream in streams:  # what is left, the interpreter would find it at its exit
                    stream.flush()
        except Exception as error:  # what no command foresaw
            if isinstance(error, BrokenPipeError) and any(stream.is_lost for stream in streams):
                lines, status = [], 128 + signal.SIGPIPE  # as of tools that the signal ends: scripts know this status
            else:
                (first, *rest), status = end_of(error)
                lines = [f"error: {first}", *rest]
            with contextlib.suppress(OSError):
                print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr, flush=True)
            return status


def _main(words: Sequence[str], streams: Sequence[Guarded]) -> int:
    gc.set_threshold(100_000, 50, 100)  # imports make a million objects: to look for garbage among them takes .4 s
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
    for stream in streams:
        stream.goes_on = words[0] in LONG
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
        lines = [*(f"error: {line}" for line in str(error).splitlines()), *getattr(error, "__notes__", ())]
        print("\n".join(lines), file=sys.stderr)
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
    from yolo_lite.config.foreign import ConfigWarning  # not for --help

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
