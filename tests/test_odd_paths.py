"""Each command given each odd path at each of its flags: it works, or it ends with status 2 and short lines."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from test_border import is_short
from test_cli import here as here
from test_cli import place as place
from test_cli import status_of, train_words, val_words

from yolo_lite.cli.main import main

ODD = [
    *(
        "~nosuchuser/x",
        "a\0b",
        "\udcff",
        "\ud800",
        "n" * 300,
        "a/" * 3000,
        "",
        ".",
        "/dev/null",
    ),
    *("/proc/self/mem", "/proc/1/environ", "*", "[a", "x.yaml/y", "http://x/y", "\n", "\x1b[2J", "'", "%s", "{}"),
    *("a:b", "\u202e", "toy.yaml", "nowhere.pt", "a.zip", "\u0627\u0644", "nul", "data/", "~"),
]
FLAGS = {
    "train": ["--cfg", "--hyp", "--data", "--weights", "--resume", "--plugin", "--project", "--name"],
    "val": ["--weights", "--data", "--plugin", "--project", "--name"],
    "predict": ["--weights", "--source", "--plugin", "--project", "--name"],
    "import": ["weights", "-o", "--cfg", "--data"],
    "export": ["--weights", "-o", "--data", "--plugin"],
    "compare": ["--cfg", "--hyp", "--data", "--weights", "--plugin", "--project", "--name"],
    "show": ["--data", "--hyp", "--plugin", "--project", "--name"],
    "losses": ["--plugin"],
    "convert": ["--data", "--out", "--plugin"],
    "adopt": ["source", "-o"],
    "download": ["name", "--into"],
    "check": ["--data", "--cfg", "--hyp", "--plugin", "--fix-into", "--project", "--name"],
    "anchors": ["--data", "--cfg", "--hyp", "--plugin"],
}
TABLE = [(command, flag) for command, flags in FLAGS.items() for flag in flags]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a server that is not there."""
    monkeypatch.setattr("yolo_lite.tools.download.PAUSE", 0)


def base(command: str, place: Path) -> list[str]:
    """Words with which a command would work, or end early."""
    data, weights = str(place / "set.yaml"), str(place / "done/exp/weights/best.pt")
    return {
        "train": train_words(place, "--epochs", "1"),
        "val": val_words(place),
        "predict": ["--weights", weights, "--source", str(place / "set/images/val"), "--device", "cpu"],
        "import": [weights, "-o", "made.pt"],
        "export": ["--weights", weights, "--format", "torchscript", "-o", "made.torchscript"],
        "compare": [*train_words(place), "--vary", "lr0=0.1,0.2", "--seeds", "1"],
        "show": ["--data", data, "--imgsz", "64", "--batches", "1"],
        "losses": [],
        "convert": ["--data", data, "--to", "yolo", "--out", "made"],
        "adopt": [str(place / "set"), "-o", "made.yaml", "--names", "a,b"],
        "download": ["coco128", "--into", str(place / "set")],
        "check": ["--data", data, "--cfg", str(place / "toy.yaml"), "--imgsz", "64"],
        "anchors": ["--data", data, "--cfg", str(place / "toy.yaml"), "--imgsz", "64"],
    }[command]


def with_path(command: str, flag: str, odd: str, place: Path) -> list[str]:
    words = base(command, place)
    if not flag.startswith("-"):
        return [odd, *words[1:]]
    return [*words, f"{flag}={odd}"] if flag.startswith("--") else [*words, flag, odd]


def trial(command: str, flag: str, odd: str, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with the end of a command; empty where nothing is."""
    status = status_of(main, [command, *with_path(command, flag, odd, place)])
    said = capsys.readouterr().err
    is_plain = is_short(ValueError(said.replace("\r", "").replace("\t", " ")))
    is_clear = status in (0, 1, 2) and "this is a fault" not in said and "Traceback" not in said and is_plain
    return "" if is_clear and (status != 2 or said) else f"{command} {flag}={odd[:40]!r}: {status}: {said[-500:]}"


@pytest.mark.parametrize("command", FLAGS)
def test_an_odd_path_is_used_or_refused(command: str, place: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    draw = random.Random(command)
    drawn = [(draw.choice(FLAGS[command]), odd) for odd in draw.sample(ODD, 3)]
    assert list(filter(None, (trial(command, flag, odd, place, capsys) for flag, odd in drawn))) == []


@pytest.mark.parametrize(("command", "flag"), [("adopt", "-o"), ("download", "--into")])
def test_the_root_is_no_place_for_a_set(
    command: str, flag: str, place: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    assert status_of(main, [command, *with_path(command, flag, "/", place)]) == 2
    assert "/: expected " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("command", "flag"), TABLE)
def test_every_odd_path_is(command: str, flag: str, place: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    assert list(filter(None, (trial(command, flag, odd, place, capsys) for odd in ODD))) == []
