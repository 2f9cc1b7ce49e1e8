"""The letterbox: its numbers are those of the image it makes, and its inverse is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.data.letterbox import (
    GREY,
    Letterbox,
    canvas_size,
    fitted_size,
    on_canvas,
    padded_size,
    resize,
    to_canvas,
    to_original,
)

side = st.integers(1, 5000)


def letterbox_of(original: tuple[int, int], size: tuple[int, int], canvas: tuple[int, int]) -> Letterbox:
    """Of an image that was resized to ``size`` and lies in the middle of ``canvas``; (height, width)."""
    return on_canvas(np.zeros((*size, 1), np.uint8), original, canvas)[1]


@given(side, side, st.integers(1, 1280), st.sampled_from([1, 8, 32, 64]))
@settings(deadline=None)
def test_the_inverse_is_exact(height, width, longest, stride):
    size = fitted_size(height, width, longest)
    letterbox = letterbox_of((height, width), size, padded_size(*size, stride))
    boxes = np.random.default_rng(height * 5001 + width).uniform(0, 1, (20, 4)) * (width, height, width, height)
    np.testing.assert_allclose(to_original(to_canvas(boxes, letterbox), letterbox), boxes, rtol=0, atol=1e-9)


@given(side, side, st.integers(1, 1280))
def test_fitted_size_has_the_longest_side_and_the_nearest_aspect(height, width, longest):
    fitted = fitted_size(height, width, longest)
    assert max(fitted) == longest and min(fitted) >= 1
    exact = np.array((height, width)) * longest / max(height, width)
    assert np.all((np.abs(fitted - exact) <= 0.5 + 1e-9) | (np.array(fitted) == 1))


def test_fitted_size_by_hand():
    assert fitted_size(480, 640, 320) == (240, 320)
    assert fitted_size(333, 500, 640) == (426, 640)
    assert fitted_size(10, 5, 320) == (320, 160)
    assert fitted_size(1, 3000, 320) == (1, 320)


@given(side, side, st.sampled_from([1, 8, 32, 64]))
def test_padded_size_is_the_next_multiple(height, width, stride):
    for padded, given_side in zip(padded_size(height, width, stride), (height, width), strict=True):
        assert padded % stride == 0 and 0 <= padded - given_side < stride


@pytest.mark.parametrize("canvas", [(48, 64), (49, 64), (48, 67), (53, 71), (64, 96)])
def test_a_marker_pixel_lies_where_the_letterbox_says(canvas):
    """Also for odd paddings: the shift is the integer that was padded."""
    for row, column in ((0, 0), (47, 63), (20, 31)):
        image = np.zeros((48, 64, 3), np.uint8)
        image[row, column] = 255
        letterbox = letterbox_of((48, 64), (48, 64), canvas)
        assert isinstance(letterbox.left, int) and isinstance(letterbox.top, int)
        [[left, top, right, bottom]] = to_canvas(np.array([[column, row, column + 1, row + 1.0]]), letterbox)
        found = np.argwhere((on_canvas(image, (48, 64), canvas)[0] == 255).all(axis=2))
        assert found.tolist() == [[top, left]] and (right, bottom) == (left + 1, top + 1)


@pytest.mark.parametrize(
    ("height", "width", "longest"), [(333, 500, 640), (500, 333, 320), (97, 131, 64), (40, 30, 95)]
)
def test_a_rectangle_lies_where_the_letterbox_says(height, width, longest):
    box = np.array([[0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height]]).round()
    left, top, right, bottom = box[0].astype(int)
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    size = fitted_size(height, width, longest)
    canvas = padded_size(size[0] + 3, size[1] + 5, 32)
    mask = on_canvas(resize(image, *size), (height, width), canvas)[0][..., 0] > 127
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(to_canvas(box, letterbox_of((height, width), size, canvas))[0], found, atol=1)


def test_each_axis_has_its_own_true_scale():
    """333 x 500 at 640 becomes 426 x 640: one common scale would be a pixel off at the far edge."""
    letterbox = letterbox_of((333, 500), (426, 640), (448, 640))
    np.testing.assert_allclose(to_canvas(np.array([[0, 0, 500, 333.0]]), letterbox), [[0, 11, 640, 437]], atol=1e-9)


def test_the_padding_is_grey_and_the_picture_untouched():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    padded, _ = on_canvas(image, image.shape[:2], (8, 12))
    assert padded.shape == (8, 12, 3) and padded.dtype == np.uint8 and GREY == 114
    np.testing.assert_array_equal(padded[1:6, 2:9], image)
    assert padded.astype(int).sum() - image.astype(int).sum() == (8 * 12 - 5 * 7) * 3 * GREY


def test_a_fitting_picture_is_not_resampled():
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resize(image, 6, 9), image)


def test_shrinking_averages_and_growing_interpolates():
    image = np.zeros((9, 9, 3), np.uint8)
    image[::3, ::3] = 180  # one pixel of nine, beside those that linear interpolation would look at
    assert np.all(resize(image, 3, 3) == 20)
    assert len(np.unique(resize(np.array([[[0] * 3, [200] * 3]], np.uint8), 1, 8))) > 3


def test_a_canvas_has_half_a_stride_of_grey_or_more():
    assert canvas_size(640, 640, 32) == (672, 672)
    assert canvas_size(480, 625, 32) == (512, 672) and canvas_size(496, 624, 32) == (512, 640)
