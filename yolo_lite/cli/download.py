"""``yolo-lite download``: fetch a public set."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.load import load_dataset_config

HINT = "; the same command goes on"  # where it was interrupted


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite download``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite download",
        description="Fetch a public set, verify and unpack it. The same command goes on where it was stopped.",
    )
    parser.add_argument("name", metavar="NAME", help="coco128, voc, coco, or a dataset YAML with the key download")
    parser.add_argument("--into", metavar="FOLDER", help="where it shall be (default: the key path of its YAML)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Fetch a set and say how to train on it."""
    from yolo_lite.data.index import dataset_root
    from yolo_lite.tools.download import download_set, readable

    data_file = _find(arguments.name)
    config = load_dataset_config(data_file)
    if not config.download:
        raise ConfigError(f"{data_file}: its key download names no archives with url, size and sha256")
    root = Path(arguments.into).resolve() if arguments.into else dataset_root(config, data_file)
    total = readable(sum(archive.size for archive in config.download))
    print(f"{root}: {len(config.download)} archives, {total}")
    state = "ready" if download_set(config, root) else "there already, nothing to do"
    moved = f" --set data.path={root}" if arguments.into else ""
    print(f"{root}: {state}; python train.py --data {data_file}{moved}")


def _find(name: str) -> Path:
    """``data/NAME.yaml`` here or beside the package, or the file itself."""
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    folders = [Path("data"), Path(__file__).resolve().parents[2] / "data"]
    known = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise ConfigError(f"{name}: no such set{nearest(name, known)}")
    return known[name]
