"""What a run says and keeps of images that cannot be read when they are used, and of what its index left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from yolo_lite.config.errors import DataError
from yolo_lite.data.unreadable import check_share

if TYPE_CHECKING:  # the doctor's run folder comes without torch
    from yolo_lite.engine.processes import Processes
    from yolo_lite.structures import Batch

FILE = "data_problems.txt"
MOST_SAID = 10  # of the images that an evaluation leaves out; metrics.json names all
AT_USE = " (seen when it was used)"  # ends the lines of images that the index took for readable


def write_problems(folder: Path, problems: Sequence[str]) -> Path | None:
    """Write what the index left out, a line each; lines of an earlier part of the run stay, if the index has not them.

    Nothing is written, and None comes back, where there is nothing to say.
    """
    file = folder / FILE
    earlier = _lines(file)
    if not problems and not earlier:
        return None
    kept = [line for line in earlier if line.endswith(AT_USE) and line.removesuffix(AT_USE) not in problems]
    _write(file, "w", [*problems, *kept])
    return file if problems else None


def left_out_lines(unreadable: Mapping[int, str]) -> str:
    """What stands below the table of an evaluation that had to do without some images."""
    if not unreadable:
        return ""
    lines = [f"images that cannot be read and are left out: {len(unreadable)}", *list(unreadable.values())[:MOST_SAID]]
    more = [f"... and {len(unreadable) - MOST_SAID} more"] if len(unreadable) > MOST_SAID else []
    return "\n" + "\n  ".join((*lines, *more))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []


def _write(file: Path, mode: str, lines: Sequence[str]) -> None:
    with file.open(mode, encoding="utf-8", errors="backslashreplace") as opened:
        opened.writelines(f"{line}\n" for line in lines)


def readable_batches(
    batches: Iterable[Batch], unreadable: dict[int, str], processes: Processes, check: Callable[[], None] | None
) -> Iterator[Batch]:
    """Those of validation that have images; ``unreadable`` gets what each tells, ``check`` is called before each."""
    for batch in tqdm(batches, desc="validating", leave=False, delay=1, **processes.bar):
        if check:
            check()
        unreadable.update(batch.unreadable)
        if len(batch.images):
            yield batch


class WatchedBatches(Iterator["Batch"]):
    """The batches of training; each tells which images it should have had that cannot be read.

    Each of these images is said once, and kept in data_problems.txt; so are those of validation.
    """

    def __init__(self, batches: Iterator[Batch], folder: Path, num_images: int, processes: Processes) -> None:
        self.batches, self.file, self.num_images, self.processes = batches, folder / FILE, num_images, processes
        self.new: dict[int, str] = {}  # of training, by position
        self.said: dict[str, dict[int, str]] = {"train": {}, "val": {}}

    def __next__(self) -> Batch:
        try:
            batch = next(self.batches)
        except DataError as error:
            # torch's frames hold the error that holds them, and with them the loading processes, beyond the end.
            raise DataError(str(error)) from error.with_traceback(None)
        self.new.update((position, why) for position, why in batch.unreadable if position not in self.said["train"])
        return batch

    def share_new(self) -> None:
        """Tell all processes what each has noted.

        Raises:
            DataError: too many images of training cannot be read, in every process alike.
        """
        for new in self.processes.gather_everywhere(self.new):
            self.say("train", new, "the next image takes its place")
        self.new = {}
        if self.said["train"]:
            check_share(self.said["train"], self.num_images)

    def say(self, split: str, found: Mapping[int, str], what_follows: str) -> None:
        """Say and keep, in the first process, those of the found that have not been said."""
        new = {position: why for position, why in found.items() if position not in self.said[split]}
        self.said[split].update(new)
        if not new or not self.processes.is_first:
            return
        for why in new.values():
            tqdm.write(f"{split}: {why}; {what_follows}")
        known = _lines(self.file)
        _write(self.file, "a", [line for why in new.values() if (line := why + AT_USE) not in known])
