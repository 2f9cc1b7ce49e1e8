"""Which image files the sources of a split name: folders, list files and glob patterns.

Links are followed. A folder is read once, whatever leads to it: under its own path where it lies below the source, else
under the link that comes first by name. A link to a folder that holds the source leads back and is not followed.
"""

from __future__ import annotations

import fnmatch
import glob
import heapq
import itertools
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import read_regular
from yolo_lite.data.outputs import is_run_folder
from yolo_lite.data.suffixes import KNOWN_IMAGES, PLUGINS, image_suffixes, looks_like_image

LONGEST_PATH = 4096  # bytes
# Suffixes of what lies beside images: these are not opened to see whether they are some.
_TEXTS = (
    ".txt .xml .json .yaml .yml .csv .tsv .md .html .htm .log .py .ini .names .data .cfg .pdf .doc .docx .xls .xlsx"
)
_OTHERS = (
    ".cache .db .zip .tar .gz .tgz .7z .rar .pt .pth .onnx .npz .pkl .mp4 .avi .mov .mkv .webm .m4v .mpg .wav .mp3"
)
NO_IMAGES = frozenset(f"{_TEXTS} {_OTHERS}".split())
# What systems and editors leave beside a user's files: thumbnails, trash, older copies.
LEFT = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", ".ipynb_checkpoints", ".thumbs", ".thumbnails", ".Trash"))
HIDDEN = re.compile(rf"{re.escape(os.sep)}(\.|{'|'.join(map(re.escape, sorted(LEFT)))})")
SYSTEM = ("/proc", "/sys", "/dev")  # but not /dev/shm
LIST_SUFFIXES = (".txt", ".lst", ".list")


class Listing(NamedTuple):
    """What sources name, as text paths in a fixed order."""

    images: list[str]  # each file once
    unread: list[str]  # look like images, but are of a kind that is not read here; folders that cannot be opened
    repeated: list[str]  # further paths that lead to what is read already
    notes: list[str]  # where something was not found as it is written, a line each

    def remarks(self) -> list[str]:
        """What a user should know, a line for each kind."""
        lines = list(self.notes)
        if self.unread:
            kinds = Counter(os.path.splitext(path)[1].lower() for path in self.unread)
            counts = ", ".join(f"{count} {kind or 'without suffix'}" for kind, count in sorted(kinds.items()))
            plugins = sorted({PLUGINS[kind] for kind in kinds if kind in PLUGINS})
            advice = f"; pip install {' '.join(plugins)}" if plugins else ""
            lines.append(f"look like images, but are not read: {counts}: {_first(self.unread)}{advice}")
        if self.repeated:
            lines.append(f"named before, and used once: {len(self.repeated)}: {_first(self.repeated)}")
        return lines


class Found(NamedTuple):
    """What a folder or a pattern leads to."""

    files: list[str]
    repeated: list[str]  # links to what is read already
    passed: list[str]  # folders that runs write into, or in which the system shows itself: their files are not read
    special: list[str]  # pipes, sockets, devices

    def notes(self) -> list[str]:
        """A line for each kind of thing that is not read."""
        kinds = {"folders of runs or of the system": self.passed, "pipes, sockets or devices": self.special}
        return [f"{len(paths)} {kind} are not read: {_first(paths)}" for kind, paths in kinds.items() if paths]


def _first(paths: Sequence[str], most: int = 3) -> str:
    return ", ".join((*paths[:most], *(["..."] if len(paths) > most else [])))


def list_sources(
    root: Path, sources: Iterable[str], where: str | Path, suffixes: frozenset[str] | None = None
) -> Listing:
    """The images, by their suffix or content, that sources below ``root`` name; errors begin with ``where``."""
    found = [_list_source(root, source, where, suffixes or image_suffixes()) for source in sources]
    if len(found) == 1:
        return found[0]
    images, unread, repeated, notes = (list(itertools.chain(*lists)) for lists in zip(*found, strict=True))
    images, again = each_once(images)
    return Listing(images, unread, repeated + again, notes)


def _list_source(root: Path, source: str, where: str | Path, suffixes: frozenset[str]) -> Listing:
    if not source:
        raise DataError(f"{where}: expected a folder, a list file or a glob pattern, found an empty text")
    place = root / os.path.expanduser(source)
    suffix = place.suffix.lower()
    if place.is_dir():
        return _without_hidden(_sorted_out(walk(str(place), where), suffixes), str(place))
    if place.is_file():
        if suffix in suffixes or (suffix not in KNOWN_IMAGES and looks_like_image(place)):
            return Listing([str(place)], [], [], [])
        if suffix in LIST_SUFFIXES:
            return _read_list(place, root, where)
        advice = f"; pip install {PLUGINS[suffix]}" if suffix in PLUGINS else ""
        what = f"its kind is not read here{advice}" if suffix in KNOWN_IMAGES else "its name does not end in .txt"
        raise DataError(f"{where}: expected a list of images in {place}, or an image: {what}")
    found = _matches(root, os.path.expanduser(source), where)
    if not found.files:
        passed = "".join(f"; {note}" for note in found.notes())
        expected = "expected a folder, a list file or a glob pattern"
        raise DataError(f"{where}: {expected}, found nothing at {place}{passed}")
    files = [path for path in found.files if not os.path.isdir(path)]
    if files:
        return _sorted_out(found._replace(files=files), suffixes)
    walked = [walk(folder, where, skip_run=True) for folder in found.files]  # such as clips/*/images
    return _sorted_out(_all_of([found._replace(files=[]), *walked]), suffixes)


def _sorted_out(found: Found, suffixes: frozenset[str]) -> Listing:
    images, unread, notes = list[str](), list[str](), found.notes()
    for file in found.files:
        suffix = os.path.splitext(file)[1].lower()
        if suffix in suffixes:
            images.append(file)
        # No suffix, or one such as .jpg~ or .part; a folder or link that leads nowhere has none.
        elif suffix in KNOWN_IMAGES or (
            suffix not in NO_IMAGES and (not os.path.isfile(file) or looks_like_image(file))
        ):
            unread.append(file)
        elif not suffix and (target := _lost_link(file)):
            unread.append(file)
            notes.append(f"{file}: a link that was copied or unpacked as a text, what lies in {target} is not read")
    stems = {os.path.splitext(image)[0] for image in images if not image.endswith(".npy")}
    copies = {image: None for image in images if image.endswith(".npy") and image[: -len(".npy")] in stems}
    if copies:  # ultralytics keeps them so with cache=disk
        what = ".npy files are copies of the images beside them, as other programs keep them, and are not read"
        notes.append(f"{len(copies)} {what}: {_first(list(copies))}")
        images = [image for image in images if image not in copies]
    return Listing(images, unread, found.repeated, notes)


def _lost_link(path: str) -> str:
    """The folder that a file names, as links of archives and repositories do where there are no links; else empty."""
    if os.path.getsize(path) > LONGEST_PATH:
        return ""
    target = os.path.join(os.path.dirname(path), os.fsdecode(read_regular(path)))
    return target if os.path.isdir(target) and not target.endswith(os.sep) else ""


def walk(top: str, where: str | Path = "", skip_run: bool = False) -> Found:
    """All files below a folder; with the files, folders that cannot be opened.

    Args:
        where: what names the folder, for errors.
        skip_run: pass the folder itself over where it is one that a run writes into, as those below it.

    Raises:
        DataError: the folder is the whole file system, or one in which the system shows itself.
    """
    origin = os.path.realpath(top)
    if _is_system(origin):
        raise DataError(f"{where or top}: expected a folder of images, found {top}, of the system")
    found, read = Found([], [], [], []), set[str]()
    folders, links = [top], list[str]()
    while folders or links:
        is_link = not folders  # links wait until the folders themselves are read
        folder = heapq.heappop(links) if is_link else folders.pop()
        real = os.path.realpath(folder)
        if real in read or (is_link and origin.startswith(os.path.join(real, ""))):
            found.repeated.append(folder)
            continue
        read.add(real)
        try:
            with os.scandir(folder) as scanned:
                entries = list(scanned)
        except OSError:
            found.files.append(os.path.join(folder, ""))
            continue
        if _is_system(real) or (is_run_folder({entry.name for entry in entries}) and (skip_run or folder != top)):
            found.passed.append(folder)
            continue
        for entry in entries:
            if is_folder(entry):
                heapq.heappush(links, entry.path) if entry.is_symlink() else folders.append(entry.path)
            else:
                (found.special if is_special(entry.path, entry) else found.files).append(entry.path)
    found.files.sort(key=_parts)
    return found


def _without_hidden(listing: Listing, top: str) -> Listing:
    """What is not hidden below a folder; other hidden images than those that systems leave behind are counted."""
    first = len(top.rstrip(os.sep)) + 1
    if not any(map(HIDDEN.search, (image[first - 1 :] for image in listing.images))):
        return listing
    names = [
        [name for name in _parts(image[first:]) if name.startswith(".") or name in LEFT] for image in listing.images
    ]
    images = [image for image, hidden in zip(listing.images, names, strict=True) if not hidden]
    pairs = zip(listing.images, names, strict=True)
    others = [image for image, hidden in pairs if hidden and not {*hidden} & LEFT and not hidden[-1].startswith("._")]
    notes = [f"{len(others)} hidden images are not read: {_first(others)}"] if others else []
    return listing._replace(images=images, notes=listing.notes + notes)


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_special(path: str, entry: os.DirEntry[str] | None = None) -> bool:
    """Whether a path leads to a pipe, a socket or a device, which may keep a reader waiting for ever."""
    try:
        if entry is not None and entry.is_file():
            return False
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # a link that leads nowhere
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_system(real: str) -> bool:
    """Whether a real path is the root of a file system's tree, or where Unix shows processes and devices as files."""
    return real == Path(real).anchor or real in SYSTEM or real.startswith(tuple(f"{one}/" for one in SYSTEM[:2]))


def _parts(path: str) -> list[str]:
    return path.split(os.sep)


def _matches(root: Path, pattern: str, where: str | Path) -> Found:
    """What a glob pattern finds below ``root``, whose own name may hold a [ that is meant literally."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return _expanded(root, parts)
    at = parts.index("**")
    tops = _expanded(root, parts[:at]) if at else Found([str(root)], [], [], [])
    walked = [walk(top, where, skip_run=bool(at)) for top in tops.files if os.path.isdir(top)]
    for top, found in zip(filter(os.path.isdir, tops.files), walked, strict=True):
        found.files[:] = [file for file in found.files if _fits(_parts(file[len(top) :].strip(os.sep)), parts[at:])]
    return _all_of([tops._replace(files=[]), *walked], key=_parts)


def _expanded(root: Path, parts: Sequence[str]) -> Found:
    """What a pattern without ``**`` finds, level by level, each folder once: links to themselves do not multiply."""
    found, has_wildcard = Found([str(root)], [], [], []), False
    for part in parts:
        folders, again = _each_folder_once(found.files)
        found.repeated.extend(again)
        found.files.clear()
        is_literal = glob.escape(part) == part
        for folder in folders:
            names = [] if is_literal and not has_wildcard else _names_in(folder)
            if has_wildcard and is_run_folder(names):
                found.passed.append(folder)
            elif is_literal:
                found.files.extend(filter(os.path.lexists, [os.path.join(folder, part)]))
            else:
                fitting = (name for name in sorted(names) if _fits((name,), (part,)))
                found.files.extend(os.path.join(folder, name) for name in fitting)
        has_wildcard = has_wildcard or not is_literal
    special = set(filter(is_special, found.files))
    found.special.extend(special)
    files, again = each_once(path for path in found.files if path not in special)
    return found._replace(files=files, repeated=found.repeated + again)


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a file, or closed to us
        return []


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern with ``**``, part by part; as in glob a leading dot has to be written."""
    reached = _past_stars({0}, pattern)  # parts of the pattern that may come next
    for name in names:
        is_hidden, following = name.startswith("."), set[int]()
        for position in (one for one in reached if one < len(pattern)):
            part = pattern[position]
            if part == "**":
                following |= set() if is_hidden else {position}
            elif fnmatch.fnmatch(name, part) and (not is_hidden or part.startswith(".")):
                following.add(position + 1)
        reached = _past_stars(following, pattern)
    return len(pattern) in reached


def _past_stars(positions: set[int], pattern: Sequence[str]) -> set[int]:
    """The positions, with those behind each ``**`` among them, which may stand for nothing."""
    reached = set(positions)
    for position, part in enumerate(pattern):
        if part == "**" and position in reached:
            reached.add(position + 1)
    return reached


def _all_of(parts: Iterable[Found], key: Callable[[str], Any] | None = None) -> Found:
    """Several findings as one, each file once."""
    files, repeated, passed, special = (list(itertools.chain(*lists)) for lists in zip(*parts, strict=True))
    files, again = each_once(sorted(files, key=key) if key else files)
    return Found(files, repeated + again, passed, special)


def _each_folder_once(folders: Iterable[str]) -> tuple[list[str], list[str]]:
    """Folders, each once and best by its own name; and those left out."""
    first: dict[str, str] = {}
    repeated = list[str]()
    for folder in folders:
        real = os.path.realpath(folder)
        if real not in first:
            first[real] = folder
        elif real == os.path.abspath(folder):
            repeated.append(first[real])
            first[real] = folder
        else:
            repeated.append(folder)
    return list(first.values()), repeated


def each_once(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The paths, each file of each folder once and best without a link to its folder; and those left out.

    A link to a file is a file of its own: its name may belong to other labels.
    """
    folder_of = cache(os.path.realpath)
    first: dict[tuple[str, str], str] = {}
    repeated = list[str]()
    for path in paths:
        folder, name = os.path.split(path)
        key = folder_of(folder), name
        if key not in first:
            first[key] = path
        elif key[0] == os.path.abspath(folder):
            repeated.append(first[key])
            first[key] = path
        else:
            repeated.append(path)
    return list(first.values()), repeated


def path_names(path: str) -> tuple[str, ...]:
    """The parts of a path of any system, without what leads to its beginning."""
    parts = posixpath.normpath(path.replace("\\", "/")).split("/")
    return tuple(part for part in parts if part not in ("", ".", ".."))


def _read_list(place: Path, root: Path, where: str | Path) -> Listing:
    """The images of a list file; rows that are found nowhere are listed too, and said to be missing when they are read.

    A row is relative to the list's folder or to the root, or an id of Pascal VOC's. Where these fail, it is understood
    as a path of another machine or folder: the longest end of it that exists, if no other row ends there too.
    """
    rows, bases = _rows(place, where), list(dict.fromkeys((place.parent, root)))
    found = {row: _as_written(row, bases) for row in rows}
    known: dict[tuple[str, ...], Path] = {}
    ends = {row: end for row, path in found.items() if not path and (end := _by_its_end(row, bases, known))}
    claims = Counter([*found.values(), *ends.values()])
    moved = {row: end for row, end in ends.items() if claims[end] == 1}
    images, repeated = each_once(found[row] or moved.get(row) or str(place.parent / row) for row in rows)
    first = [f"{row} is read from {end}" for row, end in moved.items()][:1]
    notes = [f"{place}: paths found by their ends: {len(moved)}, the first: {one}" for one in first]
    return Listing(images, [], repeated, notes)


def _rows(place: Path, where: str | Path) -> list[str]:
    """The rows of a list file, without quotes; blank ones and comments are left out."""
    try:
        content = read_regular(place)
        is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        is_strict = is_utf16 or b"\0" in content  # else names of files may hold bytes that are none
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig", "strict" if is_strict else "surrogateescape")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{where}: expected a list of images in {place}: {error}") from error
    rows = [row.strip() for row in text.splitlines()]
    rows = [row[1:-1] if len(row) > 1 and row[0] == row[-1] and row[0] in "'\"" else row for row in rows]
    return [row for row in rows if row and not (row[0] == "#" and Path(row).suffix.lower() not in image_suffixes())]


def _as_written(row: str, bases: Sequence[Path]) -> str | None:
    """The file of a row that is relative to the list's folder (the first of the bases) or the root, if there is one."""
    for base, name in itertools.product(bases, dict.fromkeys((row, row.replace("\\", "/")))):
        if os.path.exists(path := base / name):
            return str(path)
    folder = bases[0]
    if folder.parent.name != "ImageSets" or os.path.splitext(row)[1].lower() in image_suffixes():
        return None
    names = (folder.parents[1] / "JPEGImages" / f"{row}{suffix}" for suffix in sorted(image_suffixes()))
    found = [str(path) for path in names if os.path.exists(path)]
    if len(found) > 1:
        raise DataError(f"{folder}: the id {row!r} could mean {found[0]} or {found[1]}")
    return found[0] if found else None


def _by_its_end(row: str, bases: Sequence[Path], known: dict[tuple[str, ...], Path]) -> str | None:
    """The file below one of the bases that the longest end of a row names; None where two bases have one.

    ``known`` are the beginnings that were left out before, and the base that took their place.
    """
    parts = path_names(row)
    for length in range(len(parts)):
        start, end = parts[:length], Path(*parts[length:])
        if start in known and os.path.isfile(known[start] / end):
            return str(known[start] / end)
    for length in range(len(parts)):
        start, end = parts[:length], Path(*parts[length:])
        if hits := [base for base in bases if os.path.isfile(base / end)]:
            known[start] = hits[0]
            return str(hits[0] / end) if len(hits) == 1 else None
    return None
