"""``yolo-lite check``: the dataset doctor."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_lite.cli.anchors import model_anchors
from yolo_lite.cli.flags import FitConfig, add_fit_flags, fit_config

if TYPE_CHECKING:
    import numpy as np

    from yolo_lite.data.index import DatasetIndex
    from yolo_lite.tools.doctor import Diagnosis

EXAMPLES = 3  # of a kind, that are printed


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite check``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite check",
        description="Read a whole dataset as training would, and say what is wrong with it. Nothing in it is changed. "
        "Exit status 1 where training would be harmed.",
    )
    add = parser.add_argument
    add_fit_flags(parser)
    add("--json", action="store_true", help="print the whole report as JSON")
    add("--fix-into", metavar="DIR", help="write a copy without what is wrong into a new folder outside the dataset")
    add("--project", default="runs/check", help="folder of reports (default: %(default)s)")
    add("--name", default="exp", help="folder of this report; a number is added if it is there (default: %(default)s)")
    add("--exist-ok", action="store_true", help="write into an existing folder")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the report, write it and a picture into a run folder; 1 comes back where training would be harmed."""
    from yolo_lite.data.index import dataset_root
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.report.pictures import write_picture
    from yolo_lite.tools.convert import check_folder
    from yolo_lite.tools.doctor import diagnose

    config = fit_config(arguments)
    if arguments.fix_into:
        check_folder(Path(arguments.fix_into), dataset_root(config.data, config.data_file))
    anchors = model_anchors(config.model)
    diagnosis = diagnose(config.data, config.data_file, config.longest)
    content = _content(diagnosis, config, anchors)
    folder = make_run_folder(arguments.project, arguments.name, arguments.exist_ok)
    as_json, text = json.dumps(content, indent=2), _text(content, arguments.cfg)
    (folder / "report.json").write_text(as_json + "\n", encoding="utf-8")
    full_text = _text(content, arguments.cfg, examples=None)
    (folder / "report.txt").write_text(full_text + "\n", encoding="utf-8", errors="backslashreplace")
    if (picture := _picture(diagnosis, config, anchors)) is not None:
        write_picture(folder / "dataset.png", picture)
    print(as_json if arguments.json else f"{text}\n\n{folder}: report.txt, report.json, dataset.png")
    if arguments.fix_into:
        copy = _fix_into(Path(arguments.fix_into), diagnosis, config)
        print(f"a copy without what is wrong: {copy}", file=sys.stderr if arguments.json else sys.stdout)
    return int(content["severities"].get("error", 0) > 0)


def _content(diagnosis: Diagnosis, config: FitConfig, anchors: np.ndarray | None) -> dict[str, Any]:
    """The report as plain data."""
    findings = [{"severity": one.severity, **one._asdict()} for one in diagnosis.findings]
    return {
        "data": config.data_file,
        "imgsz": config.longest,
        "anchor_t": config.anchor_t,
        "splits": {
            split: {"listed": len(diagnosis.examined[split]), **_split_content(index, config, anchors)}
            for split, index in diagnosis.splits.items()
        },
        "severities": Counter(one["severity"] for one in findings),
        "kinds": Counter(one["kind"] for one in findings),
        "findings": findings,
    }


def _split_content(index: DatasetIndex, config: FitConfig, anchors: np.ndarray | None) -> dict[str, Any]:
    from yolo_lite.tools.anchors import best_ratios, training_sizes

    sizes, label = training_sizes(index, config.longest), index.label[~index.crowd]
    fits = None if anchors is None else best_ratios(sizes, anchors.reshape(-1, 2)) < config.anchor_t
    classes = {
        name: {"objects": int(chosen.sum()), "anchor_recall": _share(fits, chosen)}
        for name, chosen in ((name, label == number) for number, name in enumerate(index.names))
    }
    return {
        "images": len(index),
        "backgrounds": index.num_backgrounds,
        "objects": index.num_objects,
        "crowds": int(index.crowd.sum()),
        "side": _quantiles(sizes.prod(axis=1) ** 0.5),
        "aspect_ratio": _quantiles(sizes[:, 0] / sizes[:, 1]),
        "anchor_recall": _share(fits, label >= 0),
        "classes": classes,
    }


def _share(fits: np.ndarray | None, chosen: np.ndarray) -> float | None:
    return None if fits is None or not chosen.any() else round(float(fits[chosen].mean()), 6)


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    import numpy as np

    shares = {"min": 0, "5%": 5, "median": 50, "95%": 95, "max": 100}
    return {name: round(float(np.percentile(values, at)), 3) for name, at in shares.items()} if len(values) else None


def _fix_into(folder: Path, diagnosis: Diagnosis, config: FitConfig) -> str:
    """Write the copy, in the format that the dataset has; the path of its YAML comes back."""
    from yolo_lite.data.formats import FORMATS
    from yolo_lite.data.index import dataset_root
    from yolo_lite.tools.convert import write_dataset
    from yolo_lite.tools.doctor import cleaned

    reader = next(iter(diagnosis.readers.values()))
    to = next(name for name, kind in FORMATS.items() if kind is type(reader))
    splits, root = cleaned(diagnosis, config.data), dataset_root(config.data, config.data_file)
    return str(write_dataset(splits, root, folder, to, polygons=True, copy_images=True))


def _picture(diagnosis: Diagnosis, config: FitConfig, anchors: np.ndarray | None) -> np.ndarray | None:
    """None where no split has an object."""
    import numpy as np

    from yolo_lite.report.dataset_picture import DatasetShape, dataset_picture
    from yolo_lite.tools.anchors import training_sizes

    split = next((split for split, index in diagnosis.splits.items() if index.num_objects), None)
    if split is None:
        return None
    index = diagnosis.splits[split]
    counts = {split: index.counts for split, index in diagnosis.splits.items()}
    learnt = ~index.crowd
    centre = ((index.xyxy[:, :2] + index.xyxy[:, 2:]) / 2 / index.size[index.owner, ::-1])[learnt]
    per_image = np.bincount(index.owner[learnt], minlength=len(index))
    size = training_sizes(index, config.longest)
    return dataset_picture(DatasetShape(index.names, counts, split, size, centre, per_image, config.longest, anchors))


# ---------------------------------------------------------------------------------------------------------- as a text


def _text(content: dict[str, Any], cfg: str, examples: int | None = EXAMPLES) -> str:
    """The report for people; ``examples`` of each kind, or all."""
    splits = content["splits"]
    parts = [f"{content['data']} at {content['imgsz']} px", _split_table(splits), _class_table(splits)]
    reach = f"objects whose sides are within {content['anchor_t']:g} times those of an anchor of {cfg}"
    parts.append(f"side and width / height: 5 %, median, 95 %; anchors: {reach}, which can be learnt")
    for kind, count in content["kinds"].items():
        found = [one for one in content["findings"] if one["kind"] == kind]
        more = [] if examples is None or count <= examples else [f"  ... and {count - examples} more"]
        lines = [f"  {one['text']}" for one in found[:examples]]
        parts.append("\n".join([f"{found[0]['severity']}: {kind}: {count}", *lines, *more]))
    counts = content["severities"]
    parts.append(", ".join(f"{counts.get(name, 0)} {name}s" for name in ("error", "warning", "note")))
    return "\n\n".join(parts)


def _split_table(splits: dict[str, Any]) -> str:
    columns = ("listed", "images", "backgrounds", "objects", "crowds")
    rows = [["", *columns, "side, pixels", "width / height", "anchors"]]
    for split, one in splits.items():
        spans = (_span(one["side"]), _span(one["aspect_ratio"]), _percent(one["anchor_recall"]))
        rows.append([split, *(f"{one[column]:,}" for column in columns), *spans])
    return _aligned(rows)


def _class_table(splits: dict[str, Any]) -> str:
    first = next(iter(splits.values()))["classes"] if splits else {}
    rows = [["class", *splits, "anchors"]]
    for name, one in first.items():
        counts = (f"{split['classes'][name]['objects']:,}" for split in splits.values())
        rows.append([name, *counts, _percent(one["anchor_recall"])])
    return _aligned(rows)


def _span(quantiles: dict[str, float] | None) -> str:
    return " ".join(f"{quantiles[key]:.3g}" for key in ("5%", "median", "95%")) if quantiles else "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _aligned(rows: list[list[str]]) -> str:
    """Columns of texts: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in rows)
    )
