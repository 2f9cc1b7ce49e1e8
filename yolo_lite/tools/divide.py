"""Divide images into train, val and test so that near-duplicates and frames of one clip stay together."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from yolo_lite.config.errors import DataError
from yolo_lite.data.decode import ANY_RANGE, by_opencv, damage_told, open_image
from yolo_lite.data.images import read_image

SIDE = 16  # rows of a difference hash, and bits of a row
STEP = 0.1  # a bit tells whether brightness rises by more than this, in standard deviations of the image
MOST_BITS, MOST_SHARE = SIDE - 1, 0.25  # near-duplicates: that many bits differ, and that share of those that are set
NEIGHBOURS = 16  # hashes that each one is compared with in each of 16 orders

ROBOFLOW_COPY = re.compile(r"\.rf\.\w{8,}$")  # what Roboflow appends to each copy that it makes of an image
FORMER_SUFFIX = re.compile(r"_(jpe?g|png|bmp|webp|tiff?)$", re.IGNORECASE)  # as Roboflow writes it
LABEL_STUDIO_PREFIX = re.compile(r"^[0-9a-f]{8}-")
NUMBERED = re.compile(r"^(.*?)[-_. (]*(\d+)\)?$")  # a frame's number behind the name of its clip
CAMERA_WORDS = {"", "img", "image", "images", "im", "dsc", "dscn", "dscf", "pic", "picture", "photo"}
FRAME_WORDS = {"frame", "frames"}
CLIP = re.compile("clip|video|frame|cam|seq|scene|track|mp4|avi|mov", re.IGNORECASE)
FLOW = 0.95  # neighbours in a clip differ in less than this of the bits that chance gives: .74 to .91; others .97 to 1


class Division(NamedTuple):
    """Which images stand in which split, and why."""

    splits: dict[str, np.ndarray]  # positions of images, ascending
    reason: str  # for people


def divide(
    names: Sequence[str],
    fingerprints: np.ndarray,
    shares: Mapping[str, float],
    seed: int,
    classes: Collection[str] = (),
) -> Division:
    """Take ``shares`` of n images out of train, whole groups of images that belong together at a time.

    Where all of them belong together, they are cut into blocks in the order of their names, which is that of time.

    Args:
        names: of the images, below the set's folder, with ``/``.
        fingerprints: ``[n, 256]`` bool, of ``read_fingerprints``.
        shares: of val, and of test where there is to be one.
        classes: names of classes, which do not name a clip.

    Raises:
        DataError: there are too few images or groups.
    """
    count, parts = len(names), len(shares) + 1
    if count < parts:
        raise DataError(f"expected at least {parts} images to divide, found {count}")
    order = np.array(sorted(range(count), key=lambda image: _in_time(names[image])))
    linked = _linked_by_name(names, classes)
    if len(linked) == count - 1 and not _is_clip(names, fingerprints[order]):
        linked = linked[:0]
    group = _components(count, np.concatenate((linked, near_duplicates(fingerprints))))
    num_named, num_groups = count - len(linked), int(group.max()) + 1
    if num_groups == 1:
        what = "frames of one clip" if num_named == 1 else "near-duplicates of each other"
        why = f"{' and '.join(('train', *shares))} are blocks of them in the order of names"
        return Division(_blocks(order, shares), f"{count} images look like {what}: {why}")
    if num_groups < parts:
        raise DataError(f"{num_groups} groups of images that belong together cannot be divided into {parts} splits")
    splits, largest = _whole_groups(group, shares, seed), int(np.bincount(group).max())
    joined = {"clips or copies by their names": count - num_named, "near-duplicates": num_named - num_groups}
    told = (
        ", ".join(f"{number} joined as {what}" for what, number in joined.items() if number) or "no two of them alike"
    )
    reason = f"{count} images are {num_groups} groups ({told}), each on one side"
    if largest > 1 and any(2 * abs(len(splits[one]) - share * count) > share * count for one, share in shares.items()):
        reason += f"; the shares are not met, for one group has {largest} images"
    return Division(splits, reason)


def _is_clip(names: Sequence[str], fingerprints: np.ndarray) -> bool:
    """Whether a name that all images share is that of a clip, not of the set, as in BloodImage_00012.

    It says so, or neighbours in the order of names, in which the fingerprints are, are alike (or unknown).
    """
    is_said = any(map(CLIP.search, names))
    return is_said or bool(np.median(differences(fingerprints[:-1], fingerprints[1:])) < FLOW)


def differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many bits of fingerprints ``[n, 256]`` differ, in shares ``[n]`` of those that do by chance."""
    ones, others = one.mean(axis=1), other.mean(axis=1)
    by_chance = ones * (1 - others) + others * (1 - ones)
    return (one ^ other).mean(axis=1) / np.maximum(by_chance, 1e-9)


def clip_of(name: str, classes: Collection[str], several_folders: bool) -> str | None:
    """What the frames of one clip, or the copies of one image, share in their names; None for an image of its own.

    A name of a class (``apple_12``), or what every camera writes (``IMG_12``), tells no clip; the folder may then.
    """
    path = PurePosixPath(name)
    stem, copies = ROBOFLOW_COPY.subn("", path.stem)
    stem = LABEL_STUDIO_PREFIX.sub("", FORMER_SUFFIX.sub("", stem))
    numbered = NUMBERED.match(stem)
    word = numbered[1] if numbered else stem
    plain = {one.lower() for one in classes}
    if numbered and word.lower() not in CAMERA_WORDS | FRAME_WORDS | plain:
        return f"clip {word}"
    if numbered and several_folders and path.parent.name.lower() not in plain:
        return f"folder {path.parent}"
    if numbered and word.lower() in FRAME_WORDS:
        return f"clip {word}"
    return f"copy {stem}" if copies else None


def _linked_by_name(names: Sequence[str], classes: Collection[str]) -> np.ndarray:
    """Pairs of images ``[m, 2]``, each with the next of its clip."""
    several_folders = len({PurePosixPath(name).parent for name in names}) > 1
    last: dict[str, int] = {}
    pairs = []
    for image, name in enumerate(names):
        if clip := clip_of(name, classes, several_folders):
            if clip in last:
                pairs.append((last[clip], image))
            last[clip] = image
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def read_fingerprints(paths: Sequence[str], channels: int = 3) -> np.ndarray:
    """Difference hashes ``[n, 256]`` bool of images; all False where one cannot be read or has one colour."""
    with ThreadPoolExecutor() as pool:  # OpenCV releases the GIL
        jobs = pool.map(partial(_fingerprint, channels=channels), paths)
        rows = list(tqdm(jobs, desc="comparing images", total=len(paths), leave=False, delay=1))
    return np.array(rows, dtype=bool).reshape(-1, SIDE * SIDE)


def _fingerprint(path: str, channels: int) -> np.ndarray:
    grey = _grey(path, channels)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    # In deviations from the mean: neither exposure nor the noise of a plain background then sets bits.
    return (np.diff(small, axis=1) > STEP * max(float(small.std()), 1e-3)).ravel()


def _grey(path: str, channels: int) -> np.ndarray:
    """float32 ``[h, w]``; of a large image a quarter of its sides, which a JPEG is decoded to in less time."""
    try:
        with damage_told(path), open_image(path) as file:
            content = file.read()
            for flag in (cv2.IMREAD_REDUCED_GRAYSCALE_4, cv2.IMREAD_GRAYSCALE) if content else ():
                image = by_opencv(content, flag, ANY_RANGE)
                if image is not None and (min(image.shape[:2]) > 2 * SIDE or flag == cv2.IMREAD_GRAYSCALE):
                    return image[..., 0].astype(np.float32)
        pixels = read_image(path, channels).astype(np.float32)
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if channels == 3 else pixels.mean(axis=2)
    except DataError:  # it is named where the set is read
        return np.zeros((1, 1), dtype=np.float32)


def near_duplicates(fingerprints: np.ndarray) -> np.ndarray:
    """Pairs ``[m, 2]`` of alike images, enough of them to connect all that are alike.

    Of 16 bands of a hash one is the same where at most 15 bits differ: in each of the orders that begin with one band,
    every hash is compared with the next ones alone, so that time grows with n log n.
    """
    images = np.flatnonzero(fingerprints.any(axis=1))
    fingerprints = fingerprints[images]
    packed = np.packbits(fingerprints, axis=1).reshape(-1, SIDE, SIDE // 8)  # [n, 16 bands, 2 bytes]
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for band in range(SIDE if len(images) else 0):
        rolled = np.ascontiguousarray(np.roll(packed, -band, axis=1)).reshape(len(packed), -1)
        order = np.argsort(rolled.view(f"V{rolled.shape[1]}").ravel(), kind="stable")
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            pair = np.stack((order[:-step], order[step:]), axis=1)
            pair = pair[(packed[pair[:, 0], band] == packed[pair[:, 1], band]).all(axis=1)]
            pairs.append(pair[_alike(fingerprints[pair[:, 0]], fingerprints[pair[:, 1]])])
    return images[np.concatenate(pairs)]


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    different, either = (one ^ other).sum(axis=1), (one | other).sum(axis=1)
    return (different <= MOST_BITS) & (different <= MOST_SHARE * either)


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    """The number ``[n]`` of the group of each image."""
    links = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1]


def _whole_groups(group: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    sizes = np.bincount(group)
    left = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    splits = {}
    for number, (split, share) in enumerate(shares.items()):
        wanted, most = share * len(group), len(left) - (len(shares) - number)  # a group for each of the others
        taken, total = list[int](), 0
        for one in left:
            if len(taken) < most and abs(wanted - total - sizes[one]) < abs(wanted - total):
                taken.append(one)
                total += int(sizes[one])
        taken = taken or [min(left, key=lambda one: sizes[one])]
        left = np.array(left)[~np.isin(left, taken)].tolist()
        splits[split] = np.flatnonzero(np.isin(group, taken))
    return {"train": np.flatnonzero(np.isin(group, left)), **splits}


def _blocks(order: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    sizes = [max(round(share * len(order)), 1) for share in shares.values()]
    while sum(sizes) >= len(order):
        sizes[int(np.argmax(sizes))] -= 1
    bounds = np.cumsum([len(order) - sum(sizes), *sizes])[:-1]
    return {split: np.sort(block) for split, block in zip(("train", *shares), np.split(order, bounds), strict=True)}


def _in_time(name: str) -> list[tuple[int, str]]:
    """A key that puts ``frame_10`` behind ``frame_9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
