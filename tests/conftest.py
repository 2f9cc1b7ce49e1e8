"""Shared fixtures: a tiny drawn set, short runs, and no network."""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from yolo_lite.cli.arguments import read_options
from yolo_lite.config.options import TrainOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.engine.resolve import run_config

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

os.environ["TQDM_DISABLE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes are the parallelism
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


# Whole commands and figures: no test of these files is quick, so that -m quick need not import them.
COMMANDS = ("test_adopt.py", "test_cli.py", "test_doctor.py", "test_curves.py", "test_import_weights.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.option.markexpr == "quick" and collection_path.name in COMMANDS else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test is ``quick`` but those that are slow, train or start processes: of these, single ones are marked."""
    for item in items:
        trains = "tiny_data" in getattr(item, "fixturenames", ()) or item.path.name in COMMANDS
        if not trains and not {mark.name for mark in item.iter_markers()} & {"slow", "processes"}:
            item.add_marker("quick")


def pytest_collection_finish() -> None:
    gc.freeze()  # a million objects of imports: to look for garbage among them, again and again, takes seconds


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens an internet connection fails its test."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is read from or written to the user's own cache folder."""
    os.environ["YOLO_LITE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset YAML of 20 + 8 drawn images of 64 px."""
    folder = tmp_path_factory.mktemp("tiny")
    text = (REPOSITORY / "data/shapes.yaml").read_text().split("suggested:")[0]
    text = (
        text.replace("train: 256", "train: 20")
        .replace("val: 64", "val: 8")
        .replace("image_size: 160", "image_size: 64")
    )
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


def tiny_config(data: Path, project: Path, *words: str) -> RunConfig:
    """A run of yolo_n on the tiny set: 2 epochs of batches of 8 at 64 px, without worker processes."""
    flags = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    flags += ["--data", str(data), "--project", str(project), "--device", "cpu", "--workers", "0"]
    flags += ["--epochs", "2", "--batch-size", "8", "--imgsz", "64", "--no-figures", *words]
    return run_config(read_options(TrainOptions, flags, "train.py"))


def with_figures(config: RunConfig) -> RunConfig:
    """The run with the images that take most of a tiny run's time."""
    return config.model_copy(update={"train": config.train.model_copy(update={"figures": True})})


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished short run; tests only read it."""
    from yolo_lite.engine.train import train

    with contextlib.redirect_stdout(io.StringIO()):
        config = tiny_config(tiny_data, tmp_path_factory.mktemp("runs"))
        return train(with_figures(config)).folder


def equal_states(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are the same to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's results.csv."""
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something has happened, which must be within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def children_of(process: int) -> list[int]:
    """The processes that a process has started and that still are, oldest first."""
    tasks = Path(f"/proc/{process}/task")
    if not tasks.exists():
        pytest.skip("this system has no /proc")
    return sorted(int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split())


def boxes_only(xyxy: np.ndarray) -> dict[str, object]:
    """The fields of a DatasetIndex that say how objects lie, where only their boxes are known."""
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
    return {"xyxy": xyxy, "area": area, "crowd": np.zeros(len(xyxy), bool), "outlines": None}
