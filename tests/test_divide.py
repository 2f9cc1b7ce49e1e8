"""Laws of a split that is made: seeded, every image once, and what belongs together stays together."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.config.errors import DataError
from yolo_lite.tools.divide import MOST_BITS, NEIGHBOURS, Division, clip_of, divide, near_duplicates, read_fingerprints

NO_PRINT = np.zeros((1, 256), bool)


def blank(count: int) -> np.ndarray:
    return np.repeat(NO_PRINT, count, axis=0)


def side_of(division: Division, count: int) -> list[str]:
    """The split of each image; each has exactly one."""
    sides = [""] * count
    for split, images in division.splits.items():
        for image in images:
            assert not sides[image]
            sides[image] = split
    assert all(sides)
    return sides


clips = st.dictionaries(
    st.from_regex(r"[a-h]{2,4}[_ -]?(clip|cam)", fullmatch=True), st.integers(1, 9), min_size=2, max_size=12
)


@given(clips, st.floats(0.05, 0.6), st.integers(0, 5), st.sampled_from(["png", "jpg"]))
def test_frames_of_one_clip_stand_on_one_side(lengths: dict[str, int], share: float, seed: int, suffix: str) -> None:
    names = [f"images/{clip}_{frame:04}.{suffix}" for clip, length in lengths.items() for frame in range(length)]
    division = divide(names, blank(len(names)), {"val": share}, seed)
    sides = side_of(division, len(names))
    for clip in lengths:
        assert len({side for name, side in zip(names, sides, strict=True) if f"/{clip}_0" in name}) == 1
    assert {"train", "val"} == set(sides)
    # No whole clip could be moved to come nearer to what was asked, beyond the size of the largest one.
    assert abs(sides.count("val") - share * len(names)) <= max(lengths.values())
    again = divide(names, blank(len(names)), {"val": share}, seed)
    assert side_of(again, len(names)) == sides


@given(
    st.integers(2, NEIGHBOURS // 2), st.lists(st.integers(0, MOST_BITS), min_size=1, max_size=12), st.integers(0, 99)
)
def test_near_duplicates_stand_on_one_side(originals: int, changed: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    prints = rng.random((originals, 256)) < 0.4
    copies = []
    for number, bits in enumerate(changed):
        copy = prints[number % originals].copy()
        copy[rng.choice(256, bits, replace=False)] ^= True
        copies.append(copy)
    names = [f"{chr(97 + i)}x.jpg" for i in range(originals + len(copies))]
    sides = side_of(divide(names, np.concatenate((prints, copies)), {"val": 0.3}, seed), len(names))
    for number in range(len(copies)):
        assert sides[originals + number] == sides[number % originals]


@given(st.integers(2, 60), st.floats(0.05, 0.5), st.randoms())
def test_one_clip_is_cut_into_two_blocks_of_time(count: int, share: float, random: object) -> None:
    names = [f"video_{frame}.jpg" for frame in range(count)]
    random.shuffle(names)  # type: ignore[attr-defined]
    division = divide(names, blank(count), {"val": share}, 0)
    frames = {split: sorted(int(names[i][6:-4]) for i in own) for split, own in division.splits.items()}
    assert frames["train"] + frames["val"] == list(range(count))
    assert len(frames["val"]) == min(max(round(share * count), 1), count - 1)
    assert "blocks" in division.reason


@given(st.integers(3, 40), st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.booleans())
def test_val_and_test_are_made_together(count: int, val: float, test: float, is_one_clip: bool) -> None:
    names = [f"video_{i}.jpg" if is_one_clip else f"{i}.jpg" for i in range(count)]
    sides = side_of(divide(names, blank(count), {"val": val, "test": test}, 3), count)
    assert set(sides) == {"train", "val", "test"}
    assert abs(sides.count("val") - val * count) <= 1.5 and abs(sides.count("test") - test * count) <= 1.5


def test_a_share_that_whole_groups_do_not_meet_is_said() -> None:
    names = [*(f"walk_{frame}.jpg" for frame in range(40)), "house.jpg"]
    division = divide(names, blank(41), {"val": 0.2}, 0)
    assert division.splits["val"].tolist() == [40] and "one group has 40 images" in division.reason
    assert "not met" not in divide([f"{i}.jpg" for i in range(10)], blank(10), {"val": 0.2}, 0).reason


@pytest.mark.parametrize(("word", "is_clip"), [("BloodImage", False), ("walk", True), ("video", True)])
def test_a_name_that_all_images_share_is_a_clip_if_it_says_so_or_neighbours_are_alike(word: str, is_clip: bool) -> None:
    rng = np.random.default_rng(0)
    prints = rng.random((40, 256)) < 0.4
    for frame in range(1, 40) if word == "walk" else ():  # a tenth of the bits is new in each
        prints[frame] = np.where(rng.random(256) < 0.9, prints[frame - 1], prints[frame])
    order = [f"{word}_{frame}.jpg" for frame in range(40)]
    division = divide(order, prints, {"val": 0.25}, 0)
    assert (division.splits["val"].tolist() == list(range(30, 40))) == is_clip
    assert (
        "40 images look like frames of one clip" if is_clip else "40 groups (no two of them alike)"
    ) in division.reason


@pytest.mark.skipif(not (SHARED / "data/bccd").is_dir(), reason="needs ../shared/data")
def test_real_images_of_one_kind_are_no_clip_and_copies_among_them_are_found() -> None:
    for name, joined in (("bccd", 0), ("raccoon", 5)):
        paths = sorted((SHARED / "data" / name / "images").glob("*.jpg"))
        prints = read_fingerprints([str(path) for path in paths])
        reason = divide([path.name for path in paths], prints, {"val": 0.2}, 0).reason
        assert f"{len(paths)} images are {len(paths) - joined} groups" in reason
        digests: dict[bytes, int] = {}
        pairs = {tuple(sorted(pair)) for pair in near_duplicates(prints).tolist()}
        for number, path in enumerate(paths):
            first = digests.setdefault(path.read_bytes(), number)
            assert first == number or (first, number) in pairs


def test_too_few_images_or_groups_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 images"):
        divide(["a.jpg"], blank(1), {"val": 0.2}, 0)
    names = ["x_1.jpg", "x_2.jpg", "y_1.jpg", "y_2.jpg"]
    with pytest.raises(DataError, match=r"2 groups .* into 3"):
        divide(names, blank(4), {"val": 0.2, "test": 0.2}, 0)


@pytest.mark.parametrize(
    ("one", "other", "is_together"),
    [
        ("clip1_0001.jpg", "clip1_0002.jpg", True),
        ("clip1_0001.jpg", "clip2_0001.jpg", False),
        ("a/walk-7.png", "b/walk-8.png", True),
        ("ride.mp4#t=10.jpg", "ride.mp4#t=11.jpg", True),
        ("house_jpg.rf.0123456789abcdef.jpg", "house_jpg.rf.fedcba9876543210.jpg", True),
        ("walk_12_jpg.rf.0123456789abcdef.jpg", "walk_13_png.rf.fedcba9876543210.jpg", True),
        ("0a1b2c3d-walk_12.jpg", "99887766-walk_13.jpg", True),
        ("clip1/000001.jpg", "clip1/000002.jpg", True),
        ("clip1/000001.jpg", "clip2/000001.jpg", False),
        ("clip1/frame_1.jpg", "clip2/frame_2.jpg", False),
        ("IMG_0001.jpg", "IMG_0002.jpg", False),
        ("000000000009.jpg", "000000000025.jpg", False),
        ("apple_1.jpg", "apple_2.jpg", False),  # a class
        ("apple/1.jpg", "apple/2.jpg", False),
        ("apple_3_jpg.rf.0123456789abcdef.jpg", "apple_3_jpg.rf.fedcba9876543210.jpg", True),
        ("house.jpg", "tree.jpg", False),
    ],
)
def test_what_names_say_of_clips(one: str, other: str, is_together: bool) -> None:
    several_folders = Path(one).parent != Path("."), len({Path(one).parent, Path(other).parent}) > 1
    keys = [clip_of(name, ["apple", "pear"], any(several_folders)) for name in (one, other)]
    assert (keys[0] == keys[1] and keys[0] is not None) == is_together


def test_copies_of_an_image_are_found_and_others_are_not(tmp_path: Path) -> None:
    """Compressed more, half as large, darker: the same image; another one is not, nor one that cannot be read."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(8):
        image = cv2.resize(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8), (480, 360), interpolation=cv2.INTER_CUBIC)
        changed = (image, cv2.resize(image, (240, 180)), cv2.convertScaleAbs(image, alpha=0.7, beta=20))
        for version, pixels in enumerate(changed):
            paths.append(str(tmp_path / f"{number}_{version}.jpg"))
            cv2.imwrite(paths[-1], pixels, [cv2.IMWRITE_JPEG_QUALITY, 95 - 20 * version])
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "empty.jpg").touch()
    np.save(tmp_path / "pixels.npy", cv2.imread(paths[0])[..., ::-1])
    prints = read_fingerprints([*paths, *(str(tmp_path / name) for name in ("damaged.jpg", "empty.jpg", "pixels.npy"))])
    pairs = {tuple(sorted(pair)) for pair in near_duplicates(prints).tolist()}
    assert not prints[24:26].any() and (0, 26) in pairs
    assert {(one // 3, other // 3) for one, other in pairs if other < 26} == {(i, i) for i in range(8)}
    assert {one for pair in pairs for one in pair} == {*range(24), 26}
