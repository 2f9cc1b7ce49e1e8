"""Does a run's memory stay flat over many epochs?

    python benchmarks/memory.py --data data/shapes.yaml --picture docs/memory.png

Trains yolo_n in a process of its own and reads after every epoch what it and its loading processes hold: anonymous
and shared memory, pages that several of them share counted once, without the mapped files of libraries.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

TRAIN = Path(__file__).resolve().parent.parent / "train.py"


def megabytes(process: int) -> float:
    """What a process and its children hold, in MiB; Linux only."""
    tasks = Path(f"/proc/{process}/task")
    children = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    total = 0.0
    for member in (process, *children):
        rows = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        total += sum(int(row.split()[1]) for row in rows if row.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 1024
    return total


def epochs_done(table: Path) -> int:
    return max(len(table.read_text().splitlines()) - 1, 0) if table.exists() else 0


def measure(words: list[str], table: Path, epochs: int) -> list[float]:
    """Memory after each epoch, in MiB."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    held: list[float] = []
    with tqdm(total=epochs, unit="epoch") as bar:
        while process.poll() is None:
            if epochs_done(table) > len(held):
                try:
                    held.append(megabytes(process.pid))
                except OSError:  # a process has ended meanwhile
                    continue
                bar.update()
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(process.returncode)
    return held


def draw(held: list[float], path: Path) -> None:
    """Memory over epochs."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(range(1, len(held) + 1), held)
    axes.set(
        xlabel="epoch", ylabel="memory, MiB", ylim=(0, max(held) * 1.2), title="training, loading processes included"
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--imgsz", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="draw the curve here (needs matplotlib)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as project:
        words = [sys.executable, str(TRAIN), "--cfg", "cfg/yolo_n.yaml", "--hyp", "cfg/hyp.yaml", "--data", flags.data]
        words += ["--epochs", str(flags.epochs), "--imgsz", str(flags.imgsz), "--workers", str(flags.workers)]
        words += ["--batch-size", "16", "--device", "cpu", "--project", project, "--set", "patience=0"]
        held = measure(words, Path(project, "exp", "results.csv"), flags.epochs)
    early, late = np.mean(held[len(held) // 10 : len(held) // 5]), np.mean(held[-len(held) // 10 :])
    slope = np.polyfit(range(len(held) // 10, len(held)), held[len(held) // 10 :], 1)[0]
    print(f"{len(held)} readings: after a tenth {early:.0f} MiB, at the end {late:.0f} MiB, {slope:+.3f} MiB an epoch")
    if flags.picture:
        draw(held, flags.picture)


if __name__ == "__main__":
    main()
