"""Download the ImageNet weights of a network, for ``yolo-lite download`` and ``train.py --download`` only."""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from urllib.error import URLError

import torch

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.model import AnyModelConfig, ModelConfig
from yolo_lite.engine.pretrained import origin_of
from yolo_lite.model.blocks.backbone import TIMM, library_of


def names_to_fetch(config: AnyModelConfig) -> list[str]:
    """The networks whose ImageNet weights a model starts from."""
    if not isinstance(config, ModelConfig):
        return [config.backbone] if config.pretrained else []
    rows = [row.args for row in (*config.backbone, *config.head) if row.module == "Backbone"]
    return [str(args[0]) for args in rows if args[1:] == ("imagenet",)]


def download_weights(names: Iterable[str]) -> None:
    """Fetch the weights of networks, by torch.hub's loader or timm's, into its cache, unless they are here already.

    Raises:
        ConfigError: there is no such network, the transfer fails, or what comes has another sha256.
    """
    for name in names:
        origin = origin_of(name)
        try:
            if origin.file is None and origin.hub:
                library_of(name).create_model(name.removeprefix(TIMM), pretrained=True)
            elif origin.file is None:
                torch.hub.load_state_dict_from_url(origin.url, map_location="cpu", check_hash=True, weights_only=True)
        except (URLError, http.client.HTTPException, OSError, RuntimeError) as error:
            raise ConfigError(f"{name}: {origin.url or origin.hub} cannot be fetched: {error}") from error
        print(f"{name}: {origin_of(name).file}: {origin.words}")
