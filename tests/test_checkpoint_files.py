"""Checkpoints that were damaged, made up or meant to harm: one line, and never other content than was written."""

from __future__ import annotations

import io
import math
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, tiny_config

from yolo_lite.cli.main import main, train_main, val_main
from yolo_lite.config.errors import CheckpointError, UserError
from yolo_lite.engine.archive import read_archive, record_of
from yolo_lite.engine.checkpoint import (
    KNOWN_NAMES,
    check_resumable,
    config_of,
    load_checkpoint,
    load_trained,
    save_checkpoint,
)
from yolo_lite.engine.checkpoint_fields import built_within, load_fitting
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.plain_pickle import check_pickle
from yolo_lite.engine.record import with_rows
from yolo_lite.engine.start import start_from
from yolo_lite.engine.state import Resume, initial_state
from yolo_lite.engine.tasks import task_of

TINY = """
nc: 5
anchors: 3
backbone:
  - [-1, 1, Conv, [8, 3, 8]]
  - [-1, 1, Conv, [8, 3, 2]]
head:
  - [[0, 1], 1, Detect, [nc, anchors]]
"""
SPLIT: dict[str, Any] = {"images": 4, "objects": [1, 2, 0, 0, 1], "sizes": "a", "labels": "b", "boxes": "c"}
SPLIT["each"] = torch.zeros(4, 2, dtype=torch.int64)


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last.pt of a tiny model after one step."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.yaml").write_text(TINY)
    config = tiny_config(tiny_data, folder, "--cfg", str(folder / "tiny.yaml"), "--epochs", "3")
    state = state_of(config, None)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.epoch, state.step, state.best_epoch, state.best_fitness, state.row = (
        1,
        3,
        1,
        0.25,
        {"metrics/mAP50": math.nan},
    )
    names = list(config.data.class_names)
    data = {"names": names, "train": SPLIT, "val": SPLIT, "stated_names": names}
    path = folder / "exp/weights/last.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, {"config": config.plain(), "data": data, **state.everything()})
    return path


def state_of(config: Any, resume: Resume | None) -> Any:
    """The state of a run, as ``prepare`` makes it."""
    task = task_of(config.model)
    with built_within(resume.checkpoint["model"] if resume else None, "last.pt"):
        model = task.build(config.model)
    criterion = task.criterion(config.model, config.hyp, np.zeros(config.model.nc))
    return initial_state(model, criterion, config.hyp, choose_compute("cpu", "fp32", False), resume)


def resumed(path: Path) -> Any:
    content = load_checkpoint(path)
    check_resumable(content, path)
    content = with_rows(content, path.parent)
    return state_of(config_of(content, path), Resume(path.parent, content))


def validated(path: Path) -> Any:
    task, _, config, content = load_trained(path)
    criterion = task.criterion(config.model, config.hyp, np.zeros(config.model.nc))
    load_fitting(criterion, content["losses"], f"{path}: losses")


def started(path: Path) -> Any:
    start_from(str(path), MODELS[0], ("circle", "square", "other"))


MODELS: list[Any] = []  # one that is started anew from many files
READERS: dict[str, Callable[[Path], Any]] = {"validated": validated, "resumed": resumed, "started": started}


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal to the bit."""
    if isinstance(one, torch.Tensor):
        is_tensor = isinstance(other, torch.Tensor) and (one.dtype, one.shape) == (other.dtype, other.shape)
        return is_tensor and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


# ------------------------------------------------------------------------------------------------------------ damage


def without_seal(data: bytes) -> bytes:
    """The file as an older yolo_lite wrote it."""
    comment = zipfile.ZipFile(io.BytesIO(data)).comment
    assert comment.startswith(b"sha256 ")
    return data[: -len(comment) - 2] + b"\0\0"


def damages(data: bytes, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """Endless single damages: a flipped bit, a cut, a sector of zeros."""
    while True:
        place = dice.randrange(len(data))
        changed = bytearray(data)
        changed[place] ^= 1 << dice.randrange(8)
        yield f"bit in {place}", bytes(changed)
        yield f"cut at {place}", data[:place]
        start = dice.randrange(len(data)) // 512 * 512
        yield f"sector {start}", data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :]
        near = len(data) - 1 - dice.randrange(200)  # the end, where a zip's readers begin
        yield f"cut near the end, at {near}", data[:near]
        changed = bytearray(data)
        changed[near] ^= 1 << dice.randrange(8)
        yield f"bit near the end, in {near}", bytes(changed)


def refused_or_same(path: Path, damaged: bytes, expected: Any, name: str) -> int:
    path.write_bytes(damaged)
    try:
        found = load_checkpoint(path)
    except CheckpointError as error:
        assert "\n" not in str(error) and "damaged" in str(error), name
        return 1
    assert same(found, expected), name
    return 0


@pytest.mark.parametrize("age", ["sealed", "older"])
def test_a_damaged_file_is_refused_or_holds_what_was_written(age: str, whole: Path, tmp_path: Path):
    data, expected = whole.read_bytes(), load_checkpoint(whole)
    data = data if age == "sealed" else without_seal(data)
    assert refused_or_same(tmp_path / "whole.pt", data, expected, "whole") == 0
    cases = damages(data, random.Random(14))
    refusals = sum(refused_or_same(tmp_path / "last.pt", next(cases)[1], expected, age) for _ in range(500))
    assert refusals > 400


@pytest.mark.slow
@pytest.mark.parametrize("age", ["sealed", "older"])
def test_every_byte_every_cut_and_every_sector(age: str, whole: Path, tmp_path: Path):
    data, expected = whole.read_bytes(), load_checkpoint(whole)
    data = data if age == "sealed" else without_seal(data)
    path, changed = tmp_path / "last.pt", bytearray(data)
    for place in range(len(data)):
        changed[place] ^= 1 << place * 5 % 8
        refused_or_same(path, bytes(changed), expected, f"bit {place * 5 % 8} of {place}")
        changed[place] = data[place]
        assert refused_or_same(path, data[:place], expected, f"cut at {place}")
        if place % 512 == 0:
            sector = data[:place] + bytes(len(data[place : place + 512])) + data[place + 512 :]
            refused_or_same(path, sector, expected, f"sector {place}")


def test_no_bit_of_the_directory_changes_what_an_older_file_holds(whole: Path, tmp_path: Path):
    """One of them makes a folder of a record: torch then reads nothing, and takes what its memory holds."""
    data, expected = bytearray(without_seal(whole.read_bytes())), load_checkpoint(whole)
    entry = data.index(b"PK\x01\x02", data.rindex(b"PK\x03\x04"))
    while b"archive/data/" not in data[entry : entry + 60]:
        entry = data.index(b"PK\x01\x02", entry + 4)
    for place in range(entry, entry + 60):
        for bit in range(8):
            data[place] ^= 1 << bit
            refused_or_same(tmp_path / "last.pt", bytes(data), expected, f"bit {bit} of {place - entry}")
            data[place] ^= 1 << bit


def test_every_command_refuses_a_damaged_tensor_and_says_what_may_be_used(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = bytearray(whole.read_bytes())
    weights = load_checkpoint(whole)["ema"]["layers.0.conv.weight"].numpy().tobytes()
    data[data.index(weights) + 100] ^= 64
    path = tmp_path / "last.pt"
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["epoch"] == 1  # torch alone takes it
    for command, words in {
        val_main: [["--weights", str(path)]],
        train_main: [["--weights", str(path), "--data", "shapes"], ["--resume", str(path)]],
        main: [
            ["predict", "--weights", str(path), "--source", str(REPOSITORY / "docs")],
            ["export", "--weights", str(path)],
        ],
    }.items():
        for each in words:
            assert command(each) == 2
            line = capsys.readouterr().err.strip()
            assert "\n" not in line, line
            assert f"{path}: damaged: the record " in line and "best.pt or last.pt, may be whole" in line
    assert main(["import", str(path), "-o", str(tmp_path / "out.pt")]) == 2
    assert "damaged: the record" in capsys.readouterr().err


def test_files_without_crc_as_torch_can_write_them_are_read(whole: Path, tmp_path: Path):
    content = torch.load(whole, weights_only=True)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, tmp_path / "last.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_checkpoint(tmp_path / "last.pt"), load_checkpoint(whole))


def test_a_record_that_was_exchanged_with_its_crc_breaks_the_seal(whole: Path, tmp_path: Path):
    data = bytearray(whole.read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        record = next(each for each in archive.infolist() if each.file_size == 8 * 3 * 3 * 3 * 4)
        content = bytearray(archive.read(record))
    start = data.index(content)
    content[0] ^= 1
    data[start] ^= 1
    crc = struct.pack("<I", record.CRC)
    data = data.replace(crc, struct.pack("<I", zipfile.crc32(bytes(content))))  # type: ignore[attr-defined]
    (tmp_path / "last.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match its seal"):
        load_checkpoint(tmp_path / "last.pt")


# ------------------------------------------------------------------------------------------------------------- fields


def hostile_values(dice: random.Random) -> list[Any]:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    odd = OrderedDict(a=1)
    odd.keys = 5  # type: ignore[assignment,method-assign]
    values: list[Any] = [None, True, -1, 0, 1, 7, 2**53 + 1, 2**63 - 1, -(2**63), 2**70, math.nan, math.inf, -1e308]
    values += [1e308, "", "x", "x" * 5000, "\ud800", "a\nb", [], {}, (), [1], {"a": 1}, {1: 2}, (1, 2), b"x", {1}, deep]
    values += [odd, {(1, 2): 3}, torch.tensor(3), torch.tensor([1.0, math.nan]), torch.zeros(3, 2), torch.zeros(0)]
    values += [torch.zeros(1).expand(10**9), torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64)]
    values += [torch.zeros(2, device="meta"), torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)]
    values += [torch.zeros(8).as_strided((4, 4), (1, 1)), torch.zeros(4, requires_grad=True), torch.float16]
    values += [torch.Size([1]), torch.zeros(2, dtype=torch.bfloat16), dice.random(), dice.randrange(-9, 99)]
    return values


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside a content."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, list):
        for key, each in enumerate(value):
            yield from places(each, (*path, key))


def copied(value: Any) -> Any:
    """A content whose containers are its own; tensors are shared."""
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value


def with_one_change(content: dict[str, Any], dice: random.Random) -> tuple[dict[str, Any], str]:
    """A content in which one field is gone, renamed, of another type or of another range."""
    content = copied(content)
    top = dice.choice([*content])
    found = list(places({top: content[top]}))
    path = dice.choice([(top,), found[dice.randrange(len(found))], found[dice.randrange(len(found))]])
    parent: Any = content
    for key in path[:-1]:
        parent = parent[key]
    key, kind = path[-1], dice.randrange(10)
    own = parent[key]
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[dice.choice(["other", -1, 2**62, "layers.x.y", f"{key}.x"])] = parent.pop(key)
    elif kind <= 4 and isinstance(own, torch.Tensor):
        views = [own[None], own.flatten()[:1], own.double(), own.long(), own.half(), own.reshape(-1), own * math.nan]
        parent[key] = dice.choice([*views, own.tolist(), own.to(torch.complex64), own.bool()])
    elif kind == 5 and isinstance(parent, dict):
        parent[dice.choice(["new", 5])] = dice.choice(hostile_values(dice))
    else:
        parent[key] = dice.choice(hostile_values(dice))
    return content, f"{path} {kind}"


def assert_one_line(error: UserError, name: str) -> None:
    lines = str(error).splitlines()
    assert 1 <= len(lines) <= 20 and max(map(len, lines)) < 1500, (name, str(error)[:3000])


def field_trials(whole: Path, folder: Path, count: int, seed: int) -> dict[str, int]:
    """Trials by how they ended; whatever is no UserError comes through."""
    content, dice, ends = torch.load(whole, weights_only=True), random.Random(seed), {"refused": 0, "read": 0}
    config = config_of(content, whole)
    MODELS[:] = [task_of(config.model).build(config.model)]
    path = folder / "last.pt"
    for number in range(count):
        changed, name = with_one_change(content, dice)
        torch.save(changed, path)
        for reader in READERS:
            try:
                READERS[reader](path)
                ends["read"] += 1
            except UserError as error:
                assert_one_line(error, name)
                ends["refused"] += 1
            except Exception as error:
                raise AssertionError(f"trial {number} of seed {seed}, {reader}: {name}: {error!r}") from error
    return ends


@pytest.mark.slow
def test_a_checkpoint_with_a_wrong_field_is_refused_in_a_line_or_read(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    start = time.monotonic()
    ends = field_trials(whole, tmp_path, 1000 // len(READERS) + 1, seed=14)
    assert ends["refused"] > 500 and time.monotonic() - start < 120


@pytest.mark.slow
def test_many_checkpoints_with_wrong_fields(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for seed in range(10):
        field_trials(whole, tmp_path, 1000, seed)


def test_the_commands_refuse_wrong_fields_without_a_traceback(
    whole: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    content, dice, path = torch.load(whole, weights_only=True), random.Random(4), tmp_path / "run/weights/last.pt"
    path.parent.mkdir(parents=True)
    sized = ["--imgsz", "64", "--workers", "0", "--device", "cpu"]
    short = ["--epochs", "1", "--no-figures", "--batch-size", "8", "--project", str(tmp_path / "runs")]
    for number in range(25):
        changed, name = with_one_change(content, dice)
        torch.save(changed, path)
        words = [
            ["val", "--weights", str(path), "--project", str(tmp_path / "val"), *sized],
            ["predict", "--weights", str(path), "--source", str(REPOSITORY / "docs"), "--project", str(tmp_path / "p")],
            ["export", "--weights", str(path), "--format", "torchscript", "--imgsz", "64", "--exist-ok"],
            ["train", "--weights", str(path), "--cfg", "yolo_n", "--data", str(tiny_data), *sized, *short],
            ["train", "--resume", str(path), "--device", "cpu", "--workers", "0"],
        ][number % 5]
        status = main(words)
        said = capsys.readouterr().err
        assert status in (0, 2) and "Traceback" not in said, name
        assert status == 0 or said.startswith("error: "), name


EXPECTED = {  # what is put where, and what the line says
    "epoch": (-1, "epoch: expected 0 or more, found -1"),
    "best_fitness": (math.nan, "best_fitness: expected a finite number, found nan"),
    "best_epoch": (9, "best_epoch: expected at most epoch, 1, found 9"),
    "step": (torch.tensor(3), "step: expected a whole number, found a tensor [] int64"),
    "metrics": ({"a": "b"}, "metrics.a: expected a number, found 'b'"),
    "updates": (2**60, "updates: expected 9.0072e+15 or less"),
    "ema": ([], "ema: expected"),
    "scaler": ({"scale": 0.0}, "scaler"),
    "rows": ([{"epoch": 9}], "rows: expected figures of epochs 1 to 1, found 9"),
    "source": (3, "source: expected text, found 3"),
    "data": ({}, "the field 'data.names' is missing"),
    "extra": (torch.zeros(1).expand(10**9), "'extra': expected tensors and plain data, found a tensor"),
    "tally": ({}, "the field 'tally.losses' is missing (and 4 fields more)"),
}


@pytest.mark.parametrize("field", EXPECTED)
def test_the_line_names_file_field_found_and_expected(field: str, whole: Path, tmp_path: Path):
    value, said = EXPECTED[field]
    torch.save({**torch.load(whole, weights_only=True), field: value}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "last.pt")
    assert str(error.value).startswith(f"{tmp_path / 'last.pt'}: ") and said in str(error.value)


def test_unknown_fields_of_plain_data_are_left_out_of_account(whole: Path, tmp_path: Path):
    content = torch.load(whole, weights_only=True)
    torch.save({**content, "new": [{"a": 1, "b": 0.5}]}, tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt")["new"] == [{"a": 1, "b": 0.5}]


def test_many_missing_tensors_are_a_count_and_three_names(whole: Path, tmp_path: Path):
    content = torch.load(whole, weights_only=True)
    names = [*content["ema"]]
    content["ema"] = {name: content["ema"][name] for name in names[:1]} | {"other": torch.zeros(2)}
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError) as error:
        load_trained(tmp_path / "last.pt")
    missing = f"{len(names) - 1} missing: {', '.join(names[1:4])} and {len(names) - 4} more; 1 left over: other"
    assert str(error.value).endswith(f"ema: its tensors do not fit the model of {len(names)} tensors; {missing}")


@pytest.mark.parametrize(
    "change", [{"nc": 10**9}, {"width_multiple": 1e6}, {"nc": 10**12}, {"ch": 10**9}, {"channel_multiple": 10**7}]
)
def test_a_configuration_of_terabytes_is_refused_before_it_is_built(
    change: dict[str, Any], whole: Path, tmp_path: Path
):
    content = torch.load(whole, weights_only=True)
    content["config"]["model"].update(change)
    torch.save(content, tmp_path / "last.pt")
    start = time.monotonic()
    for reader in (validated, resumed):
        with pytest.raises(UserError):
            reader(tmp_path / "last.pt")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("key", "value"), [("weight_decay", 0.1), ("eps", 1.0), ("nesterov", False), ("name", "other"), ("params", [0, 1])]
)
def test_options_of_the_optimizer_are_those_of_the_run(key: str, value: Any, whole: Path, tmp_path: Path):
    content = torch.load(whole, weights_only=True)
    group = content["optimizer"]["param_groups"][0]
    if key not in group:
        pytest.skip("of the other optimizer")
    group[key] = value
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=rf"optimizer: param_groups\.0\.{key}: expected"):
        resumed(tmp_path / "last.pt")


def test_optimizer_states_that_share_their_memory_are_refused(whole: Path, tmp_path: Path):
    content = torch.load(whole, weights_only=True)
    rows = content["optimizer"]["state"]
    name = next(name for name, value in rows[0].items() if value.ndim)
    shapes = [rows[number][name].shape for number in rows]
    one = next(number for number in rows if shapes.count(rows[number][name].shape) > 1)
    other = next(number for number in rows if number != one and rows[number][name].shape == rows[one][name].shape)
    rows[other][name] = rows[one][name]
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="expected tensors that share no memory"):
        resumed(tmp_path / "last.pt")


# -------------------------------------------------------------------------------------------------------------- bombs


def archive(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for name, content in {"version": b"3\n", "byteorder": b"little", **records}.items():
            file.writestr(f"archive/{name.replace('__', '/')}", content)
    return path


def doubled(times: int, last: bytes) -> bytes:
    """A pickle whose tuple stands for 2 ** times values."""
    program = b"\x80\x02}K\x01\x85q\x00"
    for place in range(times):
        program += b"h" + bytes([place]) + b"\x86q" + bytes([place + 1])
    return program + last


BOMBS = {
    "a tuple of tuples as key": doubled(60, b"K\x01s."),
    "lists of lists": b"\x80\x02]q\x00K\x01a"
    + b"".join(b"]q%ch%ca h%ca".replace(b" ", b"") % (n + 1, n, n) for n in range(60))
    + b".",
    "a long text again and again": b"\x80\x02]X"
    + struct.pack("<I", 10**6)
    + b"x" * 10**6
    + b"q\x00"
    + b"ah\x00" * 10**5
    + b"a.",
    "many operations": b"\x80\x02" + b"N" * 3_000_000 + b".",
    "depth": b"\x80\x02N" + b"\x85" * 100_000 + b".",
    "a circle": b"\x80\x02]q\x00h\x00a.",
    "a container filled later": b"\x80\x02]q\x00]q\x01h\x00ah\x00ah\x00K\x01a.",
    "a number of a million bits": b"\x80\x02\x8b" + struct.pack("<I", 130_000) + b"\x7f" * 130_000 + b".",
}


READ_EACH = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
from yolo_lite.config.errors import CheckpointError
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.tools.torch_file import read_torch_file
for path in sys.argv[1:]:
    for read in (load_checkpoint, read_torch_file):
        try:
            read(path)
        except CheckpointError as error:
            print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of memory to set")
def test_a_pickle_that_stands_for_more_than_it_is_gets_refused_by_both_readers_in_time(tmp_path: Path):
    files = [str(archive(tmp_path / f"{kind}.pt", program)) for kind, program in BOMBS.items()]
    words = [sys.executable, "-c", READ_EACH, *files]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2 * len(BOMBS), done.stderr[-2000:]
    assert all("refused: " in line or "damaged" in line for line in lines)


def test_shared_values_of_an_honest_pickle_pass(tmp_path: Path):
    word, pair = "x" * 100, (0.9, 0.999)
    honest = {"a": [word] * 1000, "b": dict.fromkeys(range(1000), pair), "c": [[pair, word]] * 10}
    assert check_pickle(pickle.dumps(honest, protocol=2), KNOWN_NAMES) == set()


def test_records_that_unpack_to_more_or_overlap_are_refused(tmp_path: Path):
    zeros = bytes(4 << 20)
    path = archive(tmp_path / "bomb.pt", b"\x80\x02N.", zipfile.ZIP_DEFLATED, data__0=zeros)
    with pytest.raises(CheckpointError, match="its entries are larger than the file"):
        load_checkpoint(path)
    data = bytearray(archive(tmp_path / "twice.pt", b"\x80\x02N.", data__0=b"a" * 999, data__1=b"a" * 999).read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        first, second = (file.getinfo(f"archive/data/{number}") for number in (0, 1))
    entry = data.rindex(b"archive/data/1") - 46
    data[entry + 42 : entry + 46] = struct.pack("<I", first.header_offset)  # both tell the same place
    (tmp_path / "twice.pt").write_bytes(data)
    assert second.header_offset > first.header_offset
    with pytest.raises(CheckpointError, match=r"differs from the directory|larger than the file"):
        load_checkpoint(tmp_path / "twice.pt")


def test_two_records_of_one_name_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/DATA.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="records of different names"):
        load_checkpoint(tmp_path / "two.pt")


def test_what_is_verified_is_what_is_read(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The path is opened once: a file that changes under its name between two looks cannot be mixed up."""
    data = read_archive(whole)
    assert record_of(data, "data.pkl") is not None and record_of(data, "none") is None
    (tmp_path / "last.pt").write_bytes(data)
    load = torch.load

    def replaced(file: Any, **options: Any) -> Any:
        (tmp_path / "last.pt").write_bytes(b"other")
        return load(file, **options)

    monkeypatch.setattr(torch, "load", replaced)
    assert same(load_checkpoint(tmp_path / "last.pt"), (monkeypatch.undo(), load_checkpoint(whole))[1])


def test_a_zip_that_claims_several_disks_is_damaged(whole: Path, tmp_path: Path):
    """Where that is found zipfile raises when it is only asked whether the file is a zip."""
    data = whole.read_bytes()
    end = data.rindex(b"PK\5\6")
    (tmp_path / "disks.pt").write_bytes(data[:end] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + data[end:])
    with pytest.raises(CheckpointError, match=r"disks\.pt: damaged: zipfiles that span multiple disks"):
        load_checkpoint(tmp_path / "disks.pt")
