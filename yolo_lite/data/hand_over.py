"""Batches loaded by forked processes, whose images come through memory that they share with the process that asks.

torch's DataLoader hands each tensor over as a file in /dev/shm, of which a container has 64 MB by default. A batch that
finds no room is lost there and waited for without end, and the end of a process is raised in the middle of a step.
Here nothing needs /dev/shm: an anonymous mapping, made before the fork, has a slot for every batch under way, and each
process has one socket. A process that dies closes it, which shows when its next batch is due: between two steps.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from yolo_lite.config.errors import ShortageError, UserError
from yolo_lite.config.shortage import shortage
from yolo_lite.data.store import free_memory
from yolo_lite.structures import Batch, Objects

PREFETCH = 2  # batches that each process has ready or under way, as a DataLoader's have
SECONDS_AFTER_SIGTERM = 10  # for which a loading process goes on
MASK = Objects._fields.index("mask")
KINDS = {np.dtype(kind).str: torch.from_numpy(np.empty(0, kind)).dtype for kind in ("int64", "float32", "float64")}
_PROCESSES = ", the limit of processes is reached (ulimit -u)"
ADVICE = "try --workers 0 (the main process loads) or a smaller --batch-size"


@dataclass(eq=False)
class ForkedLoader:
    """Batches in the order of ``batches``, loaded by processes that live as long as one iteration.

    Process w of W loads the batches w, w + W, w + 2 W, ...
    """

    dataset: Any  # an item for each key
    batches: Collection[Sequence[Any]]  # keys of each batch, the same at every iteration
    collate: Callable[[list[Any], memoryview], Batch]  # items to a batch whose images lie in the memory
    num_workers: int
    batch_bytes: int  # of the images of the largest batch
    pin_memory: bool
    start: Callable[[int], None]  # called first in each process

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = ForkedBatches(self)
        return _one_ahead(batches) if self.pin_memory else batches


Loader = DataLoader[Batch] | ForkedLoader


class ForkedBatches(Iterator[Batch]):
    """One iteration; its processes end with it, with an error, or when nobody refers to it any longer.

    Raises:
        ShortageError: the system refuses memory, files or processes, or a loading process has died.
    """

    def __init__(self, loader: ForkedLoader) -> None:
        self.loader, self.done = loader, 0
        self.workers: list[tuple[BaseProcess, Connection]] = []
        self.close = weakref.finalize(self, _end, self.workers, os.getpid())
        size = loader.batch_bytes
        try:
            self.slots = _shared_memory(size * PREFETCH * loader.num_workers)
            for number in range(loader.num_workers):
                self.workers.append(_start(loader, number, self.slots))
        except OSError as error:
            self.close()
            reason = shortage(error) or f"{error.strerror}{_PROCESSES if error.errno == errno.EAGAIN else ''}"
            raise ShortageError(f"cannot start {loader.num_workers} loading processes: {reason}; {ADVICE}") from error

    def __next__(self) -> Batch:
        if self.done == len(self.loader):
            self.close()
            raise StopIteration
        count, number = divmod(self.done, self.loader.num_workers)
        _, connection = self.workers[number]
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            raise self._lost(number) from None
        if isinstance(answer, UserError):
            self.close()
            raise answer
        if isinstance(answer, ExceptionWrapper):
            self.close()
            answer.reraise()  # of the same class, with the traceback in its words
        batch = _copied(answer, _slot(self.slots, self.loader, number, count), self.loader.pin_memory)
        self.done += 1
        if self.done - 1 + PREFETCH * self.loader.num_workers < len(self.loader):
            with contextlib.suppress(OSError):  # it has died, which shows when its next batch is due
                connection.send_bytes(b"")  # the slot is free
        return batch

    def _lost(self, number: int) -> ShortageError:
        process, _ = self.workers[number]
        process.join(5)
        code = process.exitcode or 0
        how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with status {code}"
        reason = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
        self.close()
        return ShortageError(f"loading process {number + 1} of {self.loader.num_workers} {how}{reason}; {ADVICE}")


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each made by a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = thread.submit(next, batches, None)
            yield batch


def _shared_memory(num_bytes: int) -> mmap.mmap:
    """Memory that forked processes share; it is not of /dev/shm.

    Raises:
        ShortageError: there is not so much.
        OSError: the system refuses it.
    """
    free = free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < free < num_bytes:
        told = f"batches of loading processes need {num_bytes / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free"
        raise ShortageError(f"{told}; {ADVICE}")
    return mmap.mmap(-1, num_bytes)


def _slot(slots: mmap.mmap, loader: ForkedLoader, worker: int, count: int) -> memoryview:
    """Where the images of a worker's batch lie, by how many it has loaded before."""
    start = (worker * PREFETCH + count % PREFETCH) * loader.batch_bytes
    return memoryview(slots)[start : start + loader.batch_bytes]


def _start(loader: ForkedLoader, number: int, slots: mmap.mmap) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(loader, number, slots, ours, theirs), daemon=True)
    process.start()
    theirs.close()  # with the process its socket must close
    return process, ours


def _end(workers: list[tuple[BaseProcess, Connection]], owner: int) -> None:
    """End the processes at once: nothing that they write is half done, the cache's marks come last."""
    if os.getpid() == owner:  # not in a process forked later
        for process, connection in workers:
            connection.close()
            process.kill()
        for process, _ in workers:
            process.join(5)


def _work(loader: ForkedLoader, number: int, slots: mmap.mmap, ours: Connection, theirs: Connection) -> None:
    """Load every W-th batch, each into its slot; a word of the main process says that a slot may be used again."""
    ours.close()  # or the end of the main process would not show
    loader.start(number)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(number)  # for a plugin that draws from generators of its own
    batches = itertools.islice(loader.batches, number, None, loader.num_workers)
    with contextlib.suppress(EOFError, ConnectionError):  # the main process is gone
        for count in range(number, len(loader), loader.num_workers):
            count //= loader.num_workers
            if count >= PREFETCH:
                theirs.recv_bytes()
            theirs.send_bytes(_answer(loader, number, batches, _slot(slots, loader, number, count)))


def _answer(loader: ForkedLoader, number: int, batches: Iterator[Sequence[Any]], slot: memoryview) -> bytes:
    """The next batch for ``_copied``, its images in the slot, or what went wrong; pickled."""
    try:
        batch = loader.collate([loader.dataset[key] for key in next(batches)], slot)
        return pickle.dumps((tuple(batch.images.permute(0, 2, 3, 1).shape), *_packed(batch)))
    except Exception as error:  # handed on, whatever it is: the main process waits
        if words := shortage(error):
            return pickle.dumps(ShortageError(f"loading process {number + 1}: {words}; {ADVICE}"))
        return pickle.dumps(error if isinstance(error, UserError) else ExceptionWrapper(where="in a loading process"))


def _packed(batch: Batch) -> tuple[Any, ...]:
    """A batch without its images: columns that are no tensors, type and shape of the others, their bytes, masks' bits.

    The bytes are one table, which is pinned at once.
    """
    columns: list[Any] = [one.numpy() if isinstance(one, Tensor) else one for one in (*batch.objects, *batch[2:])]
    mask, columns[MASK] = columns[MASK], None
    layout = {number: (one.dtype.str, one.shape) for number, one in enumerate(columns) if isinstance(one, np.ndarray)}
    table = np.concatenate([columns[number].reshape(-1).view(np.uint8) for number in layout])
    columns = [None if number in layout else one for number, one in enumerate(columns)]
    return columns, layout, table, None if mask is None else (np.packbits(mask), mask.shape)  # an eighth of it


def _copied(answer: tuple[Any, ...], slot: memoryview, pin_memory: bool) -> Batch:
    """The batch in memory of this process, for the slot will be written again: images, a table and masks."""
    shape, columns, layout, table, masks = answer  # [B, H, W, 3]
    images = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)
    np.copyto(images.numpy(), np.ndarray(shape, np.uint8, slot))
    rows = torch.from_numpy(table).pin_memory() if pin_memory else torch.from_numpy(table)
    parts = rows.split([math.prod(own) * KINDS[kind].itemsize for kind, own in layout.values()])
    for (number, (kind, own)), part in zip(layout.items(), parts, strict=True):
        columns[number] = part.view(KINDS[kind]).view(own)
    if masks:
        bits = torch.from_numpy(np.unpackbits(masks[0], count=math.prod(masks[1])).reshape(masks[1]))
        columns[MASK] = bits.pin_memory() if pin_memory else bits
    count = len(Objects._fields)
    return Batch._make([images.permute(0, 3, 1, 2), Objects(*columns[:count]), *columns[count:]])


def start_worker(worker: int, niceness: int = 0) -> None:
    """Make a process one that loads, of one thread: the processes are the parallelism."""
    # Signals sent to the whole process group are meant for the main process, which still needs its workers to finish
    # the step: others than SIGINT leave them some seconds. When the main process ends or is killed, they end too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda *_: signal.alarm(SECONDS_AFTER_SIGTERM))
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(niceness)
