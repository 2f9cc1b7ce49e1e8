"""From the rows of a model YAML to modules."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.model import ModelConfig, Row
from yolo_lite.config.seams import read_argument
from yolo_lite.model.blocks import BLOCKS, Activation, Concat, activation_maker
from yolo_lite.model.heads import HEADS, Head

# What torch raises where a row's numbers make no sense together.
BAD_ROW = (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError)

# Parameters of a block that a row does not give, and numbers that must be more than 0.
GIVEN_BY_BUILDER = ("in_channels", "repeats", "activation")
POSITIVE = ("out_channels", "kernel", "stride", "groups", "expansion")


class Layer(NamedTuple):
    """What one row became."""

    row: Row
    sources: tuple[int, ...]  # absolute indices of the layers it reads; -1 is the image
    module: nn.Module
    out_channels: int


def build_layers(config: ModelConfig) -> list[Layer]:
    """Build every row but the last, which is the head's.

    Raises:
        ConfigError: a row points nowhere or its arguments do not fit; the message holds the row.
    """
    layers: list[Layer] = []
    activation = activation_maker(config.activation)
    for index, row in enumerate((*config.backbone, *config.head[:-1])):
        with named_row(config, index):
            layers.append(_build_layer(row, layers, config, activation))
    return layers


def build_head(config: ModelConfig, layers: list[Layer]) -> tuple[Head, tuple[int, ...]]:
    """Build the last row, and name the layers that it reads; ConfigError as ``build_layers``."""
    row = config.head[-1]
    with named_row(config, len(layers)):
        sources = _sources(row, len(layers))
        strides = _find_strides(config, layers, sources)
        widths = [layers[source].out_channels for source in sources]
        return HEADS[row.module](widths, strides, config, *row.args), sources


@contextlib.contextmanager
def named_row(config: ModelConfig, index: int) -> Iterator[None]:
    """Name the row in what is raised where its numbers make no sense together."""
    try:
        yield
    except ConfigError:
        raise
    except BAD_ROW as error:
        raise ConfigError(f"{row_name(config, index)}: {error}") from error


def row_name(config: ModelConfig, index: int) -> str:
    """``"head row 3 (layer 13) [-1, 3, C3, [512, False]]"`` for messages."""
    in_backbone = index < len(config.backbone)
    part, number = ("backbone", index) if in_backbone else ("head", index - len(config.backbone))
    return f"{part} row {number} (layer {index}) {(*config.backbone, *config.head)[index]}"


def scaled_width(width: int, config: ModelConfig) -> int:
    """Channels of a block: ``width * width_multiple``, rounded up to ``channel_multiple``."""
    return math.ceil(width * config.width_multiple / config.channel_multiple) * config.channel_multiple


def scaled_repeats(repeats: int, config: ModelConfig) -> int:
    """Depth of a block: ``repeats * depth_multiple``, at least 1; a single block stays single."""
    return max(round(repeats * config.depth_multiple), 1) if repeats > 1 else repeats


def _build_layer(row: Row, layers: list[Layer], config: ModelConfig, activation: Activation) -> Layer:
    sources = _sources(row, len(layers))
    widths = [config.ch if source < 0 else layers[source].out_channels for source in sources]
    if row.module not in BLOCKS:
        raise ValueError(f"unknown module {row.module!r}{nearest(row.module, BLOCKS)}")
    if row.module == "Concat":
        return Layer(row, sources, Concat(*row.args), sum(widths))
    if len(widths) > 1:
        raise ValueError(f"{row.module} reads one layer, found {len(widths)}")
    arguments = [None if argument == "None" else argument for argument in row.args]
    if "in_channels" in inspect.signature(BLOCKS[row.module]).parameters:
        return Layer(row, sources, *_build_block(row, arguments, widths[0], config, activation))
    module = BLOCKS[row.module](*arguments)
    repeated = nn.Sequential(*(module for _ in range(row.repeats))) if row.repeats > 1 else module
    return Layer(row, sources, repeated, widths[0])


def _sources(row: Row, index: int) -> tuple[int, ...]:
    sources = tuple(index + source if source < 0 else source for source in row.source)
    for given, source in zip(row.source, sources, strict=True):
        if not (0 <= source < index or (index == 0 and source == -1)):
            expected = f"one of 0..{index - 1}" if index else "-1, the image"
            raise ValueError(f"'from' {given} points to layer {source}, expected {expected}")
    return sources


def _build_block(
    row: Row, arguments: list[Any], in_channels: int, config: ModelConfig, activation: Activation
) -> tuple[nn.Module, int]:
    """A block that is given the channels that come in, and how many leave it."""
    block = BLOCKS[row.module]
    parameters = inspect.signature(block, eval_str=True).parameters
    given, repeats = _given_by_row(row, parameters, arguments), scaled_repeats(row.repeats, config)
    if "out_channels" in given:
        given["out_channels"] = scaled_width(given["out_channels"], config)
    if "activation" in parameters:
        given["activation"] = activation
    if "repeats" in parameters:  # its inner part is repeated, not the block
        given["repeats"], repeats = repeats, 1
    out_channels = given.get("out_channels", in_channels)
    widths = (in_channels, *(out_channels for _ in range(repeats - 1)))
    blocks = [block(in_channels=width, **given) for width in widths]
    return blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks), out_channels


def _given_by_row(row: Row, parameters: Mapping[str, inspect.Parameter], arguments: list[Any]) -> dict[str, Any]:
    """The arguments of a row by name; ValueError where they do not fit the parameters of the block."""
    listed = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    own = [p for p in listed if p.name not in GIVEN_BY_BUILDER]
    required = sum(p.default is p.empty for p in own)
    if not required <= len(arguments) <= len(own):
        names = ", ".join(p.name for p in own)
        raise ValueError(f"{row.module} takes [{names}], found {len(arguments)} arguments")
    for parameter, argument in zip(own, arguments, strict=False):
        read_argument(parameter, argument, where=f"{parameter.name}: ")
        if parameter.name in POSITIVE and isinstance(argument, (int, float)) and argument <= 0:
            raise ValueError(f"{parameter.name}: expected more than 0, found {argument}")
    return {p.name: argument for p, argument in zip(own, arguments, strict=False)}


def _find_strides(config: ModelConfig, layers: list[Layer], sources: tuple[int, ...]) -> list[int]:
    """Strides of the maps that the head reads, from a dry run layer by layer; in a meta context without any values."""
    size = 256
    outputs = {-1: torch.zeros(1, config.ch, size, size)}
    for index, layer in enumerate(layers):
        maps = [outputs[source] for source in layer.sources]
        with named_row(config, index):
            found = dry_run(layer.module, maps if layer.row.module == "Concat" else maps[0])
            if not (isinstance(found, Tensor) and found.ndim == 4 and found.shape[1] == layer.out_channels):
                shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__  # of a plugin's block
                raise ValueError(f"expected a map [B, {layer.out_channels}, H, W] to come out, found {shape}")
            outputs[index] = found
    cells = [outputs[source].shape[-1] for source in sources]
    if any(size % count for count in cells):
        raise ValueError(f"expected levels of whole strides, found {cells} cells for {size} pixels")
    strides = [size // count for count in cells]
    if strides != sorted(strides):
        raise ValueError(f"levels must come fine to coarse, found strides {strides}")
    return strides


@torch.no_grad()
def dry_run(module: nn.Module, *inputs: Any) -> Any:
    """What a module returns in evaluation mode; it is left in the mode that it was in."""
    was_training = module.training
    module.eval()
    try:
        return module(*inputs)
    finally:
        module.train(was_training)
