"""What users of YOLOv5 and ultralytics type does the same here, or the error says what does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.cli.arguments import read_options
from yolo_lite.cli.main import main
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.options import COMMANDS, Options, TrainOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.engine.resolve import run_config

NEEDED = {"val": "--weights a.pt", "predict": "--weights a.pt --source x", "export": "--weights a.pt"}

# Every flag of YOLOv5's four scripts, with a value where it takes one.
THEIRS = {
    "train": """--weights= --cfg=a.yaml --data=a.yaml --hyp=a.yaml --epochs=3 --batch-size=16 --batch=16 --imgsz=640
        --img=640 --img-size=640 --rect --resume --nosave --noval --noautoanchor --noplots --evolve=3
        --evolve_population=x --resume_evolve=x --bucket=x --cache --image-weights --device=0 --multi-scale
        --single-cls --optimizer=SGD --sync-bn --workers=8 --project=x --name=x --exist-ok --quad --cos-lr
        --label-smoothing=.1 --patience=100 --freeze=10 --save-period=1
        --seed=0 --local_rank=-1 --entity=x --upload_dataset
        --bbox_interval=-1 --artifact_alias=x --adam --linear-lr --cache-images --notest""",
    "val": """--data=a.yaml --batch-size=32 --imgsz=640 --conf-thres=.001 --iou-thres=.6 --max-det=300 --task=val
        --device= --workers=8 --single-cls --augment --verbose --save-txt --save-hybrid --save-conf --save-json
        --project=x --name=x --exist-ok --half --dnn""",
    "predict": """--data=a.yaml --imgsz=640 --conf-thres=.25 --iou-thres=.45 --max-det=1000 --device= --view-img
        --save-txt --save-format=0 --save-csv --save-conf --save-crop --nosave --classes=0 --agnostic-nms --augment
        --update --project=x --name=x --exist-ok --line-thickness=3 --hide-labels --hide-conf --half --dnn
        --vid-stride=1""",
    "export": """--data=a.yaml --include=onnx --imgsz=640 --batch-size=1 --device=cpu --half --inplace --keras
        --optimize --int8 --per-tensor --dynamic --cache --simplify --mlmodel --opset=17 --verbose --workspace=4 --nms
        --agnostic-nms --topk-per-class=100 --topk-all=100 --iou-thres=.45 --conf-thres=.25""",
}
ALL = [(command, flag) for command, flags in THEIRS.items() for flag in flags.split()]


def read(command: str, words: str | list[str]) -> Options:
    given = shlex.split(words) if isinstance(words, str) else words
    return read_options(COMMANDS[command], [*NEEDED.get(command, "").split(), *given], f"yolo-lite {command}")


def refused(command: str, words: str, capsys: pytest.CaptureFixture[str], needed: bool = True) -> str:
    """What is said behind the usage where words are refused."""
    needs = NEEDED.get(command, "").split() if needed else []
    with pytest.raises(SystemExit) as end:
        main([command, *needs, *shlex.split(words)])
    assert end.value.code == 2
    return capsys.readouterr().err.partition(": error: ")[2].strip()


@pytest.mark.parametrize(("command", "flag"), ALL)
def test_every_flag_of_yolov5_is_taken_or_its_refusal_says_why(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
):
    try:
        read(command, [flag])
    except SystemExit:
        said = capsys.readouterr().err.partition(": error: ")[2]
        name = flag.partition("=")[0]
        assert said.startswith(f"{name}: ") and len(said.split()) > 4, said
    if "=" in flag:  # with its value behind it, the same
        name, _, value = flag.partition("=")
        try:
            read(command, [name, value])
        except SystemExit:
            assert said == capsys.readouterr().err.partition(": error: ")[2]


TAKEN = {
    "--freeze 10": {"freeze": tuple(range(10))},
    "--freeze 0": {"freeze": ()},
    "--freeze 0 2 4": {"freeze": (0, 2, 4)},
    "--freeze backbone": {"freeze": "backbone"},
    "--cache": {"cache": "ram"},
    "--cache ram": {"cache": "ram"},
    "--cache disk": {"cache": "disk"},
    "--multi-scale": {"multi_scale": 0.5},
    "--label-smoothing .1": {"label_smoothing": 0.1},
    "--cos-lr": {"cos_lr": True},
    "--patience 5": {"patience": 5},
    "--sync-bn": {"sync_bn": True},
    "--noautoanchor --local_rank 0": {},
    "--optimizer SGD": {"optimizer": "SGD"},
    "--cos-lr --set cos_lr=false mosaic=0": {"mosaic": 0.0},  # what comes last wins, as among all flags
}


def config_of(words: str) -> RunConfig:
    files = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--data", str(REPOSITORY / "data/shapes.yaml")]
    return run_config(read_options(TrainOptions, [*files, *shlex.split(words)], "train.py"))


@pytest.mark.parametrize("words", TAKEN)
def test_a_flag_of_yolov5_sets_the_key_that_does_the_same(words: str):
    assert config_of(words).hyp == Hyp(**TAKEN[words])


def test_flags_of_yolov5_under_other_names():
    options = read("train", "--img 320 --batch -1 --weights '' --noplots --name=-odd --exist_ok")
    assert (options.imgsz, options.batch_size, options.no_figures) == (320, "auto", True)
    assert not options.weights and options.name == "-odd" and options.exist_ok
    assert config_of("--single-cls").data.single_cls
    assert read("train", "--imgsz 640 640").imgsz == 640
    options = read("val", "--conf-thres .3 --iou-thres=.7 --task test")
    assert (options.conf, options.iou, options.split) == (0.3, 0.7, "test")
    assert read("predict", "--nosave").no_save
    options = read("export", "--include torchscript --dynamic --topk-all 7")
    assert (options.format, options.dynamic, options.max_det) == ("torchscript", ("batch", "size"), 7)
    options = read("export", "--include torchscript -o a.torchscript --imgsz 320")
    assert (options.format, options.output, options.imgsz) == ("torchscript", "a.torchscript", 320)


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("train", "--image-weights", "--image-weights: images of rare classes are drawn more often by key balance"),
        ("train", "--evolve", "--evolve: yolo-lite search finds keys of hyp.yaml"),
        ("train", "--adam", "--adam: --optimizer AdamW"),
        ("train", "--nosave", "last.pt less often with --save-period N"),
        ("train", "--device 0,1", "--device 0,1: for 2 GPUs: torchrun --nproc_per_node=2 train.py"),
        ("train", "--lr0 .1", "unrecognized arguments: --lr0 .1 (a key of hyp.yaml: --set lr0=.1)"),
        ("train", "--epcohs=3", "unrecognized arguments: --epcohs=3 (nearest: '--epochs')"),
        ("train", "--imgsz 320 640", "--imgsz 320 640: one number, pixels of the longest side"),
        ("train", "--rect --quad --lr0 1", "\n  --quad: there is no quad loader"),
        ("val", "--weights a.pt b.pt", "--weights a.pt b.pt: one checkpoint: there are no ensembles"),
        ("val", "--task speed", "argument --split: invalid choice: 'speed'"),
        ("export", "--include onnx engine", "--format onnx engine: one format at a time"),
        ("check", "--fix-itno x", "unrecognized arguments: --fix-itno x (nearest: '--fix-into')"),
        ("losses", "--plugni x", "(nearest: '--plugin')"),
    ],
)
def test_what_a_refused_flag_is_told(command: str, words: str, expected: str, capsys: pytest.CaptureFixture[str]):
    assert expected in refused(command, words, capsys)


def test_a_misspelt_flag_is_named_before_those_that_are_missing(capsys: pytest.CaptureFixture[str]):
    said = refused("val", "--wieghts a.pt", capsys, needed=False)
    assert said == "unrecognized arguments: --wieghts a.pt (nearest: '--weights')"


@given(st.sampled_from(sorted(COMMANDS)), st.text("abcdefghijklmnopqrstuvwxyz-", min_size=3, max_size=12))
def test_no_unknown_flag_is_passed_over(command: str, name: str):
    flags = THEIRS.get(command, "") + THEIRS["train"]
    own = [f"--{field.replace('_', '-')}" for field in COMMANDS[command].model_fields]
    known = [*re.findall(r"--[\w-]+", flags.replace("_", "-")), *own, "--help", "--json", "--plots", "--save"]
    if any(flag.startswith(f"--{name}") for flag in known):
        return
    with pytest.raises(SystemExit):
        read_options(COMMANDS[command], [f"--{name}"], command)


WORDS = {
    "train model=yolov8n.yaml data=coco.yaml epochs=3 batch=8 exist_ok=True": "python train.py --cfg yolov8n.yaml "
    "--data coco.yaml --epochs 3 --batch-size 8 --exist-ok",
    "train data=a.yaml lr0=0.02 cos_lr=True freeze=2 cache=True resume=False --seed 3": "python train.py --data a.yaml "
    "--set lr0=0.02 --set cos_lr=true --set 'freeze=[0, 1]' --set cache=ram --seed 3",
    "val model=a.pt data=b.yaml save_json=True": "python val.py --weights a.pt --data b.yaml --save-json",
    "predict model=a.pt source=b.jpg conf=.3": "yolo-lite predict --weights a.pt --source b.jpg --conf .3",
    "export model=a.pt format=onnx dynamic=True": "yolo-lite export --weights a.pt --format onnx --dynamic batch size",
}


@pytest.mark.parametrize("words", WORDS)
def test_words_of_ultralytics_are_answered_with_the_same_command_in_flags(words: str, capsys):
    command, first, *_ = words.split()
    said = refused(command, words.removeprefix(command), capsys, needed=False)
    assert said == f"expected flags, found {first}; in flags: {WORDS[words]}"
    _, _, *flags = shlex.split(WORDS[words])
    assert read_options(COMMANDS[command], flags, "f")  # and that command is one


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    for command, expected in (("trian", "(nearest: 'train')"), ("detect", "(it is called predict)")):
        assert main([command]) == 2
        assert f"error: unknown command {command!r} {expected}" in capsys.readouterr().err


def test_a_hyp_file_of_yolov5_trains_with_sgd_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen: list[Any] = []
    monkeypatch.setattr("yolo_lite.engine.train.train", lambda config, *_: seen.append(config) or MagicMock())
    monkeypatch.setattr("yolo_lite.engine.best.try_best", lambda *_: None)
    monkeypatch.setattr("yolo_lite.engine.batch_size.largest_batch_size", lambda config: 4)
    (tmp_path / "theirs.yaml").write_text("lr0: 0.01\nmomentum: 0.937\nwarmup_bias_lr: 0.1\niou_t: 0.2\nanchors: 3\n")
    words = ["train", "--hyp", str(tmp_path / "theirs.yaml"), "--cfg", "yolo_n", "--data", "shapes"]
    assert main([*words, "--batch-size", "auto"]) == 0  # reads the files twice
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: ") and "theirs.yaml: keys without effect: 'iou_t' in line 4 (" in first
    assert second.startswith("warning: ") and second.endswith("trains with SGD, as there; --optimizer chooses another")
    assert main([*words, "--optimizer", "AdamW"]) == 0
    assert "SGD" not in capsys.readouterr().err
    assert main([*words, "--set", "optimizer=AdamW"]) == 0
    assert [config.hyp.optimizer for config in seen] == ["SGD", "AdamW", "AdamW"]
