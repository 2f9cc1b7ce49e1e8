"""Which part of a training step, and of predict, takes which share of the time: a table, and an image.

    python benchmarks/profile_shares.py --weights runs/train/exp/weights/best.pt --data ../shared/data/bccd/data.yaml \
        --image docs/profile.png

One process does all in turn: what loading processes and threads do beside the network stands here in line with it. Each
operation counts for the part that calls it, without those that it calls itself; the profiler makes small ones dearer.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from train_step import full_batches, started, training_set

from yolo_lite.config.options import TrainOptions
from yolo_lite.data.images import read_image
from yolo_lite.data.index import index_split
from yolo_lite.data.letterbox import canvas_size, fitted_size, on_canvas, resize, to_original
from yolo_lite.engine.checkpoint import load_trained
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.train import train_step
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.drawing import draw_boxes, write_image
from yolo_lite.report.figure import new_figure, pixels
from yolo_lite.structures import as_floats

CONFIDENCE = 0.25  # of what predict draws
WARM_UP = 2
ELSE = "all else"  # clipping, checks, copies of running statistics
COLOURS = {"forward": "#1f77b4", "network": "#1f77b4", "backward": "#d9730d"}  # others are grey
PASSES = tuple(COLOURS)  # whose operations are told apart
BEGINNINGS = {"autograd::engine": "backward", "Optimizer.": "optimizer"}  # what torch itself calls its parts


def labelled(call: Callable[..., Any], part: str) -> Callable[..., Any]:
    """The same call, as a part of the profile."""

    def labelled_call(*values: Any, **named: Any) -> Any:
        with record_function(part):
            return call(*values, **named)

    return labelled_call


def training(flags: argparse.Namespace) -> Callable[[], None]:
    """A training step whose parts are labelled."""
    words = {"cfg": flags.cfg, "hyp": "cfg/hyp.yaml", "data": flags.data, "device": "cpu"}
    config = run_config(TrainOptions(**words, imgsz=flags.size, batch_size=flags.batch_size, workers=0))
    (state, setup), dataset = started(config), training_set(config)
    for position in range(len(dataset)):  # as from the second epoch on
        dataset.store[position]
    batches = full_batches(dataset, flags.batch_size, 0, pin_memory=False)
    calls = (
        (state.model, "forward", "forward"),
        (state.criterion, "forward", "loss"),
        (state.criterion, "assign", "assignment"),
        (state.average, "update_parameters", "averaging"),
    )
    for owner, name, part in calls:
        setattr(owner, name, labelled(getattr(owner, name), part))

    def step() -> None:
        with record_function("loading and augmenting"):
            batch = next(batches).to(setup.compute)
        with record_function(ELSE):
            train_step(state, [batch], setup)

    return step


def predicting(flags: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """Predict on an image, stage by stage."""
    _, model, config, _ = load_trained(flags.weights)
    compute = choose_compute("cpu", config.hyp.precision, config.hyp.channels_last)
    network = move_model(model, compute).for_inference()
    index = index_split(config.data, config.data_file, "val")
    paths = [index.path(position) for position in range(len(index))]
    number = 0

    @torch.inference_mode()
    def predict() -> None:
        nonlocal number
        number += 1
        with record_function("decode"):
            image = read_image(paths[number % len(paths)])
        with record_function("letterbox"):
            (height, width), longest = image.shape[:2], flags.predict_size
            small = resize(image, *fitted_size(height, width, longest))
            canvas, place = on_canvas(small, (height, width), canvas_size(small.shape[0], small.shape[1], model.stride))
            batch = as_floats(torch.from_numpy(canvas[None]).permute(0, 3, 1, 2), compute)
        with record_function("network"), compute.autocast():
            raw = network(batch)
        with record_function("NMS"):
            (found,) = network.detections(raw, tuple(batch.shape[2:]), DetectOptions(CONFIDENCE, 0.45))
            boxes = to_original(found.box.double().numpy(), place)
        with record_function("draw"):
            drawn = draw_boxes(image, boxes, found.label.numpy(), index.names, found.score.numpy())
        with record_function("write JPEG"):
            write_image(folder / "drawn.jpg", drawn)

    return predict


def part_of(event: Any, parts: set[str]) -> str:
    """The part of a run that an operation belongs to; of a pass of the network, the kind of operation too."""
    kind = ""
    while event is not None:
        part = next((part for begins, part in BEGINNINGS.items() if event.name.startswith(begins)), event.name)
        if part in parts or part in BEGINNINGS.values():
            return f"{part}: {kind or 'other'}" if part in PASSES else part
        kind = kind or kind_of(event.name.lower())
        event = event.cpu_parent
    return ""


def kind_of(name: str) -> str:
    """The kind of a layer from the name of its operation; autograd functions of one's own count by theirs."""
    names = {"conv": "convolution", "norm": "normalisation", "silu": "SiLU"}
    return " and ".join(kind for word, kind in names.items() if word in name)


def shares(call: Callable[[], None], parts: set[str], calls: int) -> dict[str, float]:
    """Milliseconds of a call by part, in the order in which they come; of a pass the dearest first."""
    for _ in range(WARM_UP):
        call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(calls):
            call()
    found: dict[str, float] = {}
    for event in sorted(profiler.events(), key=lambda event: event.time_range.start):
        if part := part_of(event, parts):
            found[part] = found.get(part, 0.0) + event.self_cpu_time_total / 1000 / calls
    come = {part.split(":")[0]: place for place, part in reversed([*enumerate(found)])}
    return dict(sorted(found.items(), key=lambda own: (own[0] == ELSE, come[own[0].split(":")[0]], -own[1])))


def draw(runs: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """A panel for each run, a bar for each part, RGB."""
    figure = new_figure(11, 4.4)
    for axes, (title, parts) in zip(figure.subplots(1, len(runs)), runs.items(), strict=True):
        total = sum(parts.values())
        percent = [100 * own / total for own in parts.values()]
        colours = [COLOURS.get(part.split(":")[0], "0.6") for part in parts]
        bars = axes.barh(range(len(parts)), percent, color=colours)
        axes.bar_label(bars, [f"{own:.0f} %" if own >= 0.5 else "< 1 %" for own in percent], padding=3, fontsize=8)
        axes.set_yticks(range(len(parts)), list(parts), fontsize=8)
        axes.invert_yaxis()
        axes.set(title=f"{title}: {total:.0f} ms", xlabel="share of the time in %", xlim=(0, 1.15 * max(percent)))
        axes.spines[["top", "right"]].set_visible(False)
    return pixels(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a checkpoint, with whose dataset predict is tried")
    parser.add_argument("--data", required=True, help="of the training step")
    parser.add_argument("--cfg", default="cfg/yolo_n.yaml", help="of the training step")
    parser.add_argument("--size", type=int, default=320, help="pixels, of the training step")
    parser.add_argument("--predict-size", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--image", type=Path, help="where the figure goes")
    flags = parser.parse_args()
    step = {"loading and augmenting", ELSE, "forward", "loss", "assignment", "averaging"}
    stages = {"decode", "letterbox", "network", "NMS", "draw", "write JPEG"}
    model = Path(flags.cfg).stem
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            f"training step, {model}, {flags.batch_size} of {flags.size} px": shares(
                training(flags), step, flags.steps
            ),
            f"predict, an image of {flags.predict_size} px": shares(
                predicting(flags, Path(folder)), stages, flags.images
            ),
        }
    for title, parts in runs.items():
        print(f"\n| {title} | ms | % |\n|---|---|---|")
        for part, own in parts.items():
            print(f"| {part} | {own:.1f} | {100 * own / sum(parts.values()):.0f} |")
    if flags.image:
        write_image(flags.image, draw(runs))


if __name__ == "__main__":
    main()
