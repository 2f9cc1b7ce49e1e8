"""Augmentation: boxes go where the pixels go, nothing outlives its visibility, and no argument is changed."""

import cv2
import numpy as np
import pytest
from conftest import boxes_only

from yolo_lite.config.hyp import Hyp
from yolo_lite.data import augment, effects
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.instances import Instances, Sample, shift_matrix
from yolo_lite.data.letterbox import GREY
from yolo_lite.data.outlines import Outlines
from yolo_lite.data.store import ImageStore
from yolo_lite.ops.streams import NamedGenerators, Stream

OFF = dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "mosaic"), 0.0)
NO_OBJECTS = Instances(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 255)]


def sample_of(image: np.ndarray, label: np.ndarray, xyxy: np.ndarray, share: np.ndarray) -> Sample:
    return Sample(image, Instances(label, xyxy, share))


def rectangle_sample(label: int, height: int, width: int, box: tuple[int, int, int, int]) -> Sample:
    """A rectangle in the colour of its class on black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = COLOURS[label]
    return sample_of(image, np.array([label]), np.array([box], dtype=float), np.ones(1))


def random_sample(label: int, size: int, rng: np.random.Generator) -> Sample:
    """An image of at most ``size`` with one rectangle of a quarter to a half of its sides."""
    short = int(rng.integers(size // 2, size + 1))
    height, width = (size, short) if rng.random() < 0.5 else (short, size)
    box_width, box_height = int(width * rng.uniform(0.25, 0.5)), int(height * rng.uniform(0.25, 0.5))
    left, top = int(rng.integers(0, width - box_width)), int(rng.integers(0, height - box_height))
    return rectangle_sample(label, height, width, (left, top, left + box_width, top + box_height))


def pixel_mask(image: np.ndarray, label: int) -> np.ndarray:
    """Pixels nearer to the colour of the class than to black, grey or another class."""
    return (np.abs(image.astype(int) - COLOURS[label]) < 128).all(axis=2)


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


class Drawn:
    """Stands for an index and its store: images from memory, and a note of which were asked for."""

    outlines: Outlines | None = None

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.asked: list[int] = []
        self.channels = samples[0].image.shape[2]
        self.size = np.array([sample.image.shape[:2] for sample in samples])

    def __len__(self) -> int:
        return len(self.samples)

    def objects(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        return self.samples[position].instances.label, self.samples[position].instances.xyxy

    def __getitem__(self, position: int) -> np.ndarray:
        self.asked.append(position)
        return self.samples[position].image


def training_set(samples: list[Sample], size: int, hyp: Hyp, mosaic_epochs: int = 1000) -> TrainingSet:
    drawn = Drawn(samples)
    return TrainingSet(drawn, drawn, size, hyp, seed=0, mosaic_epochs=mosaic_epochs)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 64), (64, 41), (37, 51)])
def test_without_augmentation_the_picture_lies_in_the_middle(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    sample = sample_of(noise, np.array([3]), np.array([[4.0, 5, 20, 30]]), np.ones(1))
    item = training_set([sample], 64, Hyp(**OFF))[0, 0]
    top, left = (64 - height) // 2, (64 - width) // 2
    np.testing.assert_array_equal(item.image[top : top + height, left : left + width], noise)
    assert (item.image.astype(int).sum() - noise.astype(int).sum()) == (64 * 64 - height * width) * 3 * GREY
    np.testing.assert_array_equal(item.instances.xyxy, [[4 + left, 5 + top, 20 + left, 30 + top]])
    assert item.instances.label.tolist() == [3]


def test_warp_by_the_identity_changes_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    sample = sample_of(noise, np.array([0]), np.array([[3.0, 4, 20, 30]]), np.ones(1))
    warped = augment.warp(sample, np.eye(3), 32)
    np.testing.assert_array_equal(warped.image, noise)
    np.testing.assert_array_equal(warped.instances.xyxy, sample.instances.xyxy)
    assert warped.instances.share.tolist() == [1]


# --------------------------------------------------------------------------------------- boxes go with the pixels


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("angle", [0, 90, 180, -90])
def test_the_middle_of_a_box_is_the_middle_of_its_pixels(zoom, angle):
    """To a tenth of a pixel: no half-pixel shift between how boxes and how pixels are counted."""
    sample = rectangle_sample(6, 64, 64, (20, 24, 44, 36))
    turn = np.eye(3)
    turn[:2] = cv2.getRotationMatrix2D((32, 32), angle, zoom)
    warped = augment.warp(sample, turn, 64)
    weight = np.where(warped.image[..., 0] == GREY, 0.0, warped.image[..., 0])  # the border is not the rectangle
    weight /= weight.sum()
    rows, columns = np.indices((64, 64)) + 0.5
    middle = (warped.instances.xyxy[0, :2] + warped.instances.xyxy[0, 2:]) / 2
    np.testing.assert_allclose([(columns * weight).sum(), (rows * weight).sum()], middle, atol=0.1)


RECIPES = {
    "translate": {"translate": 0.4},
    "scale": {"scale": 0.5},
    "degrees": {"degrees": 10.0},
    "any angle": {"degrees": 180.0},
    "shear": {"shear": 15.0},
    "perspective": {"perspective": 0.001},
    "fliplr": {"fliplr": 0.5},
    "flipud": {"flipud": 0.5},
    "flips": {"flipud": 0.5, "fliplr": 0.5},
    "mosaic": {"mosaic": 1.0},
    "mosaic and scale": {"mosaic": 1.0, "scale": 0.5, "translate": 0.1, "fliplr": 0.5},
    "all": {
        **{"mosaic": 0.7, "scale": 0.5, "translate": 0.2, "degrees": 10.0, "shear": 5.0, "perspective": 0.0005},
        **{"flipud": 0.5, "fliplr": 0.5},
    },
}


UPRIGHT = ("translate", "scale", "fliplr", "flipud", "flips", "mosaic", "mosaic and scale")


@pytest.mark.parametrize("name", RECIPES)
def test_boxes_go_where_the_pixels_go(name):
    size, hyp = 96, Hyp(**{**OFF, **RECIPES[name]})
    rng = np.random.default_rng(1)
    dataset = training_set([random_sample(label, size, rng) for label in range(len(COLOURS))], size, hyp)
    checked = moved = 0
    for epoch in range(25):
        for position in range(len(dataset)):
            dataset.store.asked.clear()
            item = dataset[epoch, position]
            assert item.image.shape == (size, size, 3) and item.image.dtype == np.uint8
            assert np.all(item.instances.xyxy >= 0) and np.all(item.instances.xyxy <= size)
            asked = dataset.store.asked
            for label in {label for label in asked if asked.count(label) == 1}:
                [whole] = dataset.index.objects(label)[1]
                boxes, mask = item.instances.xyxy[item.instances.label == label], pixel_mask(item.image, label)
                if len(boxes) == 0:  # no more of it is seen than a tenth, or a line
                    largest = np.prod(whole[2:] - whole[:2]) * (1 + hyp.scale) ** 2
                    assert mask.sum() < max(0.13 * largest, 3 * size)
                    continue
                [box] = boxes
                checked += 1
                moved += not np.allclose(box, whole, atol=2)
                np.testing.assert_allclose(box, box_of(mask), atol=1.01 if name in UPRIGHT else 2)
    assert checked > 100 and moved > 30


def test_boxes_that_reach_behind_the_viewer_are_dropped():
    """The strongest perspective of a large mosaic puts its corners there; what is kept agrees with its pixels."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    sample = rectangle_sample(0, 300, 300, (20, 20, 40, 60))
    both = sample_of(
        sample.image, np.array([0, 0]), np.array([[20.0, 20, 40, 60], [50, 40, 250, 100]]), share=np.ones(2)
    )
    warped = augment.warp(both, matrix, 200)
    assert augment.worth_learning(warped.instances).tolist() == [True, False]
    np.testing.assert_allclose(warped.instances.xyxy[0], box_of(pixel_mask(warped.image, 0)), atol=1)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_seen_beyond_the_horizon(seed):
    """A horizon through the image: there is grey behind it, and the boxes are those of the pixels before it."""
    rng = np.random.default_rng(seed)
    matrix, angle = np.eye(3), rng.uniform(0, 2 * np.pi)
    matrix[:2] *= 0.6
    matrix[2, :2] = 0.006 * np.cos(angle), 0.006 * np.sin(angle)
    matrix = shift_matrix(100, 100) @ matrix @ shift_matrix(-150, -150)
    left, top = rng.integers(10, 180, 2)
    sample = rectangle_sample(0, 300, 300, (left, top, left + 100, top + 80))
    warped = augment.warp(sample, matrix, 200)
    rows, columns = np.indices((200, 200)) + 0.5
    front = np.linalg.inv(matrix)[2] @ (columns.ravel(), rows.ravel(), np.ones(rows.size)) > 0
    assert 0 < front.sum() < front.size
    assert (warped.image.reshape(-1, 3)[~front] == GREY).all()
    if augment.worth_learning(warped.instances)[0]:
        np.testing.assert_allclose(warped.instances.xyxy[0], box_of(pixel_mask(warped.image, 0)), atol=2)


def flipped(sample: Sample, hyp: Hyp, seed: int) -> Sample:
    return effects.apply_effects(sample, hyp, NamedGenerators(seed, Stream.SAMPLE))


def test_flips_by_hand():
    sample = sample_of(
        np.arange(18, dtype=np.uint8).reshape(2, 3, 3), np.array([1]), np.array([[0.0, 0, 1, 2]]), np.ones(1)
    )
    both = flipped(sample, Hyp(**{**OFF, "flipud": 1.0, "fliplr": 1.0}), 0)
    np.testing.assert_array_equal(both.image, sample.image[::-1, ::-1])
    assert both.instances.xyxy.tolist() == [[2, 0, 3, 2]]
    wide = sample_of(sample.image, np.array([1]), np.array([[0.0, 0, 2, 0.5]]), np.ones(1))
    up_down = flipped(wide, Hyp(**{**OFF, "flipud": 1.0}), 0)
    np.testing.assert_array_equal(up_down.image, sample.image[::-1])
    assert up_down.instances.xyxy.tolist() == [[0, 1.5, 2, 2]]


@pytest.mark.parametrize(("key", "chance"), [("flipud", 0.2), ("fliplr", 0.5)])
def test_flips_happen_as_often_as_asked(key, chance):
    sample = rectangle_sample(0, 8, 8, (0, 0, 2, 2))
    hyp = Hyp(**{**OFF, key: chance})
    found = sum(flipped(sample, hyp, seed).instances.xyxy[0].max() > 2 for seed in range(1000))
    assert abs(found / 1000 - chance) < 0.05


# ------------------------------------------------------------------------------------------------ mosaic and mixup


def test_mosaic_centre_stays_in_the_middle_half_and_covers_it():
    size, centres = 16, []
    corner = [rectangle_sample(label, size, size, (0, 0, size, size)) for label in range(4)]
    for seed in range(400):
        canvas = augment.mosaic(corner, size, np.random.default_rng(seed)).image
        assert canvas.shape[:2] == (2 * size, 2 * size)
        left, top, _, _ = box_of(pixel_mask(canvas[..., :3], 3))  # the fourth picture begins at the centre
        centres.append((left, top))
    assert np.min(centres, axis=0).tolist() == [8, 8] and np.max(centres, axis=0).tolist() == [24, 24]


def test_mosaic_places_four_pictures_around_its_centre():
    samples = [rectangle_sample(label, 16, 16, (2, 3, 10, 9)) for label in range(4)]
    made = augment.mosaic(samples, 16, np.random.default_rng(5))
    assert made.instances.label.tolist() == [0, 1, 2, 3]
    for label, box, share in zip(made.instances.label, made.instances.xyxy, made.instances.share, strict=True):
        mask = pixel_mask(made.image[..., :3], int(label))
        assert share == pytest.approx(mask.sum() / 48)
        if share:
            np.testing.assert_array_equal(box, box_of(mask))
    columns, rows = made.instances.xyxy[:, 0].reshape(2, 2), made.instances.xyxy[:, 1].reshape(2, 2)
    assert np.all(columns[:, 0] < columns[:, 1]) and np.all(rows[0] < rows[1])


def test_mixup_blends_two_pictures_and_keeps_the_boxes_of_both():
    first, second = rectangle_sample(0, 32, 32, (2, 2, 12, 20)), rectangle_sample(1, 32, 32, (14, 8, 30, 30))
    shares = []
    for seed in range(200):
        mixed = augment.mixup(first, second, np.random.default_rng(seed))
        assert mixed.instances.label.tolist() == [0, 1] and mixed.instances.share.tolist() == [1, 1]
        both = np.concatenate((first.instances.xyxy, second.instances.xyxy))
        np.testing.assert_array_equal(mixed.instances.xyxy, both)
        for channel, box in enumerate(mixed.instances.xyxy):
            assert box_of(mixed.image[..., channel] > 30) == box.tolist()
        shares.append(mixed.image[..., 0].max() / 255)
    assert abs(np.mean(shares) - 0.5) < 0.02 and 0.04 < np.std(shares) < 0.08  # beta(32, 32): 0.062


def test_mosaic_and_mixup_end_together():
    samples = [rectangle_sample(label, 32, 32, (4, 4, 20, 20)) for label in range(4)]
    dataset = training_set(samples, 32, Hyp(**{**OFF, "mosaic": 1.0, "mixup": 1.0}), mosaic_epochs=2)
    for position in range(4):
        assert not np.array_equal(dataset[1, position].image, samples[position].image)
        for epoch in (2, 3):
            item = dataset[epoch, position]
            np.testing.assert_array_equal(item.image, samples[position].image)
            np.testing.assert_array_equal(item.instances.xyxy, samples[position].instances.xyxy)


# ----------------------------------------------------------------------------------------------------------- HSV


def test_hsv_with_zero_gains_gives_the_same_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    sample = sample_of(noise, np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    same = effects.apply_effects(sample, Hyp(**OFF), NamedGenerators(0, Stream.SAMPLE)).image
    np.testing.assert_array_equal(same, noise)


def test_each_hsv_key_moves_its_own_channel():
    image = np.full((2, 2, 3), (160, 96, 64), np.uint8)  # hue 20 of 180, saturation 153, value 160
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0].astype(int)
    for channel, (key, gain) in enumerate((("hsv_h", 0.3), ("hsv_s", 0.4), ("hsv_v", 0.4))):
        seen = []
        for seed in range(60):
            gains = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, key: gain}
            changed, _ = effects.hsv(image, NO_OBJECTS, np.random.default_rng(seed), **gains)
            seen.append(cv2.cvtColor(changed, cv2.COLOR_RGB2HSV)[0, 0].astype(int))
        reached = np.abs(np.array(seen) - hsv).max(axis=0)
        assert 0.7 * gain * hsv[channel] < reached[channel] <= gain * hsv[channel] + 2
        assert max(np.delete(reached, channel)) <= 3  # rounding


# ----------------------------------------------------------------------------------------------------- the filter


def worth(box: tuple[float, ...], share: float = 1.0) -> bool:
    sample = sample_of(np.zeros((4, 4, 3), np.uint8), np.zeros(1, int), np.array([box], float), np.array([share]))
    return bool(augment.worth_learning(sample.instances)[0])


def test_filter_by_hand():
    assert worth((0, 0, 2.1, 2.1)) and not worth((0, 0, 2, 50)) and not worth((0, 0, 50, 2))
    assert worth((0, 0, 290, 3)) and not worth((0, 0, 310, 3)) and not worth((0, 0, 3, 310))
    assert worth((0, 0, 50, 50), 0.11) and not worth((0, 0, 50, 50), 0.1)
    assert not worth((5, 5, 5, 5), 0.0) and not worth((np.nan,) * 4)


def test_a_mosaic_sliver_is_measured_against_the_whole_object():
    """An object 100 wide of which the canvas shows 5 columns: 5 % of it, dropped; with 20 columns it stays."""
    seed = next(s for s in range(500) if np.random.default_rng(s).integers(50, 150, 2, endpoint=True)[0] == 60)
    background = sample_of(np.zeros((100, 100, 3), np.uint8), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    for visible, is_kept in ((5, False), (20, True)):
        # The second picture begins at x = 60 and is 200 wide: the canvas of 200 ends at its column 140.
        wide = rectangle_sample(0, 40, 300, (140 - visible, 10, 240 - visible, 30))
        made = augment.mosaic([background, wide, background, background], 100, np.random.default_rng(seed))
        assert made.instances.xyxy[0, 2] - made.instances.xyxy[0, 0] == visible
        assert made.instances.share[0] == pytest.approx(visible / 100)
        # Zooming in later makes the sliver large, and no more of the object is seen.
        zoomed = augment.warp(made, np.array([[3, 0, -300], [0, 1, 0], [0, 0, 1.0]]), 300)
        assert zoomed.instances.xyxy[0, 2] - zoomed.instances.xyxy[0, 0] == pytest.approx(3 * visible)
        assert augment.worth_learning(zoomed.instances).tolist() == [is_kept]


def test_shares_multiply_where_a_box_is_cut_twice():
    """40 % of the width left by the tile, and half of that by the window: 20 %."""
    sample = sample_of(
        np.zeros((100, 100, 4), np.uint8), np.zeros(1, int), np.array([[60.0, 0, 100, 50]]), np.array([0.4])
    )
    assert augment.warp(sample, np.eye(3), 80).instances.share.tolist() == pytest.approx([0.2])


def test_what_a_tile_hides_wholly_does_not_come_back_by_turning():
    """Its box is a line of no area at the tile's edge: turned, the box around the line has an area again."""
    xyxy, share = np.array([[40.0, 10, 40, 70], [30, 10, 32, 70]]), np.array([0.0, 0.04])
    sample = sample_of(np.zeros((80, 80, 4), np.uint8), np.zeros(2, int), xyxy, share)
    turn = np.eye(3)
    turn[:2] = cv2.getRotationMatrix2D((40, 40), 45, 1)
    turned = augment.warp(sample, turn, 80)
    assert np.all(turned.instances.xyxy[:, 2:] - turned.instances.xyxy[:, :2] > 20)
    assert augment.worth_learning(turned.instances).tolist() == [False, False]


# --------------------------------------------------------------------------------------------------------- purity


def test_samples_do_not_change_what_they_are_made_of(tmp_path):
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path in paths:
        assert cv2.imwrite(path, rng.integers(0, 256, (48, 64, 3)).astype(np.uint8))
    boxes = np.sort(rng.uniform(0, 1, (8, 2, 2)), axis=1).reshape(8, 4) * (64, 48, 64, 48)
    index = DatasetIndex(
        names=("cat",),
        paths=np.array([path.encode() for path in paths]),
        size=np.array([[48, 64]] * 4),
        first=np.arange(5) * 2,
        label=np.zeros(8, np.int64),
        **boxes_only(boxes.copy()),
        image_id=np.arange(4),
        category_id=np.arange(1),
        problems=(),
    )
    hyp = Hyp(degrees=10.0, shear=5.0, perspective=0.001, flipud=0.5, mosaic=0.5, mixup=0.5)
    store = ImageStore(index, 64, "ram", False)
    dataset = TrainingSet(index, store, 64, hyp, seed=0, mosaic_epochs=20)
    pixels = [store[position].copy() for position in range(4)]
    for epoch in range(25):
        for position in range(4):
            image = dataset[epoch, position].image
            assert not any(np.shares_memory(image, store[other]) for other in range(4))
            image[:] = 0  # what the caller does with a sample is of no consequence
    for position in range(4):
        np.testing.assert_array_equal(store[position], pixels[position])
    np.testing.assert_array_equal(index.xyxy, boxes)


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    rng = np.random.default_rng(2)
    samples = [random_sample(label, 64, rng) for label in range(4)]
    first, again = (training_set(samples, 64, Hyp()) for _ in range(2))
    again[3, 1], again[0, 0]  # what was asked for before does not matter
    np.testing.assert_array_equal(first[1, 2].image, again[1, 2].image)
    np.testing.assert_array_equal(first[1, 2].instances.xyxy, again[1, 2].instances.xyxy)
    others = [first[2, 2], first[1, 3], TrainingSet(first.index, first.store, 64, Hyp(), 1, 1000)[1, 2]]
    assert not any(np.array_equal(first[1, 2].image, other.image) for other in others)
