"""Count the lines of the package, of its core, and of its longest functions.

    python benchmarks/count_lines.py

Every line of a Python file counts, comments, docstrings and blank lines too. The core is what a newcomer reads to
change a loss, a head or an assigner: the files that match CORE, without those that match BESIDE.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "yolo_lite"

CORE = ("structures.py", "ops/*", "config/*", "loss/*", "model/*", "data/*", "engine/*")
BESIDE = (
    "loss/mask*.py",  # of masks
    "loss/criteria/segment.py",
    "model/heads/segment.py",
    "model/heads/class_rows.py",  # of a start from other weights
    "ops/masks.py",
    "engine/coco_evaluator.py",  # how COCO's evaluation is asked of a library
    "config/summed.py",
    "model/heads/detect_free.py",  # the second head: a newcomer reads one, with its criterion and its assigner
    "ops/distances.py",
    "loss/criteria/free.py",
    "loss/assigners/tal.py",
    "loss/assigners/simota.py",  # assigners that no head has of its own accord
    "loss/assigners/atss.py",
    "loss/assigners/pairs.py",  # sorts over candidate pairs, by which they are written
    "config/faster_rcnn.py",
    "model/faster_rcnn.py",
    "model/backbones.py",  # of Faster R-CNN
    "engine/two_stage.py",  # its criterion
    "config/regular.py",  # how files are opened and replaced
    "config/durable.py",
    "config/run_lock.py",  # one process a run folder
    "data/outputs.py",  # where nothing is written
    "data/inputs.py",
    "config/yaml_loader.py",  # what YAML may hold, and how it is read
    "config/yaml_file.py",
    "config/bounds.py",  # how much may come in
    "model/budget.py",
    "model/gflops.py",
    "model/blocks/backward.py",  # the same to the bit, sooner
    "model/blocks/backbone.py",  # of torchvision and timm, and where its weights come from
    "engine/pretrained.py",
    "engine/start.py",  # or from a checkpoint
    "model/blocks/rare.py",  # of YOLOv5's ghost and transformer models
    "config/options.py",  # what the commands take, and where their files are found
    "config/find.py",
    "engine/resolve.py",
    "config/old.py",  # advice for old keys
    "config/foreign.py",  # files of other programs
    "data/shapes.py",  # draws the embedded set
    "data/masks.py",  # what segmentation adds
    "data/readers/masks.py",
    "data/writers.py",  # of convert
    "data/files.py",  # what folders, lists and patterns name, on any machine, and by which suffix
    "data/places.py",
    "data/suffixes.py",
    "data/decode.py",
    "data/tiff.py",
    "data/listening.py",  # to what libraries print of damaged files
    "data/unreadable.py",  # images that fail at their use
    "engine/unreadable.py",
    "data/readers/coco*.py",  # formats other than YOLO's, and what their files may mean
    "data/readers/voc.py",
    "data/readers/row_kinds.py",
    "data/turned.py",
    "data/names.py",
    "data/doubts.py",  # warnings
    "data/pairing.py",  # which label file is which image's
    "data/index_cache.py",  # what is kept between runs, and decoded images between epochs
    "data/store.py",
    "data/hand_over.py",  # how forked processes hand batches over, and what a system is short of
    "config/shortage.py",
    "engine/processes.py",  # torchrun
    "engine/freezing.py",  # freeze, freeze_epochs, freeze_norm
    "engine/multi_scale.py",
    "data/balance.py",  # how often images are drawn
    "ops/tiles.py",  # --tile: large images in windows
    "data/tiles.py",
    "data/views.py",
    "engine/tiles.py",
    "engine/batch_size.py",  # --batch-size auto
    "engine/validate.py",  # what val.py does beside the evaluation
    "engine/evaluation_report.py",
    "config/confidence.py",  # --conf, and what validation finds for it
    "engine/operating_points.py",
    "engine/intervals.py",  # how far figures are sure
    "engine/best.py",
    "engine/size_scores.py",  # figures of metrics.json alone
    "engine/masks.py",  # of a split as COCO's run-length code
    "engine/stopwatch.py",
    "engine/detection_files.py",  # --save-json, --save-txt
    "engine/mistakes.py",  # --review
    "engine/review.py",
    "engine/archive.py",  # verifies what is read
    "engine/plain_pickle.py",
    "engine/checkpoint_fields.py",
    "engine/checkpoint.py",  # what a run leaves: weights, figures, its folder
    "engine/record.py",
    "engine/sheets.py",
    "engine/confusion.py",
    "engine/run_folder.py",
    "engine/same_data.py",  # --resume RUN --data NEW
    "engine/stop.py",  # Ctrl-C
)


class Function(NamedTuple):
    """A function and how many lines it has, from ``def`` to its end."""

    lines: int
    place: str


def lines_by_file(package: Path = PACKAGE) -> dict[str, int]:
    """Lines of each Python file, by its path inside the package."""
    files = sorted(package.rglob("*.py"))
    return {file.relative_to(package).as_posix(): len(file.read_bytes().splitlines()) for file in files}


def is_core(path: str) -> bool:
    """Whether a file, named by its path inside the package, belongs to the core."""
    return any(fnmatch.fnmatch(path, one) for one in CORE) and not any(fnmatch.fnmatch(path, one) for one in BESIDE)


def core_lines(files: dict[str, int]) -> int:
    """Lines of the core."""
    return sum(lines for path, lines in files.items() if is_core(path))


def functions(package: Path = PACKAGE) -> Iterator[Function]:
    """Every function and method of the package."""
    for path in lines_by_file(package):
        for node in ast.walk(ast.parse((package / path).read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield Function(lines, f"{path}:{node.lineno} {node.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the files of the core")
    parser.add_argument("--functions", type=int, default=3, help="how many long functions (default: %(default)s)")
    flags = parser.parse_args()
    files = lines_by_file()
    folders = Counter[str]()
    for path, lines in files.items():
        folders[path.split("/")[0] if "/" in path else "."] += lines
    for folder, lines in sorted(folders.items()):
        print(f"{lines:6} {folder}")
    print(f"{sum(files.values()):6} yolo_lite\n{core_lines(files):6} core")
    if flags.files:
        print("".join(f"{lines:8} {path}\n" for path, lines in files.items() if is_core(path)), end="")
    for function in sorted(functions(), reverse=True)[: flags.functions]:
        print(f"{function.lines:6} {function.place}")


if __name__ == "__main__":
    main()
