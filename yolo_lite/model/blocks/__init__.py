"""The blocks that a model YAML may name, and the dict that names them.

The builder goes by the names of a block's parameters. It gives ``in_channels``, the channels that come in, and, where
the block has them, ``activation``, a function that makes the model's, and ``repeats``, of its inner part; the row gives
the others in their order. ``out_channels`` is scaled by width_multiple; a block without it keeps the channels, and one
without ``in_channels`` is not told them. A block reads and returns a map ``[B, C, H, W]``: B images, C channels, H x W
cells. A Backbone returns a dict of maps by their strides, and Level reads it.
"""

from collections.abc import Callable

from torch import nn

from yolo_lite.model.blocks.backbone import Backbone, Level
from yolo_lite.model.blocks.rare import C3TR, C3Ghost, GhostBottleneck, GhostConv
from yolo_lite.model.blocks.standard import C3, SPP, SPPF, Bottleneck, Concat, Conv

__all__ = ["BLOCKS", "Backbone", "Concat", "Conv", "Level"]

_STANDARD = (Conv, Bottleneck, C3, SPP, SPPF, Concat, nn.Upsample, nn.MaxPool2d, nn.ZeroPad2d)
_RARE = (GhostConv, GhostBottleneck, C3Ghost, C3TR, Backbone, Level)
BLOCKS: dict[str, Callable[..., nn.Module]] = {block.__name__: block for block in (*_STANDARD, *_RARE)}
