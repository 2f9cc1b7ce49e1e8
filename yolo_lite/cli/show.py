"""``yolo-lite show``: images of augmented batches with their boxes and, of a model that learns them, masks."""

from __future__ import annotations

import itertools

from yolo_lite.cli.adopted import on_adopted_data
from yolo_lite.config.options import ShowOptions
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import index_split
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.data.loader import training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.resolve import shared_config
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.engine.sheets import SHOWN_IMAGES, training_sheet
from yolo_lite.engine.tasks import task_of
from yolo_lite.report.drawing import write_image


@on_adopted_data
def run(options: ShowOptions) -> None:
    """Write ``batch_1.png``, ... into a run folder."""
    config, count = shared_config(options), options.batches
    hyp, size = config.hyp, config.train.imgsz
    has_masks = task_of(config.model).has_masks
    index = index_split(config.data, config.data_file, "train", has_masks or hyp.needs_outlines)
    print(f"train: {index.describe()}")
    store = ImageStore(index, None if hyp.tile else size, "off", shared=False)
    dataset = TrainingSet(index, store, size, hyp, options.seed, count, has_masks)
    loader = training_loader(dataset, SHOWN_IMAGES, workers=0, epochs=range(count), pin_memory=False)
    shown = list(itertools.islice(loader, count))
    for why in dict(one for batch in shown for one in batch.unreadable).values():
        print(f"train: {why}; the next image takes its place")
    sheets = [training_sheet(batch, index.names) for batch in shown]
    folder = make_run_folder(
        options.project, options.name, False, dataset_inputs(config.data, config.data_file, [index])
    )
    for number, sheet in enumerate(sheets, 1):
        write_image(folder / f"batch_{number}.png", sheet)
    print(f"{folder}: batch_1.png{f' to batch_{count}.png' if count > 1 else ''}")
