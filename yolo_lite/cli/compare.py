"""``yolo-lite compare``: train variants with the same seeds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_lite.cli.flags import add_run_flags, run_config
from yolo_lite.config.errors import ConfigError

if TYPE_CHECKING:
    from yolo_lite.tools.compare import Run

HINT = "; the same command goes on"  # where it was interrupted


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite compare``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite compare",
        description="Train variants with the same seeds and tell differences from noise. The same command goes on "
        "where it was stopped.",
    )
    add = parser.add_argument
    add_run_flags(parser)
    add("--vary", metavar="KEY=A,B,...", help="a key of hyp.yaml, or model.KEY, data.KEY, and its values")
    add("--variant", nargs="+", action="append", default=[], metavar="KEY=VALUE",
        help="one variant, several keys at once; once for each variant")  # fmt: skip
    add("--seeds", type=int, default=3, help="seeds of each variant, from --seed on (default: %(default)s)")
    add("--project", default="runs/compare", help="folder of comparisons (default: %(default)s)")
    add("--name", default="exp", help="folder of this comparison (default: %(default)s)")
    parser.set_defaults(save_period=None, no_figures=True)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Train every variant with every seed, print the table."""
    from yolo_lite.plugins import loaded

    with loaded(arguments.plugin):
        _compare(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    from yolo_lite.tools.compare import compare

    variants = _variants(arguments)
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds: expected 1 or more, found {arguments.seeds}")
    folder = Path(arguments.project) / arguments.name
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    print(compare([_make_run(arguments, folder, texts, seed) for seed in seeds for texts in variants], folder))
    print(f"{folder}: comparison.md, comparison.json, comparison.png")


def _make_run(arguments: argparse.Namespace, folder: Path, texts: list[str], seed: int) -> Run:
    """One variant, by its ``key=value`` texts, with one seed."""
    from yolo_lite.tools.compare import Run, variant_folder

    variant = " ".join(texts)
    place = {"project": str(folder / variant_folder(variant)), "name": f"seed{seed}", "exist_ok": True}
    own = {**vars(arguments), **place, "seed": seed, "set": [*arguments.set, *texts]}
    return Run(variant, seed, run_config(argparse.Namespace(**own)))


def _variants(arguments: argparse.Namespace) -> list[list[str]]:
    """The ``key=value`` texts of each variant.

    Raises:
        ConfigError: neither or both of --vary and --variant, or fewer than two variants, or two of one folder.
    """
    from yolo_lite.tools.compare import variant_folder

    if bool(arguments.vary) == bool(arguments.variant):
        raise ConfigError("expected either --vary KEY=A,B,... or --variant KEY=VALUE ..., once for each variant")
    variants = arguments.variant
    if arguments.vary:
        key, equals, values = arguments.vary.partition("=")
        if not equals:
            raise ConfigError(f"--vary {arguments.vary}: expected KEY=A,B,...")
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
