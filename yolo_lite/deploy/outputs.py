"""What predictions leave in a run folder: annotated images and videos, label files, predictions.json, crops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.sources import Frame
from yolo_lite.engine.detection_files import yolo_rows
from yolo_lite.report.drawing import write_image


class Wanted(NamedTuple):
    """What is written."""

    images: bool = True
    labels: bool = False
    records: bool = False
    crops: bool = False


class Outputs:
    """The files of one run; every prediction is written when it comes, so that little is in memory."""

    def __init__(self, folder: Path, wanted: Wanted) -> None:
        self.folder, self.wanted = folder, wanted
        self._video: cv2.VideoWriter | None = None
        self._video_stem: Path | None = None
        self._records: IO[str] | None = None
        self._separator = "[\n"
        if wanted.records:
            self._records = (folder / "predictions.json").open("w", encoding="utf-8")

    def add(self, prediction: Prediction) -> None:
        """Write one prediction; those of a video one after the other."""
        if self.wanted.images:
            self._draw(prediction)
        place = _place(prediction.frame)
        if self.wanted.labels:
            rows = yolo_rows(prediction.label, prediction.xyxy, prediction.score, prediction.image.shape[:2])
            self._file(f"labels/{place}.txt").write_text(rows, encoding="utf-8")
        if self._records:
            self._records.write(self._separator + prediction.to_json())
            self._separator = ",\n"
        if self.wanted.crops:
            for number, (name, crop) in enumerate(_crops(prediction)):
                write_image(self._file(f"crops/{name}/{place}_{number}.jpg"), crop)

    def close(self) -> None:
        """End what is open, so that every file is whole."""
        self._end_video()
        if self._records:
            self._records.write("\n]\n")
            self._records.close()

    def _draw(self, prediction: Prediction) -> None:
        frame = prediction.frame
        if frame.number is not None:
            self._video_of(frame).write(cv2.cvtColor(prediction.plot(), cv2.COLOR_RGB2BGR))
            return
        write_image(self._file(frame.stem.with_name(Path(frame.file).name)), prediction.plot())

    def _file(self, name: str | Path) -> Path:
        """A path below the run's folder, whose own folder is there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _video_of(self, frame: Frame) -> cv2.VideoWriter:
        if self._video is None or self._video_stem != frame.stem:
            self._end_video()
            path = self._file(f"{frame.stem}.mp4")
            height, width = frame.image.shape[:2]
            self._video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), frame.fps, (width, height))
            self._video_stem = frame.stem
            if not self._video.isOpened():
                raise DataError(f"{path}: OpenCV cannot write mp4v of {width} x {height} px; --no-save does without")
        return self._video

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.release()
            self._video = None


@contextmanager
def outputs(folder: Path, wanted: Wanted) -> Iterator[Outputs]:
    """Outputs that are closed whatever happens."""
    files = Outputs(folder, wanted)
    try:
        yield files
    finally:
        files.close()


def _place(frame: Frame) -> Path:
    """Where small files of a frame go; a video has a folder of them."""
    return frame.stem if frame.number is None else frame.stem / f"{frame.number:06}"


def _crops(prediction: Prediction) -> Iterator[tuple[str, np.ndarray]]:
    """Folder and pixels of each detection that covers any."""
    low, high = np.floor(prediction.xyxy[:, :2]).astype(int), np.ceil(prediction.xyxy[:, 2:]).astype(int)
    for (left, top), (right, bottom), name in zip(low, high, prediction.class_names, strict=True):
        if left < right and top < bottom:
            yield _folder_name(name), prediction.image[top:bottom, left:right]


def _folder_name(class_name: str) -> str:
    """A class name without what means something in paths."""
    return re.sub(r"[^\w .-]", "_", class_name).strip(". ") or "_"
