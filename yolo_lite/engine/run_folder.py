"""Where a run writes: ``runs/train/exp``, ``exp2``, ``exp3``, ..."""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_lite.config.bounds import printable
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.run import RunConfig
from yolo_lite.config.run_lock import MARK, own
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.data.outputs import NO_INPUTS, Inputs, check_folder, check_place
from yolo_lite.engine.unreadable import write_problems

if TYPE_CHECKING:  # what predict does not need need not be loaded
    from yolo_lite.engine.processes import Processes
    from yolo_lite.engine.state import Resume

RESTART_PATIENCE = 30.0  # seconds that torchrun's processes wait for those of an earlier start to let go

LONGEST_STEM = 240  # bytes


def make_run_folder(
    project: str | os.PathLike[str], name: str, exist_ok: bool, inputs: Inputs = NO_INPUTS, patience: float = 0.0
) -> Path:
    """Make a folder that no other run has, and take it for this process; with ``exist_ok`` one that may be there.

    Raises:
        ConfigError: it would lie where nothing is written, see ``check_folder``, or another process has it.
    """
    told, number = f"--project {os.fspath(project)}", 1
    first = folder = run_place(project, name, inputs)
    if exist_ok:
        check_folder(folder, inputs, "--project")
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            break
        except FileExistsError:
            if exist_ok or not folder.exists():
                raise ConfigError(f"{told} --name {name}: {folder} is in the way, not a folder") from None
        except OSError as error:
            raise ConfigError(f"{told}: {folder} cannot be made: {error.strerror}") from error
        number += 1
        folder = first.with_name(f"{name}{number}")
    return owned(folder, patience)


def run_place(project: str | os.PathLike[str], name: str, inputs: Inputs = NO_INPUTS) -> Path:
    """Where a run of this name lies. Raises UserError where nothing may be written there."""
    if name in ("", ".", "..") or printable(name) != name or Path(name).name != name:
        raise ConfigError(f"--name: expected the name of a folder, which lies in --project, found {name!r}")
    return check_place(project, inputs, "--project") / name


def training_folder(
    config: RunConfig, resume: Resume | None, splits: Sequence[DatasetIndex], processes: Processes
) -> Path:
    """The folder of a training run; what the dataset's reader left out is said, and kept there as a whole.

    Raises:
        ConfigError: as ``make_run_folder``.
    """
    options, inputs = config.train, dataset_inputs(config.data, config.data_file, splits)
    if resume:
        folder = owned(check_place(resume.folder, inputs, "--resume"))
    else:
        files = filter(None, (options.cfg, options.hyp, options.weights))
        inputs = inputs._replace(files=(*inputs.files, *files))
        patience = RESTART_PATIENCE if processes.launchers else 0.0
        folder = make_run_folder(options.project, options.name, options.exist_ok, inputs, patience)
    (folder / "weights").mkdir(exist_ok=True)
    mark_launchers(folder, processes.launchers)
    print(f"train: {splits[0].describe()}\nval:   {splits[1].describe()}")
    if path := write_problems(folder, [line for index in splits for line in index.problems]):
        print(f"what was left out, in full: {path}")
    return folder


def removed(folder: Path, with_project: bool) -> None:
    """Take a run folder away that nothing was written into, and the folder of runs where it was made with it."""
    if [path.name for path in folder.iterdir()] == [MARK]:
        (folder / MARK).unlink()
        folder.rmdir()
        if with_project and not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def owned(folder: Path, patience: float = 0.0) -> Path:
    """The folder, taken for this process. Raises ConfigError where another has it, or it cannot be written into."""
    try:
        own(folder, patience)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written into: {error.strerror}") from error
    return folder


def unique_stems(files: Sequence[str], folders: Collection[int] = ()) -> list[Path]:
    """A path of its own for the results of each file, below the folder that all files share.

    It lacks the file's ending unless another one would be the same then; upper and lower case are the same. It depends
    on the set of files alone, not on their order.

    Args:
        files: paths, each once.
        folders: positions of files whose results lie in a folder of that name: no other file's lie there. Films, of
            which one result is ``<stem>.mp4``; of all files one is ``<stem>.txt``, which no folder of others is called.
    """
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    names = [Path(os.path.relpath(file, root)) for file in files]
    stems = [name.with_suffix("") for name in names]
    whole: set[int] = set()  # positions of those that keep their ending
    while True:
        count, parents = Counter(map(comparable, stems)), _folders_of(stems)
        clashing = {position for position, stem in enumerate(stems) if count[comparable(stem)] > 1}
        clashing |= {position for position in folders if parents & _results(stems[position])}
        clashing |= {position for position, stem in enumerate(stems) if comparable(Path(f"{stem}.txt")) in parents}
        if clashing <= whole:
            return _numbered(list(map(_shortened, stems)), folders)
        whole |= clashing  # a.png for the one may be what is left of another's a.png.jpg
        stems = [
            name if position in whole else stem for position, (name, stem) in enumerate(zip(names, stems, strict=True))
        ]


def _numbered(stems: list[Path], folders: Collection[int]) -> list[Path]:
    """The stems, with a number where even whole names are the same to some file systems, as a.jpg and a.JPG."""
    parents, taken, films = _folders_of(stems), set[str](), set(folders)
    for position in sorted(range(len(stems)), key=lambda position: str(stems[position])):
        stem = stems[position]
        numbered = (stem.with_name(f"{stem.name}.{number}") for number in itertools.count(2))
        for one in itertools.chain((stem,), numbered):
            results = {comparable(Path(f"{one}.txt"))} | (_results(one) if position in films else set())
            if comparable(one) not in taken and not results & parents:
                break
        stems[position] = one
        taken.add(comparable(one))
    return stems


def _folders_of(stems: Iterable[Path]) -> set[str]:
    return {comparable(around) for parent in {stem.parent for stem in stems} for around in (parent, *parent.parents)}


def _results(stem: Path) -> set[str]:
    """What the results of a film are called."""
    return {comparable(stem), comparable(Path(f"{stem}.mp4"))}


def _shortened(stem: Path) -> Path:
    """A stem to which endings such as ``_100.jpg`` can be added where a name may have 255 bytes."""
    name = os.fsencode(stem.name)
    if len(name) <= LONGEST_STEM:
        return stem
    digest = hashlib.sha256(name).hexdigest()[:12]
    return stem.with_name(f"{name[: LONGEST_STEM - 13].decode(errors='ignore')}-{digest}")


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
