"""Views of large images as a network reads them, and the view that a training sample shows."""

from __future__ import annotations

import numpy as np

from yolo_lite.data.instances import Sample, scale_matrix
from yolo_lite.data.letterbox import Canvas, Letterbox, fitted_size, on_canvas, resize

WHOLE_CHANCE = 0.2  # of a training sample to show the whole image, as detection looks at it too
OBJECT_CHANCE = 0.5  # of a window to be laid over an object: most of a large image may be background


def view_on_canvas(image: np.ndarray, view: np.ndarray, longest: int, canvas: Canvas) -> tuple[np.ndarray, Letterbox]:
    """A view ``[4]`` of an image as the network reads it, and where the image lies, which may reach beyond it."""
    left, top, right, bottom = view.tolist()
    resized = resize(image[top:bottom, left:right], *fitted_size(bottom - top, right - left, longest))
    padded, place = on_canvas(resized, (bottom - top, right - left), canvas(resized.shape[0], resized.shape[1]))
    return padded, place._replace(left=place.left - left * place.scale_x, top=place.top - top * place.scale_y)


def random_view(sample: Sample, tile: int, longest: int, rng: np.random.Generator) -> Sample:
    """A window of ``tile`` pixels or the whole image, resized to ``longest``, and what of the objects it shows.

    However large the image is, and whatever its objects are, as many numbers are drawn: streams stay in step.
    """
    whole, near, chosen, *place = rng.random(5).tolist()
    size, boxes = np.array(sample.image.shape[1::-1]), sample.instances.xyxy
    side = size if whole < WHOLE_CHANCE else np.minimum(size, tile)
    low, high = np.zeros(2), size - side  # of the window's corner
    if near < OBJECT_CHANCE and len(boxes):
        box = boxes[int(chosen * len(boxes))]
        # The window holds the object, or lies in it where that is larger.
        low, high = np.sort((box[2:] - side, box[:2]), axis=0).clip(low, high)
    corner = np.rint(low + np.array(place) * (high - low)).astype(np.int64)
    view = np.concatenate((corner, corner + side))
    image, lies = view_on_canvas(sample.image, view, longest, lambda height, width: (height, width))
    left, top, right, bottom = view.tolist()
    seen = sample.instances.clipped((left, top), (right, bottom))
    return Sample(image, seen.select(seen.share > 0).warped(scale_matrix(*lies)))
