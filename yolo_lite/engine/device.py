"""Which device, in which precision, with which memory layout."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch

from yolo_lite.config.errors import ConfigError
from yolo_lite.structures import Compute

DEVICES = ("cpu", "cuda", "mps", "xpu")


def choose_compute(device: str, precision: str, channels_last: bool, local_rank: int = 0) -> Compute:
    """Resolve ``--device`` and the keys ``precision`` and ``channels_last``.

    Args:
        device: "cpu", "mps", "cuda:1" or "1"; "" and "cuda" pick the GPU of this process's ``local_rank``.
        precision: "auto" is bf16 where the hardware computes in it, fp16 on older GPUs, else fp32.
    """
    chosen = _choose_device(device, local_rank)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes.get(precision) or _native_dtype(chosen)
    if dtype == torch.float16 and chosen.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU, expected fp32 or bf16 on the CPU")
    if chosen.type == "cpu":
        _keep_freed_memory()
    return Compute(chosen, dtype, torch.channels_last if channels_last else torch.contiguous_format)


def _choose_device(name: str, local_rank: int) -> torch.device:
    if not name or name == "cuda":
        name = f"cuda:{local_rank}" if name or torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(1, device=f"cuda:{name}" if name.isdigit() else name).device
        if device.type not in DEVICES:
            raise RuntimeError(f"expected one of {', '.join(DEVICES)}")
        return device
    except (RuntimeError, AssertionError) as error:
        reason, gpus = str(error).splitlines()[0], torch.cuda.device_count()
        raise ConfigError(f"--device {name}: not available ({gpus} CUDA devices): {reason}") from None


def _native_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # torch has no public name for what a CPU computes in; without an answer fp32 is never wrong, only slower.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if device.type == "cpu" else ()
    return torch.bfloat16 if any(getattr(torch.cpu, name, lambda: False)() for name in checks) else torch.float32


def _keep_freed_memory() -> None:
    """Ask glibc to keep freed activations for the next step instead of returning them to the system.

    Every step would otherwise fault the same pages in again: 10 to 20 % of a training step was seen to go there.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, m_trim_threshold, m_mmap_max = ctypes.CDLL(None), -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only; an operation without one raises its RuntimeError."""
    if not wanted:  # to say so would import torch's compiler
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def move_model(model: Any, compute: Compute) -> Any:
    """The model on the device, in the memory format."""
    return model.to(device=compute.device, memory_format=compute.memory_format)


@contextlib.contextmanager
def libraries_left_uncollected() -> Iterator[None]:
    """Spare Python's garbage collector the half million objects of the imported libraries.

    Each of its full passes takes 0.1 s for them, and the dicts of COCO's evaluation trigger several an epoch. Forked
    workers also share what no collector touches.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
