"""Unpacking an archive that is not trusted: plain files and folders, and nowhere but below one folder."""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

from yolo_lite.config.errors import DataError

MOST_EXPANSION = 100  # an archive that unpacks to more than this many times its own size is a bomb
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


class Entry(NamedTuple):
    """One member of an archive."""

    name: str
    kind: str  # "file", "folder", or in words what else it is
    size: int  # bytes as stated; reading stops there
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, seen: dict[str, str]) -> None:
    """Write all that a .zip, .tar, .tar.gz or .tgz file holds below a folder of ours.

    Args:
        seen: what was written below it so far; the archives of one set share it, so that none overwrites another's.

    Raises:
        DataError: the archive is damaged or a bomb, or has an entry that leads out of the folder, that is neither file
            nor folder, or whose name is there already, if only in other letters (A and a, composed accents).
    """
    left = MOST_EXPANSION * archive.stat().st_size
    try:
        for entry in tqdm(_entries(archive), desc=f"unpacking {archive.name}", unit=" entries", leave=False, delay=1):
            path, left = PurePosixPath(entry.name.replace("\\", "/")), left - entry.size
            if problem := _problem(entry, path) or _collision(folder / path, entry.kind, seen):
                raise DataError(f"{archive}: refused: {entry.name!r} {problem}")
            if left < 0:
                raise DataError(f"{archive}: refused: it unpacks to more than {MOST_EXPANSION} times its size")
            _write(entry, folder / path)
    except UNREADABLE as error:
        raise DataError(f"{archive}: damaged, or no such archive as its name says: {error}") from error


def _entries(archive: Path) -> Iterator[Entry]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                yield Entry(info.filename, _zip_kind(info), info.file_size, partial(zipped.open, info))
        return
    with tarfile.open(archive, "r:" if archive.suffix == ".tar" else "r:gz") as tar:
        for member in tar:
            yield Entry(member.name, _tar_kind(member), member.size, partial(tar.extractfile, member))


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was packed without Unix modes
    if info.flag_bits & 1:
        return "is encrypted"
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if mode == stat.S_IFLNK else "is a device"
    return "folder" if info.is_dir() else "file"


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "folder"
    if member.isreg() and not member.issparse():
        return "file"
    return "is a link" if member.issym() or member.islnk() else "is a device, or a file with holes"


def _problem(entry: Entry, path: PurePosixPath) -> str | None:
    """What forbids an entry, whatever else the archive holds."""
    if entry.kind not in ("file", "folder"):
        return entry.kind
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", str(path)):
        return "leads out of the folder"
    if any(ord(letter) < 32 for letter in entry.name) or (entry.kind == "file" and not path.name):
        return "is no name of a file"
    return "has a size below 0" if entry.size < 0 else None


def _collision(path: Path, kind: str, seen: dict[str, str]) -> str | None:
    """What else has the place of an entry, or of a folder it lies in; if nothing, they are noted as taken."""
    for place in (path, *path.parents):
        is_file = place == path and kind == "file"
        name, key = f"{place}{'' if is_file else '/'}", unicodedata.normalize("NFC", str(place)).casefold()
        if key in seen:
            return None if seen[key] == name and not is_file else f"has the place of {seen[key]}"
        seen[key] = name
    return None


def _write(entry: Entry, target: Path) -> None:
    if entry.kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with entry.open() as source, target.open("xb") as file:  # type: ignore[union-attr]
        shutil.copyfileobj(source, file, 1 << 20)
        if file.tell() != entry.size:
            raise EOFError(f"{entry.name} ends after {file.tell()} of {entry.size} bytes")
