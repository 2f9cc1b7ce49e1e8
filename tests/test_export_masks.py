"""Laws of exported models that find masks: what PyTorch gives, raw in YOLOv5's layout and behind NMS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_export import (
    DYNAMIC,
    FORMATS,
    SHAPES,
    SMALL,
    Export,
    assert_same,
    detector_of,
    exporter,
    few_pictures,  # noqa: F401, a fixture
    needs_onnx,
    pictures,
    save,
    untrained,
)
from torch import Tensor, nn

from yolo_lite import evaluate, load
from yolo_lite.cli.main import main
from yolo_lite.deploy.exported import are_outputs, load_exported
from yolo_lite.deploy.formats import EXPORT_FORMATS
from yolo_lite.deploy.graph import Decoded, detections_of
from yolo_lite.model.detector import Detector
from yolo_lite.ops.nms import DetectOptions

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # which trace, save and load
ROWS = {"anchor": "Segment, [nc, anchors, 8, 16]", "free": "SegmentFree, [nc, 8, 16]"}
NMS = ("--nms", "--conf", "0.3", "--iou", "0.4", "--max-det", "20", *DYNAMIC)


def small_weights(head: str, data: Path, folder: Path) -> Path:
    """The checkpoint of a small untrained model with masks that is sure of much."""
    text = SMALL.replace("Detect, [nc, anchors]", ROWS[head])
    text = text if head == "anchor" else "".join(line for line in text.splitlines(True) if "anchors:" not in line)
    config, model = untrained(text, data, folder)
    for name, parameter in model.layers[-1].named_parameters():
        of_outputs = name.startswith(("heads.", "cls.", "more."))
        if of_outputs and name.endswith("weight") and parameter.shape[2:] == (1, 1):
            nn.init.normal_(parameter, std=0.5)
        elif of_outputs and name.endswith("bias"):
            parameter.data.zero_()
    save(folder / f"{head}.pt", config, model)
    return folder / f"{head}.pt"


@pytest.fixture(scope="module", params=["anchor", pytest.param("free", marks=pytest.mark.slow)])
def weights(request: pytest.FixtureRequest, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_weights(request.param, tiny_data, tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def detector(weights: Path) -> Detector:
    return detector_of(weights)


@pytest.fixture(scope="module")
def export(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return exporter(weights, tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("head", ROWS)
@torch.inference_mode()
def test_decoded_outputs_give_the_masks_of_raw_outputs(head: str, tiny_data: Path, tmp_path: Path) -> None:
    detector = detector_of(small_weights(head, tiny_data, tmp_path))
    images, options = pictures(2, 48, 80), DetectOptions(0.1, 0.45)
    expected = detector.detections(detector(images), (48, 80), options)
    for one, other in zip(detections_of(Decoded(detector)(images), options), expected, strict=True):
        assert_same(one, other)
        assert_same_masks(one.mask, other.mask)
        assert one.mask is not None and 0.01 < (one.mask > 0).float().mean() < 0.99


def assert_same_masks(found: Tensor | None, expected: Tensor | None) -> None:
    assert found is not None and expected is not None and found.shape == expected.shape
    assert ((found > 0) == (expected > 0)).float().mean() > 0.999


@pytest.mark.parametrize("kind", [FORMATS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in FORMATS[1:])])
@torch.inference_mode()
def test_raw_outputs_give_the_masks_of_pytorch_at_any_size(kind: str, export: Export, detector: Detector) -> None:
    model, _ = load_exported(export(kind, *DYNAMIC))
    assert model.facts.task == "segment"
    for number, height, width in SHAPES:
        images, options = pictures(number, height, width), DetectOptions(0.3, 0.45)
        predictions, prototypes = model(images)
        slots = height * width // 64 * 5 // 4 * (3 if hasattr(detector.head, "heads") else 1)
        assert predictions.shape == (number, slots, 5 + 5 + 8)
        assert prototypes.shape == (number, 8, height // 4, width // 4)
        expected = detector.detections(detector(images), (height, width), options)
        for one, other in zip(
            model.detections((predictions, prototypes), (height, width), options), expected, strict=True
        ):
            assert_same(one, other)
            assert_same_masks(one.mask, other.mask)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        pytest.param("onnx", DYNAMIC, marks=needs_onnx),
        pytest.param("torchscript", ("--dynamic", "size"), marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_nms_in_the_file_brings_the_masks_along(
    kind: str, flags: tuple[str, ...], export: Export, detector: Detector
) -> None:
    model, _ = load_exported(export(kind, *NMS[: -len(DYNAMIC)], *flags))
    for number, height, width in SHAPES:
        images, options = pictures(number, height, width), DetectOptions(0.3, 0.4, 20)
        outputs = model(images)
        assert outputs[4].shape == (number, 20, height // 4, width // 4)
        expected = detector.detections(detector(images), (height, width), options)
        for one, other in zip(model.detections(outputs, (height, width), options), expected, strict=True):
            assert_same(one, other)
            assert_same_masks(one.mask, other.mask)


@pytest.mark.parametrize("kind", [FORMATS[0], pytest.param(FORMATS[1], marks=pytest.mark.slow)])
def test_a_file_predicts_and_validates_with_masks_as_its_weights_do(
    kind: str, export: Export, weights: Path, tiny_data: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected, found = load(weights, device="cpu").predict(image), load(export(kind, *DYNAMIC)).predict(image)
    assert expected.mask.shape == found.mask.shape == (len(expected), 60, 80) and len(expected) > 0
    assert (expected.mask == found.mask).mean() > 0.999
    reports = [
        evaluate(weights=one, data=tiny_data, workers=0, device="cpu") for one in (weights, export(kind, *DYNAMIC))
    ]
    for key in ("map50_95", "map50"):
        assert reports[0]["mask"][key] == pytest.approx(reports[1]["mask"][key], abs=1e-3)


@needs_onnx
def test_onnx_itself_knows_the_outputs_by_yolov5s_names(export: Export) -> None:
    import onnx

    raw, found = (onnx.load(export("onnx", *flags)) for flags in (DYNAMIC, NMS))
    onnx.checker.check_model(raw, full_check=True)
    assert json.loads({one.key: one.value for one in raw.metadata_props}["task"]) == "segment"
    assert [one.name for one in raw.graph.output] == ["output0", "output1"]
    assert [one.name for one in found.graph.output] == ["boxes", "scores", "labels", "counts", "masks"]
    sides = [side.dim_param or side.dim_value for side in raw.graph.output[1].type.tensor_type.shape.dim]
    assert sides == ["batch", 8, "mask_height", "mask_width"]


@pytest.mark.slow
@torch.inference_mode()
def test_half_precision_keeps_masks(export: Export, detector: Detector) -> None:
    model, _ = load_exported(export("torchscript", "--half"))
    images = pictures(1, 64, 64)
    (_, prototypes), expected = model(images), detector(images)["prototype"]
    assert prototypes.dtype == torch.float32
    torch.testing.assert_close(prototypes, expected, rtol=0.02, atol=0.02)


def test_a_file_whose_masks_differ_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_wrong(network: nn.Module, *arguments: object) -> None:
        prototypes = network.detector.layers[-1].prototypes
        prototypes.register_forward_hook(lambda module, images, maps: -maps)
        right.write(network, *arguments)

    right = EXPORT_FORMATS["torchscript"]
    monkeypatch.setitem(EXPORT_FORMATS, "torchscript", right._replace(write=write_wrong))
    output = tmp_path / "model.torchscript"
    assert main(["export", "--weights", str(weights), "--format", "torchscript", "-o", str(output)]) == 2
    said = capsys.readouterr().err
    assert "not written, for it differs from PyTorch" in said and "their masks agree on" in said
    assert not output.exists()


def test_outputs_with_masks_that_are_those_of_the_metadata() -> None:
    """Shapes are checked before anything is read from a file that anybody may have written."""
    raw = torch.zeros(1, 16, 15), torch.zeros(1, 8, 4, 4)
    boxes, whole = (torch.ones(1, 5, 4), torch.ones(1, 5)), torch.zeros(1, 5, dtype=torch.int64)
    found = (*boxes, whole, torch.ones(1, dtype=torch.int64), torch.zeros(1, 5, 4, 4))
    assert are_outputs(raw, 1, False, 2, "segment") and are_outputs(found, 1, True, 2, "segment")
    wrong = [raw[:1], (raw[0], raw[1][0]), (raw[0], raw[1].long()), (raw[0], torch.zeros(1, 7, 4, 4)), found]
    wrong += [(raw[0], torch.zeros(2, 8, 4, 4)), (raw[1], raw[0])]
    assert not any(are_outputs(outputs, 1, False, 2, "segment") for outputs in wrong)
    wrong = [found[:4], (*found[:4], torch.zeros(1, 6, 4, 4)), (*found[:4], torch.zeros(1, 5, 4)), raw]
    wrong += [(*found[:4], found[4].long()), (boxes[0][0], *found[1:])]
    assert not any(are_outputs(outputs, 1, True, 2, "segment") for outputs in wrong)
    assert not are_outputs(raw, 1, False, 2) and not are_outputs(found, 1, True, 2)
