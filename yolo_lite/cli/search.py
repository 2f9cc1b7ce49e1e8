"""``yolo-lite search``: find keys of hyp.yaml that beat the default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_lite.cli.compare import HINT as HINT
from yolo_lite.cli.compare import Variant, variant_run
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import SearchOptions
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.tools.compare import Run
from yolo_lite.tools.search import Search, confirm, read_space, search


def run(options: SearchOptions) -> None:
    """Carry out the trials, test the best of them with fresh seeds, print what that shows."""
    space, place = read_space(str(options.space)), Path(options.project, options.name)
    if options.optimizer and "optimizer" in space:
        raise ConfigError(f"--optimizer {options.optimizer}: expected no --optimizer where {options.space} searches it")

    def make_run(name: str, changes: Sequence[str], seed: int) -> Run:
        return variant_run(options, Variant(name, {}, [*changes]), seed, place)

    default = make_run("default", (), options.seed)
    inputs = dataset_inputs(default.config.data, default.config.data_file)
    folder = make_run_folder(options.project, options.name, True, inputs)
    plan = Search(space, make_run, default, folder)
    print(confirm(plan, search(plan, options.trials), options.seeds))
    print(f"{folder}: trials.json; of the fresh seeds winner.yaml, comparison.md, .json, .png")
