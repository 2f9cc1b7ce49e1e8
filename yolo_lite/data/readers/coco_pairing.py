"""Which records of a COCO file are of which image: one to one, or an error that names both.

The ``file_name`` of a record is an end of its image's path. One that is a path of another machine (that begins with
``/``, a drive, ``../`` or ``https://``) is that of the image that shares the longest end with it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from yolo_lite.config.errors import DataError
from yolo_lite.data.pairing import fold
from yolo_lite.data.turned import pixels_stated

Row = dict[str, Any]
FOREIGN = re.compile(r"/|[A-Za-z]:|\.\./|\w+://")  # how paths of another machine begin
CLEARLY = 3  # times as many pairs as the next folder has
URL = re.compile(r"\w+://[^/]*/(?P<path>[^?#]*)")


class Claim(NamedTuple):
    """An image whose path ends like a record's name."""

    parts: int  # of the common end
    image: str
    is_exact: bool  # the name is the whole path below a folder that the sources of the images name


def paired(
    records: Sequence[Row], images: Sequence[str], path: Path, folders: Sequence[str]
) -> tuple[dict[str, list[Row]], list[str]]:
    """The records of each image that has some, and images that were found by their bare names alone.

    Where one folder of the file's stands for one of the images' in nearly all pairs, it does so in all: what lies
    elsewhere is another image. A name that could mean several is that of the image that has it as its whole path below
    one of the ``folders``. Several records of one name are of one image, if there is but one that they could mean.

    Raises:
        DataError: a name could mean two images, or an image two names.
    """
    by_name: dict[str, list[Row]] = defaultdict(list)
    for record in records:
        by_name[_plain(str(record["file_name"]))].append(record)
    names, folded = _names_by_end(by_name), _names_by_end(by_name, fold)
    whole = {image: os.path.abspath(image).replace(os.sep, "/") for image in images}
    found = {image: _found(text, names) or _found(fold(text), folded) for image, text in whole.items()}
    expected = _by_root({whole[image]: one for image, one in found.items()}, by_name)
    tops = [fold(os.path.abspath(folder).replace(os.sep, "/")) for folder in folders]
    claims: dict[str, list[Claim]] = defaultdict(list)
    for image, one in found.items():
        if expected is not None:
            one = expected.get(fold(whole[image]))
        if one is None:
            continue
        if len(one.names) > 1:
            raise DataError(f"labels: {path}: images: {one.names[0]!r} and {one.names[1]!r} could both be {image}")
        is_exact = any(fold(whole[image]) == f"{top}/{fold(one.names[0])}" for top in tops)
        claims[one.names[0]].append(Claim(one.parts, image, is_exact))
    owner = {name: _owner(name, by_name[name], own, path) for name, own in claims.items()}
    by_bare_name = [
        one.image
        for name, one in owner.items()
        if one.parts == 1 and FOREIGN.match(name) and not _same_folder(name, one)
    ]
    return {one.image: by_name[name] for name, one in owner.items()}, by_bare_name


class Found(NamedTuple):
    """Names that share the longest end with an image's path, and how many parts that has."""

    names: list[str]
    parts: int


def _by_root(found: Mapping[str, Found | None], names: Iterable[str]) -> dict[str, Found] | None:
    """The name of each image path (folded) if one folder stands for another in all; None if no two clearly do."""
    roots: Counter[tuple[str, str]] = Counter()
    for image, one in found.items():
        if one and len(one.names) == 1:
            roots[tuple("/".join(text.split("/")[: -one.parts]) for text in (one.names[0], image))] += 1  # type: ignore[index]
    most = roots.most_common(2)
    if not most or (len(most) > 1 and most[0][1] < CLEARLY * most[1][1]):
        return None
    (own, theirs), _ = most[0]
    below = [(name, name[len(own) :].lstrip("/")) for name in names if name.startswith(f"{own}/" if own else "")]
    return {fold(f"{theirs}/{rest}"): Found([name], rest.count("/") + 1) for name, rest in below}


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


def _found(image: str, names: Mapping[str, set[str]]) -> Found | None:
    parts = image.split("/")
    for first in range(len(parts)):
        if found := names.get("/".join(parts[first:])):
            return Found(sorted(found), len(parts) - first)
    return None


def _owner(name: str, own: Sequence[Row], claims: Sequence[Claim], path: Path) -> Claim:
    """The one image that a name means."""
    longest = max(claim.parts for claim in claims)
    best = [claim for claim in claims if claim.parts == longest]
    exact = [claim for claim in best if claim.is_exact]
    if len(best) > 1 and (len(own) > 1 or len(exact) != 1):
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
