"""Boxes and masks drawn on images, and images put together on sheets.

Every image is uint8 [H, W, 3] in RGB order; boxes are xyxy in pixels, [K, 4]. Nothing is drawn into an argument.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image

Colour = tuple[int, ...]  # RGB, each 0..255

FONT = cv2.FONT_HERSHEY_SIMPLEX
BLACK, WHITE, GREY, DARK = (0, 0, 0), (255, 255, 255), (128, 128, 128), (32, 32, 32)
UNICODE = int(cv2.__version__.split(".")[0]) >= 5  # older versions print question marks outside ASCII
LONGEST = 200  # letters of a tag
CROWD = 25  # boxes: with more of them, class names would hide the image


def class_colour(label: int) -> Colour:
    """A bright RGB colour for a class index; neighbouring indices lie the golden angle apart, hues spread evenly."""
    hue = (label * 137.50776 / 360 + 0.02) % 1
    # hues come back after a while, in another strength
    saturation, value = ((0.80, 1.0), (1.0, 0.80), (0.50, 1.0))[label // 8 % 3]
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))


def draw_boxes(
    image: np.ndarray, xyxy: np.ndarray, labels: np.ndarray, names: Sequence[str], scores: np.ndarray | None = None
) -> np.ndarray:
    """A copy of the image with a coloured box and a tag ("RBC 0.87") for each of K objects.

    labels [K] index `names`; scores [K] lie in 0..1. Give the best detection first: it is drawn on top. Parts
    of boxes outside the image are drawn at its border, boxes with a NaN are left out. With more than 25
    boxes the lines are thinner and the tags show the score alone.
    """
    crowded, longest = len(labels) > CROWD, max(image.shape[:2])
    canvas = draw_outlines(image, xyxy, labels, max(1, round(longest / (600 if crowded else 320))))
    scale = max(0.4, longest / 1250) * (0.8 if crowded else 1.0)
    boxes = _pixel_boxes(xyxy, image.shape)
    taken, tags = [*boxes.values()], []
    for i, box in boxes.items():
        label, score = int(labels[i]), "" if scores is None else f"{scores[i]:.2f}"
        name = names[label] if UNICODE or names[label].isascii() else f"class {label}"
        text = score if crowded else f"{name} {score}".rstrip()
        if text:
            tag = _tag(text, scale, class_colour(label), image.shape)
            place = _free_place(tag, box, taken, image.shape)
            taken += [place] * 4  # tags should rather hide parts of objects than each other
            tags.append((tag, place))
    for tag, (left, top, right, bottom) in reversed(tags):
        canvas[top:bottom, left:right] = tag
    return canvas


def draw_outlines(image: np.ndarray, xyxy: np.ndarray, labels: np.ndarray | None = None, width: int = 1) -> np.ndarray:
    """A copy of the image with the outlines of K boxes, the first on top, in the colours of their classes or white."""
    canvas = np.array(image, order="C")
    for i, box in reversed(_pixel_boxes(xyxy, image.shape).items()):
        colour = WHITE if labels is None else class_colour(int(labels[i]))
        cv2.rectangle(canvas, box[:2], box[2:], colour, width)
    return canvas


def draw_masks(image: np.ndarray, masks: Iterable[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """A copy of the image tinted by K masks uint8 ``[H, W]``, 1 inside, with a line along their borders."""
    canvas, line = np.array(image, order="C"), max(1, round(max(image.shape[:2]) / 640))
    for mask, label in zip(masks, labels, strict=True):
        left, top, width, height = cv2.boundingRect(mask)
        part, inside = canvas[top : top + height, left : left + width], mask[top : top + height, left : left + width]
        colour = class_colour(int(label))
        part[inside > 0] = (0.6 * part[inside > 0] + 0.4 * np.array(colour)).round().astype(np.uint8)
        outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, colour, line, offset=(left, top))
    return canvas


def _pixel_boxes(xyxy: np.ndarray, shape: tuple[int, ...]) -> dict[int, list[int]]:
    """Boxes rounded to whole pixels inside the image, by their place in the array; those with a NaN are left out."""
    boxes = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)  # [K, 4]
    known = np.flatnonzero(~np.isnan(boxes).any(axis=1))
    # the right edge of a box of the full width is `width`, and its last pixel is `width - 1`: hence the clip
    last_pixel = np.array([shape[1], shape[0], shape[1], shape[0]]) - 1
    edges = np.clip(boxes[known], 0, last_pixel).round().astype(int)
    return dict(zip(known.tolist(), edges.tolist(), strict=True))


def _tag(text: str, scale: float, colour: Colour, shape: tuple[int, ...]) -> np.ndarray:
    """A line of text on a plate [h, w, 3] of a colour, in a smaller font where it would not fit into the shape."""
    text = text[:LONGEST].encode("utf-8", "backslashreplace").decode()  # half a surrogate pair would crash OpenCV
    stroke = max(1, round(scale * 1.4))
    (width, _), _ = cv2.getTextSize(text, FONT, scale, stroke)
    (_, ascent), descent = cv2.getTextSize("Hg", FONT, scale, stroke)  # all tags are equally high
    fit = min(shape[1] / (width + 4), shape[0] / (ascent + descent + 2))
    if fit < 1 and scale > 0.05:
        return _tag(text, 0.98 * fit * scale, colour, shape)
    tag = np.full((ascent + descent + 2, width + 4, 3), colour, dtype=np.uint8)
    luminance = (np.array(colour) / 255) ** 2.2 @ (0.2126, 0.7152, 0.0722)  # of WCAG 2: above 0.179 black is clearer
    ink = BLACK if luminance > 0.179 else WHITE
    cv2.putText(tag, text, (2, 1 + ascent), FONT, scale, ink, stroke, cv2.LINE_AA)
    return tag[: shape[0], : shape[1]]


def _free_place(tag: np.ndarray, box: list[int], taken: list[list[int]], shape: tuple[int, ...]) -> list[int]:
    """Where a tag above, below, beside or inside its box hides the least of the rectangles [T] that are taken; xyxy."""
    height, width = tag.shape[:2]
    left, top, right, bottom = box
    corners = [(left, top - height)] if top >= height else []  # moved down, it would float across the top edge
    corners += [(left, top), (left, bottom + 1), (right + 1 - width, top - height), (right + 1, top)]
    corner = np.clip(corners, 0, (shape[1] - width, shape[0] - height))
    places, others = np.concatenate((corner, corner + (width, height)), axis=1)[:, None], np.array(taken)
    sides = np.minimum(places[..., 2:], others[:, 2:]) - np.maximum(places[..., :2], others[:, :2])  # [P, T, 2]
    hidden = sides.clip(min=0).prod(axis=2) / (others[:, 2:] - others[:, :2]).prod(axis=1).clip(min=1)
    rank = np.arange(len(corners)) / 10  # an earlier place may hide a tenth of an object more
    return [*places[(hidden.sum(axis=1) + rank).argmin(), 0]]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Any image [H, W, n] as RGB: the first three channels, or the first where there are fewer."""
    if image.shape[2] == 3:
        return image
    return image[..., :3] if image.shape[2] > 3 else np.repeat(image[..., :1], 3, axis=2)


def enlarge(image: np.ndarray, xyxy: np.ndarray, longest: int = 480, below: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """The image and its boxes, the longest side scaled up to `longest` if under `below`, so that tags can be read."""
    ratio = longest / max(image.shape[:2])
    if max(image.shape[:2]) >= below:
        return image, xyxy
    return cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_CUBIC), xyxy * ratio


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image below a dark strip with a caption; its width stays."""
    strip = np.full((max(18, max(image.shape[:2]) // 20), image.shape[1], 3), DARK, dtype=np.uint8)
    tag = _tag(title, len(strip) / 40, DARK, strip.shape)
    top = (len(strip) - len(tag)) // 2
    strip[top : top + len(tag), : tag.shape[1]] = tag
    return np.concatenate([strip, image])


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images in rows of `columns`, each centred in a cell of the largest height and width, on grey.

    A gap of 1% of a cell (2 pixels or more) lies between cells, none at the border.
    """
    if not images:
        raise ValueError("a contact sheet needs 1 or more images")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    gap = max(2, max(height, width) // 100)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), GREY, dtype=np.uint8)
    for i, image in enumerate(images):
        top = i // columns * (height + gap) + (height - image.shape[0]) // 2
        left = i % columns * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def write_image(path: str | os.PathLike[str], image_rgb: np.ndarray) -> None:
    """Writes an RGB image in the format of the path's ending. Raises OSError, ValueError for an unknown ending."""
    Image.fromarray(image_rgb).save(path, compress_level=1, quality=95)  # of PNG: five times quicker, a third larger
