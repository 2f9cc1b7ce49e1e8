"""The door of every command: ``yolo-lite COMMAND``; train.py and val.py are two of them."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Callable, Sequence

from yolo_lite.config.errors import StoppedError, UserError

# Each is a module of this folder with make_parser(), run(arguments), whose int is the exit status if it returns one,
# and, where it can go on after Ctrl-C, a HINT how.
COMMANDS = {
    "train": "train a detector, or go on with a run",
    "val": "validate a checkpoint",
    "predict": "detect on pictures, videos, cameras and streams",
    "import": "make a checkpoint of weights of YOLOv5",
    "export": "write a checkpoint as ONNX, TorchScript or torch.export",
    "compare": "train variants with the same seeds and tell differences from noise",
    "show": "draw augmented training batches with their boxes",
    "losses": "list every loss",
    "convert": "write a dataset's labels in another format: YOLO, VOC, COCO",
    "download": "fetch a public set: coco128, voc, coco",
    "check": "find what is wrong with a dataset",
    "anchors": "find anchors that fit a dataset",
}

MODULES = {"import": "import_weights"}  # of commands whose name Python keeps for itself


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; its exit status comes back."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    if not words or words[0] not in COMMANDS:
        commands = "".join(f"\n  {name:<10} {purpose}" for name, purpose in COMMANDS.items())
        print(f"usage: yolo-lite COMMAND ...  (yolo-lite train --help){commands}", file=sys.stderr)
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    command = importlib.import_module(f"yolo_lite.cli.{MODULES.get(words[0], words[0])}")
    return _run(command.run, command.make_parser().parse_args(words[1:]), getattr(command, "HINT", ""))


def train_main(argv: Sequence[str] | None = None) -> int:
    """``python train.py``."""
    return main(["train", *(sys.argv[1:] if argv is None else argv)])


def val_main(argv: Sequence[str] | None = None) -> int:
    """``python val.py``."""
    return main(["val", *(sys.argv[1:] if argv is None else argv)])


def _run(action: Callable[[argparse.Namespace], object], arguments: argparse.Namespace, hint: str = "") -> int:
    """Run a command; what a user can mend ends with its message and exit status 2."""
    try:
        status = action(arguments)
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


def entry() -> None:
    """The console script."""
    sys.exit(main())
