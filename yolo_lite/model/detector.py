"""The YOLO detector: layers in the order of its YAML, strides, anchors, initialisation, fusing, summary."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.schema import ModelConfig
from yolo_lite.model.blocks import Concat, Conv, Detect
from yolo_lite.model.builder import BAD_ROW, Layer, anchor_sizes, build_layers, row_name
from yolo_lite.ops.grid import Grid, make_grid


class Detector(nn.Module):
    """A network from picture to raw outputs; B images, N slots, C classes.

    Attributes:
        strides: pixels a cell of each level, ascending.
        anchors: buffer ``[L, A, 2]``, pixels.
        config: what it was built from.

    Raises:
        ConfigError: a row of the model YAML does not fit; the message holds the row.
    """

    anchors: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layers = build_layers(config)
        self.config = config
        self.layers = nn.ModuleList(layer.module for layer in layers)
        self.sources = [layer.sources for layer in layers]
        self.kept = {source for layer in layers for source in layer.sources}
        self.strides = _find_strides(config, layers)
        self.register_buffer("anchors", _checked_anchors(config, self.strides))
        self._grids: dict[tuple[int, int, torch.device], Grid] = {}
        _initialise_biases(self.layers[-1], self.strides, config.nc)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits ``[B, N, 5+C]`` of images ``[B, ch, H, W]`` in 0..1, H and W multiples of the last stride."""
        outputs: dict[int, Tensor] = {-1: images}
        result = images
        for index, (layer, sources) in enumerate(zip(self.layers, self.sources, strict=True)):
            several = isinstance(layer, (Concat, Detect))
            result = layer([outputs[source] for source in sources] if several else outputs[sources[0]])
            if index in self.kept:
                outputs[index] = result
        return result

    def grid(self, height: int, width: int) -> Grid:
        """The slots for inputs of this size, made once and kept."""
        key = (height, width, self.anchors.device)
        if key not in self._grids:
            self._grids[key] = make_grid(self.anchors, self.strides, height, width)
        return self._grids[key]

    def __deepcopy__(self, memo: dict[int, object]) -> Detector:
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        nn.Module.__init__(clone)
        for name, value in self.__dict__.items():
            if name != "_compiled_call_impl":  # compiled code belongs to the original
                clone.__dict__[name] = {} if name == "_grids" else copy.deepcopy(value, memo)
        return clone


def _find_strides(config: ModelConfig, layers: list[Layer]) -> list[int]:
    """Strides of the maps that Detect reads, from a dry run layer by layer on the meta device."""
    size = 256
    outputs = {-1: torch.empty(1, config.ch, size, size, device="meta")}
    for index, layer in enumerate(layers[:-1]):
        maps = [outputs[source] for source in layer.sources]
        try:
            module = copy.deepcopy(layer.module).to("meta").eval()
            outputs[index] = _checked_map(module(maps if layer.row.module == "Concat" else maps[0]), layer.out_channels)
        except BAD_ROW as error:
            raise ConfigError(f"{row_name(config, index)}: {error}") from error
    cells, detect = [outputs[source].shape[-1] for source in layers[-1].sources], row_name(config, len(layers) - 1)
    if any(size % count for count in cells):
        raise ConfigError(f"{detect}: expected levels of whole strides, found {cells} cells for {size} pixels")
    strides = [size // count for count in cells]
    if strides != sorted(strides):
        raise ConfigError(f"{detect}: levels must come fine to coarse, found strides {strides}")
    return strides


def _checked_map(found: object, channels: int) -> Tensor:
    """Raise ValueError where a block does not return what the rows after it are built for; a plugin's may not."""
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[1] == channels:
        return found
    shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise ValueError(f"expected a map [B, {channels}, H, W] to come out, found {shape}")


def _checked_anchors(config: ModelConfig, strides: list[int]) -> Tensor:
    anchors = anchor_sizes(config, strides)
    areas = anchors.prod(dim=-1).mean(dim=-1)
    if bool((areas.diff() < 0).any()):
        raise ConfigError(f"anchors: expected small to large, as the strides {strides} go, found {config.anchors}")
    return anchors


@torch.no_grad()
def _initialise_biases(detect: nn.Module, strides: list[int], num_classes: int) -> None:
    """Start with about 8 objects a 640 px picture and evenly rare classes (the prior of arXiv:1708.02002, 3.3)."""
    assert isinstance(detect, Detect)
    for head, stride in zip(detect.heads, strides, strict=True):
        assert isinstance(head, nn.Conv2d) and head.bias is not None
        bias = head.bias.view(-1, detect.num_outputs)  # [A, 5+C]
        bias[:, 4] += math.log(8 / (640 / stride) ** 2)
        bias[:, 5:] += math.log(0.6 / (num_classes - 0.99999))


def fused(detector: Detector) -> Detector:
    """A copy for inference whose batch normalisations are folded into the convolutions before them."""
    clone = copy.deepcopy(detector).eval()
    for module in clone.modules():
        if isinstance(module, Conv) and isinstance(module.norm, nn.modules.batchnorm._BatchNorm):
            module.conv = torch.nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return clone


class Summary(NamedTuple):
    """Size and cost of a model."""

    layers: int  # modules that hold no other module
    parameters: int
    gflops: float  # of one picture, a multiplication and an addition counted as two

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.parameters:,} parameters, {self.gflops:.1f} GFLOPs"


def summarise(detector: Detector, image_size: int) -> Summary:
    """Count layers, parameters and, by ``torch.utils.flop_counter``, operations at ``image_size`` pixels."""
    on_meta = copy.deepcopy(detector).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        on_meta(torch.empty(1, detector.config.ch, image_size, image_size, device="meta"))
    leaves = sum(1 for module in detector.modules() if not any(True for _ in module.children()))
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return Summary(leaves, parameters, counter.get_total_flops() / 1e9)
