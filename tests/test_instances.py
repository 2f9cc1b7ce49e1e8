"""Instances: boxes and outlines go where a matrix sends them and end where a rectangle ends."""

import cv2
import numpy as np
import pytest
from test_augment import COLOURS, OFF, RECIPES, Drawn, pixel_mask, sample_of
from test_coco_ap import slow_iou

from yolo_lite.config.hyp import Hyp
from yolo_lite.data.augment import box_of, copy_paste
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.instances import Instances, Sample, scale_matrix, shift_matrix
from yolo_lite.data.masks import join_rings, mask_of, rings_of
from yolo_lite.data.outlines import Outlines, Ring


def star(x: float, y: float, radius: float, points: int = 5) -> Ring:
    """A polygon with dents."""
    angle = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2, 0.5, 1.0) * radius
    return np.stack((x + radii * np.cos(angle), y + radii * np.sin(angle)), axis=1)


def random_instances(rng: np.random.Generator, count: int, with_outlines: bool = True) -> Instances:
    """Objects of 0 to 2 stars each, in an image of 100 x 100."""
    own = [[star(*rng.uniform(20, 80, 2), rng.uniform(5, 20)) for _ in range(rng.integers(3))] for _ in range(count)]
    corners = np.sort(rng.uniform(0, 100, (count, 2, 2)), axis=1).reshape(count, 4)
    outlines = Outlines.pack(own) if with_outlines else None
    return Instances(rng.integers(9, size=count), corners, rng.uniform(0, 1, count), outlines)


def rows_of(instances: Instances) -> list[tuple]:
    """The objects one by one, as plain values."""
    rings = [[ring.tolist() for ring in instances.outlines.of(row)] for row in range(len(instances))]
    columns = (instances.label, instances.xyxy, instances.share)
    return list(zip(*(column.tolist() for column in columns), rings, strict=True))


# ------------------------------------------------------------------------------------------------ choosing and joining


@pytest.mark.parametrize("seed", range(5))
def test_select_picks_rows_by_index_and_by_mask(seed):
    rng = np.random.default_rng(seed)
    instances = random_instances(rng, 6)
    order, mask = rng.permutation(6)[:4], rng.random(6) < 0.5
    rows = rows_of(instances)
    assert rows_of(instances.select(order)) == [rows[row] for row in order]
    assert rows_of(instances.select(mask)) == [rows[row] for row in np.flatnonzero(mask)]
    assert rows_of(instances.select(np.zeros(6, bool))) == []
    assert len(instances.select(mask)) == mask.sum()


@pytest.mark.parametrize("seed", range(5))
def test_concat_puts_parts_behind_each_other(seed):
    rng = np.random.default_rng(seed)
    parts = [random_instances(rng, count) for count in (3, 0, 2, 1)]
    assert rows_of(Instances.concat(parts)) == [row for part in parts for row in rows_of(part)]


def test_outlines_are_absent_where_a_part_has_none():
    rng = np.random.default_rng(0)
    with_outlines, without = random_instances(rng, 2), random_instances(rng, 2, with_outlines=False)
    for whole in (without, Instances.concat([with_outlines, without])):
        assert whole.outlines is None
        assert whole.select(np.array([1])).warped(shift_matrix(1, 2)).clipped((0, 0), (9, 9)).outlines is None


# -------------------------------------------------------------------------------------------------------------- warped


def warped_slowly(point: list[float], matrix: np.ndarray) -> list[float]:
    x, y, w = matrix @ [*point, 1.0]
    return [x / w, y / w] if w > 0 else [np.nan, np.nan]


@pytest.mark.parametrize("seed", range(8))
def test_warped_by_a_slow_loop_over_corners(seed):
    """Perspective too; from seed 4 on so strong that it puts corners behind the viewer."""
    rng = np.random.default_rng(seed)
    instances, matrix = random_instances(rng, 5), np.eye(3)
    matrix[:2] += rng.uniform(-0.5, 0.5, (2, 3)) * (1, 1, 50)
    matrix[2, :2] = rng.uniform(-0.002, 0.002, 2) if seed < 4 else (-0.02, 0.001)
    got = instances.warped(matrix)
    for row, (x1, y1, x2, y2) in enumerate(instances.xyxy):
        corners = np.array([warped_slowly(corner, matrix) for corner in ([x1, y1], [x2, y1], [x2, y2], [x1, y2])])
        np.testing.assert_allclose(got.xyxy[row], [*corners.min(axis=0), *corners.max(axis=0)])
        for ring, before in zip(got.outlines.of(row), instances.outlines.of(row), strict=True):
            np.testing.assert_allclose(ring, [warped_slowly(corner, matrix) for corner in before])
    assert np.isnan(got.xyxy).any() == (seed >= 4)
    assert got.label is instances.label and got.share is instances.share


def test_shifts_and_mirrors_are_exact():
    """To the bit what adding and subtracting gives: a matrix costs no rounding of its own."""
    instances = random_instances(np.random.default_rng(0), 50)
    shifted, mirrored = instances.warped(shift_matrix(13, -7)), instances.warped(scale_matrix(-1, -1, 101, 77))
    scaled = instances.warped(scale_matrix(1 / 3, 0.7))
    np.testing.assert_array_equal(shifted.xyxy, instances.xyxy + (13, -7, 13, -7))
    np.testing.assert_array_equal(shifted.outlines.corner, instances.outlines.corner + (13, -7))
    np.testing.assert_array_equal(mirrored.xyxy, (101, 77, 101, 77) - instances.xyxy[:, [2, 3, 0, 1]])
    np.testing.assert_array_equal(mirrored.outlines.corner, (101, 77) - instances.outlines.corner)
    np.testing.assert_array_equal(scaled.xyxy, instances.xyxy * (1 / 3, 0.7, 1 / 3, 0.7))
    one_way = instances.warped(scale_matrix(-1, 1, 101, 0))
    np.testing.assert_array_equal(one_way.xyxy[:, [1, 3]], instances.xyxy[:, [1, 3]])


# ------------------------------------------------------------------------------------------------------------- clipped


@pytest.mark.parametrize("seed", range(5))
def test_clipped_boxes_and_shares_by_hand(seed):
    instances = random_instances(np.random.default_rng(seed), 6, with_outlines=False)
    low, high = (20, 35), (60, 80)
    got = instances.clipped(low, high)
    for row, (x1, y1, x2, y2) in enumerate(instances.xyxy):
        left, right = (min(max(x, low[0]), high[0]) for x in (x1, x2))
        top, bottom = (min(max(y, low[1]), high[1]) for y in (y1, y2))
        assert got.xyxy[row].tolist() == [left, top, right, bottom]
        kept = (right - left) * (bottom - top) / ((x2 - x1) * (y2 - y1))
        assert got.share[row] == pytest.approx(instances.share[row] * kept)


@pytest.mark.parametrize("seed", range(20))
def test_a_clipped_outline_is_the_part_of_its_mask_within_the_rectangle(seed):
    rng = np.random.default_rng(seed)
    outlines = Outlines.pack([[star(*rng.uniform(0, 100, 2), 35), star(50, 50, 20)], [], [star(500, 500, 9)]])
    low, high = (20, 30), (70, 80)
    clipped = outlines.clipped(low, high)
    inside = np.zeros((100, 100), np.uint8)
    inside[30:80, 20:70] = 1
    got, expected = mask_of(clipped.of(0), (100, 100)), mask_of(outlines.of(0), (100, 100)) & inside
    edges = (cv2.morphologyEx(one, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0 for one in (expected, inside))
    border = np.logical_or(*edges)  # of the part, and of the rectangle, along which parts are joined
    assert expected.any() and np.array_equal(got[~border], expected[~border])
    assert (clipped.corner >= low).all() and (clipped.corner <= high).all()
    assert clipped.of(1) == [] and [ring.tolist() for ring in clipped.of(2)] == [[]]
    assert not mask_of(clipped.of(2), (100, 100)).any()


def test_clipping_keeps_the_area_by_the_formula_of_gauss():
    """A diamond of radius 10 that loses its right quarter: 200 square pixels less 25."""
    diamond = np.array([[10.0, 0], [20, 10], [10, 20], [0, 10]])
    [ring] = Outlines.pack([[diamond]]).clipped((0, 0), (15, 20)).of(0)
    x, y = ring.T
    assert abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(175)
    assert {tuple(corner) for corner in ring} == {(10, 0), (15, 5), (15, 15), (10, 20), (0, 10)}


# -------------------------------------------------------------------------------------------------------- warped_onto


def turn_about(x: float, y: float, angle: float) -> np.ndarray:
    return np.vstack((cv2.getRotationMatrix2D((x, y), angle, 1), (0, 0, 1)))


def test_a_turned_box_is_cut_before_its_box_is_drawn():
    """A square on its corner of which the left edge leaves a triangle, 5 wide and 10 high: 25 of 200 square pixels."""
    side = 200**0.5
    square = np.array([[-5 - side / 2, 50 - side / 2, -5 + side / 2, 50 + side / 2]])
    outlined = Outlines.pack([[square[0, [[0, 1], [2, 1], [2, 3], [0, 3]]]]])
    for outlines in (None, Outlines.pack([[]]), outlined):
        instances = Instances(np.zeros(1, int), square, np.full(1, 0.5), outlines)
        got = instances.warped_onto(turn_about(-5, 50, 45), (100, 100))
        np.testing.assert_allclose(got.xyxy, [[0, 45, 5, 55]], atol=1e-12)
        assert got.share == pytest.approx([0.5 / 8])
    assert got.outlines.area == pytest.approx([25])


def test_the_box_of_a_polygon_is_that_of_what_is_left_of_it():
    """A triangle with its right angle at 10, 10 and sides of 20 loses what lies left of 20: 50 of 200 stay."""
    triangle = np.array([[10.0, 10], [30, 10], [10, 30]])
    instances = Instances(np.zeros(1, int), np.array([[10.0, 10, 30, 30]]), np.ones(1), Outlines.pack([[triangle]]))
    got = instances.clipped((20, 0), (99, 99))
    assert got.xyxy.tolist() == [[20, 10, 30, 20]] and got.share.tolist() == [0.25]
    gone = instances.clipped((40, 0), (99, 99)).clipped((0, 0), (99, 99))
    assert gone.share.tolist() == [0] and not gone.xyxy.any() and not len(gone.outlines.corner)


def test_an_outline_without_an_area_counts_as_none():
    """A polygon whose corners lie on a line would leave its object no share."""
    line = np.array([[10.0, 10], [20, 20], [30, 30]])
    box = np.array([[10.0, 10, 30, 30]])
    instances = Instances(np.zeros(1, int), box, np.ones(1), Outlines.pack([[line]]))
    got = instances.warped_onto(np.eye(3), (20, 40))
    assert got.xyxy.tolist() == [[10, 10, 20, 30]] and got.share.tolist() == [0.5] and got.outlines.of(0) == []


def test_an_outline_that_is_not_of_its_box_is_not_believed():
    """Some files have a placeholder there, or points of another scale: the box is what is learnt."""
    box = np.array([[20.0, 20, 60, 60]])
    square = box[0, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    for ring, is_kept in ((square, True), (square + 5, True), (square * 0.5 + 20, False), (square / 100, False)):
        for rings in ([ring], [ring[:2], ring]):
            got = Outlines.pack([rings]).within(box, (100, 100)).of(0)
            assert len(got) == (len(rings) if is_kept else 0)
    [ring] = Outlines.pack([[square]]).within(box, (50, 100)).of(0)  # what lies outside the image is not there
    assert ring.max(axis=0).tolist() == [50, 60]
    assert Outlines.pack([[]]).within(box, (100, 100)).of(0) == []


@pytest.mark.parametrize("seed", range(20))
def test_warped_onto_by_a_slow_loop_over_points_of_the_objects(seed):
    """Each of 90,000 points goes its own way; perspective too, from seed 10 on behind the viewer."""
    rng = np.random.default_rng(seed)
    instances = random_instances(rng, 8, with_outlines=False)
    matrix = turn_about(0, 0, rng.uniform(-180, 180)) + rng.uniform(-0.3, 0.3, (3, 3)) * ((1,), (1,), (0,))
    matrix[2, :2] = rng.uniform(-0.002, 0.002, 2) if seed < 10 else (-0.02, 0.02)
    matrix = shift_matrix(20, 30) @ matrix @ shift_matrix(-50, -50)
    got, shares = instances.warped_onto(matrix, (100, 80)), []
    for row, (x1, y1, x2, y2) in enumerate(instances.xyxy):
        x, y = np.meshgrid(np.linspace(x1, x2, 300), np.linspace(y1, y2, 300))
        u, v, w = matrix @ (x.ravel(), y.ravel(), np.ones(x.size))
        seen = (w > 0) & (u >= 0) & (u <= 100 * w) & (v >= 0) & (v <= 80 * w)
        shares.append(seen.mean())
        if seen.mean() > 0.02:
            points = (u / np.where(seen, w, 1))[seen], (v / np.where(seen, w, 1))[seen]
            box = [axis.min() for axis in points] + [axis.max() for axis in points]
            np.testing.assert_allclose(got.xyxy[row], box, atol=2.5 if seed < 10 else 6)
    np.testing.assert_allclose(got.share, instances.share * shares, atol=0.01)
    assert max(shares) > 0.02 and min(shares) < 0.9


@pytest.mark.parametrize("seed", range(5))
def test_what_stays_upright_keeps_its_bits(seed):
    """Without outlines: shifts, zooms and mirrors give what moving and then cutting the boxes gives."""
    rng = np.random.default_rng(seed)
    instances, matrix = random_instances(rng, 9, with_outlines=False), scale_matrix(*rng.uniform(-2, 2, 2), 40, 30)
    moved, got = instances.warped(matrix).clipped((0, 0), (90, 60)), instances.warped_onto(matrix, (90, 60))
    assert (got.xyxy.tobytes(), got.share.tobytes()) == (moved.xyxy.tobytes(), moved.share.tobytes())
    by_outline = instances._cut(matrix, (0, 0), (90, 60))
    np.testing.assert_allclose(by_outline.share, got.share, atol=1e-12)
    kept = got.share > 0
    np.testing.assert_allclose(by_outline.xyxy[kept], got.xyxy[kept], atol=1e-9)


# ------------------------------------------------------------------------------------------------------------- outlines


@pytest.mark.parametrize("seed", range(10))
def test_rings_of_a_mask_give_the_mask_again(seed):
    rng = np.random.default_rng(seed)
    mask = mask_of([star(*rng.uniform(20, 80, 2), 18) for _ in range(4)], (100, 100))
    mask[5, 5] = 1  # a part of a single pixel
    assert np.array_equal(mask_of(rings_of(mask), mask.shape), mask)


def test_a_ring_leads_round_the_holes_of_its_part():
    mask = mask_of([star(50, 50, 45)], (100, 100))
    mask[40:50, 40:46] = mask[55:60, 55:65] = 0
    got = mask_of(rings_of(mask), mask.shape)
    assert len(rings_of(mask)) == 1
    assert np.array_equal(got, mask)


def test_joined_rings_have_the_mask_of_all():
    rings = [star(25, 25, 20), star(70, 30, 18), star(50, 75, 20)]
    joined, apart = mask_of([join_rings(rings)], (100, 100)), mask_of(rings, (100, 100))
    assert np.array_equal(joined, apart)


# ------------------------------------------------------------------------- outlines through the whole of augmentation


class Outlined(Drawn):
    """Images with a star in the colour of their class, and its outline."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        stars = [star(*rng.uniform(0.35, 0.65, 2) * size, 0.33 * size) for _ in COLOURS]
        super().__init__([self.drawn(size, label, ring) for label, ring in enumerate(stars)])
        self.outlines = Outlines.pack([[ring] for ring in stars])

    @staticmethod
    def drawn(size: int, label: int, ring: Ring) -> Sample:
        image = np.zeros((size, size, 3), np.uint8)
        image[mask_of([ring], image.shape) > 0] = COLOURS[label]
        box = np.array([[*ring.min(axis=0), *ring.max(axis=0)]])
        return sample_of(image, np.array([label]), box, np.ones(1))

    def rows(self, position: int) -> np.ndarray:
        return np.array([position])


@pytest.mark.parametrize("name", [*RECIPES, "copy_paste"])
def test_outlines_go_where_the_pixels_go(name):
    """Through mosaic, warp and flips, and under what copy-paste puts on them: their masks are those of the colours."""
    size, drawn = 96, Outlined(96, np.random.default_rng(0))
    recipe = RECIPES.get(name, {"mosaic": 0.5, "scale": 0.4, "degrees": 10.0, "fliplr": 0.5, "copy_paste": 0.7})
    dataset = TrainingSet(drawn, drawn, size, Hyp(**{**OFF, **recipe}), 0, 99, with_outlines=True)
    checked, errors = 0, 0
    for epoch in range(8):
        for position in range(len(drawn)):
            drawn.asked.clear()
            image, instances = dataset[epoch, position][:2]
            # Of two objects of a colour one may be left out, as too little of it is seen.
            for label in {label for label in instances.label.tolist() if drawn.asked.count(label) == 1}:
                rows = np.flatnonzero(instances.label == label)
                rings = [ring for row in rows for ring in instances.outlines.of(row)]
                got, expected = mask_of(rings, image.shape) > 0, pixel_mask(image, label)
                if expected.sum() > 300:
                    checked += 1
                    assert (got & expected).sum() / (got | expected).sum() > 0.8, (epoch, position, label)
                    errors += got.sum() / expected.sum() - 1
    assert checked > 30 and abs(errors / checked) < 0.1


TURNED = {
    "degrees": {"degrees": 20.0, "translate": 0.4},
    "shear": {"shear": 15.0, "translate": 0.4},
    "perspective": {"perspective": 0.0008, "translate": 0.4},
    "mosaic": {"degrees": 20.0, "mosaic": 1.0, "scale": 0.5, "fliplr": 0.5},
    "all": {"degrees": 20.0, "shear": 10.0, "perspective": 0.0005, "mosaic": 0.5, "scale": 0.5, "flipud": 0.5},
}


def in_channels(size: int, rng: np.random.Generator, with_stars: bool) -> Outlined:
    """Four images with a rectangle or a star each, every one in a channel of its own, so that no colours mix."""
    drawn = Outlined(size, rng)
    drawn.samples, drawn.channels, drawn.size = drawn.samples[:4], 4, drawn.size[:4]
    for label, (_, instances) in enumerate(drawn.samples):
        mask = mask_of(drawn.outlines.of(label), (size, size))
        if not with_stars:
            mask[:] = 0
            (left, right), (top, bottom) = np.sort(rng.integers(32, size - 32, (2, 2)), axis=1) + (0, 16)
            mask[top:bottom, left:right], instances.xyxy[0] = 1, (left, top, right, bottom)
        image = np.zeros((size, size, 4), np.uint8)
        image[..., label] = 255 * mask
        drawn.samples[label] = Sample(image, instances)
    drawn.outlines = drawn.outlines if with_stars else None
    return drawn


@pytest.mark.parametrize("with_stars", [False, True], ids=["rectangles", "polygons"])
@pytest.mark.parametrize("name", TURNED)
def test_boxes_of_turned_objects_are_those_of_their_pixels(name, with_stars):
    """Also where the edge of the image or of a tile cuts them: IoU .99 in the mean."""
    size, overlaps = 512, []
    drawn = in_channels(size, np.random.default_rng(3), with_stars)
    dataset = TrainingSet(drawn, drawn, size, Hyp(**{**OFF, **TURNED[name]}), 0, 99)
    for key in np.ndindex(12, 4):
        drawn.asked.clear()
        image, instances = dataset[key][:2]
        assert instances.outlines is None
        for label in {label for label in drawn.asked if drawn.asked.count(label) == 1}:
            mask, boxes = (image[..., label] >= 128).astype(np.uint8), instances.xyxy[instances.label == label]
            assert len(boxes) or mask.sum() < 0.11 * 1.5**2 * (drawn.samples[label].image > 0).sum()
            for box in boxes:
                overlaps.append(slow_iou(box, box_of(mask)))
    assert len(overlaps) > 35 and np.mean(overlaps) > 0.99 and np.min(overlaps) > 0.9


def test_what_is_pasted_comes_with_its_outline():
    rng = np.random.default_rng(0)
    pair = Outlined(96, rng)
    host, donor = (
        Sample(pair.samples[row].image, Instances(*vars_of(pair.samples[row]), pair.outlines.select(np.array([row]))))
        for row in (0, 1)
    )
    hidden = 0
    for seed in range(40):
        made = copy_paste(host, donor, np.random.default_rng(seed))
        for row, label in enumerate(made.instances.label):
            mask, expected = mask_of(made.instances.outlines.of(row), (96, 96)) > 0, pixel_mask(made.image, int(label))
            assert (mask != expected).sum() < 0.1 * max(expected.sum(), 200)
            hidden += label == 0 and expected.sum() < 0.9 * pixel_mask(host.image, 0).sum()
    assert hidden > 5


def vars_of(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return sample.instances.label, sample.instances.xyxy, sample.instances.share
