"""Laws of Faster R-CNN: the same as torchvision's, whatever the box loss, and quiet about randomness and network."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, tiny_config, with_figures
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

import yolo_lite.engine.train as train_module
from yolo_lite.cli.main import val_main
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.load import load_model_config, validate
from yolo_lite.config.model import FasterRcnnConfig
from yolo_lite.config.run import RunConfig
from yolo_lite.config.yaml_file import parse_yaml, read_yaml
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.state import Resume
from yolo_lite.engine.train import train
from yolo_lite.loss.box import BOX_LOSSES, BoxLoss
from yolo_lite.model.faster_rcnn import (
    BACKBONES,
    BoxObjective,
    FasterRcnn,
    StageLosses,
)
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Detections, Objects

NUM_CLASSES = 3
TINY = "family: faster_rcnn\nnc: 3\nbackbone: mobilenet_v3_small\nanchors: [16, 32, 64]\nrpn_post_nms: [200, 60]\n"
FEW = "rpn_samples: 32\nroi_samples: 32\n"  # which anchors and proposals are sampled is a matter of chance
NINTH = {"smooth_l1": {"beta": 1 / 9}}
DELTA_LOSSES = {
    name: functools.partial(BoxLoss(name, **NINTH.get(name, {})), encoded=True)
    for name in BOX_LOSSES
    if BoxLoss(name).of_coordinates
}
SMOOTH_L1 = BoxObjective(DELTA_LOSSES["smooth_l1"], encoded=True)
AS_TORCHVISION = (SMOOTH_L1, SMOOTH_L1)
BOX_NAMES = [name for name in BOX_LOSSES if name not in DELTA_LOSSES]


def config(text: str = TINY) -> FasterRcnnConfig:
    return validate(FasterRcnnConfig, parse_yaml(text, "model.yaml"), SEAMS)


def box_objectives(name: str, gain: float = 1.0) -> tuple[BoxObjective, BoxObjective]:
    each = BoxObjective(BoxLoss(name), encoded=False, gain=gain)
    return each, each


def detections(network: FasterRcnn, raw: Any, confidence: float) -> list[Detections]:
    return network.detections(raw, (64, 96), DetectOptions(confidence, iou=0.5, max_detections=100))


def model(text: str = TINY, seed: int = 0) -> FasterRcnn:
    torch.manual_seed(seed)
    return FasterRcnn(config(text))


def targets(*rows: tuple[int, int, float, float, float, float]) -> Objects:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Objects(table[:, 0].long(), table[:, 1].long(), table[:, 2:])


IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
BOTH = targets((0, 0, 30, 20, 24, 18), (0, 2, 70, 40, 40, 30), (1, 1, 48, 32, 60, 50), (1, 1, 20, 50, 9, 14))
SECOND = targets((1, 2, 40, 30, 33, 22))
NONE = targets()


@dataclass(frozen=True)
class Scene:
    """A model in evaluation mode and what it says of IMAGES; tests do not change it."""

    model: FasterRcnn
    raw: Any


@pytest.fixture(scope="module")
def scene() -> Scene:
    trained = model()
    with torch.no_grad():  # batch statistics that fit, and a second stage with an opinion
        for _ in range(20):
            trained.first_stage(IMAGES)
        nn.init.normal_(trained.roi_heads.box_predictor.bbox_pred.weight, std=0.02)
        nn.init.normal_(trained.roi_heads.box_predictor.cls_score.weight, std=0.1)
        return Scene(trained.eval(), trained(IMAGES))


# ------------------------------------------------------------------------------------- the same as torchvision's


def plain_torchvision(ours: FasterRcnn) -> FasterRCNN:
    """torchvision's own model with its own forward, with our weights."""
    make: Callable[..., nn.Module] = mobilenet_backbone
    extra: dict[str, Any] = {"fpn": True, "trainable_layers": 6}
    if ours.config.backbone.startswith("resnet"):
        make, extra = resnet_fpn_backbone, {"trainable_layers": 5}
    backbone = make(backbone_name=ours.config.backbone, weights=None, norm_layer=nn.BatchNorm2d, **extra)
    sizes = ours.rpn.anchor_generator.sizes
    names = ("rpn_pre_nms_top_n", "rpn_post_nms_top_n")
    pairs = zip(names, (ours.config.rpn_pre_nms, ours.config.rpn_post_nms), strict=True)
    top = {f"{name}_{mode}": n for name, pair in pairs for mode, n in zip(("train", "test"), pair, strict=True)}
    plain = FasterRCNN(
        backbone,
        num_classes=ours.config.nc + 1,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        rpn_batch_size_per_image=ours.config.rpn_samples,
        box_batch_size_per_image=ours.config.roi_samples,
        box_score_thresh=0.1,
        **top,
    )
    plain.load_state_dict(ours.state_dict())
    return plain


def torchvision_targets(found: Objects, num_images: int) -> list[dict[str, Tensor]]:
    own = [found.image == image for image in range(num_images)]
    return [{"boxes": cxcywh_to_xyxy(found.box[mine]), "labels": found.label[mine] + 1} for mine in own]


NESTED = TINY.replace("mobilenet_v3_small", "resnet18").replace("[16, 32, 64]", "[[8], [16], [32], [64], [96]]")


@pytest.mark.parametrize(
    ("text", "objects"),
    [(TINY, BOTH), (TINY, SECOND), (TINY, NONE), (NESTED, SECOND)],
    ids=["both", "second", "none", "resnet"],
)
def test_the_four_losses_and_their_gradients_are_those_of_torchvision(text: str, objects: Objects):
    ours = model(text + FEW).train()
    theirs = plain_torchvision(ours).train()
    theirs.rpn.register_forward_pre_hook(lambda *_: torch.manual_seed(7) and None)  # its resizing draws a number too
    expected = theirs(list(IMAGES), torchvision_targets(objects, 2))
    first = ours.first_stage(IMAGES)
    torch.manual_seed(7)
    found = ours.losses(first, objects, *AS_TORCHVISION)
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    for value, name in zip(found, names, strict=True):
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)
    sum(found).backward()
    sum(expected.values()).backward()
    for (name, a), (same, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == same
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            assert (a.grad - b.grad).norm() <= 1e-3 * b.grad.norm() + 1e-6, name


def test_detections_are_those_of_torchvision(scene: Scene):
    with torch.no_grad():
        expected = plain_torchvision(scene.model).eval()(list(IMAGES))
    for found, theirs in zip(detections(scene.model, scene.raw, 0.1), expected, strict=True):
        assert len(found.label) > 3
        torch.testing.assert_close(found.score, theirs["scores"])
        torch.testing.assert_close(found.box, theirs["boxes"], rtol=1e-4, atol=1e-3)
        assert torch.equal(found.label + 1, theirs["labels"])


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("nc: 90\nbackbone: mobilenet_v3_large", fasterrcnn_mobilenet_v3_large_320_fpn),
        ("nc: 90\nbackbone: resnet50\nanchors: [[32], [64], [128], [256], [512]]", fasterrcnn_resnet50_fpn),
    ],
    ids=["mobilenet", "resnet50"],
)
def test_parameters_have_the_names_and_shapes_of_torchvisions_coco_models(text: str, build: Callable[..., FasterRCNN]):
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None).state_dict()
        ours = FasterRcnn(config(f"family: faster_rcnn\n{text}\n")).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in theirs.items()}


# -------------------------------------------------------------------------------------------------- box losses


@pytest.mark.parametrize("name", BOX_NAMES)
@pytest.mark.parametrize("objects", [BOTH, NONE], ids=["objects", "none"])
def test_every_box_loss_is_finite_and_has_a_finite_gradient(name: str, objects: Objects, scene: Scene):
    deltas = scene.raw.first.deltas.clone().requires_grad_()
    first = scene.raw.first._replace(deltas=deltas)
    losses = scene.model.losses(first, objects, *box_objectives(name))
    learned = [deltas, scene.model.roi_heads.box_predictor.bbox_pred.weight]
    gradients = torch.autograd.grad(losses.box + losses.rpn_box, learned)
    assert all(loss.isfinite() for loss in losses)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(bool(gradient.any()) == (len(objects.label) > 0) for gradient in gradients)
    assert (losses.box > 0) == (losses.rpn_box > 0) == (len(objects.label) > 0)


@pytest.mark.parametrize("name", BOX_LOSSES)
@pytest.mark.parametrize("stage", ["rpn", "roi_heads"])
def test_at_perfect_deltas_every_box_loss_is_zero(name: str, stage: str, scene: Scene):
    coder = getattr(scene.model, stage).box_coder
    reference = cxcywh_to_xyxy(torch.tensor([[30.0, 40, 20, 30], [50, 50, 64, 32], [10, 90, 16, 16]]))
    objects = cxcywh_to_xyxy(torch.tensor([[33.0, 38, 25, 28], [40, 60, 50, 50], [11, 88, 20, 12]]))
    objective = BoxObjective(DELTA_LOSSES[name], encoded=True) if name in DELTA_LOSSES else box_objectives(name)[0]
    perfect = coder.encode_single(objects, reference)
    assert objective.total(coder, perfect, reference, objects).abs() < 1e-4
    assert objective.total(coder, perfect + 0.5, reference, objects) > 1e-3


def test_a_box_loss_on_boxes_sees_decoded_boxes_of_the_true_class_and_their_objects_in_pixels(scene: Scene):
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(predicted: Tensor, target: Tensor) -> Tensor:
        seen.append((predicted, target))
        return predicted.sum(dim=1) * 0

    objective = BoxObjective(spy, encoded=False)
    scene.model.validation_losses(scene.raw.first, SECOND, objective, objective)
    (_, of_anchors), (predicted, of_proposals) = seen
    assert len(of_anchors) > 0 and len(of_proposals) > 0
    for target in (of_anchors, of_proposals):
        torch.testing.assert_close(target, SECOND.box.expand_as(target))
    # The object itself is always among the proposals: its box for label 2 must have been seen.
    itself = [SECOND.box.new_zeros(0, 4), cxcywh_to_xyxy(SECOND.box)]
    with torch.no_grad():
        _, deltas = scene.model.second_stage(scene.raw.first, itself)
    decoded = scene.model.roi_heads.box_coder.decode_single(deltas[0, 3:4], itself[1])
    assert (cxcywh_to_xyxy(predicted) - decoded).abs().amax(dim=1).min() < 1e-3


def test_the_gain_multiplies_the_box_losses_alone(scene: Scene):
    once, thrice = (
        scene.model.validation_losses(scene.raw.first, BOTH, *box_objectives("giou", gain)) for gain in (1.0, 3.0)
    )
    torch.testing.assert_close(thrice.box, 3 * once.box)
    torch.testing.assert_close(thrice.rpn_box, 3 * once.rpn_box)
    assert (thrice.objectness, thrice.classifier) == (once.objectness, once.classifier)


@pytest.mark.parametrize("name", sorted(DELTA_LOSSES))
def test_delta_losses_are_those_of_torch(name: str):
    functions: dict[str, Callable[..., Tensor]] = {
        "l1": nn.functional.l1_loss,
        "l2": nn.functional.mse_loss,
        "smooth_l1": lambda a, b, reduction: nn.functional.smooth_l1_loss(a, b, beta=1 / 9, reduction=reduction),
    }
    a, b = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(DELTA_LOSSES[name](a, b), functions[name](a, b, reduction="none").sum(dim=1))
    assert DELTA_LOSSES[name](a.half(), b.half()).dtype == torch.float32


# ------------------------------------------------------------------------------------------------- normalisation


def single(objects: Objects, image: int) -> Objects:
    mine = objects.image == image
    return Objects(torch.zeros_like(objects.image[mine]), objects.label[mine], objects.box[mine])


def test_losses_of_a_batch_are_means_over_its_images_weighted_by_their_samples(scene: Scene):
    # So few anchors and proposals that all of them are sampled: nothing depends on chance.
    objectives = box_objectives("giou")
    together = scene.model.validation_losses(scene.raw.first, BOTH, *objectives)
    parts: list[StageLosses] = []
    samples: list[tuple[int, int]] = []
    for image in range(2):
        own = single(BOTH, image)
        with torch.no_grad():
            raw = scene.model(IMAGES[image : image + 1])
        parts.append(scene.model.validation_losses(raw.first, own, *objectives))
        (assigned,), _ = scene.model.rpn.assign_targets_to_anchors([raw.first.anchors], torchvision_targets(own, 1))
        samples.append((int((assigned >= 0).sum()), len(raw.first.proposals[0]) + len(own.label)))
    for index, value in enumerate(together):
        weight = torch.tensor([float(count[index // 2]) for count in samples])
        mean = (torch.stack([part[index] for part in parts]) * weight).sum() / weight.sum()
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)


def test_targets_without_an_area_are_left_out(scene: Scene):
    flat = targets((0, 0, 30, 20, 0, 18), (1, 1, 9, 9, 5, 0), (1, 1, 90, 9, 1e-7, 1e-7), (1, 2, 40, 30, 33, 22))
    found = scene.model.validation_losses(scene.raw.first, flat, *AS_TORCHVISION)
    assert found == scene.model.validation_losses(scene.raw.first, SECOND, *AS_TORCHVISION)


# ------------------------------------------------------------------------------------------------------ inference


@pytest.mark.parametrize("name", BACKBONES)
def test_boxes_lie_inside_the_picture_scores_in_0_1_and_labels_count_from_0(name: str):
    detector = model(TINY.replace("mobilenet_v3_small", name)).eval()
    nn.init.normal_(detector.roi_heads.box_predictor.bbox_pred.weight, std=0.1)
    with torch.no_grad():
        found = detections(detector, detector(IMAGES), 0.01)
    assert len(found) == 2
    for one in found:
        assert len(one.score) > 0
        assert (one.box[:, :2] >= 0).all() and (one.box[:, 2:] <= torch.tensor([96, 64])).all()
        assert (one.box[:, 2:] > one.box[:, :2]).all()
        assert ((one.score > 0.01) & (one.score <= 1)).all() and (one.score.diff() <= 0).all()
        assert set(one.label.tolist()) <= set(range(NUM_CLASSES))


def test_without_proposals_there_are_no_detections_and_losses_are_finite(scene: Scene):
    nothing = [IMAGES.new_zeros(0, 4)] * 2
    first = scene.raw.first._replace(proposals=nothing)
    raw = scene.raw._replace(first=first, logits=scene.raw.logits[:0], box=scene.raw.box[:0])
    assert [len(found.score) for found in detections(scene.model, raw, 0.0)] == [0, 0]
    logits, deltas = scene.model.second_stage(first, nothing)
    assert logits.shape == (0, 1 + NUM_CLASSES) and deltas.shape == (0, 1 + NUM_CLASSES, 4)
    assert all(loss.isfinite() for loss in scene.model.validation_losses(raw.first, NONE, *box_objectives("ciou")))


def test_under_autocast_anchors_stay_exact_and_losses_float32(scene: Scene):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = scene.model(IMAGES)
        losses = scene.model.losses(raw.first, BOTH, *box_objectives("ciou"))
    outside = scene.model.validation_losses(raw.first, BOTH, *box_objectives("ciou"))  # and without it, on the same raw
    assert torch.equal(raw.first.anchors, scene.raw.first.anchors)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in (*losses, *outside))


# --------------------------------------------------------------------------------------------- what stays untouched


def test_validation_losses_repeat_and_touch_no_generator_and_no_state(scene: Scene):
    few = model(TINY + FEW).eval()
    few.load_state_dict(scene.model.state_dict())
    before, generator = {name: value.clone() for name, value in few.state_dict().items()}, torch.get_rng_state()
    with torch.inference_mode():
        raw = few(IMAGES)
        one, again = (few.validation_losses(raw.first, BOTH, *AS_TORCHVISION) for _ in range(2))
        other = few.validation_losses(raw.first, BOTH, *AS_TORCHVISION, seed=1)
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in few.state_dict().items())


def test_from_scratch_all_parameters_learn_and_pretrained_the_first_stages_are_frozen():
    scratch, pretrained = model(), FasterRcnn(config(TINY + "pretrained: true\n"))
    assert all(parameter.requires_grad for parameter in scratch.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in scratch.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in pretrained.modules())
    assert not all(parameter.requires_grad for parameter in pretrained.backbone.body.parameters())


def test_at_the_start_classes_are_evenly_likely_and_boxes_are_their_proposals():
    fresh = model()
    with torch.no_grad():
        for _ in range(20):
            fresh.first_stage(IMAGES)
        raw = fresh.eval()(IMAGES)
    assert raw.logits.abs().max() < 0.5
    proposals = torch.cat(raw.first.proposals)
    assert ((raw.box - proposals[:, None]).abs() < 0.05 * 96).all()


def test_a_training_step_lowers_the_losses():
    learner = model(TINY + FEW).train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    totals = []
    for _ in range(6):
        total = sum(learner.losses(learner.first_stage(IMAGES), BOTH, *box_objectives("giou")))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0]


# -------------------------------------------------------------------------------------------------- configuration


def test_the_yaml_of_the_repository_loads_and_comes_back_from_plain_data():
    loaded = validate(FasterRcnnConfig, read_yaml(REPOSITORY / "cfg/faster_rcnn.yaml"))
    assert loaded.backbone == "mobilenet_v3_large" and not loaded.pretrained
    assert FasterRcnnConfig.model_validate(loaded.model_dump(mode="json")) == loaded
    nested = config(NESTED)
    assert FasterRcnnConfig.model_validate(nested.model_dump(mode="json")) == nested


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("backbone: resnet5", "backbone: unknown name 'resnet5' (nearest: 'resnet50')"),
        ("family: yolo", "family: expected 'faster_rcnn', found 'yolo'"),
        ("nc: 0", "nc: expected 1 or more, found 0"),
        (
            "anchors: 3",
            "anchors: expected a list of positive numbers, or one for each level, all of one length, found 3",
        ),
        (
            "anchors: []",
            "anchors: expected a list of positive numbers, or one for each level, all of one length, found []",
        ),
        (
            "anchors: [32, -1]",
            "anchors: expected a list of positive numbers, or one for each level, all of one length, found [32, -1]",
        ),
        (
            "anchors: [[32], 3]",
            "expected a list of positive numbers, or one for each level, all of one length, found [[32], 3]",
        ),
        (
            "anchors: [[32], [3, 4]]",
            "expected a list of positive numbers, or one for each level, all of one length, found [[32], [3, 4]]",
        ),
        ("aspect_ratios: [true]", "aspect_ratios: expected a list of positive numbers, found [True]"),
        (
            "rpn_pre_nms: 100",
            "rpn_pre_nms: expected [train, test], two whole numbers of 1 or more, found 100",
        ),
        (
            "rpn_post_nms: [100, 0]",
            "rpn_post_nms: expected [train, test], two whole numbers of 1 or more, found [100, 0]",
        ),
        ("pretrained: imagenet", "pretrained: expected true or false, found 'imagenet'"),
        ("roi_sample: 3", "unknown key 'roi_sample' (nearest: 'roi_samples')"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(line: str, message: str):
    key = line.split(":")[0]
    rest = "" if key == "family" else "family: faster_rcnn\n"
    with pytest.raises(ConfigError) as error:
        config(f"{rest}{line}\n")
    assert message in str(error.value)


def test_levels_and_anchors_must_fit_the_backbone():
    with pytest.raises(ConfigError, match="levels: expected 5 or less for mobilenet_v3_small, found 6"):
        model(TINY + "levels: 6\n")
    with pytest.raises(ConfigError, match="anchors: expected one list for all or 3, one for each level, found 5"):
        model(NESTED.replace("resnet18", "mobilenet_v3_small"))


def test_more_levels_give_finer_maps():
    with torch.no_grad():
        features = model(TINY + "levels: 4\n").eval().first_stage(IMAGES).features
    assert [64 // feature.shape[2] for feature in features.values()] == [8, 16, 32, 32, 64]


# ----------------------------------------------------------------------------------------- through the same engine


def two_stage_config(data: Path, project: Path, *words: str) -> RunConfig:
    """A run of a small Faster R-CNN; the flags that come later win."""
    files = ["--cfg", str(REPOSITORY / "cfg/faster_rcnn.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp_faster_rcnn.yaml")]
    small = ["model.backbone=mobilenet_v3_small", "model.roi_samples=16", "model.rpn_samples=16"]
    small += ["model.rpn_post_nms=[100, 30]"]
    return tiny_config(data, project, *files, "--set", *small, *words)


@pytest.fixture(scope="module")
def two_stage_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished short run; tests only read it."""
    return train(with_figures(two_stage_config(tiny_data, tmp_path_factory.mktemp("runs")))).folder


def test_train_py_leaves_the_same_files_and_figures_as_for_yolo(two_stage_run: Path, tiny_run: Path):
    files = [{path.relative_to(run).as_posix() for path in run.rglob("*.*")} for run in (two_stage_run, tiny_run)]
    mine, theirs = ({name for name in own if "tfevents" not in name} for own in files)
    assert mine == theirs - {"assigned_anchors.jpg"}
    header, *rows = (two_stage_run / "results.csv").read_text().splitlines()
    for part in ("train", "val"):  # its own four losses
        four = ",".join(f"{part}/{name}_loss" for name in ("obj", "rpn_box", "cls", "box"))
        three = ",".join(f"{part}/{name}_loss" for name in ("box", "obj", "cls"))
        assert four in header
        header = header.replace(four, three)
    assert header == (tiny_run / "results.csv").read_text().splitlines()[0] and len(rows) == 2


def test_val_py_gives_the_figures_of_training_again(two_stage_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = two_stage_run / "weights/last.pt"
    assert val_main(["--weights", str(weights), "--device", "cpu", "--workers", "0"]) == 0
    metrics = json.loads((tmp_path / "runs/val/exp/metrics.json").read_text())
    row = load_checkpoint(weights)["metrics"]
    assert metrics["map50_95"] == row["metrics/mAP50-95"] and metrics["map50"] == row["metrics/mAP50"]
    assert metrics["losses"]["box_loss"] == pytest.approx(row["val/box_loss"])
    assert metrics["unmatched_targets"] == 0


@pytest.mark.slow
def test_a_resumed_run_samples_the_same_anchors_and_proposals(two_stage_run: Path, tiny_data: Path, tmp_path: Path):
    config = two_stage_config(tiny_data, tmp_path)

    def stop_after_the_first_epoch(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "say", stop_after_the_first_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    folder = tmp_path / "exp"
    train(config, Resume(folder, load_checkpoint(folder / "weights/last.pt")))
    assert (folder / "results.csv").read_bytes() == (two_stage_run / "results.csv").read_bytes()


def test_keys_without_effect_are_refused(tiny_data: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="cls_loss: without effect on Faster R-CNN"):
        train(two_stage_config(tiny_data, tmp_path, "cls_loss=focal"))


@pytest.mark.parametrize("family", ["faster_rcn", "7", "[yolo]"])
def test_an_unknown_family_is_named(family: str, tmp_path: Path):
    (tmp_path / "model.yaml").write_text(f"nc: 3\nfamily: {family}\n")
    with pytest.raises(ConfigError, match=r"model\.yaml:2: family: unknown name"):
        load_model_config(tmp_path / "model.yaml")
