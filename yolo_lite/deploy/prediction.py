"""What was found in one image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolo_lite.config.errors import UserError
from yolo_lite.deploy.sources import Frame
from yolo_lite.report.drawing import as_rgb, draw_boxes


@dataclass(frozen=True)
class Prediction:
    """K detections of an image, best score first."""

    frame: Frame
    xyxy: np.ndarray  # [K, 4] float64, pixels of the image, inside it
    score: np.ndarray  # [K] float64 in 0..1
    label: np.ndarray  # [K] int64, index of `names`
    names: tuple[str, ...]  # of all classes

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

    def plot(self) -> np.ndarray:
        """The image with boxes, names and scores, uint8 ``[H, W, 3]`` RGB."""
        return draw_boxes(self.image, self.xyxy, self.label, self.names, self.score)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: file, size, and lists of boxes (xyxy in pixels), labels, names and scores."""
        number = {} if self.frame.number is None else {"frame": self.frame.number}
        return {
            "file": self.frame.file,
            **number,
            "height": self.image.shape[0],
            "width": self.image.shape[1],
            "boxes": self.xyxy.round(2).tolist(),
            "labels": self.label.tolist(),
            "names": self.class_names,
            "scores": self.score.round(5).tolist(),
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
        names = np.array(self.class_names, dtype=str)
        return Detections(
            xyxy=self.xyxy.astype(np.float32),
            confidence=self.score.astype(np.float32),
            class_id=self.label,
            data={"class_name": names},
        )
