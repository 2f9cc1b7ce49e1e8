"""Laws of the report room: images, results.csv, TensorBoard and the table for the terminal."""

from __future__ import annotations

import csv
import itertools
import math

import cv2
import numpy as np
import pytest

from yolo_lite.report.drawing import (
    as_rgb,
    class_colour,
    contact_sheet,
    draw_boxes,
    draw_outlines,
    enlarge,
    titled,
    write_image,
)
from yolo_lite.report.evaluation import Curves
from yolo_lite.report.loggers.tensorboard import TensorBoard
from yolo_lite.report.results_csv import results_rows, results_text
from yolo_lite.report.table import class_table

NAMES = ["RBC", "WBC", "Platelets"]


def grey_picture(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), 100, dtype=np.uint8)


def is_colour(image: np.ndarray, label: int) -> np.ndarray:
    return (image == class_colour(label)).all(axis=-1)  # [H, W] bool


def scattered_boxes(count: int, height: int = 240, width: int = 320) -> np.ndarray:
    corners = np.random.default_rng(0).uniform(0, [width, height], (count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


# pictures


def test_the_colours_of_a_hundred_classes_differ_and_neighbours_differ_much():
    colours = np.array([class_colour(label) for label in range(100)])
    assert len(np.unique(colours, axis=0)) == 100
    assert (np.abs(np.diff(colours, axis=0)).max(axis=1) > 60).all()
    assert colours.min() >= 0 and colours.max() <= 255


def test_drawing_leaves_the_picture_and_the_boxes_as_they_were():
    image, boxes = grey_picture(), np.array([[-20.0, 30.4, 400.0, 200.6]])
    image_before, boxes_before = image.copy(), boxes.copy()
    drawn = draw_boxes(image, boxes, [0], NAMES, [0.87])
    assert np.array_equal(image, image_before) and np.array_equal(boxes, boxes_before)
    assert not np.shares_memory(drawn, image) and not np.array_equal(drawn, image)


def test_drawing_no_box_gives_the_same_picture():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert np.array_equal(draw_boxes(image, np.zeros((0, 4)), [], NAMES), image)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_edges_of_a_box_have_the_colour_of_its_class(label):
    drawn = is_colour(draw_boxes(grey_picture(), np.array([[40.0, 60.0, 200.0, 180.0]]), [label], NAMES), label)
    assert drawn[60, 120:201].all() and drawn[180, 40:201].all()
    assert drawn[60:181, 40].all() and drawn[60:181, 200].all()
    assert not drawn[80:170, 60:190].any()


BORDERS = [
    (left, top, left + size, top + size)
    for left, top, size in itertools.product([-30, 0, 150, 290, 310], [-30, 0, 100, 210, 230], [6, 60])
]


@pytest.mark.parametrize("box", [*BORDERS, (0, 0, 320, 240), (-1e9, -1e9, 1e9, 1e9)])
def test_a_tag_keeps_its_whole_area_at_every_border(box):
    """A tag cut by the border would leave less of the image changed than the same tag in its middle."""

    def tag_pixels(image: np.ndarray, xyxy: tuple[float, ...]) -> int:
        named = draw_boxes(image, np.array([xyxy]), [0], ["RBC"])
        bare = draw_boxes(image, np.array([xyxy]), [0], ["R"])
        dark = (named < 60).all(axis=-1).sum() - (bare < 60).all(axis=-1).sum()  # the ink of the letters BC
        return int(dark)

    assert tag_pixels(grey_picture(), box) == tag_pixels(grey_picture(), (100, 100, 200, 200)) > 0


def test_a_long_name_shrinks_until_its_tag_fits():
    image = grey_picture(40, 60)
    drawn = draw_boxes(image, np.array([[0.0, 0.0, 60.0, 40.0]]), [0], ["a name of very many letters indeed"])
    assert is_colour(drawn[:, :2], 0).any() and is_colour(drawn[:, -2:], 0).any()
    assert drawn.shape == image.shape


def test_a_box_of_nans_is_left_out_and_the_others_are_drawn():
    image, good = grey_picture(), [40.0, 60.0, 200.0, 180.0]
    both = draw_boxes(image, np.array([[math.nan, 0.0, 9.0, 9.0], good]), [1, 0], NAMES)
    assert np.array_equal(both, draw_boxes(image, np.array([good]), [0], NAMES))


def test_the_best_detection_lies_on_top():
    boxes = np.array([[40.0, 60.0, 200.0, 180.0]] * 2)
    drawn = draw_boxes(grey_picture(), boxes, [1, 2], NAMES, [0.9, 0.2])
    assert is_colour(drawn, 1)[180, 60:201].all()


def test_a_tag_hides_no_object_that_it_can_spare():
    """The tag of the lower box would stand on the small box above it."""
    boxes = np.array([[100.0, 120.0, 200.0, 200.0], [105.0, 100.0, 125.0, 115.0]])
    drawn = is_colour(draw_boxes(grey_picture(), boxes, [0, 1], NAMES, [0.9, 0.8]), 0)
    assert not drawn[98:118, 103:128].any() and drawn[202:, 100:201].sum() > 300


def test_where_tags_must_overlap_the_best_one_is_whole():
    boxes = np.array([[4.0, 4.0, 56.0, 36.0]] * 6)
    alone, among = (draw_boxes(grey_picture(40, 60), boxes[:n], [0, *[1] * 5][:n], NAMES) for n in (1, 6))
    rows, columns = np.nonzero(is_colour(alone, 0)[6:35, 6:55])  # the tag lies inside its box
    tag = alone[6 : 7 + rows.max(), 6 : 7 + columns.max()]
    places = itertools.product(range(41 - tag.shape[0]), range(61 - tag.shape[1]))
    shown = [np.array_equal(among[y : y + tag.shape[0], x : x + tag.shape[1]], tag) for y, x in places]
    assert len(rows) > 100 and sum(shown) == 1


def test_a_crowd_hides_less_of_the_picture_than_one_box_fewer_than_a_crowd():
    image, boxes = grey_picture(480, 640), scattered_boxes(26, 480, 640)
    covered = [
        (draw_boxes(image, boxes[:count], [0] * count, NAMES, [0.5] * count) != image).any(axis=-1).sum()
        for count in (25, 26)
    ]
    assert covered[1] < 0.8 * covered[0]


@pytest.mark.parametrize("height, width", [(96, 128), (300, 200), (1, 10)])
def test_enlarging_keeps_boxes_on_the_same_part_of_the_picture(height, width):
    boxes = np.array([[0.0, 0.0, width, height], [width / 4, height / 4, width / 2, height / 2]])
    larger, scaled = enlarge(grey_picture(height, width), boxes, longest=480)
    assert max(larger.shape) == 480 and larger.dtype == np.uint8
    size = np.array([larger.shape[1], larger.shape[0]] * 2)
    np.testing.assert_allclose(scaled / size, boxes / [width, height, width, height], rtol=1e-12)


def test_a_picture_that_is_large_enough_is_not_enlarged():
    image, boxes = grey_picture(200, 320), scattered_boxes(3)
    larger, scaled = enlarge(image, boxes)
    assert np.array_equal(larger, image) and np.array_equal(scaled, boxes)


def test_a_title_stands_above_an_unchanged_picture():
    image = grey_picture()
    result = titled(image, "predictions, a title too long for a picture of this width by far")
    strip = len(result) - len(image)
    assert strip > 0 and result.shape[1] == image.shape[1]
    assert np.array_equal(result[strip:], image) and result[:strip].max() > 200


def test_a_contact_sheet_holds_every_picture_whole_on_grey():
    images = [
        np.full((height, width, 3), 10 * i + 10, np.uint8)
        for i, (height, width) in enumerate([(30, 40), (50, 20), (50, 40), (10, 10), (1, 40)])
    ]
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (3 * 50 + 2 * 2, 2 * 40 + 2, 3)
    for i, image in enumerate(images):
        rows, columns = np.nonzero((sheet == 10 * i + 10).all(axis=-1))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == image.shape[:2] and len(rows) == image[..., 0].size
    assert (sheet[-10:, -10:] == 128).all()  # the empty sixth cell


def test_a_contact_sheet_of_one_picture_is_the_picture():
    image = grey_picture()
    assert np.array_equal(contact_sheet([image], columns=4), image)
    with pytest.raises(ValueError, match="1 or more images"):
        contact_sheet([], columns=4)


def test_two_titled_pictures_side_by_side_hold_left_on_the_left():
    left, right = (titled(np.full((60, 80, 3), value, np.uint8), "title") for value in (50, 200))
    result = contact_sheet([left, right], columns=2)
    assert (result[-60:, :80] == 50).all() and (result[-60:, -80:] == 200).all()


def test_a_written_picture_reads_back_with_red_as_red(tmp_path):
    image = grey_picture()
    image[..., 0] = 250
    write_image(tmp_path / "red.png", image)
    assert np.array_equal(cv2.imread(str(tmp_path / "red.png"))[..., ::-1], image)


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"no_such_folder.a\.png"):
        write_image(tmp_path / "no_such_folder/a.png", grey_picture())
    with pytest.raises(ValueError, match=r"\.unknown"):
        write_image(tmp_path / "a.unknown", grey_picture())
    assert not list(tmp_path.iterdir())


# results.csv


def result_of(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss/box": 1 / (epoch + 3), "mAP50": math.sqrt(epoch)}


@pytest.mark.parametrize(
    "value", [0.1, 1 / 3, 5e-324, 1e22, -0.0, math.inf, math.nan, np.float32(0.1), np.float64(0.1)]
)
def test_a_float_reads_back_as_the_same_float(value):
    text = results_text([{"epoch": 0, "value": value}])
    found = float(next(csv.DictReader(text.splitlines()))["value"])
    assert np.array(found).tobytes() == np.array(float(value)).tobytes()


def test_a_table_reads_back_as_its_rows_whatever_the_order_of_their_keys():
    rows = [result_of(epoch) for epoch in range(7)]
    text = results_text([rows[0], *(dict(reversed(row.items())) for row in rows[1:])])
    assert text == results_text(rows) and results_rows(text) == rows


@pytest.mark.parametrize("row", [{"epoch": 1}, {"epoch": 1, "loss": 0.5, "more": 1}, {"epoch": 1, "lass": 0.5}])
def test_a_row_with_other_columns_is_refused(row):
    with pytest.raises(ValueError, match=r"results\.csv.*(loss|more)"):
        results_text([{"epoch": 0, "loss": 0.5}, row])


@pytest.mark.parametrize(
    "text", ["", "name,age\nx,3\n", "epoch,loss\n0,0.5\n1\n", "epoch;loss\n0;0,5\n", "epoch,loss\n\0\0"]
)
def test_a_text_that_is_no_results_table_is_refused(text):
    with pytest.raises(ValueError):
        results_rows(text)


def started(folder, rows=()):
    (folder / "config.yaml").write_text("lr0: 0.01")
    board = TensorBoard()
    board.start(folder, {}, rows)
    return board


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = started(tmp_path)
    for step in range(3):
        board.row({"epoch": step, "loss/box": 0.5 / (step + 1), "mAP50": float(step)})
    board.image("labels", grey_picture(), 2)
    board.end(finished=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("mAP50")] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert [e.value for e in events.Scalars("loss/box")] == pytest.approx([0.5, 0.25, 0.5 / 3])
    encoded = np.frombuffer(events.Images("labels")[0].encoded_image_string, np.uint8)
    assert np.abs(cv2.imdecode(encoded, cv2.IMREAD_COLOR) - grey_picture().astype(int)).max() <= 1  # a JPEG
    assert events.Tensors("config/text_summary")[0].tensor_proto.string_val == [b"```yaml\nlr0: 0.01\n```"]


def test_tensorboard_has_the_counts_of_pr_curves_missed_objects_too(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    board, confidence = started(tmp_path), np.linspace(0.001, 1, 1000)
    above = np.array([np.where(confidence <= 0.5, 6, 0)])  # six detections at .5, four of them right, of five objects
    board.pr_curves({"cat": 0}, Curves(confidence, above * 4 // 6, above, np.array([5]), np.ones((1, 101))), 3)
    board.end(finished=False)
    (event,) = EventAccumulator(str(tmp_path)).Reload().Tensors("pr/cat")
    table = make_ndarray(event.tensor_proto)  # tp fp tn fn precision recall, by 128 thresholds
    assert event.step == 3 and table.shape == (6, 128)
    assert table[:, 10].tolist() == pytest.approx([4, 2, 0, 1, 4 / 6, 4 / 5])
    assert table[:, 100].tolist() == [0, 0, 0, 5, 0, 0]


def test_thin_boxes_have_the_colours_of_their_classes_or_are_white():
    image, boxes = grey_picture(), np.array([[40.0, 60.0, 200.0, 180.0]])
    thin, white = draw_outlines(image, boxes, [2]), draw_outlines(image, boxes)
    outline = is_colour(thin, 2)
    assert outline.sum() == 2 * (161 + 121) - 4 and (white[outline] == 255).all()
    assert (image == 100).all() and (thin[~outline] == 100).all()


def test_purging_hides_the_steps_that_a_resumed_run_repeats(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps in ((0, range(1, 5)), (2, range(3, 6))):
        board = started(tmp_path, [{"epoch": step, "loss": 0.0} for step in range(1, done + 1)])
        for step in steps:
            board.row({"epoch": step, "loss": 0.0})
        board.end(finished=False)
    assert [e.step for e in EventAccumulator(str(tmp_path)).Reload().Scalars("loss")] == [1, 2, 3, 4, 5]


# the table


def test_every_column_of_the_table_ends_at_the_same_place():
    rows = [
        ("all", 72, 123458, 0.25, 0.5, 0.125, 0.0625),
        ("RBC", 72, 123456, 0.5, 1.0, 0.25, 0.125),
        ("an extraordinarily long class name", 1, 2, *[0.0] * 4),
    ]
    lines = class_table(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["class", "all", "RBC", "an"]
    assert lines[2].split() == ["RBC", "72", "123456", "0.500", "1.000", "0.250", "0.125"]
    ends = [[i for i in range(24, len(line)) if line[i] != " " and line[i + 1 : i + 2] in ("", " ")] for line in lines]
    assert ends[0][-6:] == ends[1][-6:] == ends[2][-6:] == ends[3][-6:]


def test_what_was_not_measured_is_a_dash():
    line = class_table([("all", 0, 0, math.nan, 0.0, math.nan, math.nan)]).splitlines()[1]
    assert line.split() == ["all", "0", "0", "-", "0.000", "-", "-"]


def test_names_are_cut_after_24_characters_only():
    names = ["x" * 24, "y" * 25]
    text = class_table([(name, 0, 0, *[0.0] * 4) for name in names])
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["x" * 24, "y" * 23 + "…"]


def test_a_full_disk_names_the_folder_and_closing_hides_nothing(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    board = started(tmp_path)
    monkeypatch.setattr(board._writer, "add_scalar", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        board.row({"epoch": 1, "a": 1.0})
    assert caught.value.filename == str(tmp_path)
    monkeypatch.setattr(board._writer, "close", fail)
    board.end(finished=False)
    assert f"{tmp_path}: the curves are not complete: No space left on device" in capsys.readouterr().out


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_picture_can_be_drawn_in_colour(channels):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, channels)).astype(np.uint8)
    shown = as_rgb(image)
    assert shown.shape == (8, 9, 3) and (shown is image) == (channels == 3)
    np.testing.assert_array_equal(shown, image[..., :3] if channels >= 3 else image[..., [0, 0, 0]])
