"""Download a public dataset, for ``yolo-lite download`` only: nothing that trains imports this module.

Everything happens in ``<set>.download`` beside the set's folder: archives, named ``.part`` until their checksum is
verified, and the unpacked set, which is renamed to ``<set>`` once it is complete. A stopped download can be resumed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import http.client
import os
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from yolo_lite.config.data import Archive, DatasetConfig
from yolo_lite.config.errors import DataError
from yolo_lite.tools.unpack import unpack

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without an answer or a byte
ATTEMPTS = 4  # in a row that bring nothing new
PAUSE = 2.0  # seconds before the second attempt, twice that before the third, ...
NETWORK_ERRORS = (URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def download_set(config: DatasetConfig, root: Path) -> bool:
    """Fetch, verify and unpack the archives of a dataset YAML; returns False if the set is there already.

    Raises:
        DataError: a transfer fails for good, a checksum is wrong, an archive is refused, the disk is too small, or
            something else is in the set's place. A set that is there is never touched.
    """
    if not root.name:
        raise DataError(f"{root}: expected a folder of the set's own")
    work = root.with_name(f"{root.name}.download")
    try:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            if missing := _missing(config, root):
                raise DataError(f"{root} is there but has no {missing[0]}: move it away, or choose a place with --into")
            shutil.rmtree(work, ignore_errors=True)  # of a run that was stopped at its very end
            return False
        _check_space(config.download, work)
        with _alone_in(work), contextlib.ExitStack() as undo:
            files = [_fetch(archive, work) for archive in config.download]
            shutil.rmtree(work / "unpacked", ignore_errors=True)  # of a run that was killed
            undo.callback(shutil.rmtree, work / "unpacked", ignore_errors=True)
            whole = _unpack_all(config, files, work / "unpacked")
            if root.exists():
                root.rmdir()  # it is empty
            os.replace(whole, root)
        shutil.rmtree(work)
    except OSError as error:
        raise DataError(f"{error.filename or work}: {error.strerror or error}") from error
    return True


@contextlib.contextmanager
def _alone_in(work: Path) -> Iterator[None]:
    """Lock the folder against a second command, where the system has file locks."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{work}: another yolo-lite download is at work there") from None
        yield


def _missing(config: DatasetConfig, root: Path) -> list[str]:
    """List the sources that the set lacks."""
    sources = (*config.train, *config.val, *config.test)
    return [
        path for path in sources if not (root / path).exists() and not glob.glob(path, root_dir=root, recursive=True)
    ]


def _check_space(archives: tuple[Archive, ...], work: Path) -> None:
    """Images hardly shrink in an archive: the unpacked set takes about as much space again."""
    there = sum(file.stat().st_size for file in work.glob("*") if file.is_file())
    needed = 2 * sum(archive.size for archive in archives) - there
    disk = next(folder for folder in work.parents if folder.exists())
    if (free := shutil.disk_usage(disk).free) < needed:
        need, have = tqdm.format_sizeof(needed, "B"), tqdm.format_sizeof(free, "B")
        raise DataError(f"{disk}: archives and set need about {need}, {have} are free")


def _unpack_all(config: DatasetConfig, files: list[Path], folder: Path) -> Path:
    """Unpack into a new folder; returns the folder of the set, which may be the only one inside."""
    folder.mkdir()
    seen: dict[str, str] = {}
    for file, archive in zip(files, config.download, strict=True):
        unpack(file, folder / archive.into, seen)
    tops = sorted(folder.iterdir())
    for whole in [folder, *tops] if len(tops) == 1 else [folder]:
        if not (missing := _missing(config, whole)):
            return whole
    raise DataError(f"the archives hold no {missing[0]}; found {', '.join(top.name for top in tops)}")


def _fetch(archive: Archive, folder: Path) -> Path:
    """Return the verified file of an archive, which is downloaded, resumed or was put there by hand."""
    file = folder / urlsplit(archive.url).path.rpartition("/")[2]
    if file.exists():
        if problem := _problem(file, archive):
            raise DataError(f"{file}: {problem}; remove it")
        return file
    part = file.with_name(f"{file.name}.part")
    _transfer(archive, part)
    if problem := _problem(part, archive):
        part.unlink()
        raise DataError(f"{archive.url}: {problem}; what was transferred is deleted")
    os.replace(part, file)
    return file


def _problem(file: Path, archive: Archive) -> str | None:
    """Describe how a file differs from the archive it should be, if it does."""
    digest = hashlib.sha256()
    with file.open("rb") as content, _shown(content, archive, f"checking {file.name}") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() == archive.sha256:
        return None
    return f"expected sha256 {archive.sha256}, found {digest.hexdigest()} ({file.stat().st_size} bytes)"


def _shown(stream: IO[bytes], archive: Archive, text: str, done: int = 0) -> AbstractContextManager[Any]:
    """The stream, with a progress bar of what is read of it."""
    return tqdm.wrapattr(stream, "read", archive.size, desc=text, initial=done, leave=False, delay=1)


def _transfer(archive: Archive, part: Path) -> None:
    """Transfer until all bytes are there; a broken connection is resumed."""
    done = most = _size(part)  # most: bytes that we ever had, for a server may make us start over
    failures = 0
    while done < archive.size:
        problem = _try_transfer(archive, part)
        done = _size(part)
        failures = 0 if done > most else failures + 1
        most = max(most, done)
        if failures == ATTEMPTS:
            kept = f"{done} of {archive.size} bytes are kept, the same command goes on"
            raise DataError(f"{archive.url}: {problem}; {kept}")
        if done < archive.size:
            print(f"{part.stem}: {problem} after {done} of {archive.size} bytes; trying again")
            time.sleep(PAUSE * failures)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _try_transfer(archive: Archive, part: Path) -> str:
    """Try one connection; returns why it ended before the file was complete."""
    done = _size(part)
    headers = {"User-Agent": "yolo-lite", **({"Range": f"bytes={done}-"} if done else {})}
    try:
        with OPENER.open(Request(archive.url, headers=headers), timeout=TIMEOUT) as answer:
            done = done if answer.status == 206 else 0  # a server without ranges starts over
            total = (answer.headers["Content-Range" if done else "Content-Length"] or "*").rpartition("/")[2]
            if total not in (str(archive.size), "*"):
                problem = f"expected {archive.size} bytes, the server has {total}: it is another file"
                raise DataError(f"{archive.url}: {problem}")
            with part.open("ab" if done else "wb") as file, _shown(answer, archive, part.stem, done) as stream:
                _copy(stream, file, archive.size)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # we have more bytes than the server: ours is another file
            part.unlink(missing_ok=True)
        elif error.code < 500 and error.code not in (408, 429):
            raise DataError(f"{archive.url}: HTTP {error.code} {error.reason}") from error
        return f"HTTP {error.code} {error.reason}"
    except NETWORK_ERRORS as error:
        return str(getattr(error, "reason", error))
    return "the connection was closed"


def _copy(answer: IO[bytes], file: IO[bytes], size: int) -> None:
    """Write until the file has its size or nothing more comes."""
    while (left := size - file.tell()) and (chunk := answer.read(min(CHUNK, left))):
        file.write(chunk)


class _WebOnly(HTTPRedirectHandler):
    """Refuse redirects to ftp, which urllib would follow."""

    def redirect_request(self, request: Request, *answer: Any) -> Request | None:
        if urlsplit(answer[-1]).scheme not in ("http", "https"):
            raise DataError(f"{request.full_url}: refused: the server redirects to {answer[-1]}")
        return super().redirect_request(request, *answer)


OPENER = build_opener(_WebOnly)
