"""How long does a large set take to be indexed, the first time and the next, and how much memory?

    python benchmarks/index.py --images 100000

Makes that many images (hard links to a few small JPEGs) and label files in a temporary folder, and indexes them by
processes that begin anew: without a cache, with it, and with it after 100 labels have changed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

READ = """
import resource, sys, time
from yolo_lite.config.data import DatasetConfig
from yolo_lite.data.index import index_split
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
index = index_split(DatasetConfig(train="images/train", names=tuple("abcdefgh")), sys.argv[1] + "/data.yaml", "train")
print(time.perf_counter() - start, time.process_time(), before, peak(), len(index), index.num_objects)
"""


def make_set(root: Path, num_images: int) -> None:
    """Images of 640 x 480 noise and about seven objects each."""
    rng = np.random.default_rng(0)
    for folder in ("images/train", "labels/train", "sources"):
        (root / folder).mkdir(parents=True)
    for number in range(16):
        picture = cv2.resize(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (640, 480))
        cv2.imwrite(str(root / f"sources/{number}.jpg"), picture)
    for number in tqdm(range(num_images), desc="making the set"):
        # Sixteen files: one alone may not have so many names.
        os.link(root / f"sources/{number % 16}.jpg", root / f"images/train/{number:07d}.jpg")
        rows = [f"{k % 8} {x:.6f} {y:.6f} 0.2 0.3" for k, (x, y) in enumerate(rng.uniform(0.2, 0.8, (number % 15, 2)))]
        (root / f"labels/train/{number:07d}.txt").write_text("\n".join(rows))


def read(root: Path) -> list[float]:
    environment = os.environ | {"YOLO_LITE_CACHE": str(root / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(root)], env=environment, check=True, capture_output=True, text=True
    )
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_set(root, flags.images)
        time.sleep(3)  # files younger than two seconds are not trusted
        print("| start | wall, s | processor, s | memory before, MiB | peak, MiB |\n|---|---|---|---|---|")
        for name in ("first", "second", "third", "100 labels changed"):
            if name.startswith("100"):
                for label in list((root / "labels/train").iterdir())[:100]:
                    label.write_text("0 0.5 0.5 0.1 0.1\n")
            wall, processor, before, peak, num_images, num_objects = read(root)
            print(f"| {name} | {wall:.1f} | {processor:.1f} | {before:.0f} | {peak:.0f} |")
        size = sum(file.stat().st_size for file in (root / "cache").iterdir()) / 2**20
        print(f"\n{num_images:.0f} images, {num_objects:.0f} objects, cache file {size:.0f} MiB")


if __name__ == "__main__":
    main()
