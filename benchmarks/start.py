"""Where the seconds of a start go: an epoch of 16 images as a whole process.

    python benchmarks/start.py
    python benchmarks/start.py --repeats 5 -- --workers 0 --no-figures

Words behind ``--`` are flags of train.py. Printed are the time of the process, by the clock (the fastest run, so that
what else the machine does counts little) and on all cores; the seconds of its imports by package (``-X importtime``:
each module without those that it imports itself, torch's compiler apart from torch); and the functions of yolo_lite,
and ``copy.deepcopy``, with the most time (``cProfile``, which slows Python code down).
"""

from __future__ import annotations

import argparse
import os
import pstats
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
SET = "generate: {kind: shapes, train: 16, val: 16, image_size: 160, seed: 0}\nnames: [a, b, c, d, e]\n"
COMPILER = (
    "torch._dynamo",
    "torch._inductor",
    "torch.fx",
    "torch._functorch",
    "torch.export",
    "torch._export",
    "sympy",
)
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")


class Ran(NamedTuple):
    """What a Python process took, and what it wrote to standard error."""

    seconds: float  # by the clock
    cpu: float  # seconds of all cores, its own processes' too
    log: str


def run(words: list[str], environment: dict[str, str]) -> Ran:
    """Run a Python process to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(process.stdout + process.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(seconds, cpu, process.stderr)


def package_of(module: str) -> str:
    """Whose import a module is: the first part of its name, or torch's compiler."""
    return "torch's compiler" if module.startswith(COMPILER) else module.split(".")[0]


def import_seconds(log: str) -> dict[str, float]:
    """Seconds of imports by package, each module without those that it imports itself."""
    seconds: dict[str, float] = defaultdict(float)
    for microseconds, module in LINE.findall(log):
        seconds[package_of(module)] += int(microseconds) / 1e6
    return seconds


def show_functions(profile: Path, number: int) -> None:
    """The functions of yolo_lite with the most time, callees included."""
    rows: list[tuple[float, int, str]] = []
    for (file, line, name), (_, calls, _, cumulative, _) in pstats.Stats(str(profile)).stats.items():  # type: ignore[attr-defined]
        ours = "yolo_lite/" in file and name != "<module>"
        if ours or (name == "deepcopy" and file.endswith("copy.py")):
            rows.append((cumulative, calls, f"{file.split('yolo_lite/')[-1].split('/lib/')[-1]}:{line} {name}"))
    for cumulative, calls, name in sorted(rows, reverse=True)[:number]:
        print(f"{cumulative:7.2f} {calls:8} {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=25, help="of each table (default: %(default)s)")
    parser.add_argument("words", nargs="*", help="flags of train.py, behind --")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data, profile = Path(scratch) / "small.yaml", Path(scratch) / "profile"
        data.write_text(SET, encoding="utf-8")
        words = ["train.py", "--cfg", "cfg/yolo_n.yaml", "--data", str(data), "--epochs", "1", "--imgsz", "160"]
        words += ["--project", scratch, "--device", "cpu", *flags.words]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "YOLO_LITE_CACHE": scratch, "TQDM_DISABLE": "1"}
        run(words, environment)  # draws the set, compiles bytecode
        runs = sorted(run(words, environment) for _ in range(flags.repeats))
        print(" ".join(words))
        print(f"{runs[0].seconds:.2f} s, the fastest of {flags.repeats}; {min(one.cpu for one in runs):.2f} s of CPU\n")
        imports = import_seconds(run(["-X", "importtime", *words], environment).log)
        print(f"{sum(imports.values()):7.2f} s of imports")
        for package, one in sorted(imports.items(), key=lambda item: -item[1])[: flags.rows]:
            print(f"{one:7.2f} {package}")
        run(["-m", "cProfile", "-o", str(profile), *words], environment)
        print("\nseconds    calls function")
        show_functions(profile, flags.rows)


if __name__ == "__main__":
    main()
