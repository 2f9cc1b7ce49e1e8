"""Unpack an untrusted archive: plain files and folders only, and only below one folder."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import open_regular

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_EXPANSION = 100  # an archive that unpacks to more than this many times its own size is a bomb
FREE_ENTRIES = 1_000  # files and folders of any archive, beyond which there is one for
BYTES_OF_AN_ENTRY = {".zip": 76, ".tar": 512}  # at least, of the archive itself
BYTES_COMPRESSED = 16
DEPTH = 64  # folders in folders
LONGEST_NAME = 4_000  # bytes of a path
LONGEST_HEADER = 1 << 20  # bytes that tarfile reads at once: an attribute or a name; contents come in such pieces too
UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, ValueError, LookupError, ArithmeticError, RecursionError),
)


class Member(NamedTuple):
    """One member of an archive."""

    name: str
    kind: str  # "file", "folder", or a description of anything else
    size: int  # bytes as stated; reading stops there
    open: Callable[[], IO[bytes] | None]


def is_archive(path: str | os.PathLike[str]) -> bool:
    return os.fspath(path).lower().endswith(ARCHIVES) and os.path.isfile(path)


def unpack(archive: Path, folder: Path, seen: dict[str, str]) -> None:
    """Write the contents of a .zip, .tar, .tar.gz or .tgz file below a folder.

    Args:
        seen: what was written below it so far; the archives of one set share it, so that none overwrites another's.

    Raises:
        DataError: the archive is damaged or a bomb, or has a member that leads out of the folder, that is neither file
            nor folder, or whose name is there already, if only in other letters (A and a, composed accents).
    """
    size = archive.stat().st_size
    left, before = MOST_EXPANSION * size, len(seen)
    most = FREE_ENTRIES + size // BYTES_OF_AN_ENTRY.get(archive.suffix.lower(), BYTES_COMPRESSED)
    try:
        for member in tqdm(_members(archive), desc=f"unpacking {archive.name}", unit=" entries", leave=False, delay=1):
            path, left = PurePosixPath(member.name.replace("\\", "/")), left - member.size
            if problem := _problem(member, path) or _collision(folder / path, member.kind, seen):
                raise DataError(f"{archive}: refused: {member.name!r:.200} {problem}")
            if len(seen) - before > most:
                raise DataError(f"{archive}: refused: more than {most:,} files and folders in {size:,} bytes")
            if left < 0:
                raise DataError(f"{archive}: refused: it unpacks to more than {MOST_EXPANSION} times its size")
            _write(member, folder / path)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{archive}: damaged, or no such archive as its name says: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the system; that of a broken stream has none
            raise
        raise DataError(f"{archive}: damaged, or no such archive as its name says: {error}") from error


def _members(archive: Path) -> Iterator[Member]:
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            _check_apart(zipped)
            for info in zipped.infolist():
                yield Member(info.filename, _zip_kind(info), info.file_size, partial(zipped.open, info))
        return
    with open_regular(archive) as file:
        stream = file if archive.suffix.lower() == ".tar" else gzip.GzipFile(fileobj=file)
        pieces: Any = _InPieces(stream, MOST_EXPANSION * archive.stat().st_size)
        tar: Any
        with tarfile.open(fileobj=pieces, mode="r:") as tar:
            while member := tar.next():
                yield Member(member.name, _tar_kind(member), member.size, partial(tar.extractfile, member))
                tar.members.clear()  # a million of them would be a gigabyte


class _InPieces:
    """A stream of which nobody reads much at once, nor too far: tarfile believes any length that a header states."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most + tarfile.RECORDSIZE
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes, expected at most {LONGEST_HEADER:,}")
        if self.tell() + size > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {MOST_EXPANSION} times its size")
        return self._stream.read(size)


def _check_apart(zipped: zipfile.ZipFile) -> None:
    """Raise BadZipFile where entries share their bytes, as in a bomb that states the same ones again and again."""
    spans = sorted((info.header_offset, info.header_offset + 30 + info.compress_size) for info in zipped.infolist())
    for (_, end), (start, _) in itertools.pairwise(spans):
        if end > start:
            raise zipfile.BadZipFile(f"entries overlap at byte {start}")


def _zip_kind(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "is encrypted"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):  # 0: packed without Unix modes
        return "is a link or a device"
    return "folder" if info.is_dir() else "file"


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "folder"
    if member.isreg() and not member.issparse():
        return "file"
    return "is a link" if member.issym() or member.islnk() else "is a device, or a file with holes"


def _problem(member: Member, path: PurePosixPath) -> str | None:
    """Describe why a member is refused, apart from collisions."""
    if member.kind not in ("file", "folder"):
        return member.kind
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", str(path)):
        return "leads out of the folder"
    if len(path.parts) > DEPTH:
        return f"lies {len(path.parts)} folders deep, expected at most {DEPTH}"
    if len(os.fsencode(path)) > LONGEST_NAME or any(len(os.fsencode(part)) > 255 for part in path.parts):
        return "has a name that is too long for a file"
    if any(ord(letter) < 32 for letter in member.name) or (member.kind == "file" and not path.name):
        return "is no name of a file"
    return "has a size below 0" if member.size < 0 else None


def _collision(path: Path, kind: str, seen: dict[str, str]) -> str | None:
    """Describe what else has the place of a member or of a folder it is in; otherwise note the places as taken."""
    for place in (path, *path.parents):
        is_file = place == path and kind == "file"
        name, key = f"{place}{'' if is_file else '/'}", unicodedata.normalize("NFC", str(place)).casefold()
        if key in seen:
            return None if seen[key] == name and not is_file else f"has the place of {seen[key]}"
        seen[key] = name
    return None


def _write(member: Member, target: Path) -> None:
    if member.kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, target.open("xb") as file:  # type: ignore[union-attr]
        shutil.copyfileobj(source, file, 1 << 20)
        if file.tell() != member.size:
            raise EOFError(f"{member.name} ends after {file.tell()} of {member.size} bytes")
