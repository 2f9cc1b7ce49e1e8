"""``yolo-lite download``: fetch a public set, or pretrained weights."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.find import find_yaml
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import DownloadOptions
from yolo_lite.data.outputs import NO_INPUTS, check_place
from yolo_lite.data.split import dataset_root
from yolo_lite.tools.download import download_set

HINT = "; the same command goes on"  # where it was interrupted


def run(options: DownloadOptions) -> None:
    """Fetch weights; or a set, and say how to train on it."""
    try:
        data_file = find_yaml(options.name, "data")
    except ConfigError:
        if not (options.into is None and _is_network(str(options.name))):
            raise
        from yolo_lite.tools.download_weights import download_weights

        return download_weights([str(options.name)])
    config = load_dataset_config(data_file)
    if not config.download:
        raise ConfigError(f"{data_file}: its key download names no archives with url, size and sha256")
    root = Path(options.into).resolve() if options.into else dataset_root(config, data_file)
    if not root.exists():
        check_place(root, NO_INPUTS, "--into")
    total = tqdm.format_sizeof(sum(archive.size for archive in config.download), "B")
    print(f"{root}: {len(config.download)} archives, {total}")
    state = "ready" if download_set(config, root) else "there already, nothing to do"
    moved = f" --set data.path={root}" if options.into else ""
    print(f"{root}: {state}; yolo-lite train --data {options.name}{moved}")


def _is_network(name: str) -> bool:
    from yolo_lite.model.blocks.backbone import TIMM, library_of  # imports torch, which sets do not need

    return name.startswith(TIMM) or name in (models := library_of(name)).list_models(module=models)
