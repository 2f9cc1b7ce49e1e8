"""Every segmentation loss trained on the masks of the embedded set, side by side: mIoU and Dice on the other split.

    python benchmarks/segmentation_losses.py --picture docs/segmentation_losses.jpg

The backbone of cfg/yolo_n.yaml with a small head learns background and five shapes. For one seed every loss starts from
the same weights and sees the same batches in the same order with the same learning rates; only the loss differs. AdamW
hardly feels a loss's scale, so no loss is helped or hurt by how large its gradients are. No setting was tuned for any.

Legend: B images, C classes (0 is the background), P side of the square input; an object's mask is what is seen of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_lite.config.data import Generate
from yolo_lite.config.load import load_model_config
from yolo_lite.config.model import ModelConfig
from yolo_lite.data.shapes import SHAPE_CLASSES, coverage, draw_image
from yolo_lite.loss.classification import class_weights
from yolo_lite.loss.mask import MASK_LOSSES
from yolo_lite.model.blocks import Conv
from yolo_lite.model.builder import build_layers

matplotlib.use("Agg")
from matplotlib import pyplot as plt

IGNORED = 255  # what pads a picture to a square
NUM_CLASSES = 1 + len(SHAPE_CLASSES)
COLOURS = np.array(
    [[40, 40, 40], [230, 80, 80], [240, 190, 60], [90, 190, 90], [80, 140, 230], [190, 100, 210]], np.uint8
)
SHOWN = 4  # pictures in the figure

Loss = Callable[[Tensor, Tensor], Tensor]


class Masks(NamedTuple):
    image: Tensor  # [n, 3, P, P] uint8 RGB
    mask: Tensor  # [n, P, P] int64, IGNORED outside the picture


# --------------------------------------------------------------------------------------------------------- data


def draw_split(spec: Generate, split: str) -> Masks:
    """All images of a split with their masks, at the top left of squares."""
    count = getattr(spec, split)
    images = np.full((count, spec.image_size, spec.image_size, 3), 114, np.uint8)
    masks = np.full((count, spec.image_size, spec.image_size), IGNORED, np.int64)
    for index in range(count):
        picture, shapes = draw_image(spec, split, index)
        height, width = picture.shape[:2]
        mask = np.zeros((height, width), np.int64)
        for class_index, polygon in shapes:  # in the order they were drawn: a later one hides what is below it
            mask[coverage(polygon, height, width) > 0.5] = 1 + class_index
        images[index, :height, :width], masks[index, :height, :width] = picture[..., ::-1], mask
    return Masks(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(masks))


def batches(data: Masks, batch_size: int, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batch of a step: a pure function of seed and step; every image turned and mirrored at random, all alike."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        steps = len(data.mask) // batch_size
        order = np.random.default_rng([seed, 0, step // steps]).permutation(len(data.mask))
        rows = order[step % steps * batch_size :][:batch_size]
        turns, mirror = (
            np.random.default_rng([seed, 1, step]).integers(4),
            np.random.default_rng([seed, 2, step]).random(),
        )
        image, mask = (torch.rot90(values[rows], int(turns), (-2, -1)) for values in data)
        return (image.flip(-1), mask.flip(-1)) if mirror < 0.5 else (image, mask)

    return batch


# -------------------------------------------------------------------------------------------------------- model


class Segmenter(nn.Module):
    """The backbone of yolo_n; its maps of strides 4 to 32 are summed at stride 4, a convolution makes classes of it."""

    TAPS = (2, 4, 6, 9)  # rows of cfg/yolo_n.yaml

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        config = load_model_config("cfg/yolo_n.yaml")
        assert isinstance(config, ModelConfig)
        layers = build_layers(config)[: self.TAPS[-1] + 1]
        self.backbone = nn.ModuleList(layer.module for layer in layers)
        self.lateral = nn.ModuleList(nn.Conv2d(layers[tap].out_channels, width, 1) for tap in self.TAPS)
        self.head = nn.Sequential(
            nn.BatchNorm2d(width), nn.SiLU(), Conv(width, width, 3), nn.Conv2d(width, NUM_CLASSES, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C, P, P]`` of images ``[B, 3, P, P]`` in 0..1."""
        maps: list[Tensor] = []
        result = images
        for index, layer in enumerate(self.backbone):
            result = layer(result)
            if index in self.TAPS:
                maps.append(self.lateral[len(maps)](result))
        size = maps[0].shape[2:]
        total = sum(F.interpolate(level, size, mode="bilinear", align_corners=False) for level in maps)
        return F.interpolate(self.head(total), images.shape[2:], mode="bilinear", align_corners=False)


def prepared(images: Tensor) -> Tensor:
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------------------- losses


def variants(pixel_counts: np.ndarray) -> dict[str, Loss]:
    """Name in the table -> loss."""

    def of(name: str, **parameters: object) -> Loss:
        return lambda logits, target: MASK_LOSSES[name](logits, target, ignore_index=IGNORED, **parameters)

    ce, iou = of("ce"), of("iou")
    return {
        "iou": iou,
        "iou_log": of("iou_log"),
        "dice": of("dice"),
        "dice, absent=formula": of("dice", absent="formula"),
        "dice, absent=skip": of("dice", absent="skip"),
        "tversky": of("tversky"),
        "lovasz": of("lovasz"),
        "ce": ce,
        "ce, weighted 1/pixels": of("ce", weight=class_weights("auto", pixel_counts)),
        "focal": of("focal"),
        "ce + iou": lambda logits, target: ce(logits, target) + iou(logits, target),
    }


# ----------------------------------------------------------------------------------------- training and measuring


def train(loss: Loss, batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Segmenter().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        images, target = batch(step)
        optimizer.zero_grad()
        loss(model(prepared(images)), target).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Classes ``[n, P, P]``."""
    return torch.cat([model(prepared(part)).argmax(dim=1) for part in images.split(32)])


def scores(found: Tensor, mask: Tensor) -> list[float]:
    """mIoU and Dice over the five shapes, then over all six classes; IoU of each from pixels of the whole split."""
    valid = mask != IGNORED
    pairs = torch.bincount(mask[valid] * NUM_CLASSES + found[valid], minlength=NUM_CLASSES**2)
    confusion = pairs.reshape(NUM_CLASSES, NUM_CLASSES).double()  # row: truth
    hit, total = confusion.diagonal(), confusion.sum(dim=0) + confusion.sum(dim=1)
    iou, dice = hit / (total - hit), 2 * hit / total
    return [values.mean().item() for values in (iou[1:], dice[1:], iou, dice)]


def false_area(found: Tensor, mask: Tensor) -> float:
    """Part of the ground that is called an object, in images without objects."""
    valid = mask != IGNORED
    empty = ((mask == 0) | ~valid).flatten(1).all(dim=1)
    return ((found[empty] > 0) & valid[empty]).sum().item() / max(valid[empty].sum().item(), 1)


# ----------------------------------------------------------------------------------------------------- the figure


def draw_figure(path: str, validation: Masks, found: dict[str, Tensor]) -> None:
    """Images, truth and what each loss taught, a row each."""
    rows = {"truth": validation.mask} | found
    counts = [len(mask.unique()) for mask in validation.mask[:32]]
    shown = np.argsort(-np.array(counts), kind="stable")[:SHOWN]  # of the first pictures those of most classes
    figure, axes = plt.subplots(SHOWN, 1 + len(rows), figsize=(1.25 * (1 + len(rows)), 1.32 * SHOWN), squeeze=False)
    for line, index in zip(axes, shown, strict=True):
        line[0].imshow(validation.image[index].permute(1, 2, 0).numpy())
        outside = validation.mask[index] == IGNORED
        for place, mask in zip(line[1:], rows.values(), strict=True):
            colours = COLOURS[mask[index].clamp(max=NUM_CLASSES - 1).numpy()]
            colours[outside.numpy()] = 255
            place.imshow(colours, interpolation="nearest")
    for place, name in zip(axes[0], ["picture", *rows], strict=True):
        place.set_title(name.replace(", ", "\n"), fontsize=7)
    for place in axes.flat:
        place.axis("off")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.94, wspace=0.03, hspace=0.03)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85} if path.endswith(".jpg") else None)


def table_row(name: str, results: list[list[float]], seconds: float) -> str:
    """Means over the seeds, and mIoU of the shapes for each."""
    iou, dice, iou_all, dice_all, false = np.mean(results, axis=0)
    by_seed = " ".join(f"{row[0]:.3f}" for row in results)
    shapes, everything = f"{iou:.3f} | {by_seed} | {dice:.3f}", f"{iou_all:.3f} | {dice_all:.3f}"
    return f"| {name} | {shapes} | {everything} | {100 * false:.2f} % | {seconds:.0f} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=512, help="pictures")
    parser.add_argument("--val", type=int, default=128, help="pictures")
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--losses", nargs="+", default=[], help="names in the table; all without it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", default="", help="where the figure goes; it shows the first seed")
    return parser.parse_args()


def main() -> None:
    flags = arguments()
    torch.set_num_threads(flags.threads)
    spec = Generate(kind="shapes", train=flags.train, val=flags.val, image_size=flags.pixels)
    training, validation = draw_split(spec, "train"), draw_split(spec, "val")
    pixel_counts = np.bincount(training.mask[training.mask != IGNORED], minlength=NUM_CLASSES)
    shares = zip(("background", *SHAPE_CLASSES), pixel_counts / pixel_counts.sum(), strict=True)
    print(
        f"torch {torch.__version__}, {flags.threads} thread(s); {flags.train} + {flags.val} pictures, {flags.pixels} px"
    )
    print(
        f"{flags.steps} steps of {flags.batch_size}, seeds {flags.seeds}; pixels:", *(f"{n} {x:.3f}" for n, x in shares)
    )
    print("\n| loss | mIoU shapes | each seed | Dice shapes | mIoU all | Dice all | false area | CPU seconds a run |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    found: dict[str, Tensor] = {}
    for name, loss in variants(pixel_counts).items():
        if flags.losses and name not in flags.losses:
            continue
        results, start = [], time.process_time()
        for seed in flags.seeds:
            model = train(loss, batches(training, flags.batch_size, seed), flags.steps, seed)
            masks = predict(model, validation.image)
            results.append([*scores(masks, validation.mask), false_area(masks, validation.mask)])
            found.setdefault(name, masks)
        print(table_row(name, results, (time.process_time() - start) / len(flags.seeds)), flush=True)
    if flags.picture:
        draw_figure(flags.picture, validation, found)


if __name__ == "__main__":
    main()
