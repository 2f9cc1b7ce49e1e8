"""Tables of text for the terminal, plain or as Markdown, and the result of an evaluation as one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# The columns of HEADER: a name, two counts, ratios in 0..1 or texts; those of masks may lack.
ClassRow = tuple[Any, ...]
HEADER = ("class", "images", "objects", "precision", "recall", "mAP50", "mAP50-95", "mask50", "mask50-95")


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Plain text; the first column is aligned left, the others, which are numbers, right."""
    line = "  ".join(f"{{:{'>' if column else '<'}{width}}}" for column, width in enumerate(_widths(rows)))
    return "\n".join(line.format(*row) for row in rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown that is aligned in the terminal too; the first row is the header."""
    line = "| " + " | ".join(f"{{:{width}}}" for width in _widths(rows)) + " |"
    ruler = "|" + "|".join("-" * (width + 2) for width in _widths(rows)) + "|"
    header, *others = (line.format(*row) for row in rows)
    return "\n".join([header, ruler, *others])


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def shortened(name: str) -> str:
    """A class name of 24 characters at most: with it the table fits into a terminal of 80."""
    return name if len(name) <= 24 else f"{name[:23]}…"


def with_interval(ratio: float, half_width: float = math.nan) -> str:
    """``"0.567 ±.02"``, ``"0.567"`` where nobody knows how far it is sure, or a dash where it is NaN itself."""
    if math.isnan(ratio) or math.isnan(half_width):
        return "-" if math.isnan(ratio) else f"{ratio:.3f}"
    digits = 2 if half_width >= 0.0095 else 3
    return f"{ratio:.3f} ±{f'{half_width:.{digits}f}'.removeprefix('0')}"


def class_table(rows: Sequence[ClassRow]) -> str:
    """The rows below a header; a dash where a ratio is NaN."""
    table: list[Sequence[str]] = [HEADER[: len(rows[0])]]
    for name, images, objects, *ratios in rows:
        cells = (ratio if isinstance(ratio, str) else with_interval(ratio) for ratio in ratios)
        table.append((shortened(name), str(images), str(objects), *cells))
    return aligned_table(table)
