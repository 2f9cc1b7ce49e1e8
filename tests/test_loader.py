"""Batches: the same to the bit whoever makes them, every image once an epoch, each error with its message."""

import functools
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import boxes_only, children_of

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import DataError
from yolo_lite.config.hyp import Hyp
from yolo_lite.data import store as store_module
from yolo_lite.data.balance import draw_order, repeat_factors
from yolo_lite.data.dataset import DatasetItem, EvaluationSet, TrainingSet
from yolo_lite.data.hand_over import start_worker
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.instances import Instances
from yolo_lite.data.letterbox import GREY, Letterbox, canvas_size, fitted_size, on_canvas, resize, to_original
from yolo_lite.data.loader import (
    EpochBatches,
    collate,
    evaluation_loader,
    num_batches,
    same_shape_batches,
    training_loader,
)
from yolo_lite.data.store import CAN_FORK, ImageStore
from yolo_lite.structures import Batch

SIZE = 64
SHAPES = [(48, 64), (64, 48), (40, 64), (64, 64), (30, 50), (100, 80), (48, 64), (20, 64), (90, 120)]
PLAIN = Hyp(hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, translate=0.0, scale=0.0, fliplr=0.0, mosaic=0.5, mixup=0.5)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> DatasetIndex:
    """Nine noisy images of several shapes; two of them have no object."""
    root, rng = tmp_path_factory.mktemp("nine"), np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number, shape in enumerate(SHAPES):
        assert cv2.imwrite(str(root / f"images/{number}.png"), rng.integers(0, 256, (*shape, 3)).astype(np.uint8))
        rows = [f"{rng.integers(2)} {x:.4f} {y:.4f} 0.3 0.4\n" for x, y in rng.uniform(0.3, 0.7, (number % 4, 2))]
        (root / f"labels/{number}.txt").write_text("".join(rows))
    return index_split(DatasetConfig(train=("images",), names=("cat", "dog")), root / "data.yaml", "train")


def training_set(index: DatasetIndex, hyp: Hyp = PLAIN, cache: str = "ram", mosaic_epochs: int = 99) -> TrainingSet:
    return TrainingSet(index, ImageStore(index, SIZE, cache, True), SIZE, hyp, seed=3, mosaic_epochs=mosaic_epochs)


def tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
    objects = [column for column in batch.objects if column is not None]  # without masks
    return (batch.images, *objects, batch.position, batch.original_size, batch.letterbox)


def assert_same(first: Iterable[Batch], second: Iterable[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        for a, b in zip(tensors(one), tensors(other), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and torch.equal(a, b)


# ---------------------------------------------------------------------------------------------------------- order


def orders(seed: int, epochs: range, num_images: int = 50, batch_size: int = 8) -> list[list[int]]:
    by_epoch: dict[int, list[int]] = {}
    for batch in EpochBatches(num_images, batch_size, seed, epochs):
        for epoch, position in batch:
            by_epoch.setdefault(epoch, []).append(position)
    assert list(by_epoch) == list(epochs)
    return list(by_epoch.values())


def test_every_epoch_holds_every_picture_once_in_an_order_of_its_own():
    epochs = orders(0, range(5))
    assert all(sorted(order) == list(range(50)) and order != sorted(order) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 5


def test_the_order_depends_on_seed_and_epoch_alone():
    assert orders(0, range(5))[3:] == orders(0, range(3, 5)) == orders(0, range(3, 5), batch_size=7)
    assert orders(0, range(2)) != orders(1, range(2))


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 1), (9, 4), (8, 4), (3, 16)])
def test_only_the_last_batch_of_an_epoch_may_be_smaller(num_images, batch_size):
    batches = EpochBatches(num_images, batch_size, 0, range(2))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == len(batches) == 2 * num_batches(num_images, batch_size)
    assert all(size == batch_size for size in sizes[: len(sizes) // 2 - 1])
    assert sum(sizes) == 2 * num_images
    assert all(len({epoch for epoch, _ in batch}) == 1 for batch in batches)


# ------------------------------------------------------------------------------------------------------- balance


def by_classes(*seen: set[int], crowds: tuple[int, ...] = ()) -> DatasetIndex:
    """Images that show these classes of 3, each object twice; those of ``crowds`` as crowds."""
    label = np.array([label for labels in seen for label in sorted(labels) * 2], dtype=np.int64)
    fields = boxes_only(np.tile([0.0, 0, 1, 1], (len(label), 1)))
    return DatasetIndex(
        names=("common", "rare", "rarest"),
        paths=np.array([b"x"] * len(seen)),
        size=np.ones((len(seen), 2), np.int64),
        first=np.concatenate(([0], np.cumsum([2 * len(labels) for labels in seen]))),
        label=label,
        **{**fields, "crowd": np.isin(label, crowds)},
        image_id=np.arange(len(seen)),
        category_id=np.arange(3),
        problems=(),
    )


def test_repeat_factors_by_hand():
    """Of 16 images 12 show the common class, 4 the rare one, 1 the rarest; 2 are backgrounds. Threshold 1/2."""
    pictures = [{0}] * 9 + [{0, 1}] * 3 + [{1, 2}] + [set()] * 2 + [{0}]
    weights = repeat_factors(by_classes(*pictures), 0.5)
    common, rare, rarest = 1, (0.5 / (4 / 16)) ** 0.5, (0.5 / (1 / 16)) ** 0.5
    expected = np.array([common] * 9 + [rare] * 3 + [rarest] + [0] * 2 + [common])
    expected[13:15] = expected.sum() / 14  # backgrounds keep their share: 2 of 16
    np.testing.assert_allclose(weights, expected)
    assert weights[13:15].sum() / weights.sum() == pytest.approx(2 / 16)


def test_crowds_make_no_picture_rare():
    weights = repeat_factors(by_classes({0}, {0}, {0, 2}, {0}, crowds=(2,)), 1.0)
    np.testing.assert_allclose(weights, 1)


def test_each_picture_is_drawn_as_often_as_its_weight_says_rounded_up_or_down():
    weights = np.random.default_rng(0).uniform(0.5, 5, 60)
    expected, total = weights / weights.sum() * 60, np.zeros(60)
    for seed in range(400):
        order = draw_order(weights, np.random.default_rng(seed))
        counts = np.bincount(order, minlength=60)
        assert len(order) == 60 and np.all(counts >= np.floor(expected)) and np.all(counts <= np.ceil(expected))
        total += counts
    assert np.abs(total / 400 - expected).max() < 0.1
    assert sorted(draw_order(np.ones(60), np.random.default_rng(0))) == list(range(60))


def test_a_balanced_run_has_as_many_steps_and_goes_on_where_it_was():
    weights = np.random.default_rng(0).uniform(1, 4, 50)
    whole = list(EpochBatches(50, 8, 3, range(4), weights=weights))
    assert len(whole) == 4 * num_batches(50, 8)
    assert list(EpochBatches(50, 8, 3, range(2, 4), first_batch=5, weights=weights)) == whole[2 * 7 + 5 :]
    assert [b[0] for b in whole[:7]] != [b[0] for b in EpochBatches(50, 8, 3, range(1))]
    halves = [EpochBatches(50, 8, 3, range(4), share=lambda b, p=p: b[p::2], weights=weights) for p in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert sorted(batch) == sorted([*first, *second])


def test_balance_draws_mosaic_partners_too(index):
    plain, balanced = (training_set(index, Hyp(mosaic=1.0, balance=balance)) for balance in (0.0, 1.0))
    assert plain.weights is None and balanced.weights is not None and len(balanced.weights) == len(index)
    counts = np.bincount(balanced._partners(9000, np.random.default_rng(0)), minlength=len(index)) / 9000
    np.testing.assert_allclose(counts, balanced.weights / balanced.weights.sum(), atol=0.02)
    loaders = [training_loader(balanced, 4, 0, range(2), False) for _ in range(2)]
    assert_same(*loaders)


# ------------------------------------------------------------------------------------------ channels, names, places


@pytest.mark.parametrize(("channels", "suffix"), [(1, ".png"), (4, ".png"), (6, ".npy")])
@pytest.mark.parametrize("cache", ["ram", "off", "disk"])
def test_pictures_keep_their_channels_through_the_loader(tmp_path, channels, suffix, cache):
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (40 + number, 64, channels)).astype(np.uint8)
        path = tmp_path / f"images/{number}{suffix}"
        path.parent.mkdir(exist_ok=True)
        if suffix == ".npy":
            np.save(path, pixels)
        else:
            cv2.imwrite(str(path), pixels[..., [2, 1, 0, 3]] if channels == 4 else pixels)
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.4 0.4\n")
    config = DatasetConfig(train=("images",), names=("cat",), channels=channels)
    index = index_split(config, tmp_path / "data.yaml", "train")
    assert index.channels == channels and not index.problems
    for batch in training_loader(training_set(index, Hyp(mixup=0.5, mosaic=0.5), cache), 4, 0, range(2), False):
        assert batch.images.shape[1:] == (channels, SIZE, SIZE)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    dataset = EvaluationSet(index, ImageStore(index, SIZE, cache, False), functools.partial(canvas_size, stride=32))
    for _ in range(2):
        item = dataset[4]
        inside = np.s_[item.letterbox.top : item.letterbox.top + 44, item.letterbox.left : item.letterbox.left + 64]
        np.testing.assert_array_equal(item.image[inside], pixels)
        border = np.ones(item.image.shape[:2], bool)
        border[inside] = False
        assert item.image.shape[2] == channels and (item.image[border] == GREY).all() and border.any()


def test_what_is_kept_of_one_number_of_channels_is_not_taken_for_another(index):
    """Index and decoded images are kept under names that hold the number."""
    root = Path(index.path(0)).parents[1]
    for channels in (3, 1, 4, 3):
        config = DatasetConfig(train=("images",), names=("cat", "dog"), channels=channels)
        if channels == 4:
            with pytest.raises(DataError, match=r"expected 4 channels .*, found 3"):
                index_split(config, root / "data.yaml", "train")
            continue
        found = index_split(config, root / "data.yaml", "train")
        assert ImageStore(found, SIZE, "disk", False)[0].shape == (48, 64, channels) and found.channels == channels


NAMES = ["a#1.png", "b=2.PNG", "two words.png", "v1.2.final.png", "größe 猫.png", "[x].png", "UP.JPG", "100%.jpeg"]


def test_any_name_a_link_and_a_read_only_folder_will_do(tmp_path):
    """Nothing is written beside the images either."""
    root = tmp_path / "set #1 = größe.v2"
    for folder in ("images", "labels", "elsewhere"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        content = cv2.imencode(Path(name).suffix.lower(), rng.integers(0, 256, (48, 64, 3)).astype(np.uint8))[1]
        (root / "images" / name).write_bytes(content.tobytes())
        (root / "labels" / name).with_suffix(".txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (root / "images" / "UP.JPG").rename(root / "elsewhere" / "target.jpg")
    (root / "images" / "UP.JPG").symlink_to(root / "elsewhere" / "target.jpg")
    (root / "list of all.txt").write_text("".join(f"./images/{name}\n" for name in NAMES), encoding="utf-8")
    places = sorted(root.rglob("*"))
    for place in (*places, root):
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        for source in ("images", "list of all.txt", "images/*"):
            index = index_split(DatasetConfig(train=(source,), names=("cat", "dog")), root / "data.yaml", "train")
            assert {Path(index.path(i)).name for i in range(len(index))} == set(NAMES), source
            assert index.num_objects == len(NAMES) and not index.problems
            batches = list(training_loader(training_set(index), 4, 0, range(1), False))
            assert sum(len(batch.position) for batch in batches) == len(NAMES)
        assert sorted(root.rglob("*")) == places
    finally:
        for place in (*places, root):
            if place.is_dir():
                place.chmod(0o755)


# ----------------------------------------------------------------------------------- the same whoever makes them


@pytest.fixture(scope="module")
def reference(index) -> list[Batch]:
    """Two epochs with every augmentation on, by the process that asks."""
    hyp = Hyp(degrees=5.0, shear=2.0, perspective=0.0005, flipud=0.2, mosaic=0.7, mixup=0.4)
    return list(training_loader(training_set(index, hyp, "off"), 4, 0, range(2), False))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "cache"), [(0, "ram"), (1, "off"), (3, "ram")])
def test_batches_do_not_depend_on_workers_or_cache(index, reference, workers, cache):
    hyp = Hyp(degrees=5.0, shear=2.0, perspective=0.0005, flipud=0.2, mosaic=0.7, mixup=0.4)
    torch.manual_seed(workers)  # neither on any global generator
    np.random.seed(workers)
    assert_same(training_loader(training_set(index, hyp, cache), 4, workers, range(2), False), reference)


def test_a_run_that_begins_at_the_second_epoch_sees_the_same(index, reference):
    hyp = Hyp(degrees=5.0, shear=2.0, perspective=0.0005, flipud=0.2, mosaic=0.7, mixup=0.4)
    assert_same(training_loader(training_set(index, hyp), 4, 0, range(1, 2), False), reference[len(reference) // 2 :])


def test_samples_do_not_depend_on_the_batch_size(index):
    hyp = Hyp(mosaic=0.5)
    by_size = []
    for batch_size in (1, 4):
        images = [
            x
            for batch in training_loader(training_set(index, hyp), batch_size, 0, range(1), False)
            for x in batch.images
        ]
        by_size.append(torch.stack(images))
    assert torch.equal(*by_size)


def test_the_last_epochs_hold_the_plain_pictures(index):
    """From ``mosaic_epochs`` on there is neither mosaic nor mixup; with all else off, that is the letterbox."""
    loader = training_loader(training_set(index, mosaic_epochs=1), 4, 0, range(3), False)
    num_plain = {0: 0, 1: 0, 2: 0}
    for number, batch in enumerate(loader):
        for position, image in zip(batch.position.tolist(), batch.images, strict=True):
            picture = cv2.imread(index.path(position))[..., ::-1]
            resized = resize(picture, *fitted_size(*picture.shape[:2], SIZE))
            expected, _ = on_canvas(resized, picture.shape[:2], (SIZE, SIZE))
            num_plain[number // 3] += np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert num_plain[0] < 9 and num_plain[1] == num_plain[2] == 9


# -------------------------------------------------------------------------------------------------------- collate


def item(image: np.ndarray, boxes: list[list[float]], labels: list[int]) -> DatasetItem:
    xyxy = np.array(boxes, dtype=float).reshape(-1, 4)
    instances = Instances(np.array(labels, dtype=np.int64), xyxy, np.ones(len(labels)))
    return DatasetItem(image, instances, 7, (5, 6), Letterbox(0.5, 0.25, 1, 2))


def test_collate_by_hand():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8, 16, 3)).astype(np.uint8) for _ in range(3)]
    items = [
        item(images[0], [[0, 0, 5, 2], [1, 2, 3, 8]], [1, 0]),
        item(images[1], [], []),
        item(images[2], [[10, 0, 16, 8]], [5]),
    ]
    batch = collate(items)
    assert batch.images.shape == (3, 3, 8, 16) and batch.images.dtype == torch.uint8
    np.testing.assert_array_equal(batch.images.permute(0, 2, 3, 1).numpy(), np.stack(images))
    assert batch.objects.image.tolist() == [0, 0, 2] and batch.objects.label.tolist() == [1, 0, 5]
    assert batch.objects.box.tolist() == [[2.5, 1, 5, 2], [2, 5, 2, 6], [13, 4, 6, 8]]
    assert (batch.objects.image.dtype, batch.objects.label.dtype) == (torch.int64, torch.int64)
    assert batch.objects.box.dtype == torch.float32
    assert batch.position.tolist() == [7, 7, 7] and batch.original_size.tolist() == [[5, 6]] * 3
    assert batch.letterbox.tolist() == [[0.5, 0.25, 1, 2]] * 3 and batch.letterbox.dtype == torch.float64


def test_a_batch_without_objects_keeps_its_shapes():
    batch = collate([item(np.zeros((8, 8, 3), np.uint8), [], [])] * 2)
    assert batch.objects.box.shape == (0, 4) and batch.objects.box.dtype == torch.float32
    assert batch.objects.image.shape == batch.objects.label.shape == (0,)
    assert batch.objects.image.dtype == batch.objects.label.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_channels_last_in_memory(index, workers):
    for batch in training_loader(training_set(index), 4, workers, range(1), False):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.contiguous(memory_format=torch.channels_last).data_ptr() == batch.images.data_ptr()


# ----------------------------------------------------------------------------------------------------- evaluation


def evaluation_set(index: DatasetIndex, stride: int = 32) -> EvaluationSet:
    return EvaluationSet(index, ImageStore(index, SIZE, "ram", False), functools.partial(canvas_size, stride=stride))


@pytest.mark.parametrize(("batch_size", "stride"), [(1, 32), (2, 32), (4, 16), (100, 8)])
def test_batches_of_one_shape_hold_every_picture_once(index, batch_size, stride):
    dataset = evaluation_set(index, stride)
    batches = same_shape_batches(dataset, batch_size)
    assert sorted(position for batch in batches for position in batch) == list(range(len(index)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size and len({dataset.shape(position) for position in batch}) == 1
        height, width = dataset.shape(batch[0])
        assert height % stride == width % stride == 0
        for position in batch:
            assert dataset[position].image.shape == (height, width, 3)
            assert stride // 2 <= height - dataset.store.size[position, 0] < 1.5 * stride  # no more than it takes


def test_evaluated_pictures_do_not_depend_on_batch_size_workers_or_cache(index):
    seen = []
    for batch_size, workers, cache in ((1, 0, "ram"), (3, 2, "off"), (9, 0, "off")):
        dataset = EvaluationSet(
            index, ImageStore(index, SIZE, cache, workers > 0), functools.partial(canvas_size, stride=32)
        )
        pictures = {}
        for batch in evaluation_loader(dataset, batch_size, workers, False):
            for row, position in enumerate(batch.position.tolist()):
                boxes = batch.objects.box[batch.objects.image == row]
                pictures[position] = (batch.images[row], boxes, batch.letterbox[row])
        seen.append([pictures[position] for position in range(len(index))])
    for other in seen[1:]:
        assert all(
            torch.equal(a, b) for one, two in zip(seen[0], other, strict=True) for a, b in zip(one, two, strict=True)
        )


def test_an_evaluated_box_goes_back_to_its_picture(index):
    dataset = evaluation_set(index)
    for position in range(len(index)):
        got = dataset[position]
        assert got.position == position and got.original_size == tuple(index.size[position])
        label, xyxy = index.objects(position)
        np.testing.assert_array_equal(got.instances.label, label)
        np.testing.assert_allclose(to_original(got.instances.xyxy, got.letterbox), xyxy, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- storing


def test_cached_pictures_equal_decoded_ones(index):
    cached, decoded = ImageStore(index, SIZE, "ram", False), ImageStore(index, SIZE, "off", False)
    assert cached.memory is not None and decoded.memory is None
    for _ in range(2):
        for position in range(len(index)):
            assert cached[position].shape[:2] == tuple(cached.size[position])
            np.testing.assert_array_equal(cached[position], decoded[position])


def test_a_cached_picture_is_read_once(index, monkeypatch):
    store = ImageStore(index, SIZE, "ram", False)
    first = [store[position].copy() for position in range(len(index))]
    monkeypatch.setattr(store_module, "read_image", lambda path, channels: pytest.fail(f"{path} was read again"))
    assert all(np.array_equal(store[position], first[position]) for position in range(len(index)))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_fill_the_cache_that_all_share(index, workers):
    dataset = training_set(index, Hyp(mosaic=0.0))
    store = dataset.store
    assert store.memory is not None
    assert not store.mark.any()
    for _ in training_loader(dataset, 4, workers, range(1), False):
        pass
    assert store.mark.all()
    decoded = ImageStore(index, SIZE, "off", False)
    assert all(np.array_equal(store[position], decoded[position]) for position in range(len(index)))


def test_auto_keeps_pictures_only_where_a_quarter_of_the_free_memory_will_do(index, monkeypatch):
    num_bytes = ImageStore(index, SIZE, "off", False).num_bytes
    assert num_bytes == sum(3 * np.prod(fitted_size(*shape, SIZE)) for shape in SHAPES)
    for free, is_kept in ((4 * num_bytes + 1, True), (4 * num_bytes, False), (0, False)):
        monkeypatch.setattr(store_module, "free_memory", lambda free=free: free)
        store = ImageStore(index, SIZE, "auto", False)
        assert (store.memory is not None) == is_kept
        assert ("kept decoded" in store.describe()) == is_kept
        assert ImageStore(index, SIZE, "ram", False).memory is not None


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Path:
    """A cache folder of its own."""
    monkeypatch.setenv("YOLO_LITE_CACHE", str(tmp_path / "disk"))
    return tmp_path / "disk"


def undecoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images that are decoded from now on."""
    names, real = [], store_module.read_image
    monkeypatch.setattr(store_module, "read_image", lambda path, *rest: (names.append(Path(path).name), real(path))[1])
    return names


def assert_right(store: ImageStore) -> None:
    decoded = ImageStore(store.index, SIZE, "off", False)
    for position in range(len(store.index)):
        np.testing.assert_array_equal(store[position], decoded[position])


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_kept_on_disk_are_there_for_the_next_run(index, disk, workers, monkeypatch):
    dataset = training_set(index, Hyp(mosaic=0.0), "disk")
    assert "0 there already" in dataset.store.describe() and str(disk) in dataset.store.describe()
    list(training_loader(dataset, 4, workers, range(1), False))
    again = ImageStore(index, SIZE, "disk", True)
    assert f"{len(index)} there already" in again.describe()
    names = undecoded(monkeypatch)
    stored = [again[position].copy() for position in range(len(index))]
    assert names == []
    decoded = ImageStore(index, SIZE, "off", False)
    assert all(np.array_equal(stored[position], decoded[position]) for position in range(len(index)))
    assert ImageStore(index, 32, "disk", True).file != again.file
    assert "other files images-* there: 1," in again.describe()


def test_a_changed_picture_is_decoded_anew_and_no_other(index, disk, tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    mine = copied(index, tmp_path / "copy")
    assert_right(ImageStore(mine, SIZE, "disk", True))
    time.sleep(0.012)
    assert cv2.imwrite(str(tmp_path / "copy/3.png"), np.full((*SHAPES[3], 3), 7, np.uint8))
    store, names = ImageStore(mine, SIZE, "disk", True), undecoded(monkeypatch)
    for position in range(len(mine)):
        store[position]
    assert names == ["3.png"]
    assert_right(store)


def test_pixels_that_a_crash_kept_from_the_disk_are_decoded_anew(index, disk, monkeypatch):
    """A mark may be on the disk and its pixels not."""
    store = ImageStore(index, SIZE, "disk", False)
    assert_right(store)
    with store.file.open("r+b") as file:
        file.seek(int(store.first[4]) + 50)
        file.write(bytes(100))
    again, names = ImageStore(index, SIZE, "disk", False), undecoded(monkeypatch)
    for position in range(len(index)):
        again[position]
    assert names == ["4.png"]
    assert_right(again)


def test_a_process_that_is_not_forked_maps_the_file_itself(index, disk, monkeypatch):
    monkeypatch.setattr(store_module, "CAN_FORK", False)
    store = ImageStore(index, SIZE, "disk", True)
    other = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert_right(other)
    assert store.mark.all()
    np.testing.assert_array_equal(store[0], other[0])


def test_a_disk_without_room_is_an_error_before_anything_is_written(index, disk, monkeypatch):
    usage = shutil.disk_usage(disk.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match=rf"disk needs 0.00 GiB more, 0.00 GiB are free in {disk}.*YOLO_LITE_CACHE"):
        ImageStore(index, SIZE, "disk", True)
    assert list(disk.iterdir()) == []
    (disk / "file").write_text("")
    monkeypatch.setenv("YOLO_LITE_CACHE", str(disk / "file/deeper"))
    with pytest.raises(DataError, match=r"cache: disk: cannot write .*file/deeper.*Not a directory"):
        ImageStore(index, SIZE, "disk", True)


@pytest.mark.skipif(not CAN_FORK, reason="memory is read from /proc")
@pytest.mark.parametrize("cache", ["off", "disk"])
def test_the_memory_of_a_worker_does_not_grow_with_the_epochs(index, disk, cache):
    """Neither looking at the index nor loading leaves anything behind: one image kept of each sample would show."""
    many = replace(
        index,
        paths=np.resize(index.paths, 50),
        size=np.resize(index.size, (50, 2)),
        first=np.arange(51) * 100,
        label=np.zeros(5000, np.int64),
        **boxes_only(np.tile([5.0, 5.0, 15.0, 15.0], (5000, 1))),
    )
    dataset = TrainingSet(many, ImageStore(many, SIZE, cache, True), SIZE, PLAIN, seed=0, mosaic_epochs=0)
    loader, held = iter(training_loader(dataset, 10, 1, range(9), False)), []
    for number, _ in enumerate(loader, 1):
        if number % 5 == 0 and number < 40:  # the worker ends with its last batch
            [worker] = children_of(os.getpid())
            rows = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
            held += [int(row.split()[1]) for row in rows if row.startswith("Anonymous:")]
    assert len(held) == 7 and held[-1] - held[1] < 1500, held  # KiB; 250 pictures take 3,000


def test_nothing_is_kept_where_workers_are_not_forked(index, monkeypatch):
    monkeypatch.setattr(store_module, "CAN_FORK", False)
    assert ImageStore(index, SIZE, "ram", True).memory is None
    assert ImageStore(index, SIZE, "ram", False).memory is not None


def test_free_memory_is_a_number_of_bytes():
    assert 2**20 < store_module.free_memory() < 2**50


# --------------------------------------------------------------------------------------------------------- errors


def copied(index: DatasetIndex, folder: Path) -> DatasetIndex:
    """The same index over copies of its images, which a test may spoil."""
    paths = [folder / Path(index.path(position)).name for position in range(len(index))]
    for position, path in enumerate(paths):
        path.write_bytes(Path(index.path(position)).read_bytes())
    return replace(index, paths=np.array([str(path).encode() for path in paths]))


@pytest.mark.parametrize("workers", [0, 1])
def test_where_many_pictures_vanish_the_error_names_one(index, tmp_path, workers):
    spoilt = copied(index, tmp_path)
    for position in range(len(index)):
        (tmp_path / f"{position}.png").unlink()
    with pytest.raises(DataError, match=r"4 of 9 images cannot be read.*png: no such image"):
        list(training_loader(training_set(spoilt), 4, workers, range(1), False))


def test_a_picture_of_another_size_than_its_header_said_is_an_error(index, tmp_path):
    spoilt = copied(index, tmp_path)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((64, 48, 3), np.uint8))  # it was 48 x 64
    for cache in ("ram", "off"):
        with pytest.raises(DataError, match=r"0\.png: the header says \(48, 64\).*the pixels are \(64, 48\)"):
            ImageStore(spoilt, SIZE, cache, False)[0]


@pytest.mark.skipif(not CAN_FORK, reason="workers are not forked here")
def test_a_worker_outlives_sigterm_for_a_while_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    """At once it would take the step along; never, and whoever waits for it at exit would wait for ever."""
    monkeypatch.setattr("yolo_lite.data.hand_over.SECONDS_AFTER_SIGTERM", 1)
    process = multiprocessing.get_context("fork").Process(target=_idle_worker, daemon=True)
    process.start()
    time.sleep(1)
    process.terminate()
    process.join(0.5)
    assert process.is_alive()
    process.join(10)
    assert process.exitcode == -signal.SIGALRM


def _idle_worker() -> None:
    start_worker(0)
    while True:
        time.sleep(0.05)


@pytest.mark.skipif(not CAN_FORK, reason="workers are not forked here")
def test_no_loading_process_outlives_an_evaluation(index):
    store = ImageStore(index, SIZE, "off", shared=True)
    loader = evaluation_loader(EvaluationSet(index, store, functools.partial(canvas_size, stride=32)), 1, 2, False)
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    assert len(set(multiprocessing.active_children()) - others) == 2  # each has batches left that wait for a slot
    list(batches)
    assert set(multiprocessing.active_children()) <= others


def test_an_error_of_a_loading_process_is_told_in_its_own_words(tmp_path):
    for number in range(2):
        make_image = np.full((20, 30, 3), number, np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), make_image)
        (tmp_path / f"{number}.txt").write_text("0 .5 .5 .5 .5\n")
    index = index_split(DatasetConfig(train=".", names=["a"]), tmp_path / "data.yaml", "train")
    for number in range(2):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(DataError) as caught:
        list(training_loader(training_set(index), 1, 1, range(1), False))
    told = str(caught.value)
    assert told.startswith("2 of 2 images cannot be read") and told.endswith(".png: no such image"), told
