"""The YOLO detector: layers in the order of its YAML, a head, fusing, summary."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Freeze
from yolo_lite.config.model import ModelConfig
from yolo_lite.model.blocks import Backbone, Concat, Conv
from yolo_lite.model.builder import build_layers
from yolo_lite.model.gflops import gflops
from yolo_lite.model.heads import ClassRows, Head
from yolo_lite.ops.grid import Grid
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Detections, Raw


class Detector(nn.Module):
    """A network from images to the named outputs of its head; its ``layers`` are the rows of the model YAML.

    Raises:
        ConfigError: a row points nowhere or its arguments do not fit; the message holds the row.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers = build_layers(config)
        self.config = config
        self.layers = nn.ModuleList(layer.module for layer in layers)
        self.sources = [layer.sources for layer in layers]
        self.kept = {source for sources in self.sources for source in sources}
        self.strides = self.head.strides  # pixels a cell of each level, ascending
        self.stride = max(self.strides)

    @property
    def head(self) -> Head:
        head = self.layers[-1]
        assert isinstance(head, Head)
        return head

    def forward(self, images: Tensor) -> Raw:
        """Outputs for images ``[B, ch, H, W]`` in 0..1, H and W multiples of ``stride``."""
        outputs: dict[int, Tensor] = {-1: images}
        for index, (layer, sources) in enumerate(zip(self.layers, self.sources, strict=True)):
            maps = [outputs[source] for source in sources]
            result = layer(maps if isinstance(layer, (Concat, Head)) else maps[0])
            if index in self.kept:
                outputs[index] = result
        return result

    def grid(self, height: int, width: int) -> Grid:
        return self.head.grid(height, width)

    def detections(self, raw: Raw, size: tuple[int, int], options: DetectOptions) -> Iterator[Detections]:
        grid = self.grid(*size)
        return (self.head.detections(raw.select(image), grid, options) for image in range(len(raw.slots)))

    def class_rows(self) -> dict[str, ClassRows]:
        prefix = f"layers.{len(self.layers) - 1}."
        return {prefix + name: rows for name, rows in self.head.class_rows().items()}

    def frozen(self, freeze: Freeze) -> list[nn.Module]:
        """Rows of the model YAML, counted from 0, or its backbone; ConfigError where there is no such row."""
        rows = range(len(self.config.backbone)) if freeze == "backbone" else freeze
        if missing := [row for row in rows if row not in range(len(self.layers))]:
            raise ConfigError(f"freeze: expected rows 0..{len(self.layers) - 1}, found {missing}")
        return [self.layers[int(row)] for row in rows]

    def compile_network(self) -> None:
        self.compile()

    def for_inference(self) -> Detector:
        """A copy in evaluation mode whose batch normalisations are folded into the convolutions before them."""
        clone = copy.deepcopy(self).eval()
        for module in clone.modules():
            if isinstance(module, Conv) and isinstance(module.norm, nn.modules.batchnorm._BatchNorm):
                module.conv = torch.nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.norm)
                module.norm = nn.Identity()
            elif isinstance(module, Backbone):
                module.fold()
        return clone

    def to_trace(self) -> nn.Module:
        """A copy on the CPU that returns tensors alone, for TensorBoard's graph of operations."""
        clone = copy.deepcopy(self).cpu().eval()
        clone.register_forward_hook(lambda module, images, raw: raw.slots)
        return clone

    def describe(self, size: int) -> str:
        layers = sum(1 for module in self.modules() if not any(True for _ in module.children()))
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"{layers} layers, {parameters:,} parameters, {gflops(self, size):.1f} GFLOPs at {size} px"
