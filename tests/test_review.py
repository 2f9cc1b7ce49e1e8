"""Laws of the review of mistakes: each error once, a page of bounded size that fetches nothing, rows that read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_coco_ap import make_index, make_table, random_case, slow_iou

from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.outlines import of_boxes
from yolo_lite.engine.coco_ap import DetectionTable, ground_truth
from yolo_lite.engine.confusion import find_errors
from yolo_lite.engine.evaluate import Evaluation, Split
from yolo_lite.engine.mistakes import KINDS, NEAR, Mistake, find_mistakes
from yolo_lite.engine.review import LARGEST, MOST_SHOWN, write_review
from yolo_lite.report.review_page import SIDE, Card, Chapter, crop, review_page

BOX, OTHER, FAR = [10.0, 10, 30, 30], [40.0, 10, 60, 30], [70.0, 70, 90, 90]


def evaluation_of(index: DatasetIndex, table: DetectionTable) -> Evaluation:
    """As much of an evaluation as a review reads."""
    return Evaluation(Split(index, None, ground_truth(index)), None, {}, 0.0, table, {})  # type: ignore[arg-type]


def with_images(index: DatasetIndex, folder: Path, *names: str) -> DatasetIndex:
    """The split with grey images of these names in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", tuple(index.size[0, ::-1].tolist()), "grey").save(folder / name, "JPEG")
    return dataclasses.replace(index, paths=np.array([os.fsencode(folder / name) for name in names]))


# ---------------------------------------------------------------------------------------------------- the mistakes


@pytest.mark.parametrize("seed", range(3))
def test_every_error_of_the_confusion_matrix_is_one_mistake(seed: int) -> None:
    index, table = random_case(seed, num_images=30)
    evaluation = evaluation_of(index, table)
    mistakes, errors = find_mistakes(evaluation), find_errors(index, evaluation.split.truth, table)
    count = {kind: len(own) for kind, own in mistakes.items()}
    assert min(count[kind] for kind in ("wrong classes", "misses", "false alarms")) > 0
    assert sum(count.values()) - count["misses"] == errors.is_false.sum()
    assert count["misses"] + count["wrong classes"] == errors.is_missed.sum()
    matrix = errors.matrix(len(index.names))
    for one in mistakes["wrong classes"]:
        matrix[one.found, one.label] -= 1
    assert np.count_nonzero(matrix[:-1, :-1] * (1 - np.eye(len(index.names), dtype=int))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_doubtful_labels_are_sure_and_far_from_any_label(seed: int) -> None:
    """Against a slow loop over all labels of the image."""
    index, table = random_case(seed, num_images=30)
    evaluation = evaluation_of(index, table)
    errors, mistakes = find_errors(index, evaluation.split.truth, table), find_mistakes(evaluation)
    sure = np.median(errors.detections.score[~errors.is_false])
    for kind in ("doubtful labels", "false alarms"):
        for one in mistakes[kind]:
            near = max((slow_iou(one.xyxy, box) for box in index.objects(one.image)[1]), default=0.0)
            assert (near < NEAR and one.score >= sure) == (kind == "doubtful labels")


def test_mistakes_are_sorted() -> None:
    index, table = random_case(5, num_images=30)
    mistakes = find_mistakes(evaluation_of(index, table))
    sizes = [(one.xyxy[2:] - one.xyxy[:2]).prod() for one in mistakes["misses"]]
    assert len(sizes) > 3 and sizes == sorted(sizes, reverse=True) and list(mistakes) == list(KINDS)
    for kind in ("doubtful labels", "wrong classes", "false alarms"):
        scores = [one.score for one in mistakes[kind]]
        assert scores == sorted(scores, reverse=True)


def test_mistakes_hand_worked() -> None:
    objects = [[(0, BOX), (1, OTHER), (0, FAR)], [(1, BOX), (0, OTHER)], []]
    table = make_table(
        (0, 0, 0.9, BOX),  # right
        (0, 1, 0.7, OTHER),  # right: the median is .8
        (0, 0, 0.5, BOX),  # a second one
        (0, 0, 0.95, [80.0, 70, 100, 90]),  # IoU 1/3
        (0, 1, 0.1, FAR),  # too unsure
        (1, 0, 0.6, BOX),  # of another class
        (2, 1, 0.8, FAR),  # sure
        (2, 1, 0.79, BOX),  # less so
    )
    mistakes = find_mistakes(evaluation_of(make_index(objects, 2), table))

    def told(one: Mistake) -> tuple[int, int, int, float, str]:
        return (one.image, one.label, one.found, one.score, one.note)

    assert [told(one) for one in mistakes["doubtful labels"]] == [(2, -1, 1, 0.8, "")]
    assert [told(one) for one in mistakes["wrong classes"]] == [(1, 1, 0, 0.6, "")]
    assert [told(one) for one in mistakes["misses"]] == [
        (0, 0, -1, 0, "at a lower confidence: class 1 0.100"),
        (1, 0, -1, 0, "nothing here at any confidence"),
    ]
    assert [told(one) for one in mistakes["false alarms"]] == [
        (0, -1, 0, 0.95, "overlaps a class 0 by IoU 0.33"),
        (2, -1, 1, 0.79, "nothing is labelled here"),
        (0, -1, 0, 0.5, "overlaps a class 0 by IoU 1.00, which a better one finds"),
    ]


def test_where_nothing_is_right_no_label_is_doubtful() -> None:
    mistakes = find_mistakes(evaluation_of(make_index([[(0, BOX)]], 1), make_table((0, 0, 0.99, FAR))))
    assert {kind: len(own) for kind, own in mistakes.items() if own} == {"misses": 1, "false alarms": 1}


def test_no_mistakes_make_a_page_too(tmp_path: Path) -> None:
    index = with_images(make_index([[(0, BOX)]], 1), tmp_path / "set", "a.jpg")
    assert write_review(tmp_path, evaluation_of(index, make_table((0, 0, 0.9, BOX)))).startswith("doubtful labels: 0, ")
    assert "No label is in doubt" in (tmp_path / "review/review.html").read_text()
    empty = with_images(make_index([[]], 1), tmp_path / "set", "a.jpg")
    write_review(tmp_path, evaluation_of(empty, make_table()))
    assert (tmp_path / "review2/mistakes.csv").read_text().count("\n") == 1


# -------------------------------------------------------------------------------------------------------- the page


class Reader(HTMLParser):
    """The tags with their attributes, and the text outside of the style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


TAGS = "html head meta title style body h1 h2 p nav a div table tr th td figure img figcaption b small"


def test_names_of_users_are_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    evil, file = "<script>alert(1)</script>&\"'", "\"><img src=http:x onerror=alert(1)> '&.jpg"
    index = with_images(make_index([[(0, BOX), (0, FAR)], []], 2), tmp_path / "set", file, "b\udcff.jpg")
    index = dataclasses.replace(index, names=(evil, "javascript:alert(1)"), size=np.full((2, 2), 100))
    table = make_table((0, 0, 0.5, BOX), (0, 1, 0.9, FAR), (1, 0, 0.9, FAR), (0, 1, 0.4, OTHER))
    write_review(tmp_path, evaluation_of(index, table))
    page = Reader((tmp_path / "review/review.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags} <= {*TAGS.split()}
    values = [(name, value or "") for _, attributes in page.tags for name, value in attributes.items()]
    assert {name for name, _ in values} <= {
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "href",
        "id",
        "class",
        "src",
        "alt",
    }
    assert all(value.startswith("data:image/jpeg;base64,") for name, value in values if name == "src")
    assert all(value[0] == "#" for name, value in values if name == "href")
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in values
    assert not any(word in text for text in page.text for word in ("url(", "@import"))
    assert {evil, f"{evil} found as javascript:alert(1) 0.90", file, "b\\udcff.jpg"} <= set(page.text)


def test_a_page_of_5000_images_is_bounded_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    """Crops of noise are as large as any; two mistakes of each kind in each image."""
    (tmp_path / "set").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "set/0.png")
    for number in range(1, 260):
        (tmp_path / f"set/{number}.png").symlink_to(tmp_path / "set/0.png")
    index = make_index([[(number % 60, BOX), (0, OTHER)] for number in range(5000)], 60)
    index = dataclasses.replace(
        index, paths=np.array([str(tmp_path / f"set/{number}.png").encode() for number in range(5000)]),
        names=tuple("long name " * 40 + str(number) for number in range(60)),
    )  # fmt: skip
    corner = [[0.0, 60, 20, 80], [60.0, 60, 80, 80]]
    rows = [(number, 1, 0.9 - number / 1e5, box) for number in range(5000) for box in corner]  # nothing is right
    rows += [(number, (number + 1) % 60, 0.8, BOX) for number in range(5000)]
    write_review(tmp_path, evaluation_of(index, make_table(*rows)))
    place = tmp_path / "review"
    assert LARGEST < (place / "review.html").stat().st_size < 4 * (LARGEST * 4 / 3 + 2**16)
    text = "".join(Reader((place / "review.html").read_text()).text)
    with (place / "mistakes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 5000 * 4
    for kind, count in (("false alarms", 10_000), ("misses", 5000), ("wrong classes", 5000)):
        own = [row for row in table if row["kind"] == kind]
        shown = [row for row in own if row["crop"]]
        assert len(own) == count and own[: len(shown)] == shown and 20 < len(shown) <= MOST_SHOWN
        assert f"{kind}: {count:,}" in text and f"{len(shown)} are shown" in text
        assert f"{count - len(shown):,} more are in mistakes.csv: " in text
        assert sorted(path.name for path in (place / "crops" / kind.replace(" ", "_")).iterdir()) == [
            Path(row["crop"]).name for row in shown
        ]
    assert "10 other classes" in text


@pytest.mark.parametrize("box", [[0.0, 0, 2, 2], [99.0, 0, 100, 50], [0.0, 0, 100, 40], [98.0, 98, 100, 100]])
def test_a_crop_shows_a_box_anywhere_with_what_is_around_it(box: list[float]) -> None:
    image = np.full((100, 100, 3), 90, np.uint8)
    jpeg = crop(image, [(np.array(box), (255, 0, 0), 4), (np.array([0.0, 0, 100, 100]), (255, 255, 255), 2)])
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert pixels.shape[:2] == (SIDE, SIDE) and (pixels[..., 0].astype(int) - pixels[..., 1] > 60).any()
    assert (image == 90).all()


def test_a_page_has_a_card_for_each_crop() -> None:
    page = Reader(
        review_page("t", "", [["class"], ["a"]], [Chapter("misses", "", 2, [Card(b"x", "h", ("", "n"))] * 2)])
    )
    assert sum(tag == "figure" for tag, _ in page.tags) == 2 and page.text.count("n") == 2


# -------------------------------------------------------------------------------------------------------- the rows


def read_back(folder: Path, words: str, names: tuple[str, ...]) -> DatasetIndex:
    (folder / "back.yaml").write_text(
        f"path: {folder}\ntrain: set\nval: set\nnames: {json.dumps(names)}\n{words}\n", encoding="utf-8"
    )
    return index_split(load_dataset_config(folder / "back.yaml"), folder / "back.yaml", "val", with_outlines=True)


@pytest.mark.parametrize("form", ["yolo", "coco"])
@pytest.mark.parametrize("has_masks", [False, True])
def test_rows_read_back_are_the_labels_and_the_doubtful_ones(form: str, has_masks: bool, tmp_path: Path) -> None:
    objects = [[(1, [0.0, 80, 9, 90]), (0, BOX), (1, OTHER), (0, FAR)], [(1, BOX)], [], [(0, BOX)]]
    index = with_images(make_index(objects, 2), tmp_path / "set", "a.jpg", "b.jpg", "c.d.jpg", "right.jpg")
    index = dataclasses.replace(index, category_id=np.array([3, 7]), image_id=np.arange(4) + 10)
    index.crowd[0] = True
    rows = [(0, 0, 0.9, BOX), (0, 0, 0.95, [50.0, 50, 60, 60]), (1, 0, 0.8, BOX), (2, 1, 0.99, OTHER), (3, 0, 0.9, BOX)]
    table = make_table(*rows)
    if has_masks:
        index = dataclasses.replace(index, outlines=of_boxes(index.xyxy))
        boxes = ground_truth(
            dataclasses.replace(make_index([[(0, row[3])] for row in rows], 1), outlines=of_boxes(table.xyxy))
        )
        table = table._replace(
            mask=np.array([one["segmentation"] for one in boxes.dataset["annotations"]], dtype=object)
        )
    write_review(tmp_path, evaluation_of(index, table))
    (tmp_path / "set/right.jpg").unlink()
    words = {"yolo": "labels: review/labels", "coco": "format: coco\nlabels: review/annotations.json"}[form]
    found = read_back(tmp_path, words, index.names)
    expected = [[*objects[0][1:], (0, [50.0, 50, 60, 60])], objects[1], [(1, OTHER)]]
    for position, own in enumerate(expected):
        label, xyxy = found.objects(position)
        assert label.tolist() == [label for label, _ in own]
        assert xyxy == pytest.approx(np.array([box for _, box in own]), abs=1e-3)
    assert len(found) == 3 and not found.problems
    if has_masks:
        assert found.outlines and found.outlines.xyxy == pytest.approx(found.xyxy, abs=1e-3)
    if form == "coco":
        content = json.loads((tmp_path / "review/annotations.json").read_text())
        told = [one["attributes"].get("review") for one in content["annotations"]]
        assert told == [None, None, "misses", "misses", "doubtful labels", "wrong classes", "doubtful labels"]
        assert content["annotations"][5]["attributes"] == {
            "review": "wrong classes",
            "found_as": "class 0",
            "confidence": 0.8,
        }
        assert [one["id"] for one in content["images"]] == [10, 11, 12]
    assert (tmp_path / "review/classes.txt").read_text() == "class 0\nclass 1\n"


def test_no_review_is_written_over(tmp_path: Path) -> None:
    index = with_images(make_index([[(0, BOX)]], 1), tmp_path / "set", "a.jpg")
    for name in ("review", "review2", "review3"):
        assert str(tmp_path / name / "review.html") in write_review(tmp_path, evaluation_of(index, make_table()))


@pytest.mark.parametrize("box", [[100.0, 100, 100, 100], [0.0, 50, 0, 50]])
def test_a_box_without_area_at_the_border_is_no_end_of_a_run(box: list[float]) -> None:
    assert crop(np.full((100, 100, 3), 90, np.uint8), [(np.array(box), (255, 0, 0), 4)])


def test_a_crop_of_a_long_image_keeps_within_it() -> None:
    jpeg = crop(np.zeros((30, 500, 3), np.uint8), [(np.array([450.0, 0, 500, 30]), (255, 0, 0), 4)])
    assert Image.open(io.BytesIO(jpeg)).size == (SIDE, round(30 / 100 * SIDE))
