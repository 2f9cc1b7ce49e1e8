"""The stages of prediction side by side: what is read ahead, networks on several batches, and the clock.

Items keep their order, few of them are in memory, and no thread outlives the caller's block or generator.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from yolo_lite.config.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
Skip = Callable[[DataError], None] | None  # what becomes of an input that cannot be read; None: it is raised

READERS = max(2, min(os.cpu_count() or 1, 4))  # threads; OpenCV decodes outside of Python's lock


class Clock:
    """Seconds of the stages by name, added up over all threads."""

    def __init__(self) -> None:
        self.seconds, self._lock = dict[str, float](), threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

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

    def start(kind: str, items: Iterator[T]) -> Callable[[], Iterable[T | DataError]]:
        known = _with_error(items)
        if kind == "image":
            return pool.submit(list[T | DataError], known).result
        return functools.partial(_in_parts, pool, known, ahead) if kind == "video" else functools.partial(iter, known)

    left, coming, pool = iter(inputs), deque[Callable[[], Iterable[T | DataError]]](), ThreadPoolExecutor(READERS)
    try:
        while True:
            coming.extend(start(*one) for one in itertools.islice(left, ahead - len(coming)))
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


def _with_error(items: Iterator[T]) -> Iterator[T | DataError]:
    """The items, and as the last one what has ended them."""
    try:
        yield from items
    except DataError as problem:
        yield problem


def _in_parts(pool: ThreadPoolExecutor, items: Iterator[T], size: int) -> Iterator[T]:
    """The items, of which a thread makes some while the caller is at work on those before."""
    coming = pool.submit(lambda: list(itertools.islice(items, size)))
    while ready := coming.result():
        coming = pool.submit(lambda: list(itertools.islice(items, size)))
        yield from ready


def side_by_side(function: Callable[[T], R], items: Iterator[T], workers: int) -> Generator[R, None, None]:
    """What a function makes of each item, in their order; so many threads work at once, each with its share of cores.

    Of one item alone the caller makes it, with all cores.
    """
    first = list(itertools.islice(items, 2 if workers > 1 else 0))
    if len(first) < 2:
        yield from map(function, itertools.chain(first, items))
        return
    with _setting:
        share = max(torch.get_num_threads() // workers, 1)
    coming, pool = deque[Future[R]](), ThreadPoolExecutor(workers, initializer=_take_share, initargs=(share,))
    try:
        coming.extend(pool.submit(function, one) for one in first)
        first.clear()  # large images would stay until the end
        while coming:
            coming.extend(pool.submit(function, one) for one in itertools.islice(items, workers + 1 - len(coming)))
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_setting = threading.Lock()  # of torch's number of threads: each thread has its own, and begins with what any set last


def _take_share(share: int) -> None:
    """Let torch use so many threads in this one, and in those that begin after it as many as before.

    It is asked for the number first: otherwise the first question, even after a setting, gets what others set last.
    """
    with _setting:
        usual = torch.get_num_threads()
        torch.set_num_threads(share)
        other = threading.Thread(target=torch.set_num_threads, args=(usual,))
        other.start()
        other.join()
