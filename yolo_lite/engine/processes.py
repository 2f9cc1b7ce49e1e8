"""One run in many processes, as torchrun starts them; alone, everything here does nothing.

torch's DistributedDataParallel is not used: it averages over processes, which is wrong where their shares of a batch
differ, and it needs a backward pass in every process, which an empty share has not. Here the sums that make up the
gradient are added once a step, so that two processes give the gradient of one, whatever their shares.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from yolo_lite.config.errors import ConfigError, LostProcessError

T = TypeVar("T")

PATIENCE = datetime.timedelta(minutes=30)  # that a process waits for the others: the first one may read a large set


class Processes(NamedTuple):
    """This process among those of the run; the first alone writes and speaks."""

    rank: int = 0  # counts the processes of all machines
    size: int = 1
    local_rank: int = 0  # on its machine: the number of its GPU
    launchers: tuple[str, ...] = ()  # the torchruns of all processes, none without torchrun

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; float32, one transfer for all."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        with _lost_processes_named(self):
            distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; they all wait for each other."""
        count = torch.tensor(float(flag))
        self.add([count])
        return bool(count)

    def gather_everywhere(self, value: T) -> list[T]:
        """The value of every process, by rank."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        with _lost_processes_named(self):
            distributed.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the first process; an error that it raises there is raised everywhere."""
        if self.size == 1:
            return make()
        box: list[Any] = [None]
        if self.is_first:
            try:
                box = [make()]
            except Exception as error:  # handed on: the others would wait for ever
                box = [error]
        with _lost_processes_named(self):
            distributed.broadcast_object_list(box, src=0)
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]  # type: ignore[no-any-return]

    @property
    def bar(self) -> dict[str, Any]:
        """Options of tqdm: one process shows its progress."""
        return {} if self.is_first else {"disable": True}

    def share_of(self, values: Sequence[T]) -> Sequence[T]:
        """This process's part of a list: neighbours; sizes differ by one at most, the first's is largest."""
        start, stop = (-(-len(values) * rank // self.size) for rank in (self.rank, self.rank + 1))
        return values[start:stop]


ALONE = Processes()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun has started; without torchrun this one is alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE
        return
    threading.Thread(target=_stop_with, args=(os.getppid(),), daemon=True).start()
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if size == 1:
        yield ALONE._replace(launchers=(_launcher(),))
        return
    processes, backend = Processes(rank, size, local_rank), "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    with _lost_processes_named(processes):
        shared, _, _ = next(iter(distributed.rendezvous("env://", rank, size)))  # type: ignore[attr-defined]
        store = _fresh_store(shared, rank, size)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        # One process speaks for all; errors are said by each.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if rank == 0 else nowhere):
            yield processes._replace(launchers=tuple(sorted({*processes.gather_everywhere(_launcher())})))
    finally:
        distributed.destroy_process_group()


def _stop_with(parent: int) -> None:
    """Ask this process to stop when torchrun is gone, which cannot stop it any more: nobody knows of it then."""
    while os.getppid() == parent:  # the orphan is given to another process
        time.sleep(1)
    print(f"torchrun (process {parent}) has ended: process {os.getpid()}, which it started, stops", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def _fresh_store(store: Store, rank: int, size: int) -> Store:
    """A store that no earlier start of these processes has written to.

    torchrun keeps its store when it restarts them: who came first would be sent to the addresses of the dead. Each
    process therefore asks under a name of its own, and the first one answers until all have come.
    """
    name = uuid.uuid4().hex
    if rank:
        store.set(f"ask/{rank}", name)
        store.wait([f"answer/{name}"], PATIENCE)
        name = store.get(f"answer/{name}").decode()
        store.set(f"{name}/come/{rank}", "")
        return PrefixStore(name, store)
    missing, deadline = set(range(1, size)), time.monotonic() + PATIENCE.total_seconds()
    while missing:
        for other in missing:
            if store.check([f"ask/{other}"]):  # maybe what a dead process has asked
                store.set(f"answer/{store.get(f'ask/{other}').decode()}", name)
        missing = {other for other in missing if not store.check([f"{name}/come/{other}"])}
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(missing)} have not come within {PATIENCE}")
        time.sleep(0.02)
    return PrefixStore(name, store)


def _launcher() -> str:
    """The torchrun that has started this process: id of its run, machine, process and, on Linux, start.

    In a container its process number alone is the same every time.
    """
    parent, started = os.getppid(), "-"
    with contextlib.suppress(OSError):
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {parent} {started}"


@contextlib.contextmanager
def _lost_processes_named(processes: Processes) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's distributed errors are RuntimeErrors, gloo's nothing more
        reason = str(error).strip().splitlines()[0][:200]
        told = f"another process of this run has ended or does not answer ({reason}); see its own message"
        raise LostProcessError(f"process {processes.rank} of {processes.size}: {told}") from error


def synchronised(model: Any, num_images: int, batch_size: int, processes: Processes) -> Any:
    """The model with batch statistics of all processes. They wait for each other: none may be without an image."""
    if next(model.parameters()).device.type == "cpu":
        raise ConfigError("sync_bn: torch synchronises batch statistics on GPUs only, expected false on the CPU")
    smallest = min(batch_size, num_images % batch_size or batch_size)
    if smallest < processes.size:
        raise ConfigError(
            f"sync_bn: expected an image for each of {processes.size} processes in every batch, found {smallest} in "
            f"the smallest of {num_images} images with --batch-size {batch_size}; choose another batch size"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)
