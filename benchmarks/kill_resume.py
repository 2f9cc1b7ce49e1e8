"""Kill a run with SIGKILL at random moments, resume it, and compare with the run that nobody killed, to the bit.

    python benchmarks/kill_resume.py --data ../shared/data/bccd/data.yaml

Each time a fresh run of yolo_n is started, killed once and resumed. Every third kill strikes at a moment drawn evenly
from the time between the first checkpoint and the end; the others wait until last.pt, best.pt, results.csv or the file
of curves is being written, in turn, and strike then.
Checkpoints are written several times an epoch. Compared are the weights, the averaged weights, the optimizer's state,
best.pt, results.csv and the curves.
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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.report.loggers.tensorboard import EVENTS

TRAIN = Path(__file__).resolve().parent.parent / "train.py"


def command(flags: argparse.Namespace, project: Path) -> list[str]:
    words = ["--cfg", "cfg/yolo_n.yaml", "--hyp", "cfg/hyp.yaml", "--data", flags.data, "--imgsz", str(flags.imgsz)]
    words += ["--epochs", str(flags.epochs), "--batch-size", "16", "--workers", str(flags.workers)]
    words += ["--device", flags.device, "--save-period", "0.15", "--project", str(project)]
    words += ["--set", *flags.set] if flags.set else []
    return [sys.executable, str(TRAIN), *words]


def run(words: list[str]) -> None:
    """Run to the end; SystemExit with the last line of its errors where that is not its own."""
    ended = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit((ended.stderr.splitlines() or [f"{words}: status {ended.returncode}"])[-1])


def seconds_from_first_checkpoint(words: list[str], folder: Path) -> float:
    """Run to the end; returns the seconds that a kill may choose from."""
    process, start = subprocess.Popen(words, stdout=subprocess.DEVNULL), math.inf
    while process.poll() is None:
        if start == math.inf and (folder / "weights" / "last.pt").exists():
            start = time.monotonic()
        time.sleep(0.01)
    return time.monotonic() - start


# What may be struck while it is written, as its file looks then, and the latest of its writes that every run comes to.
AIMS = {
    "last.pt": ("weights/.last.pt.tmp", 6),
    "best.pt": ("weights/.best.pt.tmp", 1),
    "results.csv": (".results.csv.tmp", 2),
    "curves": (EVENTS, 12),
}


class Moment(NamedTuple):
    """When to kill: so many seconds after the first checkpoint, or while a file is written for the n-th time."""

    seconds: float | None = None
    aim: str = ""
    write: int = 0

    def __str__(self) -> str:
        return f"{self.aim}, write {self.write}" if self.seconds is None else f"{self.seconds:.1f} s"


def moment_of(number: int, seconds: float, drawn: random.Random) -> Moment:
    if number % 3 == 0:
        return Moment(drawn.uniform(0, seconds))
    aim = list(AIMS)[(number - number // 3 - 1) % len(AIMS)]
    return Moment(aim=aim, write=drawn.randint(1, AIMS[aim][1]))


def killed(words: list[str], folder: Path, moment: Moment) -> bool:
    """Start a run and kill it; False where it came to its end before."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pattern, start, writes, before = AIMS.get(moment.aim, ("", 0))[0], math.inf, 0, 0
    while process.poll() is None:
        if moment.seconds is not None:
            if start == math.inf and (folder / "weights" / "last.pt").exists():
                start = time.monotonic()
            if time.monotonic() - start > moment.seconds:
                break
        elif (now := sign_of(folder, pattern)) != before:
            writes, before = writes + (now > before), now
            if writes == moment.write:
                break
        time.sleep(0.0002)
    else:
        return False
    process.kill()
    process.wait()
    return True


def sign_of(folder: Path, pattern: str) -> int:
    """A number that grows when a file is written: of curves its size, else whether its temporary file is there."""
    if pattern != EVENTS:
        return int((folder / pattern).exists())
    return sum(file.stat().st_size for file in folder.glob(EVENTS))


def states_of(folder: Path) -> list[Any]:
    """All that a run leaves and another of the same configuration has to leave too."""
    last, best = (load_checkpoint(folder / "weights" / name) for name in ("last.pt", "best.pt"))
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    tags = sorted(tag for tag in events.Tags()["scalars"] if not tag.startswith("time/"))
    curves = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}
    keys = ("model", "ema", "losses", "optimizer", "step", "updates", "epoch", "rows", "best_epoch")
    table = (folder / "results.csv").read_text(encoding="utf-8")
    return [{key: last[key] for key in keys}, {key: best[key] for key in ("ema", "epoch")}, curves, table]


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and plain values are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def trial(flags: argparse.Namespace, whole: Path, scratch: Path, number: int, moment: Moment) -> tuple[str, bool]:
    """One kill and what came of it: a line for the table, and whether all was the same."""
    project = scratch / f"killed{number}"
    folder, words = project / "exp", command(flags, project)
    while not killed(words, folder, moment):  # it came to its end before
        shutil.rmtree(project)
        moment = moment._replace(seconds=moment.seconds and 0.8 * moment.seconds, write=max(moment.write - 1, 1))
    last = folder / "weights" / "last.pt"
    stood = load_checkpoint(last) if last.exists() else None
    where = f"epoch {stood['epoch']}, step {stood['tally']['steps']}" if stood else "no checkpoint yet: started anew"
    if stood is None:
        shutil.rmtree(project, ignore_errors=True)
    finished = stood is not None and stood["epoch"] == flags.epochs
    if not finished:
        run([sys.executable, str(TRAIN), "--resume", str(last)] if stood else words)
    equal = same(states_of(folder), states_of(whole))
    shutil.rmtree(project)
    return f"| {number} | {moment} | {where} | {'same' if equal else 'OTHER'} |", equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="deterministic=true, for a GPU")
    flags = parser.parse_args()
    moments = random.Random(flags.seed)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        seconds = seconds_from_first_checkpoint(command(flags, scratch / "whole"), scratch / "whole" / "exp")
        print(f"{flags.epochs} epochs at {flags.imgsz} px, {flags.workers} workers")
        print(f"{seconds:.0f} s from the first checkpoint to the end when not killed\n")
        print("| kill | at | last.pt stood at | resumed run |\n|---|---|---|---|")
        good = 0
        for number in tqdm(range(1, flags.kills + 1), unit="kill"):
            moment = moment_of(number, seconds, moments)
            line, equal = trial(flags, scratch / "whole" / "exp", scratch, number, moment)
            good += equal
            tqdm.write(line)
    print(f"{good} of {flags.kills} ended as the run that nobody killed")
    raise SystemExit(good != flags.kills)


if __name__ == "__main__":
    main()
