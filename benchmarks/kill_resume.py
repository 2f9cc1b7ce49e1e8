"""Kill a run with SIGKILL at random moments, resume it, and compare with the run that nobody killed, to the bit.

    python benchmarks/kill_resume.py --data ../shared/data/bccd/data.yaml

Each time a fresh run of yolo_n is started, killed once and resumed. Every third kill waits until the second to sixth
checkpoint is being written and strikes then; the others strike at a moment drawn evenly from the time between the
first checkpoint and the end.
Checkpoints are written several times an epoch. Compared are the weights, the averaged weights, the optimizer's state
and results.csv.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from yolo_lite.engine.checkpoint import load_checkpoint

TRAIN = Path(__file__).resolve().parent.parent / "train.py"


def command(flags: argparse.Namespace, project: Path) -> list[str]:
    words = ["--cfg", "cfg/yolo_n.yaml", "--hyp", "cfg/hyp.yaml", "--data", flags.data, "--imgsz", str(flags.imgsz)]
    words += ["--epochs", str(flags.epochs), "--batch-size", "16", "--workers", str(flags.workers), "--device", "cpu"]
    return [sys.executable, str(TRAIN), *words, "--save-period", "0.15", "--project", str(project)]


def run(words: list[str]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds_from_first_checkpoint(words: list[str], folder: Path) -> float:
    """Run to the end; returns the seconds that a kill may choose from."""
    process, start = subprocess.Popen(words, stdout=subprocess.DEVNULL), math.inf
    while process.poll() is None:
        if start == math.inf and (folder / "weights" / "last.pt").exists():
            start = time.monotonic()
        time.sleep(0.01)
    return time.monotonic() - start


class Moment(NamedTuple):
    """When to kill: so many seconds after the first checkpoint, or while the n-th is being written."""

    seconds: float | None = None
    write: int | None = None

    def __str__(self) -> str:
        return f"write {self.write}" if self.seconds is None else f"{self.seconds:.1f} s"


def killed(words: list[str], folder: Path, moment: Moment) -> bool:
    """Start a run and kill it; whether a checkpoint was being written then."""
    temporary = folder / "weights" / ".last.pt.tmp"
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start, writes, was_there = math.inf, 0, False
    while process.poll() is None:
        is_there = temporary.exists()
        if start == math.inf and (folder / "weights" / "last.pt").exists():
            start = time.monotonic()
        writes, was_there = writes + (is_there and not was_there), is_there
        if writes == moment.write if moment.seconds is None else time.monotonic() - start > moment.seconds:
            break
        time.sleep(0.0005)
    process.kill()
    process.wait()
    return temporary.exists()


def states_of(folder: Path) -> dict[str, Any]:
    content = load_checkpoint(folder / "weights" / "last.pt")
    return {key: content[key] for key in ("model", "ema", "losses", "optimizer", "step", "updates", "epoch")}


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and plain values are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def trial(flags: argparse.Namespace, whole: Path, scratch: Path, number: int, moment: Moment) -> tuple[str, bool]:
    """One kill and what came of it: a line for the table, and whether all was the same."""
    project = scratch / f"killed{number}"
    folder, words = project / "exp", command(flags, project)
    writing = killed(words, folder, moment)
    last = folder / "weights" / "last.pt"
    stood = load_checkpoint(last) if last.exists() else None
    where = f"epoch {stood['epoch']}, step {stood['tally']['steps']}" if stood else "no checkpoint yet: started anew"
    if stood is None:
        shutil.rmtree(project, ignore_errors=True)
    finished = stood is not None and stood["epoch"] == flags.epochs
    if not finished:
        run([sys.executable, str(TRAIN), "--resume", str(last)] if stood else words)
    table = (folder / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    equal = table and same(states_of(folder), states_of(whole))
    shutil.rmtree(project)
    return f"| {number} | {moment} | {'yes' if writing else 'no'} | {where} | {'same' if equal else 'OTHER'} |", equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    moments = random.Random(flags.seed)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        seconds = seconds_from_first_checkpoint(command(flags, scratch / "whole"), scratch / "whole" / "exp")
        print(f"{flags.epochs} epochs at {flags.imgsz} px, {flags.workers} workers")
        print(f"{seconds:.0f} s from the first checkpoint to the end when not killed\n")
        print("| kill | at | while writing | last.pt stood at | resumed run |\n|---|---|---|---|---|")
        good = 0
        for number in tqdm(range(1, flags.kills + 1), unit="kill"):
            moment = Moment(write=moments.randint(2, 6)) if number % 3 == 0 else Moment(moments.uniform(0, seconds))
            line, equal = trial(flags, scratch / "whole" / "exp", scratch, number, moment)
            good += equal
            tqdm.write(line)
    print(f"{good} of {flags.kills} ended as the run that nobody killed")
    raise SystemExit(good != flags.kills)


if __name__ == "__main__":
    main()
