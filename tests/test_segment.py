"""Heads with masks: sizes, what comes out, the mask loss against slow loops and finite differences, and its laws."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, rows_of, tiny_config
from test_resume import assert_same_run, go_on, last_of, send, stop_after
from torch import Tensor

from yolo_lite.config.errors import ConfigError, StoppedError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_hyp, load_model_config
from yolo_lite.config.model import ModelConfig
from yolo_lite.engine.checkpoint import save_checkpoint
from yolo_lite.engine.multi_scale import multi_scaled
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.start import start_from
from yolo_lite.engine.tasks import TASKS, task_of
from yolo_lite.engine.train import train
from yolo_lite.loss.criteria import segment
from yolo_lite.loss.criteria.segment import mask_loss, windows_of
from yolo_lite.loss.mask import MASK_LOSSES
from yolo_lite.model.detector import Detector
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Batch, Detections, Matches, Objects, Raw

HEADS = ("yolo_n_seg", "yolo_n_seg_free")
every_head = pytest.mark.parametrize("cfg", HEADS)
every_loss = pytest.mark.parametrize("name", MASK_LOSSES)


def model_config(cfg: str = "yolo_n_seg", **changes) -> ModelConfig:
    return load_model_config(REPOSITORY / f"cfg/{cfg}.yaml", seams=SEAMS).model_copy(update=changes)


def some_objects(count: int = 5, size: tuple[int, int] = (64, 96), images: int = 2, seed: int = 0) -> Objects:
    """Boxes inside the input, a noisy mask of each."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([size[1], size[0]])
    side = torch.rand(count, 2, generator=generator) * limit * 0.6 + 6
    box = torch.cat((side / 2 + torch.rand(count, 2, generator=generator) * (limit - side), side), dim=1)
    mask = torch.rand(count, size[0] // 4, size[1] // 4, generator=generator) > 0.4
    label = torch.arange(count) % 3
    return Objects(torch.arange(count) % images, label, box, mask.to(torch.uint8))


def some_raw(objects: Objects, slots: int = 40, images: int = 2, depth: int = 4, seed: int = 1) -> Raw:
    """Coefficients and prototypes in float64, nothing else."""
    assert objects.mask is not None
    generator = torch.Generator().manual_seed(seed)
    coefficient = torch.randn(images, slots, depth, generator=generator, dtype=torch.float64)
    prototype = torch.randn(images, depth, *objects.mask.shape[1:], generator=generator, dtype=torch.float64)
    return Raw(coefficient.requires_grad_(), {"coefficient": slice(None)}, {"prototype": prototype.requires_grad_()})


def some_matches(objects: Objects, per_object: Sequence[int] = (3, 1, 0, 4, 2)) -> Matches:
    """So many pairs of each object, on slots of their own, in no order."""
    target = torch.cat([torch.full((count,), row) for row, count in enumerate(per_object)])
    target = target[torch.randperm(len(target), generator=torch.Generator().manual_seed(2))]
    return Matches(objects.image[target], torch.arange(len(target)), target, torch.ones(len(target)))


def slow_window(box: list[float], rows: int, columns: int) -> list[tuple[int, int]]:
    """The cells from which linear interpolation reads somewhere inside a box of cxcywh pixels."""
    left, right = (box[0] - box[2] / 2) / 4, (box[0] + box[2] / 2) / 4
    top, bottom = (box[1] - box[3] / 2) / 4, (box[1] + box[3] / 2) / 4
    return [
        (y, x)
        for y in range(rows)
        for x in range(columns)
        if left - 1 <= x + 0.5 <= right + 1 and top - 1 <= y + 0.5 <= bottom + 1
    ]


def slow_mask_loss(raw: Raw, objects: Objects, matches: Matches, weight: Tensor, name: str, **parameters) -> Tensor:
    """Pair by pair and cell by cell."""
    total = torch.zeros((), dtype=torch.float64)
    for image, slot, target, each in zip(*map(Tensor.tolist, (*matches[:3], weight)), strict=True):
        mask = objects.mask[target]
        cells = slow_window(objects.box[target].tolist(), *mask.shape)
        logits = torch.stack(
            [
                sum(
                    raw["coefficient"][image, slot, k] * raw["prototype"][image, k, y, x]
                    for k in range(raw.slots.shape[2])
                )
                for y, x in cells
            ]
        )
        label = torch.stack([mask[y, x] for y, x in cells]).long()
        total = total + each * MASK_LOSSES[name](logits[None, None, None], label[None, None], **parameters)
    return total


# ------------------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [
        *[(0.33, 0.25, 1_991_549), (0.33, 0.5, 7_621_277), (0.67, 0.75, 21_990_397)],
        *[(1.0, 1.0, 47_924_957), (1.33, 1.25, 88_819_517)],
    ],
)
def test_the_sizes_of_yolov5s_segmentation_models_are_reached_to_the_unit(depth, width, parameters):
    with torch.device("meta"):
        detector = Detector(model_config(depth_multiple=depth, width_multiple=width))
    assert sum(parameter.numel() for parameter in detector.parameters()) == parameters


@pytest.mark.parametrize("cfg", [*HEADS, "yolo_s_seg"])
def test_a_header_tells_the_size_of_its_model(cfg: str):
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Detector(model_config(cfg)).parameters())
    assert f"{parameters:,} parameters at nc 80" in (REPOSITORY / f"cfg/{cfg}.yaml").read_text().splitlines()[0]


@every_head
def test_the_outputs_of_a_head_with_masks(cfg: str):
    detector = Detector(model_config(cfg, nc=3)).eval()
    with torch.no_grad():
        raw = detector(torch.rand(2, 3, 64, 96))
    slots = detector.grid(64, 96).num_slots
    assert raw["coefficient"].shape == (2, slots, 32)
    assert raw["prototype"].shape == (2, 32, 16, 24)
    assert raw["cls"].shape == (2, slots, 3)
    own = detector.head.predictions(raw, detector.grid(64, 96))
    assert own.shape == (2, slots, 5 + 3 + 32)
    assert torch.equal(own[..., 8:], raw["coefficient"])
    assert task_of(detector.config) is TASKS["segment"]


@every_head
def test_the_mask_of_a_detection_is_its_slots_coefficients_times_the_prototypes_of_its_image(cfg: str):
    detector = Detector(model_config(cfg, nc=3)).eval()
    with torch.no_grad():
        raw = detector(torch.rand(2, 3, 64, 96))
        options = DetectOptions(confidence=0.0, max_detections=20)
        images = detector.detections(raw, (64, 96), options)
        score = detector.head.scores(raw)
    assert not torch.equal(raw["prototype"][0], raw["prototype"][1])
    for image, found in enumerate(images):
        assert found.mask is not None and found.mask.shape == (20, 16, 24) and found.mask.dtype == torch.float32
        for row in range(20):
            slot = (score[image, :, found.label[row]] == found.score[row]).nonzero()[:, 0]
            expected = torch.einsum("sc,chw->shw", raw["coefficient"][image, slot], raw["prototype"][image])
            assert min((one - found.mask[row]).abs().max() for one in expected) < 1e-5


def test_detections_of_a_batch_come_one_image_after_the_other(monkeypatch):
    """Three hundred masks of an image are 31 MB at 640 px: those of a batch are never in memory together."""
    detector = Detector(model_config(nc=3)).eval()
    made, head = list[Detections](), type(detector.head)
    alone = head.detections
    monkeypatch.setattr(head, "detections", lambda *given: made.append(alone(*given)) or made[-1])
    with torch.no_grad():
        stream = iter(detector.detections(detector(torch.rand(2, 3, 32, 32)), (32, 32), DetectOptions()))
        for number, found in enumerate(stream, 1):
            assert len(made) == number and found is made[-1]
    assert len(made) == 2


@every_head
def test_a_fused_model_finds_the_same(cfg: str):
    torch.manual_seed(0)
    detector = Detector(model_config(cfg, nc=3))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        detector(images)  # statistics other than 0 and 1
        detector.eval()
        one, other = detector(images), detector.for_inference()(images)
    torch.testing.assert_close(one["prototype"], other["prototype"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.slots, other.slots, rtol=1e-4, atol=1e-4)


@every_head
def test_class_rows_follow_the_classes_and_nothing_else(cfg: str):
    with torch.device("meta"):
        few, many = (Detector(model_config(cfg, nc=count)) for count in (2, 5))
    rows, states = few.class_rows(), (few.state_dict(), many.state_dict())
    assert set(rows) == {name for name in states[0] if states[0][name].shape != states[1][name].shape}
    for name, each in rows.items():
        assert [each.count(count) for count in (2, 5)] == [len(state[name]) for state in states]


def test_the_rows_of_an_anchor_are_box_objectness_classes_coefficients():
    rows = Detector(model_config(nc=2, anchors=2)).class_rows()
    (each, *_) = rows.values()
    assert each.of([1], num_classes=2) == [*range(5), 6, *range(7, 39), *range(39, 44), 45, *range(46, 78)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("[17, 20, 23], 1, Segment, [nc, anchors, 0, 256]", "Segment takes [nc, anchors, prototypes, width]"),
        ("[17, 20, 23], 1, Segment, [nc, anchors, 32, 256, 1]", "Segment takes [nc, anchors, prototypes, width]"),
        ("[17, 20, 23], 1, Segment, [nc, anchors, 32.5]", "Segment takes [nc, anchors, prototypes, width]"),
        ("[17, 20, 23], 1, Segment, [32, 256]", "Detect takes [nc, anchors]"),
        ("[20, 23], 1, Segment, [nc, anchors]", "finest level of stride 8, found strides [16, 32]"),
        ("[17, 20, 23], 1, SegmentFree, [nc, true]", "SegmentFree takes [nc, prototypes, width]"),
        ("[17, 20, 23], 1, Segment, [nc, anchors, 32, 16000]", "expected"),
    ],
)
def test_rows_that_make_no_head_are_refused(row: str, words: str, tmp_path: Path):
    text = (REPOSITORY / "cfg/yolo_n_seg.yaml").read_text()
    start = text.index("  - [[17, 20, 23]")
    if row.startswith("[20"):
        text = text.replace("  - [10, 13, 16, 30, 33, 23] # stride 8\n", "")
        start = text.index("  - [[17, 20, 23]")
    text = text[:start] + f"  - [{row}]\n"
    text = text.replace("width_multiple: 0.25", "width_multiple: 1.0") if "16000" in row else text
    if "Free" in row:
        text = text.replace(text[text.index("anchors:") : text.index("backbone:")], "")
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ConfigError) as error, torch.device("meta"):
        Detector(load_model_config(tmp_path / "model.yaml", seams=SEAMS))
    assert words in str(error.value)


@every_head
def test_the_budget_knows_what_the_head_costs(cfg: str):
    """Weights of the convolutions, those at stride 4 four times, for they are planned on the cells of stride 8."""
    detector = Detector(model_config(cfg))
    channels = [detector.layers[row].merge.conv.out_channels for row in (17, 20, 23)]
    planned = type(detector.head).planned(channels, detector.config, *detector.config.head[-1].args)
    built = sum(parameter.numel() for parameter in detector.head.parameters() if parameter.ndim == 4)
    fine = detector.head.prototypes
    built += 3 * (fine.behind.conv.weight.numel() + fine.mix.conv.weight.numel())
    assert sum(parameters for level in planned for parameters, _ in level) == built


def test_a_model_file_may_leave_out_prototypes_and_width():
    row = ["nc", "anchors"]
    head = model_config().head
    config = model_config(head=(*head[:-1], head[-1].model_copy(update={"args": tuple(row)})))
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Detector(config).parameters()) == 1_991_549


# ------------------------------------------------------------------------------------------------------------- the loss


@every_loss
def test_the_mask_loss_is_that_of_a_slow_loop_with_its_gradient(name: str, monkeypatch):
    objects = some_objects(size=(32, 48))
    matches, raw = some_matches(objects), some_raw(objects, depth=2)
    weight = torch.rand(len(matches.slot), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    leaves = (raw.slots, raw.maps["prototype"])
    expected = slow_mask_loss(raw, objects, matches, weight, name)
    slopes = torch.autograd.grad(expected, leaves)
    for most in (segment.MOST_NUMBERS, 1):  # one object at a time too
        monkeypatch.setattr(segment, "MOST_NUMBERS", most)
        found = mask_loss(raw, objects, matches, weight, Hyp(mask_loss=name).mask_loss)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(2 * found, leaves), tuple(2 * slope for slope in slopes))
        with torch.no_grad():
            torch.testing.assert_close(
                mask_loss(raw, objects, matches, weight, Hyp(mask_loss=name).mask_loss), expected
            )


@every_loss
def test_the_gradient_of_the_mask_loss_is_that_of_finite_differences(name: str):
    objects = some_objects(3, size=(16, 24))
    matches, raw = some_matches(objects, (2, 1, 1)), some_raw(objects, slots=4, depth=2)
    weight = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64)

    def loss(slots: Tensor, prototype: Tensor) -> Tensor:
        given = Raw(slots, raw.columns, {"prototype": prototype})
        return mask_loss(given, objects, matches, weight, Hyp(mask_loss=name).mask_loss)

    assert torch.autograd.gradcheck(loss, (raw.slots, raw.maps["prototype"]))


def test_a_mask_loss_by_hand():
    """One cell of two is right with probability 3/4, the other wrong with it: -(ln 3/4 + ln 1/4) / 2."""
    objects = Objects(
        *(torch.tensor([0]), torch.tensor([0]), torch.tensor([[4.0, 2, 8, 4]])),
        torch.tensor([[[1, 1]]], dtype=torch.uint8),
    )
    logit = math.log(3)
    raw = Raw(
        torch.tensor([[[2.0]]]), {"coefficient": slice(None)}, {"prototype": torch.tensor([[[[1, -1.0]]]]) * logit / 2}
    )
    matches = Matches(*(torch.zeros(1, dtype=torch.int64),) * 3, torch.ones(1))
    found = mask_loss(raw, objects, matches, torch.tensor([3.0]), Hyp().mask_loss)
    assert found.item() == pytest.approx(-3 * (math.log(3 / 4) + math.log(1 / 4)) / 2)


def test_losses_are_added_up_with_their_gains_and_parameters(tmp_path: Path):
    (tmp_path / "hyp.yaml").write_text("mask_loss: {bce: 0.5, tversky: {alpha: 0.9, beta: 0.1, gain: 2}, dice: 1}\n")
    losses = load_hyp(tmp_path / "hyp.yaml", (), SEAMS).mask_loss
    objects = some_objects()
    matches, raw = some_matches(objects), some_raw(objects)
    weight = torch.ones(len(matches.slot), dtype=torch.float64)
    expected = (
        0.5 * slow_mask_loss(raw, objects, matches, weight, "bce")
        + 2 * slow_mask_loss(raw, objects, matches, weight, "tversky", alpha=0.9, beta=0.1)
        + slow_mask_loss(raw, objects, matches, weight, "dice")
    )
    torch.testing.assert_close(mask_loss(raw, objects, matches, weight, losses), expected)


def test_windows_are_the_cells_that_interpolation_reads_inside_a_box():
    box = torch.tensor([[20.0, 12, 16, 8], [1, 1, 1, 1], [90, 60, 30, 30], [50, 30, 200, 200], [47.9, 33.1, 0.1, 0.1]])
    for (left, top, columns, rows, area), each in zip(windows_of(box, (64, 96)).tolist(), box.tolist(), strict=True):
        cells = [(y, x) for y in range(top, top + rows) for x in range(left, left + columns)]
        assert cells == slow_window(each, 16, 24) and area == len(cells)
    assert (windows_of(torch.tensor([[-50.0, 500, 3, 3]]), (64, 96))[:, 2:] >= 1).all()


def test_the_mask_loss_needs_memory_for_windows_alone():
    """What the largest tensor holds: not the logits of all pairs, 200 x 160 x 160."""
    objects = some_objects(20, size=(640, 640))
    objects = objects._replace(box=objects.box * torch.tensor([1, 1, 0.2, 0.2]))
    matches = some_matches(objects, [10] * 20)
    raw = some_raw(objects, slots=200, depth=8)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            largest = max(largest, found.numel() if isinstance(found, Tensor) else 0)
            return found

    with Watch():
        mask_loss(raw, objects, matches, torch.ones(200), Hyp().mask_loss).backward()
    assert largest < 200 * 160 * 160 / 4


# ------------------------------------------------------------------------------------------------------- the criterion


def criterion_and_model(cfg: str, **keys):
    torch.manual_seed(0)
    config = model_config(cfg, nc=3)
    return task_of(config).criterion(config, Hyp(**keys), np.ones(3)), Detector(config)


def gradient(criterion, detector, batches: Sequence[tuple[Tensor, Objects]]) -> tuple[Tensor, list[Tensor]]:
    """Losses and gradient of a step over some batches, as ``train_step`` takes them."""
    grids = [detector.grid(*images.shape[2:]) for images, _ in batches]
    totals, matches = None, [None] * len(batches)
    if not criterion.needs_predictions:
        matches = [criterion.assign(objects, grid) for (_, objects), grid in zip(batches, grids, strict=True)]
        totals = criterion.totals(matches, grids, sum(len(images) for images, _ in batches))
    losses, divisor = torch.zeros(len(criterion.names)), torch.zeros(())
    detector.zero_grad()
    for (images, objects), grid, match in zip(batches, grids, matches, strict=True):
        raw = detector(images)
        if criterion.needs_predictions:
            match = criterion.assign(objects, grid, criterion.predictions(raw, grid))
            divisor += criterion.divisor(match)
        found = criterion(raw, objects, match, grid, totals)
        assert tuple(found) == criterion.names
        values = torch.stack(tuple(found.values()))
        values.sum().backward()
        losses += values.detach()
    divisor = divisor.clamp(min=1)
    return losses / divisor, [parameter.grad / divisor for parameter in detector.parameters()]


@every_head
@pytest.mark.parametrize("norm", ["area", "step"])
def test_losses_and_gradient_do_not_depend_on_how_a_step_is_split(cfg: str, norm: str):
    criterion, detector = criterion_and_model(cfg, mask_norm=norm, mask_loss={"bce": 1, "dice": 1})
    detector.eval()  # batch statistics do depend on it
    images, objects = torch.rand(4, 3, 64, 96), some_objects(7, images=4)
    whole = gradient(criterion, detector, [(images, objects)])
    own = [objects.image < 1, objects.image >= 1]
    parts = [
        (images[:1], objects.select(own[0])),
        (images[1:], objects.select(own[1])._replace(image=objects.image[own[1]] - 1)),
    ]
    split = gradient(criterion, detector, parts)
    torch.testing.assert_close(whole[0], split[0])
    scale = max(one.abs().max() for one in whole[1])
    for one, other in zip(whole[1], split[1], strict=True):
        torch.testing.assert_close(one / scale, other / scale, rtol=1e-3, atol=1e-5)


@every_head
def test_a_batch_without_objects_has_mask_loss_zero_and_a_gradient(cfg: str):
    criterion, detector = criterion_and_model(cfg)
    losses, slopes = gradient(criterion, detector, [(torch.rand(1, 3, 64, 96), some_objects(0))])
    assert losses[-1] == 0 and all(slope.isfinite().all() for slope in slopes)


def test_by_step_every_pixel_counts_the_same_and_by_area_every_mask():
    """Masks that are wrong everywhere: a mean of equals, whatever the weights; then one is right."""
    found = {}
    for norm in ("area", "step"):
        criterion, detector = criterion_and_model("yolo_n_seg", mask_norm=norm, mask=1.0, box=0.0, obj=0.0, cls=0.0)
        box = torch.tensor([[16.0, 16, 16, 16], [64, 32, 30, 30]])
        objects = Objects(torch.zeros(2).long(), torch.zeros(2).long(), box, torch.ones(2, 16, 24, dtype=torch.uint8))
        grid = detector.grid(64, 96)
        raw = Raw(
            torch.zeros(1, grid.num_slots, 8 + 32), detector.head.columns, {"prototype": torch.ones(1, 32, 16, 24)}
        )
        matches = criterion.assign(objects, grid)
        raw.slots[0, matches.slot[matches.target == 1], 8:] = 10.0  # the large object is right
        totals = criterion.totals([matches], [grid], 1)
        found[norm] = criterion(raw, objects, matches, grid, totals)["mask"].item()
        level, wrong = grid.level[matches.slot], (matches.target == 0).float()
        area = windows_of(box, (64, 96))[matches.target, 4].float() if norm == "step" else torch.ones_like(wrong)
        shares = [(wrong * area)[level == one].sum() / area[level == one].sum() for one in level.unique()]
        assert found[norm] == pytest.approx(math.log(2) * float(sum(shares)), rel=1e-5)
    assert found["step"] < found["area"]


@every_head
@every_loss
def test_every_mask_loss_falls_by_its_key(cfg: str, name: str):
    """A few steps on two images: finite, and lower at the end."""
    criterion, detector = criterion_and_model(cfg, mask_loss=name, mask=1.0)
    images, objects = torch.rand(2, 3, 64, 64), some_objects(4, size=(64, 64))
    smooth = torch.zeros(4, 16, 16, dtype=torch.uint8)
    smooth[:, 4:12, 2:11] = 1
    objects = objects._replace(mask=smooth)
    learnt = [*detector.head.parameters()]
    optimizer, values = torch.optim.AdamW(learnt, lr=0.01), []
    for _ in range(6):
        losses, slopes = gradient(criterion, detector, [(images, objects)])
        assert losses.isfinite().all() and all(slope.isfinite().all() for slope in slopes)
        values.append(losses[-1].item())
        optimizer.step()
    assert values[-1] < 0.9 * values[0]


@every_head
def test_the_same_step_gives_the_same_bits(cfg: str):
    found = []
    for _ in range(2):
        criterion, detector = criterion_and_model(cfg, mask_loss={"bce": 1, "lovasz": 1})
        images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
        found.append(gradient(criterion, detector, [(images, some_objects())]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(*pair) for pair in zip(found[0][1], found[1][1], strict=True))


def test_half_precision_outputs_give_a_float32_loss_near_the_exact_one():
    objects = some_objects()
    matches, raw = some_matches(objects), some_raw(objects)
    weight, losses = torch.ones(len(matches.slot)), Hyp(mask_loss={"bce": 1, "dice": 1}).mask_loss
    half = Raw(raw.slots.bfloat16(), raw.columns, {"prototype": raw["prototype"].bfloat16()})
    found, exact = (mask_loss(each, objects, matches, weight, losses) for each in (half, raw))
    assert found.dtype == torch.float32 and found.item() == pytest.approx(exact.item(), rel=0.02)


def test_masks_follow_their_images_to_another_scale():
    mask = torch.zeros(2, 16, 24, dtype=torch.uint8)
    mask[0, 4:12, 8:16], mask[1, :, :12] = 1, 1
    objects = Objects(
        torch.zeros(2).long(), torch.zeros(2).long(), torch.tensor([[48.0, 32, 32, 32], [24, 32, 48, 64]]), mask
    )
    rest = (torch.zeros(1).long(), torch.zeros(1, 2).long(), torch.zeros(1, 4).double())
    batch = Batch(torch.rand(1, 3, 64, 96), objects, *rest)
    sides = set()
    for step in range(8):
        (found,) = multi_scaled([batch], 0.5, 32, (0, step))
        height, width = found.images.shape[2:]
        sides.add(height)
        assert found.objects.mask.shape == (2, height // 4, width // 4) and found.objects.mask.dtype == torch.uint8
        share = found.objects.mask.float().mean(dim=(1, 2)).tolist()
        assert share == pytest.approx([1 / 6, 1 / 2], abs=0.05)
    assert len(sides) > 1


# ------------------------------------------------------------------------------------------------------------- the keys


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("bce", "bce"),
        ("{bce: 1, dice: 0.5}", {"bce": 1.0, "dice": 0.5}),
        ("{tversky: {alpha: 0.3}}", {"tversky": {"alpha": 0.3}}),
        ("{bce: 1, tversky: {alpha: 0.3, gain: 2}}", {"bce": 1.0, "tversky": {"alpha": 0.3, "gain": 2.0}}),
        ("{dice: null}", "dice"),
    ],
)
def test_mask_losses_are_read_and_written_as_yaml_has_them(text: str, plain, tmp_path: Path):
    (tmp_path / "hyp.yaml").write_text(f"mask_loss: {text}\n")
    hyp = load_hyp(tmp_path / "hyp.yaml", (), SEAMS)
    assert hyp.model_dump()["mask_loss"] == plain
    assert Hyp.model_validate(hyp.model_dump(), context=SEAMS) == hyp


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bcee", "mask_loss: unknown name 'bcee' (nearest: 'bce')"),
        ("{bce: 0}", "mask_loss: bce: expected a gain above 0, or parameters, found 0"),
        ("{bce: true}", "expected a gain above 0, or parameters, found True"),
        ("{tversky: {alphaa: 1}}", "mask_loss.tversky.alphaa: unknown parameter (nearest: 'alpha')"),
        ("{tversky: {alpha: -1}}", "mask_loss.tversky.alpha: expected 0 or more, found -1"),
        ("{dice: {smooth: -1}}", "mask_loss.dice.smooth: expected 0 or more, found -1"),
        ("{iou_log: {floor: 1}}", "mask_loss.iou_log.floor: expected less than 1, found 1"),
        ("{bce: {positive_weight: 0}}", "mask_loss.bce.positive_weight: expected more than 0, found 0"),
        ("{ce: {label_smoothing: 2}}", "mask_loss.ce.label_smoothing: expected 1 or less, found 2"),
        ("{focal: {gamma: -1, gain: 1}}", "mask_loss.focal.gamma: expected 0 or more, found -1"),
        ("{tversky: {alpha: x}}", "mask_loss.tversky.alpha: expected a number, found 'x'"),
        ("[bce]", "expected a name, names with gains as in {bce: 1, dice: 1}"),
        ("{}", "expected a name, names with gains"),
        ("{choices: [bce]}", "mask_loss: choices: expected a gain above 0, or parameters, found ['bce']"),
    ],
)
def test_mask_losses_that_do_not_fit_are_refused_in_one_line(text: str, words: str, tmp_path: Path):
    (tmp_path / "hyp.yaml").write_text(f"lr0: 0.01\nmask_loss: {text}\n")
    with pytest.raises(ConfigError) as error:
        load_hyp(tmp_path / "hyp.yaml", (), SEAMS)
    (line,) = str(error.value).splitlines()
    assert "hyp.yaml:2: " in line and words in line


def test_no_mask_loss_has_a_parameter_named_as_the_gain():
    assert not any("gain" in SEAMS["MASK_LOSSES"].parameters(name) for name in MASK_LOSSES)


# -------------------------------------------------------------------------------------------------------------- a run


def test_a_run_with_masks_at_several_sizes_goes_on_to_the_bit(tiny_data: Path, tmp_path: Path, monkeypatch):
    keys = ("multi_scale=0.5", "mask_loss={bce: 1, dice: 1}", "mask_norm=step", "box_loss=wiou")
    words = ("--cfg", "yolo_n_seg", "--set", *keys)
    straight = train(tiny_config(tiny_data, tmp_path / "straight", *words)).folder
    with monkeypatch.context() as patch:
        stop_after(patch, 2, send(15))
        with pytest.raises(StoppedError):
            train(tiny_config(tiny_data, tmp_path / "stopped", *words))
    go_on(tmp_path / "stopped")
    assert_same_run(last_of(tmp_path / "stopped").parents[1], straight)
    row = rows_of(straight)[-1]
    assert 0 < float(row["train/mask_loss"]) < 1 and 0 < float(row["val/mask_loss"]) < 1


def test_a_model_with_masks_starts_from_one_without(tmp_path: Path):
    """All but the outputs of the head and the prototypes."""
    torch.manual_seed(0)
    given, own = (Detector(model_config(cfg, nc=2)) for cfg in ("yolo_n", "yolo_n_seg"))
    content = {"config": {"data": {"names": ["cat", "dog"]}}, "ema": given.state_dict(), "losses": {}, "epoch": 1}
    save_checkpoint(tmp_path / "given.pt", content)
    start_from(str(tmp_path / "given.pt"), own, ("cat", "dog"))
    body = [name for name in own.state_dict() if not name.startswith("layers.24.")]
    assert len(body) > 300 and all(torch.equal(own.state_dict()[name], given.state_dict()[name]) for name in body)


@pytest.mark.slow
def test_a_compiled_model_with_masks_puts_out_the_same():
    detector = Detector(model_config(nc=3)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = detector(images)
        detector.compile_network()
        found = detector(images)
    torch.testing.assert_close(found.slots, expected.slots, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["prototype"], expected["prototype"], rtol=1e-3, atol=1e-3)
