"""The detections of a split as files: COCO's results, and a text file a picture."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.engine.evaluate import Split


def write_coco_json(folder: Path, table: DetectionTable, split: Split) -> None:
    """predictions.json, COCO's results, and ground_truth.json, which it can be scored against; boxes in pixels.

    Ids are those of the COCO file that the split came from, else positions.
    """
    index, truth = split.dataset, split.truth.dataset
    image_id, category_id = index.image_id.tolist(), index.category_id.tolist()
    xywh = np.concatenate((table.xyxy[:, :2], table.xyxy[:, 2:] - table.xyxy[:, :2]), axis=1)
    rows = zip(table.image.tolist(), table.label.tolist(), xywh.tolist(), table.score.tolist(), strict=True)
    results = [
        {"image_id": image_id[image], "category_id": category_id[label], "bbox": box, "score": score}
        for image, label, box, score in rows
    ]
    names = [os.path.basename(index.path(position)) for position in range(len(index))]
    expected = {
        "images": [{**one, "id": image_id[one["id"]], "file_name": names[one["id"]]} for one in truth["images"]],
        "annotations": [
            {**one, "image_id": image_id[one["image_id"]], "category_id": category_id[one["category_id"]]}
            for one in truth["annotations"]
        ],
        "categories": [{**one, "id": category_id[one["id"]]} for one in truth["categories"]],
    }
    (folder / "predictions.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
    (folder / "ground_truth.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def write_yolo_txt(folder: Path, table: DetectionTable, split: Split) -> None:
    """labels/<picture>.txt: rows ``class cx cy w h confidence``, fractions of the picture, the best first.

    Pictures of several folders keep their folders; of those that differ in their ending alone each keeps its ending.
    """
    index = split.dataset
    paths = [Path(index.path(position)) for position in range(len(index))]
    common = os.path.commonpath([path.parent for path in paths])
    files = [path.relative_to(common).with_suffix(".txt") for path in paths]
    counts = Counter(files)
    size = index.size[table.image][:, [1, 0]]  # [D, 2] width, height
    centre, extent = (table.xyxy[:, :2] + table.xyxy[:, 2:]) / 2 / size, (table.xyxy[:, 2:] - table.xyxy[:, :2]) / size
    order = np.lexsort((-table.score, table.image))
    ends = np.searchsorted(table.image[order], np.arange(1, len(index)))
    for path, file, rows in zip(paths, files, np.split(order, ends), strict=True):
        place = file.with_name(f"{path.name}.txt") if counts[file] > 1 else file
        lines = (
            f"{table.label[row]} "
            + " ".join(f"{value:.6f}" for value in (*centre[row], *extent[row], table.score[row]))
            for row in rows
        )
        (folder / "labels" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "labels" / place).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
