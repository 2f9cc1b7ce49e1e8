"""``yolo-lite anchors``: anchors that fit a dataset, beside those of a model."""

from __future__ import annotations

from yolo_lite.cli.adopted import on_adopted_data
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import AnchorsOptions
from yolo_lite.data.doubts import training_sizes
from yolo_lite.data.index import index_split
from yolo_lite.engine.resolve import shared_config
from yolo_lite.tools.anchors import fit_anchors, measure_fit, model_anchors


@on_adopted_data
def run(options: AnchorsOptions) -> None:
    """Print how the model's anchors fit, and lines for its YAML with anchors that fit better."""
    config = shared_config(options)
    anchor_t, longest, old = config.hyp.anchor_t, config.train.imgsz, model_anchors(config.model)
    if old is None:
        raise ConfigError(f"--cfg {options.cfg}: expected a YOLO with anchors, such as cfg/yolo_s.yaml")
    size = training_sizes(index_split(config.data, config.data_file, "train"), longest, config.hyp.tile)
    new = fit_anchors(size, old.shape[0] * old.shape[1], anchor_t, options.seed).reshape(old.shape)
    print(f"{len(size)} objects at {longest} px; recall: an anchor's sides differ by less than {anchor_t:g} times")
    print(f"{'':<8}{'recall':>8}{'mean ratio':>12}")
    for name, anchors in (("current", old), ("fitted", new)):
        recall, mean_ratio = measure_fit(size, anchors, anchor_t)
        print(f"{name:<8}{recall:>8.4f}{mean_ratio:>12.3f}")
    rows = (", ".join(f"{side:g}" for side in level.ravel()) for level in new)
    print("\nanchors:\n" + "\n".join(f"  - [{row}]" for row in rows))
    print(f"\nnothing was changed; the lines are for {options.cfg}, or a copy of it")
