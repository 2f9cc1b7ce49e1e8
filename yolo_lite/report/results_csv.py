"""results.csv: one row of numbers an epoch, on disk after every epoch, no epoch twice after a resume."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path


class ResultsCsv:
    """A growing table of epochs. The first row's keys become the header; one of them must be "epoch".

    An existing file is continued: its rows before `first_epoch` stay, later ones and a last line cut off by a
    crash are dropped, so `first_epoch=0` starts afresh. Raises ValueError if the kept file is no such table.
    """

    def __init__(self, path: str | os.PathLike[str], first_epoch: int = 0):
        self.path = Path(path)
        rows = _rows_before(self.path, first_epoch) if first_epoch > 0 and self.path.exists() else []
        self.header = rows[0] if len(rows) > 1 else None
        if self.path.exists():
            _replace_rows(self.path, rows if self.header else [])

    def append(self, row: Mapping[str, float]) -> None:
        """Adds one row, in the header's order. Raises ValueError if its keys are not those of the header."""
        new_file = self.header is None
        header = list(row) if self.header is None else self.header
        if set(row) != set(header) or "epoch" not in row:
            missing, unknown = sorted({*header, "epoch"} - set(row)), sorted(set(row) - set(header))
            raise ValueError(f"{self.path}: the row lacks the columns {missing}, unknown are {unknown}")
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([header] if new_file else [])
            writer.writerow([_cell(row[key]) for key in header])
        self.header = header


def _cell(value: float) -> str:
    """Digits that read back as the same number; NumPy's own repr would write "np.float64(0.5)"."""
    return str(int(value)) if isinstance(value, Integral) else repr(float(value))


def _rows_before(path: Path, first_epoch: int) -> list[list[str]]:
    """The header and the complete rows of earlier epochs; empty for an empty file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = list(csv.reader(line for line in lines if line.endswith("\n")))
    if rows and "epoch" not in rows[0]:
        raise ValueError(f'{path}: expected a header with the column "epoch", found {rows[0]}')
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path}:{number}: expected {len(rows[0])} columns, found {len(row)}")
    return rows[:1] + [row for row in rows[1:] if int(row[rows[0].index("epoch")]) < first_epoch]


def _replace_rows(path: Path, rows: list[list[str]]) -> None:
    """Rewrites the file in one step: a crash leaves the old rows or the new ones."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    os.replace(temporary, path)
