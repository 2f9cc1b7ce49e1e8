"""Laws of the Python door: the same options, defaults and figures as the command line, plain results, errors raised."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, equal_states, tiny_config

import yolo_lite
from yolo_lite import evaluate, train
from yolo_lite.cli.arguments import make_parser, read_options
from yolo_lite.cli.main import val_main
from yolo_lite.config.errors import CheckpointError, ConfigError, UserError
from yolo_lite.config.options import Options, TrainOptions, ValOptions
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.train import train as run_training

DOORS = [(train, TrainOptions), (evaluate, ValOptions)]
CPU = {"device": "cpu", "workers": 0}


def options_of(data: Path, project: Path, **more: Any) -> dict[str, Any]:
    """``tiny_config`` as options."""
    files = {"cfg": REPOSITORY / "cfg/yolo_n.yaml", "hyp": REPOSITORY / "cfg/hyp.yaml", "data": data}
    return {**files, **CPU, "project": project, "epochs": 2, "batch_size": 8, "imgsz": 64, "no_figures": True, **more}


def test_importing_the_package_or_its_functions_imports_neither_torch_nor_the_engine():
    code = (
        "import sys, yolo_lite; light = set(sys.modules); from yolo_lite import evaluate, train; help(train)\n"
        "assert not {'yolo_lite.api', 'pydantic', 'argparse'} & light, light\n"
        "assert not {'torch', 'cv2', 'yolo_lite.engine', 'yolo_lite.plugins'} & set(sys.modules)\n"
        "assert {'train', 'evaluate', '__version__'} <= set(dir(yolo_lite))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_what_the_package_does_not_offer_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'yolo_lite' has no attribute 'trian'"):
        yolo_lite.trian  # noqa: B018
    assert not hasattr(yolo_lite, "Trainer")


@pytest.mark.parametrize(("function", "section"), DOORS)
def test_options_and_defaults_are_those_of_the_flags(function: Callable[..., Any], section: type[Options]):
    actions = {action.dest: action for action in make_parser(section, "f")._actions if action.dest != "help"}
    shown = inspect.signature(function).parameters
    assert list(shown) == list(actions) == list(section.model_fields)
    assert {name for name, action in actions.items() if action.required} == {
        name for name, parameter in shown.items() if parameter.default is inspect.Parameter.empty
    }
    required = {"weights": "a.pt"} if function is evaluate else {}
    words = ["--weights", "a.pt"] if required else []
    defaults = section(**required)
    assert all(getattr(defaults, name) == shown[name].default for name in shown.keys() - {"workers", *required})
    assert read_options(section, words, "f") == defaults == section(**{**dict.fromkeys(actions), **required})


@pytest.mark.parametrize(("function", "section"), DOORS)
def test_help_shows_every_option_with_its_type_and_meaning(function: Callable[..., Any], section: type[Options]):
    text = str(inspect.signature(function))
    assert "imgsz: Optional[int] = None" in text or "imgsz: int | None = None" in text
    assert "Annotated" not in text and "**" not in text
    assert all(f"    {name}: {field.description}" in function.__doc__ for name, field in section.model_fields.items())
    assert all(field.description for field in section.model_fields.values())


def test_a_type_checker_knows_the_options(tmp_path: Path):
    code = "import yolo_lite\nyolo_lite.train(epochs=3, set={'lr0': 0.1}, data=__import__('pathlib').Path('a'))\n"
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(code + "yolo_lite.evaluate(weights='a.pt', split='test')['map50']\n")
    bad.write_text("import yolo_lite\nyolo_lite.train(epoch=3)\nyolo_lite.train(epochs='3')\nyolo_lite.evaluate()\n")
    checker = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml"), str(good), str(bad)]
    said = subprocess.run(checker, capture_output=True, text=True, check=False, cwd=REPOSITORY).stdout
    assert 'bad.py:2: error: Unexpected keyword argument "epoch" for "train"' in said
    assert 'bad.py:3: error: Argument "epochs" to "train" has incompatible type "str"' in said
    assert 'bad.py:4: error: Missing named argument "weights" for "evaluate"' in said
    assert "good.py" not in said and "Found 3 errors" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 3, "batch_size": 4, "exist_ok": True}, "--epochs 3 --batch-size 4 --exist-ok"),
        ({"exist_ok": False, "resume": False, "weights": None}, ""),
        ({"seed": np.int64(7), "workers": 1}, "--seed 7 --workers=1"),
        ({"data": Path("a/b.yaml"), "name": "-odd"}, "--data a/b.yaml --name=-odd"),
        ({"resume": True}, "--resume"),
        ({"resume": Path("x/last.pt"), "device": "cpu"}, "--resume x/last.pt --device cpu"),
        ({"set": {"box_loss": "giou", "lr0": 1e-3, "cos_lr": True}}, "--set box_loss=giou lr0=0.001 cos_lr=true"),
        ({"set": {"cls_weights": None, "model.nc": np.int64(3)}}, "--set cls_weights=null model.nc=3"),
        ({"set": {"data.names": ["a", "b"]}}, ["--set", 'data.names=["a", "b"]']),
        ({"set": ["lr0=1", "box=2"]}, "--set lr0=1 box=2"),
        ({"set": "lr0=1"}, "--set lr0=1"),
        ({"set": {}}, ""),
        ({"plugin": "my.py"}, "--plugin my.py"),
        ({"plugin": [Path("a.py"), "b.py"]}, "--plugin a.py --plugin b.py"),
    ],
)
def test_an_option_means_what_its_flag_means(options: dict[str, Any], words: str | list[str]):
    flags = words if isinstance(words, list) else words.split()
    assert TrainOptions(**options) == read_options(TrainOptions, flags, "train.py")


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (train, {"epoch": 3}, r"train\(\): unknown option 'epoch' \(nearest: 'epochs'\)"),
        (train, {"batch-size": 3}, r"train\(\): unknown option 'batch-size' \(nearest: 'batch_size'\)"),
        (train, {"help": True}, r"train\(\): unknown option 'help'"),
        (train, {"conf": 0.1}, r"train\(\): unknown option 'conf'"),
        (evaluate, {}, r"evaluate\(\): the option 'weights' is missing"),
        (evaluate, {"weights": None}, r"evaluate\(\): the option 'weights' is missing"),
        (
            evaluate,
            {"weights": "a.pt", "split": "rest"},
            r"evaluate\(\): split: expected 'train', 'val' or 'test', found 'rest'",
        ),
        (evaluate, {"weights": "a.pt", "conf": 7}, r"evaluate\(\): conf: expected 0\.\.1, found 7"),
        (train, {"epochs": 2.5}, r"train\(\): epochs: expected a whole number, found 2\.5"),
        (train, {"epochs": True}, "epochs: expected a whole number, found True"),
        (train, {"epochs": -1}, r"train\(\): epochs: expected 1 or more, found -1"),
        (train, {"optimizer": "Adam"}, "optimizer: expected 'SGD' or 'AdamW', found 'Adam'"),
        (
            train,
            {"save_period": True},
            "save_period: expected a number of epochs, or minutes such as 10min, found True",
        ),
        (train, {"exist_ok": "yes"}, "exist_ok: expected true or false, found 'yes'"),
        (train, {"data": ["a.yaml"]}, r"data: expected text or a path, found \['a.yaml'\]"),
        (train, {"set": 3}, "set: expected a dict of keys and values, found 3"),
        (train, {"set": {"lr0": {1, 2}}}, r"set: lr0: expected a plain value, found \{1, 2\}"),
        (train, {"set": {"mosiac": 1}}, r"--set mosiac=1: unknown key 'mosiac' \(nearest: 'mosaic'\)"),
        (train, {"set": {"box_loss": "giuo"}}, "--set box_loss=giuo: unknown name 'giuo'"),
        (train, {"cfg": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        (train, {"resume": True}, r"no \*/weights/last.pt below runs/train"),
    ],
)
def test_an_unusable_option_is_a_config_error_and_leaves_nothing(
    function: Callable[..., Any],
    options: dict[str, Any],
    words: str,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    files = {"cfg": REPOSITORY / "cfg/yolo_n.yaml", "hyp": REPOSITORY / "cfg/hyp.yaml", "data": tiny_data}
    plain = function is evaluate or "resume" in options
    with pytest.raises(ConfigError, match=words):
        function(**(options if plain else {**files, **options}))
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_raised_as_what_they_are(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such file"):
        evaluate(weights=tmp_path / "nowhere.pt")
    assert issubclass(CheckpointError, UserError)


def test_a_run_from_python_is_the_run_of_the_command_line_to_the_bit(tiny_data: Path, tmp_path: Path):
    words = ["--set", "box_loss=giou", "--epochs", "1"]
    theirs = run_training(tiny_config(tiny_data, tmp_path / "theirs", *words))
    mine = train(**options_of(tiny_data, tmp_path / "mine", epochs=1, set={"box_loss": "giou"}))
    assert mine.folder == tmp_path / "mine/exp"
    assert (mine.best_epoch, mine.metrics) == (theirs.best_epoch, theirs.metrics)
    last = [load_checkpoint(result.folder / "weights/last.pt")["model"] for result in (mine, theirs)]
    assert equal_states(*last)


def test_the_result_of_a_run_is_plain(tiny_data: Path, tmp_path: Path):
    result = train(**options_of(tiny_data, tmp_path, epochs=1))
    assert isinstance(result, tuple) and isinstance(result.folder, Path)
    assert {"metrics/mAP50", "metrics/mAP50-95"} <= json.loads(json.dumps(result.metrics)).keys()
    assert len(result.seconds) == 1 == result.best_epoch
    metrics = json.loads((result.folder / "metrics.json").read_text())
    points = load_checkpoint(result.folder / "weights/best.pt")["operating_points"]
    assert metrics["best"]["epoch"] == 1 and metrics["operating_points"] == points and points["split"] == "val"


def test_resume_goes_on_with_a_run_and_refuses_other_options(tiny_data: Path, tiny_run: Path, tmp_path: Path):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolo_lite.engine.train.say", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(**options_of(tiny_data, tmp_path))
    with pytest.raises(ConfigError, match="leave out --imgsz"):
        train(resume=tmp_path / "exp/weights/last.pt", imgsz=96)
    result = train(resume=True, project=tmp_path)
    assert (result.folder / "results.csv").read_bytes() == (tiny_run / "results.csv").read_bytes()
    with pytest.raises(ConfigError, match="this run is finished"):
        train(resume=tmp_path / "exp/weights/last.pt")


def test_evaluate_returns_what_val_writes_and_writes_nothing(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    weights = tiny_run / "weights/last.pt"
    report = evaluate(weights=weights, split="train", **CPU)
    assert list(tmp_path.iterdir()) == []
    words = ["--weights", str(weights), "--split", "train", "--device", "cpu", "--workers", "0"]
    assert val_main(words) == 0
    written = json.loads((tmp_path / "runs/val/exp/metrics.json").read_text())
    clocks = {"ms_per_image", "ms_per_image_by_stage"}
    assert report.keys() == written.keys() >= clocks
    assert all(report[key] == written[key] for key in report.keys() - clocks)


@pytest.mark.parametrize("option", [{"project": "runs/val"}, {"name": "exp"}, {"save_json": True}])
def test_evaluate_writes_a_run_folder_where_one_is_asked_for(
    option: dict[str, str], tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    report = evaluate(weights=tiny_run / "weights/last.pt", **CPU, **option)
    folder = tmp_path / "runs/val/exp"
    assert json.loads((folder / "metrics.json").read_text()) == report
    assert (folder / "val_predictions.jpg").exists()


def test_a_plugin_is_loaded_for_one_call(tiny_data: Path, tmp_path: Path):
    plugin = tmp_path / "my.py"
    plugin.write_text("BOX_LOSSES = {'mine': lambda a, b: (a - b).abs().sum(1) * 1e-3}\n")
    options = options_of(tiny_data, tmp_path / "runs", epochs=1, set={"box_loss": "mine"})
    weights = train(**options, plugin=plugin).folder / "weights/last.pt"
    assert evaluate(weights=weights, plugin=[plugin], **CPU)["images"] == 8
    with pytest.raises(ConfigError, match="unknown name 'mine'"):
        train(**options)
    with pytest.raises(ConfigError, match=f"executed only where you give it again: --plugin {plugin}"):
        evaluate(weights=weights, **CPU)


def test_options_are_given_by_name_alone():
    with pytest.raises(ConfigError, match=r"train\(\): expected options by name, found 'cfg/yolo_n.yaml'"):
        train("cfg/yolo_n.yaml", epochs=1)  # type: ignore[misc]


def test_an_empty_resume_means_the_latest_run_not_a_new_one():
    for words in (["--resume", ""], ["--resume"]):
        assert read_options(TrainOptions, words, "train.py").resume is True
