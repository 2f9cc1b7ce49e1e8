"""The writers of label files, one function a format.

Each writes the labels of a split below a folder, under the given names of its images, and returns the path below the
folder that the key ``labels`` of a dataset YAML has to name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import SubElement

import numpy as np

from yolo_lite.config.bounds import printable
from yolo_lite.data.dataset import objects_of
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.masks import join_rings
from yolo_lite.data.readers.voc import EDGES
from yolo_lite.ops.box_arrays import xyxy_to_cxcywh, xyxy_to_xywh


def write_yolo(index: DatasetIndex, names: list[Path], folder: Path, split: str, polygons: bool) -> str:
    """Write a text file for each image below ``labels``; crowds are left out, for the format has none.

    Of outlines the part in the image is written: the format's readers leave out what leads outside.
    """
    for position, name in enumerate(names):
        text, own = "", objects_of(index, position, with_outlines=polygons)
        for row, label in enumerate(own.label):
            rings = [ring for ring in own.outlines.of(row) if len(ring)] if own.outlines else []
            points = join_rings(rings) if rings else xyxy_to_cxcywh(own.xyxy[row]).reshape(2, 2)
            fractions = (points / index.size[position, ::-1]).ravel()
            text += f"{label} {' '.join(f'{value:.8g}' for value in fractions)}\n"
        path = folder / "labels" / name.with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return "labels"


def write_voc(index: DatasetIndex, names: list[Path], folder: Path, split: str, polygons: bool) -> str:
    """Write an XML file for each image below ``annotations``; crowds become ``difficult``, outlines are left out."""
    for position, name in enumerate(names):
        tree = ElementTree.Element("annotation")
        SubElement(tree, "filename").text = printable(name.name)  # XML has no control characters
        size = SubElement(tree, "size")
        for side, pixels in zip(("height", "width"), index.size[position], strict=True):
            SubElement(size, side).text = str(pixels)
        for thing in range(index.first[position], index.first[position + 1]):
            item = SubElement(tree, "object")
            SubElement(item, "name").text = index.names[index.label[thing]]
            SubElement(item, "difficult").text = str(int(index.crowd[thing]))
            box = SubElement(item, "bndbox")
            for edge, value in zip(EDGES, index.xyxy[thing], strict=True):
                SubElement(box, edge).text = f"{value:.2f}".removesuffix(".00")
        ElementTree.indent(tree)
        path = folder / "annotations" / name.with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(tree).write(path, encoding="utf-8")
    return "annotations"


def write_coco(index: DatasetIndex, names: list[Path], folder: Path, split: str, polygons: bool) -> str:
    """Write one JSON file of ``coco_content``."""
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco_content(index, names)), encoding="utf-8")
    return path.relative_to(folder).as_posix()


def coco_content(index: DatasetIndex, names: Sequence[Path]) -> dict[str, Any]:
    """A split for other programs, with outlines where they are known; numbers are to 1/100 of a pixel."""
    posix = [name.as_posix() for name in names]
    content = coco_dict(index, index.image_id.tolist(), index.category_id.tolist(), posix)
    for row, annotation in enumerate(content["annotations"]):
        rings = index.outlines.of(row) if index.outlines else []
        annotation["bbox"] = np.round(annotation["bbox"], 2).tolist()
        annotation["segmentation"] = [ring.astype(np.float64).round(2).ravel().tolist() for ring in rings]
    return content


def coco_dict(
    index: DatasetIndex, image_id: Sequence[int], category_id: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """A split in the form of COCO's annotation files under these ids, boxes in pixels, with file names if given."""
    sizes = zip(image_id, index.size.tolist(), strict=True)
    images: list[dict[str, Any]] = [{"id": own, "height": height, "width": width} for own, (height, width) in sizes]
    for row, name in zip(images, names or (), strict=names is not None):
        row["file_name"] = name
    columns = (index.owner, index.label, xyxy_to_xywh(index.xyxy), index.area, index.crowd.astype(int))
    annotations: list[dict[str, Any]] = []
    for image, label, *values in zip(*(column.tolist() for column in columns), strict=True):
        ids = {"id": len(annotations) + 1, "image_id": image_id[image], "category_id": category_id[label]}
        annotations.append(ids | dict(zip(("bbox", "area", "iscrowd"), values, strict=True)))  # id 0 is "not matched"
    categories = [{"id": own, "name": name} for own, name in zip(category_id, index.names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


Writer = Callable[[DatasetIndex, list[Path], Path, str, bool], str]
WRITERS: dict[str, Writer] = {"yolo": write_yolo, "voc": write_voc, "coco": write_coco}
