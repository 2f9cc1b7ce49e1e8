"""``yolo-lite show``: images of augmented batches with their boxes."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.config.options import ShowOptions


def run(options: ShowOptions) -> Path:
    """Write ``batch_1.png``, ...; the folder comes back."""
    from yolo_lite.data.index import index_split
    from yolo_lite.engine.resolve import shared_config
    from yolo_lite.engine.run_folder import make_run_folder
    from yolo_lite.report.drawing import write_image
    from yolo_lite.tools.show import augmented_sheets

    config = shared_config(options)
    hyp = config.hyp
    index = index_split(config.data, config.data_file, "train", with_outlines=hyp.copy_paste > 0)
    print(f"train: {index.describe()}")
    sheets = list(augmented_sheets(index, hyp, config.train.imgsz, options.seed, options.batches))
    folder = make_run_folder(options.project, options.name, exist_ok=False)
    for number, sheet in enumerate(sheets, 1):
        write_image(folder / f"batch_{number}.png", sheet)
    last = f" to batch_{len(sheets)}.png" if len(sheets) > 1 else ""
    print(f"{folder}: batch_1.png{last}")
    return folder
