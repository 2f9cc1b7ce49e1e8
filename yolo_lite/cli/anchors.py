"""``yolo-lite anchors``: anchors that fit a dataset, beside those of a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from yolo_lite.cli.flags import add_fit_flags, check_range, fit_config
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.schema import AnyModelConfig, ModelConfig

if TYPE_CHECKING:
    import numpy as np


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite anchors``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite anchors",
        description="Print anchors that fit the objects of the train split, for the model YAML. No file is changed.",
    )
    add_fit_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the k-means (default: %(default)s)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Print how the model's anchors fit, and lines for its YAML with anchors that fit better."""
    from yolo_lite.data.index import index_split
    from yolo_lite.tools.anchors import best_ratios, fit_anchors, training_sizes

    check_range("--seed", arguments.seed, 0, 2**31)
    data, data_file, model, anchor_t, longest = fit_config(arguments)
    old = model_anchors(model)
    if old is None:
        raise ConfigError(f"--cfg {arguments.cfg}: expected the family yolo, others match objects by their overlap")
    size = training_sizes(index_split(data, data_file, "train"), longest)
    new = fit_anchors(size, old.shape[0] * old.shape[1], anchor_t, arguments.seed).reshape(old.shape)
    print(f"{len(size)} objects at {longest} px; recall: an anchor's sides differ by less than {anchor_t:g} times")
    print(f"{'':<8}{'recall':>8}{'mean ratio':>12}")
    for name, anchors in (("before", old), ("after", new)):
        ratios = best_ratios(size, anchors.reshape(-1, 2))
        print(f"{name:<8}{(ratios < anchor_t).mean():>8.4f}{ratios.mean():>12.3f}")
    rows = (", ".join(f"{side:g}" for side in level.ravel()) for level in new)
    print("\nanchors:\n" + "\n".join(f"  - [{row}]" for row in rows))
    print(f"\nnothing was changed; the lines are for {arguments.cfg}, or a copy of it")


def model_anchors(config: AnyModelConfig) -> np.ndarray | None:
    """``[levels, anchors a level, 2]`` in pixels; None for a family that does not match by shape."""
    import numpy as np

    if not isinstance(config, ModelConfig):
        return None
    if not isinstance(config.anchors, int):
        return np.array(config.anchors).reshape(len(config.anchors), -1, 2)
    from yolo_lite.model.detector import Detector

    return Detector(config).anchors.numpy()  # sized by the strides, which the network tells
