"""Background images made of a model's false alarms on images that hold none of its classes: ``--save-background``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from yolo_lite.config.errors import DataError
from yolo_lite.data.outputs import Inputs, check_empty_folder
from yolo_lite.data.readers.coco import CocoReader, plain_id
from yolo_lite.data.readers.voc import VocReader
from yolo_lite.data.readers.yolo import YoloReader
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.sources import Media
from yolo_lite.report.drawing import write_image


class Backgrounds:
    """Copies of the images in which something is found, with empty label files; images with labels are left out.

    Raises:
        UserError: the folder is not empty, or lies in a source or dataset.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: Inputs, media: Sequence[Media]) -> None:
        self.folder, self.saved, self.num_labelled = check_empty_folder(folder, inputs, "--save-background"), 0, 0
        self._labelled = _with_labels([one.address for one in media if one.kind == "image"])

    def add(self, prediction: Prediction) -> None:
        """Copy the image if there is a detection in it; one of a video is written as JPEG."""
        frame = prediction.frame
        if frame.file in self._labelled:
            self.num_labelled += 1
        elif len(prediction):
            self.saved += 1
            name = f"{frame.stem}" if frame.number is None else f"{frame.stem}/{frame.number:06}"
            image = self.folder / "images" / (name + (".jpg" if frame.number is not None else Path(frame.file).suffix))
            label = self.folder / "labels" / f"{name}.txt"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            if frame.number is None:
                shutil.copyfile(frame.file, image)
            else:
                write_image(image, prediction.image)
            label.touch()

    def describe(self) -> str:
        """What was saved, and what to do with it."""
        labelled = f" ({self.num_labelled} with labels left out)" if self.num_labelled else ""
        advice = "look through them, for an object in them would be learnt as background; then add the folder to train:"
        return f"{self.saved} images with false alarms{labelled}: {self.folder / 'images'}; {advice}"


def _with_labels(images: Sequence[str]) -> set[str]:
    """The images that have a label file, as YOLO or VOC have them, with anything in it, or annotations of COCO."""
    found = set()
    for reader in (YoloReader, VocReader):
        labels, there = reader(Path(), None, ()).label_files(images)
        found |= {
            image for image, label, own in zip(images, labels, there, strict=True) if own and os.path.getsize(label)
        }
    # COCO's file lies beside images, or above them.
    folders = [(one, *one.parents) for one in {Path(image).absolute().parent for image in images}]
    near = {place for own in folders for place in (*own[:2], *(folder / "annotations" for folder in own[1:3]))}
    for path in {path for place in near for path in place.glob("*.json")}:
        with contextlib.suppress(DataError):  # it holds something else, or annotations of other images
            coco = CocoReader(Path(), path, ())
            coco.load(images)
            found |= {
                image for image, rows in coco.records.items() if any(coco.rows[plain_id(row["id"])] for row in rows)
            }
    return found
