"""How long does a large set take to be indexed, the first time and the next, and how much memory?

    python benchmarks/index.py --images 100000
    TMPDIR=/dev/shm python benchmarks/index.py --images 1000000 --empty

Makes that many images (hard links to a few small JPEGs) and label files in a temporary folder, and indexes them by
processes that begin anew: without a cache, with it, and with it after 100 labels have changed. With ``--empty`` a
million take minutes: labels are hard links too, and instead of reading an image and its labels its name gives it two
objects. Last is what two loading processes forked from such a start hold: their own pages, their share of all (PSS).
"""

from __future__ import annotations

import argparse
import json
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
import json, os, resource, sys, time
import numpy as np
from yolo_lite.config.data import DatasetConfig
from yolo_lite.data import index as indexing
from yolo_lite.data.index import check_annotations, index_split
from yolo_lite.data.labels import Annotation
two = check_annotations([Annotation(f"{k}", k, (8.0, 8.0, 99.0, 99.0 - k)) for k in range(2)], (480, 640))
if sys.argv[3] == "True":
    indexing.read_image_labels = lambda reader, channels, with_outlines, image, file: two._replace(outlines=None)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
index = index_split(DatasetConfig(train="images/train", names=tuple("abcdefgh")), sys.argv[1] + "/data.yaml", "train")
wall, processor = time.perf_counter() - start, time.process_time()
arrays = sum(value.nbytes for value in vars(index).values() if isinstance(value, np.ndarray))
rows = int(sys.argv[2]) and np.random.default_rng(0).integers(0, len(index), int(sys.argv[2]))
own, pss = [], []
for _ in range(2 if int(sys.argv[2]) else 0):  # forked, they look at images in any order
    here, there = os.pipe()
    if not os.fork():
        [(index.path(row), index.objects(row)) for row in rows.tolist()]
        text = open("/proc/self/smaps_rollup").read().split()
        os.write(there, f"{text[text.index('Private_Dirty:') + 1]} {text[text.index('Pss:') + 1]}".encode())
        time.sleep(2)
        os._exit(0)
    one = os.read(here, 100).split()
    own.append(int(one[0]) / 1024)
    pss.append(int(one[1]) / 1024)
facts = (wall, processor, before, peak(), len(index), index.num_objects, arrays / 2**20, *own, *pss)
print(json.dumps(facts))
"""
LOOKED_AT = 200_000  # images, by each forked process


def make_set(root: Path, num_images: int, empty: bool) -> None:
    """Images of 640 x 480 noise and about seven objects each, or labels of no use."""
    rng = np.random.default_rng(0)
    for folder in ("images/train", "labels/train", "sources"):
        (root / folder).mkdir(parents=True)
    for number in range(16):
        picture = cv2.resize(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (640, 480))
        cv2.imwrite(str(root / f"sources/{number}.jpg"), picture)
        (root / f"sources/{number}.txt").touch()
    for number in tqdm(range(num_images), desc="making the set"):
        # Sixteen files: one alone may not have so many names.
        os.link(root / f"sources/{number % 16}.jpg", root / f"images/train/{number:07d}.jpg")
        label = root / f"labels/train/{number:07d}.txt"
        if empty:
            os.link(root / f"sources/{number % 16}.txt", label)
            continue
        rows = [f"{k % 8} {x:.6f} {y:.6f} 0.2 0.3" for k, (x, y) in enumerate(rng.uniform(0.2, 0.8, (number % 15, 2)))]
        label.write_text("\n".join(rows))


def read(root: Path, empty: bool, looked_at: int = 0) -> list[float]:
    """Seconds by the clock and of all cores, MiB before and at most, images, objects, MiB of arrays, of processes."""
    environment = os.environ | {"YOLO_LITE_CACHE": str(root / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(root), str(looked_at), str(empty)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return list(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--empty", action="store_true")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_set(root, flags.images, flags.empty)
        time.sleep(3)  # files younger than two seconds are not trusted
        print("| start | wall, s | processor, s | memory before, MiB | peak, MiB |\n|---|---|---|---|---|")
        for name in ("first", "second", "third", "100 labels changed"):
            if name.startswith("100"):
                for label in list((root / "labels/train").iterdir())[:100]:
                    label.unlink()
                    label.write_text("0 0.5 0.5 0.1 0.1\n")
            wall, processor, before, peak, num_images, num_objects, arrays, *_ = read(root, flags.empty)
            print(f"| {name} | {wall:.1f} | {processor:.1f} | {before:.0f} | {peak:.0f} |")
        size = sum(file.stat().st_size for file in (root / "cache").iterdir()) / 2**20
        print(
            f"\n{num_images:.0f} images, {num_objects:.0f} objects, cache file {size:.0f} MiB, arrays {arrays:.0f} MiB"
        )
        *_, own, other, pss, another = read(root, flags.empty, LOOKED_AT)
        print(f"two forked processes, MiB: {own:.0f} and {other:.0f} of their own, {pss:.0f} and {another:.0f} PSS")


if __name__ == "__main__":
    main()
