"""A backbone that torchvision or timm makes, and the row that picks one of its maps."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolo_lite.config.errors import ConfigError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRIDES = (8, 16, 32)  # of the maps that come out, where the network has them
TIMM = "timm:"  # before the names of timm's models
SIDE = 64  # pixels of the image that is run through a network to see what it does


class Start(NamedTuple):
    """Pretrained weights that a part of a model starts from; the part has them as its attribute ``start``."""

    name: str  # of the network, torchvision's or "timm:" and timm's
    weights: str  # "imagenet", "none", or a file
    prefix: str = ""  # of the part's tensors in the network's state dict


class Backbone(nn.Module):
    """A classification network without its classifier; it normalises the images as its weights expect it.

    Args:
        in_channels: 3, or 1: a grey image comes in as three equal channels.
        name: of torchvision, or ``timm:NAME`` for any model of timm that has ``features_only``.
        weights: ``imagenet``, ``none``, or a file; loaded by the run that starts with them, not here.
    """

    def __init__(self, in_channels: int, name: str, weights: str | None = "none") -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"{name} reads images of 3 channels or 1, found {in_channels}")
        mean: tuple[float, ...] = IMAGENET_MEAN
        std: tuple[float, ...] = IMAGENET_STD
        self.parts: dict[str, int] = {}  # of torchvision's networks, in their order, with their strides
        if name.startswith(TIMM):
            self.body, self.strides, mean, std = _from_timm(name)
        else:
            self.body, self.parts = _from_torchvision(name)
            self.strides = tuple(stride for stride in STRIDES if stride in self.parts.values())
        if not self.strides:
            raise ValueError(f"{name} has no maps of strides 8, 16 or 32 that follow from each other")
        self.body.start = Start(name, weights or "none")  # type: ignore[assignment]
        self.mean = nn.Buffer(torch.tensor(mean).view(3, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps ``[B, C, H / stride, W / stride]`` by their strides of images ``[B, 3, H, W]`` in 0..1."""
        x = (images - self.mean) / self.std
        if not self.parts:
            return dict(zip(self.strides, self.body(x), strict=True))
        maps: dict[int, Tensor] = {}
        for part, stride in self.parts.items():
            maps[stride] = x = self.body.get_submodule(part)(x)  # the last of a stride stays
        return {stride: maps[stride] for stride in self.strides}

    def fold(self) -> None:
        """Fold each batch normalisation into the convolution whose output comes into it; in evaluation mode."""
        made: tuple[Any, str] = (None, "")  # the last convolution's output, and its name
        pairs: list[tuple[str, str]] = []

        def look(name: str, module: nn.Module, given: Any, found: Tensor) -> None:
            nonlocal made
            if isinstance(module, _BatchNorm) and given[0] is made[0]:
                pairs.append((made[1], name))
            made = (found, name) if type(module) is nn.Conv2d else (None, "")

        _run_and_look(self, {n: m for n, m in self.named_modules() if isinstance(m, (nn.Conv2d, _BatchNorm))}, look)
        for conv, norm in pairs:
            old: Any = self.get_submodule(norm)
            self.set_submodule(conv, nn.utils.fuse_conv_bn_eval(self.get_submodule(conv), old))  # type: ignore[type-var]
            self.set_submodule(norm, nn.Sequential(*old.children()))  # timm's have an activation


class Level(nn.Module):
    """The map of one stride of a Backbone."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        if self.stride not in maps:
            raise ValueError(f"expected one of the strides {', '.join(map(str, maps))}, found {self.stride}")
        return maps[self.stride]


@torch.no_grad()
def _run_and_look(network: nn.Module, modules: dict[str, nn.Module], look: Any) -> None:
    """Run an image through a network; ``look`` gets name, module, inputs and output of each of these modules."""
    hooks = [
        module.register_forward_hook(lambda *what, name=name: look(name, *what)) for name, module in modules.items()
    ]
    tensor, was_training = next(network.parameters()), network.training
    network.eval()(tensor.new_zeros(1, 3, SIDE, SIDE))
    network.train(was_training)
    for hook in hooks:
        hook.remove()


def _from_torchvision(name: str) -> tuple[nn.Module, dict[str, int]]:
    """A network of torchvision without what follows its maps, and its parts, in the order of their use, with strides.

    Sequences count as their parts. A run shows which of them follow from each other: each reads what the one before
    returned, until the maps are pooled.
    """
    models = library_of(name)
    if name not in (known := models.list_models(module=models)):
        raise ValueError(f"unknown backbone {name!r}{nearest(name, known)}; those of timm are named timm:NAME")
    model = models.get_model(name, weights=None)
    modules, calls, parts = dict(_parts(model, "")), list[tuple[str, Any, Any]](), dict[str, int]()
    _run_and_look(model, modules, lambda name, module, given, found: calls.append((name, given[0], found)))
    for (part, given, found), before in zip(calls, [calls[0][1], *(call[2] for call in calls)], strict=False):
        stride = SIDE / found.shape[-1] if isinstance(found, Tensor) and found.ndim == 4 else 0
        if given is not before or stride not in (1, 2, 4, *STRIDES):
            break
        parts[part] = int(stride)
    kernels = [_largest_kernel(modules[part]) for part in parts]
    last = max((number for number, kernel in enumerate(kernels) if kernel > 1), default=-1)
    if 1 in kernels[last + 1 :]:  # it only widens the last map for the classifier: MobileNetV2's from 320 to 1,280
        parts = dict(list(parts.items())[: last + 1])
    whole = _size(model)
    for part in modules.keys() - parts.keys():
        owner, _, child = part.rpartition(".")
        delattr(model.get_submodule(owner), child)
    if 32 in parts.values() and whole > 4 * _size(model) + 1_000_000:  # more than a checkpoint may grow to, see SPARE
        raise ValueError(f"{name} is mostly classifier, which is not used here: expected a network with a small one")
    return model, parts


def _largest_kernel(module: nn.Module) -> int:
    return max((each.kernel_size[0] for each in module.modules() if isinstance(each, nn.Conv2d)), default=0)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Children by their names, those of plain sequences in the place of these."""
    for name, child in module.named_children():
        if type(child) is nn.Sequential and len(child):
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def library_of(name: str) -> Any:
    """``timm`` or ``torchvision.models``, which take a second to import; ConfigError where timm is not installed."""
    try:
        return importlib.import_module("timm" if name.startswith(TIMM) else "torchvision.models")
    except ImportError as error:
        raise ConfigError(f"{name} needs the package timm: pip install timm ({error})") from None


def _from_timm(name: str) -> tuple[nn.Module, tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """A network of timm that returns maps, their strides, and the mean and deviation of the images of its weights."""
    timm, model = library_of(name), name.removeprefix(TIMM)
    if model.partition(".")[0] not in (known := timm.list_models()):  # nor what timm would fetch a configuration for
        raise ValueError(f"timm has no model {model!r}{nearest(model, known)}")
    with torch.device("meta"):
        blank = timm.create_model(model, features_only=True)
    at = {stride: number for number, stride in enumerate(blank.feature_info.reduction()) if stride in STRIDES}
    indices = [blank.feature_info.out_indices[number] for number in at.values()]
    body = timm.create_model(model, features_only=True, out_indices=indices) if at else blank
    config = timm.get_pretrained_cfg(model)  # None of a network without weights
    return body, tuple(at), getattr(config, "mean", IMAGENET_MEAN), getattr(config, "std", IMAGENET_STD)
