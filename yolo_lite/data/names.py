"""A dataset YAML with the names of its classes, from its label files where it has none."""

from __future__ import annotations

import os
from collections.abc import Sequence

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.find import find_yaml
from yolo_lite.config.load import load_dataset_config, validate
from yolo_lite.config.seams import Seams
from yolo_lite.config.yaml_file import Document
from yolo_lite.data.split import split_files


def load_dataset(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    seams: Seams | None = None,
    names: Sequence[str] = (),
) -> DatasetConfig:
    """Read a dataset YAML as ``load_dataset_config``; where it has no names, with these or those of its label files.

    Raises:
        ConfigError: as there, or no names are given and the labels (YOLO's) have none.
        DataError: the label files cannot be read.
    """
    config = load_dataset_config(path, overrides, seams)
    if config.names:
        return config
    missing = f"{os.fspath(path)}: the key 'names' is missing"
    try:
        found = list(names) or _names_in_labels(config, str(find_yaml(path, "data")))
    except DataError as error:
        raise DataError(f"{missing}, and they cannot be read from the label files: {error}") from error
    if not found:
        raise ConfigError(missing)
    content = {**config.model_dump(exclude_unset=True), "names": found}
    return validate(DatasetConfig, Document(os.fspath(path), content, {}), seams)


def _names_in_labels(config: DatasetConfig, data_file: str) -> list[str]:
    """The classes that the label files of all splits name, in the order of their first mention."""
    found: dict[str, None] = {}
    for split in config.splits:
        files = split_files(config, data_file, split)
        found |= dict.fromkeys(files.reader.class_names(files.images))
    return list(found)
