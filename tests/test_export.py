"""Laws of export: files in three formats give what PyTorch gives, say what they are, and are used as weights are."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SHARED, tiny_config
from torch import Tensor, nn

from yolo_lite import evaluate, load
from yolo_lite.cli.main import main
from yolo_lite.config.errors import CheckpointError, ConfigError
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import ValOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.deploy import export as export_module
from yolo_lite.deploy.exported import Exported, exported_subject, load_exported
from yolo_lite.deploy.formats import EXPORT_FORMATS, Facts
from yolo_lite.deploy.graph import Decoded, detections_of
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.engine.checkpoint import config_of, load_checkpoint, save_checkpoint
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.validate import prepare_validation
from yolo_lite.model.detector import Detector
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.ops.tiles import Tiles, views_of
from yolo_lite.structures import Detections

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(
    not HAS_ONNX, reason='onnx and onnxruntime are not installed: pip install -e ".[export]"'
)
FORMATS = [pytest.param("onnx", marks=needs_onnx), "torchscript", "torch_export"]
SUFFIX = {"onnx": ".onnx", "torchscript": ".torchscript", "torch_export": ".pt2"}
DYNAMIC = ("--dynamic", "batch", "size")
NAMES = ("circle", "square", "triangle", "star", "heart")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # which trace, save and load
SHAPES = [(1, 64, 64), (3, 48, 64), (2, 128, 80), (1, 32, 112)]  # pictures, height, width
SMALL = """
nc: 5
anchors: [[6, 8, 14.3, 12.1, 20, 25], [30, 24, 33, 47, 60, 55]]
backbone:
  - [-1, 1, Conv, [8, 6, 2, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C3, [16]]
  - [-1, 1, Conv, [24, 3, 2]]
head:
  - [-1, 1, SPPF, [24, 5]]
  - [-1, 1, Upsample, [null, 2, nearest]]
  - [[-1, 3], 1, Concat, [1]]
  - [-1, 1, Conv, [16]]
  - [[8, 5], 1, Detect, [nc, anchors]]
"""


@pytest.fixture(scope="module")
def weights(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small untrained detector that is sure of much, in fp32 as its exported files are."""
    folder = tmp_path_factory.mktemp("export")
    config, model = untrained(SMALL, tiny_data, folder)
    for head in model.layers[-1].heads:
        nn.init.normal_(head.weight, std=0.5)
        head.bias.data.zero_()
    save(folder / "small.pt", config, model, source="drawn by lot")
    return folder / "small.pt"


def untrained(model_yaml: str, data: Path, folder: Path) -> tuple[RunConfig, Any]:
    """A run in fp32 and its model, whose batch statistics are such that fusing has something to fold."""
    (folder / "small.yaml").write_text(model_yaml)
    config = tiny_config(data, folder, "--cfg", str(folder / "small.yaml"), "--set", "precision=fp32")
    torch.manual_seed(0)
    model = task_of(config.model).build(config.model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # outputs stay as large as inputs
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.1, 0.3)
    return config, model


def save(path: Path, config: RunConfig, model: Any, **more: str) -> None:
    """Write the checkpoint of a model that has not been trained."""
    losses = task_of(config.model).criterion(config.model, config.hyp, np.ones(5)).state_dict()
    save_checkpoint(path, {"config": config.plain(), "epoch": 0, **more, "ema": model.state_dict(), "losses": losses})


Export = Callable[..., Path]


def detector_of(weights: Path) -> Detector:
    """The averaged network of a checkpoint, ready for inference."""
    content = load_checkpoint(weights)
    model = Detector(config_of(content, weights).model)
    model.load_state_dict(content["ema"])
    return model.for_inference()


def exporter(weights: Path, folder: Path) -> Export:
    """Export through the command line, each variant once."""
    made = dict[tuple[str, ...], Path]()

    def make(kind: str, *flags: str) -> Path:
        key = (kind, *flags)
        if key not in made:
            path = folder / f"{len(made)}{SUFFIX[kind]}"
            assert main(["export", "--weights", str(weights), "--format", kind, "-o", str(path), *flags]) == 0
            made[key] = path
        return made[key]

    return make


@pytest.fixture(scope="module")
def detector(weights: Path) -> Detector:
    return detector_of(weights)


@pytest.fixture(scope="module", autouse=True)
def few_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "NUM_CHECKED", 2)
        yield


@pytest.fixture(scope="module")
def export(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return exporter(weights, tmp_path_factory.mktemp("files"))


def pictures(number: int, height: int, width: int) -> Tensor:
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(height))


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Scores to the tolerance, boxes to the tolerance in sides of an image of 64 px."""
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found[..., :4], expected[..., :4], rtol=0, atol=64 * tolerance)
    torch.testing.assert_close(found[..., 4:], expected[..., 4:], rtol=0, atol=tolerance)


def assert_same(found: Detections, expected: Detections) -> None:
    """The same objects; those whose scores differ by rounding may have changed places."""
    assert len(found.label) == len(expected.label) > 4
    torch.testing.assert_close(found.score, expected.score, rtol=0, atol=1e-4)
    same = (found.label[:, None] == expected.label) & (found.score[:, None] - expected.score < 1e-4)
    same &= (found.box[:, None] - expected.box).abs().amax(dim=2) < 0.01
    assert bool((same.any(dim=0) & same.any(dim=1)).all())


# ------------------------------------------------------------------------------------------------- equal to PyTorch


@torch.inference_mode()
def test_decoded_predictions_give_the_detections_of_raw_outputs(detector: Detector):
    images, options = pictures(2, 48, 80), DetectOptions(0.1, 0.45)
    expected = detector.detections(detector(images), (48, 80), options)
    found = detections_of((Decoded(detector)(images),), options)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("kind", [*FORMATS[:2], pytest.param("torch_export", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_a_dynamic_file_gives_what_pytorch_gives_on_pictures_of_any_size(kind, export: Export, detector: Detector):
    model, _ = load_exported(export(kind, *DYNAMIC))
    for shape in SHAPES:
        assert_near(*model(pictures(*shape)), Decoded(detector)(pictures(*shape)))


@pytest.mark.parametrize("kind", FORMATS)
@torch.inference_mode()
def test_a_fixed_batch_is_filled_up(kind, export: Export, detector: Detector):
    model, _ = load_exported(export(kind, "--batch-size", "2"))
    for number in (1, 2, 5):
        assert_near(*model(pictures(number, 64, 64)), Decoded(detector)(pictures(number, 64, 64)))


@pytest.mark.parametrize("kind", FORMATS[:2])
@torch.inference_mode()
def test_half_precision_keeps_its_inputs_and_outputs(kind, export: Export, detector: Detector):
    model, _ = load_exported(export(kind, "--half"))
    (found,), expected = model(pictures(1, 64, 64)), Decoded(detector)(pictures(1, 64, 64))
    assert_near(found, expected, tolerance=0.02)
    assert not torch.allclose(found, expected, atol=1e-5)


def detections_in(outputs: tuple[Tensor, ...]) -> list[Detections]:
    boxes, scores, labels, counts = outputs
    assert not any(bool(column[row, int(n) :].any()) for column in outputs[:3] for row, n in enumerate(counts))
    return [Detections(boxes[row, :n], scores[row, :n], labels[row, :n]) for row, n in enumerate(counts.tolist())]


@pytest.mark.parametrize(
    ("kind", "max_det", "flags"),
    [
        pytest.param("onnx", 300, (), marks=needs_onnx),
        pytest.param("onnx", 5, DYNAMIC, marks=needs_onnx),
        ("torchscript", 300, ("--dynamic", "size")),
        ("torch_export", 5, ()),
    ],
)
@torch.inference_mode()
def test_nms_in_the_file_is_our_nms(kind, max_det, flags, export: Export, detector: Detector):
    model, _ = load_exported(export(kind, "--nms", "--conf", "0.3", "--iou", "0.4", "--max-det", str(max_det), *flags))
    for number, height, width in SHAPES if flags else [(3, 64, 64)]:
        images = pictures(number, height, width)
        options = DetectOptions(0.3, 0.4, max_det)
        expected = detector.detections(detector(images), (height, width), options)
        outputs = model(images)
        assert outputs[0].shape == (number, max_det, 4)
        for one, other in zip(detections_in(outputs), expected, strict=True):
            assert_same(one, other)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "max_det", "flags"), [("torchscript", 300, ("--dynamic", "size")), ("torch_export", 5, ())]
)
def test_nms_in_the_file_needs_nothing_that_was_loaded_before(kind, max_det, flags, export: Export):
    path = export(kind, "--nms", "--conf", "0.3", "--iou", "0.4", "--max-det", str(max_det), *flags)
    code = f"from yolo_lite.deploy.exported import load_exported; load_exported({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_onnx
@torch.inference_mode()
def test_int8_is_small_and_near(export: Export, detector: Detector):
    import onnx

    path = export("onnx", "--int8", "--calibration-images", "8", *DYNAMIC)
    (found,), expected = load_exported(path)[0](pictures(2, 64, 96)), Decoded(detector)(pictures(2, 64, 96))
    difference = (found - expected)[..., 4:].abs()
    assert 0 < difference.mean() < 0.05
    nodes = {node.name: node for node in onnx.load(path).graph.node}
    scaled = {name for name, node in nodes.items() if node.op_type == "Conv" and "Dequantize" in node.input[1]}
    convolutions = {name for name, node in nodes.items() if node.op_type == "Conv"}
    assert {name for name in convolutions - scaled if "heads" not in name} == set() != scaled


# --------------------------------------------------------------------------------------- what a file says of itself


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_says_what_it_is(kind, export: Export):
    fixed, open_ = (load_exported(export(kind, *flags))[0].facts for flags in (("--batch-size", "2"), DYNAMIC))
    assert fixed.names == NAMES and fixed.source == "drawn by lot"
    assert (fixed.stride, fixed.imgsz, fixed.batch, fixed.dynamic, fixed.nms) == (16, 64, 2, (), False)
    assert open_.dynamic == ("batch", "size") and open_.canvas(40, 50) == (48, 64)
    assert fixed.canvas(40, 50) == (64, 64)
    assert open_.canvas(3, 64) == (32 if kind == "torch_export" else 16, 80)


def test_a_model_of_five_channels_is_exported_with_them(weights: Path, tiny_data: Path, tmp_path):
    content, pictures_of_five = load_checkpoint(weights), tmp_path / "images"
    config = config_of(content, weights)
    config = config.model_copy(update={"model": config.model.model_copy(update={"ch": 5})})
    pictures_of_five.mkdir()
    cv2.imwritemulti(str(pictures_of_five / "a.tiff"), [np.full((40, 64), 50 * band, np.uint8) for band in range(5)])
    (pictures_of_five / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "five.yaml").write_text(f"train: images\nval: images\nchannels: 5\nnames: [{', '.join(NAMES)}]\n")
    data = load_dataset_config(str(tmp_path / "five.yaml"))
    config = config.model_copy(update={"data": data, "data_file": str(tmp_path / "five.yaml")})
    states = {"ema": Detector(config.model).state_dict(), "losses": content["losses"]}
    save_checkpoint(tmp_path / "five.pt", {"config": config.plain(), "epoch": 0, **states})
    assert main(["export", "--weights", str(tmp_path / "five.pt"), "--format", "torchscript"]) == 0
    predictor = load(tmp_path / "five.torchscript")
    assert predictor.channels == 5 and len(predictor.predict(pictures_of_five / "a.tiff", conf=0.0)) > 0


@needs_onnx
def test_a_second_session_that_cannot_be_made_is_told_in_a_line(export: Export, monkeypatch: pytest.MonkeyPatch):
    import onnxruntime

    def fail(*_: Any, **__: Any) -> None:
        raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException("no memory for it")

    path, before = export("onnx", *DYNAMIC), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        file = load(path)
        monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
        with pytest.raises(CheckpointError, match=r"cannot be run on images .*: no memory for it"):
            file.predict([np.zeros((64, 64, 3), np.uint8)] * 2, batch_size=1)
    finally:
        torch.set_num_threads(before)


@needs_onnx
def test_onnx_itself_knows_names_and_shapes(export: Export):
    import onnx

    model = onnx.load(export("onnx", *DYNAMIC))
    onnx.checker.check_model(model, full_check=True)
    said = {one.key: json.loads(one.value) for one in model.metadata_props}
    assert said["names"] == list(NAMES) and said["stride"] == 16 and said["imgsz"] == 64
    (entry,), (result,) = model.graph.input, model.graph.output
    sides = [side.dim_param or side.dim_value for side in entry.type.tensor_type.shape.dim]
    assert (entry.name, result.name, sides) == ("images", "predictions", ["batch", 3, "height", "width"])


# ------------------------------------------------------------------------------------------------- used like weights


@pytest.mark.parametrize("kind", FORMATS)
def test_validation_of_a_file_is_that_of_its_weights(kind, export: Export, weights: Path, tiny_data: Path):
    expected = evaluate(weights=weights, workers=0, device="cpu")
    found = evaluate(weights=export(kind, *DYNAMIC), data=tiny_data, workers=0)
    assert expected["map50"] > 0 and found["losses"] == {} and found["unmatched_targets"] is None
    for key in ("map50_95", "map50", "precision", "recall"):
        assert found[key] == pytest.approx(expected[key], abs=1e-4)


def test_validation_of_a_fixed_file_takes_its_square(export: Export, tiny_data: Path):
    path = export("torchscript", "--batch-size", "2")
    assert evaluate(weights=path, data=tiny_data, workers=0)["images"] == 8
    with pytest.raises(ConfigError, match="expected --data"):
        evaluate(weights=path, workers=0)
    with pytest.raises(ConfigError, match="64 px only; export it with --dynamic size"):
        evaluate(weights=path, data=tiny_data, workers=0, imgsz=96)


@pytest.mark.parametrize("kind", [pytest.param(FORMATS[1], marks=pytest.mark.quick), *FORMATS[::2]])
def test_a_file_predicts_what_its_weights_predict(kind, export: Export, weights: Path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((60, 80), (80, 60), (33, 90), (60, 80))]
    expected = load(weights, device="cpu").predict(images, conf=0.1)
    file = load(export(kind, *DYNAMIC))
    found = file.predict(images, conf=0.1)
    alone = dataclasses.replace(file, networks=3).predict(images, batch_size=1, conf=0.1)
    for one, other in zip([*found, *alone], [*expected, *expected], strict=True):
        one, other = (Detections(*map(torch.from_numpy, (by.xyxy, by.score, by.label))) for by in (one, other))
        assert_same(one, other)


def test_options_choose_from_what_nms_in_the_file_left(export: Export):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    predictor = load(
        export("torchscript", "--nms", "--conf", "0.3", "--iou", "0.4", "--max-det", "300", "--dynamic", "size")
    )
    every = predictor.predict(image, conf=0.0, iou=0.4)
    middle = float(np.median(every.score))
    sure = predictor.predict(image, conf=middle, iou=0.4)
    some = predictor.predict(image, conf=0.0, iou=0.4, classes=[every.class_names[0]], max_det=3)
    assert 0 < len(sure) < len(every) and every.score.min() > 0.3 and sure.score.min() > middle
    assert len(some) == 3
    np.testing.assert_array_equal(some.score, every.score[every.label == every.label[0]][:3])


# ------------------------------------------------------------------------------------------------------ what is wrong


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["export", *map(str, words)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "torchscript", "--int8"), "ONNX Runtime quantises ONNX only"),
        (("--format", "torch_export", "--nms", "--dynamic", "batch"), "expected --format onnx, found torch_export"),
        (("--format", "torchscript", "-o", "model.onnx"), "expected a name that ends with .torchscript"),
        (("--conf", "1.5"), "--conf: expected 0..1, auto, f1"),
        (("--batch-size", "0"), "--batch-size: expected 1 or more, found 0"),
    ],
)
def test_flags_that_contradict_each_other_are_named(flags, message, weights: Path, capsys):
    assert message in refused(capsys, "--weights", weights, *flags)


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(module, weights: Path, tmp_path, monkeypatch, capsys):
    if module == "onnxruntime" and not HAS_ONNX:
        pytest.skip("onnx is not installed")
    monkeypatch.setitem(sys.modules, module, None)
    output = tmp_path / "model.onnx"
    assert f'{module} is not installed: pip install -e ".[export]" brings it' in refused(
        capsys, "--weights", weights, "-o", output
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_not_left_and_the_older_one_stays(weights: Path, tmp_path, monkeypatch, capsys):
    def write_wrong(network, *arguments) -> None:
        with torch.no_grad():
            network.detector.layers[-1].heads[0].bias[0] += 0.01
        right.write(network, *arguments)

    right = EXPORT_FORMATS["torchscript"]
    monkeypatch.setitem(EXPORT_FORMATS, "torchscript", right._replace(write=write_wrong))
    output = tmp_path / "model.torchscript"
    output.write_text("older")
    words = ["--weights", weights, "--format", "torchscript", "-o", output]
    assert "is there already; --exist-ok overwrites it" in refused(capsys, *words)
    assert "not written, for it differs from PyTorch: boxes within" in refused(capsys, *words, "--exist-ok")
    assert [path.name for path in tmp_path.iterdir()] == ["model.torchscript"] and output.read_text() == "older"


def test_only_yolo_models_are_exported(tiny_data: Path, tmp_path, capsys):
    files = ["--cfg", str(REPOSITORY / "cfg/faster_rcnn.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp_faster_rcnn.yaml")]
    config = tiny_config(tiny_data, tmp_path, *files)
    ema = task_of(config.model).build(config.model).state_dict()
    save_checkpoint(tmp_path / "two.pt", {"config": config.plain(), "epoch": 0, "ema": ema, "losses": {}})
    message = "only YOLO models can be exported, found the family faster_rcnn"
    assert message in refused(capsys, "--weights", tmp_path / "two.pt")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_damaged_or_not_ours_is_refused(kind, tmp_path):
    path = tmp_path / f"model{SUFFIX[kind]}"
    with pytest.raises(CheckpointError, match="no such file"):
        load_exported(path)
    path.write_bytes(b"nonsense" * 100)
    with pytest.raises(CheckpointError, match="damaged, or not an exported model"):
        load_exported(path)
    with pytest.raises(ConfigError, match="exported models run on the CPU here"):
        load_exported(path, device="cuda:0")


def test_a_file_tells_what_white_is_and_older_ones_have_65535(tmp_path, monkeypatch):
    facts = Facts(("a",), 3, 32, 32, 64, 1, (), "fp32", False, white=4095)
    (tmp_path / "a.pt2").touch()
    for strings, white in ((facts.strings(), 4095), ({**facts.strings()}, 65535)):
        if white == 65535:
            del strings["white"]
        form = EXPORT_FORMATS["torch_export"]._replace(load=lambda _, strings=strings: (strings, tuple))
        monkeypatch.setitem(EXPORT_FORMATS, "torch_export", form)
        assert load_exported(tmp_path / "a.pt2")[0].facts.white == load(tmp_path / "a.pt2").white == white
        assert exported_subject(ValOptions(weights=tmp_path / "a.pt2")).data.white == white


def test_a_file_without_our_metadata_is_refused(tmp_path):
    path = tmp_path / "model.torchscript"
    torch.jit.save(torch.jit.trace(nn.Identity(), torch.zeros(1)), path)
    with pytest.raises(CheckpointError, match="not exported by yolo_lite: expected metadata names, channels"):
        load_exported(path)


def test_pictures_of_a_lost_dataset_are_drawn(weights: Path, tiny_data: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("yolo_lite.cli.export.DEFAULT_DATA", str(tiny_data))
    content = load_checkpoint(weights)
    content["config"]["data"].update(generate=None, train=["nowhere"], val=["nowhere"])
    save_checkpoint(tmp_path / "lost.pt", {key: content[key] for key in ("config", "epoch", "ema", "losses")})
    assert main(["export", "--weights", str(tmp_path / "lost.pt"), "--format", "torchscript"]) == 0
    assert "compared on drawn images, --data names others" in capsys.readouterr().out
    assert isinstance(load_exported(tmp_path / "lost.torchscript")[0], Exported)
    message = refused(capsys, "--weights", tmp_path / "lost.pt", "--int8")
    assert "nowhere" in message or "onnx is not installed" in message


# ------------------------------------------------------------------------------------------------------ real weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_yolov5n_is_the_same_on_16_photographs(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_module, "NUM_CHECKED", 16)
    original, data = SHARED / "weights/yolov5n/yolov5n.pt", SHARED / "data/coco128/data.yaml"
    if not original.exists() or not data.exists():
        pytest.skip(f"{original} or {data} is missing")
    checkpoint = tmp_path / "n.pt"
    assert main(["import", str(original), "-o", str(checkpoint)]) == 0
    words = ["--weights", str(checkpoint), "--data", str(data), "--format", kind, *DYNAMIC]
    assert main(["export", *words]) == 0
    assert "16 images: boxes within" in capsys.readouterr().out  # 1e-4, else it would have been refused


# ------------------------------------------------------------------------------------------------------------ tiles


def test_an_exported_file_finds_in_tiles_what_the_checkpoint_finds(weights: Path, tmp_path: Path):
    """Windows and the whole go through a file of one fixed size, two at once."""
    content = load_checkpoint(weights)
    content["config"]["hyp"]["tile"] = 64
    path = tmp_path / "tiled.pt"
    save_checkpoint(path, {key: value for key, value in content.items() if key not in ("format", "yolo_lite")})
    file = exporter(path, tmp_path)("torchscript", "--batch-size", "2")
    image = np.random.default_rng(0).integers(0, 256, (64, 130, 3), dtype=np.uint8)
    model, exported = (load(one, device="cpu") for one in (path, file))
    assert model.tile == exported.tile == 64
    square = dataclasses.replace(model, canvas=exported.canvas)
    for choice in ({}, {"tile": 0}, {"tile": 48, "overlap": 0.5}):
        mine, theirs = (one.predict(image, conf=0.4, **choice) for one in (square, exported))
        assert isinstance(mine, Prediction) and isinstance(theirs, Prediction) and len(mine) == len(theirs) > 10
        np.testing.assert_allclose(theirs.score, mine.score, atol=1e-4)
    known = {"data": content["config"]["data_file"], "device": "cpu", "workers": 0, "conf": 0.5, "max_det": 5}
    for options in (ValOptions(weights=file, **known), ValOptions(weights=file, tile=32, overlap=0.5, **known)):
        views = prepare_validation(options, exported_subject(options))().split.views
        tiles = Tiles(options.tile or 64, options.overlap)
        assert views is not None
        sizes = views.index.size.tolist()
        assert np.array_equal(views.view, np.concatenate([views_of(*size, tiles) for size in sizes]))
