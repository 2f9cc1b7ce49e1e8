"""Variants over several sets and seeds in one table: what has to win here before it becomes a default.

    python benchmarks/suite.py --variant anchors --variant free=model=cfg/yolo_n_free.yaml --reach 0.5
    python benchmarks/suite.py --sets bccd raccoon --variant plain --variant smooth=label_smoothing=0.1

A variant is ``NAME=KEY=VALUE,KEY=VALUE``, with the keys of ``yolo-lite compare``: those of hyp.yaml, ``model.KEY``,
``data.KEY``, and ``model``, ``imgsz``, ``epochs``, ``batch_size``, ``weights``; without keys it is the defaults.
Differences are those to the first variant with the same seed on the same set. They are more than noise where the
interval of Student's t for paired samples excludes 0: for each set, a question of its own (of twenty sets on which all
variants are equal one shows a difference), and for all pairs of set and seed together, which is the verdict on these
sets. Ranks go by the mean of a set; equal means share theirs, a variant that failed comes last. Seconds are those of
training and validation, without the start.

Every run has a folder of its own, ``PROJECT/SET/NAME/seedN``. Stopped, the same command goes on; with more sets, seeds
or variants it trains what is not there yet. Table and image are written anew after each set and seed.

The sets lie in ``../shared/data``, the embedded one is drawn: BCCD (github.com/Shenggan/BCCD_Dataset), raccoons
(github.com/datitran/raccoon_dataset), licence plates (github.com/RobertLucian/license-plate-dataset; small), all MIT.
coco128 trains and validates on the same images: it is shown, and counts neither in ranks nor in the verdict.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from yolo_lite.cli.compare import Variant, read_variant, split_at_commas, variant_run
from yolo_lite.config.durable import write_text
from yolo_lite.config.errors import ConfigError, StoppedError, UserError
from yolo_lite.config.load import validate
from yolo_lite.config.options import RunOptions
from yolo_lite.config.yaml_file import Document
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.data.outputs import check_place
from yolo_lite.report.comparison import VariantRow, comparison_image, mean_text, spread_text
from yolo_lite.report.drawing import write_image
from yolo_lite.report.figure import new_figure, pixels
from yolo_lite.report.results_csv import results_rows
from yolo_lite.report.table import markdown_table
from yolo_lite.tools.compare import METRICS, Outcome, Run, summarise, trained, variant_folder

SHARED = Path(__file__).resolve().parents[2] / "shared/data"


class Set(NamedTuple):
    """A dataset, and how it is trained on."""

    data: str
    imgsz: int
    epochs: int
    batch_size: int = 16
    counts: bool = True  # in ranks and verdicts


SETS = {
    "embedded": Set("data/shapes.yaml", 160, 22),
    "bccd": Set(str(SHARED / "bccd/data.yaml"), 320, 60),
    "raccoon": Set(str(SHARED / "raccoon/data.yaml"), 320, 60),
    "plates": Set(str(SHARED / "plates/data.yaml"), 320, 60),
    "coco128": Set(str(SHARED / "coco128/data.yaml"), 320, 100, counts=False),  # train = val
}


class Result(NamedTuple):
    """What a run came to, and how it got there."""

    outcome: Outcome
    curve: list[tuple[float, float]]  # of each epoch: mAP50-95, and seconds, NaN where no clock was kept


Results = Mapping[str, Mapping[str, Sequence[Result]]]  # by set and variant, seed by seed; as many for every variant


class Entry(NamedTuple):
    """A run of the suite."""

    set: str
    variant: str
    run: Run


def plan(flags: argparse.Namespace, variants: Sequence[Variant]) -> list[Entry]:
    """All runs: seed by seed, that an interrupted suite can be read; in it set by set, in it variant by variant.

    Raises:
        UserError: a set or a variant cannot be trained on, or the project lies where nothing may be written.
    """
    entries = []
    for seed in range(flags.seeds):
        for name in flags.sets:
            for variant in variants:
                run = variant_run(_options(flags, SETS[name]), variant, seed, flags.project / name)
                entries.append(Entry(name, variant.name, run._replace(variant=f"{name}, {variant.name}")))
    for config in {entry.set: entry.run.config for entry in entries}.values():
        check_place(flags.project, dataset_inputs(config.data, config.data_file), "--project")
    return entries


def _options(flags: argparse.Namespace, one: Set) -> RunOptions:
    epochs = one.epochs if flags.epochs is None else flags.epochs
    own = {"data": one.data, "imgsz": one.imgsz, "epochs": epochs, "batch_size": one.batch_size}
    shared = {name: getattr(flags, name) for name in ("cfg", "set", "device", "workers")}
    return validate(RunOptions, Document("suite.py", own | shared, {}, {name: f"--{name}" for name in own | shared}))


def read_variants(texts: Sequence[str]) -> list[Variant]:
    """The variants of ``NAME=KEY=VALUE,...``; ConfigError where one has no name, or two would share a folder."""
    parts = [text.partition("=") for text in texts]
    folders = [variant_folder(name) for name, _, _ in parts]
    if not all(folders) or len(set(folders)) < len(folders):
        raise ConfigError(f"--variant: expected a name of its own for each, NAME=KEY=VALUE,..., found {list(texts)}")
    return [read_variant([key for key in split_at_commas(keys) if key], name) for name, _, keys in parts]


def run_suite(entries: Sequence[Entry], flags: argparse.Namespace) -> str:
    """Train what is not finished yet; table and image are written after each set and seed, the table is returned."""
    results: dict[str, dict[str, list[Result]]] = {}
    text, num_variants = "", len({entry.variant for entry in entries})
    for number, (entry, outcome) in enumerate(zip(entries, trained([entry.run for entry in entries]), strict=True), 1):
        of_variants = results.setdefault(entry.set, {})
        of_variants.setdefault(entry.variant, []).append(read_result(entry.run.folder, outcome))
        if number % num_variants == 0:
            text = table(results, flags.reach)
            write_report(Path(flags.output or flags.project / "suite"), results, text, entries, flags.words)
            if flags.curves is not None:
                write_image(flags.curves, curves_image(results))
    return text


def read_result(folder: Path, outcome: Outcome) -> Result:
    """A run's curve from results.csv, and its clock from TensorBoard's files: results.csv knows no time."""
    file = folder / "results.csv"
    rows = results_rows(file.read_text(encoding="utf-8")) if file.exists() else []
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    clocks = []
    for tag in ("time/train", "time/validation"):
        kept = tag in board.Tags()["scalars"]
        clocks.append({event.step: event.value for event in board.Scalars(tag)} if kept else {})
    times = [sum(clock.get(int(row["epoch"]), math.nan) for clock in clocks) for row in rows]
    return Result(outcome, [(row[METRICS[0]], seconds) for row, seconds in zip(rows, times, strict=True)])


def seconds_to(result: Result, reach: float) -> float:
    """Seconds up to the end of the first epoch with this mAP50-95; infinite if there is none, NaN without a clock."""
    total = 0.0
    for value, seconds in result.curve:
        total += seconds
        if value >= reach:
            return total
    return math.inf


def ranks(means: Sequence[float]) -> list[float]:
    """The place of each mean, 1 for the largest; equal ones share theirs, NaN are last."""
    return [float(place) for place in stats.rankdata([math.inf if math.isnan(mean) else -mean for mean in means])]


def rows_of(of_variants: Mapping[str, Sequence[Result]], counts: bool = True) -> list[VariantRow]:
    """What a comparison says of the variants; without differences where they do not count."""
    rows = summarise({variant: [one.outcome for one in own] for variant, own in of_variants.items()})
    return rows if counts else [row._replace(difference=None, half_width=None) for row in rows]


def table(results: Results, reach: float | None = None) -> str:
    """The Markdown table: set by set, then all that count together, then those that do not count."""
    counting = {name: of_variants for name, of_variants in results.items() if SETS[name].counts}
    lines = [["set", "variant", "mAP50-95", "difference", "more than noise?", "rank", "s/epoch", f"s to {reach}"]]
    for name, of_variants in counting.items():
        lines += set_lines(name, of_variants, reach)
    lines += all_lines(counting) if len(counting) > 1 else []
    for name in results:
        lines += set_lines(name, results[name], reach) if name not in counting else []
    return markdown_table(lines if reach is not None else [line[:-1] for line in lines])


def set_lines(name: str, of_variants: Mapping[str, Sequence[Result]], reach: float | None) -> list[list[str]]:
    """A line for each variant on a set."""
    counts, lines = SETS[name].counts, []
    rows = rows_of(of_variants, counts)
    for row, place in zip(rows, ranks([row.map50_95[0] for row in rows]), strict=True):
        own = of_variants[row.variant]
        difference = spread_text(row.difference, row.half_width, "+")
        seconds = epoch_seconds(own)
        time = "-" if math.isnan(seconds) else f"{seconds:.1f}"
        judged = [difference, row.verdict, f"{place:g}" if counts else "-"]
        lines.append([label_of(name), row.variant, mean_text(row), *judged, time, reached(own, reach or 0)])
    return lines


def label_of(name: str) -> str:
    """A set as table and image name it."""
    return name if SETS[name].counts else f"{name} (train = val)"


def pooled(results: Results) -> dict[str, list[Result]]:
    """All runs of each variant, set by set."""
    of_sets = list(results.values())
    return {variant: [one for own in of_sets for one in own[variant]] for variant in of_sets[0]}


def all_lines(counting: Results) -> list[list[str]]:
    """A line for each variant over all sets that count: pairs of set and seed, mean rank, and time as a ratio."""
    of_sets = list(counting.values())
    rows = rows_of(pooled(counting))
    places = np.mean([ranks([row.map50_95[0] for row in rows_of(own)]) for own in of_sets], axis=0)
    seconds = np.array([[epoch_seconds(own) for own in of_variants.values()] for of_variants in of_sets])
    ratios = np.exp(np.log(seconds / seconds[:, :1]).mean(axis=0))
    lines = []
    for row, place, ratio in zip(rows, places, ratios, strict=True):
        mean = mean_text(row._replace(map50_95=(row.map50_95[0], None)))  # a deviation would be that of the sets
        judged = [spread_text(row.difference, row.half_width, "+"), row.verdict, f"{place:.2f}"]
        time = "-" if math.isnan(ratio) else f"× {ratio:.2f}"
        lines.append([f"all {len(of_sets)}", row.variant, mean, *judged, time, ""])
    return lines


def epoch_seconds(own: Sequence[Result]) -> float:
    """The median over the epochs of all seeds; NaN where no clock was kept."""
    seconds = [spent for one in own for _, spent in one.curve if not math.isnan(spent)]
    return float(np.median(seconds)) if seconds else math.nan


def reached(own: Sequence[Result], reach: float) -> str:
    """The mean over the seeds that got there, and how many if not all did."""
    times = [seconds_to(one, reach) for one in own]
    there = [seconds for seconds in times if seconds < math.inf]
    if any(map(math.isnan, times)):
        return "no clock"
    count = "" if len(there) == len(times) else f" ({len(there)} of {len(times)} seeds)"
    return f"{np.mean(there):.0f}{count}" if there else "never"


def write_report(stem: Path, results: Results, text: str, entries: Sequence[Entry], words: Sequence[str]) -> None:
    """Write ``stem``.md and ``stem``.png; the words are those of the command."""
    file, image = (stem.with_name(f"{stem.name}.{ending}") for ending in ("md", "png"))
    title = f"# Suite: {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}, {date.today()}"
    command = f"`python benchmarks/suite.py {shlex.join(words)}`"
    parts = [title, command, text, "\n".join(notes(results, entries)), f"![{stem.name}]({image.name})"]
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n\n".join(parts) + "\n")
    write_image(image, comparison_image(panels(results)))


def curves_image(results: Results) -> np.ndarray:
    """mAP50-95 over epochs, a panel for each set: every seed a thin line, the mean of each variant a thick one; RGB."""
    figure = new_figure(4.2 * len(results) + 0.5, 3.8)
    places = list(figure.subplots(1, len(results), squeeze=False).flat)
    for axes, (name, of_variants) in zip(places, results.items(), strict=True):
        for number, (variant, own) in enumerate(of_variants.items()):
            curves = [[value for value, _ in one.curve] for one in own]
            for curve in curves:
                axes.plot(range(1, len(curve) + 1), curve, color=f"C{number}", alpha=0.3, linewidth=0.8)
            whole = min(map(len, curves))  # a run that failed has a shorter curve
            mean = np.mean([curve[:whole] for curve in curves], axis=0)
            axes.plot(range(1, whole + 1), mean, color=f"C{number}", linewidth=2, label=variant)
        axes.set_title(label_of(name), fontsize=11, loc="left", fontweight="bold")
        axes.set(xlabel="epoch", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    places[0].set_ylabel("mAP50-95")
    places[-1].legend(fontsize=9, loc="lower right")
    return pixels(figure)


def panels(results: Results) -> dict[str, list[VariantRow]]:
    """What the image shows: each set, then the differences of all pairs of set and seed."""
    of_sets = {label_of(name): rows_of(own, SETS[name].counts) for name, own in results.items()}
    counting = {name: own for name, own in results.items() if SETS[name].counts}
    if len(counting) < 2:
        return of_sets
    rows = rows_of(pooled(counting))
    differences = [np.subtract(row.values, rows[0].values).tolist() for row in rows]
    of_all = [
        row._replace(values=own, map50_95=(float(np.mean(own)), None))
        for row, own in zip(rows, differences, strict=True)
    ]
    return {**of_sets, f"all {len(counting)}: differences": of_all}


def notes(results: Results, entries: Sequence[Entry]) -> Iterator[str]:
    """What stands below the table: what was trained on, how to read it, and what failed."""
    flags = {entry.set: entry.run.config.train for entry in reversed(entries)}  # of the first variant
    for name, of_variants in results.items():
        num_seeds, one = len(next(iter(of_variants.values()))), flags[name]
        seeds = f"{num_seeds} seed{'s' * (num_seeds > 1)}"
        yield f"- {name}: {seeds}, {one.imgsz} px, {one.epochs} epochs, batch {one.batch_size}"
    yield "\nmAP50-95 of the last epoch: mean ± standard deviation over seeds. Difference to the first variant, paired"
    yield "by set and seed, ± half its interval (95 %, all variants at once): noise if that includes 0. s/epoch:"
    yield "median, with validation."
    if failed := failures(results):
        yield "\n" + "\n".join(f"- {line}" for line in failed)


def failures(results: Results) -> list[str]:
    """What made runs fail, a line each."""
    runs = (
        (f"{name}, {variant}, seed {seed}", one.outcome.problem)
        for name, of_variants in results.items()
        for variant, own in of_variants.items()
        for seed, one in enumerate(own)
    )
    return [f"{run}: {problem}" for run, problem in runs if problem]


def read_flags(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--sets", nargs="+", choices=list(SETS), default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    add("--seeds", type=int, default=3, help=f"seeds of each variant on each set, from 0 on {default}")
    add("--variant", action="append", required=True, metavar="NAME=KEY=VALUE,...", help="once for each variant")
    add("--cfg", default="cfg/yolo_n.yaml", help=f"of variants without model= {default}")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of all variants")
    add("--epochs", type=int, help="of all sets (default: each has its own)")
    add("--reach", type=float, metavar="MAP", help="a column with the seconds until mAP50-95 is MAP")
    add("--project", type=Path, default=Path("runs/suite"), help=f"where runs lie {default}")
    add("--output", type=Path, metavar="STEM", help="write STEM.md and STEM.png (default: PROJECT/suite)")
    add("--curves", type=Path, metavar="FILE.png", help="mAP50-95 over epochs, as an image")
    add("--device", default="", help="cpu, 0, ... (default: a GPU if any)")
    add("--workers", type=int, default=2, help=f"processes that load data {default}")
    flags = parser.parse_args(words)
    if flags.seeds < 1:
        parser.error(f"--seeds: expected 1 or more, found {flags.seeds}")
    flags.sets, flags.words = list(dict.fromkeys(flags.sets)), sys.argv[1:] if words is None else words
    return flags


def main(words: Sequence[str] | None = None) -> int:
    flags = read_flags(words)
    try:
        print(run_suite(plan(flags, read_variants(flags.variant)), flags))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StoppedError as stopped:
        print(f"{stopped}, or with the same command", file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
