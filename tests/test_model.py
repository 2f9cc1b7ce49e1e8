"""Laws of the network: sizes, slots, initialisation, fusing, and what its YAML may and may not say."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import load_model_config, validate
from yolo_lite.config.model import ModelConfig
from yolo_lite.config.yaml_file import parse_yaml
from yolo_lite.engine.seams import SEAMS
from yolo_lite.model.blocks.standard import Conv, activation_maker
from yolo_lite.model.builder import scaled_repeats, scaled_width
from yolo_lite.model.detector import Detector
from yolo_lite.model.gflops import gflops
from yolo_lite.model.heads import Detect

# Unfused parameters of YOLOv5 v6 by size and number of classes.
PARAMETERS = {
    "n": {80: 1_872_157, 20: 1_790_977, 3: 1_767_976, 1: 1_765_270},
    "s": {80: 7_235_389, 20: 7_073_569, 3: 7_027_720, 1: 7_022_326},
    "m": {80: 21_190_557, 20: 20_948_097, 3: 20_879_400, 1: 20_871_318},
    "l": {80: 46_563_709, 20: 46_240_609, 3: 46_149_064, 1: 46_138_294},
    "x": {80: 86_749_405, 20: 86_345_665, 3: 86_231_272, 1: 86_217_814},
}

TOY = """\
nc: 3
anchors: [[4, 5, 9, 8], [20, 30, 40, 20]]
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[0, 1], 1, Detect, [nc, anchors]]
"""


def size_config(size: str, **changes: int) -> ModelConfig:
    return load_model_config(REPOSITORY / f"cfg/yolo_{size}.yaml").model_copy(update=changes)


def detector(text: str) -> Detector:
    torch.manual_seed(0)
    return Detector(validate(ModelConfig, parse_yaml(text, "model.yaml")))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def trained_s() -> Detector:
    """yolo_s at 80 classes whose batch normalisations have seen something; tests do not change it."""
    torch.manual_seed(0)
    model = Detector(size_config("s")).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(2, 3, 64, 64))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def small() -> Detector:
    """yolo_n for 3 classes, in evaluation mode; tests do not change it."""
    torch.manual_seed(0)
    return Detector(size_config("n", nc=3)).eval()


# ------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameter_counts_equal_the_reference_to_the_unit(size: str):
    for num_classes, expected in PARAMETERS[size].items():
        with torch.device("meta"):
            assert count(Detector(size_config(size, nc=num_classes))) == expected


@pytest.mark.parametrize(("size", "expected"), [("n", 4.47), ("s", 16.43)])
def test_summary_counts_what_the_reference_counts(size: str, expected: float):
    detector = Detector(size_config(size))
    assert gflops(detector, 640) == pytest.approx(expected, abs=0.01)
    assert f" {PARAMETERS[size][80]:,} parameters, {expected:.1f} GFLOPs at 640 px" in detector.describe(640)


def test_operations_are_those_of_torchs_counter(small: Detector):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(small).to("meta")(torch.empty(1, 3, 96, 160, device="meta"))
    assert gflops(small, 320) * 96 * 160 / 320**2 == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)


def test_operations_grow_with_the_area_of_the_picture(small: Detector):
    assert gflops(small, 640) == pytest.approx(4 * gflops(small, 320), rel=1e-9)


def test_summary_leaves_the_detector_where_it_was(small: Detector):
    gflops(small, 64)
    assert {parameter.device.type for parameter in small.parameters()} == {"cpu"} and not small.head._grids


def test_widths_are_rounded_up_and_a_single_block_stays_single():
    config = size_config("n")
    assert [scaled_width(width, config) for width in (64, 65, 1024, 1)] == [16, 24, 256, 8]
    assert [scaled_repeats(repeats, config) for repeats in (1, 2, 3, 6, 9)] == [1, 1, 1, 2, 3]
    assert scaled_width(100, config.model_copy(update={"channel_multiple": 1})) == 25


# ------------------------------------------------------------------------------------------------ output and slots


def test_the_output_is_one_axis_of_25200_slots_at_640(small: Detector):
    with torch.no_grad():
        assert small(torch.zeros(1, 3, 640, 640)).slots.shape == (1, 25_200, 8)
    assert small.strides == (8, 16, 32) and small.config.nc == 3


@pytest.mark.parametrize(("height", "width"), [(64, 160), (96, 32), (32, 32)])
def test_the_output_of_any_shape_has_the_slots_of_its_grid(small: Detector, height: int, width: int):
    num_slots = 3 * sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    with torch.no_grad():
        assert small(torch.rand(2, 3, height, width)).slots.shape == (2, num_slots, 8)
    assert small.grid(height, width).num_slots == num_slots


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_slots_are_ordered_by_level_then_cell_then_anchor(memory_format: torch.memory_format):
    model = detector(TOY).eval().to(memory_format=memory_format)
    maps: list[torch.Tensor] = []
    for head in model.layers[-1].heads:
        head.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        raw = model(torch.rand(2, 3, 8, 12).to(memory_format=memory_format)).slots
    by_hand = [
        level[image, anchor * 8 : (anchor + 1) * 8, row, column]
        for image in range(2)
        for level in maps
        for row in range(level.shape[2])
        for column in range(level.shape[3])
        for anchor in range(2)
    ]
    assert torch.equal(raw, torch.stack(by_hand).view(2, -1, 8))


def test_a_bias_of_one_anchor_moves_the_slots_that_the_grid_gives_that_anchor():
    model = detector(TOY).eval()
    images, grid = torch.rand(1, 3, 8, 12), model.grid(8, 12)
    with torch.no_grad():
        before = model(images).slots
        model.layers[-1].heads[1].bias.view(2, 8)[1, 4] += 1.0  # objectness of the second anchor of the coarse level
        moved = (model(images).slots - before)[0]
    expected = (grid.level == 1) & (grid.slots.anchor == torch.tensor([40.0, 20.0])).all(dim=-1)
    assert torch.equal(moved[:, 4] != 0, expected) and expected.sum() == 2 * 3
    assert not moved[:, [0, 1, 2, 3, 5, 6, 7]].any()


def test_a_slot_lies_where_its_receptive_field_lies():
    text = TOY.replace("8, 3, 2]", "8, 2, 2, 0]").replace("16, 3, 2]", "16, 2, 2, 0]")
    model = detector(text).eval()
    images = torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        before = model(images).slots
        images[0, :, 6, 9] += 1.0
        moved = (model(images).slots - before)[0].ne(0).any(dim=-1)
    grid = model.grid(8, 12)
    low, high = grid.slots.corner, grid.slots.corner + grid.slots.stride
    inside = ((low <= torch.tensor([9, 6])) & (torch.tensor([9, 6]) < high)).all(dim=-1)
    assert torch.equal(moved, inside) and moved.sum() == 4


def test_channels_last_gives_the_output_of_contiguous_memory(trained_s: Detector):
    images = torch.rand(1, 3, 64, 96)
    other = copy.deepcopy(trained_s).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = trained_s(images).slots
        found = other(images.to(memory_format=torch.channels_last)).slots
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_flattening_a_channels_last_level_copies_nothing():
    config = ModelConfig(nc=3, anchors=2, backbone=[], head=[[-1, 1, "Detect", []]])
    detect = Detect([4], [8], config).to(memory_format=torch.channels_last)
    level = detect.heads[0](torch.rand(1, 4, 5, 6).to(memory_format=torch.channels_last))
    flat = level.permute(0, 2, 3, 1).reshape(1, -1, 8)
    assert flat.data_ptr() == level.data_ptr()


# ------------------------------------------------------------------------------------- anchors, biases, state, grad


def test_anchors_are_kept_in_pixels_and_saved_with_the_weights(small: Detector):
    assert small.head.anchors.shape == (3, 3, 2) and small.head.anchors[2, 2].tolist() == [373, 326]
    assert torch.equal(small.state_dict()["layers.24.anchors"], small.head.anchors)


@pytest.mark.parametrize("num_classes", [1, 3, 80])
def test_biases_start_at_the_prior(num_classes: int, monkeypatch: pytest.MonkeyPatch):
    config = size_config("n", nc=num_classes)
    torch.manual_seed(0)
    heads = Detector(config).layers[-1].heads
    monkeypatch.setattr(Detect, "_start_biases", lambda self: None)
    torch.manual_seed(0)
    for untouched, head, stride in zip(Detector(config).layers[-1].heads, heads, (8, 16, 32), strict=True):
        added = (head.bias - untouched.bias).detach().view(3, 5 + num_classes)
        assert not added[:, :4].any() and torch.equal(head.weight, untouched.weight)
        assert added[:, 4].tolist() == pytest.approx([math.log(8 / (640 / stride) ** 2)] * 3, abs=1e-5)
        expected = torch.full((3, num_classes), math.log(0.6 / (num_classes - 0.99999)))
        assert torch.allclose(added[:, 5:], expected, atol=1e-5)


def test_the_first_output_expects_about_eight_objects_in_a_picture(small: Detector):
    with torch.no_grad():
        objectness = small(torch.rand(1, 3, 640, 640))["obj"][0].sigmoid().double()
    assert 3 * 3 * 8 / 2 < objectness.sum() < 3 * 3 * 8 * 2  # each anchor of each level expects 8


def test_the_state_dict_holds_no_grid_and_loads_into_a_fresh_detector(small: Detector):
    model = copy.deepcopy(small)
    keys = list(model.state_dict())
    model.grid(64, 64), model(torch.rand(1, 3, 64, 64))
    assert list(model.state_dict()) == keys and not [key for key in keys if "grid" in key or "stride" in key]
    fresh = Detector(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(fresh(images).slots, model(images).slots)


def test_a_grid_is_made_once_for_a_size_and_not_carried_into_copies(small: Detector):
    model = copy.deepcopy(small)
    assert model.grid(64, 96) is model.grid(64, 96) and model.grid(96, 64) is not model.grid(64, 96)
    assert len(model.head._grids) == 2 and not copy.deepcopy(model).head._grids


def test_a_copy_of_a_used_detector_computes_the_same_and_shares_nothing(small: Detector):
    images = torch.rand(2, 3, 64, 64)
    model = copy.deepcopy(small).train()
    model.grid(64, 64), model(images).slots.sum().backward()
    model.eval()
    clone = copy.deepcopy(model)
    assert torch.equal(clone(images).slots, model(images).slots) and clone.strides == model.strides
    before = model(images).slots
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.zero_()
    assert torch.equal(model(images).slots, before)


def test_one_backward_reaches_every_parameter():
    torch.manual_seed(0)
    model = Detector(size_config("n", nc=2)).train()
    raw = model(torch.rand(2, 3, 64, 64)).slots
    (raw * torch.randn_like(raw)).sum().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert untouched == []


def test_half_precision_outputs_are_finite(small: Detector):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        raw = small(torch.rand(1, 3, 64, 64)).slots
    assert raw.dtype == torch.bfloat16 and raw.isfinite().all()


# ------------------------------------------------------------------------------------------------------------ fusing


def test_a_fused_detector_computes_the_same_with_fewer_parameters(trained_s: Detector):
    images, light = torch.rand(2, 3, 96, 64), trained_s.for_inference()
    with torch.no_grad():
        expected, found = trained_s(images).slots, light(images).slots
    assert expected.std() > 0.1 and torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert count(light) == 7_225_885 and not any(isinstance(m, nn.BatchNorm2d) for m in light.modules())


def test_fusing_leaves_the_original_as_it_was(trained_s: Detector):
    model = copy.deepcopy(trained_s).train()
    before = copy.deepcopy(model.state_dict())
    light = model.for_inference()
    assert model.training and not light.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fusing_twice_changes_nothing(small: Detector):
    once, images = small.for_inference(), torch.rand(1, 3, 64, 64)
    assert torch.equal(once.for_inference()(images).slots, once(images).slots)


# ------------------------------------------------------------------------- other model files in the grammar of YOLOv5

BACKBONE = """\
backbone: [
  [-1, 1, Conv, [64, 6, 2, 2]],
  [-1, 1, Conv, [128, 3, 2]],
  [-1, 3, C3, [128]],
  [-1, 1, Conv, [256, 3, 2]],
  [-1, 6, C3, [256]],
  [-1, 1, Conv, [512, 3, 2]],
  [-1, 9, C3, [512]],
  [-1, 1, Conv, [1024, 3, 2]],
  [-1, 3, C3, [1024]],
  [-1, 1, SPPF, [1024, 5]]]
"""
SMALL = "nc: 80\ndepth_multiple: 0.33\nwidth_multiple: 0.25\n"
ANCHORS = "anchors:\n  - [10,13, 16,30, 33,23]\n  - [30,61, 62,45, 59,119]\n  - [116,90, 156,198, 373,326]\n"

TOP_DOWN = """\
  [-1, 1, Conv, [512, 1, 1]],
  [-1, 1, nn.Upsample, [None, 2, 'nearest']],
  [[-1, 6], 1, Concat, [1]],
  [-1, 3, C3, [512, False]],
  [-1, 1, Conv, [256, 1, 1]],
  [-1, 1, nn.Upsample, [None, 2, 'nearest']],
  [[-1, 4], 1, Concat, [1]],
  [-1, 3, C3, [256, False]],
"""
BOTTOM_UP = """\
  [-1, 1, Conv, [256, 3, 2]],
  [[-1, 14], 1, Concat, [1]],
  [-1, 3, C3, [512, False]],
  [-1, 1, Conv, [512, 3, 2]],
  [[-1, 10], 1, Concat, [1]],
  [-1, 3, C3, [1024, False]],
  [[17, 20, 23], 1, Detect, [nc, anchors]]]
"""
PANET = SMALL + ANCHORS + BACKBONE + "head: [\n" + TOP_DOWN + BOTTOM_UP

P2 = f"""\
{SMALL}anchors: 3
{BACKBONE}head: [
{TOP_DOWN}
  [-1, 1, Conv, [128, 1, 1]],
  [-1, 1, nn.Upsample, [None, 2, 'nearest']],
  [[-1, 2], 1, Concat, [1]],
  [-1, 1, C3, [128, False]],
  [-1, 1, Conv, [128, 3, 2]],
  [[-1, 18], 1, Concat, [1]],
  [-1, 3, C3, [256, False]],
  [-1, 1, Conv, [256, 3, 2]],
  [[-1, 14], 1, Concat, [1]],
  [-1, 3, C3, [512, False]],
  [-1, 1, Conv, [512, 3, 2]],
  [[-1, 10], 1, Concat, [1]],
  [-1, 3, C3, [1024, False]],
  [[21, 24, 27, 30], 1, Detect, [nc, anchors]]]
"""

P6 = f"""\
{SMALL}
anchors:
  - [19,27, 44,40, 38,94]
  - [96,68, 86,152, 180,137]
  - [140,301, 303,264, 238,542]
  - [436,615, 739,380, 925,792]
backbone:
  [[-1, 1, Conv, [64, 6, 2, 2]],
   [-1, 1, Conv, [128, 3, 2]],
   [-1, 3, C3, [128]],
   [-1, 1, Conv, [256, 3, 2]],
   [-1, 6, C3, [256]],
   [-1, 1, Conv, [512, 3, 2]],
   [-1, 9, C3, [512]],
   [-1, 1, Conv, [768, 3, 2]],
   [-1, 3, C3, [768]],
   [-1, 1, Conv, [1024, 3, 2]],
   [-1, 3, C3, [1024]],
   [-1, 1, SPPF, [1024, 5]]]
head:
  [[-1, 1, Conv, [768, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 8], 1, Concat, [1]],
   [-1, 3, C3, [768, False]],
   [-1, 1, Conv, [512, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 6], 1, Concat, [1]],
   [-1, 3, C3, [512, False]],
   [-1, 1, Conv, [256, 1, 1]],
   [-1, 1, nn.Upsample, [None, 2, 'nearest']],
   [[-1, 4], 1, Concat, [1]],
   [-1, 3, C3, [256, False]],
   [-1, 1, Conv, [256, 3, 2]],
   [[-1, 20], 1, Concat, [1]],
   [-1, 3, C3, [512, False]],
   [-1, 1, Conv, [512, 3, 2]],
   [[-1, 16], 1, Concat, [1]],
   [-1, 3, C3, [768, False]],
   [-1, 1, Conv, [768, 3, 2]],
   [[-1, 12], 1, Concat, [1]],
   [-1, 3, C3, [1024, False]],
   [[23, 26, 29, 32], 1, Detect, [nc, anchors]]]
"""

BIFPN = PANET.replace("[[-1, 14], 1, Concat, [1]]", "[[-1, 14, 6], 1, Concat, [1]]")

LEAKY = PANET.replace("anchors:\n", "activation: nn.LeakyReLU(0.1)\nanchors:\n")

FPN = f"""\
{SMALL}{ANCHORS}{BACKBONE}head: [
  [-1, 3, C3, [1024, False]],
  [6, 1, Conv, [512, 1, 1]],
  [-2, 1, nn.Upsample, [None, 2, "nearest"]],
  [[-1, 11], 1, Concat, [1]],
  [-1, 3, C3, [512, False]],
  [[14, 10], 1, Detect, [nc, anchors]]]
""".replace("  - [10,13, 16,30, 33,23]\n", "")

ONE_LEVEL = f"""\
{SMALL}anchors: [[10,13, 16,30, 33,23, 30,61]]
{BACKBONE}head: [[6, 1, Conv, [64]], [-1, 1, Detect, [nc, anchors]]]
"""

V3 = f"""\
{SMALL.replace("0.33", "1.0")}{ANCHORS}
backbone:
  - [-1, 1, Conv, [32, 3, 1]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Bottleneck, [64]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 2, Bottleneck, [128]]
  - [-1, 1, nn.MaxPool2d, [2, 2, 0]]
  - [-1, 4, Bottleneck, [256]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 1, Conv, [1024, 3, 2]]
  - [-1, 2, Bottleneck, [1024]]
head:
  - [-1, 1, Bottleneck, [1024, False]]
  - [-1, 1, SPP, [512, [5, 9, 13]]]
  - [-1, 1, Conv, [1024, 3, 1]]
  - [-2, 1, Conv, [256, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 7], 1, Concat, [1]]
  - [-1, 1, Bottleneck, [512, False]]
  - [-1, 1, Conv, [128, 1, 1]]
  - [-1, 1, nn.Upsample, [null, 2, nearest]]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 2, Bottleneck, [256, False]]
  - [[20, 16, 12], 1, Detect, [nc, anchors]]
"""

VARIANTS = {
    "panet": (PANET, [8, 16, 32], 3),
    "p2": (P2, [4, 8, 16, 32], 3),
    "p6": (P6, [8, 16, 32, 64], 3),
    "bifpn": (BIFPN, [8, 16, 32], 3),
    "leaky": (LEAKY, [8, 16, 32], 3),
    "fpn": (FPN, [16, 32], 3),
    "one level": (ONE_LEVEL, [16], 4),
    "v3": (V3, [8, 16, 32], 3),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_files_in_the_grammar_build_as_they_are(name: str):
    text, strides, num_anchors = VARIANTS[name]
    model = detector(text).eval()
    assert model.strides == tuple(strides) and model.head.anchors.shape == (len(strides), num_anchors, 2)
    with torch.no_grad():
        raw = model(torch.rand(1, 3, 64, 128)).slots
    num_slots = num_anchors * sum((64 // stride) * (128 // stride) for stride in strides)
    assert raw.shape == (1, num_slots, 85) and raw.isfinite().all()
    assert model.grid(64, 128).num_slots == num_slots


def test_the_words_of_yolov5_give_the_network_of_the_repository_file():
    assert detector(PANET).state_dict().keys() == Detector(size_config("n")).state_dict().keys()
    assert count(detector(PANET)) == PARAMETERS["n"][80]
    changed = PANET.replace("nc: 80", "nc: 3")
    assert count(detector(changed)) == PARAMETERS["n"][3]


def test_a_third_map_in_a_concat_widens_only_what_reads_it():
    # The C3 behind it has two 1x1 convolutions into 64 channels, and the map of layer 6 has 128.
    assert count(detector(BIFPN)) - count(detector(PANET)) == 2 * 128 * 64


def test_an_anchor_count_gives_growing_squares_in_strides():
    anchors = detector(P2).head.anchors
    assert torch.equal(anchors[..., 0], anchors[..., 1]) and torch.equal(anchors[3], anchors[0] * 8)
    assert anchors[0, 0].tolist() == [8, 8] and (anchors.diff(dim=1) > 0).all() and anchors[0, 2, 0] < anchors[1, 1, 0]


def test_the_activation_key_reaches_every_convolution():
    model = detector(LEAKY)
    activations = [module.activation for module in model.modules() if isinstance(module, Conv)]
    assert all(isinstance(a, nn.LeakyReLU) and a.negative_slope == 0.1 for a in activations) and len(activations) == 57
    assert not any(isinstance(module, nn.SiLU) for module in model.modules())


@pytest.mark.parametrize("text", ["nn.SiLU()", "ReLU", "LeakyReLU(0.2)", "Hardswish", "Mish", "GELU", "Identity"])
def test_every_activation_computes(text: str):
    assert activation_maker(text)()(torch.tensor([-1.0, 2.0])).shape == (2,)


def test_repeats_are_stacked_outside_c3_and_inside_it():
    model = detector(V3.replace("width_multiple: 0.25", "width_multiple: 0.125"))
    assert [len(layer) for layer in model.layers if isinstance(layer, nn.Sequential)] == [2, 4, 2, 2]
    deep = Detector(size_config("n"))
    assert [len(deep.layers[index].bottlenecks) for index in (2, 4, 6, 8)] == [1, 2, 3, 1]


def test_a_concat_of_one_map_is_that_map():
    model = detector(TOY.replace("head:\n", "  - [-1, 1, Concat, [1]]\nhead:\n").replace("[0, 1]", "[0, 2]")).eval()
    with torch.no_grad():
        assert torch.equal(model(torch.ones(1, 3, 8, 8)).slots, detector(TOY).eval()(torch.ones(1, 3, 8, 8)).slots)


# ---------------------------------------------------------------------------------------------------- unusable rows


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        detector(text)
    (line,) = str(error.value).splitlines()
    return line


CONV_0, CONV_1, DETECT = "[-1, 1, Conv, [8, 3, 2]]", "[-1, 1, Conv, [16, 3, 2]]", "[[0, 1], 1, Detect, [nc, anchors]]"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("[-1, 1, Conv, []]", "Conv takes [out_channels, kernel, stride, padding, groups], found 0 arguments"),
        ("[-1, 1, Conv, [8, 3, 2, 1, 1, 1]]", "found 6 arguments"),
        ("[-1, 1, C3, [8, false, 0.5, 1]]", "C3 takes [out_channels, shortcut, expansion], found 4 arguments"),
        ("[-1, 1, Conv, [wide]]", "out_channels: expected a whole number, found 'wide'"),
        ("[-1, 1, Conv, [0]]", "out_channels: expected more than 0, found 0"),
        ("[-1, 1, Conv, [-8]]", "out_channels: expected more than 0, found -8"),
        ("[-1, 1, Conv, [8, 3.0]]", "kernel: expected a whole number, found 3.0"),
        ("[-1, 1, Conv, [8, 3, 0]]", "stride: expected more than 0, found 0"),
        ("[-1, 1, Conv, [8, 3, true]]", "stride: expected a whole number, found True"),
        ("[-1, 1, Conv, [8, 3, 1, 1, 3]]", "groups"),
        ("[-1, 1, C3, [8, 'False']]", "shortcut: expected true or false, found 'False'"),
        ("[-1, 1, C3, [8, false, 0.0]]", "expansion: expected more than 0, found 0.0"),
        ("[-1, 1, SPP, [8, 5]]", "kernels: expected"),
        ("[-1, 1, SPPF, [8, 4]]", "Sizes of tensors must match"),
        ("[7, 1, Conv, [8]]", "'from' 7 points to layer 7, expected one of 0..0"),
        ("[1, 1, Conv, [8]]", "'from' 1 points to layer 1, expected one of 0..0"),
        ("[-3, 1, Conv, [8]]", "'from' -3 points to layer -2"),
        ("[[-1, 0], 1, Conv, [8]]", "Conv reads one layer, found 2"),
        ("[-1, 1, Concat, [2]]", "Concat joins channels (1), found 2"),
        ("[-1, 1, nn.Upsample, [None, two]]", "two"),
        ("[-1, 1, nn.Upsample, [None, 2, smooth]]", "smooth"),
        ("[-1, 1, nn.MaxPool2d, [x]]", "kernel_size"),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_what_was_expected(row: str, words: str):
    message = refusal(TOY.replace(CONV_1, row))
    assert message.startswith("backbone row 1 (layer 1) [") and words in message


def test_the_first_row_reads_the_picture_and_nothing_before_it():
    message = refusal(TOY.replace(CONV_0, "[-2, 1, Conv, [8, 3, 2]]"))
    assert message.startswith("backbone row 0 (layer 0)") and "points to layer -2, expected -1, the image" in message


def test_maps_of_different_sizes_cannot_be_joined():
    message = refusal(TOY.replace("head:\n", "head:\n  - [-1, 1, Conv, [8]]\n  - [[2, 0], 1, Concat, [1]]\n"))
    assert message.startswith("head row 1 (layer 3) [[2, 0], 1, Concat, [1]]: ") and "Sizes of tensors" in message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("[[1, 0], 1, Detect, [nc, anchors]]", "levels must come fine to coarse, found strides [4, 2]"),
        ("[[0], 1, Detect, [nc, anchors]]", "Detect reads 1 levels but anchors are given for 2"),
        ("[[0, 1, 1], 1, Detect, [nc, anchors]]", "Detect reads 3 levels but anchors are given for 2"),
        ("[[0, 9], 1, Detect, [nc, anchors]]", "'from' 9 points to layer 9, expected one of 0..1"),
        ("[[0, 1], 1, Detect, [4, anchors]]", "Detect takes [nc, anchors]"),
        ("[[0, 1], 1, Detect, [nc, anchors, 3]]", "Detect takes [nc, anchors]"),
    ],
)
def test_a_detect_row_that_does_not_fit_is_named(row: str, words: str):
    message = refusal(TOY.replace(DETECT, row))
    assert message.startswith("head row 0 (layer 2) [") and words in message


def test_strides_must_be_whole():
    assert "expected levels of whole strides" in refusal(TOY.replace(CONV_0, "[-1, 1, Conv, [8, 3, 3]]"))
    upsampled = TOY.replace(CONV_0, "[-1, 1, nn.Upsample, [None, 2, nearest]]")
    assert "expected levels of whole strides" in refusal(upsampled)


def test_anchors_must_grow_with_the_strides():
    message = refusal(TOY.replace("[4, 5, 9, 8], [20, 30, 40, 20]", "[20, 30, 40, 20], [4, 5, 9, 8]"))
    assert message.startswith("anchors: expected small to large, as the strides [2, 4] go, found ((20.0")


def test_an_unknown_module_is_an_error_of_the_file_and_its_row(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(TOY.replace("Conv, [16", "GhostConf, [16"))
    with pytest.raises(
        ConfigError, match=r"mine\.yaml:5: backbone row 1: unknown module 'GhostConf' \(nearest: 'GhostConv'\)"
    ):
        load_model_config(tmp_path / "mine.yaml", (), SEAMS)
