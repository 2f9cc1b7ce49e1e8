"""What a run's dataset was: whether what lies there now, or elsewhere, is still what the run began with."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.find import find_yaml
from yolo_lite.config.load import load_dataset_config, validate
from yolo_lite.config.run import RunConfig
from yolo_lite.config.yaml_file import Document, read_yaml
from yolo_lite.data.doubts import without_outlines
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.unreadable import check_index
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.state import Resume
from yolo_lite.engine.tasks import task_of

# Keys of a dataset YAML that say where a set lies, and in which form; what it means was settled when the run began.
PLACES = ("path", "train", "val", "test", "labels", "format", "download", "generate")
WITHOUT_EFFECT = ("names", "nc", "test", "download", "suggested")  # on a run that goes on; names are compared as such


def read_splits(config: RunConfig, resume: Resume | None) -> tuple[DatasetIndex, DatasetIndex, dict[str, Any]]:
    """The splits train and val, and a record of them for the run's checkpoints.

    Raises:
        ConfigError: the set is no longer what the run began with, and was not said to be changed.
        DataError: a split cannot be read.
    """
    masks = task_of(config.model).has_masks
    try:
        train = index_split(config.data, config.data_file, "train", masks or config.hyp.needs_outlines)
        val = index_split(config.data, config.data_file, "val", masks)
        for index, split in ((train, "train"), (val, "val")):
            check_index(index, config.data_file, split)
            if masks and (line := without_outlines(index)):
                print(f"{split}: {line}")
    except DataError as error:
        if resume is None or resume.data_moved:
            raise
        raise DataError(f"{error}\nif the dataset has moved: --resume {resume.folder} --data NEW.yaml") from None
    record = {
        "names": list(train.names),
        **{one: _record(index, masks) for one, index in (("train", train), ("val", val))},
    }
    stored = resume.checkpoint.get("data") if resume else None
    if resume and resume.data_moved and not stored:
        print("this run was begun by an older yolo_lite: of the dataset only the class names were compared")
    if resume and stored:
        _compare(stored, record, config.data_file, resume)
    document = document_of(config.data_file)
    names = stored["stated_names"] if stored else document and names_stated(document)
    before = stored.get("stated") if resume and stored and not (resume.data_moved or resume.data_changed) else None
    return train, val, {**record, "stated_names": names, "stated": before or (document and _stated(document))}


def _record(index: DatasetIndex, masks: bool) -> dict[str, Any]:
    """Counts of a split, digests of what has to be equal in the same order, and one of each image."""

    def digest(*arrays: np.ndarray) -> str:
        return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()

    sizes, labels = digest(index.size), digest(index.first, index.label, index.crowd)
    counts = {"images": len(index), "objects": index.counts.tolist()}
    digests = {"sizes": sizes, "labels": labels, "boxes": digest(index.xyxy, *((masks and index.outlines) or ()))}
    return {**counts, **digests, "each": torch.from_numpy(_each_image(index))}


def _each_image(index: DatasetIndex) -> np.ndarray:
    """Checksums ``[n, 2]`` int64 of the name of each image, without its folder, and of its size and objects."""
    rows = np.column_stack((index.label, index.crowd, index.xyxy)).astype(np.float64)
    names = [zlib.crc32(os.path.basename(bytes(path))) for path in index.paths]
    ends = zip(index.size, index.first[:-1].tolist(), index.first[1:].tolist(), strict=True)
    contents = [zlib.crc32(rows[first:end].tobytes(), zlib.crc32(size.tobytes())) for size, first, end in ends]
    return np.array([names, contents], dtype=np.int64).T.copy()


def _compare(stored: dict[str, Any], found: dict[str, Any], where: str, resume: Resume) -> None:
    """Refuse what is no longer the run's set, or say so where that was expected."""
    same_place, names = not resume.data_moved, stored["names"]
    problems = [line for split in ("train", "val") for line in _differences(split, stored, found, same_place)]
    if names != found["names"]:
        problems = [_other_names(names, found["names"])]
    elif resume.data_changed:
        for problem in problems:
            print(f"{where}: {problem}; the run is no longer what it would have been without a stop")
        return
    elif problems:
        problems.append("--changed-data goes on with what is there now")
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))


def _differences(split: str, stored: dict[str, Any], found: dict[str, Any], same_place: bool) -> list[str]:
    """What has changed in a split since the run began, in numbers; elsewhere files may have other names."""
    before, now, keys = stored[split], found[split], ("images", "sizes", "labels", "boxes")
    each = before.get("each")  # not of a run that an older yolo_lite began
    renamed = same_place and each is not None and not torch.equal(each[:, 0], now["each"][:, 0])
    if not renamed and all(before[key] == now[key] for key in keys):
        return []
    since = f"as when the run began{'' if each is None else _changes(each, now['each'])}"
    if before["images"] != now["images"]:
        return [f"{split}: expected {before['images']} images, found {now['images']}, {since}"]
    counts = zip(stored["names"], before["objects"], now["objects"], strict=False)
    told = ", ".join(f"{was} objects {name} (found {now})" for name, was, now in counts if was != now)
    expected = told or "images of the same sizes and objects, in the same order"
    return [f"{split}: expected {expected}, {since}"]


def _changes(stored: torch.Tensor, found: torch.Tensor) -> str:
    """How many images came, went or changed, by their checksums."""
    before, now = (Counter(map(tuple, each.tolist())) for each in (stored, found))
    gone, come = (Counter(name for name, _ in some.elements()) for some in (before - now, now - before))
    counts = {"removed": gone - come, "added": come - gone, "of other size or labels": gone & come}
    parts = [f"{own.total()} {what}" for what, own in counts.items() if own]
    return f": {', '.join(parts) or 'the same images in another order'}"


def with_data_at(config: RunConfig, data: str, content: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run whose dataset lies elsewhere now; classes and all else stay those of the run.

    Args:
        data: a dataset YAML, or its name.
        content: the run's last.pt.

    Raises:
        ConfigError: the YAML cannot be used, or its class names are not those of the run.
    """
    file = find_yaml(data, "data")
    check_names(read_yaml(file), config, content)
    new = load_dataset_config(data, (), SEAMS)
    moved = config.data.model_copy(update={key: getattr(new, key) for key in PLACES})
    train = config.train.model_copy(update={"data": data})
    return config.model_copy(update={"data": moved, "data_file": str(file.resolve()), "train": train})


def check_yaml(config: RunConfig, content: Mapping[str, Any], is_told: bool) -> None:
    """Raise ConfigError where the run's dataset YAML has other keys or values than when it began, unless that is told.

    A YAML that is gone, and what an older yolo_lite did not keep, is not compared.
    """
    if (document := document_of(config.data_file)) is None:
        return
    check_names(document, config, content)
    stored, found = content.get("data", {}).get("stated"), _stated(document)
    if stored and (changed := [key for key in {**stored, **found} if stored.get(key) != found.get(key)]):
        problem = f"{config.data_file}: {', '.join(changed)}: changed since the run began"
        if not is_told:
            advice = "goes on with what the YAML said then, --data FILE with the images that a YAML names now"
            raise ConfigError(f"{problem}; --changed-data {advice}")
        print(f"{problem}; the run goes on with what it said then")


def document_of(data_file: str | Path) -> Document | None:
    """A dataset YAML as it is now; None where it is gone."""
    return read_yaml(data_file) if data_file and Path(data_file).is_file() else None


def _stated(document: Document) -> dict[str, str]:
    """A digest of the value of each key in a dataset YAML, but for the names."""
    values = {key: value for key, value in document.data.items() if key not in WITHOUT_EFFECT}
    return {key: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for key, value in values.items()}


def check_names(document: Document, config: RunConfig, content: Mapping[str, Any]) -> None:
    """Raise ConfigError where a dataset YAML states other class names than the run's did when it began."""
    expected, found = content.get("data", {}).get("stated_names") or config.data.names, names_stated(document)
    if found and list(found) != list(expected):
        raise ConfigError(f"{document.source}: {_other_names(expected, found)}")


def names_stated(document: Document) -> list[str] | None:
    """The class names in a dataset YAML; None where it states none."""
    names = document.data.get("names")
    return None if names is None else list(validate(DatasetConfig, document._replace(data={"names": names})).names)


def _other_names(expected: Sequence[str], found: Sequence[str]) -> str:
    return f"names: expected those of the run, [{', '.join(expected)}], found [{', '.join(found)}]"
