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
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import read_regular
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
    place = root / os.path.expanduser(source)
    suffix = place.suffix.lower()
    if place.is_dir():
        files, repeated = walk(str(place))
        return _without_hidden(_sorted_out(files, repeated, suffixes), str(place))
    if place.is_file():
        if suffix in suffixes or (suffix not in KNOWN_IMAGES and looks_like_image(place)):
            return Listing([str(place)], [], [], [])
        if suffix in LIST_SUFFIXES:
            return _read_list(place, root, where)
        advice = f"; pip install {PLUGINS[suffix]}" if suffix in PLUGINS else ""
        what = f"its kind is not read here{advice}" if suffix in KNOWN_IMAGES else "its name does not end in .txt"
        raise DataError(f"{where}: expected a list of images in {place}, or an image: {what}")
    found, repeated = _matches(root, os.path.expanduser(source))
    if not found:
        raise DataError(f"{where}: expected a folder, a list file or a glob pattern, found nothing at {place}")
    files = [path for path in found if not os.path.isdir(path)]
    if files:
        return _sorted_out(files, repeated, suffixes)
    walked = [walk(folder) for folder in found]  # such as clips/*/images
    files, again = each_once(itertools.chain.from_iterable(files for files, _ in walked))
    return _sorted_out(files, list(itertools.chain(repeated, again, *(links for _, links in walked))), suffixes)


def _sorted_out(files: Iterable[str], repeated: list[str], suffixes: frozenset[str]) -> Listing:
    images, unread, notes = list[str](), list[str](), list[str]()
    for file in files:
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
    return Listing(images, unread, repeated, notes)


def _lost_link(path: str) -> str:
    """The folder that a file names, as links of archives and repositories do where there are no links; else empty."""
    if os.path.getsize(path) > LONGEST_PATH:
        return ""
    target = os.path.join(os.path.dirname(path), os.fsdecode(read_regular(path)))
    return target if os.path.isdir(target) and not target.endswith(os.sep) else ""


def walk(top: str) -> tuple[list[str], list[str]]:
    """All files below a folder, and links to what is read already; with the files, folders that cannot be opened."""
    files, repeated, read = list[str](), list[str](), set[str]()
    folders, links, origin = [top], list[str](), os.path.realpath(top)
    while folders or links:
        is_link = not folders  # links wait until the folders themselves are read
        folder = heapq.heappop(links) if is_link else folders.pop()
        real = os.path.realpath(folder)
        if real in read or (is_link and origin.startswith(os.path.join(real, ""))):
            repeated.append(folder)
            continue
        read.add(real)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not is_folder(entry):
                        files.append(entry.path)
                    elif entry.is_symlink():
                        heapq.heappush(links, entry.path)
                    else:
                        folders.append(entry.path)
        except OSError:
            files.append(os.path.join(folder, ""))
    return sorted(files, key=_parts), repeated


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


def _parts(path: str) -> list[str]:
    return path.split(os.sep)


def _matches(root: Path, pattern: str) -> tuple[list[str], list[str]]:
    """What a glob pattern finds below ``root``, whose own name may hold a [ that is meant literally."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return each_once(sorted((str(root / path) for path in glob.glob(pattern, root_dir=root)), key=_parts))
    at = parts.index("**")  # glob itself would run into loops of links
    tops = glob.glob(str(Path(*parts[:at])), root_dir=root) if at else ["."]
    walked = [(top, *walk(top)) for top in sorted(str(root / top) for top in tops) if os.path.isdir(top)]
    below = ((file, file[len(top) :].strip(os.sep)) for top, files, _ in walked for file in files)
    fitting = (file for file, name in below if _fits(_parts(name), parts[at:]))
    found, again = each_once(sorted(fitting, key=_parts))
    return found, [*again, *(link for _, _, links in walked for link in links)]


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern with ``**``, part by part; as in glob a leading dot has to be written."""
    if not names or not pattern:
        return not names and set(pattern) <= {"**"}
    is_hidden = names[0].startswith(".")
    if pattern[0] == "**":
        return _fits(names, pattern[1:]) or (not is_hidden and _fits(names[1:], pattern))
    fits = fnmatch.fnmatch(names[0], pattern[0]) and (not is_hidden or pattern[0].startswith("."))
    return fits and _fits(names[1:], pattern[1:])


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
