"""``--batch-size auto``: the largest power of two that fits on the GPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.run import RunConfig
from yolo_lite.data.letterbox import padded_size
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.optimizer import Plan
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.state import initial_state
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.train import train_step
from yolo_lite.ops.masks import STRIDE
from yolo_lite.structures import Batch, Compute, Objects

LARGEST = 1024
LARGEST_SHARE = 0.9  # of the GPU's memory; the rest is for batches with more objects
OBJECTS = 20  # of each image in the trial


def largest_batch_size(config: RunConfig, local_rank: int = 0) -> int:
    """Try a training step with 1, 2, 4, ... random images; ConfigError without a GPU, or where not even one fits."""
    compute = choose_compute(config.train.device, config.hyp.precision, config.hyp.channels_last, local_rank)
    if compute.device.type != "cuda":
        raise ConfigError(f"--batch-size auto: measures the memory of a CUDA GPU, found {compute.device.type}")
    return largest_that_fits(lambda count: memory_share(config, compute, count))


def largest_that_fits(share_of: Callable[[int], float]) -> int:
    """The largest power of two for which ``share_of`` the memory is small enough, without an OutOfMemoryError."""
    count = 1
    with contextlib.suppress(torch.OutOfMemoryError):
        while count <= LARGEST and share_of(count) <= LARGEST_SHARE:
            count *= 2
    if count == 1:
        raise ConfigError("--batch-size auto: not even one image fits on the GPU; try a smaller --imgsz or model")
    return count // 2


def memory_share(config: RunConfig, compute: Compute, count: int) -> float:
    """Share of the GPU's memory that two training steps on ``count`` random images have reserved."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(compute.device)
    task, hyp = task_of(config.model), config.hyp
    model: Any = move_model(task.build(config.model), compute)
    criterion = task.criterion(config.model, hyp, np.ones(config.model.nc)).to(compute.device)
    state = initial_state(model, criterion, hyp, compute)
    state.epoch = hyp.freeze_epochs  # the first in which all learn that will
    state.in_training()
    largest = math.ceil(config.train.imgsz * (1 + hyp.multi_scale))
    size, _ = padded_size(largest, largest, model.stride)
    batch = random_batch(count, size, config.data.channels, compute, task.has_masks)
    for _ in range(2):  # the optimizer's memory comes with its first step
        train_step(state, [batch], Setup(hyp, compute, Plan(1, 1, 1), seed=0))
    total = torch.cuda.get_device_properties(compute.device).total_memory
    return torch.cuda.max_memory_reserved(compute.device) / total


def random_batch(count: int, size: int, channels: int, compute: Compute, has_masks: bool = False) -> Batch:
    """Noise with ``OBJECTS`` boxes, and masks, an image, on the device."""
    images = torch.rand(count, channels, size, size, device=compute.device).to(memory_format=compute.memory_format)
    owner = torch.arange(count, device=compute.device).repeat_interleave(OBJECTS)
    box = torch.rand(len(owner), 4, device=compute.device) * size / 2 + size / 8
    cells = (len(owner), size // STRIDE, size // STRIDE)
    mask = torch.ones(cells, dtype=torch.uint8, device=compute.device) if has_masks else None
    nothing = torch.zeros(count, 0)
    return Batch(images, Objects(owner, torch.zeros_like(owner), box, mask), torch.arange(count), nothing, nothing)
