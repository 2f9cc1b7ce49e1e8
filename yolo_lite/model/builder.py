"""From the rows of a model YAML to modules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.schema import ModelConfig, Row
from yolo_lite.model.blocks import BLOCKS, Activation, Concat, Detect, activation_maker

# What torch raises where a row's numbers make no sense together.
BAD_ROW = (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError)

# Parameters of a block that a row does not give, and numbers that must be more than 0.
GIVEN_BY_BUILDER = ("in_channels", "repeats", "activation")
POSITIVE = ("out_channels", "kernel", "stride", "groups", "expansion")


class Layer(NamedTuple):
    """What one row became."""

    row: Row
    sources: tuple[int, ...]  # absolute indices of the layers it reads; -1 is the picture
    module: nn.Module
    out_channels: int


def build_layers(config: ModelConfig) -> list[Layer]:
    """Build every row; Detect comes last.

    Raises:
        ConfigError: a row points nowhere or its arguments do not fit; the message holds the row.
    """
    layers: list[Layer] = []
    activation = activation_maker(config.activation)
    for index, row in enumerate((*config.backbone, *config.head)):
        try:
            layers.append(_build_layer(row, layers, config, activation))
        except BAD_ROW as error:
            raise ConfigError(f"{row_name(config, index)}: {error}") from error
    return layers


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


def anchor_sizes(config: ModelConfig, strides: list[int]) -> Tensor:
    """Anchor widths and heights in pixels, ``[L, A, 2]``.

    A count instead of sizes gives squares from 2 strides upwards, spread over two octaves: 2, 3.2, 5 strides for 3.
    """
    if isinstance(config.anchors, int):
        factors = [2.0 * 4.0 ** (index / config.anchors) for index in range(config.anchors)]
        return torch.tensor([[[stride * factor] * 2 for factor in factors] for stride in strides])
    return torch.tensor(config.anchors).reshape(len(config.anchors), -1, 2)


def _num_anchors(config: ModelConfig) -> int:
    return config.anchors if isinstance(config.anchors, int) else len(config.anchors[0]) // 2


def _build_layer(row: Row, layers: list[Layer], config: ModelConfig, activation: Activation) -> Layer:
    sources = _sources(row, len(layers))
    widths = [config.ch if source < 0 else layers[source].out_channels for source in sources]
    if row.module not in ("Concat", "Detect") and len(widths) > 1:
        raise ValueError(f"{row.module} reads one layer, found {len(widths)}")
    if row.module == "Detect":
        return Layer(row, sources, _build_detect(row, widths, config), 0)
    if row.module == "Concat":
        return Layer(row, sources, Concat(*row.args), sum(widths))
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
            expected = f"one of 0..{index - 1}" if index else "-1, the picture"
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
    own = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    own = [p for p in own if p.name not in GIVEN_BY_BUILDER]
    required = sum(p.default is p.empty for p in own)
    if not required <= len(arguments) <= len(own):
        names = ", ".join(p.name for p in own)
        raise ValueError(f"{row.module} takes [{names}], found {len(arguments)} arguments")
    for parameter, argument in zip(own, arguments, strict=False):
        _check_argument(parameter, argument)
    return {p.name: argument for p, argument in zip(own, arguments, strict=False)}


def _check_argument(parameter: inspect.Parameter, argument: Any) -> None:
    """Raise ValueError where an argument is not of the annotated type; without an annotation anything goes."""
    name, hint = parameter.name, parameter.annotation
    try:
        TypeAdapter(Any if hint is parameter.empty else hint).validate_python(argument, strict=True)
    except ValidationError:
        expected = hint.__name__ if isinstance(hint, type) else hint
        raise ValueError(f"{name}: expected {expected}, found {argument!r}") from None
    if name in POSITIVE and _is_number(argument) and argument <= 0:
        raise ValueError(f"{name}: expected more than 0, found {argument}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _build_detect(row: Row, widths: list[int], config: ModelConfig) -> Detect:
    # YOLOv5 files write [nc, anchors]: the words stand for the keys at the top of the file.
    if row.args and (row.args[0] not in ("nc", config.nc) or row.args[1:] not in ((), ("anchors",))):
        raise ValueError(f"Detect takes [nc, anchors], the words for the file's own keys, found {list(row.args)}")
    if not isinstance(config.anchors, int) and len(config.anchors) != len(widths):
        raise ValueError(f"Detect reads {len(widths)} levels but anchors are given for {len(config.anchors)}")
    return Detect(widths, config.nc, _num_anchors(config))
