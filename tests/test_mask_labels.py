"""Masks of labels: outlines as pixels and back, COCO's run lengths, PNG masks, and what a network gets of them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image
from pycocotools import mask as pycoco

from yolo_lite.config.data import DatasetConfig, Generate
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.augment import random_warp, warp_pixels
from yolo_lite.data.dataset import EvaluationSet, TrainingSet
from yolo_lite.data.effects import AUGMENTATIONS
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.instances import Instances
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.loader import evaluation_loader, training_loader
from yolo_lite.data.masks import STRIDE, join_rings, learnt_masks, mask_of, mask_of_runs, rings_of, runs_of
from yolo_lite.data.outlines import Outlines, Ring
from yolo_lite.data.shapes import draw_image, ensure_shapes
from yolo_lite.data.store import CAN_FORK, ImageStore
from yolo_lite.ops import masks as found
from yolo_lite.tools.convert import convert
from yolo_lite.tools.doctor import diagnose
from yolo_lite.tools.doctor_report import make_report

NO_AUGMENTATION = dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "mosaic"), 0.0)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def blob(rng: np.random.Generator, x: float, y: float, radius: float, corners: int = 24) -> Ring:
    """A ring with bays round a point, corners at 1/100 pixels as files have them."""
    angle = 2 * np.pi * np.arange(corners) / corners
    far = radius * rng.uniform(0.5, 1, corners)
    return np.stack((x + far * np.cos(angle), y + far * np.sin(angle)), axis=1).round(2)


def ring_with_hole(x: float, y: float, radius: float, hole: float) -> Ring:
    """A circle, and back from a smaller one, as one ring."""
    angle = 2 * np.pi * np.arange(40) / 40
    circle = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    return join_rings([circle * radius + (x, y), (circle * hole + (x, y))[::-1]])


def by_middles(rings: list[Ring], shape: tuple[int, int]) -> np.ndarray:
    """Slow reference: a pixel is inside a ring if a line from its middle crosses it an odd number of times."""
    mask = np.zeros(shape, np.uint8)
    for ring in rings:
        for row, column in np.ndindex(shape):
            x, y, odd = column + 0.5, row + 0.5, False
            for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                odd ^= bool((y1 <= y) != (y2 <= y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
            mask[row, column] |= odd
    return mask


# ---------------------------------------------------------------------------------------------------- rings and pixels


def test_a_square_from_1_to_4_has_nine_pixels():
    square = np.array([[1, 1], [4, 1], [4, 4], [1, 4]])
    expected = np.zeros((6, 6), np.uint8)
    expected[1:4, 1:4] = 1
    assert np.array_equal(mask_of([square], (6, 6)), expected)
    assert not mask_of([], (6, 6)).any() and not mask_of([square[:2]], (6, 6)).any()
    assert not mask_of([square + 10.0], (6, 6)).any() and not mask_of([square - 10.0], (6, 6)).any()


def test_a_pixel_is_inside_if_its_middle_is():
    rng = np.random.default_rng(0)
    for _ in range(4):
        rings = [blob(rng, *rng.uniform(8, 22, 2), 9), blob(rng, *rng.uniform(8, 22, 2), 6)]
        got, expected = mask_of(rings, (30, 30)), by_middles(rings, (30, 30))
        assert (got != expected).sum() <= 4  # COCO's corners lie at fifths of a pixel


@pytest.mark.parametrize("seed", range(6))
def test_masks_at_full_size_are_those_of_pycocotools(seed):
    """To the bit, in parts, beyond the border and after float32."""
    rng = np.random.default_rng(seed)
    rings = [blob(rng, *rng.uniform(0, 120, 2), rng.uniform(16, 60)).clip(0) for _ in range(rng.integers(1, 4))]
    expected = pycoco.merge(pycoco.frPyObjects([ring.ravel().tolist() for ring in rings], 100, 120))
    stored = [ring.astype(np.float32) for ring in rings]
    assert runs_of(stored, 100, 120)["counts"] == expected["counts"]
    assert iou(mask_of(stored, (100, 120)), pycoco.decode(expected)) > 0.999


@pytest.mark.skipif(not (SHARED / "data/facade").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("name", "split", "count"), [("coco128", "train", 939), ("facade", "val", 2052)])
def test_objects_of_real_sets_have_the_pixels_that_pycocotools_draws(name: str, split: str, count: int) -> None:
    file = str(SHARED / "data" / name / "data.yaml")
    labels = SHARED / "data" / name / ("instances_coco128.json" if name == "coco128" else "val.json")
    config = load_dataset_config(file)
    if name == "coco128":
        config = config.model_copy(update={"format": "coco", "labels": str(labels)})
    index = index_split(config, file, split, with_outlines=True)
    stated: dict[int, list[Any]] = {}
    for row in json.loads(labels.read_text())["annotations"]:
        stated.setdefault(row["image_id"], []).append(row["segmentation"])
    compared = 0
    for position, (height, width) in enumerate(index.size.tolist()):
        own = range(index.first[position], index.first[position + 1])
        for row, outline in zip(own, stated.get(int(index.image_id[position]), []), strict=True):
            runs = pycoco.frPyObjects(outline, height, width)
            runs = pycoco.merge(runs) if isinstance(runs, list) else runs
            assert runs_of(index.outlines.of(row), height, width)["counts"] == runs["counts"]
            if compared % 10 == 0:  # the same in a part of the image
                assert np.array_equal(mask_of(index.outlines.of(row), (height, width)), pycoco.decode(runs))
            compared += 1
    assert compared == count


@pytest.mark.parametrize("seed", range(40))
def test_rings_of_any_mask_give_it_again_to_the_pixel(seed):
    """Parts that touch at a corner, holes, parts within holes."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2).tolist())
    mask = (cv2.GaussianBlur(rng.random(shape), (0, 0), rng.uniform(0.1, 2)) > 0.5).astype(np.uint8)
    rings = rings_of(mask)
    assert np.array_equal(mask_of(rings, shape), mask)
    assert len(rings) == cv2.connectedComponents(mask, connectivity=8)[0] - 1
    drawn = pycoco.frPyObjects([ring.ravel().tolist() for ring in rings], *shape) if rings else []
    assert not rings or np.array_equal(pycoco.decode(pycoco.merge(drawn)), mask)


def test_holes_are_holes_and_parts_are_one_object():
    ring = ring_with_hole(32, 32, 24, 12)
    mask = mask_of([ring], (64, 64))
    rows, columns = np.indices((64, 64)) + 0.5
    far = np.hypot(rows - 32, columns - 32)
    assert mask[(far > 13) & (far < 23)].all() and not mask[far < 11].any()
    assert Outlines.pack([[ring]]).area[0] == pytest.approx(mask.sum(), rel=0.01)
    parts = [np.array([[2.0, 2], [10, 2], [10, 10], [2, 10]]), np.array([[8.0, 8], [20, 8], [20, 20], [8, 20]])]
    assert mask_of(parts, (30, 30)).sum() == 64 + 144 - 4  # what both hold counts once


# ------------------------------------------------------------------------------------------------- what is learnt of it


def test_a_learnt_mask_has_the_cells_whose_middles_are_inside():
    boxes = np.array([[8.0, 4, 24, 16], [4, 4, 12, 12], [0, 0, 32, 32]])
    outlines = Outlines.pack([[np.array([[8.0, 4], [24, 4], [24, 16], [8, 16]])], [], [ring_with_hole(16, 16, 15, 9)]])
    masks = learnt_masks(Instances(np.arange(3), boxes, np.ones(3), outlines), 32, 40)
    assert masks.shape == (3, 8, 10) and masks.dtype == np.uint8 and found.STRIDE == STRIDE
    expected = np.zeros((2, 8, 10), np.uint8)
    expected[0, 1:4, 2:6] = expected[1, 1:3, 1:3] = 1  # the second has a box alone
    assert np.array_equal(masks[:2], expected)
    assert masks[2, 4, 4] == 0 and masks[2, 4, 1] == 1


def test_a_learnt_mask_is_the_full_mask_made_smaller():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rings = [blob(rng, *rng.uniform(60, 100, 2), rng.uniform(30, 60))]
        corners = np.concatenate(rings)
        box = np.array([[*corners.min(axis=0), *corners.max(axis=0)]])
        [got] = learnt_masks(Instances(np.zeros(1, int), box, np.ones(1), Outlines.pack([rings])), 160, 160)
        small = cv2.resize(mask_of(rings, (160, 160)) * 255, (40, 40), interpolation=cv2.INTER_AREA)
        assert iou(got, (small > 127).astype(np.uint8)) > 0.93


def test_what_is_thinner_than_a_cell_is_still_seen():
    line = np.array([[4.2, 4.5], [60.0, 4.5], [60.0, 5.4], [4.2, 5.4]])
    instances = Instances(np.zeros(1, int), np.array([[4.2, 4.5, 60, 5.4]]), np.ones(1), Outlines.pack([[line]]))
    assert not mask_of([line / STRIDE], (16, 16)).any()
    assert 13 <= learnt_masks(instances, 64, 64).sum() <= 16


@pytest.mark.parametrize("recipe", [{}, {"degrees": 30.0}, {"shear": 20.0}, {"perspective": 0.0008, "degrees": 10.0}])
def test_a_warp_of_outlines_is_the_warp_of_the_mask(recipe):
    rng, ious = np.random.default_rng(0), []
    hyp = Hyp(**{"scale": 0.4, "translate": 0.2, **recipe})
    for seed in range(12):
        rings = [[ring_with_hole(130, 120, 70, 35)], [blob(rng, 90, 90, 60), blob(rng, 200, 190, 40)]]
        boxes = np.array([[np.concatenate(own).min(axis=0), np.concatenate(own).max(axis=0)] for own in rings])
        instances = Instances(np.arange(2), boxes.reshape(2, 4), np.ones(2), Outlines.pack(rings))
        matrix = random_warp((256, 256), 256, hyp, np.random.default_rng(seed))
        moved = instances.warped_onto(matrix, (256, 256))
        for row, own in enumerate(rings):
            whole = np.repeat(mask_of(own, (256, 256))[..., None] * 255, 3, axis=2)
            turned = warp_pixels(whole, matrix, (256, 256))[..., 0]
            inside = warp_pixels(np.full((256, 256, 3), 255, np.uint8), matrix, (256, 256))[..., 0] == 255
            expected = (inside & (turned > 127)).astype(np.uint8)
            got = mask_of(moved.outlines.of(row), (256, 256)) * inside.astype(np.uint8)
            if expected.sum() > 1500:
                ious.append(iou(got, expected))
    assert len(ious) > 12 and min(ious) > 0.96 and np.mean(ious) > 0.98


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def holed(tmp_path_factory) -> DatasetIndex:
    """Twelve images of the embedded set with holes."""
    root = ensure_shapes(
        Generate(kind="shapes", train=12, val=1, image_size=96, holes=1.0), tmp_path_factory.mktemp("h")
    )
    (root / "data.yaml").write_text("train: images/train\nnames: [circle, square, triangle, star, heart]\n")
    return index_split(load_dataset_config(root / "data.yaml"), root / "data.yaml", "train", with_outlines=True)


def batches_of(index: DatasetIndex, with_outlines: bool, workers: int = 0, **hyp: float) -> list[Any]:
    store = ImageStore(index, 96, "off", workers > 0)
    dataset = TrainingSet(index, store, 96, Hyp(**hyp), 0, 99, with_outlines)
    return list(training_loader(dataset, 4, workers, range(2), pin_memory=False))


def test_a_batch_has_a_mask_for_each_object_where_they_are_asked_for(holed: DatasetIndex) -> None:
    for batch in batches_of(holed, True):
        assert batch.objects.mask.shape == (len(batch.objects.label), 24, 24)
        assert batch.objects.mask.dtype == torch.uint8 and batch.objects.mask.flatten(1).any(dim=1).all()
    assert all(batch.objects.mask is None for batch in batches_of(holed, False))


@pytest.mark.skipif(not CAN_FORK, reason="processes are not forked here")
@pytest.mark.processes
def test_loading_processes_hand_over_the_same_masks(holed: DatasetIndex) -> None:
    for one, other in zip(batches_of(holed, True), batches_of(holed, True, workers=2), strict=True):
        assert torch.equal(one.objects.mask, other.objects.mask) and torch.equal(one.images, other.images)


def test_masks_lie_on_their_objects_and_not_on_their_holes(holed: DatasetIndex) -> None:
    """Whole images: what a ring surrounds is darker or of another colour than the ring, and not of its mask."""
    dataset = EvaluationSet(holed, ImageStore(holed, 96, "off", False), partial(canvas_size, stride=32), True)
    rings = 0
    for batch in evaluation_loader(dataset, 4, 0, pin_memory=False):
        for box, label, mask in zip(batch.objects.box, batch.objects.label.tolist(), batch.objects.mask, strict=True):
            x, y, w, h = (box / STRIDE).tolist()
            rows, columns = np.nonzero(mask.numpy())
            assert abs(columns.min() - (x - w / 2)) <= 1.2 and abs(rows.max() + 1 - (y + h / 2)) <= 1.2
            if label == 0 and min(w, h) > 5 and max(w, h) < 1.15 * min(w, h):
                assert mask[int(y), int(x)] == 0
                rings += 1
    assert rings >= 3


def test_boxes_of_a_batch_are_those_without_masks_where_nothing_cuts(holed: DatasetIndex) -> None:
    plain, masks = (batches_of(holed, one, **NO_AUGMENTATION) for one in (False, True))
    for one, other in zip(plain, masks, strict=True):
        assert torch.equal(one.objects.box, other.objects.box) and torch.equal(one.images, other.images)


def test_an_augmentation_that_loses_outlines_is_refused_where_masks_are_learnt(holed, monkeypatch) -> None:
    monkeypatch.setitem(AUGMENTATIONS, "still", lambda image, label, xyxy, rng: (image, label, xyxy))
    hyp = Hyp(**NO_AUGMENTATION).model_copy(
        update={"augmentations": (Hyp().box_loss.model_copy(update={"name": "still"}),)}
    )
    store = ImageStore(holed, 96, "off", False)
    assert TrainingSet(holed, store, 96, hyp, 0, 99)[0, 0].instances.outlines is None
    with pytest.raises(ConfigError, match="augmentations: masks are drawn from outlines: expected functions"):
        TrainingSet(holed, store, 96, hyp, 0, 99, with_outlines=True)[0, 0]


def test_objects_of_the_holed_set_lie_where_they_lie_without_holes() -> None:
    plain, holed = (Generate(kind="shapes", train=9, val=1, image_size=96, holes=holes) for holes in (0.0, 0.5))
    with_holes = 0
    for number in range(9):
        (image, shapes), (other, objects) = draw_image(plain, "train", number), draw_image(holed, "train", number)
        for (label, outline), (same, ring) in zip(shapes, objects, strict=True):
            assert label == same
            np.testing.assert_allclose((ring.min(axis=0), ring.max(axis=0)), (outline.min(axis=0), outline.max(axis=0)))
            with_holes += len(ring) > len(outline)
            assert len(ring) == len(outline) or label in (0, 4)
        assert np.array_equal(image, other) == all(len(a[1]) == len(b[1]) for a, b in zip(shapes, objects, strict=True))
    assert 3 <= with_holes <= 12


# ----------------------------------------------------------------------------------------------------------- COCO's RLE


def write_coco(root: Path, *outlines: Any, height: int = 60, width: int = 80, **row: Any) -> DatasetIndex:
    (root / "images").mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(root / "images/a.png"), np.full((height, width, 3), 90, np.uint8))
    rows = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "segmentation": one, **row}
        for n, one in enumerate(outlines, 1)
    ]
    images = [{"id": 1, "file_name": "a.png", "height": height, "width": width}]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    (root / "labels.json").write_text(json.dumps(content))
    return read(root, labels="labels.json", format="coco")


def read(root: Path, with_outlines: bool = True, **keys: Any) -> DatasetIndex:
    config = DatasetConfig(**{"train": "images", "names": ("cat",), **keys})
    return index_split(config, root / "data.yaml", "train", with_outlines)


@pytest.fixture
def holed_mask() -> np.ndarray:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 10:40] = 1
    mask[20:30, 15:25] = 0
    mask[45:50, 60:70] = 1  # a part of its own
    return mask


def counts_of(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths, down the columns, from zeros on."""
    flat = np.concatenate(([0], mask.T.ravel(), [2]))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(changes, prepend=0).tolist()


def test_run_lengths_of_both_kinds_are_the_mask_with_its_holes_and_parts(tmp_path, holed_mask) -> None:
    packed = pycoco.encode(np.asfortranarray(holed_mask))
    compressed = {"size": packed["size"], "counts": packed["counts"].decode()}
    index = write_coco(tmp_path, compressed, {"size": [60, 80], "counts": counts_of(holed_mask)}, area=500)
    assert not index.problems
    for row in range(2):
        assert np.array_equal(mask_of(index.outlines.of(row), (60, 80)), holed_mask)
        assert (
            len(index.outlines.of(row)) == 2 and runs_of(index.outlines.of(row), 60, 80)["counts"] == packed["counts"]
        )


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ({"size": [60, 80], "counts": "zzz"}, "cannot be read"),
        ({"size": [60, 80], "counts": [4000, 20]}, "cannot be read"),
        (
            {"size": [60, 80], "counts": [-1, 4801]},
            "expected counts of run lengths, a text or whole numbers, found [-1",
        ),
        ({"size": [60, 80], "counts": [2400.0, 2400]}, "expected counts of run lengths, a text or whole numbers"),
        ({"size": [60, 80], "counts": None}, "expected counts of run lengths, a text or whole numbers, found None"),
        ({"size": [60, 80]}, "expected counts of run lengths, a text or whole numbers, found None"),
        ({"size": [600000, 800000], "counts": "a"}, "expected run lengths of"),
        ({"size": "60x80", "counts": "a"}, "found size '60x80'"),
        ({}, "found size None"),
    ],
)
def test_damaged_run_lengths_leave_the_box_and_are_named(tmp_path, runs: Any, reason: str) -> None:
    index = write_coco(tmp_path, runs)
    assert index.num_objects == 1 and not len(index.outlines.corner) and index.account.startswith("1 rows")
    [problem] = index.problems
    assert problem.startswith(f"{tmp_path / 'labels.json'}: annotation 1: ") and reason in problem


def test_run_lengths_are_decoded_only_where_outlines_are_asked_for(tmp_path, holed_mask, monkeypatch) -> None:
    runs = {"size": [60, 80], "counts": counts_of(holed_mask)}
    write_coco(tmp_path, runs)
    monkeypatch.setattr("yolo_lite.data.readers.coco.mask_of_runs", lambda *_: pytest.fail("decoded"))
    assert read(tmp_path, with_outlines=False, labels="labels.json").outlines is None
    monkeypatch.undo()
    assert write_coco(tmp_path / "boxless", runs, bbox=[]).xyxy.tolist() == [[10, 10, 70, 50]]  # of its outline


def test_run_lengths_of_a_turned_image_fit_it() -> None:
    mask = np.zeros((6, 9), np.uint8, order="F")
    mask[2:4, 3:8] = 1
    packed = pycoco.encode(mask)
    assert np.array_equal(mask_of_runs(packed, (9, 6)), mask)
    with pytest.raises(ValueError, match=r"expected run lengths of \[12, 6\]"):
        mask_of_runs(packed, (12, 6))


# ---------------------------------------------------------------------------------------------------------- PNG masks


def save_masks(root: Path, values: np.ndarray | Image.Image, name: str = "a") -> None:
    mask = values if isinstance(values, Image.Image) else Image.fromarray(values)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", mask.size, (90, 80, 70)).save(root / f"images/{name}.jpg")
    mask.save(root / f"masks/{name}.png")


def with_palette(values: np.ndarray) -> Image.Image:
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    return image


def objects_of_masks(index: DatasetIndex) -> dict[int, np.ndarray]:
    shape = tuple(index.size[0].tolist())
    return {row: mask_of(index.outlines.of(row), shape) for row in range(len(index.label))}


@pytest.mark.parametrize("kind", ["grey", "16 bits", "colour", "palette"])
def test_every_value_of_a_png_is_an_object_with_its_holes_and_parts(tmp_path, holed_mask, kind: str) -> None:
    values = np.array([0, 3, 200])[holed_mask + 2 * np.pad(np.ones((5, 5), int), ((0, 55), (75, 0)))]
    if kind == "colour":
        colours = np.stack((values, values // 2, 255 - values), axis=2) * (values > 0)[..., None]
        save_masks(tmp_path, colours.astype(np.uint8))
    elif kind == "palette":
        save_masks(tmp_path, with_palette(values.astype(np.uint8)))
    else:
        save_masks(tmp_path, values.astype(np.uint16 if kind == "16 bits" else np.uint8))
    index = read(tmp_path, format="masks")
    assert index.label.tolist() == [0, 0] and index.account == "2 rows in the label files = 2 objects"
    expected = {(values == value).astype(np.uint8).tobytes() for value in (3, 200)}
    assert {mask.tobytes() for mask in objects_of_masks(index).values()} == expected
    assert sorted(index.area.tolist()) == [25, float(holed_mask.sum())]
    plain = read(tmp_path, with_outlines=False, format="masks")
    assert plain.outlines is None and np.array_equal(plain.xyxy, index.xyxy)


def test_values_of_several_classes_count_thousands(tmp_path: Path) -> None:
    values = np.zeros((40, 50), np.uint16)
    values[2:9, 2:9], values[20:30, 5:15], values[20:30, 20:30], values[35:, 40:] = 7, 1001, 1002, 5001
    save_masks(tmp_path, values)
    index = read(tmp_path, format="masks", names=("cat", "dog"))
    assert index.label.tolist() == [0, 1, 1]
    [problem] = index.problems
    assert problem.endswith("a.png: value 5001: expected 1000 * class + number, a class in 0..1, found class 5")
    assert index.account == "4 rows in the label files = 3 objects + 1 left out (1 unknown class)"


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_in_a_png_is_no_object(tmp_path: Path, mode: str) -> None:
    values, alpha = np.full((40, 50), 9, np.uint8), np.zeros((40, 50), np.uint8)
    alpha[5:20, 5:20], values[30:35, 5:10], alpha[30:35, 5:10] = 255, 0, 255
    mask = Image.fromarray(values).convert(mode)
    mask.putalpha(Image.fromarray(alpha))
    save_masks(tmp_path, mask)
    index = read(tmp_path, format="masks")
    assert index.xyxy.tolist() == [[5, 5, 20, 20]] and not index.problems
    if mode == "LA":  # numbers as without transparency
        assert read(tmp_path, format="masks", names=("cat", "dog")).num_objects == 1


def test_a_png_of_the_stored_image_turns_with_it_wherever_its_objects_lie(tmp_path: Path) -> None:
    """A mask of the sides before EXIF turns the image has the pixels of the stored one: no box has to tell."""
    values = np.zeros((40, 50), np.uint8)
    values[10:20, 5:10] = 1  # fits the turned image too
    save_masks(tmp_path, values)
    stored = Image.new("RGB", (50, 40))
    turned = stored.getexif()
    turned[0x0112] = 6  # a quarter, clockwise
    stored.save(tmp_path / "images/a.jpg", exif=turned)
    index = read(tmp_path, format="masks")
    assert index.size.tolist() == [[50, 40]] and index.num_objects == 1
    [mask] = objects_of_masks(index).values()
    assert np.array_equal(mask, np.rot90(values, -1))


def test_the_border_of_vocs_palette_is_no_object(tmp_path: Path) -> None:
    values = np.zeros((40, 50), np.uint8)
    values[5:20, 5:20], values[8:17, 8:17] = 255, 1
    save_masks(tmp_path, with_palette(values))
    index = read(tmp_path, format="masks")
    assert index.num_objects == 1 and index.crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "names", "reason"),
    [
        (np.arange(30000, dtype=np.uint16).reshape(150, 200), ("cat",), "found 30000 values: smoothed edges"),
        (np.full((9, 9, 3), 70, np.uint8), ("cat", "dog"), "expected grey values 1000"),
        (None, ("cat",), "expected a PNG"),
    ],
)
def test_a_png_that_is_no_mask_is_named(tmp_path: Path, values: Any, names: tuple[str, ...], reason: str) -> None:
    sound = np.zeros((40, 50), np.uint8)
    sound[5:20, 5:20] = 1
    save_masks(tmp_path, sound, "b")
    save_masks(tmp_path, sound if values is None else values)
    if values is None:
        (tmp_path / "masks/a.png").write_bytes(b"no image at all")
    index = read(tmp_path, format="masks", names=names)
    assert index.num_objects == 1 and len(index.problems) == 1
    assert str(tmp_path / "masks/a.png") in index.problems[0] and reason in index.problems[0]


def test_a_mask_of_another_size_leaves_its_image_out(tmp_path: Path) -> None:
    sound = np.zeros((40, 50), np.uint8)
    sound[5:20, 5:20] = 1
    save_masks(tmp_path, sound, "a")
    save_masks(tmp_path, sound, "b")
    Image.fromarray(sound[:20]).save(tmp_path / "masks/b.png")
    index = read(tmp_path, format="masks")
    assert len(index) == 1 and "50 x 40 pixels, but" in index.problems[0] and "has it as 50 x 20" in index.problems[0]


def test_masks_become_cocos_file_and_stay_what_they_are(tmp_path, holed_mask) -> None:
    save_masks(tmp_path / "set", holed_mask * 9)
    (tmp_path / "data.yaml").write_text("path: set\ntrain: images\nformat: masks\nnames: [cat]\n")
    config = load_dataset_config(tmp_path / "data.yaml")
    new = convert(config, str(tmp_path / "data.yaml"), "coco", tmp_path / "new")
    index = index_split(load_dataset_config(new), new, "train", with_outlines=True)
    assert np.array_equal(objects_of_masks(index)[0], holed_mask)
    rows = convert(config, str(tmp_path / "data.yaml"), "yolo", tmp_path / "rows", polygons=True)
    index = index_split(load_dataset_config(rows), rows, "train", with_outlines=True)
    assert np.array_equal(objects_of_masks(index)[0], holed_mask)  # one row holds the hole and both parts


def test_rows_of_outlines_that_lead_out_of_the_image_keep_their_objects(tmp_path: Path) -> None:
    """COCO's rows have boxes too, those of YOLO outlines alone: what sticks out would cost the object."""
    inside, beside = [10, 10, 40, 10, 40, 40, 10, 40], [200, 10, 220, 10, 220, 20]
    outlines = ([[10, -7, 40, -7, 40, 40, 10, 40]], [inside, beside], [beside])
    before = write_coco(tmp_path / "set", *outlines, bbox=[9, 0, 32, 40])
    (tmp_path / "data.yaml").write_text("path: set\ntrain: images\nlabels: labels.json\nformat: coco\nnames: [cat]\n")
    config = load_dataset_config(tmp_path / "data.yaml")
    rows = convert(config, str(tmp_path / "data.yaml"), "yolo", tmp_path / "rows", polygons=True)
    after = index_split(load_dataset_config(rows), rows, "train", with_outlines=True)
    assert before.num_objects == 3 and not after.left_out
    assert after.xyxy.tolist() == [[10, 0, 40, 40], [10, 10, 40, 40], [9, 0, 41, 40]]  # the last has the box alone
    expected, masks = objects_of_masks(before), objects_of_masks(after)
    assert all(np.array_equal(masks[row], expected[row]) for row in (0, 1)) and not masks[2].any()


# -------------------------------------------------------------------------------------------------------------- doctor


def test_the_doctor_counts_outlines_and_finds_those_of_other_boxes(tmp_path: Path, holed_mask: np.ndarray) -> None:
    square, parts = [10, 10, 40, 10, 40, 40, 10, 40], [[10, 10, 40, 10, 40, 20], [10, 30, 40, 30, 40, 40]]
    write_coco(tmp_path, [square], parts, [[60, 50, 70, 50, 70, 55]], {"size": [60, 80], "counts": [1]}, [])
    text = "train: images\nval: images\nlabels: labels.json\nformat: coco\nnames: [cat]\n"
    (tmp_path / "data.yaml").write_text(text)
    diagnosis = diagnose(load_dataset_config(tmp_path / "data.yaml"), str(tmp_path / "data.yaml"), 64)
    told = {one.kind: one.text for one in diagnosis.findings if one.split == "train"}
    assert "1 of 5 objects have outlines that do not fill their boxes" in told["outline of another box"]
    assert "annotation 4: run lengths that cannot be read" in told["unreadable mask"]
    one = make_report(diagnosis, None, 4.0, "")["splits"]["train"]
    assert (one["objects"], one["outlines"], one["in several parts"]) == (5, 3, 1)


def test_learnt_masks_of_boxes_alone_are_boxes(holed: DatasetIndex) -> None:
    index = replace(holed, outlines=holed.outlines.only(np.zeros(len(holed.label), bool)))
    for batch in batches_of(index, True, **NO_AUGMENTATION):
        for box, mask in zip(batch.objects.box / STRIDE, batch.objects.mask, strict=True):
            assert mask.sum().item() == pytest.approx(
                (box[2] * box[3]).item(), abs=2 * (box[2] + box[3]).item() * 0.5 + 1
            )
