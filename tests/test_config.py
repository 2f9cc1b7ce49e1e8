"""Laws of the YAML reader, the schema and the loader: what is accepted, and what is said about the rest."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.config.foreign import DATASET_KEYS, HYP_KEYS, ConfigWarning
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import (
    load_dataset_config,
    load_hyp,
    load_model_config,
    load_run_config,
)
from yolo_lite.config.model import ModelConfig, parse_activation
from yolo_lite.config.old import ADVICE, FLAT_KEYS, upgraded
from yolo_lite.config.run import RunConfig, RunSection
from yolo_lite.config.yaml_file import parse_scalar, parse_yaml, read_yaml
from yolo_lite.engine.seams import SEAMS
from yolo_lite.model.blocks.standard import ACTIVATIONS
from yolo_lite.model.detector import Detector

MODEL = """\
nc: 3
anchors:
  - [10, 13, 16, 30]
  - [30, 61, 62, 45]
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[0, 1], 1, Detect, [nc, anchors]]
"""


@pytest.fixture
def hyp(tmp_path: Path):
    return lambda text, *overrides: load_hyp(written(tmp_path / "hyp.yaml", text), overrides, SEAMS)


@pytest.fixture
def model(tmp_path: Path):
    return lambda text, *overrides: load_model_config(written(tmp_path / "model.yaml", text), overrides, SEAMS)


@pytest.fixture
def dataset(tmp_path: Path):
    return lambda text, *overrides: load_dataset_config(written(tmp_path / "data.yaml", text), overrides, SEAMS)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def problems(load, *arguments: Any) -> list[str]:
    """The lines of the ConfigError that loading raises, without the folder of the file."""
    with pytest.raises(ConfigError) as error:
        load(*arguments)
    return [re.sub(r"^\S*/(?=\w+\.yaml)", "", line) for line in str(error.value).splitlines()]


# ------------------------------------------------------------------------------------------------------ YAML scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-2", 0.01),
        ("1E5", 1e5),
        ("-3e+2", -300.0),
        ("+2e3", 2000.0),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("5.0e-04", 5e-4),
    ],
)
def test_a_number_with_an_exponent_is_a_float(text: str, value: float):
    assert parse_yaml(f"a: {text}\nb: [{text}]", "x").data == {"a": value, "b": [value]}
    assert type(parse_scalar(text)) is float


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("0.5", 0.5), ("true", True), ("False", False), ("", None), ("null", None), ("'1e-2'", "1e-2")]
    + [("e5", "e5"), ("1e", "1e"), ("1e-2x", "1e-2x"), ("2e3.5", "2e3.5"), ("v1e5", "v1e5"), ("[1, 2e0]", [1, 2.0])],
)
def test_other_scalars_read_as_in_yaml(text: str, value: Any):
    read = parse_scalar(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("word", ["off", "on", "yes", "no", "Off", "NO", "y", "n"])
def test_only_true_and_false_are_booleans(word: str):
    assert parse_scalar(word) == word


def test_cache_off_needs_no_quotes(hyp):
    assert hyp("cache: off").cache == "off"
    assert hyp("cache: ram", "cache=off").cache == "off"


# ------------------------------------------------------------------------------------------------- what is no YAML


def test_a_duplicate_key_is_refused_with_both_lines(hyp):
    assert problems(hyp, "lr0: 0.1\nbox: 1.0\nlr0: 0.2\n") == [
        "hyp.yaml:3: duplicate key 'lr0', already given in line 1"
    ]


def test_a_duplicate_key_is_refused_at_any_depth(dataset):
    (line,) = problems(dataset, "train: x\nnames:\n  0: a\n  1: b\n  0: c\n")
    assert line == "data.yaml:5: duplicate key 0, already given in line 3"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("lr0: 0.1\n\tbox: 1\n", 2, "found a tab, expected spaces"),
        ("lr0: [1\nbox: 2\n", 2, "expected ',' or ']'"),
        ("lr0: 1\n---\nbox: 2\n", 2, "expected a single document"),
        ("lr0: *nowhere\n", 1, "undefined alias 'nowhere'"),
        ("box: 1\n? [1, 2]\n: 3\n", 2, "a key must be text or a number, found [1, 2]"),
        ("box: 1\n<<: {lr0: 1}\n", 2, "merge key"),
    ],
)
def test_broken_yaml_is_an_error_that_names_the_line(hyp, text: str, line: int, words: str):
    (message,) = problems(hyp, text)
    assert message.startswith(f"hyp.yaml:{line}: ") and words in message


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir ['made']", "!!python/name:os.system", "!Custom {}"])
def test_a_tag_is_refused_and_nothing_is_executed(hyp, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (message,) = problems(hyp, f"lr0: 0.1\nbox: {tag}\n")
    assert message.startswith("hyp.yaml:2: the tag ") and "not supported" in message
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("# only this\n", "nothing"), ("- 1\n", "[1]"), ("words", "'words'")]
)
def test_a_file_that_is_no_mapping_is_refused(hyp, text: str, found: str):
    assert problems(hyp, text) == [f"hyp.yaml: expected a mapping of keys to values, found {found}"]


def test_a_missing_file_is_named_with_the_folder_that_was_looked_in(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file \(looked in .*\)") as error:
        read_yaml(tmp_path / "nowhere.yaml")
    assert str(tmp_path) in str(error.value)


def test_a_folder_or_a_binary_file_is_refused(tmp_path: Path):
    (tmp_path / "utf16.yaml").write_bytes("lr0: 1".encode("utf-16"))
    (tmp_path / "zero.yaml").write_bytes(b"lr0: \x00")
    for path in (tmp_path, tmp_path / "utf16.yaml", tmp_path / "zero.yaml"):
        with pytest.raises(ConfigError, match=path.name):
            read_yaml(path)


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbflr0: 1e-3\r\nbox: 2.0\r\n")
    document = read_yaml(tmp_path / "a.yaml")
    assert document.data == {"lr0": 0.001, "box": 2.0} and document.lines["box",] == 2


# ---------------------------------------------------------------------------------------------------------- hyp.yaml


def test_every_error_comes_at_once_with_file_line_and_key(hyp):
    text = "mosiac: 1.0\nlr0: fast\nbox: -1\noptimizer: Adam\nclose_mosaic: 2.5\ncos_lr: 1\nhsv_h: 0.9\nbox_gain: 1\n"
    assert problems(hyp, text)[:7] == [
        "hyp.yaml:1: unknown key 'mosiac' (nearest: 'mosaic')",
        "hyp.yaml:2: lr0: expected a number, found 'fast'",
        "hyp.yaml:3: box: expected 0 or more, found -1",
        "hyp.yaml:4: optimizer: expected 'SGD' or 'AdamW', found 'Adam'",
        "hyp.yaml:5: close_mosaic: expected a whole number, found 2.5",
        "hyp.yaml:6: cos_lr: expected true or false, found 1",
        "hyp.yaml:7: hsv_h: expected 0.5 or less, found 0.9",
    ]
    assert len(problems(hyp, text)) == 8


@pytest.mark.parametrize(
    "text", ["lr0: true", "lr0: '0.1'", "lr0: null", "lr0: [1]", "box: .nan", "box: .inf", "box: 1e999"]
)
def test_types_are_strict_and_numbers_are_finite(hyp, text: str):
    (message,) = problems(hyp, text)
    assert "expected a number" in message or "expected a finite number" in message


@pytest.mark.parametrize(
    "text", ["close_mosaic: true", "close_mosaic: 10.0", "cos_lr: 1", "cos_lr: yes", "optimizer: [SGD]"]
)
def test_an_int_is_no_bool_and_no_float_is_an_int(hyp, text: str):
    assert len(problems(hyp, text)) == 1


def test_an_int_may_stand_for_a_float(hyp):
    assert hyp("box: 1\nwarmup_epochs: 3").box == 1.0 and type(hyp("box: 1").box) is float


def test_an_unknown_key_names_the_nearest_or_else_all(hyp):
    assert problems(hyp, "LR0: 0.1") == ["hyp.yaml:1: unknown key 'LR0' (nearest: 'lr0')"]
    (message,) = problems(hyp, "zzz: 1")
    assert all(name in message for name in Hyp.model_fields)


@pytest.mark.parametrize("key", FLAT_KEYS)
def test_a_retired_key_gets_advice(hyp, key: str):
    assert problems(hyp, f"lr0: 0.1\n{key}: 3") == [f"hyp.yaml:2: unknown key {key!r}: {ADVICE[key]}"]
    assert key not in Hyp.model_fields


# The keys of YOLOv5's hyp files with the values of each: first those that were set by hand, then two that were evolved.
SCRATCH = {
    **{"lr0": 0.01, "lrf": 0.01, "momentum": 0.937, "weight_decay": 0.0005, "warmup_epochs": 3.0},
    **{
        "warmup_momentum": 0.8,
        "warmup_bias_lr": 0.1,
        "box": 0.05,
        "cls": 0.5,
        "cls_pw": 1.0,
        "obj": 1.0,
        "obj_pw": 1.0,
    },
    **{"iou_t": 0.2, "anchor_t": 4.0, "fl_gamma": 0.0, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "degrees": 0.0},
    **{"translate": 0.1, "scale": 0.5, "shear": 0.0, "perspective": 0.0, "flipud": 0.0, "fliplr": 0.5, "mosaic": 1.0},
    **{"mixup": 0.0, "copy_paste": 0.0},
}
MEDIUM = {"lrf": 0.1, "cls": 0.3, "obj": 0.7, "scale": 0.9, "mixup": 0.1}
NONE = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "translate": 0, "scale": 0, "fliplr": 0, "mosaic": 0}
EVOLVED = {"lr0": 0.00334, "lrf": 0.15135, "momentum": 0.74832, "box": 0.02, "cls": 0.21638, "obj": 0.51728}
YOLOV5_FILES = {
    "low": SCRATCH,
    "med": SCRATCH | MEDIUM,
    "high": SCRATCH | MEDIUM | {"copy_paste": 0.1},
    "no-augmentation": SCRATCH | NONE,
    "VOC": SCRATCH | EVOLVED | {"warmup_bias_lr": 0.18657, "anchors": 3.412, "anchor_t": 3.3744, "scale": 0.75544},
    "Objects365": SCRATCH | {"lr0": 0.00258, "momentum": 0.779, "warmup_bias_lr": 0.0711, "anchors": 3.2},
}


@pytest.mark.parametrize("idle_keys_are_gone", [False, True])
@pytest.mark.parametrize("name", YOLOV5_FILES)
def test_a_hyp_file_of_yolov5_means_what_it_means_there(hyp, name: str, idle_keys_are_gone: bool):
    given = dict(YOLOV5_FILES[name])
    idle = [] if idle_keys_are_gone else sorted({"iou_t", "anchors"} & given.keys(), reverse=True)
    if idle_keys_are_gone:
        given = {key: value for key, value in given.items() if key not in HYP_KEYS}
    with pytest.warns(ConfigWarning) as said:
        read = hyp(yaml.safe_dump(given, sort_keys=False))
    assert read == Hyp(optimizer="SGD", **{key: value for key, value in given.items() if key not in HYP_KEYS})
    texts = [str(warning.message).partition("hyp.yaml: ")[2] for warning in said]
    assert texts.pop().startswith("figures of YOLOv5 and no key 'optimizer': trains with SGD")
    assert len(texts) == bool(idle) and all(f"{key!r} in line " in texts[0] for key in idle)
    assert "anchors" not in idle or "yolo-lite anchors" in texts[0]


@pytest.mark.filterwarnings("ignore::yolo_lite.config.foreign.ConfigWarning")
@pytest.mark.parametrize("name", YOLOV5_FILES)
def test_an_optimizer_that_is_stated_wins_over_the_figures_of_yolov5(hyp, name: str):
    text = yaml.safe_dump(YOLOV5_FILES[name])
    assert hyp(text, "optimizer=AdamW").optimizer == hyp(f"{text}optimizer: AdamW").optimizer == "AdamW"


@pytest.mark.parametrize(
    ("text", "optimizer"),
    [
        ("lr0: 0.02\nmomentum: 0.9\nwarmup_bias_lr: 0.1", "SGD"),  # changed by a user, the biases' warm-up is left
        ("lr0: 0.01\nmomentum: 0.937", "SGD"),
        ("lr0: 0.001\niou_t: 0.2", "SGD"),
        ("{}", "AdamW"),
        ("lr0: 0.01", "AdamW"),  # of this, and of all below, nothing comes from there
        ("momentum: 0.937", "AdamW"),
        ("lr0: 0.001\nmomentum: 0.937\nwarmup_bias_lr: 0.0", "AdamW"),
        ("warmup_bias_lr: 0.1", "AdamW"),
        ("lr0: 0.0015\nmomentum: 0.9\nwarmup_bias_lr: 0.0\nbox_loss: siou", "AdamW"),
    ],
)
@pytest.mark.filterwarnings("ignore::yolo_lite.config.foreign.ConfigWarning")
def test_what_counts_as_figures_of_yolov5(hyp, text: str, optimizer: str):
    assert hyp(text).optimizer == optimizer


@pytest.mark.parametrize("file", sorted((REPOSITORY / "cfg").glob("hyp*.yaml")), ids=lambda file: file.name)
def test_every_hyp_yaml_of_the_repository_states_its_optimizer(file: Path):
    assert read_yaml(file).data["optimizer"] == load_hyp(file).optimizer == "AdamW"


def test_a_stored_configuration_keeps_its_optimizer_whatever_its_figures(tmp_path: Path):
    plain = RunConfig(
        train=RunSection(),
        hyp=Hyp(lr0=0.01, momentum=0.937, warmup_bias_lr=0.1),
        model=ModelConfig(**yaml.safe_load(MODEL)),
        data=DatasetConfig(train=("x",), names=("a",)),
        data_file="",
    ).plain()
    del plain["hyp"]["optimizer"]
    assert load_run_config(plain, "last.pt").hyp.optimizer == "AdamW"


def test_the_keys_of_yolov5_are_keys_here_or_retired():
    theirs = """lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls cls_pw obj obj_pw
        iou_t anchor_t anchors fl_gamma hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr mosaic
        mixup copy_paste"""
    assert set(theirs.split()) <= Hyp.model_fields.keys() | ADVICE.keys()


def test_the_repository_hyp_yaml_holds_every_key_and_the_defaults():
    data = read_yaml(REPOSITORY / "cfg/hyp.yaml").data
    assert list(data) == list(Hyp.model_fields)
    assert Hyp(**data) == Hyp()
    assert [type(value) for value in data.values()] == [type(value) for value in Hyp().model_dump(mode="json").values()]


def test_configurations_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Hyp().lr0 = 1.0  # type: ignore[misc]
    config = load_model_config(REPOSITORY / "cfg/yolo_n.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        config.backbone[0].repeats = 2  # type: ignore[misc]
    assert isinstance(config.backbone, tuple) and isinstance(config.anchors, tuple)


# ------------------------------------------------------------------------------------------------------------- --set


def test_set_overrides_with_the_types_of_yaml(hyp, model, dataset):
    changed = hyp("lr0: 0.1", "lr0=1e-3", "cos_lr=true", "optimizer=SGD", "patience=5", "lr0=2e-3")
    assert (changed.lr0, changed.cos_lr, changed.optimizer, changed.patience) == (0.002, True, "SGD", 5)
    assert model(MODEL, "model.depth_multiple=.5").depth_multiple == 0.5
    assert dataset("names: [a]\ntrain: x", "data.names=[b, c]", "data.val=a=b").model_dump()["val"] == ("a=b",)


def test_set_reaches_only_the_file_of_its_prefix(hyp, model, dataset):
    texts = ("lr0=0.5", "model.nc=7", "data.labels=here")
    assert hyp("box: 1", *texts) == hyp("box: 1", "lr0=0.5")
    assert model(MODEL, *texts) == model(MODEL, "model.nc=7")
    assert dataset("names: [a]\ntrain: x", *texts).labels == "here"


def test_overrides_that_cannot_be_meant_are_told_all_at_once(hyp, model, dataset):
    texts = ("lr1=3", "siou_theta=2", "model.nx=1", "data.nams=[a]", "foo.lr0=1", "box=1")
    assert problems(hyp, "lr0: 0.1", *texts) == [
        "--set lr1=3: unknown key 'lr1' (nearest: 'lrf')",
        "--set siou_theta=2: unknown key 'siou_theta': parameters stand with their loss now, as in "
        "box_loss: {siou: {theta: ...}}",
        "--set foo.lr0=1: unknown key 'foo.lr0' (nearest: 'lr0')",
    ]
    assert problems(model, MODEL, *texts)[0].startswith("--set model.nx=1: unknown key 'nx' (")
    assert problems(dataset, "names: [a]\ntrain: x", *texts) == [
        "--set data.nams=[a]: unknown key 'nams' (nearest: 'names')"
    ]
    assert problems(hyp, "lr0: 0.1", "lr0") == ["--set lr0: expected key=value"]


def test_an_error_in_an_override_names_the_override_and_not_the_file(hyp, model):
    assert problems(hyp, "lr0: 0.1\nbox: x\n", "lr0=abc") == [
        "--set lr0=abc: expected a number, found 'abc'",
        "hyp.yaml:2: box: expected a number, found 'x'",
    ]
    assert problems(model, MODEL, "model.nc=0") == ["--set model.nc=0: expected 1 or more, found 0"]
    (message,) = problems(hyp, "lr0: 0.1", "lr0=[1")
    assert message.startswith("--set lr0=[1: not a YAML value: ")


# -------------------------------------------------------------------------------------------------------- model YAML


def test_bad_rows_are_named_all_at_once(model):
    rows = ["[-1, Conv, [8]]", "[x, 1, Conv, [8]]", "[-1, 0, Conv, [8]]", "[-1, 1, Conv, 8]", "[-1, 1, Convv, [8]]"]
    rows += ["C3", "[[], 1, C3, []]"]
    text = MODEL.replace("  - [-1, 1, Conv, [16, 3, 2]]\n", "".join(f"  - {row}\n" for row in rows))
    assert problems(model, text) == [
        "model.yaml:7: backbone row 1: expected [from, repeats, module, args], found [-1, 'Conv', [8]]",
        "model.yaml:8: backbone row 2: 'from' must be an int or a list of ints, found 'x' in ['x', 1, 'Conv', [8]]",
        "model.yaml:9: backbone row 3: 'repeats' must be an int of 1 or more, found 0 in [-1, 0, 'Conv', [8]]",
        "model.yaml:10: backbone row 4: 'args' must be a list, found 8 in [-1, 1, 'Conv', 8]",
        "model.yaml:11: backbone row 5: unknown module 'Convv' (nearest: 'Conv') in [-1, 1, 'Convv', [8]]",
        "model.yaml:12: backbone row 6: expected [from, repeats, module, args], found 'C3'",
        "model.yaml:13: backbone row 7: 'from' must be an int or a list of ints, found [] in [[], 1, 'C3', []]",
    ]


def test_a_bad_row_of_the_head_is_named_too(model):
    text = MODEL.replace("head:\n", "head:\n  - [-1, 1, nn.Upsampel, [None, 2, nearest]]\n")
    (message,) = problems(model, text)
    assert message.startswith("model.yaml:9: head row 0: unknown module 'nn.Upsampel' (nearest: 'Upsample')")


@pytest.mark.parametrize(
    ("anchors", "words"),
    [
        ("0", "expected a number of anchors, or for each level a list [w, h, w, h, ...] of positive numbers"),
        ("true", "all of one length, found True"),
        ("2.5", "all of one length, found 2.5"),
        ("[10, 13]", "of positive numbers, all of one length, found [10, 13]"),
        ("[]", "of positive numbers, all of one length, found []"),
        ("[[10, 13], [30]]", "all of one length, found [[10, 13], [30]]"),
        (
            "[[10, 13, 5], [30, 61, 5]]",
            "of positive numbers, all of one length, found [[10, 13, 5], [30, 61, 5]]",
        ),
        (
            "[[10, 13], [30, x]]",
            "of positive numbers, all of one length, found [[10, 13], [30, 'x']]",
        ),
        (
            "[[10, 13], [30, 0]]",
            "of positive numbers, all of one length, found [[10, 13], [30, 0]]",
        ),
        (
            "[[10, 13], [30, .inf]]",
            "of positive numbers, all of one length, found [[10, 13], [30, inf]]",
        ),
    ],
)
def test_an_error_in_the_anchors_is_one_line_without_the_names_of_types(model, anchors: str, words: str):
    text = MODEL.replace("anchors:\n  - [10, 13, 16, 30]\n  - [30, 61, 62, 45]\n", f"anchors: {anchors}\n")
    (message,) = problems(model, text)
    assert message.startswith("model.yaml:2: anchors: ") and words in message


def test_anchors_and_rows_are_required(model):
    assert problems(model, "nc: 3\n") == [f"model.yaml: the key {key!r} is missing" for key in ("backbone", "head")]
    with pytest.raises(ConfigError, match=r"head row 0 \(layer 2\) .*Detect.*: needs the key anchors"):
        Detector(model(MODEL.replace("anchors:\n  - [10, 13, 16, 30]\n  - [30, 61, 62, 45]\n", "")))


@pytest.mark.parametrize(
    "text",
    [
        MODEL.replace("Detect", "Concat"),
        MODEL.replace("head:\n", "head:\n  - [-1, 1, Detect, [nc, anchors]]\n"),
        MODEL.replace("Conv, [16, 3, 2]", "Detect, [nc, anchors]"),
        MODEL.replace("  - [[0, 1], 1, Detect, [nc, anchors]]\n", "  []\n"),
    ],
)
def test_detect_stands_once_and_last(model, text: str):
    (message,) = problems(model, text)
    assert "expected one Detect or DetectFree or Segment or SegmentFree row, the last" in message


@pytest.mark.parametrize(
    "text", ["nn.Foo()", "SiLU(", "os.system('ls')", "nn.LeakyReLU(x)", "nn.LeakyReLU(1-1)", "ReLU(3)"]
)
def test_an_activation_is_a_known_name_and_is_not_evaluated(model, text: str):
    (message,) = problems(model, MODEL + f'activation: "{text}"\n')
    assert message.startswith("model.yaml:10: activation: ") and repr(text) in message


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("nn.LeakyReLU(0.1)", ("LeakyReLU", (0.1,))), ("LeakyReLU( 1e-2 )", ("LeakyReLU", (0.01,)))]
    + [("nn.SiLU()", ("SiLU", ())), ("ReLU", ("ReLU", ()))],
)
def test_an_activation_is_a_name_and_a_slope(text: str, parsed: tuple[str, tuple[float, ...]]):
    assert parse_activation(text, ACTIVATIONS) == parsed


def test_parameters_come_back_from_plain_data_and_by_set(hyp):
    choice = hyp("box_loss: {focal_eiou: {gamma: 0.7}}").box_loss
    assert (choice.name, choice.parameters) == ("focal_eiou", {"gamma": 0.7})
    assert hyp("lr0: 0.1", "box_loss={focal_eiou: {gamma: 0.7}}").box_loss == choice
    config = run_config().model_copy(update={"hyp": Hyp(box_loss=choice, cls_loss="qfl")})
    plain = config.plain()
    assert plain["hyp"]["box_loss"] == {"focal_eiou": {"gamma": 0.7}} and plain["hyp"]["cls_loss"] == "qfl"
    assert is_plain(plain) and load_run_config(plain, "here", SEAMS) == config


def test_a_stored_configuration_with_flat_keys_means_what_it_meant():
    plain = run_config().plain()
    plain["hyp"] |= {
        "box_loss": "wiou",
        "wiou_delta": 2.0,
        "wiou_momentum": 0.5,
        "siou_theta": 3.0,
        "focal_eiou_gamma": 1.0,
    }
    plain["hyp"] |= {
        "obj_loss": "focal",
        "focal_gamma": 1.5,
        "focal_alpha": None,
        "qfl_beta": 2.0,
        "smooth_l1_beta": 0.5,
    }
    config = load_run_config(upgraded(plain), "here", SEAMS)
    assert config.hyp.box_loss.plain() == {"wiou": {"delta": 2.0, "momentum": 0.5}}
    assert config.hyp.obj_loss.plain() == {"focal": {"gamma": 1.5, "alpha": None}}
    assert config.hyp.rpn_box_loss.plain() == {"smooth_l1": {"beta": 0.5}} and config.hyp.cls_loss.plain() == "bce"


def test_a_stored_fl_gamma_keeps_the_alpha_that_it_was_used_with():
    plain = run_config().plain()
    plain["hyp"] |= {"fl_gamma": 1.5, "focal_gamma": 2.0, "focal_alpha": None}
    hyp = load_run_config(upgraded(plain), "here", SEAMS).hyp
    assert hyp.obj_loss.plain() == hyp.cls_loss.plain() == {"focal": {"gamma": 1.5, "alpha": None}}
    assert hyp.fl_gamma == 0


def test_a_configuration_of_today_is_upgraded_to_itself():
    plain = run_config().plain()
    plain["hyp"] |= {"fl_gamma": 1.5, "box_loss": {"focal_eiou": {"gamma": 0.7}}}
    assert upgraded(plain) == plain


def test_the_flat_keys_of_stored_configurations_are_no_keys_of_today():
    assert len(FLAT_KEYS) == 20 and not FLAT_KEYS.keys() & Hyp.model_fields.keys()


@pytest.mark.parametrize("key", ["box_loss", "rpn_box_loss", "obj_loss", "cls_loss", "assigner"])
def test_a_key_that_names_an_entry_of_a_dict_refuses_other_names(hyp, key: str):
    (message,) = problems(hyp, f"{key}: nothing_like_it")
    assert message.startswith(f"hyp.yaml:1: {key}: unknown name 'nothing_like_it' (choices: ")


def test_nearest_ignores_case_and_lists_all_when_nothing_is_near():
    assert nearest("upsample", ["Conv", "Upsample"]) == " (nearest: 'Upsample')"
    assert nearest("zzz", ["Conv", "C3"]) == " (choices: Conv, C3)"


# ------------------------------------------------------------------------------------------------------ dataset YAML


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{1: dog, 0: cat}", "\n  - cat\n  - dog"])
def test_names_are_a_list_or_a_mapping_from_0(dataset, names: str):
    assert dataset(f"train: x\nnames: {names}\n").names == ("cat", "dog")


def test_names_that_yaml_reads_as_something_else(dataset):
    assert dataset("train: x\nnames: [1, yes, no]").names == ("1", "yes", "no")
    assert problems(dataset, "train: x\nnames: [a, true, 1.5]") == [
        "data.yaml:2: names.1: expected text, found True",
        "data.yaml:2: names.2: expected text, found 1.5",
    ]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("{1: a, 2: b}", "names: expected the keys 0..1, found [1, 2]"),
        ("{0: a, x: b}", "names: expected the keys 0..1, found [0, 'x']"),
        ("cat", "names: expected a list of class names or a mapping 0..n-1 to names, found 'cat'"),
        ("[]", "names: expected a list of class names or a mapping 0..n-1 to names, found []"),
        ("[a, b, a, c, b]", "names: expected each name once, found more of a, b"),
        ("[1, '1']", "names: expected each name once, found more of 1"),
        ("[[a], [a]]", "names"),
    ],
)
def test_unusable_names_are_refused(dataset, names: str, words: str):
    assert words in problems(dataset, f"train: x\nnames: {names}")[0]


def test_the_value_of_white_is_stated_once(dataset):
    for words, white in (("", 65535), ("bits: 12", 4095), ("bits: 8", 255), ("max_value: 1000", 1000)):
        assert dataset(f"train: x\nnames: [a]\n{words}").white == white
    for words, message in (
        ("max_value: 4095\nbits: 12", "data.yaml:3: max_value: expected bits or max_value, found both, 12 and 4095"),
        ("bits: 17", "data.yaml:3: bits: expected 16 or less, found 17"),
        ("max_value: 0", "data.yaml:3: max_value: expected 1 or more, found 0"),
    ):
        assert problems(dataset, f"train: x\nnames: [a]\n{words}") == [message]


def test_nc_must_agree_with_names_and_may_be_left_out(dataset):
    assert dataset("train: x\nnames: [a, b]\nnc: 2").names == dataset("train: x\nnames: [a, b]").names
    (message,) = problems(dataset, "train: x\nnames: [a, b]\nnc: 3")
    assert message == "data.yaml:3: nc: expected 2, the number of names, found 3; the key may be left out"


def test_the_download_key_is_accepted_and_nothing_comes_of_it(dataset, tmp_path: Path):
    script = f"download: |\n  from pathlib import Path\n  Path({str(tmp_path / 'made')!r}).mkdir()\n"
    assert dataset("train: x\nnames: [a]\n" + script).train == ("x",)
    assert not (tmp_path / "made").exists()


def test_a_split_is_a_path_or_several_and_may_be_empty(dataset):
    config = dataset("path: ../coco\ntrain: images/train\nval: [a.txt, b/*.jpg]\ntest: # optional\nnames: [a]\n")
    assert (config.train, config.val, config.test) == (("images/train",), ("a.txt", "b/*.jpg"), ())


def test_a_dataset_without_any_split_is_refused(dataset):
    assert problems(dataset, "names: [a]") == ["data.yaml: expected at least one of train, val, test"]
    assert problems(dataset, "names: [a]\ntrain: 3") == [
        "data.yaml:2: train: expected a path or a list of paths, found 3"
    ]


def test_errors_in_a_nested_part_name_the_whole_key_and_the_nearest(dataset):
    text = "names: [a]\ntrain: x\nsuggested: {epocs: 3, imgsz: 0}\ngenerate: {kind: shapes, train: 3}\n"
    assert problems(dataset, text) == [
        "data.yaml:3: suggested.imgsz: expected 1 or more, found 0",
        "data.yaml:3: unknown key 'suggested.epocs' (nearest: 'epochs')",
        "data.yaml:4: the key 'generate.val' is missing",
        "data.yaml:4: the key 'generate.image_size' is missing",
    ]


EXPORTED = {
    "roboflow": "roboflow: {workspace: w, project: p, version: 3, license: CC BY 4.0, url: 'https://example.org/p'}",
    "pose": "flip_idx: [0, 2, 1]\nkpt_names: {0: [nose]}",
    "about": "author: me\nlicense: MIT\ndescription: cats\nversion: 1.0\ndate: 2024-01-02",
    "download": "download: bash get.sh",
    "empty": "path:\ntest:\nchannels: # as many as there are",
}


@pytest.mark.parametrize("kind", EXPORTED)
def test_keys_that_exporters_write_change_nothing_and_are_not_spoken_of(dataset, kind: str, recwarn):
    plain = "train: x\nnames: [a]\n"
    assert dataset(plain + EXPORTED[kind]) == dataset(plain) and not recwarn.list


@given(
    st.dictionaries(
        st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1), st.none() | st.integers() | st.lists(st.text("abc"))
    )
)
def test_no_unknown_key_of_a_dataset_yaml_changes_or_stops_anything(tmp_path_factory, others: dict[str, Any]):
    known = {"train": "x", "names": ["a", "b"]}
    unknown = {key: value for key, value in others.items() if key not in DatasetConfig.model_fields}
    place = tmp_path_factory.mktemp("keys") / "data.yaml"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        config = load_dataset_config(written(place, yaml.safe_dump({**unknown, **known})), (), SEAMS)
    assert config == DatasetConfig(train=("x",), names=("a", "b"))
    told = "".join(str(warning.message) for warning in said)
    assert len(said) == bool(unknown.keys() - DATASET_KEYS)
    assert all(repr(key) in told for key in unknown.keys() - DATASET_KEYS)


def test_unknown_keys_of_a_dataset_yaml_are_named_with_line_and_nearest_key(dataset):
    with pytest.warns(ConfigWarning) as said:
        dataset("train: x\nlables: y\nnames: [a]\nroboflow: 1\n7: z\n")
    (told,) = (re.sub(r"^\S*/", "", str(warning.message)) for warning in said)
    assert told == "data.yaml: keys without effect: 'lables' in line 2 (nearest: 'labels'), 7 in line 5"


@pytest.mark.parametrize("key", ["nmes", "name", "Names", "class_names"])
def test_misspelt_names_stop_and_a_title_does_not_pass_for_them(dataset, key: str):
    expected = [f"data.yaml:2: the key 'names' is missing (nearest: '{key}')"]
    assert problems(dataset, f"train: x\n{key}: [a, b]") == expected
    assert problems(dataset, f"train: x\n{key}: {{0: a}}") == expected
    with pytest.warns(ConfigWarning):
        assert dataset(f"train: x\nnames: [a]\n{key}: my set").names == ("a",)


def test_sections_of_a_dataset_yaml_and_overrides_stay_strict(dataset):
    assert problems(dataset, "train: x\nnames: [a]", "data.trian=y") == [
        "--set data.trian=y: unknown key 'trian' (nearest: 'train')"
    ]
    assert any(
        "unknown key 'download.0.sha'" in line
        for line in problems(dataset, "train: x\nnames: [a]\ndownload: [{sha: 1}]")
    )


@pytest.mark.parametrize("path", sorted((REPOSITORY / "data").glob("*.yaml")), ids=lambda path: path.name)
def test_the_dataset_yamls_of_the_repository_load(path: Path):
    assert load_dataset_config(path).names


# --------------------------------------------------------------------------------------------------------- RunConfig


def run_config(cfg: str = "yolo_n.yaml") -> RunConfig:
    return RunConfig(
        train=RunSection(cfg=cfg, hyp="cfg/hyp.yaml", data="data/shapes.yaml", epochs=3, batch_size=4, imgsz=64),
        hyp=Hyp(lr0=1e-5, cache="off"),
        model=load_model_config(REPOSITORY / "cfg" / cfg),
        data=load_dataset_config(REPOSITORY / "data/shapes.yaml"),
        data_file=str(REPOSITORY / "data/shapes.yaml"),
    )


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(inner) for key, inner in value.items())
    return all(map(is_plain, value)) if type(value) is list else type(value) in (str, int, float, bool, type(None))


@pytest.mark.parametrize("size", "nsmlx")
def test_a_run_config_comes_back_whole_from_plain_data_and_from_yaml(size: str):
    config = run_config(f"yolo_{size}.yaml")
    plain = config.plain()
    assert is_plain(plain)
    assert load_run_config(plain, "here") == config
    assert load_run_config(yaml.safe_load(yaml.safe_dump(plain)), "here") == config
    assert load_run_config(parse_yaml(yaml.safe_dump(plain), "here").data, "here") == config


def test_the_model_part_of_a_plain_run_config_is_a_model_yaml(tmp_path: Path):
    config = run_config()
    written(tmp_path / "again.yaml", yaml.safe_dump(config.plain()["model"]))
    assert load_model_config(tmp_path / "again.yaml") == config.model


def test_a_stored_run_config_is_checked_and_its_source_named():
    plain = run_config().plain()
    plain["hyp"]["lr0"] = "x"
    plain["hyp"]["mosiac"] = 1.0
    plain["model"]["backbone"][3] = [-1, 1, "Convv", [8]]
    assert problems(load_run_config, plain, "last.pt (config)", SEAMS) == [
        "last.pt (config): hyp.lr0: expected a number, found 'x'",
        "last.pt (config): unknown key 'hyp.mosiac' (nearest: 'mosaic')",
        "last.pt (config): model.backbone row 3: unknown module 'Convv' (nearest: 'Conv') in [-1, 1, 'Convv', [8]]",
    ]


def test_rows_keep_the_words_of_the_file():
    config = ModelConfig(**read_yaml(REPOSITORY / "cfg/yolo_n.yaml").data)
    assert str(config.head[-1]) == "[[17, 20, 23], 1, Detect, ['nc', 'anchors']]"
    assert str(config.backbone[0]) == "[-1, 1, Conv, [64, 6, 2, 2]]"


# ---------------------------------------------------------------------------------------------------- choice of losses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box_loss: siuo", "box_loss: unknown name 'siuo' (nearest: 'siou')"),
        ("cls_loss: focl", "cls_loss: unknown name 'focl' (nearest: 'focal')"),
        (
            "box_loss: {alpha_iou: {form: eiou}}",
            "box_loss.alpha_iou.form: expected 'iou', 'giou', 'diou' or 'ciou', found 'eiou'",
        ),
        ("box_loss: {siou: {thata: 2}}", "box_loss.siou.thata: unknown parameter (nearest: 'theta')"),
        ("box_loss: {siou: {theta: x}}", "box_loss.siou.theta: expected a number, found 'x'"),
        ("box_loss: {siuo: {theta: 2}}", "box_loss: unknown name 'siuo' (nearest: 'siou')"),
        ("box_loss: {ciou: {}, siou: {}}", "box_loss: expected a name, or a name with parameters as in"),
        ("box_loss: {siou: {7: 2}}", "box_loss: expected a name, or a name with parameters as in"),
        ("box_loss: {focal_eiou: {gamma: .inf}}", "box_loss.focal_eiou.gamma: expected a finite number, found inf"),
        ("box_loss: {focal_eiou: {gamma: -1}}", "box_loss.focal_eiou.gamma: expected 0 or more, found -1"),
        ("box_loss: 7", "box_loss: expected a name, or a name with parameters as in"),
        (
            "alpha_iou_alpha: 2",
            "unknown key 'alpha_iou_alpha': parameters stand with their loss now, as in box_loss: {alpha_iou: {",
        ),
        (
            "qfl_beta: 2",
            "unknown key 'qfl_beta': parameters stand with their loss now, as in obj_loss: {qfl: {beta: ...}}",
        ),
        ("assigner: {anchor_ratio: {topk: 3}}", "assigner.anchor_ratio.topk: unknown parameter, anchor_ratio has none"),
        ("cls_weights: [1, 0]", "cls_weights: expected auto, a list with a weight above 0"),
        ("yolo_foo: 3", "unknown key 'yolo_foo'"),
        ("cls_weights: [1, a]", "cls_weights: expected auto, a list with a weight above 0 for each class, or null"),
        (
            "fl_gamma: 1.5\nobj_loss: qfl",
            "fl_gamma above 0 turns bce into focal: expected it to be 0 beside obj_loss: qfl",
        ),
        ("cls_loss: vfl\nlabel_smoothing: 0.1", "label_smoothing leaves no negatives to vfl"),
        ("cls_loss: {focal: {alpha: 2}}", "cls_loss.focal.alpha: expected 1 or less, found 2"),
    ],
)
def test_an_unusable_choice_of_losses_is_named(text: str, expected: str, tmp_path: Path):
    (tmp_path / "hyp.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_hyp(tmp_path / "hyp.yaml", (), SEAMS)
    assert expected in str(caught.value)


def test_every_wrong_parameter_is_told_at_its_own_line_or_by_its_flag(hyp):
    assert problems(
        hyp, "lr0: 0.1\nbox_loss:\n  alpha_iou:\n    alpha: 0\n    from: ciou\ncls_loss: {qfl: {beta: x}}"
    ) == [
        "hyp.yaml:4: box_loss.alpha_iou.alpha: expected more than 0, found 0",
        "hyp.yaml:5: box_loss.alpha_iou.from: unknown parameter (nearest: 'form')",
        "hyp.yaml:6: cls_loss.qfl.beta: expected a number, found 'x'",
    ]
    assert problems(hyp, "lr0: 0.1", "box_loss={siou: {theta: 1}}") == [
        "--set box_loss={siou: {theta: 1}}: box_loss.siou.theta: expected more than 1, found 1"
    ]


def test_a_whole_number_for_a_parameter_is_read_as_a_float(hyp):
    assert type(hyp("box_loss: {focal_eiou: {gamma: 1}}").box_loss.parameters["gamma"]) is float


def test_null_auto_and_lists_are_read():
    focal = Hyp(cls_loss={"focal": {"alpha": None}}).cls_loss
    assert focal.parameters == {"alpha": None} and focal.plain() == {"focal": {"alpha": None}}
    assert Hyp(cls_weights="auto").cls_weights == "auto" and Hyp(cls_weights=[1, 2.5]).cls_weights == (1.0, 2.5)
