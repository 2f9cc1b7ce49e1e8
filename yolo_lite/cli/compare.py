"""``yolo-lite compare``: train variants with the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import validate
from yolo_lite.config.options import CompareOptions, RunOptions, TrainOptions
from yolo_lite.config.yaml_file import Document, parse_scalar
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.tools.compare import Run, compare, variant_folder

HINT = "; the same command goes on"  # where it was interrupted
# Keys of variants that stand for options; all others are those of --set.
OPTIONS = {"model": "cfg", "imgsz": "imgsz", "epochs": "epochs", "batch_size": "batch_size", "weights": "weights"}
PATHS = ("model", "weights")


class Variant(NamedTuple):
    """What is different in the runs of one variant."""

    name: str  # in tables, and of its folder
    options: dict[str, Any]  # instead of those of the command, by their fields
    overrides: list[str]  # after those of --set


def run(options: CompareOptions) -> None:
    """Train every variant with every seed, print the table."""
    variants, seeds = _variants(options), range(options.seed, options.seed + options.seeds)
    place = Path(options.project, options.name)
    runs = [variant_run(options, variant, seed, place) for seed in seeds for variant in variants]
    config = runs[0].config
    folder = make_run_folder(options.project, options.name, True, dataset_inputs(config.data, config.data_file))
    print(compare(runs, folder))
    print(f"{folder}: comparison.md, comparison.json, comparison.png")


def variant_run(options: RunOptions, variant: Variant, seed: int, folder: Path) -> Run:
    """The run of a variant with a seed, below a folder; ConfigError where it cannot be trained as it is said."""
    own = {name: getattr(options, name) for name in RunOptions.model_fields} | variant.options
    own |= {"project": folder / variant_folder(variant.name), "name": f"seed{seed}", "exist_ok": True}
    own |= {"seed": seed, "set": [*options.set, *variant.overrides], "no_figures": True}
    flags = {field: f"{key}={own[field]}" for key, field in OPTIONS.items()}
    return Run(variant.name, seed, run_config(validate(TrainOptions, Document(variant.name, own, {}, flags))))


def read_variant(texts: Sequence[str], name: str = "") -> Variant:
    """A variant from its ``key=value`` texts, after which it is named; a model is named by the stem of its file.

    Raises:
        ConfigError: an option is given twice, or names no file.
    """
    options: dict[str, Any] = {}
    overrides, names = [], []
    for text in texts:
        key, _, value = text.partition("=")
        if key not in OPTIONS:
            overrides.append(text)
        elif OPTIONS[key] in options:
            raise ConfigError(f"{text}: expected {key} once in a variant, found {' '.join(texts)}")
        elif key in PATHS and not value:
            raise ConfigError(f"{text}: expected a file")
        else:
            try:
                options[OPTIONS[key]] = value if key in PATHS else parse_scalar(value)
            except ConfigError as error:
                raise ConfigError(f"{text}: {error}") from None
        names.append(f"{key}={_stem(value)}" if key in PATHS else text)
    return Variant(name or " ".join(names), options, overrides)


def _stem(file: str) -> str:
    path = Path(file)
    return path.stem if path.suffix in (".yaml", ".yml", ".pt") else path.name


def _variants(options: CompareOptions) -> list[Variant]:
    """The variants that --vary or --variant give.

    Raises:
        ConfigError: neither or both of them, or fewer than two variants, or two of one folder, or a model beside --cfg.
    """
    if bool(options.vary) == bool(options.variant):
        raise ConfigError("expected either --vary KEY=A,B,... or --variant KEY=VALUE ..., once for each variant")
    texts = options.variant
    if options.vary:
        key, equals, values = options.vary.partition("=")
        if not equals:
            raise ConfigError(f"--vary {options.vary}: expected KEY=A,B,...")
        texts = [[f"{key}={value}"] for value in split_at_commas(values)]
    variants = [read_variant(one) for one in texts]
    names = [variant.name for variant in variants]
    if len(variants) < 2 or len(set(map(variant_folder, names))) < len(variants):
        by_name = " (files by their names)" if any(variant.options for variant in variants) else ""
        raise ConfigError(f"expected two or more variants, all different, found {names}{by_name}")
    with_model = ["cfg" in variant.options for variant in variants]
    if any(with_model) and "cfg" in options.model_fields_set:
        raise ConfigError(f"--cfg {options.cfg}: expected no --cfg where variants name their model, found model= too")
    if any(with_model) and not all(with_model):
        without = names[with_model.index(False)]
        raise ConfigError(f"--variant {without}: expected model= in every variant or in none")
    return variants


def split_at_commas(text: str) -> list[str]:
    """Values between commas; commas inside brackets belong to a value."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]
