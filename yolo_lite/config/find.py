"""Where the YAML files lie: those of the user, and those that yolo_lite brings, which are found by name anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from yolo_lite.config.errors import ConfigError, nearest

Kind = Literal["model", "hyp", "data"]

FOLDERS: dict[Kind, str] = {"model": "cfg", "hyp": "cfg", "data": "data"}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz")
_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries cfg/ and data/ inside the package; in a checkout they lie beside it.
IS_WHEEL = (_PACKAGE / "cfg").is_dir()
ROOT = _PACKAGE if IS_WHEEL else _PACKAGE.parent


def own_yamls(kind: Kind) -> dict[str, Path]:
    """The YAML files that yolo_lite brings, by name: ``{"yolo_n": .../cfg/yolo_n.yaml, ...}``."""
    files = sorted((ROOT / FOLDERS[kind]).glob("*.yaml"))
    return {file.stem: file for file in files if kind == "data" or file.stem.startswith("hyp") == (kind == "hyp")}


def find_yaml(given: str | os.PathLike[str], kind: Kind) -> Path:
    """The file that ``yolo_n`` or ``cfg/yolo_n.yaml`` means: one of the working folder, else one that yolo_lite brings.

    Raises:
        ConfigError: there is none; the message lists the names that there are.
    """
    path, folder = Path(given), FOLDERS[kind]
    name = path.stem if path.suffix in (".yaml", ".yml") else path.name
    is_name = path.parent in (Path(), Path(folder))
    mine = [path, Path(f"{name}.yaml"), Path(folder, f"{name}.yaml")] if is_name else [path]
    own = own_yamls(kind)
    found = next((file for file in mine if os.path.isfile(file)), own.get(name) if is_name else None)
    if (kind == "data" and not found and os.path.isdir(path)) or (
        path.suffix.lower() in ARCHIVES and os.path.isfile(path)
    ):
        raise ConfigError(f"{path}: expected a dataset YAML; yolo-lite adopt {path} -o mine.yaml makes one")
    if found or os.path.exists(path):  # what is no file is refused where it is read
        return found or path
    looked = f"looked in {path.resolve().parent}"
    advice = nearest(name, own)
    advice = advice if "nearest" in advice else ""
    raise ConfigError(f"{os.fspath(given)}: no such file ({looked}); yolo_lite brings {', '.join(own)}{advice}")


def folder_of_dataset(file: str | os.PathLike[str]) -> Path:
    """The folder at which relative paths of a dataset YAML start: its own.

    A YAML inside an installed package is read as if it lay in ``data/`` of the working folder, so that
    ``../datasets/coco128`` is ``datasets/coco128`` there, as in a checkout.
    """
    path = Path(file).resolve()
    return Path.cwd() / "data" if IS_WHEEL and path.is_relative_to(ROOT) else path.parent
