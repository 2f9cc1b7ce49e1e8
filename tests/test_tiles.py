"""Laws of tiles: windows cover an image, show what an untiled image shows, and what lies on a seam counts once."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from test_evaluate import CPU, Ones, Oracle, Shaky, figures_of, pycocotools_figures
from test_loader import assert_same
from test_masks_found import MaskOracle
from test_predict import CANVAS, COLOURS, NAMES, detect_colours, make_film, painted, predict, write
from test_resume import assert_same_run, go_on, send, stop_after
from torch import Tensor

from yolo_lite import load
from yolo_lite.config.errors import CheckpointError, ConfigError, StoppedError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.instances import Instances, Sample
from yolo_lite.data.letterbox import GREY
from yolo_lite.data.loader import training_loader
from yolo_lite.data.outlines import Outlines
from yolo_lite.data.store import ImageStore
from yolo_lite.data.tiles import WHOLE_CHANCE, random_view
from yolo_lite.data.views import open_store
from yolo_lite.deploy.facts import Facts, read_facts
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.predictor import Predictor
from yolo_lite.deploy.sources import Frame
from yolo_lite.engine import evaluation_report
from yolo_lite.engine.detection_files import write_coco_json
from yolo_lite.engine.evaluate import Evaluation, evaluate, prepare_split
from yolo_lite.engine.train import train
from yolo_lite.ops.nms import DetectOptions, class_nms
from yolo_lite.ops.tiles import Tiles, merge, sight_of, views_of
from yolo_lite.structures import Detections

# -------------------------------------------------------------------------------------------------------- windows


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(32, 200), overlap=st.floats(0, 0.9))
@settings(max_examples=80, deadline=None)
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
@settings(max_examples=120, deadline=None)
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

    for number, _ in enumerate(Predictor(NAMES, 64, CANVAS, detect).run(frames(), DetectOptions(), Tiles(64), 8)):
        most = max(most, pulled - number)
    views = len(views_of(140, 200, Tiles(64)))
    assert sum(sizes) == 12 * views and sizes.count(8) >= 12 * (views - 1) // 8
    assert most <= 4


@pytest.mark.parametrize(
    ("choice", "said"), [({"tile": 16}, "found 16 and 0.2"), ({"overlap": 1.0}, "found None and 1.0")]
)
def test_a_tile_or_overlap_out_of_range_is_told(choice: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        PARTS.predict(painted(64, 64), **choice)


def test_images_and_videos_in_tiles_from_the_command_line(tmp_path: Path, monkeypatch, capsys):
    asked = list[int]()
    counted = functools.partial(counting, asked)
    monkeypatch.setattr("yolo_lite.deploy.predictor.load", lambda *_: Predictor(NAMES, 64, CANVAS, counted, tile=48))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set/a.png", painted(140, 200, *SEAMED))
    make_film(tmp_path / "set/b.avi", num_frames=3)
    assert predict("--source", "set", "--tile", "64", "--overlap", "0.3", "--save-json", "--batch-size", "5") == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "set/a.png: 2 red, 1 green, 1 blue",
        "set/b.avi: 3 frames, 3 red",
    ]
    views, of_film = (len(views_of(*size, Tiles(64, 0.3))) for size in ((140, 200), (64, 96)))
    assert sum(asked) == views + 3 * of_film and max(asked) == 5
    records = json.loads((tmp_path / "runs/predict/exp/predictions.json").read_text())
    assert [len(one["boxes"]) for one in records] == [4, 1, 1, 1] and records[0]["width"] == 200
    for words, tiles in (((), Tiles(48)), (("--tile", "0"), Tiles(0))):  # as trained, and without
        asked.clear()
        assert predict("--source", "set/a.png", "--no-save", *words) == 0
        assert sum(asked) == len(views_of(140, 200, tiles))
    assert predict("--source", "set", "--tile", "20") == 2
    assert "--tile: expected 0, or 32 to 8192 pixels, found 20" in capsys.readouterr().err


def counting(asked: list[int], images: Tensor, options: DetectOptions) -> list[Detections]:
    asked.append(len(images))
    return components(images, options)


def test_an_exported_file_knows_the_tile_of_its_training():
    facts = Facts(("a",), 3, 32, 64, 64, 1, (), "fp32", False, tile=640)
    strings = facts.strings()
    assert read_facts(strings).tile == 640 and read_facts({**strings, "tile": ""}).tile == 0
    with pytest.raises(CheckpointError, match=r"metadata tile: expected .*, found 7"):
        read_facts({**strings, "tile": "7"})


# ------------------------------------------------------------------------------------------------------- validate


def tiled(index: DatasetIndex, model: Oracle, size: int, batch_size: int, tiles: Tiles) -> Evaluation:
    store = open_store(index, size, "off", False, tiles)
    split = prepare_split(store, CANVAS, batch_size, workers=0, compute=CPU)
    model.batches = iter([batch for batch in split.loader if len(batch.images)])
    return evaluate(model, split, Ones(Hyp()), CPU, DetectOptions())


@pytest.fixture(scope="module")
def val_index(tiny_data: Path) -> DatasetIndex:
    return index_split(load_dataset_config(tiny_data), tiny_data, "val")


@pytest.mark.quick
@pytest.mark.parametrize(("tile", "overlap", "size"), [(32, 0.5, 32), (40, 0.1, 64), (48, 0.0, 96)])
def test_the_labels_as_views_show_them_score_one_over_whole_images(val_index, tile: int, overlap: float, size: int):
    """Seen in pieces, objects are put together again: the detections are the labels, in pixels of the whole images."""
    result = tiled(val_index, Oracle(), size, 3, Tiles(tile, overlap))
    assert result.split.dataset is val_index and len(result.detections.score) == val_index.num_objects
    assert result.scores.overall == pytest.approx((1.0, 1.0, 1.0, 1.0, 1.0))
    assert result.losses == pytest.approx({"box": 1.0, "obj": 1.0, "cls": 1.0}) and result.unmatched_targets == 0
    for position in range(len(val_index)):
        found, (_, xyxy) = result.detections.select(result.detections.image == position), val_index.objects(position)
        assert np.allclose(np.sort(found.xyxy, axis=0), np.sort(xyxy, axis=0), atol=1e-3)


@pytest.mark.quick
def test_ap_of_whole_images_in_tiles_is_that_of_pycocotools(val_index: DatasetIndex, tmp_path: Path):
    results = [tiled(val_index, Shaky(), 64, batch_size, Tiles(40, 0.2)) for batch_size in (8, 1)]
    write_coco_json(tmp_path, results[0].detections, results[0].split)
    expected = pycocotools_figures(tmp_path)
    assert 0.1 < expected[0] < 0.9
    for result in results:
        assert figures_of(evaluation_report.report(result)) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.quick
def test_images_that_fit_a_tile_are_validated_as_without_one(val_index: DatasetIndex):
    one, other = (tiled(val_index, Shaky(), 96, 3, Tiles(tile)) for tile in (64, 0))
    assert one.split.views is not None and other.split.views is None and len(one.detections.score) > 20
    by_image = other.detections.select(np.argsort(other.detections.image, kind="stable"))
    for mine, theirs in zip(one.detections[:4], by_image[:4], strict=True):
        assert np.array_equal(mine, theirs)
    assert one.scores.overall == other.scores.overall and one.losses == other.losses


@pytest.mark.quick
def test_an_unreadable_image_is_left_out_with_all_its_views(tmp_path: Path):
    _, index = drawn_set(tmp_path)
    Path(index.path(1)).write_bytes(b"no image")
    result = tiled(index, Oracle(), 64, 4, Tiles(64, 0.3))
    assert list(result.unreadable) == [1] and len(result.split.dataset) == len(index) - 1
    assert result.scores.overall == pytest.approx((1.0, 1.0, 1.0, 1.0, 1.0))


@pytest.mark.quick
def test_masks_of_pieces_become_one(tmp_path: Path):
    _, index = drawn_set(tmp_path)
    boxes = [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) for x1, y1, x2, y2 in index.xyxy]
    index = dataclasses.replace(index, outlines=Outlines.pack([[box] for box in boxes]))
    result = tiled(index, MaskOracle(), 128, 4, Tiles(64, 0.3))  # a cell of a mask is 2 pixels of a window
    assert result.scores.mask is not None and result.detections.mask is not None
    assert len(result.detections.score) == index.num_objects and result.scores.mask.overall.map50 > 0.8
    for box, mask in zip(result.detections.xyxy, result.detections.mask, strict=True):
        x, y, width, height = coco_mask.toBbox(mask)
        assert (
            abs(np.array([x, y, x + width, y + height]) - box).max() <= 4
        )  # pixels of the whole image, 3 a cell there


# ------------------------------------------------------------------------------------------------------- training

FLAT = {"mosaic": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "translate": 0.0, "scale": 0.0, "fliplr": 0.0}


def drawn_set(folder: Path) -> tuple[Path, DatasetIndex]:
    """Six images of 200 x 140 pixels with some coloured boxes, and their labels."""
    shapes = [SEAMED, SEAMED[:2], [(0, 100, 70, 160, 120)], SEAMED[1:], [(2, 0, 0, 9, 9), (1, 180, 120, 200, 140)], []]
    for number, boxes in enumerate(shapes):
        write(folder / f"images/{number}.png", painted(140, 200, *boxes))
        rows = [(c, (x1 + x2) / 400, (y1 + y2) / 280, (x2 - x1) / 200, (y2 - y1) / 140) for c, x1, y1, x2, y2 in boxes]
        text = "".join(f"{' '.join(map(repr, row))}\n" for row in rows)
        (folder / "labels").mkdir(exist_ok=True)
        (folder / f"labels/{number}.txt").write_text(text)
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [red, green, blue]\n")
    return data, index_split(load_dataset_config(data), data, "train")


def windows_set(index: DatasetIndex, tile: int, seed: int = 0, **hyp: float) -> TrainingSet:
    return TrainingSet(index, ImageStore(index, None, "off", True), 96, Hyp(tile=tile, **hyp), seed, 99)


def test_a_window_shows_its_objects_where_the_labels_say(tmp_path: Path):
    """Colours under each box, none outside of the boxes."""
    _, index = drawn_set(tmp_path)
    dataset, kinds = windows_set(index, 48, **FLAT), set[str]()
    for epoch in range(40):
        image, instances, *_ = dataset[epoch, epoch % 5]
        rest = np.where(image.min(axis=2, keepdims=True) == GREY, 0, image)
        for label, (left, top, right, bottom) in zip(instances.label, instances.xyxy, strict=True):
            assert image[math.ceil(top) : int(bottom), math.ceil(left) : int(right), label].mean() > 200
            rest[max(int(top) - 1, 0) : int(bottom) + 2, max(int(left) - 1, 0) : int(right) + 2, label] = 0
        if epoch % 5 in (1, 4):  # small objects, of which less than a tenth, or 2 pixels, is not learnt
            assert min((rest > 127).any(axis=(axis, 2)).sum() for axis in (0, 1)) <= 6
        kinds |= {"cut" if share < 0.99 else "whole" for share in instances.share}
    assert kinds == {"cut", "whole"}


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_windows_are_a_pure_function_of_seed_epoch_and_index(tmp_path: Path, mosaic: float):
    _, index = drawn_set(tmp_path)
    keys = [(epoch, position) for epoch in range(3) for position in range(len(index))]
    one, other = (windows_set(index, 48, mosaic=mosaic, mixup=0.3) for _ in range(2))
    mine = {key: one[key] for key in keys}
    for key in reversed(keys):
        assert np.array_equal(mine[key].image, other[key].image)
        assert np.array_equal(mine[key].instances.xyxy, other[key].instances.xyxy)
    assert not np.array_equal(mine[0, 0].image, mine[1, 0].image)
    assert not np.array_equal(mine[0, 0].image, windows_set(index, 48, 1, mosaic=mosaic)[0, 0].image)


def test_windows_go_on_in_the_middle_of_an_epoch_and_with_any_number_of_workers(tmp_path: Path):
    _, index = drawn_set(tmp_path)
    whole = list(training_loader(windows_set(index, 48), 2, 0, range(3), False))
    resumed = training_loader(windows_set(index, 48), 2, 2, range(1, 3), False, first_batch=1)
    assert_same(whole[4:], resumed)


def test_windows_and_whole_images_are_shown_as_often_as_they_should(tmp_path: Path):
    """Every pixel of an image is looked at, those around objects more often."""
    sample = Sample(
        painted(140, 200, SEAMED[1]), Instances(np.array([1]), np.array([SEAMED[1][1:]], float), np.ones(1))
    )
    shown = [random_view(sample, 48, 48, np.random.default_rng(seed)) for seed in range(600)]
    windows = [one.instances for one in shown if one.image.shape[:2] == (48, 48)]
    assert {one.image.shape[:2] for one in shown} == {(34, 48), (48, 48)}
    assert len(windows) / 600 == pytest.approx(1 - WHOLE_CHANCE, abs=0.05)
    assert 0.4 < sum(len(one) > 0 and one.share[0] == 1 for one in windows) / len(windows) < 0.75
    bare = sample._replace(instances=sample.instances.select(np.zeros(0, int)))
    bare = bare._replace(image=np.dstack(np.meshgrid(np.arange(200), np.arange(140))).astype(np.uint8))  # x and y
    views = [random_view(bare, 48, 48, np.random.default_rng(seed)).image for seed in range(600)]
    x, y = np.array([image[0, 0] for image in views if image.shape == (48, 48, 2)], float).T
    for starts, last in ((x, 200 - 48), (y, 140 - 48)):
        assert starts.min() <= 3 and starts.max() >= last - 3 and starts.mean() == pytest.approx(last / 2, abs=8)


@pytest.mark.slow
def test_a_run_on_windows_goes_on_to_the_bit(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = ("--set", "tile=32", "nominal_batch=8")
    straight = train(tiny_config(tiny_data, tmp_path / "straight", *recipe)).folder
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4, send(signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(tiny_config(tiny_data, tmp_path / "stopped", *recipe))
    go_on(tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped/exp", straight)
    assert load(straight / "weights/best.pt").tile == 32
