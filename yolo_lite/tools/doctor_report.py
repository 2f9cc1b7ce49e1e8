"""What the dataset doctor says: a report as plain data, as text and as an image."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.doubts import best_ratios
from yolo_lite.data.index import DatasetIndex
from yolo_lite.ops.box_arrays import xyxy_to_cxcywh
from yolo_lite.report.dataset_image import DatasetShape, dataset_image
from yolo_lite.report.drawing import write_image
from yolo_lite.report.table import aligned_table
from yolo_lite.tools.doctor import Diagnosis

EXAMPLES = 3  # findings of each kind that the short text shows
PERCENTILES = {"min": 0, "5%": 5, "median": 50, "95%": 95, "max": 100}


def make_report(diagnosis: Diagnosis, anchors: np.ndarray | None, anchor_t: float, cfg: str) -> dict[str, Any]:
    """The report as plain data.

    Args:
        anchors: ``[levels, anchors a level, 2]`` in pixels; None for a model that does not match by shape.
        anchor_t: an object can be learnt where its sides are within this many times those of an anchor.
        cfg: the model's YAML.
    """
    findings = [{"severity": one.severity, **one._asdict()} for one in diagnosis.findings]
    return {
        "data": diagnosis.data_file,
        "cfg": cfg,
        "imgsz": diagnosis.longest,
        "anchor_t": anchor_t,
        "splits": {
            split: {"listed": len(diagnosis.examined[split]), **_describe(index, diagnosis, anchors, anchor_t)}
            for split, index in diagnosis.splits.items()
        },
        "severities": Counter(one["severity"] for one in findings),
        "kinds": Counter(one["kind"] for one in findings),
        "findings": findings,
    }


def write_report(folder: Path, report: dict[str, Any], diagnosis: Diagnosis, anchors: np.ndarray | None) -> None:
    """Write report.json, report.txt with every finding and, where a split has objects, dataset.png."""
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = report_text(report, examples=None)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    split = next((split for split, index in diagnosis.splits.items() if index.num_objects), None)
    if split is not None:
        index, longest, learnt = diagnosis.splits[split], diagnosis.longest, ~diagnosis.splits[split].crowd
        counts = {split: index.counts for split, index in diagnosis.splits.items()}
        centre = (xyxy_to_cxcywh(index.xyxy)[:, :2] / index.size[index.owner, ::-1])[learnt]
        drawn = learnt & (num_rings(index) > 0)
        areas = index.outlines.area[drawn] if index.outlines else np.zeros(0)
        filled = areas / (index.xyxy[:, 2:] - index.xyxy[:, :2])[drawn].prod(axis=1)
        per_image, size = np.bincount(index.owner[learnt], minlength=len(index)), diagnosis.sizes(index)
        shape = DatasetShape(index.names, counts, split, size, centre, per_image, longest, anchors, filled)
        write_image(folder / "dataset.png", dataset_image(shape))


def _describe(index: DatasetIndex, diagnosis: Diagnosis, anchors: np.ndarray | None, anchor_t: float) -> dict[str, Any]:
    sizes, label = diagnosis.sizes(index), index.label[~index.crowd]
    fits = None if anchors is None else best_ratios(sizes, anchors.reshape(-1, 2)) < anchor_t
    classes = {
        name: {"objects": int((label == number).sum()), "anchor_recall": _share(fits, label == number)}
        for number, name in enumerate(index.names)
    }
    return {
        "images": len(index),
        "backgrounds": index.num_backgrounds,
        "objects": index.num_objects,
        "crowds": int(index.crowd.sum()),
        "outlines": int((num_rings(index)[~index.crowd] > 0).sum()),
        "in several parts": int((num_rings(index)[~index.crowd] > 1).sum()),
        "rows": len(index.label) + sum(count for _, count in index.left_out),
        "left_out": dict(index.left_out),
        "side": _quantiles(sizes.prod(axis=1) ** 0.5),
        "aspect_ratio": _quantiles(sizes[:, 0] / sizes[:, 1]),
        "anchor_recall": _share(fits, label >= 0),
        "classes": classes,
    }


def num_rings(index: DatasetIndex) -> np.ndarray:
    """The rings ``[T]`` of each object's outline."""
    return np.diff(index.outlines.first_ring) if index.outlines else np.zeros(len(index.label), np.int64)


def _share(fits: np.ndarray | None, chosen: np.ndarray) -> float | None:
    return None if fits is None or not chosen.any() else round(float(fits[chosen].mean()), 6)


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {name: round(float(np.percentile(values, at)), 3) for name, at in PERCENTILES.items()}


def report_text(report: dict[str, Any], examples: int | None = EXAMPLES) -> str:
    """The report for people; ``examples`` of each kind, or all."""
    splits = report["splits"]
    parts = [f"{report['data']} at {report['imgsz']} px", _split_table(splits), _account(splits), _class_table(splits)]
    reach = f"objects whose sides are within {report['anchor_t']:g} times those of an anchor of {report['cfg']}"
    parts.append(f"side and width / height: 5 %, median, 95 %; anchors: {reach}, which can be learnt")
    for kind, count in report["kinds"].items():
        found = [one for one in report["findings"] if one["kind"] == kind]
        more = [] if examples is None or count <= examples else [f"  ... and {count - examples} more"]
        lines = [f"  {one['text']}" for one in found[:examples]]
        parts.append("\n".join([f"{found[0]['severity']}: {kind}: {count}", *lines, *more]))
    counts = report["severities"]
    parts.append(_conclusion(report))
    parts.append(", ".join(f"{counts.get(name, 0)} {name}s" for name in ("error", "warning", "note")))
    return "\n\n".join(parts)


def _split_table(splits: dict[str, Any]) -> str:
    columns = ["listed", "images", "backgrounds", "objects", "crowds"]
    columns += ["outlines", "in several parts"] if any(one["outlines"] for one in splits.values()) else []
    rows = [["", *columns, "side, pixels", "width / height", "anchors"]]
    for split, one in splits.items():
        spans = (_span(one["side"]), _span(one["aspect_ratio"]), _percent(one["anchor_recall"]))
        rows.append([split, *(f"{one[column]:,}" for column in columns), *spans])
    return aligned_table(rows)


def _conclusion(report: dict[str, Any]) -> str:
    """How much of the set teaches something, and what to look at first."""
    parts = []
    for split, one in report["splits"].items():
        used, rows, recall = one["objects"], max(one["rows"], 1), one["anchor_recall"]
        labelled = one["images"] - one["backgrounds"]
        text = f"{split}: {labelled:,} of {one['listed']:,} images have objects, {used / rows:.1%} of the rows are used"
        parts.append(text if recall is None or recall > 0.9 else f"{text}, {1 - recall:.0%} of which no anchor fits")
    worst = next((one for one in report["findings"] if one["severity"] != "note"), None)
    first = f"look first at: {worst['kind']}" if worst else "nothing speaks against training with it"
    return f"conclusion: {'; '.join(parts)}; {first}"


def _account(splits: dict[str, Any]) -> str:
    """Where every row of the label files went."""
    lines = []
    for split, one in splits.items():
        lines.append(f"{split}: {one['rows']:,} rows in the label files")
        used = {"objects": one["objects"], "crowds or difficult": one["crowds"]}
        left_out = {f"left out: {reason}": count for reason, count in one["left_out"].items()}
        lines += [f"  {count:>10,} {what}" for what, count in {**used, **left_out}.items() if count]
    return "\n".join(lines)


def _class_table(splits: dict[str, Any]) -> str:
    first = next(iter(splits.values()))["classes"] if splits else {}
    rows = [["class", *splits, "anchors"]]
    for name, one in first.items():
        counts = (f"{split['classes'][name]['objects']:,}" for split in splits.values())
        rows.append([name, *counts, _percent(one["anchor_recall"])])
    return aligned_table(rows)


def _span(quantiles: dict[str, float] | None) -> str:
    return " ".join(f"{quantiles[key]:.3g}" for key in ("5%", "median", "95%")) if quantiles else "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
