"""Every box loss on the same data, with the same seeds: which differences are more than noise?

    python benchmarks/losses_on_bccd.py --data ../shared/data/bccd/data.yaml

Made with ``yolo-lite compare``: all losses with one seed, then five of them with three. It can be stopped and started
again. The losses differ in scale, so each gets a gain (key ``box``) by one rule: on the matched pairs of a model that
was trained for five epochs with ciou, the mean length of the gradient with respect to the four raw outputs is that of
ciou at its default gain. The constant of ``nwd`` is the mean object size of the set in pixels of the network input,
what its paper takes; all other parameters are the defaults. The figures are those of the last epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolo_lite.cli.arguments import read_options
from yolo_lite.cli.main import main as command
from yolo_lite.config.model import ModelConfig
from yolo_lite.config.options import TrainOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.config.seams import Choice
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import collate
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.resolve import run_config
from yolo_lite.loss.assigners import build_targets
from yolo_lite.loss.box import BOX_LOSSES, BoxLoss
from yolo_lite.model.detector import Detector
from yolo_lite.ops.boxes import aligned_iou
from yolo_lite.ops.grid import Slots, decode_anchors
from yolo_lite.tools.compare import Run, check_same_run, finish

MAIN = ("ciou", "iou", "giou", "siou", "wiou")  # three seeds
PROBE_EPOCHS, PROBE_IMAGES = 5, 64


def words_of_run(flags: argparse.Namespace) -> list[str]:
    """The flags that all runs share."""
    words = ["--cfg", "cfg/yolo_n.yaml", "--hyp", "cfg/hyp.yaml", "--data", flags.data, "--imgsz", str(flags.imgsz)]
    return [*words, "--batch-size", "16", "--workers", str(flags.workers)]


def probe_run(flags: argparse.Namespace) -> RunConfig:
    """The run whose matched pairs the gains are measured on; trained, or what is left of it, unless it is there."""
    words = [*words_of_run(flags), "--epochs", str(PROBE_EPOCHS), "--project", flags.project, "--name", "probe"]
    config = run_config(read_options(TrainOptions, [*words, "--exist-ok"], "probe"))
    run = Run("probe", 0, config)
    check_same_run(run)
    finish(run)
    return config


def matched_pairs(config: RunConfig) -> tuple[Tensor, ...]:
    """Raw outputs ``[P, 4]``, what decodes them, and the targets of all matched pairs of some training images."""
    compute = choose_compute("cpu", "fp32", channels_last=True)
    assert isinstance(config.model, ModelConfig)
    model = Detector(config.model)
    model.load_state_dict(load_checkpoint(Path(config.train.project) / "probe/weights/last.pt")["ema"])
    index, size = index_split(config.data, config.data_file, "train"), config.train.imgsz
    dataset = TrainingSet(
        index, ImageStore(index, size, "off", shared=False), size, config.hyp, seed=0, mosaic_epochs=1
    )
    batch = collate([dataset[0, position] for position in range(PROBE_IMAGES)]).to(compute)
    grid = model.grid(size, size)
    matches = build_targets(batch.objects, grid, config.hyp.anchor_t)
    with torch.no_grad():
        raw = model.eval()(batch.images).select(matches.image, matches.slot)["box"]
    return raw, *grid.slots.select(matches.slot), batch.objects.box[matches.target]


def gradient_length(name: str, parameters: dict[str, float], pairs: tuple[Tensor, ...], size: int) -> float:
    """Mean length of the gradient of a box loss with respect to the raw outputs."""
    raw, corner, stride, anchor, target = pairs
    raw = raw.clone().requires_grad_()
    box = decode_anchors(raw, Slots(corner, stride, anchor))
    loss = BoxLoss(name, **parameters).eval()
    loss.mean.copy_((1 - aligned_iou(box.detach(), target)).mean())
    loss(box, target, unit=stride, image_size=(size, size)).sum().backward()
    assert raw.grad is not None
    return raw.grad.norm(dim=1).mean().item()


def mean_object_size(index: DatasetIndex, size: int) -> float:
    """Square root of the area, in pixels of the network input, mean over the set."""
    areas = []
    for position in range(len(index)):
        _, xyxy = index.objects(position)
        scale = size / index.size[position].max()
        areas.append((xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1) * scale**2)
    return float(np.sqrt(np.concatenate(areas)).mean())


def variants(config: RunConfig) -> dict[str, list[str]]:
    """The ``key=value`` texts of every box loss, its gain among them."""
    size, pairs = config.train.imgsz, matched_pairs(config)
    constant = mean_object_size(index_split(config.data, config.data_file, "train"), size)
    parameters = {"nwd": {"constant": round(constant, 1)}}
    length = {name: gradient_length(name, parameters.get(name, {}), pairs, size) for name in BOX_LOSSES}
    texts = {}
    for name in sorted(BOX_LOSSES, key=lambda name: name != "ciou"):  # the first is what others are compared with
        gain = config.hyp.box * length["ciou"] / length[name]
        choice = Choice(name=name, parameters=parameters.get(name, {}))
        texts[name] = [f"box_loss={choice}", f"box={gain:.3g}"]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--project", default="runs/losses_on_bccd")
    flags = parser.parse_args()
    texts = variants(probe_run(flags))
    words = [*words_of_run(flags), "--epochs", str(flags.epochs), "--project", flags.project]
    for folder, names, seeds in (("all", list(texts), 1), ("main", list(MAIN), 3)):
        chosen = [word for name in names for word in ("--variant", *texts[name])]
        # One folder of runs for both tables: what the first has trained the second reads.
        if command(["compare", *words, *chosen, "--seeds", str(seeds), "--name", "runs"]) != 0:
            raise SystemExit(2)
        for file in Path(flags.project, "runs").glob("comparison.*"):
            file.replace(Path(flags.project, f"{folder}{file.suffix}"))


if __name__ == "__main__":
    main()
