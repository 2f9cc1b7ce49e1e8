"""Which rows of a head's tensors belong to classes: a start from other weights takes them over by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ClassRows(NamedTuple):
    """How the rows of a tensor belong to classes: in each group some are shared by all, the others follow by class."""

    num_groups: int
    shared: int
    per_class: int
    shared_behind: int = 0

    def count(self, num_classes: int) -> int:
        """Rows of a tensor for so many classes."""
        return self.num_groups * (self.shared + num_classes * self.per_class + self.shared_behind)

    def of(self, classes: Sequence[int], num_classes: int) -> list[int]:
        """The shared rows and those of some classes, group by group."""
        own = [self.shared + each * self.per_class + row for each in classes for row in range(self.per_class)]
        size = self.count(num_classes) // self.num_groups
        rows = (*range(self.shared), *own, *range(size - self.shared_behind, size))
        return [group * size + row for group in range(self.num_groups) for row in rows]
