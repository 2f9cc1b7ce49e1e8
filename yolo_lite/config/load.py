"""From a YAML document to a validated object, with every error at once."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from yolo_lite.config.bounds import SHOWN
from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.find import find_yaml, folder_of_dataset
from yolo_lite.config.foreign import hyp_as_meant, known_dataset_keys, model_of_ours
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.model import MODEL_SECTIONS, AnyModelConfig
from yolo_lite.config.old import ADVICE
from yolo_lite.config.run import RunConfig
from yolo_lite.config.seams import EXPECTED, Seams, Section, expected_words
from yolo_lite.config.types import AnyPath
from yolo_lite.config.yaml_file import Document, KeyPath, parse_scalar, read_yaml

S = TypeVar("S", bound=Section)

MOST_LINES = 50  # about one file
PREFIXES = ("model.", "data.")  # of keys that ``--set`` overrides in these files; those of hyp.yaml have none


def load_hyp(path: AnyPath, overrides: Sequence[str] = (), seams: Seams | None = None) -> Hyp:
    """Read hyp.yaml by its path or name, with ``--set key=value`` over it; without ``seams`` no name is checked."""
    return validate(Hyp, override(hyp_as_meant(read_yaml(find_yaml(path, "hyp")), overrides), overrides, ""), seams)


def load_model_config(path: AnyPath, overrides: Sequence[str] = (), seams: Seams | None = None) -> AnyModelConfig:
    """Read a model YAML of any family, as ``load_hyp``; ``--set model.key=value`` overrides."""
    document = override(read_yaml(find_yaml(path, "model")), overrides, "model.")
    family = document.data.get("family", "yolo")
    if not isinstance(family, str) or family not in MODEL_SECTIONS:
        where = document.flags.get("family", f"{document.source}:{document.lines.get(('family',), 1)}: family")
        raise ConfigError(f"{where}: unknown name {family!r}{nearest(str(family), MODEL_SECTIONS)}")
    return validate(MODEL_SECTIONS[family], model_of_ours(document), seams)


def load_dataset_config(path: AnyPath, overrides: Sequence[str] = (), seams: Seams | None = None) -> DatasetConfig:
    """Read a dataset YAML, as ``load_hyp``; ``--set data.key=value`` overrides."""
    file = find_yaml(path, "data")
    config = validate(DatasetConfig, override(known_dataset_keys(read_yaml(file)), overrides, "data."), seams)
    if not (config.generate or config.train or config.val or config.test):
        raise ConfigError(f"{path}: expected at least one of train, val, test")
    if config.generate or (folder := folder_of_dataset(file)) == file.resolve().parent:
        return config
    return config.model_copy(update={"path": str((folder / os.path.expanduser(config.path)).resolve())})


def load_run_config(plain: Mapping[str, Any], source: str, seams: Seams | None = None) -> RunConfig:
    """The inverse of ``RunConfig.plain``, for checkpoints and config.yaml files named by ``source``."""
    try:
        return validate(RunConfig, Document(source, dict(plain), {}), seams)
    except ConfigError as error:
        train = plain.get("train")
        plugins = train.get("plugin") if isinstance(train, Mapping) else None
        if "unknown" not in str(error) or not plugins or not isinstance(plugins, list):
            raise
        flags = " ".join(f"--plugin {shlex.quote(str(path))}" for path in plugins)
        advice = f"the run was trained with a plugin, which is executed only where you give it again: {flags}"
        raise ConfigError(f"{error}\n{source}: {advice}") from None


def override(document: Document, overrides: Sequence[str], prefix: str) -> Document:
    """A document with the ``key=value`` texts that carry ``prefix`` laid over it."""
    changes, flags = dict[str, Any](), dict[str, str]()
    for text in overrides:
        key, equals, value = text.partition("=")
        if key.startswith(prefix or PREFIXES) == bool(prefix):
            if not equals:
                raise ConfigError(f"--set {text}: expected key=value")
            name = key.removeprefix(prefix)
            flags[name] = f"--set {text}"
            try:
                changes[name] = parse_scalar(value)
            except ConfigError as error:
                raise ConfigError(f"--set {text}: {error}") from error
    return document._replace(data={**document.data, **changes}, flags=flags)


def validate(section: type[S], document: Document, seams: Seams | None = None) -> S:
    """Check a document against the schema, and its names against the seams.

    Raises:
        ConfigError: one line for each problem, with file, line, key, what was expected and what was found.
    """
    try:
        return section.model_validate(document.data, context=seams)
    except ValidationError as error:
        details = sorted(error.errors(), key=lambda detail: _line(document, _location(detail)) or 0)
        lines = [_describe(section, document, detail) for detail in details[:MOST_LINES]]
        more = [f"{document.source}: and {len(details) - MOST_LINES:,} more like these"] if details[MOST_LINES:] else []
        raise ConfigError("\n".join(lines + more)) from None


def _describe(section: type[Section], document: Document, detail: ErrorDetails) -> str:
    location = _location(detail)
    line = _line(document, location)
    where, key = (f"{document.source}:{line}" if line else document.source), _key(location)
    if location and (flag := document.flags.get(str(location[0]))):
        where, key = flag, _key(location) if len(location) > 1 else ""
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown {document.noun} {_key(location)!r}{_advice(section, location)}"
    if detail["type"] == "missing":
        return f"{where}: the {document.noun} {_key(location)!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in EXPECTED:
        message = f"expected {expected_words(detail)}"
    found = "" if detail["type"] == "value_error" else f", found {detail['input']!r:.{SHOWN}}"
    return f"{where}: {f'{key}: ' if key else ''}{message[0].lower()}{message[1:]}{found}"


def _location(detail: ErrorDetails) -> KeyPath:
    # pydantic adds the name of the union's branch to the location: what is no key of the file is left out.
    first, *rest = detail["loc"] or ("",)
    if first == "model" and rest and rest[0] in MODEL_SECTIONS:
        del rest[0]
    kept = [part for part in rest if not str(part).startswith(("tuple[", "function-", "literal["))]
    return (first, *kept) if detail["loc"] else ()


def _line(document: Document, location: KeyPath) -> int | None:
    """Line of a key, or of the nearest key around it; None where a flag gave it."""
    around = (location[:length] for length in range(len(location), 0, -1))
    by_flag = bool(location) and str(location[0]) in document.flags
    return None if by_flag else next((document.lines[path] for path in around if path in document.lines), None)


def _key(location: KeyPath) -> str:
    """``"backbone row 3"`` or ``"generate.train"``."""
    return re.sub(r"\b(backbone|head)\.(\d+)", r"\1 row \2", ".".join(str(part) for part in location))


def _advice(section: type[Section], location: KeyPath) -> str:
    word, owner = str(location[-1]), section
    for part in location[:-1]:
        annotation = None if isinstance(part, int) else owner.model_fields[part].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        owner = next((kind for kind in kinds if issubclass(kind, Section)), owner)
    return f": {ADVICE[word]}" if owner is Hyp and word in ADVICE else nearest(word, owner.model_fields)
