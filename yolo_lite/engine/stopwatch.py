"""How long each stage of an evaluation takes."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds by stage."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(("load", "model", "loss", "nms", "ap"), 0.0)
        self.device, self.last = device, time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap, until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now
