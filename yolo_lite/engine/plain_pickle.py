"""The structure of a pickle, checked before it is run: what it names, how deep it nests, what it comes to.

A pickle is a program; a few bytes of it may fetch the same tuple again and again, so that a kilobyte stands for more
values than there are atoms, and the first loop over them, or a hash, never ends.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from yolo_lite.config.errors import CheckpointError

MOST_BYTES = 32 << 20
MOST_OPERATIONS = 1_000_000  # twenty times those of a run of yolo_s
MOST_VALUES = 4_000_000  # that it stands for, shared ones as often as they are reached
DEEPEST = 200  # containers in containers
CHARACTERS = 64  # of text that count as one value
INTEGERS = range(-(2**63), 2**63)


class _Value:
    """A value that the program has made: how much it stands for, and whether anything holds it already."""

    __slots__ = ("depth", "is_held", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight, self.depth, self.is_held = weight, 0, False

    def take(self, values: Sequence[_Value]) -> None:
        """Hold others. One that is held itself is complete: only a circle, or a trick, would still change it."""
        for value in values:
            value.is_held = True
            self.weight += value.weight
            self.depth = max(self.depth, value.depth + 1)
        if self.is_held:
            raise CheckpointError("refused: its pickle changes a container that others hold")
        if self.weight > MOST_VALUES or self.depth > DEEPEST:
            raise CheckpointError(
                f"refused: its pickle stands for more than {MOST_VALUES:,} values, or nests deeper than {DEEPEST}"
            )


ATOM = _Value()
ATOM.is_held = True  # nothing can be put into it, so one stands for all


def check_pickle(program: bytes, known: re.Pattern[str]) -> set[str]:
    """Follow a pickle without running it; returns the full names of what it may call.

    Raises:
        CheckpointError: it names what ``known`` does not match, or stands for too much; the file is not named.
        ValueError, LookupError: it is no pickle of plain data.
    """
    if len(program) > MOST_BYTES:
        raise CheckpointError(f"refused: its pickle has {len(program):,} bytes, expected at most {MOST_BYTES:,}")
    machine = _Machine(known, len(program))
    for number, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        if number > MOST_OPERATIONS:
            raise CheckpointError(f"refused: its pickle has more than {MOST_OPERATIONS:,} operations")
        if opcode.name not in OPERATIONS:
            raise ValueError(f"the operation {opcode.name}")
        OPERATIONS[opcode.name](machine, argument)
    return machine.names


class _Machine:
    """The stack and the memo of an unpickler, of values that are only weighed."""

    def __init__(self, known: re.Pattern[str], most_memo: int) -> None:
        self.known, self.most_memo = known, most_memo
        self.stack: list[_Value | None] = []  # None is a mark
        self.memo: dict[int, _Value] = {}
        self.names, self.texts = set[str](), ["", ""]

    def nothing(self, argument: Any) -> None:
        pass

    def push(self, argument: Any) -> None:
        self.stack.append(ATOM)

    def push_container(self, argument: Any) -> None:
        self.stack.append(_Value())

    def push_text(self, argument: str | bytes) -> None:
        self.texts = [self.texts[1], str(argument)]
        self.stack.append(_Value(1 + len(argument) // CHARACTERS) if len(argument) >= CHARACTERS else ATOM)

    def push_integer(self, argument: int) -> None:
        if argument not in INTEGERS:
            raise CheckpointError("refused: its pickle holds a whole number of more than 64 bits")
        self.stack.append(ATOM)

    def mark(self, argument: Any) -> None:
        self.stack.append(None)

    def get(self, argument: Any) -> None:
        self.stack.append(self.memo[int(argument)])

    def put(self, argument: Any) -> None:
        place = len(self.memo) if argument is None else int(argument)
        if not 0 <= place <= self.most_memo:
            raise ValueError("more values than the pickle can hold")
        self.memo[place] = self.top()

    def extension(self, argument: int) -> None:
        """Refuse what stands for a name in a table of Python's."""
        raise CheckpointError(f"refused: its pickle names extension {argument}, expected tensors and plain data")

    def name(self, argument: Any) -> None:
        module, word = str(argument).split(" ") if argument else self.texts
        full = f"{module}.{word}"
        if "." in word or not self.known.fullmatch(full):
            raise CheckpointError(f"refused: its pickle names {full[:200]!r}, expected tensors and plain data")
        self.names.add(full)
        self.stack.append(_Value())

    def name_from_stack(self, argument: Any) -> None:
        self.popped(2)
        self.name("")

    def make(self, values: Sequence[_Value]) -> None:
        made = _Value()
        made.take(values)
        self.stack.append(made)

    def top(self) -> _Value:
        if not self.stack or (value := self.stack[-1]) is None:
            raise ValueError("nothing on the stack")
        return value

    def popped(self, count: int) -> list[_Value]:
        values = self.stack[-count:]
        del self.stack[-count:]
        if len(values) != count or None in values:
            raise ValueError("nothing on the stack")
        return cast(list[_Value], values)

    def from_mark(self) -> list[_Value]:
        values = list[_Value]()
        while (value := self.stack.pop()) is not None:
            values.append(value)
        return values

    def fill(self, values: Sequence[_Value]) -> None:
        self.top().take(values)


Operation = Callable[[_Machine, Any], None]


def _making(count: int) -> Operation:
    return lambda machine, _: machine.make(machine.popped(count))


def _filling(count: int) -> Operation:
    return lambda machine, _: machine.fill(machine.popped(count))


def _all(operation: Operation, *names: str) -> dict[str, Operation]:
    return dict.fromkeys(names, operation)


# By pickletools' names; torch's unpickler knows fewer.
OPERATIONS: dict[str, Operation] = {
    **_all(_Machine.nothing, "PROTO", "FRAME", "STOP"),
    **_all(_Machine.push, "NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "FLOAT"),
    **_all(_Machine.push_container, "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"),
    **_all(_Machine.push_integer, "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"),
    **_all(_Machine.push_text, "BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    **_all(_Machine.push_text, "BINBYTES", "SHORT_BINBYTES"),
    **_all(_Machine.mark, "MARK"),
    **_all(_Machine.get, "BINGET", "LONG_BINGET", "GET"),
    **_all(_Machine.put, "BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"),
    **_all(_Machine.extension, "EXT1", "EXT2", "EXT4"),
    **_all(_Machine.name, "GLOBAL", "INST"),
    **_all(_Machine.name_from_stack, "STACK_GLOBAL"),
    **_all(_making(1), "TUPLE1", "BINPERSID"),
    **_all(_making(2), "TUPLE2", "REDUCE", "NEWOBJ"),
    **_all(_making(3), "TUPLE3"),
    **_all(lambda machine, _: machine.make(machine.from_mark()), "TUPLE", "LIST", "DICT"),
    **_all(_filling(1), "APPEND", "BUILD"),
    **_all(_filling(2), "SETITEM"),
    **_all(lambda machine, _: machine.fill(machine.from_mark()), "APPENDS", "SETITEMS", "ADDITEMS"),
}
