"""From the rows of a model YAML to modules."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.model import ModelConfig, Row, scaled_width
from yolo_lite.config.seams import read_argument
from yolo_lite.model.blocks import BLOCKS
from yolo_lite.model.blocks.standard import Activation, Concat, activation_maker
from yolo_lite.model.budget import Budget
from yolo_lite.model.heads import HEADS

SIZE = 256  # pixels of the image that is run through the layers to find their strides
POSITIVE = ("out_channels", "kernel", "stride", "groups", "expansion")  # parameters of a block, numbers above 0
BY_STRIDE = ("Backbone", "Level")  # the one returns maps by their strides, the other reads them


class Layer(NamedTuple):
    """What one row became."""

    module: nn.Module
    sources: tuple[int, ...]  # absolute indices of the layers it reads; -1 is the image
    out_channels: int


def build_layers(config: ModelConfig) -> list[Layer]:
    """Build the rows, from the image to the head; ConfigError, with the row, where it does not fit."""
    layers, budget = list[Layer](), Budget()
    activation = activation_maker(config.activation)
    maps: dict[int, Any] = {-1: torch.zeros(1, config.ch, SIZE, SIZE)}  # of a dry run; without values in a meta context
    for index, row in enumerate((*config.backbone, *config.head)):
        try:
            sources = _sources(row, index)
            inputs = [maps[source] for source in sources]
            if any(isinstance(each, dict) for each in inputs) != (row.module == "Level"):
                raise ValueError("Level rows read a Backbone, and nothing else does")
            if row.module in HEADS:  # the last row
                head, widths = HEADS[row.module], [source.shape[1] for source in inputs]
                budget.head(head, config, inputs, row.args)
                layers.append(Layer(head(widths, _strides(inputs), config, *row.args), sources, 0))
                break
            module, out_channels = _build_module(row, inputs, config, activation, budget)
            layers.append(Layer(module, sources, out_channels))
            maps[index] = found = dry_run(module, inputs if row.module == "Concat" else inputs[0])
            is_map = isinstance(found, Tensor) and found.ndim == 4 and found.shape[1] == out_channels
            if not is_map and row.module not in BY_STRIDE:
                shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__  # of a plugin's block
                raise ValueError(f"expected a map [B, {out_channels}, H, W] to come out, found {shape}")
        except ConfigError:
            raise
        except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError, AssertionError) as error:
            number = index - len(config.backbone)
            place = f"backbone row {index}" if number < 0 else f"head row {number}"
            raise ConfigError(f"{place} (layer {index}) {row}: {error}") from error
    return layers


def scaled_repeats(repeats: int, config: ModelConfig) -> int:
    """Depth of a block: ``repeats * depth_multiple``, at least 1; a single block stays single."""
    return max(round(repeats * config.depth_multiple), 1) if repeats > 1 else repeats


def _sources(row: Row, index: int) -> tuple[int, ...]:
    sources = tuple(index + source if source < 0 else source for source in row.source)
    for given, source in zip(row.source, sources, strict=True):
        if not (0 <= source < index or (index == 0 and source == -1)):
            expected = f"one of 0..{index - 1}" if index else "-1, the image"
            raise ValueError(f"'from' {given} points to layer {source}, expected {expected}")
    return sources


def _strides(maps: list[Tensor]) -> list[int]:
    """Pixels a cell of the maps that a head reads."""
    cells = [each.shape[-1] for each in maps]
    if any(SIZE % count for count in cells):
        raise ValueError(f"expected levels of whole strides, found {cells} cells for {SIZE} pixels")
    strides = [SIZE // count for count in cells]
    if strides != sorted(strides):
        raise ValueError(f"levels must come fine to coarse, found strides {strides}")
    return strides


def _build_module(
    row: Row, maps: list[Tensor], config: ModelConfig, activation: Activation, budget: Budget
) -> tuple[nn.Module, int]:
    """The block of a row, or several of them one after the other, and the channels that leave it."""
    if row.module not in BLOCKS:
        raise ValueError(f"unknown module {row.module!r}{nearest(row.module, BLOCKS)}")
    if row.module in BY_STRIDE and row.repeats > 1:
        raise ValueError(f"expected one {row.module}, found {row.repeats}")
    block, in_channels = BLOCKS[row.module], sum(each.shape[1] for each in maps if isinstance(each, Tensor))
    if row.module == "Concat":
        budget.map(sum(each.numel() for each in maps))
        return Concat(*row.args), in_channels
    if len(maps) > 1:
        raise ValueError(f"{row.module} reads one layer, found {len(maps)}")
    arguments = [None if argument == "None" else argument for argument in row.args]
    if "in_channels" not in inspect.signature(block).parameters:
        if block is nn.Upsample:
            budget.upsampling(arguments, maps[0])
        blocks, out_channels = [block(*arguments) for _ in range(row.repeats)], in_channels
    else:
        given = _given_by_row(row, arguments, config, activation)
        repeats = 1 if "repeats" in given else scaled_repeats(row.repeats, config)  # its inner part is repeated
        budget.block(block, given, maps[0], max(repeats, given.get("repeats", 1)))
        out_channels = given.get("out_channels", in_channels)
        blocks = [block(in_channels=width, **given) for width in (in_channels, *[out_channels] * (repeats - 1))]
    return blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks), out_channels


def _given_by_row(row: Row, arguments: list[Any], config: ModelConfig, activation: Activation) -> dict[str, Any]:
    """The arguments of a block by name; ValueError where those of the row do not fit its parameters."""
    parameters = inspect.signature(BLOCKS[row.module], eval_str=True).parameters
    listed = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    own = [p for p in listed if p.name not in ("in_channels", "repeats", "activation")]
    if not sum(p.default is p.empty for p in own) <= len(arguments) <= len(own):
        names = ", ".join(p.name for p in own)
        raise ValueError(f"{row.module} takes [{names}], found {len(arguments)} arguments")
    given: dict[str, Any] = {}
    for parameter, argument in zip(own, arguments, strict=False):
        given[parameter.name] = read_argument(parameter, argument, where=f"{parameter.name}: ")
        if parameter.name in POSITIVE and isinstance(argument, (int, float)) and argument <= 0:
            raise ValueError(f"{parameter.name}: expected more than 0, found {argument}")
    if "out_channels" in given:
        given["out_channels"] = scaled_width(given["out_channels"], config)
    if "activation" in parameters:
        given["activation"] = activation
    if "repeats" in parameters:
        given["repeats"] = scaled_repeats(row.repeats, config)
    return given


@torch.no_grad()
def dry_run(module: nn.Module, *inputs: Any) -> Any:
    """What a module returns in evaluation mode; it is left in the mode that it was in."""
    was_training = module.training
    found = module.eval()(*inputs)
    module.train(was_training)
    return found
