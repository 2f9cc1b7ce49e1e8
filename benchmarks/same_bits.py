"""Print a hash of what short runs come to, so that two versions of yolo_lite can be compared: same lines, same bits.

    python benchmarks/same_bits.py > after.txt
    python benchmarks/same_bits.py --tree ../old_checkout > before.txt
    diff before.txt after.txt

Each line is ``name weights losses last``: the hash of the weights that a run leaves, the hash of its losses over the
epochs, and the summed loss of the last epoch in plain digits; for detections, their hash, ``-`` and their number.
Everything is started by the command line of the checkout that ``--tree`` names, so its Python code may look as it
likes. Compared are values: weights in the order of the state dict, without their names and without the anchors (which
are no weights and may lie anywhere); the losses of results.csv, by Faster R-CNN only their sum to six digits (they may
be added in another order). ``resumed`` is killed with SIGKILL in the middle of its second epoch and goes on; it must
come to what ``embedded``, which nobody stops, comes to, or it counts as failed. The exit status is the number of cases
that failed.

One processor gives one set of hashes: run both checkouts on the same machine.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
KILL_AFTER_WRITES = 6  # of last.pt, four an epoch: in the middle of the second epoch

EMBEDDED = ["--cfg", "cfg/yolo_n.yaml", "--hyp", "cfg/hyp.yaml", "--epochs", "2", "--imgsz", "96"]
BCCD = ["--cfg", "cfg/yolo_n.yaml", "--hyp", "cfg/hyp.yaml", "--epochs", "3", "--imgsz", "160"]
BCCD += ["--data", str(SHARED / "data/bccd/data.yaml")]
FASTER_RCNN = ["--cfg", "cfg/faster_rcnn.yaml", "--hyp", "cfg/hyp_faster_rcnn.yaml", "--epochs", "1", "--imgsz", "96"]
SMALL_SET = """\
generate: {kind: shapes, train: 48, val: 16, image_size: 96, seed: 0}
names: [circle, square, triangle, star, heart]
"""


class RunFailedError(RuntimeError):
    """A run did not end as it should."""


class Tree(NamedTuple):
    """A checkout of yolo_lite, and where the files of its runs go."""

    root: Path
    scratch: Path

    def environment(self) -> dict[str, str]:
        """One thread, a cache of its own, and nothing written into the checkout."""
        own = {"YOLO_LITE_CACHE": str(self.scratch / "cache"), "PYTHONPYCACHEPREFIX": str(self.scratch / "bytecode")}
        return {**os.environ, **own, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> None:
        """Run a Python command to its end; its output is shown only where it fails."""
        process = self.start(list(words))
        output, _ = process.communicate()
        if process.returncode:
            raise RunFailedError(f"{' '.join(words)} ended with status {process.returncode}:\n{output}")


# ------------------------------------------------------------------------------------------------------------- hashes


def hash_of(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def tensors_of(state: dict[str, Any]) -> Iterator[bytes]:
    """Type, shape and bytes of each tensor but the anchors."""
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and not name.endswith("anchors"):
            yield f"{tensor.dtype}{tuple(tensor.shape)}".encode()
            yield tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def weights_of(folder: Path) -> Iterator[bytes]:
    """Weights and averaged weights of last.pt, averaged weights of best.pt."""
    for file, keys in (("last.pt", ("model", "ema")), ("best.pt", ("ema",))):
        content = torch.load(folder / "weights" / file, map_location="cpu", weights_only=True)
        for key in keys:
            yield from tensors_of(content[key])


def losses_of(folder: Path, by_name: bool) -> list[list[str]]:
    """For each epoch the sum of the training losses; with ``by_name`` all digits, and also box, obj and cls."""
    with (folder / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for row in rows:
        values = {key: float(text) for key, text in row.items() if key.startswith("train/") and key.endswith("_loss")}
        total = sum(values.values())
        named = [repr(values[f"train/{name}_loss"]) for name in ("box", "obj", "cls")] if by_name else []
        lines.append([repr(total) if by_name else f"{total:.6g}", *named])
    return lines


def line_of_run(folder: Path, by_name: bool = True) -> str:
    losses = losses_of(folder, by_name)
    hashed = hash_of(",".join(line).encode() for line in losses)
    return f"{hash_of(weights_of(folder))} {hashed} {float(losses[-1][0]):.6g}"


def line_of_detections(rows: list[list[Any]]) -> str:
    return f"{hash_of(json.dumps(row).encode() for row in sorted(rows))} - {len(rows)}"


# --------------------------------------------------------------------------------------------------------------- runs


def train_words(tree: Tree, name: str, words: list[str], precision: str = "fp32") -> list[str]:
    """The arguments of train.py for a run of that name; ``words`` may overrule the batch size and add to ``--set``."""
    fixed = ["--device", "cpu", "--no-figures", "--batch-size", "16", "--workers", "0"]
    return [*fixed, "--project", str(tree.scratch), "--name", name, *words, "--set", f"precision={precision}"]


def trained(tree: Tree, name: str, words: list[str], precision: str = "fp32", launcher: tuple[str, ...] = ()) -> Path:
    """The folder of a finished run."""
    tree.run(*launcher, "train.py", *train_words(tree, name, words, precision))
    return tree.scratch / name


def killed(tree: Tree, name: str, words: list[str]) -> Path:
    """The folder of a run that was killed in the middle of its second epoch."""
    process = tree.start(["train.py", *train_words(tree, name, [*words, "--save-period", "0.25"])])
    last, writes, written = tree.scratch / name / "weights" / "last.pt", 0, 0
    while writes < KILL_AFTER_WRITES:
        if process.poll() is not None:
            output, _ = process.communicate()
            raise RunFailedError(f"{name} ended before it could be killed, status {process.returncode}:\n{output}")
        now = last.stat().st_mtime_ns if last.exists() else 0
        writes, written = writes + (now != written), now
        time.sleep(0.002)
    process.kill()
    process.wait()
    return tree.scratch / name


def resumed(tree: Tree) -> str:
    """A run that was killed and went on, which must be the one that nobody stopped."""
    folder = killed(tree, "resumed", EMBEDDED)
    tree.run("train.py", "--resume", str(folder))
    straight = tree.scratch / "straight"
    if not straight.exists():
        trained(tree, "straight", EMBEDDED)
    line, expected = line_of_run(folder), line_of_run(straight)
    if line != expected or (folder / "results.csv").read_bytes() != (straight / "results.csv").read_bytes():
        raise RunFailedError(f"resumed: {line}, expected what the run that nobody stopped has: {expected}")
    return line


def accumulated(tree: Tree) -> str:
    words = [*BCCD, "--batch-size", "4", "--set", "nominal_batch=16"]
    return line_of_run(trained(tree, "accumulated", words))


def faster_rcnn(tree: Tree) -> str:
    data = tree.scratch / "small.yaml"
    data.write_text(SMALL_SET, encoding="utf-8")
    small = ["model.roi_samples=32", "model.rpn_samples=64", "model.rpn_pre_nms=[200,100]"]
    small += ["model.rpn_post_nms=[200,100]", "model.levels=3"]
    words = [*FASTER_RCNN, "--data", str(data), "--batch-size", "8", "--set", "nominal_batch=8", *small]
    return line_of_run(trained(tree, "faster_rcnn", words), by_name=False)


def two_processes(tree: Tree) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}")
    return line_of_run(trained(tree, "two_processes", EMBEDDED, launcher=launcher))


# --------------------------------------------------------------------------------------------------------- detections


def imported(tree: Tree) -> Path:
    """YOLOv5n as a checkpoint of the tree."""
    path = tree.scratch / f"yolov5n_{os.urandom(4).hex()}.pt"
    tree.run("-c", ENTRY, "import", str(SHARED / "weights/yolov5n/yolov5n.pt"), "-o", str(path))
    return path


ENTRY = "from yolo_lite.cli.main import entry; entry()"


def validated(tree: Tree) -> str:
    """All detections of val.py on coco128."""
    words = ["--weights", str(imported(tree)), "--data", str(SHARED / "data/coco128/data.yaml"), "--imgsz", "640"]
    words += ["--batch-size", "16", "--device", "cpu", "--workers", "0", "--save-json"]
    tree.run("val.py", *words, "--project", str(tree.scratch), "--name", "validated")
    found = json.loads((tree.scratch / "validated/predictions.json").read_text(encoding="utf-8"))
    return line_of_detections([[row["image_id"], row["category_id"], *row["bbox"], row["score"]] for row in found])


def predicted(tree: Tree) -> str:
    """The detections of ``yolo-lite predict`` on the images of coco128."""
    source = SHARED / "data/coco128/images"
    words = ["--weights", str(imported(tree)), "--source", str(source / "**/*.jpg"), "--imgsz", "320"]
    words += ["--device", "cpu", "--conf", "0.1", "--no-save", "--save-json"]
    tree.run("-c", ENTRY, "predict", *words, "--project", str(tree.scratch), "--name", "predicted")
    found = json.loads((tree.scratch / "predicted/predictions.json").read_text(encoding="utf-8"))
    return line_of_detections(list(rows_of_predictions(found)))


def rows_of_predictions(found: list[dict[str, Any]]) -> Iterator[list[Any]]:
    for one in found:
        for label, box, score in zip(one["labels"], one["boxes"], one["scores"], strict=True):
            yield [Path(one["file"]).name, label, *box, score]


CASES: dict[str, Callable[[Tree], str]] = {
    "embedded": lambda tree: line_of_run(trained(tree, "embedded", EMBEDDED)),
    "bccd": lambda tree: line_of_run(trained(tree, "bccd", BCCD)),
    "bccd_wiou": lambda tree: line_of_run(trained(tree, "bccd_wiou", [*BCCD, "--set", "box_loss=wiou"])),
    "bccd_qfl_focal": lambda tree: line_of_run(
        trained(tree, "bccd_qfl_focal", [*BCCD, "--set", "obj_loss=qfl", "cls_loss=focal"])
    ),
    "bccd_accumulated": accumulated,
    "bccd_bf16": lambda tree: line_of_run(trained(tree, "bccd_bf16", BCCD, precision="bf16")),
    "faster_rcnn": faster_rcnn,
    "resumed": resumed,
    "two_processes": two_processes,
    "val_yolov5n": validated,
    "predict_yolov5n": predicted,
}


def attempt(name: str, tree: Tree) -> str | None:
    """The line of a case, or None where it failed, which does not stop the others."""
    try:
        return CASES[name](tree)
    except RunFailedError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=REPOSITORY, help="the checkout to run (default: this one)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time, one core each (default: %(default)s)")
    flags, failed = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(flags.jobs) as pool:
        tree = Tree(flags.tree.resolve(), Path(scratch))
        for name, line in zip(flags.only, pool.map(lambda name: attempt(name, tree), flags.only), strict=True):
            print(f"{name:<17}{line or 'FAILED'}", flush=True)
            failed += line is None
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
