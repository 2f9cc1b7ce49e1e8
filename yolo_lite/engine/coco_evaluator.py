"""COCO's evaluation by hotcoco: what each detection finds, and COCO's tables of precision and recall.

Nothing else knows the library. Its threads do not survive a fork: it is not for loading processes. D detections, T
thresholds of IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from hotcoco import COCO, COCOeval

from yolo_lite.ops.box_arrays import xyxy_to_xywh

if TYPE_CHECKING:
    from yolo_lite.engine.coco_ap import DetectionTable

UNMATCHED, IN_CROWD = -1, -2  # what else than an object a detection may be matched to
ALL_SIZES = {"area_rng": [[0, 1e10]], "area_rng_lbl": ["all"]}  # at once, which is quicker


class Truth(NamedTuple):
    """The objects of a split; ids are positions, those of annotations count from 1."""

    dataset: dict[str, Any]  # in the form of COCO's files
    coco: COCO  # the same, as the library holds it
    columns: np.ndarray  # [3, T] int64, image, label, and whether it is a crowd

    @classmethod
    def of(cls, dataset: dict[str, Any]) -> Truth:
        fields = ("image_id", "category_id", "iscrowd")
        columns = [[one[field] for one in dataset["annotations"]] for field in fields]
        return cls(dataset, COCO(dataset), np.array(columns, np.int64))

    @property
    def num_classes(self) -> int:
        return len(self.dataset["categories"])

    @property
    def masks(self) -> np.ndarray:
        """``[T]``, where the split has outlines."""
        return np.array([one["segmentation"] for one in self.dataset["annotations"]], dtype=object)


def match(
    truth: Truth, table: DetectionTable, kind: str = "bbox", any_class: bool = False, ious: Sequence[float] = (0.5,)
) -> np.ndarray:
    """Which object each detection finds by COCO's greedy rule at each IoU ``[T, D]``, as its row in the ground truth.

    From the best score down, each detection of an image takes the free object that it overlaps most. One that finds
    none is ``IN_CROWD`` where a crowd region covers half of it, which is no error, else ``UNMATCHED``. All are matched,
    however many AP counts; with ``any_class`` with objects of any class.
    """
    image, label, crowd = truth.columns
    classes = 0 if any_class else 1
    # What shares image and class with no object finds none: most of what a detector of many classes puts out.
    keys = (one * truth.num_classes + classes * own for one, own in ((table.image, table.label), (image, label)))
    rows = np.flatnonzero(np.isin(*keys))
    found = np.full((len(ious), len(table.score)), UNMATCHED)
    # Of a pair with each object, or none.
    outcome = np.append(np.where(crowd, IN_CROWD, np.arange(len(crowd))), UNMATCHED)
    parameters = {"iou_thrs": list(ious), "max_dets": [max(len(rows), 1)], "use_cats": not any_class}
    for cell in run_coco(truth, table.select(rows), kind, **parameters, **ALL_SIZES).eval_imgs:
        if cell:
            found[:, rows[np.array(cell["dtIds"], np.int64) - 1]] = outcome[np.array(cell["dtMatches"], np.int64) - 1]
    return found


def run_coco(truth: Truth, table: DetectionTable, kind: str, **parameters: Any) -> COCOeval:
    """COCO's evaluation of each image and class; ``parameters`` are those that differ from its defaults."""
    masks = None if table.mask is None or kind == "bbox" else table.mask.tolist()
    rows = np.column_stack((table.image, xyxy_to_xywh(table.xyxy), table.score, table.label))
    results = truth.coco.load_res(rows, segmentation=masks)  # their ids count from 1
    if masks:  # whose areas count, not those of their boxes
        results.update_anns(ids=np.arange(1, len(masks) + 1), area=coco_mask.area(masks))
    evaluation = COCOeval(truth.coco, results, kind)
    for name, value in parameters.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    return evaluation


def accumulated(evaluation: COCOeval) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``[T, R, C, areas, limits]`` and recall ``[T, C, areas, limits]``, -1 where a class has no objects."""
    evaluation.accumulate()
    tables = evaluation.eval or {}
    return tables["precision"], tables["recall"]
