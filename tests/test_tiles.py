"""Laws of tiles: windows cover an image, show what an untiled image shows, and what lies on a seam counts once."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predict import CANVAS, COLOURS, NAMES, detect_colours, painted
from torch import Tensor

from yolo_lite.config.errors import ConfigError
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.predictor import Predictor
from yolo_lite.deploy.sources import Frame
from yolo_lite.ops.nms import DetectOptions, class_nms
from yolo_lite.ops.tiles import Tiles, merge, sight_of, views_of
from yolo_lite.structures import Detections

# -------------------------------------------------------------------------------------------------------- windows


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(32, 200), overlap=st.floats(0, 0.9))
@settings(max_examples=200, deadline=None)
def test_windows_cover_every_pixel_and_overlap_as_they_should(height: int, width: int, size: int, overlap: float):
    whole, *windows = views_of(height, width, Tiles(size, overlap)).tolist()
    assert whole == [0, 0, width, height]
    if max(height, width) <= size:
        assert not windows
        return
    count = np.zeros((height, width), int)
    for left, top, right, bottom in windows:
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        assert (right - left, bottom - top) == (min(size, width), min(size, height))
        count[top:bottom, left:right] += 1
    assert count.min() >= 1
    for axis, side in ((0, width), (1, height)):
        starts = sorted({window[axis] for window in windows})
        steps = np.diff(starts)
        assert starts[0] == 0 and starts[-1] == max(side - size, 0)
        assert not len(steps) or size - steps.max() >= overlap * size - 1e-9
        fewer = (len(starts) - 2) * int(size * (1 - overlap)) + size
        assert len(starts) == 1 or int(size * (1 - overlap)) == 0 or fewer < side  # one window less would not do


def test_windows_by_hand():
    assert views_of(100, 250, Tiles(100, 0.2)).tolist() == [
        [0, 0, 250, 100], [0, 0, 100, 100], [75, 0, 175, 100], [150, 0, 250, 100]
    ]  # fmt: skip
    assert views_of(640, 600, Tiles(640)).tolist() == views_of(640, 600, Tiles(0)).tolist() == [[0, 0, 600, 640]]


# ---------------------------------------------------------------------------------------------------------- merge


def boxes_and_scores(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    return (
        np.concatenate((low, low + rng.uniform(5, 40, (count, 2))), axis=1),
        rng.random(count),
        rng.integers(0, 3, count),
    )


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("iou", [0.3, 0.6])
def test_without_seams_the_rule_is_nms(agnostic: bool, iou: float):
    for seed in range(20):
        box, score, label = boxes_and_scores(60, seed)
        options = DetectOptions(0.0, iou, 25, agnostic=agnostic)
        merged, rows = merge(box, score, label, np.full_like(box, np.inf), options)
        group = torch.from_numpy(np.zeros_like(label) if agnostic else label)
        kept = class_nms(torch.from_numpy(box), torch.from_numpy(score), group, iou)[:25].numpy()
        assert [[row] for row in kept] == rows
        assert np.array_equal(merged, box[kept])


def merged_pieces(views: np.ndarray, *objects: tuple[float, float, float, float], scores: np.ndarray | None = None):
    """What the rule makes of what each view shows of each object, all of one class."""
    pieces, seen = [], []
    for view in views:
        for thing in objects:
            piece = np.concatenate((np.maximum(thing[:2], view[:2]), np.minimum(thing[2:], view[2:])))
            if (piece[:2] < piece[2:]).all():
                pieces.append(piece)
                seen.append(view)
    box, view = np.array(pieces, float), np.array(seen)
    width, height = view[:, 2:].max(axis=0)
    score = np.random.default_rng(len(box)).permutation(len(box)) + 1.0 if scores is None else scores
    return merge(box, score, np.zeros(len(box), int), sight_of(box, view, height, width), DetectOptions(0, 0.45, 300))


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_an_object_on_a_seam_counts_once_and_is_whole(data: st.DataObject):
    """Whatever the order of the scores, and whether or not the whole image shows it; it may be larger than a window."""
    tiles = Tiles(64, data.draw(st.sampled_from([0.1, 0.2, 0.5])))
    views = views_of(150, 230, tiles)[data.draw(st.integers(0, 1)) :]
    left, top = data.draw(st.integers(0, 225)), data.draw(st.integers(0, 145))
    right, bottom = data.draw(st.integers(left + 1, 230)), data.draw(st.integers(top + 1, 150))
    box, _ = merged_pieces(views, (left, top, right, bottom))
    assert box.tolist() == [[left, top, right, bottom]]


def test_neighbours_on_a_seam_are_told_apart():
    views = views_of(100, 180, Tiles(100, 0.2))
    assert views[1:].tolist() == [[0, 0, 100, 100], [80, 0, 180, 100]]
    objects = [(70, 10, 85, 25), (86, 10, 101, 25), (70, 26, 85, 41), (95, 26, 110, 41)]
    box, _ = merged_pieces(views, *objects)
    assert sorted(map(tuple, box.tolist())) == sorted(objects)


def test_a_small_object_in_front_of_a_large_one_is_kept():
    large, small = (10, 10, 150, 90), (85, 40, 95, 50)
    box, _ = merged_pieces(views_of(100, 180, Tiles(100, 0.2)), large, small)
    assert sorted(map(tuple, box.tolist())) == sorted([large, small])


def test_a_piece_that_disagrees_is_dropped_if_most_of_it_lies_in_a_better_box():
    sides = np.array([[70.0, 10, 110, 50], [92, 15, 100, 45]])
    sight = np.array([[np.inf] * 4, [np.inf, np.inf, 100, np.inf]])
    box, rows = merge(sides, np.array([0.9, 0.8]), np.zeros(2, int), sight, DetectOptions(0, 0.6, 300))
    assert rows == [[0]] and box.tolist() == [[70, 10, 110, 50]]
    assert len(merge(sides, np.array([0.9, 0.8]), np.arange(2), sight, DetectOptions(0, 0.6, 300))[1]) == 2
    assert (
        len(merge(sides, np.array([0.9, 0.8]), np.zeros(2, int), np.full_like(sight, np.inf), DetectOptions(0, 0.6))[1])
        == 2
    )


def test_nothing_found_is_nothing():
    none = np.zeros((0, 4))
    box, rows = merge(none, np.zeros(0), np.zeros(0, int), none, DetectOptions())
    assert box.shape == (0, 4) and rows == []


# -------------------------------------------------------------------------------------------------------- predict

SEAMED = [(0, 60, 40, 72, 52), (1, 100, 10, 112, 22), (2, 20, 90, 170, 130), (0, 150, 60, 160, 70)]


def components(images: Tensor, options: DetectOptions) -> list[Detections]:
    """For each colour the boxes around its connected parts, the better the more of their pixels are in full colour."""
    found = []
    for image in images.numpy():
        rows = []
        for label in range(3):
            mask = (image[label] > 127) & (image.min(axis=0) != 114)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
            for number, (x, y, width, height, _) in enumerate(stats[1:]):
                full = (image[label, y : y + height, x : x + width] == 255).mean()
                rows.append([x, y, x + width, y + height, 0.9 * full - number / 1000, label])
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        order = table[:, 4].argsort(descending=True)
        found.append(Detections(table[order, :4], table[order, 4], table[order, 5].long()))
    return found


PARTS = Predictor(NAMES, 64, CANVAS, components)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_tiles_find_what_an_untiled_image_of_full_size_shows(batch_size: int):
    images = [
        painted(140, 200, *SEAMED),
        painted(200, 140),
        painted(64, 64, (1, 3, 3, 20, 20)),
        painted(70, 30, (2, 0, 0, 30, 70)),
    ]
    found = PARTS.predict(images, tile=64, overlap=0.3, batch_size=batch_size)
    assert isinstance(found, list)
    for image, one in zip(images, found, strict=True):
        untiled = Predictor(NAMES, max(image.shape), CANVAS, components).predict(image, tile=0)
        assert isinstance(untiled, Prediction) and one.image is image
        mine, theirs = (np.column_stack((p.label, p.xyxy))[np.lexsort(p.xyxy.T)] for p in (one, untiled))
        assert mine.shape == theirs.shape
        is_large = (theirs[:, 3:] - theirs[:, 1:3]).max(
            axis=1
        ) > 64  # than a window: the whole image shows where it ends
        np.testing.assert_array_equal(mine[~is_large], theirs[~is_large])
        np.testing.assert_allclose(mine[is_large], theirs[is_large], atol=max(image.shape) / 64)
        assert (np.diff(one.score) <= 0).all()


def test_an_image_that_fits_is_untiled_to_the_bit():
    images = [np.random.default_rng(seed).integers(0, 256, (64, 50, 3), dtype=np.uint8) for seed in range(5)]
    assert isinstance(tiled := COLOURS.predict(images, tile=64), list)
    assert isinstance(untiled := COLOURS.predict(images), list)
    assert [one.to_dict() for one in tiled] == [one.to_dict() for one in untiled]


def test_windows_are_looked_at_in_batches_and_few_images_wait():
    sizes, pulled, most = list[int](), 0, 0

    def detect(images: Tensor, options: DetectOptions) -> list[Detections]:
        sizes.append(len(images))
        return detect_colours(images, options)

    def frames() -> Iterator[Frame]:
        nonlocal pulled
        for _ in range(12):
            pulled += 1
            yield Frame(painted(140, 200))

    for number, _ in enumerate(Predictor(NAMES, 64, CANVAS, detect).run(frames(), DetectOptions(), 8, Tiles(64))):
        most = max(most, pulled - number)
    views = len(views_of(140, 200, Tiles(64)))
    assert sum(sizes) == 12 * views and sizes.count(8) >= 12 * (views - 1) // 8
    assert most <= 4


@pytest.mark.parametrize(
    ("choice", "said"), [({"tile": 16}, "tile: expected 0, or 32"), ({"overlap": 1.0}, "overlap: expected 0..0.9")]
)
def test_a_tile_or_overlap_out_of_range_is_told(choice: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        PARTS.predict(painted(64, 64), **choice)
