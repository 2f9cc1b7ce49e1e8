"""The blocks of YOLO's usual models, and activations by their names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from yolo_lite.config.model import parse_activation
from yolo_lite.model.blocks.backward import SiLU, join

Activation = Callable[[], nn.Module]

_KINDS = (SiLU, nn.ReLU, nn.LeakyReLU, nn.Hardswish, nn.Mish, nn.GELU, nn.Identity)
ACTIVATIONS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in _KINDS}


def activation_maker(text: str) -> Activation:
    """``"nn.LeakyReLU(0.1)"`` to a function that makes that module; ValueError where ``ACTIVATIONS`` has none such."""
    name, arguments = parse_activation(text, ACTIVATIONS)
    in_place = {"inplace": True} if name in {"ReLU", "LeakyReLU", "Hardswish", "Mish"} else {}
    return lambda: ACTIVATIONS[name](*arguments, **in_place)


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, activation; padded so that stride 1 keeps the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution, added to the input where the widths allow it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shortcut: bool = True,
        expansion: float = 0.5,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.reduce = Conv(in_channels, hidden, activation=activation)
        self.expand = Conv(hidden, out_channels, 3, activation=activation)
        self.shortcut = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.expand(self.reduce(x))
        return x + out if self.shortcut else out


class C3(nn.Module):
    """Cross-stage partial block (arXiv:1911.11929) with three convolutions: a deep and a plain branch, merged."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int = 1,
        shortcut: bool = True,
        expansion: float = 0.5,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.deep = Conv(in_channels, hidden, activation=activation)
        self.plain = Conv(in_channels, hidden, activation=activation)
        self.bottlenecks = self._inner(hidden, repeats, shortcut, activation)
        self.merge = Conv(2 * hidden, out_channels, activation=activation)

    def _inner(self, channels: int, repeats: int, shortcut: bool, activation: Activation) -> nn.Module:
        return nn.Sequential(*(Bottleneck(channels, channels, shortcut, 1.0, activation) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(join((self.bottlenecks(self.deep(x)), self.plain(x))))


class SPP(nn.Module):
    """Spatial pyramid pooling (arXiv:1406.4729): max pools of several sizes side by side."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: list[int] | tuple[int, ...] = (5, 9, 13),
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = Conv(in_channels, hidden, activation=activation)
        self.pools = nn.ModuleList(nn.MaxPool2d(kernel, stride=1, padding=kernel // 2) for kernel in kernels)
        self.merge = Conv(hidden * (len(kernels) + 1), out_channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return self.merge(torch.cat((x, *(pool(x) for pool in self.pools)), dim=1))


class SPPF(nn.Module):
    """SPP with kernels k, 2k-1, 3k-2, from three chained pools of one kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = Conv(in_channels, hidden, activation=activation)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)
        self.merge = Conv(hidden * 4, out_channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [self.reduce(x)]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        return self.merge(torch.cat(pyramid, dim=1))


class Concat(nn.Module):
    """Joins feature maps of one size along their channels."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        if dimension != 1:
            raise ValueError(f"Concat joins channels (1), found {dimension}")

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, dim=1)
