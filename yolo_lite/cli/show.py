"""``yolo-lite show``: images of augmented batches with their boxes."""

from __future__ import annotations

import itertools

from yolo_lite.config.find import find_yaml
from yolo_lite.config.load import check_overrides, load_dataset_config, load_hyp
from yolo_lite.config.options import ShowOptions
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import index_split
from yolo_lite.data.loader import training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.resolve import image_size
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.sheets import SHOWN_IMAGES, training_sheet
from yolo_lite.report.drawing import write_image


def run(options: ShowOptions) -> None:
    """Write ``batch_1.png``, ... into a run folder."""
    overrides, data_file, count = tuple(options.set), find_yaml(options.data, "data"), options.batches
    check_overrides(overrides)
    hyp, data = load_hyp(options.hyp, overrides, SEAMS), load_dataset_config(data_file, overrides, SEAMS)
    index, size = index_split(data, data_file, "train", hyp.copy_paste > 0), image_size(options.imgsz, data)
    print(f"train: {index.describe()}")
    store = ImageStore(index, size, "off", shared=False)
    dataset = TrainingSet(index, store, size, hyp, options.seed, mosaic_epochs=count)
    loader = training_loader(dataset, SHOWN_IMAGES, workers=0, epochs=range(count), pin_memory=False)
    sheets = [training_sheet(batch, index.names) for batch in itertools.islice(loader, count)]
    folder = make_run_folder(options.project, options.name, exist_ok=False)
    for number, sheet in enumerate(sheets, 1):
        write_image(folder / f"batch_{number}.png", sheet)
    print(f"{folder}: batch_1.png{f' to batch_{count}.png' if count > 1 else ''}")
