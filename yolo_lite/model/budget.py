"""What the rows of a model YAML may come to, estimated before anything is built: a bomb is a line, not an hour.

The largest known YOLOs have 140 million parameters and 33 billion operations for an image of 256 x 256 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from yolo_lite.config.model import ModelConfig
from yolo_lite.model.heads.head import Head

PARAMETERS = 2_000_000_000  # 8 GB
OPERATIONS = 2_000_000_000_000  # multiplications of the dry run: some ten seconds on one core
NUMBERS = 1 << 28  # of one feature map of the dry run: 1 GB
MOST = {"kernel": 127, "kernels": 127, "stride": 64, "expansion": 64}  # of these parameters of a block
KERNELS = 16  # in a list


class Budget:
    """What is left for the rows behind those that were counted; each method raises ValueError where that is less."""

    def __init__(self) -> None:
        self.parameters, self.operations = float(PARAMETERS), float(OPERATIONS)

    def block(self, block: Callable[..., Any], given: Mapping[str, Any], image: Tensor, repeats: int) -> None:
        """Count a block with these arguments, several times in a row, on a map ``[1, C, H, W]``."""
        for name, most in MOST.items():
            found = given.get(name, 1)
            numbers = list(found) if isinstance(found, Sequence) and not isinstance(found, str) else [found]
            if any(isinstance(number, (int, float)) and number > most for number in numbers) or len(numbers) > KERNELS:
                raise ValueError(f"{name}: expected at most {most}, found {found!r:.80}")
        in_channels, *sides = image.shape[1:]
        out_channels, wide = given.get("out_channels", in_channels), max(given.get("expansion", 1), 1)
        stride = given.get("stride", 1)
        cells = math.prod(sides) / (stride**2 if isinstance(stride, (int, float)) else 1)
        kernel = given.get("kernel", 1)
        size = kernel**2 if isinstance(kernel, (int, float)) else 1
        width = max(in_channels, out_channels * wide)
        parameters = repeats * width * out_channels * wide * size / max(given.get("groups") or 1, 1)
        pairs = cells**2 if getattr(block, "attends", False) else 0  # every cell with every other
        self.spend(parameters, cells, repeats * width * pairs)
        self.map(max(out_channels * wide * cells, pairs))

    def upsampling(self, arguments: Sequence[Any], image: Tensor) -> None:
        """Count torch's Upsample with these arguments."""
        numbers = [one for one in arguments[:2] if isinstance(one, (int, float))]
        self.map(image.numel() * max([1, *numbers]) ** 2)

    def head(self, head: type[Head], config: ModelConfig, maps: Sequence[Tensor], arguments: Sequence[Any]) -> None:
        """Count the convolutions that a head plans on these maps."""
        planned = head.planned([image.shape[1] for image in maps], config, *arguments)
        for image, convolutions in zip(maps, planned, strict=True):
            cells = math.prod(image.shape[2:])
            for parameters, channels in convolutions:
                self.spend(parameters, cells)
                self.map(channels * cells)

    def map(self, numbers: float) -> None:
        """Look at a feature map of so many numbers."""
        if numbers > NUMBERS:
            raise ValueError(
                f"expected a map of at most {NUMBERS:,} numbers for 256 x 256 pixels, found {numbers:,.0f}"
            )

    def spend(self, parameters: float, cells: float, more: float = 0) -> None:
        """Count so many parameters, each of which is used at so many places, and more multiplications."""
        operations = parameters * cells + more
        self.parameters -= parameters
        self.operations -= operations
        if self.parameters < 0:
            raise ValueError(f"expected a model of at most {PARAMETERS:,} parameters, found {parameters:,.0f} here")
        if self.operations < 0:
            found = f"found {operations:,.0f} here"
            raise ValueError(f"expected at most {OPERATIONS:,} operations for 256 x 256 pixels, {found}")
