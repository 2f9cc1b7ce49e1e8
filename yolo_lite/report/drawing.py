"""Boxes drawn on images, and images put together on sheets.

Every image is uint8 [H, W, 3] in RGB order; boxes are xyxy in pixels, [K, 4]. Private functions that begin
with _draw or _put write into the `canvas` they are given; all others leave their arguments as they are.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB, each 0..255

FONT = cv2.FONT_HERSHEY_SIMPLEX
BLACK, WHITE, GREY, DARK = (0, 0, 0), (255, 255, 255), (128, 128, 128), (32, 32, 32)
GOLDEN_ANGLE = 137.50776  # degrees: any run of consecutive multiples spreads evenly over the colour circle
SMALL_SIDE = 320  # pixels: tags on a smaller image cannot be read
UNICODE = int(cv2.__version__.split(".")[0]) >= 5  # older versions print question marks outside ASCII
CROWD = 25  # boxes: with more of them, class names would hide the image


class Tag(NamedTuple):
    """The name plate of a box."""

    text: str
    scale: float  # of the font
    place: list[int]  # left, top, right, bottom; the last two lie outside


def class_colour(label: int) -> Colour:
    """A bright RGB colour for a class index; neighbouring indices lie 137 degrees of hue apart."""
    hue = (label * GOLDEN_ANGLE / 360 + 0.02) % 1
    # hues come back after a while, in another strength
    saturation, value = ((0.80, 1.0), (1.0, 0.80), (0.50, 1.0))[label // 8 % 3]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def draw_boxes(
    image: np.ndarray,
    xyxy: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """A copy of the image with a coloured box and a tag ("RBC 0.87") for each of K objects.

    labels [K] index `names`; scores [K] lie in 0..1. Give the best detection first: it is drawn on top. Parts
    of boxes outside the image are drawn at its border, boxes with a NaN are left out. With more than 25
    boxes the lines are thinner and the tags show the score alone.
    """
    canvas = np.ascontiguousarray(image).copy()
    edges, visible = _pixel_boxes(xyxy, image.shape)
    colours = [class_colour(int(label)) for label in labels]
    crowded = len(edges) > CROWD
    thickness = max(1, round(max(image.shape[:2]) / (600 if crowded else 320)))
    for i in reversed(visible):
        cv2.rectangle(canvas, edges[i][:2], edges[i][2:], colours[i], thickness)

    scale = max(0.4, max(image.shape[:2]) / 1250) * (0.8 if crowded else 1.0)
    taken, tags = [edges[i] for i in visible], dict[int, Tag]()
    for i in visible:
        text = _tag_text(int(labels[i]), names, None if scores is None else float(scores[i]), crowded)
        if text:
            tags[i] = _place_tag(text, scale, edges[i], taken, image.shape)
            taken += [tags[i].place] * 4  # tags should rather hide parts of objects than each other
    for i in reversed(tags):
        _draw_tag(canvas, tags[i], colours[i])
    return canvas


def draw_thin_boxes(
    image: np.ndarray, xyxy: np.ndarray, labels: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """A copy of the image with a hairline around each of K objects, in the colours of `draw_boxes` or white."""
    canvas = np.ascontiguousarray(image).copy()
    edges, visible = _pixel_boxes(xyxy, image.shape)
    for i in visible:
        colour = WHITE if labels is None else class_colour(int(labels[i]))
        cv2.rectangle(canvas, edges[i][:2], edges[i][2:], colour, 1)
    return canvas


def _pixel_boxes(xyxy: np.ndarray, shape: tuple[int, ...]) -> tuple[list[list[int]], list[int]]:
    """Boxes rounded to whole pixels inside the image, and which of them hold no NaN."""
    boxes = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)  # [K, 4]
    visible = np.flatnonzero(~np.isnan(boxes).any(axis=1)).tolist()
    height, width = shape[:2]
    last_pixel = np.array([width, height, width, height]) - 1
    # the right edge of a box of the full width is `width`, and its last pixel is `width - 1`: hence the clip
    return np.clip(np.nan_to_num(boxes), 0, last_pixel).round().astype(int).tolist(), visible


def _tag_text(label: int, names: Sequence[str], score: float | None, crowded: bool) -> str:
    """What the tag of a box says; empty for no tag."""
    number = "" if score is None else f"{score:.2f}"
    if crowded:
        return number
    name = names[label] if UNICODE or names[label].isascii() else f"class {label}"
    return f"{name} {number}".rstrip()


def _place_tag(
    text: str, scale: float, box: Sequence[int], taken: Sequence[Sequence[int]], shape: tuple[int, ...]
) -> Tag:
    """A tag above, below, beside or inside its box: where it hides the least of the rectangles that are taken."""
    scale = _scale_to_fit(text, scale, shape[1] - 4, shape[0] - 4)
    text_width, ascent, descent = _text_size(text, scale)
    width, height = text_width + 4, ascent + descent + 2
    left, top, right, bottom = box
    corners = [(left, top - height)] if top >= height else []  # moved down, it would float across the top edge
    corners += [(left, top), (left, bottom + 1), (right + 1 - width, top - height), (right + 1, top)]
    x, y = np.clip(np.array(corners), 0, (max(0, shape[1] - width), max(0, shape[0] - height))).T
    places = np.stack((x, y, np.minimum(x + width, shape[1]), np.minimum(y + height, shape[0])), axis=1)
    rank = np.arange(len(places)) / 10  # an earlier place may hide a tenth of an object more
    return Tag(text, scale, places[(_hidden(places, np.array(taken)) + rank).argmin()].tolist())


def _hidden(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which shares of rectangles [T, 4] each of P places covers, summed up, [P]."""
    place = places[:, None]
    sides = np.minimum(place[..., 2:], others[:, 2:]) - np.maximum(place[..., :2], others[:, :2])  # [P, T, 2]
    area = (others[:, 2:] - others[:, :2]).prod(axis=1).clip(min=1)  # [T]
    shares: np.ndarray = (sides.clip(min=0).prod(axis=-1) / area).sum(axis=1)
    return shares


def _draw_tag(canvas: np.ndarray, tag: Tag, colour: Colour) -> None:
    """Draws a filled tag into `canvas`."""
    left, top, right, bottom = tag.place
    canvas[top:bottom, left:right] = colour
    _put_text(canvas, tag.text, (left + 2, top + 1 + _text_size(tag.text, tag.scale)[1]), tag.scale, _ink_on(colour))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever has the higher WCAG 2 contrast ratio on the colour."""
    linear = [(part / 255 / 12.92) if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) ** 2 > 1.05 * 0.05 else WHITE


def _text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Width of a line, its height above and below the baseline; heights are the same for every text."""
    (width, _), _ = cv2.getTextSize(text, FONT, scale, _stroke(scale))
    (_, ascent), descent = cv2.getTextSize("Hg", FONT, scale, _stroke(scale))
    return width, ascent, descent


def _stroke(scale: float) -> int:
    return max(1, round(scale * 1.4))


def _scale_to_fit(text: str, scale: float, width: int, height: int) -> float:
    """The font scale, lowered where the text would not fit into width x height pixels."""
    text_width, ascent, descent = _text_size(text, scale)
    return scale * max(0.05, min(1.0, width / max(1, text_width), height / (ascent + descent)))


def _put_text(canvas: np.ndarray, text: str, origin: tuple[int, int], scale: float, colour: Colour) -> None:
    """Writes one line into `canvas`; origin is the left end of its baseline, x y."""
    cv2.putText(canvas, text, origin, FONT, scale, colour, _stroke(scale), cv2.LINE_AA)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Any image [H, W, n] as RGB: the first three channels, or the first where there are fewer."""
    if image.shape[2] == 3:
        return image
    return image[..., :3] if image.shape[2] > 3 else np.repeat(image[..., :1], 3, axis=2)


def enlarge(
    image: np.ndarray, xyxy: np.ndarray, longest: int = 480, below: int = SMALL_SIDE
) -> tuple[np.ndarray, np.ndarray]:
    """The image and its boxes, scaled up to `longest` pixels if its longest side is under `below`."""
    height, width = image.shape[:2]
    boxes = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)
    if max(height, width) >= below:
        return image, boxes
    ratio = longest / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    larger = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return larger, boxes * (np.array([*size, *size]) / np.array([width, height, width, height]))


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image below a dark strip with a caption; its width stays."""
    height, width = image.shape[:2]
    strip = np.full((max(18, max(height, width) // 20), width, 3), DARK, dtype=np.uint8)
    scale = _scale_to_fit(title, len(strip) / 40, width - 8, len(strip))
    _, ascent, _ = _text_size(title, scale)
    _put_text(strip, title, (4, (len(strip) + ascent) // 2), scale, WHITE)
    return np.concatenate([strip, image])


def side_by_side(
    left: np.ndarray, right: np.ndarray, titles: tuple[str, str] = ("labels", "predictions")
) -> np.ndarray:
    """Two images next to each other, each below its title."""
    return contact_sheet([titled(left, titles[0]), titled(right, titles[1])], columns=2)


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images in rows of `columns`, each centred in a cell of the largest height and width, on grey.

    A gap of 1% of a cell (2 pixels or more) lies between cells, none at the border.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs 1 or more images and columns, got {len(images)} and {columns}")
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


def encode_image(image_rgb: np.ndarray, ending: str = ".png") -> bytes:
    """An RGB image as the bytes of a file. Raises ValueError for an ending that OpenCV does not know."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1] if ending.lower() == ".png" else []  # five times quicker, a third larger
    try:
        return cv2.imencode(ending, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    except cv2.error as error:
        raise ValueError(f"an image cannot be written as {ending!r}: {error.err}") from error


def write_image(path: str | os.PathLike[str], image_rgb: np.ndarray) -> None:
    """Writes an RGB image in the format of the path's ending. Raises OSError, ValueError for an unknown ending."""
    # Not by cv2.imwrite, which cannot open every path that Python can.
    Path(path).write_bytes(encode_image(image_rgb, Path(path).suffix))
