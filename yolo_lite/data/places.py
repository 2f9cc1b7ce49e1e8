"""Where a dataset and its sources are that do not lie where its YAML says, as after a move or an export."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from yolo_lite.config.errors import DataError
from yolo_lite.data.files import is_folder, path_names


class Places(NamedTuple):
    """Where a dataset and its sources are, which may be elsewhere than its YAML says."""

    stated: Path
    root: Path
    moved: dict[str, str]  # sources that are not there as written -> where they are
    unclear: dict[str, str]  # sources that could be in several places -> what is wrong

    def of(self, source: str) -> str:
        """Where a source is. Raises DataError where that is unclear."""
        if source in self.unclear:
            raise DataError(self.unclear[source])
        return self.moved.get(source, source)

    def notes(self, sources: Iterable[str]) -> list[str]:
        """A line for what has moved of the root and these sources."""
        moved = {str(self.stated): str(self.root)} if self.root != self.stated else {}
        moved |= {str(self.root / source): self.moved[source] for source in sources if source in self.moved}
        return [f"there is no {stated}: {place} is used" for stated, place in moved.items()]


def find_places(stated: Path, folder: Path, sources: Sequence[str], where: str | Path) -> Places:
    """Look for a root and sources that are not there: an end of their path may lie below ``folder``, the YAML's.

    The folder itself may also be the root, a source may lie below the root, and a relative one in a subfolder.

    Raises:
        DataError: the root could be in two places. What is wrong with a source is kept until it is asked for.
    """
    root = stated
    if not stated.exists():
        ends = (folder / end for end in (*_ends(str(stated)), Path()))
        found = _different(str(place) for place in ends if any(_is_there(place, source) for source in sources))
        if len(found) > 1:
            raise DataError(f"{where}: path: no such folder: {stated}{_choice(found)}")
        root = Path(*found) if found else stated
    places = Places(stated, root, {}, {})
    taken = {os.path.realpath(root / source): source for source in sources if _is_there(root, source)}
    for source in dict.fromkeys(sources):
        # Roboflow writes ../train/images for its own train/images: beside the folder of another export both are there.
        own = Path(*path_names(source)) if source.startswith("..") and root == folder else None
        if own and _is_there(root, source) and _is_there(folder, str(own)):
            both = _different([str(root / source), str(folder / own)])
            places.unclear.update({source: f"{where}: {source}{_choice(both)}"} if len(both) > 1 else {})
            continue
        found = [] if _is_there(root, source) else _different(_readings((root, folder), source))
        other = next((taken[place] for place in taken if found and _overlap(os.path.realpath(found[0]), place)), "")
        if len(found) == 1 and not other:
            places.moved[source] = found[0]
            taken[os.path.realpath(found[0])] = source
        elif found:
            reason = _choice(found) if len(found) > 1 else f"; {found[0]} is, holds or lies in what {other} means"
            places.unclear[source] = f"{where}: found nothing at {root / source}{reason}"
    return places


def _ends(path: str) -> list[Path]:
    """The ends of a path of another place; none begins with a wildcard that was not the path's beginning."""
    names = path_names(path)
    return [Path(*names[at:]) for at in range(len(names)) if not at or not _is_magic(names[at])]


def _readings(folders: Sequence[Path], source: str) -> list[str]:
    """What a source may mean that is not there as written."""
    ends = _ends(source)
    found = list(itertools.product(folders, ends))
    if ends and not os.path.isabs(source) and folders[-1].is_dir():
        found += [(Path(entry), ends[0]) for entry in os.scandir(folders[-1]) if is_folder(entry)]
    return [_literally(base, end) for base, end in found if _is_there(base, str(end))]


def _literally(base: Path, end: Path) -> str:
    """One path, in which only the end may hold wildcards."""
    return str(base / end) if (base / end).exists() else os.path.join(glob.escape(str(base)), end)


def _overlap(one: str, other: str) -> bool:
    """Whether two real paths are the same, or folders of which one holds the other."""
    return one == other or (
        os.path.isdir(one) and os.path.isdir(other) and os.path.commonpath((one, other)) in (one, other)
    )


def _different(places: Iterable[str]) -> list[str]:
    return sorted({os.path.realpath(place): place for place in places}.values())


def _choice(places: Sequence[str]) -> str:
    return f"; it could be {' or '.join(places[:2])}: write which"


def _is_there(root: Path, source: str) -> bool:
    """Whether a source exists; of a pattern the folders before the first wildcard."""
    path = Path(os.path.expanduser(source))
    fixed = itertools.takewhile(lambda part: not _is_magic(part), path.parts)
    return os.path.exists(root / path) or (_is_magic(source) and os.path.exists(root.joinpath(*fixed)))


def _is_magic(part: str) -> bool:
    return glob.escape(part) != part
