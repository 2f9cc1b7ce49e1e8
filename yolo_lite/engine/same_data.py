"""What a run's dataset was: whether one that lies elsewhere, or was changed, is still the one that a run began with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.find import find_yaml
from yolo_lite.config.load import load_dataset_config, validate
from yolo_lite.config.run import RunConfig
from yolo_lite.config.yaml_file import read_yaml
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.state import Resume

# Keys of a dataset YAML that say where a set lies, and in which form; what it means was settled when the run began.
PLACES = ("path", "train", "val", "test", "labels", "format", "download", "generate")


def read_splits(config: RunConfig, resume: Resume | None) -> tuple[DatasetIndex, DatasetIndex, dict[str, Any]]:
    """The splits train and val, and a record of them for the run's checkpoints.

    Raises:
        ConfigError: the run was given another place for its dataset, where another set lies.
        DataError: a split cannot be read.
    """
    try:
        train = index_split(config.data, config.data_file, "train", with_outlines=config.hyp.needs_outlines)
        val = index_split(config.data, config.data_file, "val")
    except DataError as error:
        if resume is None or resume.data_moved:
            raise
        raise DataError(f"{error}\nif the dataset has moved: --resume {resume.folder} --data NEW.yaml") from None
    record = {"names": list(train.names), "train": _record(train), "val": _record(val)}
    stored = resume.checkpoint.get("data") if resume else None
    if resume and resume.data_moved and not stored:
        print("this run was begun by an older yolo_lite: of the dataset only the class names were compared")
    if stored:
        _compare(stored, record, config.data_file, bool(resume and resume.data_moved))
    stated = stored["stated_names"] if stored else names_stated(config.data_file)
    return train, val, {**record, "stated_names": stated}


def _record(index: DatasetIndex) -> dict[str, Any]:
    """Counts of a split, and digests of what has to be equal in the same order."""

    def digest(*arrays: np.ndarray) -> str:
        return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()

    sizes, labels = digest(index.size), digest(index.first, index.label, index.crowd)
    counts = {"images": len(index), "objects": index.counts.tolist()}
    return {**counts, "sizes": sizes, "labels": labels, "boxes": digest(index.xyxy)}


def _compare(stored: dict[str, Any], found: dict[str, Any], where: str, data_moved: bool) -> None:
    """Refuse another set where the run's has moved; of one that was changed in its place it is only said."""
    problems = [line for split in ("train", "val") for line in _differences(split, stored[split], found[split], stored)]
    if stored["names"] != found["names"]:
        problems = [_other_names(stored["names"], found["names"])]
    if problems and data_moved:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    if not problems and any(stored[split]["boxes"] != found[split]["boxes"] for split in ("train", "val")):
        problems = ["the boxes are not to the bit those that the run began with"]
    for problem in problems:
        print(f"{where}: {problem}; the run is no longer what it would have been without a stop")


def _differences(split: str, stored: dict[str, Any], found: dict[str, Any], names: dict[str, Any]) -> list[str]:
    if stored["images"] != found["images"]:
        return [f"{split}: expected {stored['images']} images, as when the run began, found {found['images']}"]
    counts = zip(names["names"], stored["objects"], found["objects"], strict=False)
    told = ", ".join(f"{was} objects {name} (found {now})" for name, was, now in counts if was != now)
    if told:
        return [f"{split}: expected {told}, as when the run began"]
    if stored["sizes"] != found["sizes"] or stored["labels"] != found["labels"]:
        return [f"{split}: expected images of the same sizes and objects, in the same order, as when the run began"]
    return []


def with_data_at(config: RunConfig, data: str, content: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run whose dataset lies elsewhere now; classes and all else stay those of the run.

    Args:
        data: a dataset YAML, or its name.
        content: the run's last.pt.

    Raises:
        ConfigError: the YAML cannot be used, or its class names are not those of the run.
    """
    file = find_yaml(data, "data")
    check_names(file, config, content)
    new = load_dataset_config(data, (), SEAMS)
    moved = config.data.model_copy(update={key: getattr(new, key) for key in PLACES})
    train = config.train.model_copy(update={"data": data})
    return config.model_copy(update={"data": moved, "data_file": str(file.resolve()), "train": train})


def check_names(data_file: str | Path, config: RunConfig, content: Mapping[str, Any]) -> None:
    """Raise ConfigError where a dataset YAML states other class names than the run's did when it began."""
    expected, found = content.get("data", {}).get("stated_names") or config.data.names, names_stated(data_file)
    if found and list(found) != list(expected):
        raise ConfigError(f"{data_file}: {_other_names(expected, found)}")


def names_stated(data_file: str | Path) -> list[str] | None:
    """The class names in a dataset YAML as it is now; None where it is gone or states none."""
    if not data_file or not Path(data_file).is_file():
        return None
    document = read_yaml(data_file)
    names = document.data.get("names")
    return None if names is None else list(validate(DatasetConfig, document._replace(data={"names": names})).names)


def _other_names(expected: Sequence[str], found: Sequence[str]) -> str:
    return f"names: expected those of the run, [{', '.join(expected)}], found [{', '.join(found)}]"
