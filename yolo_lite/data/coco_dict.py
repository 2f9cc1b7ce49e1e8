"""The objects of a split in the form of COCO's annotation files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yolo_lite.data.index import DatasetIndex
from yolo_lite.ops.box_arrays import xyxy_to_xywh


def coco_dict(
    index: DatasetIndex, image_id: Sequence[int], category_id: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Images, annotations and categories under these ids, boxes ``x y width height`` in pixels, file names if given."""
    sizes = zip(image_id, index.size.tolist(), strict=True)
    images = [{"id": number, "height": height, "width": width} for number, (height, width) in sizes]
    for image, name in zip(images, names or (), strict=names is not None):
        image["file_name"] = name
    columns = (index.owner, index.label, xyxy_to_xywh(index.xyxy), index.area, index.crowd.astype(int))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [  # from 1: an id of 0 would read as "not matched"
        {
            "id": number,
            "image_id": image_id[image],
            "category_id": category_id[label],
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
        }
        for number, (image, label, box, area, crowd) in enumerate(rows, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in zip(category_id, index.names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
