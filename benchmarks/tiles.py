"""AP over whole images and milliseconds an image, with and without tiles.

    python benchmarks/tiles.py --draw ../large                                     # 2,000 px images, 12 px objects
    python benchmarks/tiles.py --data ../large/large.yaml --epochs 60 --imgsz 640 --tile 0 640
    python benchmarks/tiles.py --data ../shared/data/plates/plates.yaml --weights plates.pt --imgsz 320 --tile 0 160 320

Without --weights a model is trained for each tile (the key ``tile``, 0 is the whole image alone), then each is
validated with each. The drawn set has small objects that vanish where an image is resized to 640 px, and large ones
that no window holds. "load" is what reading, decoding and resizing leave the network waiting; all on one process.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import yolo_lite

SIDE = 2000  # pixels of an image
NAMES = ("circle", "square", "triangle", "frame")
SMALL = (10, 14)  # pixels of the first three
LARGE = (700, 1200)  # of a frame: no window of 640 px holds it
COUNT = (20, 60)  # small objects of an image
SPLITS = {"train": 48, "val": 16}


def draw_set(folder: Path, side: int = SIDE, splits: dict[str, int] | None = None) -> Path:
    """Images, YOLO labels and the dataset YAML, whose path comes back."""
    for split, count in (splits or SPLITS).items():
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, rows = draw_image(np.random.default_rng([split == "val", number]), side)
            cv2.imwrite(str(folder / f"images/{split}/{number:03}.png"), image)
            text = "".join(f"{label} {' '.join(f'{value:.8f}' for value in box)}\n" for label, *box in rows)
            (folder / f"labels/{split}/{number:03}.txt").write_text(text, encoding="utf-8")
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    text = f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}"
    (folder / "large.yaml").write_text(text, encoding="utf-8")
    return folder / "large.yaml"


def draw_image(rng: np.random.Generator, side: int) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """A mottled ground with a frame and small objects, which do not touch; rows of class and box in fractions."""
    coarse = rng.integers(60, 200, (side // 100, side // 100, 3), dtype=np.uint8)
    ground = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    image = cv2.add(ground, rng.integers(0, 40, (side, side, 3), dtype=np.uint8))
    rows, free = list[tuple[float, ...]](), np.ones((side, side), bool)
    labels = [3, *rng.integers(0, 3, rng.integers(*COUNT)).tolist()]
    for label in labels:
        size = int(rng.integers(*(LARGE if label == 3 else SMALL)) * (side / SIDE if label == 3 else 1))
        left, top = (int(rng.integers(0, side - size)) for _ in range(2))
        place = (slice(max(top - 2, 0), top + size + 2), slice(max(left - 2, 0), left + size + 2))
        if not free[place].all() and label != 3:
            continue
        colour = tuple(int(value) for value in rng.choice([0, 255], 3))
        draw(image, label, (left, top), size, colour)
        if label != 3:
            free[place] = False
        rows.append((label, *(value / side for value in (left + size / 2, top + size / 2, size, size))))
    return image, rows


def draw(image: np.ndarray, label: int, corner: tuple[int, int], size: int, colour: tuple[int, ...]) -> None:
    """One object, ``size`` pixels wide and high, in place."""
    (left, top), end = corner, size - 1
    if label == 0:
        cv2.circle(image, (8 * (2 * left + end), 8 * (2 * top + end)), 8 * end, colour, cv2.FILLED, shift=4)
    elif label == 1:
        cv2.rectangle(image, corner, (left + end, top + end), colour, cv2.FILLED)
    elif label == 2:
        points = np.array([(left + size // 2, top), (left, top + end), (left + end, top + end)], np.int32)
        cv2.fillPoly(image, [points], colour)
    else:
        width = size // 12
        middle = [(left + width // 2, top + width // 2), (left + end - width // 2, top + end - width // 2)]
        cv2.rectangle(image, middle[0], middle[1], colour, width)


def row(name: str, weights: str, tile: int, flags: argparse.Namespace) -> str:
    """The figures of one validation as a row of the table."""
    given: dict[str, Any] = {"weights": weights, "data": flags.data, "imgsz": flags.imgsz, "device": flags.device}
    found = yolo_lite.evaluate(**given, tile=tile, overlap=flags.overlap, batch_size=flags.batch_size, workers=0)
    stages, figures = found["ms_per_image_by_stage"], ("map50_95", "map50", "ap_small", "ap_large")
    scores = " | ".join("-" if found[one] is None else f"{found[one]:.3f}" for one in figures)
    times = " | ".join(f"{stages[stage]:.1f}" for stage in ("load", "model", "nms", "ap"))
    return f"| {name} | {tile or '-'} | {scores} | {times} | {sum(stages.values()):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", help="a folder: the set is drawn there, and nothing else happens")
    parser.add_argument("--data", help="dataset YAML")
    parser.add_argument("--weights", nargs="*", default=[], help="checkpoints (default: one is trained for each tile)")
    parser.add_argument("--tile", nargs="+", type=int, default=[0, 640], help="pixels of a window's side; 0: none")
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--cfg", default="cfg/yolo_n.yaml")
    parser.add_argument("--hyp", default="cfg/hyp.yaml")
    parser.add_argument("--start", help="checkpoint from which the trainings start")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="")
    parser.add_argument("--set", nargs="*", default=[], help="keys of hyp.yaml of the trainings")
    parser.add_argument("--project", default="runs/tiles")
    flags = parser.parse_args()
    if flags.draw:
        print(draw_set(Path(flags.draw)))
        return
    models = {Path(path).parts[-3] if len(Path(path).parts) > 2 else path: path for path in flags.weights}
    for tile in [] if flags.weights else flags.tile:
        run = yolo_lite.train(
            **{
                name: getattr(flags, name) for name in ("cfg", "hyp", "data", "imgsz", "epochs", "batch_size", "device")
            },
            weights=flags.start,
            **{"set": [f"tile={tile}", *flags.set], "project": flags.project, "name": f"tile_{tile}"},
        )
        models[f"trained with {tile or 'none'}"] = str(run.folder / "weights/best.pt")
    rows = [row(name, weights, tile, flags) for name, weights in models.items() for tile in flags.tile]
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{flags.data}, {flags.imgsz} px, overlap {flags.overlap:g}; milliseconds an image\n")
    print("| weights | tile | mAP50-95 | mAP50 | AP small | AP large | load | model | NMS | AP, merging | all |")
    print("|---|---|---|---|---|---|---|---|---|---|---|\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
