"""A whole epoch (train, validate, save) beside the bare network passes over the same images.

    python benchmarks/epoch.py --data ../shared/data/bccd/data.yaml

Bare is forward and backward of as many images as the train split has and forward of as many as the validation split
has, measured before and after the run, each time in a process of its own: memory that the bare passes leave behind in
a process would be copied, page by page, once that process has forked its loading workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from timing import in_turn
from torch import Tensor
from train_step import bare_step

from yolo_lite.config.model import ModelConfig
from yolo_lite.config.options import TrainOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.data.index import index_split
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.train import train
from yolo_lite.model.detector import Detector


def bare_seconds(config: RunConfig, num_train: int, num_val: int, val_shape: tuple[int, int]) -> float:
    """Seconds of the bare passes, extrapolated from a few batches after a warm-up."""
    size, batch_size = config.train.imgsz, config.train.batch_size
    compute = choose_compute(config.train.device, config.hyp.precision, config.hyp.channels_last)
    assert isinstance(config.model, ModelConfig)
    model = move_model(Detector(config.model), compute)

    def images_of(height: int, width: int) -> Tensor:
        return torch.rand(batch_size, 3, height, width).to(compute.device, memory_format=compute.memory_format)

    train_images, val_images = images_of(size, size), images_of(*val_shape)

    def median(action: Callable[[], object]) -> float:
        return statistics.median(in_turn({"": action}, compute.device, rounds=7)[""])

    seconds = median(bare_step(model, train_images, compute)) / batch_size * num_train
    network = model.for_inference()
    with torch.inference_mode(), compute.autocast():
        return seconds + median(lambda: network(val_images)) / batch_size * num_val


def _in_a_new_process(function, *arguments) -> float:  # type: ignore[no-untyped-def]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cfg", default="cfg/yolo_n.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--val-shape", type=int, nargs=2, default=(256, 320), help="height, width of the val images")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        what = {"cfg": flags.cfg, "data": flags.data, "imgsz": flags.imgsz, "epochs": flags.epochs}
        config = run_config(TrainOptions(**what, batch_size=16, project=folder))
        images = [len(index_split(config.data, config.data_file, split)) for split in ("train", "val")]
        bare_passes = (bare_seconds, config, *images, tuple(flags.val_shape))
        before = _in_a_new_process(*bare_passes)
        epochs = train(config).seconds
        after = _in_a_new_process(*bare_passes)
    bare = (before + after) / 2
    print(f"bare: {before:.2f} s before, {after:.2f} s after the run")
    for number, seconds in enumerate(epochs, 1):
        print(f"epoch {number}: {seconds:.2f} s, {seconds / bare:.2f} times the bare passes")


if __name__ == "__main__":
    main()
