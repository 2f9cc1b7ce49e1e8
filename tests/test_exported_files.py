"""Exported files that were damaged, or whose metadata or outputs are not what they should be: one line."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolo_lite import load
from yolo_lite.config.errors import CheckpointError
from yolo_lite.deploy.exported import are_outputs, load_exported
from yolo_lite.deploy.facts import Facts, read_facts
from yolo_lite.deploy.formats import EXPORT_FORMATS, _read_onnx, seal_archive, seal_onnx
from yolo_lite.engine.archive import read_archive

FACTS = Facts(("cat", "dog"), 3, 32, 32, 64, 1, (), "fp32", False)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore::DeprecationWarning")


def has(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


needs_onnx = pytest.mark.skipif(not (has("onnx") and has("onnxruntime")), reason="of the extra export")


class Network(nn.Module):
    """A file's network: predictions of two classes."""

    def __init__(self, columns: int = 7) -> None:
        super().__init__()
        self.pool, self.weight = nn.AdaptiveAvgPool2d(4), nn.Parameter(torch.arange(3.0 * columns).reshape(columns, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(images).flatten(2).transpose(1, 2) @ self.weight.T


def written(form: str, folder: Path, network: nn.Module | None = None, facts: Facts = FACTS) -> Path:
    """A file as ``export`` writes one."""
    kind = EXPORT_FORMATS[form]
    path = folder / f"model{kind.suffix}"
    kind.write((network or Network()).eval(), torch.zeros(1, 3, 64, 64), facts, path)
    assert kind.seal
    kind.seal(path)
    return path


FORMATS = [pytest.param("onnx", marks=needs_onnx), "torchscript", "torch_export"]


# ------------------------------------------------------------------------------------------------------------- damage


def verified(path: Path) -> object:
    return _read_onnx(path)[0] if path.suffix == ".onnx" else read_archive(path, may_compress=True)


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_refused_or_gives_what_it_gave(form: str, tmp_path: Path):
    path, dice = written(form, tmp_path), random.Random(14)
    images = torch.rand(1, 3, 64, 64)
    expected, whole = load_exported(path)[0](images)[0], path.read_bytes()
    loaded = refused = 0
    for number in range(400):
        damaged, place = bytearray(whole), dice.randrange(len(whole))
        if number % 3 == 0:
            damaged[place] ^= 1 << dice.randrange(8)
        elif number % 3 == 1:
            del damaged[place:]
        else:
            damaged[place // 512 * 512 : place // 512 * 512 + 512] = bytes(len(damaged[place // 512 * 512 :][:512]))
        path.write_bytes(damaged)
        try:
            verified(path)
            if bytes(damaged) == whole or loaded == 5:  # a whole load takes long, some are enough
                continue
            loaded += 1
            assert torch.equal(load_exported(path)[0](images)[0], expected)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 200
    middle = len(whole) // 2  # in a record of weights
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(CheckpointError, match=r"model\.\w+: damaged.*; export it again$"):
        load_exported(path)


@needs_onnx
def test_an_onnx_file_that_was_cut_or_changed_anywhere_is_refused(tmp_path: Path):
    path = written("onnx", tmp_path)
    whole = path.read_bytes()
    expected = load_exported(path)[0].facts
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        with pytest.raises(CheckpointError, match="damaged"):
            load_exported(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert load_exported(path)[0].facts == expected and place > len(whole) - 80
        except CheckpointError as error:
            assert "damaged" in str(error)


@needs_onnx
def test_older_files_without_a_digest_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "old.onnx"
    with monkeypatch.context() as patch:
        patch.setattr("yolo_lite.deploy.formats.SEALED", "other")
        EXPORT_FORMATS["onnx"].write(Network().eval(), torch.zeros(1, 3, 64, 64), FACTS, path)
    assert load_exported(path)[0].facts == FACTS
    torch.jit.save(torch.jit.trace(Network(), torch.zeros(1, 3, 64, 64)), tmp_path / "old.torchscript", FACTS.strings())
    assert load_exported(tmp_path / "old.torchscript")[0].facts == FACTS


def test_only_a_whole_file_is_sealed_and_its_bytes_stay_in_front(tmp_path: Path):
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    seal_archive(tmp_path / "a.pt")
    after = (tmp_path / "a.pt").read_bytes()
    assert after.startswith(before[:-2]) and torch.load(tmp_path / "a.pt")["a"].tolist() == [1, 1, 1]
    (tmp_path / "a.onnx").write_bytes(b"abc")
    seal_onnx(tmp_path / "a.onnx")
    assert _read_onnx(tmp_path / "a.onnx")[1] and len((tmp_path / "a.onnx").read_bytes()) == 3 + 78


# ----------------------------------------------------------------------------------------------------------- metadata

HOSTILE: list[Any] = [None, True, -1, 0, 1, 3, 10**5, 2**63, 10**400, 1.5, 1e308, "", "x", "x" * 2000, "a\nb", [], {}]
HOSTILE += [[1], ["a", "a"], ["\ud800"], [""], {"a": 1}, ["batch"], ["batch", "size"], ["depth"], [[["a"]]], "int8"]
TEXTS = ["", "{", "NaN", "Infinity", "-Infinity", "[" * 5000, "1" * 6000, '"\\ud800"', "\x00", "nul", "1e999", "'a'"]
OUTPUTS = [(), (torch.zeros(1, 16, 7),), (torch.zeros(1, 16, 6),), (torch.zeros(16, 7),), (torch.zeros(2, 16, 7),)]
OUTPUTS += [(torch.zeros(1, 16, 7, dtype=torch.int64),), (torch.zeros(()),), ("text",), (torch.zeros(1, 0, 7),)]
OUTPUTS += [(torch.full((1, 16, 7), math.nan),), (torch.full((1, 16, 7), 1e30),)]


def detections(label: int = 0, count: int = 1, **changes: Any) -> tuple[Any, ...]:
    whole = torch.int64
    found = {"boxes": torch.ones(1, 5, 4), "scores": torch.ones(1, 5), "labels": torch.full((1, 5), label, dtype=whole)}
    return tuple({**found, "counts": torch.tensor([count]), **changes}.values())


WITH_NMS = [detections(), detections(label=2), detections(label=-1), detections(count=6), detections(count=-1)]
WITH_NMS += [detections(counts=torch.zeros(2, dtype=torch.int64)), detections(boxes=torch.ones(1, 5, 3))]
WITH_NMS += [detections(scores=torch.ones(5)), detections(labels=torch.ones(1, 5))]


def test_outputs_that_are_those_of_the_metadata():
    good = [are_outputs(outputs, 1, False, 2) for outputs in OUTPUTS]
    assert [number for number, is_good in enumerate(good) if is_good] == [1, 8, 9, 10]
    assert [are_outputs(outputs, 1, True, 2) for outputs in WITH_NMS] == [True] + [False] * 8


def test_a_thousand_made_up_files_are_refused_in_a_line_or_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, dice, ends = tmp_path / "model.torchscript", random.Random(14), {"refused": 0, "predicted": 0}
    path.write_bytes(b"")
    image = np.zeros((40, 60, 3), np.uint8)
    for number in range(1000):
        strings, name = FACTS.strings(), dice.choice(Facts._fields)
        kind = dice.randrange(6)
        if kind == 0:
            del strings[name]
        elif kind == 1:
            strings[name] = dice.choice(TEXTS)
        elif kind <= 4:
            strings[name] = json.dumps(dice.choice(HOSTILE))
        outputs = dice.choice(OUTPUTS + WITH_NMS)

        def run(images: torch.Tensor, outputs: tuple[Any, ...] = outputs, fails: bool = number % 50 == 0):
            if fails:
                raise RuntimeError("a line\nand more")
            return outputs

        form = EXPORT_FORMATS["torchscript"]._replace(load=lambda _, strings=strings, run=run: (strings, run))
        monkeypatch.setitem(EXPORT_FORMATS, "torchscript", form)
        try:
            load(path).predict(image)
            ends["predicted"] += 1
        except CheckpointError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{path}: ") and len(str(error)) < 1500, strings
            ends["refused"] += 1
    assert ends["refused"] > 500 and ends["predicted"] > 20, ends


READ: dict[str, tuple[dict[str, str], str]] = {
    "missing": ({"names": ""}, "expected metadata names, channels, stride"),
    "type": ({"stride": '"32"'}, "metadata stride: expected a whole number, found '32'"),
    "range": ({"imgsz": "-64"}, "metadata imgsz: expected 1 or more, found -64"),
    "huge": ({"batch": "9" * 400}, "metadata batch: "),
    "nan": ({"white": "NaN"}, "metadata white: not JSON"),
    "names": ({"names": '["a", 1]'}, "metadata names.1: expected text, found 1"),
    "twice": ({"names": '["a", "a"]'}, "metadata: names: expected each name once"),
    "multiple": ({"imgsz": "65"}, "expected multiples of the stride 32"),
    "dynamic": ({"dynamic": '["depth"]'}, "metadata dynamic.0: expected 'batch' or 'size', found 'depth'"),
    "nms": ({"nms": "1"}, "metadata nms: expected true or false, found 1"),
}


@pytest.mark.parametrize("kind", READ)
def test_the_line_names_the_fact_what_was_found_and_expected(kind: str):
    changes, said = READ[kind]
    with pytest.raises(CheckpointError) as error:
        read_facts({**FACTS.strings(), **changes})
    assert said in str(error.value)


@needs_onnx
def test_an_onnx_file_whose_outputs_are_others_than_its_facts_say_is_refused(tmp_path: Path):
    path = written("onnx", tmp_path, Network(columns=9))
    with pytest.raises(CheckpointError, match="expected outputs as its metadata says, those of 2 classes without NMS"):
        load(path).predict(np.zeros((40, 60, 3), np.uint8))
    path = written("onnx", tmp_path, facts=FACTS._replace(channels=4))
    with pytest.raises(CheckpointError, match=r"cannot be run on images \[1, 4, 64, 64\]"):
        load_exported(path)[0](torch.zeros(1, 4, 64, 64))
