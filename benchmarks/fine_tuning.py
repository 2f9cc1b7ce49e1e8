r"""mAP over epochs: from scratch, and from imported weights in a third of the epochs.

    yolo-lite import ../shared/weights/yolov5n/yolov5n.pt -o yolov5n_lite.pt
    python benchmarks/fine_tuning.py --weights yolov5n_lite.pt --picture docs/fine_tuning.png \
        --data ../shared/data/bccd/data.yaml ../shared/data/raccoon/data.yaml

A run that is there already, in --project, is read instead of trained.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from yolo_lite.report.drawing import write_image
from yolo_lite.report.figure import new_figure, pixels

ROOT = Path(__file__).resolve().parent.parent


def run(data: str, flags: argparse.Namespace, tuned: bool) -> list[dict[str, str]]:
    """The rows of results.csv of one run."""
    epochs = flags.epochs // 3 if tuned else flags.epochs
    folder = Path(flags.project) / f"{Path(data).resolve().parent.name}_{epochs}"
    if not (folder / "metrics.json").exists():
        words = ["--cfg", "cfg/yolo_n.yaml", "--hyp", "cfg/hyp.yaml", "--data", str(Path(data).resolve())]
        words += ["--imgsz", str(flags.imgsz), "--batch-size", "16", "--epochs", str(epochs), "--exist-ok"]
        words += ["--project", str(Path(flags.project).resolve()), "--name", folder.name]
        words += ["--weights", str(Path(flags.weights).resolve())] if tuned else []
        subprocess.run([sys.executable, "train.py", *words], check=True, cwd=ROOT)
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--project", default="runs/fine_tuning")
    parser.add_argument("--picture", required=True)
    flags = parser.parse_args()
    figure = new_figure(5 * len(flags.data) + 1, 4)
    print("| set | start | epochs | mAP50 | mAP50-95 |\n|---|---|---|---|---|")
    for axes, data in zip(figure.subplots(1, len(flags.data), squeeze=False).flat, flags.data, strict=True):
        name = Path(data).resolve().parent.name
        for tuned, start, colour in ((False, "from scratch", "tab:gray"), (True, "imported weights", "tab:blue")):
            rows = run(data, flags, tuned)
            values = [float(row["metrics/mAP50-95"]) for row in rows]
            axes.plot(range(1, len(rows) + 1), values, color=colour, label=start)
            print(f"| {name} | {start} | {len(rows)} | {float(rows[-1]['metrics/mAP50']):.3f} | {values[-1]:.3f} |")
        axes.set(title=name, xlabel="epoch", ylabel="mAP50-95", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    write_image(flags.picture, pixels(figure))


if __name__ == "__main__":
    main()
