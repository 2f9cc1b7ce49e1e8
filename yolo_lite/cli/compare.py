"""``yolo-lite compare``: train variants with the same seeds."""

from __future__ import annotations

from collections.abc import Sequence

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import CompareOptions, RunOptions, TrainOptions
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.run_folder import run_place
from yolo_lite.tools.compare import Run, compare, take_folder, variant_folder

HINT = "; the same command goes on"  # where it was interrupted


def run(options: CompareOptions) -> None:
    """Train every variant with every seed, print the table."""
    variants, folder, runs = _variants(options), run_place(options.project, options.name), []
    for seed in range(options.seed, options.seed + options.seeds):
        for texts in variants:
            variant = " ".join(texts)
            own = {name: getattr(options, name) for name in RunOptions.model_fields}
            own |= {"project": folder / variant_folder(variant), "name": f"seed{seed}", "exist_ok": True}
            own |= {"seed": seed, "set": [*options.set, *texts], "no_figures": True}
            runs.append(Run(variant, seed, run_config(TrainOptions(**own))))
    take_folder(folder, runs[0].config)
    print(compare(runs, folder))
    print(f"{folder}: comparison.md, comparison.json, comparison.png")


def _variants(options: CompareOptions) -> Sequence[Sequence[str]]:
    """The ``key=value`` texts of each variant.

    Raises:
        ConfigError: neither or both of --vary and --variant, or fewer than two variants, or two of one folder.
    """
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
