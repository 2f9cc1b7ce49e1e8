"""Label files: every row is read right, or left out and named with its file and line."""

import numpy as np
import pytest

from yolo_lite.data.index import read_labels
from yolo_lite.data.readers.yolo import YoloReader

HEIGHT, WIDTH = 200, 100


def read(tmp_path, text: str | bytes):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    reader = YoloReader(tmp_path, None, ("a", "b", "c"))
    labels = read_labels(reader, str(tmp_path / "a.png"), str(path), (HEIGHT, WIDTH))
    labels = labels._replace(xyxy=labels.xyxy / (WIDTH, HEIGHT, WIDTH, HEIGHT), problems=labels.problems[0])
    assert labels.label.dtype == np.int64 and labels.xyxy.dtype == np.float64
    assert labels.xyxy.shape == (len(labels.label), 4)
    return labels


def test_a_box_row_is_class_centre_and_size(tmp_path):
    labels = read(tmp_path, "2 0.5 0.4 0.2 0.1\n")
    assert labels.label.tolist() == [2] and not labels.problems
    np.testing.assert_allclose(labels.xyxy, [[0.4, 0.35, 0.6, 0.45]])


def test_a_polygon_becomes_the_box_around_it(tmp_path):
    labels = read(tmp_path, "1 0.5 0.1 0.9 0.8 0.2 0.6\n")
    np.testing.assert_allclose(labels.xyxy, [[0.2, 0.1, 0.9, 0.8]])


def test_boxes_and_polygons_may_stand_in_one_file(tmp_path):
    labels = read(tmp_path, "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2\n2 0.25 0.25 0.5 0.5\n")
    assert labels.label.tolist() == [0, 1, 2] and not labels.problems
    np.testing.assert_allclose(labels.xyxy, [[0.4, 0.4, 0.6, 0.6], [0.1, 0.1, 0.3, 0.2], [0, 0, 0.5, 0.5]])


def test_a_hair_outside_is_clipped(tmp_path):
    labels = read(tmp_path, "0 0.5 0.5 1.000001 1.01\n0 -0.005 0.2 1.005 0.2 0.5 0.9\n")
    assert not labels.problems
    np.testing.assert_array_equal(labels.xyxy, [[0, 0, 1, 1], [0, 0.2, 1, 0.9]])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 0.5 0.5 0.2", "found 4 columns"),
        ("0 0.5 0.5 0.2 0.2 0.9", r"found 6 columns \(the last a confidence, as of --save-txt\?\)"),  # not a polygon
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.9", r"found 8 columns \(the last a confidence, as of --save-txt\?\)"),
        ("0 0.1 0.1 0.3 0.1 0.3 0.2 0.1", "found 8 columns"),
        ("0", "found 1 columns"),
        ("0 nan 0.5 0.2 0.2", "finite"),
        ("0 0.5 inf 0.2 0.2", "finite"),
        ("nan 0.5 0.5 0.2 0.2", "finite"),
        ("3 0.5 0.5 0.2 0.2", r"class in 0..2, found 3"),
        ("-1 0.5 0.5 0.2 0.2", r"class in 0..2, found -1"),
        ("0.5 0.5 0.5 0.2 0.2", r"class in 0..2, found 0.5"),
        ("cat 0.5 0.5 0.2 0.2", "expected numbers, found 'cat"),
        ("0,0.5,0.5,0.2,0.2", "expected numbers"),
        ("0 0.5 0.5 0.2 -0.2", "width and height above 0"),
        ("0 0.5 0.5 0 0.2", "width and height above 0"),
        ("0 0.1 0.1 0.5 0.1 0.9 0.1", "width and height above 0"),
        ("0 0.9 0.5 0.3 0.2", r"inside the 100 x 200 image, found \(75, 80\) to \(105, 120\)"),
        ("0 160 120 40 30", "inside the 100 x 200 image"),
        ("0 0.1 0.1 1.5 0.2 0.5 0.6", "inside the 100 x 200 image"),
    ],
)
def test_a_bad_row_is_left_out_and_named(tmp_path, row, reason):
    labels = read(tmp_path, f"1 0.5 0.5 0.2 0.2\n{row}\n2 0.5 0.5 0.3 0.3\n")
    assert labels.label.tolist() == [1, 2]
    [problem] = labels.problems
    assert problem.text.startswith(f"{tmp_path / 'a.txt'}:2: ")
    with pytest.raises(ValueError, match=reason):
        raise ValueError(problem.text)


def test_repeated_rows_count_once(tmp_path):
    labels = read(tmp_path, "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n0 0.50 .5 0.2 2e-1\n")
    assert labels.label.tolist() == [0, 1]
    assert len(labels.problems) == 1 and ":3: repeats" in labels.problems[0].text


def test_line_numbers_count_empty_lines(tmp_path):
    labels = read(tmp_path, "\n  \n0 0.5 0.5 0.2 0.2\n\nwrong\n\n")
    assert len(labels.label) == 1 and ":5: " in labels.problems[0].text


@pytest.mark.parametrize(
    "text", [b"\xef\xbb\xbf0 .5 .5 .2 .2\n", b"0 .5 .5 .2 .2\r\n", b"0\t.5  .5\t.2 .2", b"0.0 5e-1 .5 .2 .2 "]
)
def test_every_spelling_of_a_row_is_read(tmp_path, text):
    labels = read(tmp_path, text)
    assert not labels.problems and labels.label.tolist() == [0]
    np.testing.assert_allclose(labels.xyxy, [[0.4, 0.4, 0.6, 0.6]])


@pytest.mark.parametrize("text", ["", "\n", " \r\n\n"])
def test_an_empty_file_is_background(tmp_path, text):
    labels = read(tmp_path, text)
    assert len(labels.label) == 0 and not labels.problems


def test_a_file_that_is_no_text_is_named(tmp_path):
    labels = read(tmp_path, b"\xff\xfe0\x00 \x00")
    assert len(labels.label) == 0 and str(tmp_path / "a.txt") in labels.problems[0].text
