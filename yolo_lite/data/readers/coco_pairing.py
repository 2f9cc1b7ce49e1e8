"""Which records of a COCO file are of which image: one to one, or an error that names both.

The ``file_name`` of a record is an end of its image's path. One that is a path of another machine (that begins with
``/``, a drive, ``../`` or ``https://``) is that of the image that shares the longest end with it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from yolo_lite.config.errors import DataError
from yolo_lite.data.pairing import fold
from yolo_lite.data.turned import pixels_stated

Row = dict[str, Any]
FOREIGN = re.compile(r"/|[A-Za-z]:|\.\./|\w+://")  # how paths of another machine begin
URL = re.compile(r"\w+://[^/]*/(?P<path>[^?#]*)")


class Claim(NamedTuple):
    """An image whose path ends like a record's name."""

    parts: int  # of the common end
    image: str
    is_exact: bool  # the name is the whole path below the folder that all images share


def paired(records: Sequence[Row], images: Sequence[str], path: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """The records of each image that has some, and images that were found by their bare names alone.

    Several records of one name are of one image, if there is but one that they could mean.

    Raises:
        DataError: a name could mean two images, or an image two names.
    """
    by_name: dict[str, list[Row]] = defaultdict(list)
    for record in records:
        by_name[_plain(str(record["file_name"]))].append(record)
    names = _names_by_end(by_name)
    folded = _names_by_end(by_name, fold)
    claims: dict[str, list[Claim]] = defaultdict(list)
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images]) if images else ""
    for image in dict.fromkeys(images):
        whole = os.path.abspath(image).replace(os.sep, "/")
        name, length = _claimed(whole, names, path, image)
        if name is None:
            name, length = _claimed(fold(whole), folded, path, image)
        if name is not None:
            is_exact = fold(os.path.relpath(image, shared).replace(os.sep, "/")) == fold(name)
            claims[name].append(Claim(length, image, is_exact))
    owner = {name: _owner(name, by_name[name], own, path) for name, own in claims.items()}
    by_bare_name = [
        one.image
        for name, one in owner.items()
        if one.parts == 1 and FOREIGN.match(name) and not _same_folder(name, one)
    ]
    return {one.image: by_name[name] for name, one in owner.items()}, by_bare_name


def _plain(name: str) -> str:
    """A name with slashes, without what leads nowhere."""
    if url := URL.match(name):
        return f"/{posixpath.normpath(unquote(url['path']))}"
    drive = re.match("[A-Za-z]:", name)
    plain = posixpath.normpath(re.sub("/+", "/", name.strip().replace("\\", "/")))
    return f"/{plain[2:].lstrip('/')}" if drive else plain


def _names_by_end(names: Mapping[str, Any], form: Any = str) -> dict[str, set[str]]:
    """The names by what paths of their images may end with: the name, or any end of a path of another machine."""
    ends: dict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = [part for part in form(name).split("/") if part not in ("", "..")]
        for first in range(len(parts) if FOREIGN.match(name) else 1):
            ends["/".join(parts[first:])].add(name)
    return ends


def _claimed(image: str, names: Mapping[str, set[str]], path: Path, where: str) -> tuple[str | None, int]:
    """The name that shares the longest end with an image's path, and how many parts that has."""
    parts = image.split("/")
    for first in range(len(parts)):
        if found := names.get("/".join(parts[first:])):
            if len(found) > 1:
                one, other = sorted(found)[:2]
                raise DataError(f"labels: {path}: images: {one!r} and {other!r} could both be {where}")
            return next(iter(found)), len(parts) - first
    return None, 0


def _owner(name: str, own: Sequence[Row], claims: Sequence[Claim], path: Path) -> Claim:
    """The one image that a name means."""
    longest = max(claim.parts for claim in claims)
    best = [claim for claim in claims if claim.parts == longest]
    exact = [claim for claim in best if claim.is_exact]
    if len(best) > 1 and (len(own) > 1 or not exact):
        ids = ", ".join(repr(record["id"]) for record in own)
        found = f"images: {name!r} (id {ids}) could be {best[0].image} or {best[1].image}"
        raise DataError(f"labels: {path}: {found}: expected a file_name with the folders that tell them apart")
    for side in ("height", "width"):
        if len({pixels_stated(record.get(side)) for record in own} - {None}) > 1:
            raise DataError(f"labels: {path}: images: {name!r} is listed {len(own)} times, with sizes that differ")
    return exact[0] if len(best) > 1 else best[0]


def _same_folder(name: str, claim: Claim) -> bool:
    """Whether no folder of a record's name speaks against the image: it has none, or its folder is called the same."""
    folder = posixpath.basename(posixpath.dirname(name))
    return not folder or fold(folder) == fold(os.path.basename(os.path.dirname(claim.image)))
