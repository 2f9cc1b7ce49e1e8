"""Laws of importing YOLOv5's weights (nothing in them runs, every tensor has its place) and of starting from others."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import re
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SHARED, equal_states, tiny_config
from torch import nn

from yolo_lite.cli.main import main
from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.load import load_model_config
from yolo_lite.config.model import ModelConfig
from yolo_lite.engine.checkpoint import config_of, load_checkpoint, save_checkpoint
from yolo_lite.engine.start import start_from
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.train import train
from yolo_lite.model.detector import Detector
from yolo_lite.model.heads import ClassRows
from yolo_lite.tools.import_weights import build_detector, read_checkpoint, read_state_dict
from yolo_lite.tools.torch_file import read_torch_file, tensors_of

YOLOV5N = SHARED / "weights/yolov5n"
NAMES = ("ant", "bee", "cat")
CFG = REPOSITORY / "cfg/yolo_n.yaml"
needs_yolov5n = pytest.mark.skipif(not YOLOV5N.is_dir(), reason="../shared/weights/yolov5n is not there")


def yolo_n(num_classes: int, seed: int = 0, cfg: Path = CFG) -> Detector:
    torch.manual_seed(seed)
    config = load_model_config(cfg)
    assert isinstance(config, ModelConfig)
    return Detector(config.model_copy(update={"nc": num_classes})).eval()


@pytest.fixture(scope="module")
def small() -> Detector:
    """yolo_n for 3 classes; tests do not change it."""
    return in_half(yolo_n(3))


def in_half(model: Detector) -> Detector:
    """With numbers that half precision holds."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    return model


def their_state(model: Detector) -> dict[str, torch.Tensor]:
    """The state dict under the names that YOLOv5's users know, written down by hand."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "layers.24.anchors":
            state["model.24.anchors"] = tensor / torch.tensor([8.0, 16.0, 32.0]).view(3, 1, 1)
            continue
        name = name.replace("layers.", "model.").replace("norm", "bn").replace("24.heads", "24.m")
        for own, theirs in (("before", "cv1"), ("behind", "cv2"), ("mix", "cv3")):
            name = name.replace(f"24.prototypes.{own}", f"24.proto.{theirs}")
        name = name.replace("model.9.merge", "model.9.cv2").replace("merge", "cv3").replace("bottlenecks", "m")
        name = re.sub("deep|reduce", "cv1", re.sub("plain|expand", "cv2", name))
        state[name] = tensor
    return state


@pytest.fixture
def their_class(monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    """A class of modules that pickles as one of YOLOv5's."""
    own = type("Conv", (nn.Module,), {"__module__": "models.common"})
    for name in ("models", "models.common"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["models.common"], "Conv", own, raising=False)
    return own


@pytest.fixture
def their_file(small: Detector, their_class: type[nn.Module], tmp_path: Path) -> Path:
    return write_theirs(small, their_class, tmp_path)


def write_theirs(small: Detector, their_class: type[nn.Module], tmp_path: Path) -> Path:
    """A checkpoint as YOLOv5 writes it: a pickled tree of modules of its own classes, in half precision."""
    model = their_class()
    for name, tensor in their_state(small).items():
        *path, last = name.split(".")
        owner = model
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, their_class())
            owner = owner._modules[part]
        kept = tensor.half() if tensor.is_floating_point() else tensor
        owner._buffers[last] = kept.clone()
    model.yaml, model.names = yaml_of(small), dict(enumerate(NAMES))
    model.act = model.same_act = nn.SiLU()  # shared, as YOLOv5's activations are
    torch.save({"epoch": -1, "best_fitness": np.float64(0.5), "ema": None, "model": model}, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt"


def yaml_of(model: Detector) -> dict:
    """The YAML as a checkpoint of YOLOv5 holds it."""
    plain = model.config.model_dump(mode="json", include={"nc", "depth_multiple", "width_multiple", "anchors"})
    for part in ("backbone", "head"):
        rows = getattr(model.config, part)
        plain[part] = [[list(row.source), row.repeats, row.module, list(row.args)] for row in rows]
    return {**plain, "ch": 3}


def archive(path: Path, program: bytes, **entries: bytes) -> Path:
    """A torch archive around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/version", b"3\n")
        for name, data in entries.items():
            file.writestr(f"archive/{name.replace('__', '/')}", data)
    return path


def said_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command ends that cannot do what it is told."""
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


# ----------------------------------------------------------------------------------------------------- the real one


@needs_yolov5n
def test_the_imported_yolov5n_gives_the_outputs_of_an_independent_runtime():
    model = build_detector(read_checkpoint(YOLOV5N / "yolov5n.pt")).eval()
    golden = np.load(YOLOV5N / "golden_raw_heads.npz")
    images = torch.from_numpy(golden["input_uint8_nchw_rgb"]).float() / 255
    heads = [torch.from_numpy(golden[f"head{level}"]) for level in range(3)]  # [1, 3 * 85, h, w]
    expected = torch.cat([head.permute(0, 2, 3, 1).reshape(1, -1, 85) for head in heads], dim=1)
    with torch.no_grad():
        found = model(images).slots
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-3
    assert (found - expected).norm() / expected.norm() < 1e-5


@needs_yolov5n
def test_the_import_writes_a_checkpoint_with_its_own_names_anchors_and_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["import", str(YOLOV5N / "yolov5n.pt"), "-o", str(tmp_path / "n.pt")]) == 0
    assert "349 tensors, 80 classes; converted from YOLOv5's yolov5n.pt; such weights keep" in capsys.readouterr().out
    content = load_checkpoint(tmp_path / "n.pt")
    config = config_of(content, tmp_path / "n.pt")
    assert config.data.names[::79] == ("person", "toothbrush") and config.model.nc == 80
    assert config.model.anchors == load_model_config(CFG).anchors and "GPL" in content["source"]
    assert {tensor.dtype for tensor in content["ema"].values()} == {torch.float32, torch.int64}
    Detector(config.model).load_state_dict(content["ema"])


@pytest.mark.slow
@needs_yolov5n
def test_the_imported_yolov5n_reaches_its_figures_on_coco128(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from yolo_lite import evaluate

    monkeypatch.setattr("yolo_lite.engine.device._native_dtype", lambda device: torch.float32)  # in bf16 mAP50 is .557
    main(["import", str(YOLOV5N / "yolov5n.pt"), "-o", str(tmp_path / "n.pt")])
    report = evaluate(weights=tmp_path / "n.pt", data=SHARED / "data/coco128/data.yaml", imgsz=640, workers=0)
    assert report["map50_95"] >= 0.360 and report["map50"] >= 0.562


# ------------------------------------------------------------------------------------------------------ round trips


def test_a_checkpoint_of_theirs_becomes_the_same_network(small: Detector, their_file: Path, tmp_path: Path):
    with zipfile.ZipFile(their_file) as file:
        assert b"models.common" in file.read("theirs/data.pkl")
    assert equal_states(build_detector(read_checkpoint(their_file)).state_dict(), small.state_dict())


def test_a_segmentation_checkpoint_of_theirs_becomes_the_same_network(their_class, tmp_path: Path, capsys):
    """Built by what is known of theirs: no real file is at hand."""
    model = in_half(yolo_n(3, cfg=REPOSITORY / "cfg/yolo_n_seg.yaml"))
    file, output = write_theirs(model, their_class, tmp_path), tmp_path / "ours.pt"
    assert main(["import", str(file), "--output", str(output)]) == 0
    content = load_checkpoint(output)
    assert equal_states(content["ema"], model.state_dict())
    assert config_of(content, output).model.head[-1].args == ("nc", "anchors", 32, 256)
    assert "converted from YOLOv5's theirs.pt" in content["source"]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_state_dict_becomes_the_same_network(
    small: Detector, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nnames: [ant, bee, cat]\n")
    path, state = tmp_path / f"weights{suffix}", their_state(small)
    if suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    words = ["import", str(path), "-o", str(tmp_path / "ours.pt")]
    assert "expected --cfg and --data" in said_of(capsys, *words)
    assert main([*words, "--cfg", str(CFG), "--data", str(data)]) == 0
    content = load_checkpoint(tmp_path / "ours.pt")
    assert equal_states(content["ema"], small.state_dict())
    assert "is there already; --exist-ok overwrites it" in said_of(capsys, *words)


def test_the_anchors_are_those_that_the_weights_were_trained_with(small: Detector, tmp_path: Path):
    state = their_state(small)
    state["model.24.anchors"] = state["model.24.anchors"] * 1.5
    np.savez(tmp_path / "weights.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    found = build_detector(read_state_dict(tmp_path / "weights.npz", small.config, NAMES))
    assert torch.equal(found.head.anchors, small.head.anchors * 1.5) and found.config.anchors[0][:2] == (15.0, 19.5)


def test_what_is_missing_left_over_or_of_another_shape_is_listed(small: Detector, tmp_path: Path):
    state = their_state(small)
    state["model.2.cv4.conv.weight"] = state.pop("model.2.cv3.conv.weight")
    state["model.0.conv.weight"] = state["model.0.conv.weight"][:, :, :3]
    np.savez(tmp_path / "weights.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    with pytest.raises(CheckpointError) as error:
        build_detector(read_state_dict(tmp_path / "weights.npz", small.config, NAMES))
    assert str(error.value) == (
        f"{tmp_path / 'weights.npz'}: its tensors do not fit the model; missing: model.2.cv3.conv.weight; "
        "left over: model.2.cv4.conv.weight; "
        "of another shape: model.0.conv.weight [16, 3, 3, 6], expected [16, 3, 6, 6]"
    )


def test_state_dicts_that_hold_objects_or_nothing_are_refused(small: Detector, tmp_path: Path):
    np.savez(tmp_path / "objects.npz", weight=np.array([{}], dtype=object))
    (tmp_path / "noise.npz").write_bytes(b"noise")
    for name in ("objects.npz", "noise.npz"):
        with pytest.raises(CheckpointError, match=r"damaged, or not a \.npz file of tensors"):
            read_state_dict(tmp_path / name, small.config, NAMES)


# ---------------------------------------------------------------------------------------------------------- hostile


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would make a file, and what the refusal names."""
    touch, system = f"touch {marker}", Call(os.system, f"touch {marker}")
    text = f"open({str(marker)!r}, 'w')"
    state = OrderedDict(weight=1)
    state.hidden = system  # type: ignore[attr-defined]
    tensor = Call(torch._utils._rebuild_tensor_v2, None, 0, (1,), (1,), False, OrderedDict(hook=system))
    short = lambda word: b"\x8c" + bytes([len(word)]) + word.encode()  # noqa: E731
    argument = short(touch) + b"\x85R."
    named = rf"'{os.system.__module__}\.system'"
    return {
        "os.system": (pickle.dumps({"model": system}), named),
        "builtins.eval": (pickle.dumps({"model": Call(eval, text)}, protocol=2), r"'__builtin__\.eval'"),
        "getattr": (pickle.dumps({"model": Call(getattr, "x", "upper")}, 4), r"'builtins\.getattr'"),
        "the state of an OrderedDict": (pickle.dumps({"model": state}), named),
        "the hooks of a tensor": (pickle.dumps({"model": tensor}), named),
        "a dotted name": (b"\x80\x04" + short("models.x") + short("os.system") + b"\x93" + argument, r"os\.system"),
        "INST": (b"(S'" + touch.encode() + b"'\nios\nsystem\n.", r"'os\.system'"),
        "torch.load": (pickle.dumps({"model": Call(torch.load, str(marker))}), r"'torch\.serialization\.load'"),
    }


@pytest.mark.parametrize("kind", hostile(Path()))
def test_a_hostile_pickle_is_refused_by_name_and_nothing_of_it_runs(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    marker = tmp_path / "marker"
    program, name = hostile(marker)[kind]
    path = archive(tmp_path / "hostile.pt", program)
    line = said_of(capsys, "import", str(path), "-o", str(tmp_path / "out.pt"))
    assert re.search(f"refused: its pickle names .*{name}", line)
    assert not marker.exists() and not (tmp_path / "out.pt").exists()
    with pytest.raises(CheckpointError, match="damaged, or not a checkpoint of yolo_lite"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["os.system", "builtins.eval", "the state of an OrderedDict", "INST"])
def test_the_hostile_pickles_are_what_they_claim_to_be(kind: str, tmp_path: Path):
    pickle.loads(hostile(tmp_path / "marker")[kind][0])  # noqa: S301 (that is what is shown)
    assert (tmp_path / "marker").exists()


def test_an_extension_that_python_has_already_resolved_is_refused(tmp_path: Path):
    copyreg.add_extension("os", "system", 240)
    try:
        program = b"\x80\x02\x82\xf0X\x04\x00\x00\x00true\x85R."
        assert pickle.loads(program) == 0  # noqa: S301 (now it is in Python's cache, which does not ask find_class)
        with pytest.raises(CheckpointError, match="refused: its pickle names extension 240"):
            read_torch_file(archive(tmp_path / "hostile.pt", program))
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_a_known_name_that_is_called_only_keeps_what_it_is_given(tmp_path: Path):
    program = b"\x80\x02ctorch.nn.modules.module\nModule\nX\x04\x00\x00\x00true\x85R}X\x01\x00\x00\x00aK\x01sb."
    record = read_torch_file(archive(tmp_path / "inert.pt", program))
    assert not isinstance(record, nn.Module) and (record.arguments, record.state) == (("true",), {"a": 1})


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cmodels.common\nConv\nN}X\x01\x00\x00\x00aK\x01s\x86b.",  # BUILD would set an attribute of the class
        b"\x80\x02cmodels.common\nConv\n}X\x01\x00\x00\x00aK\x01sb.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of 2**31 places
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # 2**40 bytes that are not there
        b"\x80\x02" + b"K\x01" * 3 + b"R.",  # calls a number
        b"\x80\x02K\x01",  # no end
    ],
)
def test_programs_that_no_checkpoint_holds_are_one_clear_line(program: bytes, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"odd\.pt: damaged, or not a checkpoint of a model$"):
        read_torch_file(archive(tmp_path / "odd.pt", program))


@pytest.mark.parametrize(
    ("length", "offset", "shape", "strides"),
    [
        (2**40, 0, (2,), (1,)),  # a storage larger than its entry
        (4, 3, (2,), (1,)),  # over the end
        (4, -1, (2,), (1,)),
        (4, 0, (2,), (-1,)),
        (4, 0, (2,), (2**62,)),
        (4, 0, (2**40,), (0,)),  # one number, as often as it takes to fill the memory
        (4, 0, (2,), ("x",)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    length: int, offset: int, shape, strides, their_class: type[nn.Module], tmp_path: Path
):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            stored = isinstance(value, tuple) and value[:1] == ("stored",)
            return ("storage", torch.FloatStorage, "0", "cpu", value[1]) if stored else None

    def read(length: int, *view) -> torch.Tensor:
        module, program = their_class(), io.BytesIO()
        module._buffers = {"weight": Call(torch._utils._rebuild_tensor_v2, ("stored", length), *view, False, {})}
        Pickler(program, 2).dump({"model": module})
        numbers = np.arange(4, dtype=np.float32).tobytes()
        path = archive(tmp_path / "x.pt", program.getvalue(), data__0=numbers)
        return tensors_of(path, read_torch_file(path)["model"])["weight"]

    assert read(4, 1, (2,), (2,)).tolist() == [1, 3]
    with pytest.raises(CheckpointError, match=r"x\.pt: damaged, or not a checkpoint of a model$"):
        read(length, offset, shape, strides)


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/data/0", bytes(2**20))
    with pytest.raises(CheckpointError, match="its entries are larger than the file"):
        read_torch_file(tmp_path / "bomb.pt")


# -------------------------------------------------------------------------------------------------------- bad input


def other_files(folder: Path) -> dict[str, str]:
    """Files that are no checkpoint of YOLOv5, and what is said of them."""
    (folder / "noise.pt").write_bytes(np.random.default_rng(0).bytes(2**20))
    (folder / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(folder / "photos.pt", "w") as file:
        file.writestr("photo.txt", "none")
    torch.save([1], folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"optimizer": {}}, folder / "other.pt")
    torch.save({"format": 99, "yolo_lite": "9.9.9"}, folder / "newer.pt")
    return {
        "noise.pt": "damaged, or not a checkpoint: expected a zip",
        "empty.pt": "damaged, or not a checkpoint: expected a zip",
        "photos.pt": "a zip, but not a checkpoint: without data.pkl",
        "old.pt": "in the format of torch before 1.6",
        "other.pt": "found no 'ema' or 'model' in it",
        "newer.pt": "already a checkpoint of yolo_lite",
        "none.pt": "no such file",
        ".": "cannot be read: a folder, expected a regular file",
    }


def test_other_files_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, said in other_files(tmp_path).items():
        line = said_of(capsys, "import", str(tmp_path / name), "-o", str(tmp_path / "out.pt"))
        assert line.startswith(f"error: {tmp_path / name}: ") and said in line
    assert not (tmp_path / "out.pt").exists()


def test_a_checkpoint_of_theirs_is_no_checkpoint_of_ours_and_the_way_is_said(
    their_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert "weights of YOLOv5 come in by yolo-lite import" in said_of(capsys, "val", "--weights", str(their_file))
    words = ["import", str(their_file), "-o", str(tmp_path / "ours.pt")]
    assert "leave out --cfg and --data" in said_of(capsys, *words, "--cfg", str(CFG))
    assert main(words) == 0
    assert "know no dataset, expected --data" in said_of(capsys, "val", "--weights", words[-1])
    assert "holds no optimizer state" in said_of(capsys, "train", "--resume", words[-1])


# ---------------------------------------------------------------------------------------------------------- starting


def test_rows_of_classes_by_hand():
    rows = ClassRows(num_groups=2, shared=1, per_class=2)
    assert rows.count(3) == 14
    assert rows.of([2, 0], 3) == [0, 5, 6, 1, 2, 7, 12, 13, 8, 9]


@pytest.mark.parametrize("cfg", ["yolo_n", "faster_rcnn"])
def test_the_class_rows_of_a_family_are_all_that_depends_on_the_number_of_classes(cfg: str):
    config = load_model_config(REPOSITORY / f"cfg/{cfg}.yaml")
    task = task_of(config)
    few, many = (task.build(config.model_copy(update={"nc": count})) for count in (2, 5))
    rows, states = few.class_rows(), (few.state_dict(), many.state_dict())
    assert {name for name in states[0] if states[0][name].shape != states[1][name].shape} == set(rows)
    for state, count in zip(states, (2, 5), strict=True):
        assert all(len(state[name]) == each.count(count) for name, each in rows.items())


def saved(model: Detector, names: tuple[str, ...], path: Path) -> str:
    config = {"data": {"names": list(names)}}
    save_checkpoint(path, {"config": config, "ema": model.state_dict(), "losses": {}, "epoch": 1})
    return str(path)


@pytest.mark.parametrize("names", [("dog", "cat", "ant", "eel", "fly"), ("cat", "ant", "dog"), ("dog", "eel")])
def test_a_start_keeps_box_and_objectness_and_the_classes_of_the_same_name(
    small: Detector, names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model, fresh = yolo_n(len(names), seed=1), yolo_n(len(names), seed=1)
    start_from(saved(small, NAMES, tmp_path / "a.pt"), model, names)
    for part in ("weight", "bias"):
        for level in range(3):
            own, before, given = (getattr(m.layers[24].heads[level], part) for m in (model, fresh, small))
            own, before, given = (tensor.unflatten(0, (3, -1)) for tensor in (own, before, given))  # [A, 5+C, ...]
            assert torch.equal(own[:, :5], given[:, :5])
            for row, name in enumerate(names):
                expected = given[:, 5 + NAMES.index(name)] if name in NAMES else before[:, 5 + row]
                assert torch.equal(own[:, 5 + row], expected)
    body = {name for name in model.state_dict() if "heads" not in name}
    assert all(torch.equal(model.state_dict()[name], small.state_dict()[name]) for name in body)
    said = capsys.readouterr().out
    assert "348 of 348 tensors taken over\nrows of classes" in said and "new: dog" in said
    assert "bee" in said.partition("left behind: ")[2]


def test_a_start_with_the_same_classes_takes_everything_but_the_anchors(
    small: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = yolo_n(3, seed=1)
    model.head.anchors.mul_(2)
    start_from(saved(small, NAMES, tmp_path / "a.pt"), model, NAMES)
    assert torch.equal(model.head.anchors, small.head.anchors * 2)
    model.head.anchors.div_(2)
    assert equal_states(model.state_dict(), small.state_dict())
    said = capsys.readouterr().out
    assert "classes" not in said and "other anchors; those of --cfg stay" in said


def test_a_start_names_the_tensors_that_do_not_fit_and_refuses_where_none_does(
    small: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model, weights = yolo_n(3), saved(small, NAMES, tmp_path / "a.pt")
    model.layers[0].conv = nn.Conv2d(3, 16, 3)
    start_from(weights, model, NAMES)
    counts = "347 of 349 tensors taken over (backbone 197 of 199, neck 144 of 144, head 6 of 6)"
    assert f"{counts}, not: layers.0.conv.weight, layers.0.conv.bias\n" in capsys.readouterr().out
    other = nn.Linear(2, 2)
    other.class_rows = dict
    with pytest.raises(CheckpointError, match="not one layer fits the model of --cfg"):
        start_from(weights, other, NAMES)


def test_a_frozen_run_from_imported_weights_keeps_their_backbone_in_its_average(
    small: Detector, their_file: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["import", str(their_file), "-o", str(tmp_path / "ours.pt")]) == 0
    words = ["--weights", str(tmp_path / "ours.pt"), "--epochs", "1", "--set", "freeze=backbone"]
    folder = train(tiny_config(tiny_data, tmp_path, *words)).folder
    assert "such weights keep their licence" in capsys.readouterr().out
    state, given = load_checkpoint(folder / "weights/last.pt")["ema"], small.state_dict()
    backbone = [name for name in given if name.startswith(tuple(f"layers.{row}." for row in range(10)))]
    assert all(torch.equal(state[name], given[name]) for name in backbone)
    assert not torch.equal(state["layers.24.heads.0.weight"][:5], given["layers.24.heads.0.weight"][:5])
