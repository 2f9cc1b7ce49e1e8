"""Where commands may write: never into a dataset or a source, never over an input. Every output is checked here.

Places are compared by what the file system says they are, so that links and other spellings change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.run_lock import MARK
from yolo_lite.data.suffixes import image_suffixes

# What folders of runs hold that have no mark yet: of train, val, check and compare.
OLDER_RUNS = (
    {"config.yaml", "results.csv"},
    {"config.yaml", "weights"},
    {"metrics.json", "confusion_matrix.png"},
    {"report.json", "report.txt", "dataset.png"},
    {"comparison.json", "comparison.png"},
)
DEFAULT_PROJECTS = "runs"  # of the working folder
IMAGE_FOLDERS, LABEL_FOLDERS = frozenset({"images", "jpegimages"}), frozenset({"labels", "annotations", "labeltxt"})
ELSEWHERE = "expected another folder"
ADVICE = "outside the dataset or source, which is never written into"


class Inputs(NamedTuple):
    """What a command reads, and must not harm."""

    folders: tuple[str, ...] = ()  # nothing is written into or below them
    files: tuple[str, ...] = ()  # nothing is written over them, nor into a folder of theirs as a run folder


NO_INPUTS = Inputs()


def is_run_folder(names: Collection[str]) -> bool:
    """Whether a folder with entries of these names is one that a run writes into."""
    return MARK in names or any(run <= set(names) for run in OLDER_RUNS if not run.isdisjoint(names))


def check_place(path: str | os.PathLike[str], inputs: Inputs, flag: str, kind: str = "folder") -> Path:
    """The path, with ``~`` written out, where something may be written.

    Raises:
        DataError: it lies in a dataset or a source.
        ConfigError: it is no path.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ConfigError(f"{flag}: expected a path, found {text!r}")
    try:
        place = Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise ConfigError(f"{flag} {text}: {error}") from None
    protected = {known: folder for folder in inputs.folders if (known := _identity(folder))}
    here = {known for known, _ in _ancestors(os.getcwd())}
    # A user may work where the images lie: runs go to a folder there by default, which no listing reads.
    is_usual = Path(os.path.realpath(place)).is_relative_to(os.path.realpath(DEFAULT_PROJECTS))
    for known, folder in _ancestors(place):
        if known in protected and not (is_usual and known in here):
            raise DataError(f"{flag} {text}: expected a {kind} {ADVICE}: {protected[known]}; choose {flag} elsewhere")
        if _is_of_dataset(folder) or (known not in here and _holds_labelled_images(folder)):
            raise DataError(
                f"{flag} {text}: expected a {kind} {ADVICE}: {folder} is one by its names; choose {flag} elsewhere"
            )
    return place


def check_file(path: str | os.PathLike[str], inputs: Inputs, flag: str) -> Path:
    """The path of a file that may be written.

    Raises:
        UserError: as ``check_place``, or it is an input or a folder.
    """
    place = check_place(path, inputs, flag, "file")
    if place.is_dir():
        raise ConfigError(f"{flag} {path}: expected a file, found a folder")
    if (known := _identity(os.path.realpath(place))) and known in set(map(_identity, inputs.files)):
        raise ConfigError(f"{flag} {path}: is an input, which is never overwritten: expected another name")
    return place


def check_folder(path: str | os.PathLike[str], inputs: Inputs, flag: str) -> Path:
    """The path of a folder that may be written into, though it may be there already.

    Raises:
        UserError: as ``check_place``, or it holds an input, or images that no run has written.
    """
    place = check_place(path, inputs, flag)
    place = Path(os.path.realpath(place)) if ".." in place.parts else place
    names, own = _names(place), _identity(place)
    files = {
        os.path.dirname(one): file for file in inputs.files for one in (os.path.abspath(file), os.path.realpath(file))
    }
    for around, file in files.items() if names else ():
        if own in {known for known, _ in _ancestors(around)}:
            raise ConfigError(f"{flag} {path}: holds {file}, an input, which is never overwritten: {ELSEWHERE}")
    if not is_run_folder(names) and any(Path(name).suffix.lower() in image_suffixes() for name in names):
        raise ConfigError(f"{flag} {path}: holds images that no run has written: {ELSEWHERE}")
    return place


def check_empty_folder(path: str | os.PathLike[str], inputs: Inputs, flag: str) -> Path:
    """The path of a folder that is new or empty. Raises UserError for another, or as ``check_place``."""
    folder = check_place(path, inputs, flag)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: expected a new folder or an empty one")
    return folder


def _ancestors(path: str | os.PathLike[str]) -> Iterator[tuple[tuple[int, int], str]]:
    """What is there of a path and the folders around it, innermost first: identity and real path."""
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        if known := _identity(folder):
            yield known, str(folder)


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Equal for all spellings of a file or folder; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_of_dataset(folder: str) -> bool:
    """Whether a folder is that of images beside one of labels, or the other way round."""
    parent, name = os.path.split(folder)
    for own, others in ((IMAGE_FOLDERS, LABEL_FOLDERS), (LABEL_FOLDERS, IMAGE_FOLDERS)):
        if name.lower() in own:
            twins = [other for other in _names(parent) if other.lower() in others]
            return any(os.path.isdir(os.path.join(parent, twin)) for twin in twins)
    return False


def _holds_labelled_images(folder: str) -> bool:
    """Whether images lie in a folder with label files beside them."""
    names = set(_names(folder))
    stems = (os.path.splitext(name) for name in names)
    images = (stem for stem, suffix in stems if suffix.lower() in image_suffixes())
    are_labelled = any(f"{stem}{suffix}" in names for stem in images for suffix in (".txt", ".xml"))
    return are_labelled and not is_run_folder(names)


def _names(folder: str | os.PathLike[str]) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # not there, a file, or closed to us
        return []
