"""The stages of prediction side by side: what is read ahead of the network, what is written behind it, and the clock.

Items keep their order, few of them are in memory, and no thread outlives the caller's block or generator.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from yolo_lite.config.errors import DataError

T = TypeVar("T")
Skip = Callable[[DataError], None] | None  # what becomes of an input that cannot be read; None: it is raised

READERS = max(2, min(os.cpu_count() or 1, 4))  # threads; OpenCV decodes outside of Python's lock


class Clock:
    """Seconds of the stages by name, added up over all threads."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - start  # type: ignore[assignment]  # floats add up too

    def timed(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """The items; the time that each takes to come is counted."""
        while True:
            with self.stage(name):
                part = list(itertools.islice(items, 1))
            if not part:
                return
            yield part[0]


def begun(items: Iterator[T]) -> Iterator[T]:
    """The items, the first of which is made at once."""
    return itertools.chain(list(itertools.islice(items, 1)), items)


def read_ahead(inputs: Iterable[tuple[str, Iterator[T]]], ahead: int, skip: Skip = None) -> Generator[T, None, None]:
    """What inputs give, one input after the other, made by threads some ``ahead`` of the caller.

    Args:
        inputs: the kind of each, and its items. As many of kind "image" are at work at once; a "video" gives its items
            in parts of ``ahead``; all others are made when they are asked for: the frames of a camera are of now.

    Raises:
        DataError: something cannot be read; where ``skip`` is given, that gets the error instead.
    """
    left, coming = iter(inputs), deque[Callable[[], Iterable[T | DataError]]]()
    pool = ThreadPoolExecutor(READERS)
    try:
        while True:
            coming.extend(_started(pool, *one, ahead) for one in itertools.islice(left, ahead - len(coming)))
            if not coming:
                return
            for item in coming.popleft()():
                if not isinstance(item, DataError):
                    yield item
                elif skip is None:
                    raise item
                else:
                    skip(item)
    finally:
        pool.shutdown(cancel_futures=True)


def _started(
    pool: ThreadPoolExecutor, kind: str, items: Iterator[T], size: int
) -> Callable[[], Iterable[T | DataError]]:
    """How to get the items when it is the turn of their input; those of an image are begun now."""
    known = _with_error(items)
    if kind == "image":
        return pool.submit(list[T | DataError], known).result
    return functools.partial(_in_parts, pool, known, size) if kind == "video" else functools.partial(iter, known)


def _with_error(items: Iterator[T]) -> Iterator[T | DataError]:
    """The items, and as the last one what has ended them."""
    try:
        yield from items
    except DataError as problem:
        yield problem


def _in_parts(pool: ThreadPoolExecutor, items: Iterator[T], size: int) -> Iterator[T]:
    """The items, of which a thread makes some while the caller is at work on those before."""

    def part() -> list[T]:
        return list(itertools.islice(items, size))

    coming = pool.submit(part)
    while ready := coming.result():
        coming = pool.submit(part)
        yield from ready


@contextmanager
def behind(function: Callable[[T], object], most: int) -> Iterator[Callable[[T], None]]:
    """A way to have a thread call a function for one item after the other while the caller goes on.

    The caller waits where ``most`` items do, and at the end for all of them, unless the block ends by an error: then
    no further call begins. An error of the function ends its calls and is raised at the next item or at the end.
    """
    waiting, has_failed = deque[Future[None]](), threading.Event()

    def call(item: T) -> None:
        if not has_failed.is_set():
            try:
                function(item)
            except BaseException:
                has_failed.set()
                raise

    def give(item: T) -> None:
        while waiting and (len(waiting) >= most or waiting[0].done()):
            waiting.popleft().result()
        waiting.append(pool.submit(call, item))

    pool = ThreadPoolExecutor(1)
    try:
        yield give
        for one in waiting:
            one.result()
    finally:
        pool.shutdown(cancel_futures=True)
