"""``val.py --review``: the mistakes of an evaluation as crops, as a page, as a table, and as rows for annotation tools.

Whatever the size of a split, ``MOST_SHOWN`` mistakes of each kind are drawn, in ``LARGEST`` bytes of JPEG; mistakes.csv
has them all.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.config.bounds import printable
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.labels import OF_OBJECTS
from yolo_lite.data.masks import rings_of
from yolo_lite.data.outlines import Outlines, offsets_of
from yolo_lite.data.unreadable import without_images
from yolo_lite.data.writers import coco_content, write_yolo
from yolo_lite.engine.confusion import SHOWN_CONFIDENCE
from yolo_lite.engine.evaluate import Evaluation
from yolo_lite.engine.masks import decoded
from yolo_lite.engine.mistakes import KINDS, Mistake, find_mistakes
from yolo_lite.engine.run_folder import unique_stems
from yolo_lite.engine.sheets import pixels_of
from yolo_lite.report.drawing import WHITE, as_rgb, class_colour, draw_masks
from yolo_lite.report.review_page import Card, Chapter, Outline, crop, review_page

MOST_SHOWN, LARGEST = 100, 3 * 2**20  # mistakes of a kind on a page, bytes of their crops
MOST_ROWS = 50  # classes in a table
HEADER = ("kind", "image", "left", "top", "right", "bottom", "label", "found_as", "confidence", "note", "crop")
LEGEND = "Thick: the mistake, in the colour of its class. Thin: other detections. White: labels."

Mistakes = Mapping[str, Sequence[Mistake]]


def write_review(folder: Path, evaluation: Evaluation, subject: str = "") -> str:
    """Write a folder ``review``, or ``review2`` where that is there; what it holds comes back, in a line.

    Args:
        subject: what was evaluated on what, for the page.
    """
    index, mistakes = evaluation.split.dataset, find_mistakes(evaluation)
    numbered = (folder / f"review{number}" for number in itertools.count(2))
    place = next(one for one in itertools.chain((folder / "review",), numbered) if not one.exists())
    root = os.path.commonpath([os.path.dirname(index.path(position)) for position in range(len(index))])
    names = [printable(os.path.relpath(index.path(position), root)) for position in range(len(index))]
    crops = {kind: _crops(evaluation, own[:MOST_SHOWN]) for kind, own in mistakes.items()}
    table: list[Sequence[object]] = [HEADER]
    for kind, own in mistakes.items():
        files = [f"crops/{kind.replace(' ', '_')}/{number:03}.jpg" for number in range(1, len(crops[kind]) + 1)]
        (place / "crops" / kind.replace(" ", "_")).mkdir(parents=True)
        for file, jpeg in zip(files, crops[kind], strict=True):
            (place / file).write_bytes(jpeg)
        for one, file in zip(own, files + [""] * (len(own) - len(files)), strict=True):
            classes = ("" if label < 0 else index.names[label] for label in (one.label, one.found))
            score = "" if one.found < 0 else f"{one.score:.4f}"
            table.append((kind, names[one.image], *one.xyxy.round(2).tolist(), *classes, score, one.note, file))
    with (place / "mistakes.csv").open("w", encoding="utf-8", newline="", errors="backslashreplace") as csv_file:
        csv.writer(csv_file).writerows(table)
    counts = f"{subject}{len(index):,} images, {index.num_objects:,} objects; confidence above {SHOWN_CONFIDENCE}."
    text = f"{counts} {_write_rows(place, index, names, mistakes)}. {LEGEND}"
    chapters = [_chapter(index, names, kind, own, crops[kind]) for kind, own in mistakes.items()]
    page = review_page("What it gets wrong", text, _by_class(index, mistakes), chapters)
    (place / "review.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return f"{', '.join(f'{kind}: {len(own)}' for kind, own in mistakes.items())}; {place / 'review.html'}"


def _crops(evaluation: Evaluation, mistakes: Sequence[Mistake]) -> list[bytes]:
    """The first mistakes with what is around them, as many as fit into ``LARGEST``, as JPEG."""
    index, table = evaluation.split.dataset, evaluation.detections
    table, crops = table.select(table.score > SHOWN_CONFIDENCE), [b""] * len(mistakes)
    by_image = sorted(range(len(mistakes)), key=lambda number: mistakes[number].image)  # each is read once
    for image, numbers in itertools.groupby(by_image, key=lambda number: mistakes[number].image):
        pixels, own = as_rgb(pixels_of(index, image)), np.flatnonzero(table.image == image)
        lines: list[Outline] = [(box, WHITE, 2) for box in index.objects(image)[1]]
        lines += [(table.xyxy[row], class_colour(int(table.label[row])), 2) for row in own]
        for number in numbers:
            one = mistakes[number]
            label = one.label if one.found < 0 else one.found
            drawn = pixels if one.mask is None else draw_masks(pixels, decoded([one.mask]), np.array([label]))
            crops[number] = crop(drawn, [(one.xyxy, class_colour(label), 4), *lines])
    return crops[: np.searchsorted(np.cumsum([*map(len, crops)]), LARGEST, side="right")]


def _chapter(
    index: DatasetIndex, names: Sequence[str], kind: str, own: Sequence[Mistake], crops: Sequence[bytes]
) -> Chapter:
    """What a page shows of one kind, and what it leaves out."""
    labels = ([label for label in (one.label, one.found) if label >= 0] for one in own)
    titles = [" found as ".join(index.names[label] for label in few) for few in labels]
    text = f"{KINDS[kind]} {_counted(titles)}."
    if left_out := titles[len(crops) :]:
        limits = (
            f"{len(crops)} are shown, for a page holds {MOST_SHOWN} of a kind and {LARGEST >> 20} MiB of them at most"
        )
        text += f" {limits}; {len(left_out):,} more are in mistakes.csv: {_counted(left_out)}."
    cards = []
    for one, title, jpeg in zip(own, titles, crops, strict=False):
        left, top, right, bottom = one.xyxy.round().astype(int).tolist()
        heading = title if one.found < 0 else f"{title} {one.score:.2f}"
        cards.append(Card(jpeg, heading, (one.note, f"x {left}-{right}, y {top}-{bottom}", names[one.image])))
    return Chapter(kind, text, len(own), cards)


def _counted(titles: Sequence[str]) -> str:
    """The ten most frequent titles with their counts, and how many others there are."""
    counts = Counter(titles).most_common()
    rest = [f"{sum(count for _, count in counts[10:]):,} of {len(counts) - 10} others"] if len(counts) > 10 else []
    return ", ".join([*(f"{count:,} {title:.60}" for title, count in counts[:10]), *rest]) or "None"


def _by_class(index: DatasetIndex, mistakes: Mistakes) -> list[list[str]]:
    """A row for each class, that with the most mistakes first: its objects, and its mistakes of each kind."""
    labels = ([one.found if one.label < 0 else one.label for one in own] for own in mistakes.values())
    counts = (np.bincount(np.array(own, np.int64), minlength=len(index.names)) for own in labels)
    table = np.stack((index.counts, *counts), axis=1)  # [C, kinds]
    order = np.argsort(-table[:, 1:].sum(axis=1), kind="stable")
    rows = [(index.names[label], table[label]) for label in order[:MOST_ROWS]]
    if len(order) > MOST_ROWS:
        rows.append((f"{len(order) - MOST_ROWS} other classes", table[order[MOST_ROWS:]].sum(axis=0)))
    rows.append(("all", table.sum(axis=0)))
    return [["class", "objects", *mistakes], *([name, *(f"{one:,}" for one in own)] for name, own in rows)]


def _write_rows(place: Path, index: DatasetIndex, names: Sequence[str], mistakes: Mistakes) -> str:
    """The labels of all images in which one may be wrong, doubtful ones added, for annotation tools.

    YOLO's text files, and COCO's annotations.json, whose annotations say why in their ``attributes``.
    """
    added, about = mistakes["doubtful labels"], dict[int, dict[str, object]]()
    for kind in ("misses", "wrong classes", "doubtful labels"):
        for row, one in enumerate(mistakes[kind], len(index.label)):
            found = {} if one.found < 0 else {"found_as": index.names[one.found], "confidence": round(one.score, 4)}
            about[row if one.row < 0 else one.row] = {"review": kind, **found}
    larger, rows = _with_objects(index, added)
    is_kept = np.isin(np.arange(len(index)), larger.owner[np.isin(rows, [*about])])
    if not is_kept.any():
        return "No label is in doubt"
    kept, positions = without_images(larger, np.flatnonzero(~is_kept))
    stems = unique_stems([index.path(position) for position in range(len(index))])
    write_yolo(kept, [Path(f"{stems[one]}.txt") for one in positions], place, "", polygons=kept.outlines is not None)
    (place / "classes.txt").write_text("".join(f"{name}\n" for name in index.names), encoding="utf-8")
    content = coco_content(kept, [Path(names[one]) for one in positions])
    for annotation, row in zip(content["annotations"], rows[is_kept[larger.owner]].tolist(), strict=True):
        annotation["attributes"] = about.get(row, {})
    (place / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    told = f"labels and annotations.json have the labels of the {len(kept):,} images in which one may be wrong"
    return f"{told}, and {len(added):,} doubtful ones"


def _with_objects(index: DatasetIndex, added: Sequence[Mistake]) -> tuple[DatasetIndex, np.ndarray]:
    """The index with detections as objects, behind those of their images, and the rows of all, the new ones last."""
    xyxy = np.array([one.xyxy for one in added]).reshape(-1, 4)
    outlines = Outlines.pack([] if one.mask is None else rings_of(next(decoded([one.mask]))) for one in added)
    area = np.where(outlines.area > 0, outlines.area, (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1))
    image, label = (np.array([getattr(one, name) for one in added], np.int64) for name in ("image", "found"))
    columns = {"label": label, "xyxy": xyxy, "area": area, "crowd": np.zeros(len(added), bool)}
    owner, joined = np.concatenate((index.owner, image)), Outlines.concat((index.outlines, outlines))
    order = np.argsort(owner, kind="stable")
    objects: Any = {name: np.concatenate((getattr(index, name), columns[name]))[order] for name in OF_OBJECTS}
    first = offsets_of(np.bincount(owner, minlength=len(index)))
    return replace(index, first=first, outlines=joined and joined.select(order), **objects), order
