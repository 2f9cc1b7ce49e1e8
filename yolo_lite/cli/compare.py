"""``yolo-lite compare``: train variants with the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import CompareOptions, RunOptions, TrainOptions
from yolo_lite.config.resolve import run_config
from yolo_lite.config.schema import RunConfig

HINT = "; the same command goes on"  # where it was interrupted


def run(options: CompareOptions) -> None:
    """Train every variant with every seed, print the table."""
    from yolo_lite.plugins import loaded

    with loaded(options.plugin):
        _compare(options)


def _compare(options: CompareOptions) -> None:
    from yolo_lite.tools.compare import compare, make_runs, variant_folder

    folder = Path(options.project) / options.name
    configs = []
    for texts in _variants(options):
        project = str(folder / variant_folder(" ".join(texts)))
        seeds = range(options.seed, options.seed + options.seeds)
        configs.append((" ".join(texts), [_config(options, texts, project, seed) for seed in seeds]))
    print(compare(list(make_runs(configs)), folder))
    print(f"{folder}: comparison.md, comparison.json, comparison.png")


def _config(options: CompareOptions, texts: Sequence[str], project: str, seed: int) -> RunConfig:
    """The run of one variant with one seed."""
    shared = {name: getattr(options, name) for name in RunOptions.model_fields}
    own = {"set": [*options.set, *texts], "seed": seed, "project": project, "name": f"seed{seed}"}
    return run_config(TrainOptions(**{**shared, **own}, exist_ok=True, no_figures=True))


def _variants(options: CompareOptions) -> Sequence[Sequence[str]]:
    """The ``key=value`` texts of each variant.

    Raises:
        ConfigError: neither or both of --vary and --variant, or fewer than two variants, or two of one folder.
    """
    from yolo_lite.tools.compare import variant_folder

    if bool(options.vary) == bool(options.variant):
        raise ConfigError("expected either --vary KEY=A,B,... or --variant KEY=VALUE ..., once for each variant")
    variants = options.variant
    if options.vary:
        key, equals, values = options.vary.partition("=")
        if not equals:
            raise ConfigError(f"--vary {options.vary}: expected KEY=A,B,...")
        variants = [[f"{key}={value}"] for value in _split_at_commas(values)]
    if len(variants) < 2 or len({variant_folder(" ".join(texts)) for texts in variants}) < len(variants):
        raise ConfigError(f"expected two or more variants, all different, found {[' '.join(v) for v in variants]}")
    return variants


def _split_at_commas(text: str) -> list[str]:
    """Values between commas; commas inside brackets belong to a value."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]
