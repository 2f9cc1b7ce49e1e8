"""Effects and copy-paste: off they change no bit, boxes and shares go with what is seen, all is a pure function."""

import dataclasses
import os

import cv2
import numpy as np
import pytest
import torch
import yaml
from test_augment import COLOURS, NO_OBJECTS, OFF, Drawn, random_sample, rectangle_sample, sample_of, training_set

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.data import effects
from yolo_lite.data.augment import box_of, copy_paste, worth_learning
from yolo_lite.data.dataset import DatasetItem, TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.instances import Sample
from yolo_lite.data.letterbox import GREY
from yolo_lite.data.loader import training_loader
from yolo_lite.data.masks import mask_of
from yolo_lite.data.outlines import Outlines, Ring
from yolo_lite.data.store import CAN_FORK, ImageStore
from yolo_lite.engine.seams import SEAMS
from yolo_lite.ops.streams import NamedGenerators, Stream

EFFECTS = ("grayscale", "blur", "jpeg", "erasing")


def noise(height: int = 40, width: int = 60, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def equal(first: DatasetItem, second: DatasetItem) -> bool:
    pairs = [(first.image, second.image)]
    pairs += [(getattr(first.instances, name), getattr(second.instances, name)) for name in ("label", "xyxy")]
    return all(np.array_equal(a, b) for a, b in pairs)


def outlined(sample: Sample, outlines: list[list[Ring]]) -> Sample:
    return Sample(sample.image, dataclasses.replace(sample.instances, outlines=Outlines.pack(outlines)))


# ----------------------------------------------------------------------------------------------------- on and off


@pytest.mark.parametrize("key", EFFECTS)
def test_an_effect_that_does_not_strike_changes_no_bit(key):
    """Where it strikes, the objects stay as they were; elsewhere the image does too."""
    rng = np.random.default_rng(0)
    samples = [random_sample(label, 64, rng) for label in range(4)]
    plain, other = training_set(samples, 64, Hyp(mixup=0.5)), training_set(samples, 64, Hyp(mixup=0.5, **{key: 0.5}))
    struck = 0
    for epoch in range(15):
        for position in range(4):
            before, after = plain[epoch, position], other[epoch, position]
            if np.array_equal(before.image, after.image):
                assert equal(before, after)
            else:
                struck += 1
            if key != "erasing":
                np.testing.assert_array_equal(before.instances.xyxy, after.instances.xyxy)
    assert 18 <= struck <= 42


def test_effects_do_not_depend_on_each_other():
    """JPEG noise strikes the same images with the same strength, whether blur is on or not."""
    image = noise()
    sample = sample_of(image, np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    for seed in range(20):
        alone = effects.apply_effects(sample, Hyp(jpeg=0.5), NamedGenerators(seed, Stream.SAMPLE)).image
        other = effects.apply_effects(sample, Hyp(jpeg=0.5, blur=1e-9), NamedGenerators(seed, Stream.SAMPLE)).image
        np.testing.assert_array_equal(alone, other)


# -------------------------------------------------------------------------------------------------- single effects


def test_grayscale_leaves_the_luminance_in_all_channels():
    image, rng = noise(), np.random.default_rng(0)
    grey, _ = effects.grayscale(image, NO_OBJECTS, rng)
    expected = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected[..., None]).max() <= 1
    four = noise(channels=4)
    np.testing.assert_array_equal(effects.grayscale(four, NO_OBJECTS, rng)[0], four)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_blur_averages_over_neighbours_and_keeps_the_mean(channels):
    image, rng = noise(80, 80, channels), np.random.default_rng(0)
    blurred, _ = effects.blur(image, NO_OBJECTS, rng)
    assert blurred.shape == image.shape and blurred.dtype == np.uint8
    assert abs(blurred.mean() - image.mean()) < 1 and blurred.std() < 0.7 * image.std()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_jpeg_noise_is_the_larger_the_lower_the_quality(channels):
    smooth = cv2.GaussianBlur(noise(64, 64, channels), (0, 0), 3).reshape(64, 64, channels)
    errors = [np.abs(effects.jpeg_noise(smooth, q).astype(int) - smooth).mean() for q in (20, 60, 90)]
    assert errors[0] > errors[1] > errors[2] > 0 and errors[0] < 20


def test_jpeg_keeps_the_order_of_the_colours():
    image = np.full((32, 32, 3), (200, 60, 20), np.uint8)
    assert np.abs(effects.jpeg_noise(image, 90).astype(int) - image).max() < 8


def test_erasing_by_a_slow_count_of_pixels():
    """Grey from 2 to 33 % of the image in one rectangle; each share is that of the pixels still seen."""
    white = sample_of(
        np.full((60, 80, 3), 255, np.uint8),
        np.arange(3),
        np.array([[0.0, 0, 80, 60], [10, 5, 30, 25], [50, 40, 70, 60]]),
        np.array([1.0, 0.8, 0.5]),
    )
    dropped = 0
    for seed in range(200):
        erased = Sample(*effects.erasing(*white, np.random.default_rng(seed)))
        grey = (erased.image == GREY).all(axis=2)
        left, top, right, bottom = box_of(grey.astype(np.uint8))
        assert grey[top:bottom, left:right].all() and 0.01 <= grey.mean() <= 0.34
        for (x1, y1, x2, y2), share, before in zip(
            white.instances.xyxy.astype(int), erased.instances.share, white.instances.share, strict=True
        ):
            assert share == pytest.approx(before * (1 - grey[y1:y2, x1:x2].mean()))
        np.testing.assert_array_equal(erased.instances.xyxy, white.instances.xyxy)
        dropped += not worth_learning(erased.instances).all()
    assert dropped > 5 and (white.image == 255).all()


# ------------------------------------------------------------------------------------------------------ copy-paste


def octagon(x: float, y: float, radius: float) -> np.ndarray:
    angle = np.arange(8) * np.pi / 4
    return np.stack((x + radius * np.cos(angle), y + radius * np.sin(angle)), axis=1)


def inside(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Slow reference: pixels whose middles lie in a convex ring."""
    rows, columns = np.indices(shape) + 0.5
    after = np.roll(ring, -1, axis=0)
    turns = [(b[0] - a[0]) * (rows - a[1]) - (b[1] - a[1]) * (columns - a[0]) for a, b in zip(ring, after, strict=True)]
    return np.all([turn >= 0 for turn in turns], axis=0) | np.all([turn <= 0 for turn in turns], axis=0)


def test_a_mask_holds_the_pixels_within_any_of_its_rings():
    rings = [octagon(20, 15, 10), octagon(26, 18, 8), octagon(50, 30, 5)]
    mask, expected = mask_of(rings, (40, 60)), np.any([inside(ring, (40, 60)) for ring in rings], axis=0)
    edge = cv2.morphologyEx(expected.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    assert np.array_equal(mask[~edge], expected[~edge]) and abs(int(mask.sum()) - int(expected.sum())) < 60


def pasted(seed: int, channels: int = 3) -> tuple[Sample, Sample, list, Sample]:
    """A black host with a red octagon and a red box without outline, a donor of octagons in other colours."""
    host = sample_of(np.zeros((60, 80, 3), np.uint8), np.array([0, 0]), np.zeros((2, 4)), np.array([1.0, 0.5]))
    rings = [[octagon(25, 30, 15)], []]
    masks = [mask_of(rings[0], (60, 80)), np.zeros((60, 80), np.uint8)]
    masks[1][10:50, 55:75] = 1
    for mask in masks:
        host.image[mask > 0] = COLOURS[0]
    host.instances.xyxy[:] = [box_of(mask) for mask in masks]
    donor = sample_of(np.zeros((50, 70, 3), np.uint8), np.arange(1, 5), np.zeros((4, 4)), np.ones(4))
    donor_rings = [[octagon(12 + 30 * (n % 2), 12 + 25 * (n // 2), 11)] for n in range(3)] + [[]]
    for label, own in enumerate(donor_rings[:3], 1):
        donor.image[mask_of(own, (50, 70)) > 0] = COLOURS[label]
    if channels != 3:
        host, donor = (s._replace(image=np.dstack([s.image] * 2)[..., :channels]) for s in (host, donor))
    made = copy_paste(outlined(host, rings), outlined(donor, donor_rings), np.random.default_rng(seed))
    return host, donor, masks, made


def test_a_pasted_objects_box_is_the_box_of_its_mask():
    checked, biases = 0, []
    for seed in range(60):
        host, _, _, made = pasted(seed)
        for label, box, share in zip(
            made.instances.label[2:], made.instances.xyxy[2:], made.instances.share[2:], strict=True
        ):
            assert label in (1, 2, 3)  # what has no outline is not pasted
            seen = (np.abs(made.image.astype(int) - COLOURS[label]) < 100).all(axis=2)
            np.testing.assert_allclose(box, box_of(seen.astype(np.uint8)), atol=1.01)
            biases.append(box - box_of(seen.astype(np.uint8)))
            is_whole = box[:2].min() > 0 and box[2] < 80 and box[3] < 60
            assert 0.85 < share <= 1 if is_whole else 0 < share <= 1
            checked += 1
        assert host.instances.xyxy.shape == (2, 4) and not host.image[..., 1].any()  # the argument is left as it is
    assert checked > 50 and np.abs(np.mean(biases, axis=0)).max() < 0.5


def test_what_is_pasted_over_loses_its_share_and_the_end_of_its_box():
    hidden = 0
    for seed in range(60):
        host, _, masks, made = pasted(seed)
        is_red = (np.abs(made.image.astype(int) - COLOURS[0]) < 100).all(axis=2)
        for row, mask in enumerate(masks):
            seen = is_red & (mask > 0)
            before = host.instances.share[row]
            assert made.instances.share[row] == pytest.approx(before * seen.sum() / mask.sum(), abs=0.12 * before)
            if made.instances.share[row] == before:
                np.testing.assert_array_equal(made.instances.xyxy[row], host.instances.xyxy[row])
            elif seen.any() and made.instances.share[row] > 0:
                hidden += 1
                np.testing.assert_allclose(made.instances.xyxy[row], box_of(seen.astype(np.uint8)), atol=2)
    assert hidden > 20


def test_what_is_wholly_hidden_is_dropped():
    host = rectangle_sample(0, 40, 40, (18, 18, 22, 22))
    donor = rectangle_sample(1, 40, 40, (0, 0, 40, 40))
    square = np.array([[0.0, 0], [40, 0], [40, 40], [0, 40]])
    gone = 0
    for seed in range(30):
        made = copy_paste(outlined(host, [[]]), outlined(donor, [[square]]), np.random.default_rng(seed))
        if len(made.instances.label) == 2 and not (made.image == COLOURS[0]).all(axis=2).any():
            gone += 1
            assert made.instances.share[0] < 0.1 and worth_learning(made.instances).tolist() == [False, True]
    assert gone > 3


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_copy_paste_takes_any_number_of_channels(channels):
    for seed in range(5):
        host, _, _, made = pasted(seed, channels)
        expected = pasted(seed)[-1]
        assert made.image.shape == host.image.shape
        np.testing.assert_array_equal(made.image[..., 0], expected.image[..., 0])
        np.testing.assert_array_equal(made.instances.xyxy, expected.instances.xyxy)


@pytest.fixture(scope="module")
def polygons(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    """Six images of noise with octagons as polygons."""
    root, rng = tmp_path_factory.mktemp("polygons"), np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number in range(6):
        assert cv2.imwrite(str(root / f"images/{number}.png"), noise(48, 64, seed=number))
        rings = [octagon(*rng.uniform(0.3, 0.7, 2), 0.2) for _ in range(2)]
        rows = [f"{n} " + " ".join(f"{value:.4f}" for value in ring.ravel()) + "\n" for n, ring in enumerate(rings)]
        (root / f"labels/{number}.txt").write_text("".join(rows))
    config = DatasetConfig(train=("images",), names=("cat", "dog"))
    return index_split(config, root / "data.yaml", "train", with_outlines=True)


def on_disk(index: DatasetIndex, hyp: Hyp, mosaic_epochs: int = 99, seed: int = 0) -> TrainingSet:
    return TrainingSet(index, ImageStore(index, 64, "off", False), 64, hyp, seed, mosaic_epochs)


def test_copy_paste_comes_as_often_as_asked_and_ends_with_mosaic(polygons):
    chance = Hyp(**OFF, copy_paste=0.5)
    plain, with_paste = on_disk(polygons, Hyp(**OFF)), on_disk(polygons, chance, mosaic_epochs=20)
    changed = [not equal(plain[e, p], with_paste[e, p]) for e in range(20) for p in range(6)]
    assert 0.2 < np.mean(changed) < 0.5  # half the times, and 3 of 4 donors give an object
    assert all(equal(plain[e, p], with_paste[e, p]) for e in range(20, 23) for p in range(6))
    for seed in (0, 1):
        again = on_disk(polygons, Hyp(copy_paste=0.5), seed=seed)
        assert equal(again[3, 2], on_disk(polygons, Hyp(copy_paste=0.5), seed=seed)[3, 2])


def test_outlines_reach_copy_paste_in_the_pixels_of_the_loaded_picture(polygons):
    """At half the size of the file the outlines' boxes are those of the objects."""
    small = TrainingSet(polygons, ImageStore(polygons, 32, "off", False), 32, Hyp(copy_paste=1.0), 0, 99)
    for position in range(6):
        random = NamedGenerators(0, Stream.SAMPLE, 0, position)
        found = small._load(position, True, random).instances
        rings = [ring for row in range(len(found)) for ring in found.outlines.of(row)]
        assert len(rings) == len(found)
        np.testing.assert_allclose([[*ring.min(axis=0), *ring.max(axis=0)] for ring in rings], found.xyxy, atol=0.01)


def test_copy_paste_without_polygons_is_refused():
    drawn = Drawn([rectangle_sample(0, 8, 8, (0, 0, 4, 4))])
    drawn.outlines = None
    with pytest.raises(ConfigError, match="copy_paste: expected labels with polygons, found boxes alone"):
        TrainingSet(drawn, drawn, 64, Hyp(copy_paste=0.1), 0, 9)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ a plugin's own


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dict AUGMENTATIONS with entries of a test."""

    def mirrored(image, label, xyxy, rng):
        return image[:, ::-1], label, (64, 0, 64, 0) + xyxy[:, [2, 1, 0, 3]] * (-1, 1, -1, 1)

    entries = {
        "mirrored": mirrored,
        "shifted": lambda image, label, xyxy, rng: (image, label, xyxy + rng.uniform(0, 30)),
        "emptied": lambda image, label, xyxy, rng: (image, [], []),
        "cropped": lambda image, label, xyxy, rng: (image[:32], label, xyxy),
        "float": lambda image, label, xyxy, rng: (image / 255, label, xyxy),
        "nothing": lambda image, label, xyxy, rng: None,
        "turned": lambda image, instances, rng: effects.fliplr(image, instances, rng),
        "turned_by": lambda image, instances, rng, strength=0.5: effects.fliplr(image, instances, rng),
        "forgotten": lambda image, instances, rng: image,
        "uneven": lambda image, label, xyxy, rng: (image, label[1:], xyxy),
        "moved": lambda image, label, xyxy, rng, *, by=0.0: (image, label, xyxy + by),
        "bent": lambda image, label, xyxy, rng: (image, label, xyxy[:, :3]),
    }
    for name, function in entries.items():
        monkeypatch.setitem(effects.AUGMENTATIONS, name, function)


def test_augmentations_come_last_in_their_order(polygons, known):
    plain = on_disk(polygons, Hyp())
    twice = on_disk(polygons, Hyp(augmentations=("mirrored", "mirrored")))
    once = on_disk(polygons, Hyp(augmentations="mirrored"))
    for position in range(6):
        before, after = plain[0, position], once[0, position]
        np.testing.assert_array_equal(after.image, before.image[:, ::-1])
        np.testing.assert_allclose(after.instances.xyxy[:, 0], 64 - before.instances.xyxy[:, 2])
        np.testing.assert_array_equal(twice[0, position].image, before.image)
        np.testing.assert_allclose(twice[0, position].instances.xyxy, before.instances.xyxy)


def test_what_an_augmentation_pushes_out_is_cut_or_dropped(polygons, known):
    shifted, emptied = (on_disk(polygons, Hyp(augmentations=name)) for name in ("shifted", "emptied"))
    for position in range(6):
        item = shifted[0, position]
        assert item.instances.xyxy.size == 0 or item.instances.xyxy.max() <= 64
        assert equal(item, shifted[0, position]) and len(emptied[0, position].instances.label) == 0


def test_an_augmentation_is_given_its_parameters(polygons, known):
    still, moved = (on_disk(polygons, load_choices(text)) for text in ("moved", "{moved: {by: 2.5}}"))
    for position in range(6):
        before, after = still[0, position].instances.xyxy, moved[0, position].instances.xyxy
        np.testing.assert_allclose(after[:, :2], before[:, :2] + 2.5)
    with pytest.raises(ValueError, match=r"unknown parameter \(nearest: 'by'\)"):
        load_choices("{moved: {bye: 1}}")
    with pytest.raises(ValueError, match="expected a number, found 'far'"):
        load_choices("{moved: {by: far}}")


def load_choices(text: str) -> Hyp:
    """A recipe that only applies the augmentations of the text, which is YAML."""
    plain = {"augmentations": yaml.safe_load(text), "mosaic": 0.0, "scale": 0.0, "translate": 0.0}
    return Hyp.model_validate(plain, context=SEAMS)


@pytest.mark.parametrize("name", ["turned", "turned_by"])
def test_an_augmentation_may_take_instances_with_their_outlines(polygons, known, name):
    """What it returns is what a built-in one would: boxes, shares and outlines mirrored."""
    plain, turned = (
        TrainingSet(polygons, ImageStore(polygons, 64, "off", False), 64, hyp, 0, 99, with_outlines=True)
        for hyp in (Hyp(), Hyp(augmentations=name))
    )
    for position in range(6):
        before, after = plain[0, position], turned[0, position]
        np.testing.assert_array_equal(after.image, before.image[:, ::-1])
        np.testing.assert_array_equal(after.instances.xyxy[:, 0], 64 - before.instances.xyxy[:, 2])
        mirrored = before.instances.outlines.corner * (-1, 1) + (64, 0)
        np.testing.assert_array_equal(after.instances.outlines.corner, mirrored)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forgotten", r"expected \(image, instances\), found ndarray"),
        ("cropped", r"expected an image of uint8 \[64, 64, 3\], found uint8 \[32, 64, 3\]"),
        ("float", r"expected an image of uint8 .*, found float64"),
        ("nothing", r"expected \(image, label, xyxy\), found NoneType"),
        ("uneven", r"expected boxes \[\d, 4\], one for each label, found \[\d, 4\]"),
        ("bent", r"expected boxes \[\d, 4\], one for each label, found \[\d, 3\]"),
    ],
)
def test_what_an_augmentation_gives_is_checked(polygons, known, name, message):
    dataset = on_disk(polygons, Hyp(mosaic=0.0, scale=0.0, translate=0.0, augmentations=name))
    with pytest.raises(ConfigError, match=f"augmentations: {name}: {message}"):
        dataset[0, 0]


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match=r"unknown name 'weather' .*erasing.*"):
        Hyp.model_validate({"augmentations": "weather"}, context=SEAMS)


@pytest.mark.skipif(not CAN_FORK, reason="workers are not forked here")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_albumentations_is_a_pure_function_of_seed_epoch_and_index(polygons, monkeypatch):
    albumentations = pytest.importorskip("albumentations")
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    transforms = [
        albumentations.Affine(translate_percent=(-0.3, 0.3), rotate=(-20, 20), p=0.8),
        albumentations.RandomBrightnessContrast(p=0.5),
        albumentations.HorizontalFlip(p=0.5),
    ]
    monkeypatch.setitem(effects.AUGMENTATIONS, "weather", effects.from_albumentations(transforms))
    hyp = Hyp(mosaic=0.5, augmentations="weather")
    epochs = []
    for workers in (0, 2):
        torch.manual_seed(workers)
        np.random.seed(workers)
        epochs.append(list(training_loader(on_disk(polygons, hyp), 4, workers, range(2), False)))
    for first, second in zip(*epochs, strict=True):
        assert torch.equal(first.images, second.images) and torch.equal(first.objects.box, second.objects.box)
    assert not torch.equal(epochs[0][0].images, epochs[0][2].images)


def test_albumentations_moves_boxes_with_their_pixels():
    albumentations = pytest.importorskip("albumentations")
    flip = effects.from_albumentations([albumentations.HorizontalFlip(p=1.0)])
    sample = rectangle_sample(2, 40, 60, (5, 10, 25, 30))
    image, label, xyxy = flip(sample.image, sample.instances.label, sample.instances.xyxy, np.random.default_rng(0))
    np.testing.assert_array_equal(image, sample.image[:, ::-1])
    np.testing.assert_allclose(xyxy, [[35, 10, 55, 30]], atol=1e-4)
    assert label.tolist() == [2]
    _, label, xyxy = flip(sample.image, label[:0], xyxy[:0], np.random.default_rng(0))
    assert len(label) == len(xyxy) == 0


# ------------------------------------------------------------------------------------------------- many channels


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_every_channel_goes_the_way_of_the_first(channels):
    """Geometry is that of three channels, whatever their number; an image in all channels stays one."""
    rng = np.random.default_rng(3)
    colour = [random_sample(label, 64, rng) for label in range(4)]
    grey = [s._replace(image=np.repeat(s.image[..., :1], 3, axis=2)) for s in colour]
    many = [s._replace(image=np.repeat(s.image[..., :1], channels, axis=2)) for s in colour]
    hyp = Hyp(hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, degrees=5.0, perspective=0.0005, flipud=0.5, mosaic=0.5, mixup=0.5)
    three, other = training_set(grey, 64, hyp), training_set(many, 64, hyp)
    for epoch in range(6):
        for position in range(4):
            expected, item = three[epoch, position], other[epoch, position]
            assert item.image.shape == (64, 64, channels)
            for channel in range(channels):
                difference = item.image[..., channel].astype(int) - expected.image[..., 0]
                assert np.abs(difference).max() <= 8 and np.abs(difference).mean() < 0.1  # OpenCV rounds differently
            np.testing.assert_array_equal(item.instances.xyxy, expected.instances.xyxy)


@pytest.mark.parametrize("channels", [1, 4])
def test_without_three_channels_hsv_v_scales_the_brightness(channels):
    image = np.full((8, 8, channels), 100, np.uint8)
    dataset = training_set(
        [sample_of(image, np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))], 8, Hyp(**{**OFF, "hsv_v": 0.4})
    )
    seen = np.array([np.unique(dataset[epoch, 0].image) for epoch in range(50)])
    assert seen.shape == (50, 1) and 60 <= seen.min() < 70 and 130 < seen.max() <= 140
