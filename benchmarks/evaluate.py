"""Seconds to validate a split, by stage, for checkpoints from early (many boxes) and late in a training run.

python benchmarks/evaluate.py --weights early.pt late.pt --data ../shared/data/bccd/data.yaml
"""

from __future__ import annotations

import argparse

from yolo_lite.config.options import ValOptions
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.validate import prepare_validation


def fastest(options: ValOptions, repeats: int) -> Evaluation:
    """The evaluation that took least of some."""
    return min((prepare_validation(options)() for _ in range(repeats)), key=lambda run: sum(run.seconds.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    rows = []
    for weights in flags.weights:
        best = fastest(ValOptions(weights=weights, data=flags.data, workers=0), flags.repeats)
        cells = " | ".join(f"{seconds:.2f}" for seconds in (*best.seconds.values(), sum(best.seconds.values())))
        rows.append(f"| {weights} | {len(best.detections.score)} | {best.scores.overall.map50_95:.3f} | {cells} |")
    stages = " | ".join(best.seconds)
    print(f"| checkpoint | detections | mAP50-95 | {stages} | all |\n|{'---|' * (len(best.seconds) + 4)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
