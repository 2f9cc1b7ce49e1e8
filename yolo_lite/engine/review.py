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
from yolo_lite.report.review_page import Card, Chapter, crop, review_page

MOST_SHOWN, LARGEST = 100, 3 * 2**20  # mistakes of a kind, bytes of their crops
MOST_ROWS = 50  # classes, and pairs of them, in a table
HEADER = ("kind", "image", "left", "top", "right", "bottom", "label", "found_as", "confidence", "note", "crop")

Mistakes = Mapping[str, Sequence[Mistake]]


def write_review(folder: Path, evaluation: Evaluation) -> str:
    """Write a folder ``review``, of which none is written over, and return what it holds, in a line."""
    index, mistakes = evaluation.split.dataset, find_mistakes(evaluation)
    numbered = (folder / f"review{number}" for number in itertools.count(2))
    place = next(one for one in itertools.chain((folder / "review",), numbered) if not one.exists())
    paths = [index.path(position) for position in range(len(index))]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [printable(os.path.relpath(path, root)) for path in paths]
    crops = _write_crops(place, evaluation, mistakes)
    _write_table(place, index, names, mistakes, crops)
    rows = _write_rows(place, index, names, mistakes)
    counts = ", ".join(f"{len(own)} {kind}" for kind, own in mistakes.items())
    text = (
        f"{len(index):,} images, {index.num_objects:,} objects, detections above confidence {SHOWN_CONFIDENCE}. {rows}."
        " In the images: thick the mistake, in the colour of its class; thin other detections; white the labels."
    )
    chapters = [_chapter(index, names, kind, mistakes[kind], crops[kind]) for kind in mistakes]
    page = review_page("What it gets wrong", text, _by_class(index, mistakes), chapters)
    (place / "review.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return f"{counts}; {place / 'review.html'}"


def _write_crops(place: Path, evaluation: Evaluation, mistakes: Mistakes) -> dict[str, list[bytes]]:
    """The first crops of each kind, as many as a page holds, as files too."""
    index, table = evaluation.split.dataset, evaluation.detections
    table = table.select(table.score > SHOWN_CONFIDENCE)
    shown = [(kind, number, own) for kind in mistakes for number, own in enumerate(mistakes[kind][:MOST_SHOWN])]
    shown.sort(key=lambda one: one[2].image)  # each image is read once
    made: dict[tuple[str, int], bytes] = {}
    for image, group in itertools.groupby(shown, key=lambda one: one[2].image):
        pixels, own = as_rgb(pixels_of(index, image)), np.flatnonzero(table.image == image)
        lines = [(box, WHITE, 2) for box in index.objects(image)[1]]
        lines += [(table.xyxy[row], class_colour(int(table.label[row])), 2) for row in own]
        for kind, number, one in group:
            label = max(one.found, one.label) if min(one.found, one.label) < 0 else one.found
            drawn = pixels if one.mask is None else draw_masks(pixels, decoded([one.mask]), np.array([label]))
            made[kind, number] = crop(drawn, [(one.xyxy, class_colour(label), 4), *lines])
    crops: dict[str, list[bytes]] = {}
    for kind in mistakes:
        (place / "crops" / kind.replace(" ", "_")).mkdir(parents=True)
        own_crops = [made[kind, number] for number in range(min(len(mistakes[kind]), MOST_SHOWN))]
        fits = itertools.accumulate(map(len, own_crops))
        crops[kind] = [one for one, total in zip(own_crops, fits, strict=True) if total <= LARGEST]
        for number, jpeg in enumerate(crops[kind]):
            (place / _crop_name(kind, number)).write_bytes(jpeg)
    return crops


def _crop_name(kind: str, number: int) -> str:
    return f"crops/{kind.replace(' ', '_')}/{number + 1:03}.jpg"


def _write_table(
    place: Path, index: DatasetIndex, names: Sequence[str], mistakes: Mistakes, crops: Mapping[str, Sequence[bytes]]
) -> None:
    """mistakes.csv: every mistake, those too that the page leaves out."""
    with (place / "mistakes.csv").open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        for kind, own in mistakes.items():
            for number, one in enumerate(own):
                label, found = ("" if row < 0 else index.names[row] for row in (one.label, one.found))
                score = "" if one.found < 0 else f"{one.score:.4f}"
                crop_name = _crop_name(kind, number) if number < len(crops[kind]) else ""
                box = one.xyxy.round(2).tolist()
                rows.writerow((kind, names[one.image], *box, label, found, score, one.note, crop_name))


def _chapter(
    index: DatasetIndex, names: Sequence[str], kind: str, own: Sequence[Mistake], crops: Sequence[bytes]
) -> Chapter:
    text, titles = KINDS[kind], [_title(index, one) for one in own]
    if kind == "wrong classes" and own:
        text += f" {_counted(titles)}."
    if len(own) > len(crops):
        limits = f"a page has {MOST_SHOWN} of a kind and {LARGEST >> 20} MiB of them at most"
        left_out = _counted(titles[len(crops) :])
        text += (
            f" {len(crops)} are shown, for {limits}; {len(own) - len(crops):,} more are in mistakes.csv: {left_out}."
        )
    cards = []
    for one, title, jpeg in zip(own, titles, crops, strict=False):
        left, top, right, bottom = one.xyxy.round().astype(int).tolist()
        heading = title if one.found < 0 else f"{title} {one.score:.2f}"
        cards.append(Card(jpeg, heading, (one.note, f"x {left}-{right}, y {top}-{bottom}", names[one.image])))
    return Chapter(kind, text, len(own), cards)


def _title(index: DatasetIndex, one: Mistake) -> str:
    words = [index.names[label] for label in (one.label, one.found) if label >= 0]
    return " found as ".join(words)


def _counted(titles: Sequence[str]) -> str:
    """The most frequent texts with their counts, and how many others there are."""
    *first, others = *(counts := Counter(titles).most_common())[:10], counts[10:]
    rest = [f"{sum(count for _, count in others):,} of {len(others)} other kinds"] if others else []
    return ", ".join([*(f"{count:,} {title:.60}" for title, count in first), *rest])


def _by_class(index: DatasetIndex, mistakes: Mistakes) -> list[list[str]]:
    """A row for each class, that with the most mistakes first: its objects, and its mistakes of each kind."""
    classes = len(index.names)
    labels = ([own.found if own.label < 0 else own.label for own in mistakes[kind]] for kind in mistakes)
    counts = np.array([index.counts, *(np.bincount(np.array(own, np.int64), minlength=classes) for own in labels)])
    order = np.argsort(-counts[1:].sum(axis=0), kind="stable")
    rows = [(index.names[label], counts[:, label]) for label in order[:MOST_ROWS]]
    if len(order) > MOST_ROWS:
        rows.append((f"{len(order) - MOST_ROWS} other classes", counts[:, order[MOST_ROWS:]].sum(axis=1)))
    rows.append(("all", counts.sum(axis=1)))
    return [["class", "objects", *mistakes], *([name, *(f"{one:,}" for one in own)] for name, own in rows)]


def _write_rows(place: Path, index: DatasetIndex, names: Sequence[str], mistakes: Mistakes) -> str:
    """The labels of all images in which one may be wrong, doubtful ones added, for annotation tools.

    A text file of YOLO's rows each, and COCO's annotations.json, whose annotations say why in their ``attributes``.
    """
    added = mistakes["doubtful labels"]
    row_of = [*np.flatnonzero(~index.crowd).tolist(), *range(len(index.label), len(index.label) + len(added))]
    about: dict[int, dict[str, object]] = {}
    for kind in ("misses", "wrong classes", "doubtful labels"):
        for number, one in enumerate(mistakes[kind]):
            row = len(index.label) + number if one.row < 0 else row_of[one.row]
            found = {"found_as": index.names[one.found], "confidence": round(one.score, 4)} if one.found >= 0 else {}
            about[row] = {"review": kind, **found}
    larger, order = _with_objects(index, added)
    images = sorted({int(one) for one in larger.owner[np.isin(order, [*about])]})
    if not images:
        return "No label is in doubt"
    kept, positions = without_images(larger, np.setdiff1d(np.arange(len(index)), images))
    stems = unique_stems([index.path(position) for position in range(len(index))])
    write_yolo(kept, [Path(f"{stems[one]}.txt") for one in positions], place, "", polygons=kept.outlines is not None)
    (place / "classes.txt").write_text("".join(f"{name}\n" for name in index.names), encoding="utf-8")
    content = coco_content(kept, [Path(names[one]) for one in positions])
    of_kept = order[np.isin(larger.owner, images)]
    for annotation, row in zip(content["annotations"], of_kept.tolist(), strict=True):
        annotation["attributes"] = about.get(row, {})
    (place / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    doubtful = f"with the {len(added):,} doubtful ones added" if added else ""
    return f"labels and annotations.json hold the labels of {len(kept):,} images in which one may be wrong, {doubtful}"


def _with_objects(index: DatasetIndex, added: Sequence[Mistake]) -> tuple[DatasetIndex, np.ndarray]:
    """The index with detections as objects, behind those of their images, and the rows of all, the new ones last."""
    xyxy = np.array([one.xyxy for one in added]).reshape(-1, 4)
    outlines = Outlines.pack([] if one.mask is None else rings_of(next(decoded([one.mask]))) for one in added)
    area = np.where(outlines.area > 0, outlines.area, (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1))
    label = np.array([one.found for one in added], np.int64)
    columns = {"label": label, "xyxy": xyxy, "area": area, "crowd": np.zeros(len(added), bool)}
    owner = np.concatenate((index.owner, np.array([one.image for one in added], np.int64)))
    order = np.argsort(owner, kind="stable")
    joined = Outlines.concat((index.outlines, outlines))
    larger = replace(
        index,
        first=offsets_of(np.bincount(owner, minlength=len(index))),
        outlines=joined and joined.select(order),
        **{name: np.concatenate((getattr(index, name), columns[name]))[order] for name in OF_OBJECTS},
    )
    return larger, order
