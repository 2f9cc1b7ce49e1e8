"""``yolo-lite predict``: detections of images, videos, cameras and streams."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from yolo_lite.config.errors import DataError
from yolo_lite.config.options import PredictOptions
from yolo_lite.config.shortage import memory_errors_explained
from yolo_lite.deploy import predictor
from yolo_lite.deploy.background import Backgrounds
from yolo_lite.deploy.prediction import Outputs, Prediction
from yolo_lite.deploy.sources import count_frames, find_media, inputs_of, read_frames
from yolo_lite.engine.operating_points import lowest_scores
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.engine.stop import stop_requests


def run(options: PredictOptions) -> None:
    """Detect on everything that ``--source`` names: a line for each input, files in a run folder.

    Raises:
        DataError: there is nothing to detect on, or none of it can be read. Where some of it can, the rest is named
            and passed over, and that is no error.
    """
    media = find_media(options.source, lambda line: tqdm.write(line, file=sys.stderr))
    model = predictor.load(str(options.weights), str(options.device), options.imgsz)
    if model.source:
        tqdm.write(f"weights: {model.source}")
    if model.points:
        tqdm.write(f"confidence: {lowest_scores(options.conf, model.points, model.names).told}")
    kept = {"max_det": options.max_det, "classes": options.classes or None, "agnostic_nms": options.agnostic_nms}
    choice, tiles = model.chosen(options.tile, options.overlap, conf=options.conf, iou=options.iou, **kept)
    inputs = inputs_of(options.source, media)
    backgrounds = Backgrounds(options.save_background, inputs, media) if options.save_background else None
    writes = not options.no_save or options.save_txt or options.save_json or options.save_crop
    count, start = Counter[str](), time.perf_counter()

    def skip(problem: DataError) -> None:
        count["skipped"] += 1
        tqdm.write(f"passed over: {problem}", file=sys.stderr)

    with memory_errors_explained(options.batch_size, model.size):
        frames = read_frames(media, skip, model.channels, model.white)
        is_live = any(one.kind == "live" for one in media)  # there one frame does not wait for the next
        parts = ([frame] for frame in frames) if is_live else [frames]
        stream = (one for part in parts for one in model.run(part, choice, tiles, options.batch_size))
        first = next(stream, None)
        if first is None:
            raise DataError(f"--source {' '.join(options.source)}: not one of {count['skipped']} inputs can be read")
        folder = make_run_folder(options.project, options.name, options.exist_ok, inputs) if writes else None
        said = _said(itertools.chain([first], stream), count, options.max_det)
        with stop_requests() as stop, closing(Outputs(folder or Path(), options)) as files:
            for prediction in tqdm(said, desc="predicting", total=count_frames(media), leave=False, delay=1):
                files.add(prediction)
                if backgrounds:
                    backgrounds.add(prediction)
                stop.check()  # between two images: every file is whole
    seconds = time.perf_counter() - start
    if backgrounds:
        tqdm.write(backgrounds.describe())
    tqdm.write(_sum(count, seconds, options.max_det) + (f"; {folder}" if folder else ""))


def _said(stream: Iterable[Prediction], count: Counter[str], max_det: int) -> Iterator[Prediction]:
    """The predictions, counted; behind the last one of each input a line that says what was found."""
    for file, group in itertools.groupby(stream, key=lambda prediction: prediction.frame.file):
        frames, found = 0, Counter[int]()
        for prediction in group:
            frames += 1
            found.update(prediction.label.tolist())
            count.update(images=1, objects=len(prediction), full=len(prediction) >= max_det)
            yield prediction
        length = "" if prediction.frame.number is None else f"{frames} frames, "
        objects = ", ".join(f"{found[label]} {prediction.names[label]}" for label in sorted(found))
        tqdm.write(f"{file}: {length}{objects or 'nothing found'}")


def _sum(count: Counter[str], seconds: float, max_det: int) -> str:
    full = f"{count['full']} images have as many detections as --max-det {max_det} allows, maybe more\n"
    skipped = f", {count['skipped']} inputs passed over" if count["skipped"] else ""
    counted = f"{count['images']} images, {count['objects']} objects{skipped}"
    return f"{full if count['full'] else ''}{counted}, {1000 * seconds / count['images']:.1f} ms an image"
