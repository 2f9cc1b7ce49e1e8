"""Laws of the ghost and transformer blocks: YOLOv5's two models that have them, and each block against its formula."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, tiny_config
from test_optimizer import random_batch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_model_config
from yolo_lite.deploy.exported import load_exported
from yolo_lite.deploy.graph import Decoded
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.optimizer import Plan, parameter_groups
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.state import initial_state
from yolo_lite.engine.train import train, train_step
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.model.blocks.rare import C3TR, C3Ghost, GhostBottleneck, GhostConv, TransformerLayer
from yolo_lite.model.blocks.standard import C3
from yolo_lite.model.detector import Detector
from yolo_lite.model.gflops import gflops


def ghost_yaml(size: str) -> str:
    """The layout of a size with every convolution but the first and every C3 replaced."""
    first, *rest = re.split(r"(?<= )Conv(?=,)", (REPOSITORY / f"cfg/yolo_{size}.yaml").read_text())
    return (first + "Conv" + "GhostConv".join(rest)).replace("C3,", "C3Ghost,")


def transformer_yaml(size: str) -> str:
    """The layout of a size with the last C3 of its backbone replaced."""
    backbone, head = (REPOSITORY / f"cfg/yolo_{size}.yaml").read_text().split("head:")
    return "C3TR, [1024]".join(backbone.rsplit("C3, [1024]", 1)) + "head:" + head


MODELS = {"ghost": ghost_yaml, "transformer": transformer_yaml}


def build(text: str, folder: Path, *overrides: str) -> Detector:
    (folder / "model.yaml").write_text(text)
    torch.manual_seed(0)
    return Detector(load_model_config(folder / "model.yaml", overrides, SEAMS))


@pytest.mark.parametrize(("name", "expected"), [("ghost", 3_897_605), ("transformer", 7_235_645)])
def test_parameter_counts_are_those_of_yolov5s(name: str, expected: int, tmp_path: Path):
    with torch.device("meta"):
        model = build(MODELS[name]("s"), tmp_path)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("name", MODELS)
def test_fused_models_of_any_shape_compute_the_same(name: str, tmp_path: Path):
    model = build(MODELS[name]("n"), tmp_path)
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 64, 96))  # batch normalisations that do something
        light, images = model.eval().for_inference(), torch.rand(2, 3, 64, 160)
        expected = model(images).slots
        torch.testing.assert_close(light(images).slots, expected, rtol=1e-4, atol=1e-4)
        last = images.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            light.to(memory_format=torch.channels_last)(last).slots, expected, rtol=1e-4, atol=1e-4
        )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in light.modules())


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_near(name: str, tmp_path: Path):
    model, images = build(MODELS[name]("n"), tmp_path).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(images).slots
    torch.testing.assert_close(half.float(), model(images).slots, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_training_steps_lower_the_loss_and_move_every_parameter(name: str, tmp_path: Path):
    model = build(MODELS[name]("n"), tmp_path, "model.nc=3")
    before = copy.deepcopy(dict(model.named_parameters()))
    hyp, compute = Hyp(warmup_epochs=0.0, nominal_batch=4), choose_compute("cpu", "fp32", channels_last=True)
    state, setup = (
        initial_state(model, AnchorCriterion(hyp, np.ones(3)), hyp, compute),
        Setup(hyp, compute, Plan(8, 1, 1), 0),
    )
    batch = random_batch(4, seed=0).to(compute)
    losses = [train_step(state, [batch], setup).losses.sum().item() for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert still == []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_run_is_exported_for_images_of_any_size(name: str, tiny_data: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "model.yaml").write_text(MODELS[name]("n"))
    train(tiny_config(tiny_data, tmp_path, "--cfg", str(tmp_path / "model.yaml"), "--epochs", "1"))
    weights, output = tmp_path / "exp/weights/best.pt", str(tmp_path / "model.onnx")
    words = ["--weights", str(weights), "--data", str(tiny_data), "-o", output, "--dynamic", "batch", "size"]
    assert main(["export", *words]) == 0
    content, (file_model, _) = load_checkpoint(weights), load_exported(output)
    model = Detector(config_of(content, weights).model)
    model.load_state_dict(content["ema"])
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160)):
        images = torch.rand(shape)
        with torch.inference_mode():
            expected = Decoded(model.for_inference())(images)
            torch.testing.assert_close(file_model(images)[0], expected, rtol=1e-4, atol=1e-3)


def test_depth_and_width_multiples_reach_the_inner_part(tmp_path: Path):
    ghost, transformer = (build(text("n"), tmp_path, "model.depth_multiple=1") for text in MODELS.values())
    for model, number, inner in ((ghost, 6, 9), (transformer, 8, 3)):
        block = model.layers[number]
        found = block.bottlenecks if isinstance(block, C3Ghost) else block.bottlenecks.layers
        assert isinstance(block, (C3Ghost, C3TR)) and len(found) == inner
    assert transformer.layers[8].bottlenecks.position.in_features == 128  # 1024 / 4 / 2


def test_a_ghost_convolution_is_a_convolution_and_a_depthwise_one_of_it():
    block, x = GhostConv(6, 8, 3, 2).eval(), torch.rand(2, 6, 9, 12)
    first = nn.functional.silu(
        block.primary.norm(nn.functional.conv2d(x, block.primary.conv.weight, stride=2, padding=1))
    )
    planes = [  # each by its own 5 x 5 kernel
        nn.functional.conv2d(first[:, [i]], block.cheap.conv.weight[[i]], padding=2) for i in range(4)
    ]
    expected = torch.cat((first, nn.functional.silu(block.cheap.norm(torch.cat(planes, 1)))), 1)
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, 8, 5, 6)


def test_a_ghost_bottleneck_adds_what_came_in():
    block, x = GhostBottleneck(8, 8).eval(), torch.rand(1, 8, 5, 7)
    for convolution in (block.expand.primary, block.expand.cheap):
        nn.init.zeros_(convolution.norm.weight)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(8, 12, 1), (8, 8, 2), (6, 16, 2)])
def test_a_ghost_bottleneck_of_other_widths_or_strides_has_a_convolved_shortcut(in_channels, out_channels, stride):
    block = GhostBottleneck(in_channels, out_channels, 3, stride).eval()
    assert block(torch.rand(1, in_channels, 9, 6)).shape == (1, out_channels, math.ceil(9 / stride), 6 // stride)
    assert isinstance(block.shortcut, nn.Sequential) and isinstance(block.shrink, nn.Identity) == (stride == 1)


def slow_layer(layer: TransformerLayer, x: Tensor) -> Tensor:
    """Self-attention of 4 heads over ``[N, C]``, cell by cell."""
    weights, biases = layer.attention.in_proj_weight.chunk(3), layer.attention.in_proj_bias.chunk(3)
    query, key, value = (
        linear(x) @ weight.T + bias
        for linear, weight, bias in zip((layer.query, layer.key, layer.value), weights, biases, strict=True)
    )
    mixed, width = torch.zeros_like(x), x.shape[1] // 4
    for head in (slice(width * i, width * (i + 1)) for i in range(4)):
        for cell in range(len(x)):
            share = torch.softmax(torch.stack([query[cell, head] @ other for other in key[:, head]]) / width**0.5, 0)
            mixed[cell, head] = share @ value[:, head]
    x = x + layer.attention.out_proj(mixed)
    return x + x @ layer.linear[0].weight.T @ layer.linear[1].weight.T


def test_a_transformer_layer_is_attention_by_hand():
    torch.manual_seed(0)
    layer, x = TransformerLayer(8).double(), torch.randn(6, 8, dtype=torch.double)
    nn.init.normal_(layer.attention.in_proj_bias)
    torch.testing.assert_close(layer(x[None])[0], slow_layer(layer, x), rtol=1e-10, atol=1e-10)


def test_a_transformer_permutes_with_its_cells():
    """Attention has no order: whatever way the cells are turned, so are the results."""
    torch.manual_seed(0)
    block, x = C3TR(8, 8, repeats=2).eval(), torch.rand(2, 8, 3, 5)
    torch.testing.assert_close(block(x.flip(3)).flip(3), block(x))
    torch.testing.assert_close(block(x.transpose(2, 3)).transpose(2, 3), block(x))


def test_rare_blocks_are_c3_in_all_but_their_inner_part():
    """With an inner part that does nothing they give what C3 gives with the same weights."""
    x = torch.rand(1, 8, 4, 6)
    for kind in (C3Ghost, C3TR):
        plain, block = C3(8, 16, 1).eval(), kind(8, 16, 1).eval()
        plain.bottlenecks = block.bottlenecks = nn.Identity()
        plain.load_state_dict(block.state_dict())
        assert torch.equal(plain(x), block(x))


def test_the_linear_layers_of_an_attention_are_counted(tmp_path: Path):
    model, counter = build(transformer_yaml("n"), tmp_path), FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.to("meta")(torch.empty(1, 3, 64, 64, device="meta"))
    between_cells = 2 * 2 * 4**2 * 128  # two products of 4 cells with 4 cells
    assert counter.get_total_flops() - between_cells == pytest.approx(1e9 * gflops(model, 64), rel=1e-9)


def test_biases_of_an_attention_do_not_decay():
    block = C3TR(8, 8)
    groups = {group["name"]: {id(p) for p in group["params"]} for group in parameter_groups(block, 0.1)}
    (attention,) = (module for module in block.modules() if isinstance(module, nn.MultiheadAttention))
    assert {id(attention.in_proj_bias), id(attention.out_proj.bias)} <= groups["biases"]
    assert {id(attention.in_proj_weight), id(attention.out_proj.weight)} <= groups["weights"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("GhostConv, [17]", "a ghost convolution makes an even number of channels, found 17"),
        ("C3Ghost, [6]", "a ghost convolution makes an even number of channels, found 1"),
        ("C3TR, [10]", "expected inner channels in multiples of the 4 heads, found 5"),
        ("GhostBottleneck, [16, 3, 0]", "stride: expected more than 0, found 0"),
        ("C3TR, [16, 1, 1, 1]", "C3TR takes [out_channels, shortcut, expansion], found 4 arguments"),
    ],
)
def test_rows_that_do_not_fit_are_named(row: str, words: str, tmp_path: Path):
    text = "nc: 3\nchannel_multiple: 1\nanchors: 3\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\n"
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        build(text + f"  - [-1, 1, {row}]\nhead: [[[0], 1, Detect, [nc, anchors]]]\n", tmp_path)
    assert str(error.value).startswith("backbone row 1 (layer 1) [-1, 1, ")


# -------------------------------------------------------------------------------------------- YAMLs of other programs

SCALED = """\
nc: 80
scales:
  n: [0.33, 0.25, 1024]
end2end: true
reg_max: 1
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, Unheard, [128, True]]
head:
  - [[1], 1, Unknown, [nc]]
"""
LOOKS = r"grammar of YOLOv5 v6: .*cfg/yolo_s\.yaml$"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            SCALED,
            "a model file of another program: unknown keys 'scales' in line 2, 'end2end' in line 4, 'reg_max' ",
        ),
        ("architecture: X\nmetric: COCO\n", "a model file of another program: unknown keys 'architecture' in line 1, "),
        ("model: {backbone: []}\n", "a model file of another program: unknown keys 'model' in line 1;"),
        ("path: x\ntrain: y\nval: z\nnames: [a]\n", r"a dataset YAML \(--data\): unknown keys 'path' in line 1, "),
        ("lr0: 0.01\nmomentum: 0.9\n", r"a hyp file \(--hyp\): unknown keys 'lr0' in line 1, 'momentum' in line 2;"),
    ],
)
def test_a_yaml_of_another_program_says_so_in_one_line(text: str, words: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"model\.yaml: seems to be {words}") as error:
        build(text, tmp_path)
    assert "\n" not in str(error.value) and re.search(LOOKS, str(error.value))


def test_a_misspelt_key_is_named_with_the_nearest_and_bad_rows_beside_it(tmp_path: Path):
    text = SCALED.replace("scales:\n  n: [0.33, 0.25, 1024]\nend2end: true\nreg_max: 1", "dept_multiple: 1")
    with pytest.raises(ConfigError) as error:
        build(text, tmp_path)
    lines = str(error.value).splitlines()
    assert "unknown key 'dept_multiple' (nearest: 'depth_multiple')" in lines[0] and len(lines) == 3
