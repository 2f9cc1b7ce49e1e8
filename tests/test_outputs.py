"""Where commands write: never into a dataset or a source, never over an input, and no two of them into one folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError, UserError
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.run_lock import MARK, folders_released, own
from yolo_lite.data.files import list_sources
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.data.outputs import Inputs, check_file, check_folder, check_place
from yolo_lite.deploy.sources import find_media
from yolo_lite.engine.run_folder import comparable, make_run_folder

TOY = """\
nc: 1
anchors: 1
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
head:
  - [[0, 1], 1, Detect, [nc, anchors]]
"""


def contents(folder: Path) -> dict[str, bytes | None]:
    """The bytes of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a dataset, weights trained on it, an import to make, images to predict on."""
    folder = tmp_path_factory.mktemp("user")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / "set" / kind / split).mkdir(parents=True)
        for number in range(2):
            cv2.imwrite(
                str(folder / f"set/images/{split}/{number}.png"), np.full((64, 64, 3), 40 + 90 * number, np.uint8)
            )
            (folder / f"set/labels/{split}/{number}.txt").write_text("0 .5 .5 .4 .4\n")
    (folder / "mine").mkdir()
    cv2.imwrite(str(folder / "mine/a.png"), np.full((64, 64, 3), 90, np.uint8))
    film = cv2.VideoWriter(str(folder / "mine/film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for number in range(4):
        film.write(np.full((64, 64, 3), 50 * number, np.uint8))
    film.release()
    (folder / "set.yaml").write_text("path: set\ntrain: images/train\nval: images/val\nnames: [a]\n")
    (folder / "toy.yaml").write_text(TOY)
    words = [*TRAIN.format(user=folder).split(), "--project", str(folder / "runs/train")]
    assert main(words) == 0
    (folder / "link").symlink_to("set/images")
    return folder


TRAIN = (
    "train --data {user}/set.yaml --cfg {user}/toy.yaml --epochs 1 --batch-size 2 --imgsz 64 --workers 0 --device cpu "
    "--no-figures"
)
BEST = "--weights {user}/runs/train/exp/weights/best.pt"
INTO_FOLDER = {  # commands with a run folder
    "train": TRAIN,
    "val": f"val {BEST} --imgsz 64 --workers 0 --device cpu",
    "predict": f"predict {BEST} --source {{user}}/mine --device cpu",
    "check": "check --data {user}/set.yaml --cfg {user}/toy.yaml",
    "show": "show --data {user}/set.yaml --batches 1 --imgsz 64",
    "compare": TRAIN.replace("train", "compare", 1).replace("--no-figures", "--seeds 1 --vary box=0.05,0.06"),
    "train an export": TRAIN.replace("set.yaml", "set"),
}
IN_DATASET = ("set/images/train", "set/images", "set/labels/val", "set/images/train/../val/deep", "link/train", "link")


@pytest.mark.parametrize("place", IN_DATASET)
@pytest.mark.parametrize("command", INTO_FOLDER)
def test_no_run_lands_in_a_dataset(command: str, place: str, user: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(user)
    assert main([*INTO_FOLDER[command].format(user=user).split(), "--project", str(user / place)]) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert "--project elsewhere" in said and contents(user) == before


FILES = {
    "export": f"export {BEST} --imgsz 64 --exist-ok -o {{place}}/x.onnx",
    "import": "import {user}/yolov5.npz --cfg {user}/toy.yaml --data {user}/set.yaml --exist-ok -o {place}/x.pt",
    "convert": "convert --data {user}/set.yaml --to voc --out {place}/x",
    "adopt": "adopt {user}/set -o {place}/x.yaml",
    "check": "check --data {user}/set.yaml --cfg {user}/toy.yaml --project {user}/other --fix-into {place}/x",
}


@pytest.mark.parametrize("place", IN_DATASET)
@pytest.mark.parametrize("command", FILES)
def test_no_file_is_written_into_a_dataset(command: str, place: str, user: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(user)
    assert main(FILES[command].format(user=user, place=user / place).split()) == 2
    assert "outside the dataset" in capsys.readouterr().err and contents(user) == before


@pytest.mark.parametrize(
    "words",
    [
        f"predict {BEST} --source {{user}}/mine --project {{user}} --name mine --exist-ok --device cpu",
        f"predict {BEST} --source {{user}}/mine/film.mp4 --project {{user}} --name mine --exist-ok --device cpu",
        f"predict {BEST} --source {{user}}/mine/*.png --project {{user}} --name mine --exist-ok --device cpu",
        f"predict {BEST} --source {{user}}/set/images/val/0.png --project {{user}} --name mine --exist-ok --device cpu",
        f"{TRAIN} {BEST} --project {{user}}/runs/train --name exp --exist-ok",
        f"import {BEST.split()[1]} --exist-ok -o {BEST.split()[1]}",
        "import {user}/set.yaml --exist-ok -o {user}/set.yaml",
        "import {user}/toy.yaml --exist-ok -o {user}/mine/a.png",
    ],
)
def test_no_input_is_overwritten(words: str, user: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(user)
    assert main(words.format(user=user).split()) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and contents(user) == before


def test_an_input_is_known_by_every_spelling(tmp_path: Path):
    (tmp_path / "w.pt").write_bytes(b"w")
    os.link(tmp_path / "w.pt", tmp_path / "hard.pt")
    (tmp_path / "soft.pt").symlink_to("w.pt")
    inputs = Inputs(files=(str(tmp_path / "w.pt"),))
    for name in ("w.pt", "hard.pt", "soft.pt", "new/../w.pt"):
        with pytest.raises(ConfigError, match="is an input"):
            check_file(tmp_path / name, inputs, "-o")
    assert check_file(tmp_path / "other.pt", inputs, "-o") == tmp_path / "other.pt"


def test_runs_beside_the_images_stay_where_they_were(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = load_dataset_config(user / "set.yaml")
    inputs = dataset_inputs(config, user / "set.yaml")
    assert {os.path.relpath(folder, user) for folder in inputs.folders} == {"set/images/train", "set/images/val"}
    assert check_place(user / "set/runs/train", inputs, "--project")  # in the root, beside images/
    monkeypatch.chdir(tmp_path)  # who works in the source keeps the default place, but no other one in it
    source = Inputs((str(tmp_path),))
    assert make_run_folder("runs/predict", "exp", False, source).is_dir()
    with pytest.raises(UserError, match="--project elsewhere"):
        make_run_folder("elsewhere", "exp", False, source)


@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "a/b", "/x", "a\0b", "a\nb", "a\x1b[1m"])
def test_a_name_is_one_folder_below_the_project(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="--name: expected the name of a folder"):
        make_run_folder(tmp_path, name, exist_ok=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("project", ["", "a\0b", "~nosuchuser/x"])
def test_a_project_is_a_path(project: str):
    with pytest.raises(ConfigError, match="--project"):
        make_run_folder(project, "exp", exist_ok=False)


def test_a_later_run_may_use_the_folder_of_an_earlier_one(user: Path, tmp_path: Path):
    words = f"{INTO_FOLDER['predict']} --project {tmp_path} --exist-ok".format(user=user).split()
    assert [main(words), main(words)] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "exp").iterdir()) == [MARK, "a.png", "film.mp4"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.png").touch()
    with pytest.raises(ConfigError, match="images that no run has written"):
        check_folder(tmp_path / "own", Inputs(), "--project")


# ------------------------------------------------------------------------------------------------------- run folders


@pytest.mark.parametrize("source", [".", "**/*.png", "*/*.png", "*/*/*.png", "*/*"])
def test_no_listing_reads_a_run_folder(source: str, tmp_path: Path):
    for name in ("images/a.png", "runs/exp/drawn.png", "images/exp/drawn.png", "images/old/drawn.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for folder in ("runs/exp", "images/exp"):
        (tmp_path / folder / MARK).touch()
    for name in ("config.yaml", "results.csv"):  # of an older version
        (tmp_path / "images/old" / name).touch()
    (tmp_path / "images/link").symlink_to("../runs/exp")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/b.png").touch()
    if source == "*/*/*.png":
        with pytest.raises(UserError, match="folders of runs or of the system are not read"):
            list_sources(tmp_path, [source], "d.yaml")
        return
    listing = list_sources(tmp_path, [source], "d.yaml")
    assert [os.path.relpath(path, tmp_path) for path in listing.images] == ["images/a.png", "other/b.png"]
    assert source in ("*/*.png", "*/*") or "folders of runs or of the system are not read" in listing.remarks()[0]


def test_what_keeps_a_reader_waiting_is_counted_and_not_read(tmp_path: Path):
    for name in ("set/a.png", "set/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("p.png", "film.mp4", "p", "d.txt"):
        os.mkfifo(tmp_path / "set" / name)
    for source in ("set", "set/*", "set/**"):
        listing = list_sources(tmp_path, [source], "d.yaml")
        assert [os.path.basename(path) for path in listing.images] == ["a.png"]
        assert listing.remarks()[0].startswith("4 pipes, sockets or devices are not read: ")
    with pytest.raises(UserError, match=r"1 pipes, sockets or devices are not read: .*p\.png"):
        list_sources(tmp_path, ["set/p.png"], "d.yaml")


def test_a_label_file_that_keeps_a_reader_waiting_is_refused_by_name(user: Path):
    label = user / "set/labels/train/0.txt"
    label.unlink()
    os.mkfifo(label)
    assert main(["check", "--data", str(user / "set.yaml"), "--project", str(user.parent / "elsewhere")]) != 0
    report = user.parent / "elsewhere/exp/report.txt"
    assert f"{label}: cannot be read: a pipe, expected a regular file" in report.read_text()


@pytest.mark.parametrize("source", ["", "/", "/proc", "/proc/self", "/sys/", "/dev", "/**/*.jpg", "//", "/."])
def test_no_source_is_the_whole_system(source: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"d\.yaml: expected a folder"):
        list_sources(tmp_path, [source], "d.yaml")


@pytest.mark.parametrize("source", ["**/*.jpg", "/".join(["*"] * 30) + "/*.jpg", "**/**/" * 20 + "*.jpg", "."])
def test_links_to_themselves_do_not_multiply(source: str, tmp_path: Path):
    (tmp_path / "a.jpg").touch()
    for name in ("x", "y"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "p").symlink_to("/proc")
    start = time.monotonic()
    try:
        [image] = list_sources(tmp_path, [source], "d.yaml").images
        assert os.path.realpath(image) == str(tmp_path / "a.jpg")
    except UserError:
        assert source.startswith("*/")
    assert time.monotonic() - start < 5


FOLDERS = ["", "labels/", "film/", "crops/a/", "IMG/", "IMG.txt/", "film.mp4/", "img.jpg/"]
NAMES = st.sampled_from(["IMG", "img", "IMG.jpg", "film", "labels", "crops", "é", "e\u0301", "x" * 240, "predictions"])
SUFFIXES = st.sampled_from([".jpg", ".JPG", ".png", ".mp4", ".jpg.png", ".gif", ".webp"])


@settings(max_examples=50, deadline=None)
@given(st.sets(st.tuples(st.sampled_from(FOLDERS), NAMES, SUFFIXES), min_size=1))
def test_there_are_as_many_outputs_as_inputs(tmp_path_factory: pytest.TempPathFactory, parts: set[tuple[str, ...]]):
    """For label files, drawn images and crops, on file systems that know neither case nor normal forms."""
    root, count = tmp_path_factory.mktemp("tree"), 0
    for part in sorted(parts):
        path = root / "".join(part)
        if not path.is_dir() and not any(parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            count += 1
    media = find_media([str(root)])
    assert len(media) == count
    labels = [Path(f"{one.stem / '000000' if one.kind == 'video' else one.stem}.txt") for one in media]
    drawn = [Path(f"{one.stem}.mp4") if one.kind == "video" else one.drawn for one in media]
    for outputs in (labels, drawn):
        known = set(map(comparable, outputs))
        assert len(known) == len(media)
        assert not known & {comparable(parent) for path in outputs for parent in path.parents}
    assert all(len(os.fsencode(f"{one.stem.name}_999999.jpg")) <= 255 for one in media)
    assert all(len(os.fsencode(part)) <= 255 for path in drawn for part in path.parts)


# -------------------------------------------------------------------------------------------------------------- locks

HOLD = """
import sys, time
from pathlib import Path
from yolo_lite.config.run_lock import own
own(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_run_folder_has_one_writer(user: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Whichever command comes second writes nothing; when the first is killed the folder is free."""
    folders = {name: tmp_path / name / "exp" for name in INTO_FOLDER}
    for name in ("train", "val", "predict", "check", "compare"):
        folder = folders[name]
        folder.mkdir(parents=True)
        process = holder(folder)
        before = contents(tmp_path)
        words = [*INTO_FOLDER[name].format(user=user).split(), "--project", str(folder.parent)]
        assert main([*words, *(["--exist-ok"] if name != "compare" else [])]) == 2
        *_, said = capsys.readouterr().err.splitlines()
        assert f"process {process.pid} on " in said and "writes into this folder" in said
        assert contents(tmp_path) == before
        process.kill()
        process.wait()
        own(folder)
    own(folders["train"])  # what this process has is its own again


def test_a_resumed_run_has_one_writer(user: Path, capsys: pytest.CaptureFixture[str]):
    process, before = holder(user / "runs/train/exp"), contents(user)
    assert main(["train", "--resume", str(user / "runs/train/exp"), "--epochs", "2"]) == 2
    assert f"process {process.pid} on " in capsys.readouterr().err and contents(user) == before
    process.kill()
    process.wait()


def test_a_folder_is_waited_for_and_given_back(tmp_path: Path):
    process = holder(tmp_path)
    with pytest.raises(ConfigError, match="writes into this folder"):
        own(tmp_path)
    threading.Timer(1, process.kill).start()
    with pytest.warns(UserWarning, match="waiting for process"):
        own(tmp_path, patience=20)
    process.wait()
    folder = tmp_path / "second"
    folder.mkdir()
    with folders_released():
        own(folder)
    holder(folder).kill()


def test_without_locks_a_run_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("yolo_lite.config.run_lock._lock", lambda _: OSError(37, "No locks available"))
    with pytest.warns(UserWarning, match="no lock here"):
        own(tmp_path)
