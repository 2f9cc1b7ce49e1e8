"""Blocks of YOLOv5's less usual models: convolutions that are half cheap, and attention between all cells of a map.

B images, N cells of a map, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_lite.model.blocks.standard import C3, Activation, Conv

HEADS = 4  # of an attention


class GhostConv(nn.Module):
    """Half the channels by a convolution, the others from these by a 5x5 depth-wise one (arXiv:1911.11907, eq. 3)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, activation: Activation = nn.SiLU
    ) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"a ghost convolution makes an even number of channels, found {out_channels}")
        half = out_channels // 2
        self.primary = Conv(in_channels, half, kernel, stride, activation=activation)
        self.cheap = Conv(half, half, 5, groups=half, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat((primary, self.cheap(primary)), dim=1)


class GhostBottleneck(nn.Module):
    """Two ghost convolutions, between them a depth-wise one where the stride is above 1 (arXiv:1911.11907, fig. 3)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, activation: Activation = nn.SiLU
    ) -> None:
        super().__init__()

        def shrink(channels: int) -> Conv:
            return Conv(channels, channels, kernel, stride, groups=channels, activation=nn.Identity)

        half = out_channels // 2
        self.reduce = GhostConv(in_channels, half, activation=activation)
        self.shrink = shrink(half) if stride > 1 else nn.Identity()
        self.expand = GhostConv(half, out_channels, activation=nn.Identity)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            widen = Conv(in_channels, out_channels, activation=nn.Identity)
            self.shortcut = nn.Sequential(shrink(in_channels), widen)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.expand(self.shrink(self.reduce(x)))
        return out + self.shortcut(x)


class C3Ghost(C3):
    """C3 whose bottlenecks are ghost bottlenecks; ``shortcut`` is without effect: these always have one."""

    def _inner(self, channels: int, repeats: int, shortcut: bool, activation: Activation) -> nn.Module:
        return nn.Sequential(*(GhostBottleneck(channels, channels, activation=activation) for _ in range(repeats)))


class TransformerLayer(nn.Module):
    """Self-attention between the cells of a map, then two linear layers; each adds to its input, nothing normalises."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.attention = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.linear = nn.Sequential(*(nn.Linear(channels, channels, bias=False) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:  # [B, N, C]
        x = x + self.attention(self.query(x), self.key(x), self.value(x), need_weights=False)[0]
        return x + self.linear(x)


class Transformer(nn.Module):
    """Transformer layers over the cells of a map, each cell told apart by a linear layer of its own content."""

    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        if channels % HEADS:
            raise ValueError(f"expected inner channels in multiples of the {HEADS} heads, found {channels}")
        self.position = nn.Linear(channels, channels)
        self.layers = nn.Sequential(*(TransformerLayer(channels) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        cells = x.flatten(2).transpose(1, 2)  # [B, N, C]
        cells = self.layers(cells + self.position(cells))
        return cells.transpose(1, 2).reshape(x.shape)  # [B, C, H, W]


class C3TR(C3):
    """C3 with a transformer (arXiv:1706.03762, without layer norm) in place of its bottlenecks.

    ``shortcut`` is without effect. Attention takes time, and without a fused kernel memory, by the square of the cells.
    """

    attends = True  # each cell to every other: the builder's budget counts it

    def _inner(self, channels: int, repeats: int, shortcut: bool, activation: Activation) -> nn.Module:
        return Transformer(channels, repeats)
