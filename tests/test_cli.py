"""Laws of the command line, run folders and checkpoint files: one clear line, status 2, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY

import yolo_lite
from yolo_lite.cli.arguments import read_options
from yolo_lite.cli.main import main, train_main, val_main
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.load import load_run_config
from yolo_lite.config.options import TrainOptions, default_workers
from yolo_lite.engine.checkpoint import config_of, load_checkpoint, save_checkpoint
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.run_folder import latest_checkpoint, make_run_folder

TOY = """\
nc: 3
anchors: 1
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
head:
  - [[0, 1], 1, Detect, [nc, anchors]]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy network, two images a split, and a finished run of one epoch; tests only read it."""
    folder = tmp_path_factory.mktemp("place")
    for split in ("train", "val"):
        (folder / "set/images" / split).mkdir(parents=True)
        (folder / "set/labels" / split).mkdir(parents=True)
        for number in range(2):
            picture = np.full((64, 64, 3), 50 + 90 * number, np.uint8)
            cv2.imwrite(str(folder / f"set/images/{split}/{number}.png"), picture)
            (folder / f"set/labels/{split}/{number}.txt").write_text("0 .5 .5 .4 .4\n")
    (folder / "set.yaml").write_text("path: set\ntrain: images/train\nval: images/val\nnames: [a, b]\n")
    (folder / "toy.yaml").write_text(TOY)
    assert train_main(train_words(folder, "--project", str(folder / "done"))) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_words(place: Path, *words: str) -> list[str]:
    """A toy run of one epoch; the words that come later win."""
    files = [
        "--cfg",
        str(place / "toy.yaml"),
        "--hyp",
        str(REPOSITORY / "cfg/hyp.yaml"),
        "--data",
        str(place / "set.yaml"),
    ]
    sizes = ["--epochs", "1", "--batch-size", "2", "--imgsz", "64", "--workers", "0", "--device", "cpu", "--no-figures"]
    return [*files, *sizes, *words]


def train_options(words: list[str]) -> TrainOptions:
    return read_options(TrainOptions, words, "train.py")


def val_words(place: Path, *words: str) -> list[str]:
    return ["--weights", str(place / "done/exp/weights/best.pt"), "--device", "cpu", "--workers", "0", *words]


def status_of(command: Any, words: list[str]) -> int:
    try:
        return int(command(words))
    except SystemExit as end:  # argparse ends the process itself
        return int(end.code or 0)


def refused(command: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that must end with status 2 writes to stderr."""
    capsys.readouterr()
    assert status_of(command, words) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


# ------------------------------------------------------------------------------------------------ unusable arguments


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--cfg nowhere.yaml", ["error: nowhere.yaml: no such file (looked in "]),
        ("--data nowhere.yaml", ["error: nowhere.yaml: no such file (looked in "]),
        ("--hyp nowhere.yaml", ["error: nowhere.yaml: no such file (looked in "]),
        ("--cfg a.yaml --hyp b.yaml --data c.yaml", [f"error: {name}.yaml: no such file" for name in "bac"]),
        ("--device cuda:77", ["error: --device cuda:77: not available"]),
        ("--set cls_weights=[1,2,3,4,5,6,7]", ["error: --set cls_weights=[1,2,3,4,5,6,7]: expected "]),
        ("--device toaster", ["error: --device toaster: not available"]),
        ("--device meta", ["error: --device meta: not available", "expected one of cpu, cuda, mps, xpu"]),
        ("--epochs -1", ["error: --epochs: expected 1 or more, found -1"]),
        ("--imgsz 0", ["error: --imgsz: expected 32 or more, found 0"]),
        (
            "--batch-size 0 --epochs 0",
            ["error: --epochs: expected 1 or more", "error: --batch-size: expected 1 or more"],
        ),
        ("--workers -1", ["error: --workers: expected 0 or more, found -1"]),
        ("--seed -1", ["error: --seed: expected 0 or more, found -1"]),
        ("--seed 1180591620717411303424", ["error: --seed: expected less than 9.22337e+18"]),
        ("--epochs many", ["argument --epochs: invalid int value: 'many'"]),
        ("--optimizer Adam", ["argument --optimizer: invalid choice: 'Adam'"]),
        ("--lr0 1", ["unrecognized arguments: --lr0 1"]),
        ("--set mosiac=1", ["error: --set mosiac=1: unknown key 'mosiac' (nearest: 'mosaic')"]),
        ("--set lr0", ["error: --set lr0: expected key=value"]),
        (
            "--set lr0=x model.ch=x",
            ["error: --set lr0=x: expected a number", "error: --set model.ch=x: expected a whole number, found 'x'"],
        ),
        ("--set lr0=[1", ["error: --set lr0=[1: not a YAML value"]),
        ("--set data.train=nowhere", ["expected a folder, a list file or a glob pattern, found nothing at "]),
        ("--set data.val=[]", ["set.yaml: the split 'val' is not given"]),
        ("--set model.activation=nn.Foo()", ["error: --set model.activation=nn.Foo(): unknown activation 'nn.Foo()'"]),
        ("--set precision=fp16", ["error: precision: fp16 needs a GPU"]),
        ("--resume", ["error: --resume: no */weights/last.pt below runs/train"]),
        ("--resume --project nowhere", ["error: --resume: no */weights/last.pt below nowhere"]),
        ("--resume nowhere.pt", ["error: nowhere.pt: no such file"]),
        ("--weights nowhere.pt", ["error: nowhere.pt: no such file"]),
        ("--weights yolov5s.pt", ["error: yolov5s.pt: no such file; nothing is downloaded, ", "yolo-lite import"]),
        ("--weights .", ["error: .: cannot be read: a folder, expected a regular file"]),
    ],
)
def test_an_unusable_argument_of_train_ends_with_status_2_and_no_run_folder(
    words: str, expected: list[str], place: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    said = refused(train_main, train_words(place, *words.split()), capsys)
    assert [text for text in expected if text not in said] == []
    lines = said.splitlines()
    assert lines[0].startswith("usage: ") or (all(line.startswith("error: ") for line in lines) and len(lines) <= 4)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--conf 7", "error: --conf: expected 0..1, found 7.0"),
        ("--conf nan", "error: --conf: expected 0..1, found nan"),
        ("--iou -0.1", "error: --iou: expected 0..1, found -0.1"),
        ("--max-det 0", "error: --max-det: expected 1 or more, found 0"),
        ("--batch-size 0", "error: --batch-size: expected 1 or more, found 0"),
        ("--imgsz -3", "error: --imgsz: expected 1 or more, found -3"),
        ("--workers -1", "error: --workers: expected 0 or more, found -1"),
        ("--split test", "set.yaml: the split 'test' is not given (choices: train, val)"),
        ("--split rest", "argument --split: invalid choice: 'rest'"),
        ("--data nowhere.yaml", "error: nowhere.yaml: no such file"),
        ("--device cuda:77", "error: --device cuda:77: not available"),
        ("--weights nowhere.pt", "error: nowhere.pt: no such file"),
    ],
)
def test_an_unusable_argument_of_val_ends_with_status_2_and_no_run_folder(
    words: str, expected: str, place: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    assert expected in refused(val_main, val_words(place, *words.split()), capsys)
    assert list(here.iterdir()) == []


def bad_weights(folder: Path, kind: str, good: Path) -> Path:
    """A file that is no checkpoint of ours."""
    path = folder / f"{kind}.pt"
    whole = good.read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "no checkpoint")
    elif kind == "module":
        torch.save(torch.nn.Linear(1, 1), path)
    elif kind == "foreign":
        torch.save({"model": {}, "epoch": 3}, path)
    elif kind == "without_weights":
        torch.save({"format": 3, "yolo_lite": "0.1", "config": {}, "epoch": 1}, path)
    else:
        noise = random.Random(0).randbytes(5000)
        contents = {
            "empty": b"",
            "random": noise,
            "text": b"hello world\n",
            "pickle": b"\x80\x02q\x05.",
            "cut": whole[:-40],
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    "kind", ["empty", "random", "text", "pickle", "zip", "cut", "module", "foreign", "without_weights"]
)
def test_a_file_that_is_no_checkpoint_is_refused_by_every_flag_that_takes_one(
    kind: str, place: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    path = str(bad_weights(here, kind, place / "done/exp/weights/best.pt"))
    for command, words in [
        (train_main, train_words(place, "--weights", path)),
        (train_main, train_words(place, "--resume", path)),
        (val_main, val_words(place, "--weights", path)),
    ]:
        (line,) = refused(command, words, capsys).splitlines()
        assert line.startswith(f"error: {path}: ") and "not a checkpoint of yolo_lite" in line
    assert [entry.name for entry in here.iterdir()] == [f"{kind}.pt"]


def test_resume_tells_apart_a_finished_run_and_a_file_without_progress(
    place: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    weights = place / "done/exp/weights"
    said = refused(train_main, ["--resume", str(weights / "last.pt")], capsys)
    finished = "this run is finished, 1 of 1 epochs; --epochs N with a larger N goes on"
    assert said == f"error: --resume {weights / 'last.pt'}: {finished}\n"
    said = refused(train_main, ["--resume", str(weights / "best.pt")], capsys)
    assert "holds no optimizer state, expected the last.pt of a run" in said


def test_a_file_in_the_way_of_the_project_is_named(place: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "runs").write_text("mine")
    said = refused(train_main, train_words(place), capsys)
    assert said.startswith("error: --project runs/train: runs/train/exp cannot be made: ")
    assert (here / "runs").read_text() == "mine"


def test_val_names_an_unusable_project_before_it_works(
    place: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (here / "runs").write_text("mine")
    monkeypatch.setattr("yolo_lite.engine.validate.evaluate", None)
    said = refused(val_main, val_words(place), capsys)
    assert said.startswith("error: --project runs/val: runs/val/exp cannot be made: ")


def test_a_file_that_cannot_be_written_is_named_without_a_traceback(
    place: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/train/exp/results.csv")

    monkeypatch.setattr("yolo_lite.engine.record.Record.epoch", full)
    said = refused(train_main, train_words(place, "--project", str(here / "runs")), capsys)
    assert said.endswith("error: runs/train/exp/results.csv: No space left on device\n")


def test_bad_rows_of_a_model_yaml_reach_the_user(place: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "bad.yaml").write_text(TOY.replace("Conv, [8, 3, 2]]\nhead", "Conv, [8, 3, 2, 1, 1, 9, 9]]\nhead"))
    (line,) = refused(train_main, train_words(place, "--cfg", "bad.yaml"), capsys).splitlines()
    assert line.startswith(
        "error: bad.yaml: backbone row 1 (layer 1) [-1, 1, Conv, [8, 3, 2, 1, 1, 9, 9]]: Conv takes ["
    )


# ------------------------------------------------------------------------------------------------ what the flags mean


def test_flags_win_over_the_dataset_and_the_dataset_over_the_defaults(place: Path, here: Path):
    (here / "set.yaml").write_text("train: x\nnames: [a]\nsuggested: {epochs: 7, imgsz: 96}\n")
    files = ["--cfg", str(place / "toy.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml"), "--data", "set.yaml"]
    options = run_config(train_options([*files, "--imgsz", "128"])).train
    assert (options.epochs, options.imgsz, options.batch_size) == (7, 128, 16)
    assert options.workers == default_workers() and 1 <= options.workers <= 8


def test_the_dataset_gives_the_number_of_classes_and_flags_override_hyp(place: Path):
    words = ["--optimizer", "SGD", "--set", "optimizer=AdamW", "lr0=1e-4", "--set", "model.width_multiple=0.5"]
    config = run_config(train_options(train_words(place, *words)))
    assert config.model.nc == 2 == len(config.data.names)
    assert (config.hyp.optimizer, config.hyp.lr0, config.model.width_multiple) == ("SGD", 1e-4, 0.5)
    assert config.data_file == str(place / "set.yaml")


def test_the_default_dataset_is_found_from_any_folder(place: Path, here: Path):
    files = ["--cfg", str(place / "toy.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    config = run_config(train_options(files))
    assert config.data_file == str(REPOSITORY / "data/shapes.yaml") and config.data.generate


def test_a_run_leaves_its_resolved_configuration_twice(place: Path):
    folder = place / "done/exp"
    stored = load_run_config(yaml.safe_load((folder / "config.yaml").read_text()), "config.yaml")
    for name in ("best.pt", "last.pt"):
        content = load_checkpoint(folder / "weights" / name)
        assert config_of(content, name) == stored
    assert stored == run_config(train_options(train_words(place, "--project", str(place / "done"))))


def test_runs_are_numbered_and_exist_ok_writes_into_the_first(
    place: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    for _ in range(2):
        assert train_main(train_words(place)) == 0
    assert sorted(folder.name for folder in (here / "runs/train").iterdir()) == ["exp", "exp2"]
    (here / "runs/train/exp/mine.txt").write_text("kept")
    assert train_main(train_words(place, "--exist-ok")) == 0
    assert sorted(folder.name for folder in (here / "runs/train").iterdir()) == ["exp", "exp2"]
    assert (here / "runs/train/exp/mine.txt").read_text() == "kept"
    assert "Traceback" not in capsys.readouterr().err


def test_val_prints_a_table_and_writes_its_metrics(place: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    assert val_main(val_words(place)) == 0
    metrics = json.loads((here / "runs/val/exp/metrics.json").read_text())
    wanted = "map50_95 map50 map75 precision recall per_class images ms_per_image"
    assert set(wanted.split()) <= metrics.keys() and metrics["images"] == 2
    out = capsys.readouterr().out
    assert re.search(r"^\s*a\b", out, re.MULTILINE) and "runs/val/exp/metrics.json" in out


def test_interrupting_a_run_ends_with_status_130_and_says_how_to_go_on(
    place: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupt(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("yolo_lite.engine.train.train_epoch", interrupt)
    assert train_main(train_words(place)) == 130
    assert "--resume" in capsys.readouterr().err


def test_main_knows_its_commands(place: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    assert "usage: yolo-lite COMMAND" in refused(main, [], capsys)
    assert "usage: yolo-lite COMMAND" in refused(main, ["trian"], capsys)
    assert "expected 0..1, found 7.0" in refused(main, ["val", *val_words(place, "--conf", "7")], capsys)
    assert "--epochs: expected 1 or more" in refused(main, ["train", *train_words(place, "--epochs", "0")], capsys)
    assert status_of(main, ["--help"]) == 0 and status_of(main, ["train", "--help"]) == 0
    assert "--resume" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["train.py", "val.py"])
def test_the_scripts_hand_on_the_exit_status(script: str, here: Path):
    command = [sys.executable, str(REPOSITORY / script), "--epochs", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 2 and done.stderr.startswith(f"usage: {script}") and done.stdout == ""


def into_a_closed_pipe(words: list[str], here: Path, *closed: str, **environment: str) -> tuple[int, str]:
    """Exit status of a command whose ``closed`` streams nobody reads, and what it writes to the other one."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    del environment["TQDM_DISABLE"]  # progress is written too
    streams: dict[str, Any] = {name: writing if name in closed else subprocess.PIPE for name in ("stdout", "stderr")}
    code = "from yolo_lite.cli.main import entry; entry()"
    try:
        done = subprocess.run([sys.executable, "-c", code, *words], env=environment, cwd=here, check=False, **streams)
    finally:
        os.close(writing)
    return done.returncode, ((done.stdout or b"") + (done.stderr or b"")).decode()


@pytest.mark.parametrize("buffered", ["", "1"])
def test_text_into_a_closed_pipe_ends_as_that_of_other_tools(buffered: str, here: Path):
    ended_by_pipe = (128 + signal.SIGPIPE, "")
    assert into_a_closed_pipe(["--version"], here, "stdout", PYTHONUNBUFFERED=buffered) == ended_by_pipe
    for words in (["trian"], ["check", "--data", "nowhere.yaml"]):  # errors
        assert into_a_closed_pipe(words, here, "stdout", "stderr", PYTHONUNBUFFERED=buffered) == ended_by_pipe
    for words, stream, otherwise in ((["val", "--help"], "stdout", 0), (["train", "--cgf", "x"], "stderr", 2)):
        status, said = into_a_closed_pipe(words, here, stream, PYTHONUNBUFFERED=buffered)
        assert said == "" and status in (otherwise, 128 + signal.SIGPIPE)  # argparse passes over what it cannot write


@pytest.mark.processes
@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
@pytest.mark.parametrize("command", ["losses", "train"])
def test_a_command_that_works_ends_quietly_when_nobody_reads_it(
    command: str, closed: tuple[str, ...], place: Path, here: Path
):
    words = [command, *(train_words(place, "--epochs", "2") if command == "train" else [])]
    status, said = into_a_closed_pipe(words, here, *closed)
    assert "Traceback" not in said and "Exception ignored" not in said
    is_read = command == "losses" and closed == ("stderr",)  # to which it has nothing to say
    assert status == (0 if is_read else 128 + signal.SIGPIPE)


def test_a_broken_pipe_that_is_not_the_output_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(options: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "of a worker")

    monkeypatch.setattr("yolo_lite.cli.losses.run", broken)
    assert main(["losses"]) == 1
    assert "error: BrokenPipeError: [Errno 32] of a worker\n  in " in capsys.readouterr().err


def test_the_command_line_opens_without_loading_torch():
    code = "import sys, yolo_lite.cli.main, yolo_lite.cli.train, yolo_lite.cli.val; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        ("--help", {"torch", "numpy", "yaml", "yolo_lite.config.hyp"}),
        ("train --help", {"torch", "numpy", "yaml", "yolo_lite.config.hyp"}),
        ("check --data {data} --imgsz 64 --project {project}", {"torch", "yolo_lite.model"}),
    ],
)
def test_a_command_imports_no_more_than_it_needs(words: str, unused: set[str], tiny_data: Path, tmp_path: Path):
    code = "import sys; from yolo_lite.cli.main import main\ntry: sys.exit(main(sys.argv[1:]))\n"
    code += "finally: print(*sys.modules, file=sys.stderr)"
    words = words.format(data=tiny_data, project=tmp_path)
    done = subprocess.run([sys.executable, "-c", code, *words.split()], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and not unused & set(done.stderr.split())


# -------------------------------------------------------------------------------------------------------- run folders


def test_run_folders_are_numbered_from_2(tmp_path: Path):
    project = str(tmp_path / "runs/train")
    folders = [make_run_folder(project, "exp", exist_ok=False) for _ in range(3)]
    assert [folder.name for folder in folders] == ["exp", "exp2", "exp3"] and all(f.is_dir() for f in folders)
    shutil.rmtree(folders[1])
    assert make_run_folder(project, "exp", exist_ok=False).name == "exp2"
    assert make_run_folder(project, "other", exist_ok=False).name == "other"


def test_exist_ok_uses_the_folder_again(tmp_path: Path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/mine.txt").write_text("kept")
    assert make_run_folder(str(tmp_path), "exp", exist_ok=True) == tmp_path / "exp"
    assert (tmp_path / "exp/mine.txt").read_text() == "kept"


def test_a_file_or_a_dead_link_in_the_way_is_never_overwritten(tmp_path: Path):
    (tmp_path / "exp").write_text("mine")
    assert make_run_folder(str(tmp_path), "exp", exist_ok=False).name == "exp2"
    with pytest.raises(ConfigError, match="exp is in the way, not a folder"):
        make_run_folder(str(tmp_path), "exp", exist_ok=True)
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        make_run_folder(str(tmp_path / "exp"), "inner", exist_ok=False)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="link is in the way"):
        make_run_folder(str(tmp_path), "link", exist_ok=False)
    assert (tmp_path / "exp").read_text() == "mine"


def test_the_latest_checkpoint_is_the_one_written_last(tmp_path: Path):
    for name, seconds in (("exp", 300), ("exp2", 100), ("exp3", 200)):
        path = tmp_path / name / "weights/last.pt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (seconds, seconds))
    assert latest_checkpoint(str(tmp_path)) == tmp_path / "exp/weights/last.pt"


# -------------------------------------------------------------------------------------------------------- checkpoints


def content(size: int = 3) -> dict[str, Any]:
    return {
        "config": {"lr0": 0.1},
        "epoch": 4,
        "ema": {"weight": torch.arange(float(size))},
        "losses": {},
        "metrics": {"map": 0.5},
    }


def test_a_checkpoint_comes_back_whole_and_is_plain_data(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, content())
    read = load_checkpoint(path)
    assert torch.equal(read["ema"]["weight"], content()["ema"]["weight"])
    assert (read["epoch"], read["config"], read["yolo_lite"]) == (4, {"lr0": 0.1}, yolo_lite.__version__)
    assert torch.load(path, weights_only=True).keys() == read.keys()
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_a_checkpoint_is_as_readable_for_others_as_any_other_file(tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", content())
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / "last.pt").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def assert_the_older_file_survives(path: Path, words: str) -> None:
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"last.pt: cannot be written: {words}; the older file is untouched"):
        save_checkpoint(path, content(100_000))
    assert path.read_bytes() == before and load_checkpoint(path)["epoch"] == 4
    assert [entry.name for entry in path.parent.iterdir()] == ["last.pt"]


def test_a_disk_that_fills_up_half_way_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_checkpoint(tmp_path / "last.pt", content())
    write = torch.save

    def write_half(value: Any, file: Any) -> None:
        write(value, file)
        file.truncate(file.tell() // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", write_half)
    assert_the_older_file_survives(tmp_path / "last.pt", "No space left on device")


@pytest.mark.parametrize("limit", [0, 1000, 50_000, 399_000])
def test_a_write_that_the_system_refuses_leaves_the_older_checkpoint(tmp_path: Path, limit: int):
    resource = pytest.importorskip("resource")
    save_checkpoint(tmp_path / "last.pt", content())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (limit, hard)
    )  # a real error of the file system, whatever torch makes of it
    try:
        assert_the_older_file_survives(tmp_path / "last.pt", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_rename_that_fails_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_checkpoint(tmp_path / "last.pt", content())

    def refuse(*paths: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    assert_the_older_file_survives(tmp_path / "last.pt", "Permission denied")


def test_an_interrupt_while_writing_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_checkpoint(tmp_path / "last.pt", content())
    before = (tmp_path / "last.pt").read_bytes()

    def interrupt(value: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "last.pt", content())
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_a_folder_that_is_gone_is_an_error_of_the_checkpoint(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"gone/last\.pt: cannot be written: No such file or directory"):
        save_checkpoint(tmp_path / "gone/last.pt", content())


def test_an_older_format_is_refused_with_the_way_out(tmp_path: Path):
    torch.save({"format": 1, "yolo_lite": "0.0.1"}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="in format 1 by an older yolo_lite, expected format 3 or newer: train"):
        load_checkpoint(tmp_path / "old.pt")


def test_a_newer_format_is_refused_with_both_versions(tmp_path: Path):
    torch.save({"format": 99, "yolo_lite": "9.9.9"}, tmp_path / "new.pt")
    with pytest.raises(
        CheckpointError, match=r"written by yolo_lite 9\.9\.9 in format 99, this yolo_lite .* reads format 4"
    ):
        load_checkpoint(tmp_path / "new.pt")


def test_a_damaged_checkpoint_is_an_error_or_still_the_same_kind_of_content(tmp_path: Path):
    path, dice = tmp_path / "last.pt", random.Random(0)
    save_checkpoint(path, content(50))
    whole = path.read_bytes()
    refusals = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 5)):
            damaged[dice.randrange(len(whole))] = dice.randrange(256)
        path.write_bytes(damaged[: dice.choice([len(whole), dice.randrange(len(whole))])])
        try:
            assert {"config", "ema", "epoch"} <= load_checkpoint(path).keys()
        except CheckpointError:
            refusals += 1
    assert refusals > 75
