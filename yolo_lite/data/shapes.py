"""The embedded dataset: images of five plain shapes on cluttered ground, drawn from a seed into a cache on first use.

A polygon per object lets boxes and masks be learnt. H W image height and width, K points of a polygon in pixels,
canvas [H, W, 3] BGR 0..255 float32.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from tqdm import tqdm

from yolo_lite.config.data import Generate
from yolo_lite.config.errors import DataError
from yolo_lite.data.masks import join_rings, to_sixteenths

FORMAT_VERSION = 1  # raise it when the drawing changes: sets in caches carry it in their names
SPLITS = ("train", "val")  # the position is part of the seed
SIDE_RATIOS = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.75))  # height and width, as parts of image_size
SMALLEST, LARGEST = 0.20, 0.60  # longest side of an object, as a part of the image's mean side
LEAST_VISIBLE = 0.85  # of an object's area, once all later objects are drawn over it
HUE_SPREAD = 28.0  # degrees: every class has a range of hues of its own, backgrounds and clutter have them all
LEAST_CONTRAST = 100.0  # BGR distance between an object and nearly every pixel along its edge
HOLED = ("circle", "heart")  # classes that may have holes
HOLE = (0.4, 0.6)  # of the sides of its object
Shape = tuple[int, np.ndarray]  # index into SHAPE_CLASSES; outline [K, 2], whole even where a later object hides a part


def radial_outline(radii: np.ndarray) -> np.ndarray:
    """Closed outline [K, 2] with its points at even angles round the origin, at the given radii [K]."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def heart_outline() -> np.ndarray:
    """Heart [K, 2] by the parametric curve of MathWorld, "Heart Curve"."""
    t = 2 * np.pi * np.arange(40) / 40
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


OUTLINES = {
    "circle": radial_outline(np.ones(32)),
    "square": radial_outline(np.ones(4)),
    "triangle": radial_outline(np.ones(3)),
    "star": radial_outline(np.tile([1.0, 0.42], 5)),
    "heart": heart_outline(),
}
SHAPE_CLASSES: tuple[str, ...] = tuple(OUTLINES)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points [K, 2] rotated round the origin by an angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Low-frequency noise [H, W], 0..1; with 2 cells a side it is a slope with a bend."""
    values = rng.random((cells, cells), dtype=np.float32)
    return np.clip(cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def blend(canvas: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Canvas with a colour ([3] or [H, W, 3]) laid over it, alpha [H, W] 0..1."""
    return canvas + (np.float32(colour) - canvas) * np.float32(alpha)[..., None]


def stroke_lines(rng: np.random.Generator) -> list[np.ndarray]:
    """One piece of clutter as polylines [K, 2] in about -1..1: open and thin, so never one of the classes."""
    kind = rng.choice(["line", "wave", "arc", "cross", "script"])
    along = np.linspace(-1, 1, 24)
    if kind == "line":
        return [np.array([[-2.0, 0.0], [2.0, 0.0]])]
    if kind == "wave":
        return [np.stack([along, 0.25 * np.sin(along * rng.uniform(4, 9))], axis=1)]
    if kind == "arc":
        angles = along * rng.uniform(0.5, 1.6)
        return [np.stack([np.cos(angles), np.sin(angles)], axis=1)]
    if kind == "cross":
        return [np.array([[-0.4, 0.0], [0.4, 0.0]]), np.array([[0.0, -0.4], [0.0, 0.4]])]
    return [np.stack([along[i : i + 4], rng.uniform(-0.2, 0.2, 4)], axis=1) for i in range(0, 24, 5)]


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A canvas with a wavy gradient, soft blotches, sometimes stripes, and thin strokes at random places."""
    colours = rng.uniform(20, 235, (3, 3))
    # half way to grey and not too far apart: a ground of every colour would leave none to the objects
    near, far, blotch = (colours + colours.mean(axis=1, keepdims=True)).astype(np.float32) / 2
    far = near + 0.7 * (far - near)
    mix = 0.6 * smooth_noise(rng, height, width, 2) + 0.4 * smooth_noise(rng, height, width, 6)
    canvas = blend(np.broadcast_to(near, (height, width, 3)), far, mix)
    blotches = np.clip(8 * (smooth_noise(rng, height, width, 5) - 0.6), 0, 1)
    canvas = blend(canvas, blotch, blotches * rng.uniform(0.2, 0.6))
    if rng.random() < 0.4:
        stripes = np.sin(smooth_noise(rng, height, width, 2) * rng.uniform(40, 150))
        canvas = canvas + np.float32(rng.uniform(5, 14)) * stripes[..., None]
    drawn = np.clip(canvas, 0, 255).astype(np.uint8)  # cv2 smooths edges of 8-bit images only
    side = (height * width) ** 0.5
    for _ in range(rng.integers(5, 16)):
        turn, scale = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.05, 0.3)
        centre = rng.random(2) * (width, height)
        lines = [to_sixteenths(turned(line, turn) * scale + centre) for line in stroke_lines(rng)]
        colour, thickness = rng.uniform(0, 255, 3).tolist(), max(1, round(side * rng.uniform(0.004, 0.014)))
        cv2.polylines(drawn, lines, False, colour, thickness, cv2.LINE_AA, shift=4)
    return drawn.astype(np.float32)


def random_polygon(rng: np.random.Generator, outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """The outline [K, 2] turned, a little squeezed, sized and put wholly inside the image."""
    points = turned(outline, rng.uniform(0, np.pi)) * (1.0, rng.uniform(0.85, 1.0))
    points = turned(points, rng.uniform(0, 2 * np.pi))
    size = (height * width) ** 0.5 * np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    points = (points - points.min(axis=0)) * size / np.ptp(points, axis=0).max()
    # drawn from a little more than 0..1 and clipped: about one object in seven touches the border
    place = np.clip(rng.uniform(-0.04, 1.04, 2), 0, 1)
    return points + place * ((width, height) - points.max(axis=0))


def with_hole(polygon: np.ndarray, ratio: float) -> np.ndarray:
    """The outline [K, 2], and back from its smaller copy round the same middle, as one [2 K + 2, 2]."""
    middle = polygon.mean(axis=0)
    return join_rings([polygon, (middle + ratio * (polygon - middle))[::-1]])  # backwards: areas are taken away


def coverage(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of each pixel that lies inside a polygon [K, 2], of 4 x 4 finer ones: [H, W] float32, 0..1."""
    fine = np.zeros((height * 4, width * 4), np.uint8)
    cv2.fillPoly(fine, [to_sixteenths(polygon * 4)], 255, shift=4)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def cast_shadow(canvas: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Canvas with a soft shadow of alpha [H, W], moved by up to 2 % of the side."""
    shift = np.hstack([np.eye(2), rng.uniform(-0.02, 0.02, (2, 1)) * max(alpha.shape)])
    moved = cv2.warpAffine(alpha, shift, alpha.shape[::-1])
    shadow = cv2.GaussianBlur(moved, (0, 0), 0.012 * max(alpha.shape))
    return canvas * (1 - np.float32(rng.uniform(0.1, 0.4)) * shadow)[..., None]


def fill_shape(canvas: np.ndarray, alpha: np.ndarray, class_index: int, rng: np.random.Generator) -> np.ndarray:
    """Canvas with a softly shaded object on alpha [H, W], in a hue of its class that stands out along its edge."""
    edge = cv2.morphologyEx((alpha > 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    ground = canvas[edge]  # [N, 3]
    hue = 360 * class_index / len(OUTLINES) + rng.uniform(-HUE_SPREAD, HUE_SPREAD, 30)
    hsv = rng.uniform((0, 0.4, 0.35), (1, 1, 1), (30, 3)).astype(np.float32)  # pale to vivid, dark to bright
    hsv[:, 0] = hue % 360
    candidates = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0] * 245
    distances = np.linalg.norm(candidates[:, None] - ground[:: len(ground) // 100 + 1], axis=2)
    contrast = np.quantile(distances, 0.05, axis=1)
    # the first that is good enough, not the best of all: that would be black or white nearly every time
    colour = candidates[np.argmax(contrast >= min(LEAST_CONTRAST, contrast.max()))]
    shade = 0.75 + 0.35 * smooth_noise(rng, alpha.shape[0], alpha.shape[1], 2)
    return blend(canvas, np.minimum(np.float32(colour) * shade[..., None], 255), alpha)


def draw_image(spec: Generate, split: str, index: int) -> tuple[np.ndarray, list[Shape]]:
    """Image [H, W, 3] uint8 BGR and its objects, whatever the numbers of images in the spec."""
    rng, of_holes = (np.random.default_rng([spec.seed, SPLITS.index(split), index, *more]) for more in ((), (1,)))
    height, width = (round(ratio * spec.image_size) for ratio in rng.choice(SIDE_RATIOS))
    count = 0 if rng.random() < 0.08 else int(rng.integers(1, 6))  # some images hold no object
    canvas = draw_background(rng, height, width)
    shapes: list[Shape] = []
    seen = np.zeros((height, width), int)  # number of the object on top, 0 for none
    areas = np.zeros(1)  # pixels of the whole objects by their numbers
    for class_index in rng.integers(len(SHAPE_CLASSES), size=count).tolist():
        name = SHAPE_CLASSES[class_index]
        has_hole, ratio = name in HOLED and of_holes.random() < spec.holes, of_holes.uniform(*HOLE)
        for _ in range(20):  # places are tried
            polygon = random_polygon(rng, OUTLINES[name], height, width)
            alpha = coverage(polygon, height, width)
            cover = alpha > 0.5
            if (np.bincount(seen[~cover], minlength=len(areas)) >= LEAST_VISIBLE * areas).all():
                if has_hole:  # objects lie where they lie without holes
                    polygon = with_hole(polygon, ratio)
                    alpha = coverage(polygon, height, width)
                canvas = fill_shape(cast_shadow(canvas, alpha, rng), alpha, class_index, rng)
                seen[cover] = len(areas)
                areas = np.append(areas, cover.sum())
                shapes.append((class_index, polygon))
                break
    # grain over everything: an object must not be told by being free of noise
    grain = np.float32(rng.uniform(1, 7)) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(canvas + grain, 0, 255).astype(np.uint8), shapes


def write_image(folder: Path, spec: Generate, split: str, index: int) -> None:
    """Draw one image into images/<split>, and polygon rows of YOLO into labels/<split> unless it is empty."""
    image, shapes = draw_image(spec, split, index)
    (folder / "images" / split / f"{index:06d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    rows = ""
    for class_index, polygon in shapes:
        points = np.clip(polygon / (image.shape[1], image.shape[0]), 0, 1)  # takes rounding only
        rows += " ".join([str(class_index), *(f"{value:.6f}" for value in points.ravel())]) + "\n"
    if rows:
        (folder / "labels" / split / f"{index:06d}.txt").write_text(rows, encoding="ascii")


def write_set(folder: Path, spec: Generate) -> None:
    """Draw every image of both splits under a folder that is not there yet."""
    for split, count in zip(SPLITS, (spec.train, spec.val), strict=True):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for index in tqdm(range(count), desc=f"drawing shapes: {split}", leave=False, delay=1.0):
            write_image(folder, spec, split, index)


def cache_folder() -> Path:
    """$YOLO_LITE_CACHE, else $XDG_CACHE_HOME/yolo_lite, else ~/.cache/yolo_lite."""
    if chosen := os.environ.get("YOLO_LITE_CACHE"):
        return Path(os.path.expanduser(chosen))
    home = os.path.expanduser("~")
    if home == "~" and not os.environ.get("XDG_CACHE_HOME"):  # without HOME, a user that the system does not know
        raise DataError("no home folder is known for the cache: set YOLO_LITE_CACHE to a folder that can be written")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "yolo_lite"


def ensure_shapes(spec: Generate, cache: Path | None = None) -> Path:
    """The folder of the set, drawn first if it is not there yet. Raises DataError if the cache cannot be written."""
    cache = cache or cache_folder()
    holes = f"-holes-{spec.holes:g}" if spec.holes else ""
    folder = cache / f"shapes-v{FORMAT_VERSION}-{spec.train}-{spec.val}-{spec.image_size}-{spec.seed}{holes}"
    if (folder / "images").is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, prefix=f".{folder.name}.") as temporary:
            write_set(Path(temporary) / "set", spec)
            os.replace(Path(temporary) / "set", folder)  # it gets its name when it is whole
    except OSError as error:
        if not (folder / "images").is_dir():  # else another process was first: its set is the same
            hint = "set YOLO_LITE_CACHE to a folder that can be written"
            raise DataError(f"cannot draw the shapes set into {folder}: {error}; {hint}") from error
    return folder
