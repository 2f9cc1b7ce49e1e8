"""Where a run writes: ``runs/train/exp``, ``exp2``, ``exp3``, ..."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from yolo_lite.config.errors import ConfigError


def make_run_folder(project: str | os.PathLike[str], name: str, exist_ok: bool) -> Path:
    """Make a folder that no other run has; with ``exist_ok`` an existing one is used again. Raises ConfigError."""
    folder, number = Path(project) / name, 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            return folder
        except FileExistsError:
            if exist_ok or not folder.exists():
                raise ConfigError(f"--project {project} --name {name}: {folder} is in the way, not a folder") from None
        except OSError as error:
            raise ConfigError(f"--project {project}: {folder} cannot be made: {error.strerror}") from error
        number += 1
        folder = Path(project) / f"{name}{number}"


def unique_stems(files: Sequence[str], folders: Collection[int] = ()) -> list[Path]:
    """A path of its own for the results of each file, below the folder that all files share.

    It lacks the file's ending unless another one would be the same then; upper and lower case are the same. It depends
    on the set of files alone, not on their order.

    Args:
        files: paths, each once.
        folders: positions of files whose results lie in a folder of that name: no other file's lie there.
    """
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    names = [Path(os.path.relpath(file, root)) for file in files]
    stems = [name.with_suffix("") for name in names]
    whole: set[int] = set()  # positions of those that keep their ending
    while True:
        count = Counter(map(comparable, stems))
        parents = {comparable(parent) for stem in stems for parent in stem.parents} if folders else set()
        clashing = {position for position, stem in enumerate(stems) if count[comparable(stem)] > 1}
        clashing |= {position for position in folders if comparable(stems[position]) in parents}
        if clashing <= whole:
            return stems
        whole |= clashing  # a.png for the one may be what is left of another's a.png.jpg
        stems = [
            name if position in whole else stem for position, (name, stem) in enumerate(zip(names, stems, strict=True))
        ]


def comparable(path: Path) -> str:
    """Equal for paths that some file systems do not tell apart."""
    return unicodedata.normalize("NFC", str(path)).casefold()


TORCHRUN_FILE = "torchrun.txt"  # in a run folder: the torchruns that started its processes, a line each


def mark_launchers(folder: Path, launchers: Sequence[str]) -> None:
    """Note which torchruns work on a run, if any do, for ``folder_of``."""
    if launchers:
        (folder / TORCHRUN_FILE).write_text("\n".join(launchers) + "\n", encoding="utf-8")


def folder_of(project: str, launchers: Sequence[str]) -> Path | None:
    """The latest run folder below ``project`` on which one of these torchruns has worked before.

    torchrun starts its processes anew when one has failed, or a machine has come or gone. Restarts cannot be told by
    its own count, which leaves the latter out; a new torchrun by hand is a new run.
    """
    files = sorted(Path(project).glob(f"*/{TORCHRUN_FILE}"), key=os.path.getmtime, reverse=True)
    return next((file.parent for file in files if {*launchers} & {*file.read_text().splitlines()}), None)


def latest_checkpoint(project: str) -> Path:
    """The last.pt below ``project`` that was written most recently. Raises ConfigError if there is none."""
    found = list(Path(project).glob("*/weights/last.pt"))
    if not found:
        raise ConfigError(f"--resume: no */weights/last.pt below {project}")
    return max(found, key=os.path.getmtime)
