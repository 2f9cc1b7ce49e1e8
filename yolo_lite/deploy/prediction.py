"""What was found in one image, and the files of it in a run folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np

from yolo_lite.config.errors import DataError, UserError
from yolo_lite.config.options import PredictOptions
from yolo_lite.data.masks import rings_of
from yolo_lite.deploy.sources import Frame
from yolo_lite.engine.detection_files import yolo_rows
from yolo_lite.engine.masks import Rle, decoded, plain
from yolo_lite.report.drawing import as_rgb, draw_boxes, draw_masks, write_image


@dataclass(frozen=True)
class Prediction:
    """K detections of an image, best score first."""

    frame: Frame
    xyxy: np.ndarray  # [K, 4] float64, pixels of the image, inside it
    score: np.ndarray  # [K] float64 in 0..1
    label: np.ndarray  # [K] int64, index of `names`
    names: tuple[str, ...]  # of all classes
    rle: tuple[Rle, ...] | None = None  # COCO's run-length code of K masks, where the model finds some

    def __len__(self) -> int:
        return len(self.score)

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 ``[H, W, 3]`` RGB; of one with more channels the first three."""
        return as_rgb(self.frame.image)

    @property
    def class_names(self) -> list[str]:
        """The name of each detection's class, ``[K]``."""
        return [self.names[label] for label in self.label]

    @property
    def mask(self) -> np.ndarray | None:
        """The pixels of each detection, bool ``[K, H, W]``; None where the model finds no masks.

        They are decoded at every call. ``rle`` needs a thousandth of the memory: pycocotools reads it.
        """
        if self.rle is None:
            return None
        masks = np.zeros((len(self), *self.image.shape[:2]), dtype=bool)
        for row, mask in enumerate(decoded(self.rle)):
            masks[row] = mask
        return masks

    @property
    def polygons(self) -> list[list[np.ndarray]] | None:
        """The rings ``[q, 2]`` of each detection in pixels, one for each part, which leads round its holes too."""
        return None if self.rle is None else [rings_of(mask) for mask in decoded(self.rle)]

    def plot(self) -> np.ndarray:
        """The image with masks, boxes, names and scores, uint8 ``[H, W, 3]`` RGB."""
        drawn = self.image if self.rle is None else draw_masks(self.image, decoded(self.rle), self.label)
        return draw_boxes(drawn, self.xyxy, self.label, self.names, self.score)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: file, size, and lists of boxes (xyxy in pixels), labels, names and scores; masks as RLE."""
        return {
            "file": self.frame.file,
            **({} if self.frame.number is None else {"frame": self.frame.number}),
            "height": self.image.shape[0],
            "width": self.image.shape[1],
            "boxes": self.xyxy.round(2).tolist(),
            "labels": self.label.tolist(),
            "names": self.class_names,
            "scores": self.score.round(5).tolist(),
            **({} if self.rle is None else {"masks": [*map(plain, self.rle)]}),
        }

    def to_json(self) -> str:
        """``to_dict`` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``, with the names of the classes in ``data["class_name"]``.

        Raises:
            UserError: the library supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError:
            raise UserError("to_supervision() needs the library supervision: pip install supervision") from None
        xyxy, score = self.xyxy.astype(np.float32), self.score.astype(np.float32)
        names: dict[str, Any] = {"class_name": np.array(self.class_names, dtype=str)}
        return Detections(xyxy=xyxy, mask=self.mask, confidence=score, class_id=self.label, data=names)


def _opened(folder: Path) -> TextIO:
    # The name of a file may hold bytes that are no text: written with a backslash they are JSON's own way to say so.
    return (folder / "predictions.json").open("w", encoding="utf-8", errors="backslashreplace")


class Outputs:
    """The files of one run; every prediction is written when it comes, so that little is in memory."""

    def __init__(self, folder: Path, options: PredictOptions) -> None:
        self.folder, self.options = folder, options
        self._records = _opened(folder) if options.save_json else None
        self._separator = "[\n"
        self._video, self._video_stem = cv2.VideoWriter(), Path()

    def add(self, prediction: Prediction) -> None:
        """Write one prediction; those of a video one after the other."""
        frame = prediction.frame
        place = frame.stem if frame.number is None else frame.stem / f"{frame.number:06}"
        if not self.options.no_save:
            self._draw(prediction)
        if self.options.save_txt:
            size = prediction.image.shape[:2]
            rows = yolo_rows(prediction.label, prediction.xyxy, prediction.score, size, prediction.rle)
            self._file(f"labels/{place}.txt").write_text(rows, encoding="utf-8")
        if self._records:
            self._records.write(self._separator + prediction.to_json())
            self._separator = ",\n"
        if self.options.save_crop:
            self._write_crops(prediction, place)

    def close(self) -> None:
        """End what is open, so that every file is whole."""
        self._video.release()
        if self._records:
            self._records.write("\n]\n")
            self._records.close()

    def _file(self, name: str | Path) -> Path:
        """A path below the run's folder, whose own folder is there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _draw(self, prediction: Prediction) -> None:
        frame = prediction.frame
        if frame.number is None:
            write_image(self._file(frame.drawn), prediction.plot())
            return
        if frame.stem != self._video_stem:
            self._video.release()
            path = self._file(f"{frame.stem}.mp4")
            height, width = frame.image.shape[:2]
            self._video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), frame.fps, (width, height))
            self._video_stem = frame.stem
            if not self._video.isOpened():
                raise DataError(f"{path}: OpenCV cannot write mp4v of {width} x {height} px; --no-save does without")
        self._video.write(cv2.cvtColor(prediction.plot(), cv2.COLOR_RGB2BGR))

    def _write_crops(self, prediction: Prediction, place: Path) -> None:
        """The pixels of each detection that covers any, in a folder named by its class, without what is path syntax.

        Where there are masks, what lies outside them is transparent.
        """
        low, high = np.floor(prediction.xyxy[:, :2]).astype(int), np.ceil(prediction.xyxy[:, 2:]).astype(int)
        for number, row in enumerate(np.flatnonzero((low < high).all(axis=1))):
            (left, top), (right, bottom) = low[row], high[row]
            name = re.sub(r"[^\w .-]", "_", prediction.names[prediction.label[row]]).strip(". ") or "_"
            pixels, suffix = prediction.image[top:bottom, left:right], "jpg"
            if prediction.rle is not None:
                [mask] = decoded([prediction.rle[row]])
                pixels, suffix = np.dstack((pixels, 255 * mask[top:bottom, left:right])), "png"
            write_image(self._file(f"crops/{name}/{place}_{number}.{suffix}"), pixels)
