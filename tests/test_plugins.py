"""Laws of plugins: what a user's file brings works like our own, while it is loaded, where the user says so."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, rows_of, tiny_config
from torch import nn

from yolo_lite.cli.main import main, train_main, val_main
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_hyp, load_run_config
from yolo_lite.config.model import FasterRcnnConfig, ModelConfig
from yolo_lite.config.seams import Choice
from yolo_lite.data.effects import AUGMENTATIONS
from yolo_lite.data.readers import FORMATS
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.tasks import TASKS, build_faster_rcnn, task_of
from yolo_lite.engine.train import train as run_training
from yolo_lite.loss.assigners import ASSIGNERS
from yolo_lite.loss.box import BOX_LOSSES, BoxLoss
from yolo_lite.loss.classification import CLS_LOSSES, binary_loss
from yolo_lite.loss.criteria import CRITERIA
from yolo_lite.loss.mask import MASK_LOSSES
from yolo_lite.model.backbones import BACKBONES
from yolo_lite.model.blocks import BLOCKS
from yolo_lite.model.blocks.standard import ACTIVATIONS
from yolo_lite.model.builder import build_layers
from yolo_lite.model.detector import Detector
from yolo_lite.model.heads import HEADS
from yolo_lite.plugins import loaded
from yolo_lite.report.loggers import LOGGERS

# The same figures as giou and as anchor_ratio, but by names of their own: runs with them can be compared to the bit.
TWINS = """\
from dataclasses import dataclass

import torch
from torch import nn

from yolo_lite.loss import BOX_LOSSES as OURS
from yolo_lite.loss.classification import bce
from yolo_lite.loss.assigners import build_targets


@dataclass
class Setting:
    weight: float = 1.0


def my_giou(predicted, target, *, weight=Setting().weight):
    return OURS["giou"](predicted, target) * weight


def my_bce(logits, target, positive_weight=1.0, *, weight: float = 1.0):
    return bce(logits, target, positive_weight) * weight


def mine(targets, grid, anchor_t):
    return build_targets(targets, grid, anchor_t)


class Gate(nn.Module):
    def __init__(self, in_channels: int, reduction: int = 4):
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.excite = nn.Conv2d(in_channels // reduction, in_channels, 1)

    def forward(self, x):
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


BOX_LOSSES = {"my_giou": my_giou}
CLS_LOSSES = {"my_bce": my_bce}
ASSIGNERS = {"mine": mine}
BLOCKS = {"Gate": Gate, "PlainConv": nn.Conv2d}
_LOSSES = {"of the plugin": "its own business"}
COLOURS = {"red": 1}
"""

SIZES = ["--epochs", "1", "--batch-size", "8", "--imgsz", "64", "--workers", "0", "--device", "cpu", "--no-figures"]


@pytest.fixture(autouse=True)
def seams_stay_as_they_are() -> Iterator[None]:
    """Whatever a test loads is gone at its end."""
    before = {name: dict(seam.entries) for name, seam in SEAMS.items()}
    modules = set(sys.modules)
    yield
    assert {name: seam.entries for name, seam in SEAMS.items()} == before
    assert not [name for name in set(sys.modules) - modules if name.startswith("plugin_")]


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    (tmp_path / "twins.py").write_text(TWINS)
    return tmp_path / "twins.py"


def words_of(data: Path, project: Path, *more: str) -> list[str]:
    files = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    return [*files, "--data", str(data), "--project", str(project), *SIZES, *more]


# ------------------------------------------------------------------------------------------------- what a plugin can do


def test_entries_are_known_to_dicts_and_schema_while_they_are_loaded_and_no_longer(twins: Path):
    (twins.parent / "hyp.yaml").write_text("box_loss: my_giou\nobj_loss: my_bce\nassigner: mine\n")
    with loaded([str(twins)]):
        hyp = load_hyp(twins.parent / "hyp.yaml", (), SEAMS)
        assert {"my_giou"} <= BOX_LOSSES.keys() and {"my_bce"} <= CLS_LOSSES.keys() and {"Gate"} <= BLOCKS.keys()
        assert (hyp.box_loss.name, hyp.obj_loss.name, hyp.assigner.name) == ("my_giou", "my_bce", "mine")
    with pytest.raises(ConfigError, match=r"hyp.yaml:1: box_loss: unknown name 'my_giou' \(nearest: 'giou'\)"):
        load_hyp(twins.parent / "hyp.yaml", (), SEAMS)


def test_a_file_that_is_loaded_twice_is_loaded_once(twins: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(twins.parent)
    with loaded([str(twins), "./twins.py"]):
        first = BOX_LOSSES["my_giou"]
        with loaded(["twins.py"]):
            assert BOX_LOSSES["my_giou"] is first
        assert BOX_LOSSES["my_giou"] is first


def test_an_edited_file_is_read_anew_and_nothing_is_written_beside_it(tmp_path: Path):
    for factor in ("2", "3"):  # of one size, within one second: a bytecode cache would not see the change
        (tmp_path / "my.py").write_text(f"BOX_LOSSES = {{'mine': lambda a, b: (a - b).sum(1) * {factor}}}\n")
        with loaded([str(tmp_path / "my.py")]):
            assert BOX_LOSSES["mine"](torch.ones(1, 4), torch.zeros(1, 4)).item() == 4 * float(factor)
    assert [path.name for path in tmp_path.iterdir()] == ["my.py"]


def test_a_run_with_twins_of_our_functions_is_our_run_to_the_bit(tiny_data: Path, tmp_path: Path, twins: Path):
    ours = run_training(tiny_config(tiny_data, tmp_path / "ours", "--epochs", "1", "--set", "box_loss=giou"))
    chosen = ["box_loss=my_giou", "assigner=mine", "obj_loss=my_bce", "cls_loss=my_bce"]
    words = words_of(tiny_data, tmp_path / "theirs", "--plugin", str(twins), "--set", *chosen)
    assert train_main([*words, "--workers", "2"]) == 0
    assert (tmp_path / "theirs/exp/results.csv").read_bytes() == (ours.folder / "results.csv").read_bytes()
    stored = load_checkpoint(tmp_path / "theirs/exp/weights/last.pt")["config"]
    assert stored["train"]["plugin"] == [str(twins)]


def test_an_assigner_that_matches_nothing_leaves_every_target_unmatched(tiny_data: Path, tmp_path: Path):
    (tmp_path / "none.py").write_text(
        "from yolo_lite.structures import Matches\n"
        "def nothing(objects, grid, anchor_t):\n"
        "    none = objects.label.new_zeros(0)\n"
        "    return Matches(none, none, none, none.float())\n"
        "ASSIGNERS = {'nothing': nothing}\n"
    )
    words = words_of(tiny_data, tmp_path, "--plugin", str(tmp_path / "none.py"), "--set", "assigner=nothing")
    assert train_main(words) == 0
    (row,) = rows_of(tmp_path / "exp")
    assert float(row["metrics/unmatched_targets"]) == 1
    assert float(row["train/box_loss"]) == float(row["val/cls_loss"]) == 0 < float(row["train/obj_loss"])


def test_a_plugin_loss_has_its_defaults_or_the_parameters_that_are_given(tmp_path: Path):
    (tmp_path / "my.py").write_text(
        "BOX_LOSSES = {'warmup': lambda a, b, *, epochs=7.0: a[:, 0] * epochs,\n"
        "              'focal': lambda a, b, *, gamma=5.0, unit=None: a[:, 0] * gamma * unit}\n"
        "CLS_LOSSES = {'label': lambda x, y, positive_weight, *, smoothing=3.0: x * smoothing * positive_weight}\n"
    )
    one = torch.ones(1, 4)
    with loaded([str(tmp_path / "my.py")]):
        assert BoxLoss("warmup")(one, one).item() == 7 and BoxLoss("warmup", epochs=3.0)(one, one).item() == 3
        assert BoxLoss("focal")(one, one, unit=2.0).item() == 10
        assert binary_loss(Choice(name="label"), 2.0)(one, one)[0, 0].item() == 6
        (tmp_path / "hyp.yaml").write_text("box_loss: {warmup: {epoch: 3.0}}\n")
        with pytest.raises(ConfigError, match=r"box_loss.warmup.epoch: unknown parameter \(nearest: 'epochs'\)"):
            load_hyp(tmp_path / "hyp.yaml", (), SEAMS)


def test_the_parameters_of_a_plugin_are_checked_by_their_annotations_or_their_defaults(tmp_path: Path):
    (tmp_path / "my.py").write_text(
        "from torch import Tensor\n"
        "def f(a, b, *, floor=1e-3, steps=2, sizes: tuple[float, ...] = (), weight: Tensor | None = None): ...\n"
        "BOX_LOSSES = {'my': f}\n"
    )

    def read(text: str) -> Hyp:
        (tmp_path / "hyp.yaml").write_text(f"box_loss: {{my: {{{text}}}}}\n")
        return load_hyp(tmp_path / "hyp.yaml", (), SEAMS)

    with loaded([str(tmp_path / "my.py")]):
        assert read("floor: 1, sizes: [1, 2.5]").box_loss.parameters == {"floor": 1.0, "sizes": (1.0, 2.5)}
        for text, words in [
            ("floor: abc", "box_loss.my.floor: expected a number, found 'abc'"),
            ("steps: 0.5", "box_loss.my.steps: expected a whole number, found 0.5"),
            ("sizes: [a]", "box_loss.my.sizes: expected a number, found ['a']"),
            ("weight: 2", "box_loss.my.weight: no YAML value can be"),
        ]:
            with pytest.raises(ConfigError) as refusal:
                read(text)
            assert f"hyp.yaml:1: {words}" in str(refusal.value)


def test_faster_rcnn_takes_a_plugin_loss_and_refuses_an_assigner(twins: Path):
    with loaded([str(twins)]):
        config = FasterRcnnConfig(family="faster_rcnn")
        hyp = Hyp(box_loss="my_giou", rpn_box_loss="my_giou")
        losses = task_of(config).criterion(config, hyp, torch.ones(2).numpy())
        assert not losses.box.of_coordinates
        with pytest.raises(ConfigError, match="assigner: without effect on Faster R-CNN"):
            task_of(config).criterion(config, Hyp(assigner="mine"), torch.ones(2).numpy())


def test_hyperparameters_reach_another_process_without_the_plugin(twins: Path):
    with loaded([str(twins)]):
        content = pickle.dumps(Hyp(box_loss="my_giou"))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).box_loss.name)"
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert done.stdout.split() == [b"my_giou"]


# --------------------------------------------------------------------------------------------------------------- blocks

BLOCKS_PY = """\
import torch
from torch import nn


class Wide(nn.Module):
    def __init__(self, in_channels, out_channels, dilation: int = 1, activation=nn.ReLU):
        super().__init__()
        self.given = (in_channels, out_channels, dilation, type(activation()))
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        return self.conv(x)


class Deep(Wide):
    def __init__(self, in_channels: int, out_channels: int, repeats: int):
        super().__init__(in_channels, out_channels)
        self.repeats = repeats


class Same(nn.Module):
    def __init__(self, in_channels: int, offset: float = 0.0):
        super().__init__()
        self.given = (in_channels, offset)

    def forward(self, x):
        return x


class Doubled(Same):
    def forward(self, x):
        return torch.cat((x, x), 1)


class Several(Same):
    def forward(self, x):
        return x, x


BLOCKS = {block.__name__: block for block in (Wide, Deep, Same, Doubled, Several)}
"""


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "blocks.py").write_text(BLOCKS_PY)
    with loaded([str(tmp_path / "blocks.py")]):
        yield


def model_with(row: list[object]) -> ModelConfig:
    """A network of three rows with a multiple of 0.5 for width and depth; the second row is given."""
    return ModelConfig(
        **{"nc": 2, "anchors": 1, "width_multiple": 0.5, "depth_multiple": 0.5, "activation": "GELU"},
        backbone=[[-1, 1, "Conv", [16, 3, 2]], row],
        head=[[[1], 1, "Detect", []]],
    )


def test_a_block_is_given_the_parameters_it_names(blocks: None):
    def built(*row: object) -> tuple[nn.Module, int]:
        layer = build_layers(model_with([-1, *row]))[1]
        return layer.module, layer.out_channels

    module, width = built(1, "Wide", [64])
    assert (module.given, width) == ((8, 32, 1, nn.GELU), 32)
    module, _ = built(4, "Wide", [64, 3])
    assert [block.given for block in module] == [(8, 32, 3, nn.GELU), (32, 32, 3, nn.GELU)]
    module, width = built(6, "Deep", [64])
    assert (module.repeats, width) == (3, 32)
    module, width = built(1, "Same", [-0.5])
    assert (module.given, width) == ((8, -0.5), 8)
    module, _ = built(4, "Same", [])
    assert len(module) == 2 and module[0] is not module[1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["Wide", []], "Wide takes [out_channels, dilation], found 0 arguments"),
        (["Wide", [8, 1, 1]], "Wide takes [out_channels, dilation], found 3 arguments"),
        (["Wide", [8, "x"]], "dilation: expected a whole number, found 'x'"),
        (["Wide", [0]], "out_channels: expected more than 0, found 0"),
        (["Doubled", []], "expected a map [B, 8, H, W] to come out, found [1, 16, 128, 128]"),
        (["Several", []], "expected a map [B, 8, H, W] to come out, found tuple"),
        (["Wid", [8]], "unknown module 'Wid' (nearest: 'Wide')"),
    ],
)
def test_a_row_that_does_not_fit_the_block_of_a_plugin_is_named(blocks: None, row: list[object], words: str):
    with pytest.raises(ValueError) as refusal:
        Detector(model_with([-1, 1, *row]))
    assert words in str(refusal.value) and f"{row[0]}" in str(refusal.value)


def test_a_model_with_the_blocks_of_a_plugin_trains_and_validates(tiny_data: Path, tmp_path: Path, twins: Path):
    (tmp_path / "model.yaml").write_text(
        "nc: 3\nanchors: 2\nwidth_multiple: 0.5\nbackbone:\n"
        "  - [-1, 1, Conv, [16, 3, 2]]\n  - [-1, 1, PlainConv, [32, 3, 2, 1]]\n  - [-1, 2, Gate, [8]]\n"
        "head:\n  - [[0, 2], 1, Detect, [nc, anchors]]\n"
    )
    cfg = ["--cfg", str(tmp_path / "model.yaml")]
    assert train_main(words_of(tiny_data, tmp_path, *cfg, "--plugin", str(twins))) == 0
    weights = str(tmp_path / "exp/weights/best.pt")
    names = [name for name in load_checkpoint(weights)["ema"] if "excite.weight" in name]
    assert names == ["layers.2.0.excite.weight", "layers.2.1.excite.weight"]
    words = ["--weights", weights, "--device", "cpu", "--workers", "0", "--project", str(tmp_path / "val")]
    assert val_main([*words, "--plugin", str(twins)]) == 0
    figures, (row,) = json.loads((tmp_path / "val/exp/metrics.json").read_text()), rows_of(tmp_path / "exp")
    assert figures["losses"]["obj_loss"] == pytest.approx(float(row["val/obj_loss"]), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- refusals

FUNCTION = "def f(a, b, *, c=1): return a\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "",
            ["brings nothing, expected a dict with entries: BLOCKS, ACTIVATIONS, HEADS, CRITERIA, ASSIGNERS"],
        ),
        ("box_losses = {'my': len}", ["brings nothing"]),
        ("BOX_LOSSES = {}", ["BOX_LOSSES: expected a dict from names to functions or classes, found {}"]),
        ("BOX_LOSSES = [1]", ["BOX_LOSSES: expected a dict from names to functions or classes, found [1]"]),
        ("BOX_LOSES = {'my': len}", ["unknown dict 'BOX_LOSES' (nearest: 'BOX_LOSSES')"]),
        (
            FUNCTION + "LOSSES = {'red': 1}\nASSIGNERS = {'my': lambda a, b: a}",
            ["unknown dict 'LOSSES' (nearest: '", "begin its name with _ if it is none of them"],
        ),
        ("COLOURS = {'red': 1}\nfrom yolo_lite.loss import BOX_LOSSES as OURS", ["brings nothing"]),
        (
            "from yolo_lite.loss import BOX_LOSSES",
            ["BOX_LOSSES: expected a dict of the plugin's own, found yolo_lite's"],
        ),
        (FUNCTION + "BOX_LOSSES = {'giou': f}", ["BOX_LOSSES['giou']: the name is taken"]),
        (FUNCTION + "BOX_LOSSES = {7: f}", ["BOX_LOSSES[7]: expected a name that YAML reads as a word", "found 7"]),
        (FUNCTION + "BOX_LOSSES = {'my loss': f}", ["BOX_LOSSES['my loss']: expected a name that YAML reads"]),
        (FUNCTION + "BOX_LOSSES = {'null': f}", ["BOX_LOSSES['null']: expected a name that YAML reads"]),
        ("BOX_LOSSES = {'my': 'giou'}", ["BOX_LOSSES['my']: expected a function or a class, found 'giou'"]),
        (
            "BOX_LOSSES = {'my': lambda a: a}",
            ["BOX_LOSSES['my']: expected (predicted, target, ...), found (a): too many positional arguments"],
        ),
        (
            "BOX_LOSSES = {'my': lambda a, b, *, c: a}",
            ["BOX_LOSSES['my']: expected (predicted, target, ...), found (a, b, *, c): missing a required", "'c'"],
        ),
        (
            "BOX_LOSSES = {'my': max}",
            ["BOX_LOSSES['my']: its signature cannot be read (no signature found for builtin"],
        ),
        ("def f(a: Nothing, b): pass\nf.__annotations__ = {'a': 'Nothing'}\nBOX_LOSSES = {'my': f}", [":1: NameError"]),
        (
            "def f(a: 'Nothing', b): pass\nBOX_LOSSES = {'my': f}",
            ["BOX_LOSSES['my']: its signature cannot be read (name 'Nothing' is not defined)"],
        ),
        (
            FUNCTION + "CLS_LOSSES = {'my': f}",
            ["CLS_LOSSES['my']: expected (logits, target, positive_weight, ...), found (a, b, *, c=1): "],
        ),
        ("CLS_LOSSES = {'bce': lambda a, b, positive_weight: a}", ["CLS_LOSSES['bce']: the name is taken"]),
        (
            "ASSIGNERS = {'my': lambda a: a}",
            ["ASSIGNERS['my']: expected (objects, grid, ...), found (a)"],
        ),
        ("ASSIGNERS = {'anchor_ratio': lambda a, b: a}", ["ASSIGNERS['anchor_ratio']: the name is taken"]),
        (
            "class My:\n    def __init__(self, c1, c2): ...\nBLOCKS = {'My': My}",
            ["BLOCKS['My']: expected (in_channels, ...), found (c1, c2): got an unexpected keyword argument"],
        ),
        ("from torch import nn\nBLOCKS = {'Id': nn.Identity}", ["BLOCKS['Id']: expected (in_channels, ...), found ("]),
        ("BLOCKS = {'Conv': lambda in_channels: 1}", ["BLOCKS['Conv']: the name is taken"]),
        ("HEADS = {'my': lambda channels: 1}", ["HEADS['my']: expected a subclass of Head, found <function"]),
        ("BACKBONES = {'my': lambda: 1}", ["BACKBONES['my']: expected a Backbone, found <function"]),
        ("x = 1\n\nBOX_LOSSES = {'my': 1 / 0}", ["my.py:3: ZeroDivisionError (division by zero)"]),
        ("def f():\n    raise KeyError('a')\n\nf()", ["my.py:2: KeyError ('a')"]),
        ("x = 1\ny = (", ["my.py:2: SyntaxError ('(' was never closed"]),
        ("import json\njson.loads('{')", ["my.py:2: JSONDecodeError"]),
        ("import nothing_of_the_kind", ["my.py:1: ModuleNotFoundError (No module named 'nothing_of_the_kind')"]),
        ("raise SystemExit(3)", ["my.py:1: SystemExit (3)"]),
        ("from yolo_lite.config.errors import ConfigError\nraise ConfigError('no')", ["my.py:2: ConfigError (no)"]),
    ],
)
def test_an_unusable_plugin_is_refused_with_file_key_and_what_was_expected(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "my.py"
    path.write_text(text + "\n")
    assert train_main(["--cfg", "nowhere.yaml", "--plugin", str(path), "--project", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert [word for word in words if word not in said] == []
    assert all(line.startswith(f"error: --plugin {path}") for line in said.splitlines())
    assert [entry.name for entry in tmp_path.iterdir()] == ["my.py"]


@pytest.mark.parametrize(("name", "words"), [("nowhere.py", "no such file"), (".", "a folder")])
def test_a_plugin_that_is_no_file_is_refused_by_every_command(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    vary = ["--vary", "box_loss=ciou,giou"]
    for command, more in [("train", []), ("val", ["--weights", "a.pt"]), ("compare", vary)]:
        assert main([command, "--plugin", name, *more]) == 2
        expected = f"error: --plugin {name}: {words}, expected a Python file (looked in {tmp_path})\n"
        assert capsys.readouterr().err == expected


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path):
    (tmp_path / "my.py").write_text("BOX_LOSSES = {'giou': len, 'my': 3}\nASIGNERS = {}\n")
    with pytest.raises(ConfigError) as refusal, loaded([str(tmp_path / "my.py")]):
        pass
    assert len(str(refusal.value).splitlines()) == 3


def test_a_name_that_another_plugin_has_is_taken_and_the_first_plugin_leaves_no_trace(twins: Path):
    (twins.parent / "other.py").write_text(TWINS)
    paths = [str(twins), str(twins.parent / "other.py")]
    with pytest.raises(ConfigError, match=r"other.py: BOX_LOSSES\['my_giou'\]: the name is taken"), loaded(paths):
        pass
    assert "my_giou" not in BOX_LOSSES


# ------------------------------------------------------------------------------------------ only where the user says so


@pytest.fixture(scope="module")
def unfinished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin that notes that it was executed, beside its run that was interrupted after one of two epochs.

    Tests only read it.
    """
    folder = tmp_path_factory.mktemp("unfinished")
    note = f"open({str(folder / 'executed')!r}, 'a').write('x')\n"
    (folder / "twins.py").write_text(TWINS + note)
    with pytest.MonkeyPatch.context() as patch:

        def stop_after_the_first_epoch(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("yolo_lite.engine.train.say", stop_after_the_first_epoch)
        chosen = ["--plugin", str(folder / "twins.py"), "--set", "box_loss=my_giou", "assigner=mine"]
        assert train_main(words_of(tiny_data, folder, *chosen, "--epochs", "2")) == 130
    return folder


def test_a_checkpoint_never_executes_the_file_it_names_and_says_which_to_give(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
):
    (unfinished / "executed").unlink(missing_ok=True)
    last, plugin = unfinished / "exp/weights/last.pt", unfinished / "twins.py"
    cpu = ["--device", "cpu", "--workers", "0"]
    for command, words in [(val_main, ["--weights", str(last)]), (train_main, ["--resume", str(last)])]:
        assert command([*words, *cpu]) == 2
        said = capsys.readouterr().err.splitlines()
        assert f"error: {last} (config): hyp.box_loss: unknown name 'my_giou' (nearest: 'giou')" in said
        assert said[-1].endswith(f"executed only where you give it again: --plugin {plugin}")
    assert not (unfinished / "executed").exists()
    assert load_checkpoint(last)["config"]["train"]["plugin"] == [str(plugin)]


@pytest.mark.slow
def test_a_resumed_run_takes_the_plugin_that_is_given_and_ends_as_if_nothing_happened(
    unfinished: Path, tiny_data: Path, tmp_path: Path, twins: Path
):
    shutil.copytree(unfinished / "exp", tmp_path / "copy/exp")
    last = tmp_path / "copy/exp/weights/last.pt"
    moved = tmp_path / "moved.py"
    moved.write_text(TWINS)
    assert train_main(["--resume", str(last), "--plugin", str(moved)]) == 0
    chosen = ["--plugin", str(twins), "--set", "box_loss=my_giou", "assigner=mine", "--epochs", "2"]
    assert train_main(words_of(tiny_data, tmp_path, *chosen)) == 0
    assert (last.parents[1] / "results.csv").read_bytes() == (tmp_path / "exp/results.csv").read_bytes()
    assert load_checkpoint(last)["config"]["train"]["plugin"] == [str(moved)]


def test_a_run_that_uses_nothing_of_its_plugin_validates_without_it(tiny_run: Path, twins: Path):
    plain = load_checkpoint(tiny_run / "weights/last.pt")["config"]
    plain["train"]["plugin"] = [str(twins)]
    assert load_run_config(plain, "last.pt").train.plugin == (str(twins),)
    plain["hyp"]["lr0"] = -1.0
    with pytest.raises(ConfigError) as refusal:
        load_run_config(plain, "last.pt")
    assert "--plugin" not in str(refusal.value)


@pytest.mark.slow
def test_comparisons_vary_what_a_plugin_brings(tiny_data: Path, tmp_path: Path, twins: Path):
    words = words_of(tiny_data, tmp_path, "--plugin", str(twins), "--vary", "box_loss=giou,my_giou", "--seeds", "1")
    words.remove("--no-figures")  # its runs draw none
    assert main(["compare", *words]) == 0
    first, second = json.loads((tmp_path / "exp/comparison.json").read_text())["runs"].values()
    assert first[0]["metrics"] == second[0]["metrics"]
    assert main(["compare", *words]) == 0  # finished: its folders are read, by the same plugin


def test_the_example_of_the_pages_is_a_plugin_whose_loss_and_block_work(tmp_path: Path):
    text = (REPOSITORY / "docs/extending.md").read_text().split("```python\n# my.py\n")[1].split("```")[0]
    (tmp_path / "my.py").write_text(text)
    predicted = torch.tensor([[0.0, 0, 2, 3]], requires_grad=True)
    with loaded([str(tmp_path / "my.py")]):
        loss = BoxLoss("log_ratio")(predicted, torch.tensor([[5.0, 5, 4, 3]]))
        assert loss.tolist() == pytest.approx([5 / 4 + 5 / 3 + math.log(2)])
        assert Detector(model_with([-1, 1, "Gate", [4]]))(torch.zeros(1, 3, 64, 64)).slots.shape == (1, 32 * 32, 7)


def test_all_dicts_that_hyp_or_rows_name_can_be_added_to():
    assert {name: seam.entries for name, seam in SEAMS.items()} == {
        **{"BLOCKS": BLOCKS, "ACTIVATIONS": ACTIVATIONS, "HEADS": HEADS, "BACKBONES": BACKBONES, "TASKS": TASKS},
        **{"ASSIGNERS": ASSIGNERS, "CRITERIA": CRITERIA, "FORMATS": FORMATS, "AUGMENTATIONS": AUGMENTATIONS},
        **{"BOX_LOSSES": BOX_LOSSES, "CLS_LOSSES": CLS_LOSSES, "MASK_LOSSES": MASK_LOSSES, "LOGGERS": LOGGERS},
    }


def test_the_list_of_losses_has_those_of_a_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "my.py").write_text("def mine(predicted, target, *, gap=3.0): ...\nBOX_LOSSES = {'mine': mine}\n")
    assert main(["losses", "--plugin", str(tmp_path / "my.py")]) == 0
    assert "  mine           {gap: 3.0}\n" in capsys.readouterr().out


def test_a_head_that_has_no_criterion_or_no_task_is_told_in_one_line(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plugin, model = tmp_path / "my.py", tmp_path / "model.yaml"
    model.write_text("nc: 3\nanchors: 2\nbackbone: [[-1, 1, Conv, [8, 3, 8]]]\nhead: [[[0], 1, My, [nc, anchors]]]\n")
    words = [
        "--cfg",
        str(model),
        "--data",
        str(tiny_data),
        "--plugin",
        str(plugin),
        "--project",
        str(tmp_path / "runs"),
    ]
    head = "from yolo_lite.model.heads import Detect\nclass My(Detect): {}\nHEADS = {{'My': My}}\n"
    for body, said in (
        ("pass", "CRITERIA: expected an entry 'My', as HEADS has one"),
        ("task = 'detct'", "task: unknown name 'detct' (nearest: 'detect')"),
    ):
        plugin.write_text(head.format(body))
        assert train_main([*words, "--epochs", "1", "--imgsz", "64", "--workers", "0", "--device", "cpu"]) == 2
        assert said in capsys.readouterr().err


def test_a_plugin_may_bring_a_backbone(tmp_path: Path):
    plugin = tmp_path / "my.py"
    plugin.write_text(
        "from yolo_lite.model.backbones import Backbone\n"
        "BACKBONES = {'resnet101': Backbone('resnet', stages=5, levels=4)}\n"
    )
    with loaded(plugin):
        config = FasterRcnnConfig.model_validate(
            {"family": "faster_rcnn", "backbone": "resnet101", "nc": 2}, context=SEAMS
        )
        assert sum(isinstance(one, nn.Conv2d) for one in build_faster_rcnn(config).modules()) > 100
