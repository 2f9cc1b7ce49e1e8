"""``yolo-lite compare``: train variants with the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import CompareOptions, RunOptions, TrainOptions

if TYPE_CHECKING:
    from yolo_lite.tools.compare import Run

HINT = "; the same command goes on"  # where it was interrupted


def run(options: CompareOptions) -> None:
    """Train every variant with every seed, print the table."""
    from yolo_lite.tools.compare import compare

    variants, folder = _variants(options), Path(options.project) / options.name
    seeds = range(options.seed, options.seed + options.seeds)
    print(compare([_make_run(options, folder, texts, seed) for seed in seeds for texts in variants], folder))
    print(f"{folder}: comparison.md, comparison.json, comparison.png")


def _make_run(options: CompareOptions, folder: Path, texts: Sequence[str], seed: int) -> Run:
    """One variant, by its ``key=value`` texts, with one seed."""
    from yolo_lite.engine.resolve import run_config
    from yolo_lite.tools.compare import Run, variant_folder

    variant = " ".join(texts)
    shared = {name: getattr(options, name) for name in RunOptions.model_fields}
    place = {"project": folder / variant_folder(variant), "name": f"seed{seed}", "exist_ok": True}
    own: dict[str, Any] = {**shared, **place, "seed": seed, "set": [*options.set, *texts], "no_figures": True}
    return Run(variant, seed, run_config(TrainOptions(**own)))


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
