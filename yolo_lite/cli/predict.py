"""``yolo-lite predict``: detections of images, videos, cameras and streams."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from tqdm import tqdm

from yolo_lite.config.errors import DataError
from yolo_lite.config.options import PredictOptions
from yolo_lite.config.shortage import memory_errors_explained
from yolo_lite.deploy import predictor
from yolo_lite.deploy.background import Backgrounds
from yolo_lite.deploy.prediction import Outputs, Prediction
from yolo_lite.deploy.sources import count_frames, find_media, inputs_of
from yolo_lite.deploy.stages import Clock
from yolo_lite.engine.operating_points import lowest_scores
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.engine.stop import stop_requests
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.ops.tiles import Tiles


def run(options: PredictOptions) -> None:
    """Detect on everything that ``--source`` names: a line for each input, files in a run folder.

    Raises:
        DataError: there is nothing to detect on, or none of it can be read. Where some of it can, the rest is named
            and passed over, and that is no error.
    """
    media = find_media(options.source, lambda line: tqdm.write(line, file=sys.stderr))
    model = predictor.load(str(options.weights), str(options.device), options.imgsz, options.half)
    choice, tiles = _chosen(model, options)
    inputs = inputs_of(options.source, media)
    backgrounds = Backgrounds(options.save_background, inputs, media) if options.save_background else None
    writes = not options.no_save or options.save_txt or options.save_json or options.save_crop
    told = _Told(options.max_det)
    with memory_errors_explained(options.batch_size, model.size), ExitStack() as ends:
        found = ends.enter_context(closing(model.watch(media, choice, tiles, options.batch_size, told.skip)))
        first = next(found, None)
        if first is None:
            raise DataError(f"--source {' '.join(options.source)}: not one of {told.skipped} inputs can be read")
        folder = make_run_folder(options.project, options.name, options.exist_ok, inputs) if writes else None
        stop = ends.enter_context(stop_requests())
        files = ends.enter_context(closing(Outputs(folder or Path(), options)))
        said = told.of(itertools.chain([first], found))
        for prediction in tqdm(said, desc="predicting", total=count_frames(media), leave=False, delay=1):
            with model.clock.stage("drawing and writing"):
                files.add(prediction)
                if backgrounds:
                    backgrounds.add(prediction)
            if stop:
                break  # between two images: every file is whole
        stop.check()
    if backgrounds:
        tqdm.write(backgrounds.describe())
    tqdm.write(told.sum(model.clock) + (f"; {folder}" if folder else ""))


def _chosen(model: predictor.Predictor, options: PredictOptions) -> tuple[DetectOptions, Tiles]:
    """How detections are chosen; a line about the weights and about the confidence where there is something to say."""
    if model.source:
        tqdm.write(f"weights: {model.source}")
    if model.points:
        tqdm.write(f"confidence: {lowest_scores(options.conf, model.points, model.names).told}")
    kept = {"max_det": options.max_det, "classes": options.classes or None, "agnostic_nms": options.agnostic_nms}
    return model.chosen(options.tile, options.overlap, conf=options.conf, iou=options.iou, **kept)


class _Told:
    """What the user reads of a run: a line for each input, and the sum at its end."""

    def __init__(self, max_det: int) -> None:
        self.images = self.objects = self.full = self.skipped = 0
        self.max_det, self.start = max_det, time.perf_counter()

    def skip(self, problem: DataError) -> None:
        self.skipped += 1
        tqdm.write(f"passed over: {problem}", file=sys.stderr)

    def of(self, stream: Iterable[Prediction]) -> Iterator[Prediction]:
        """The predictions, counted; behind the last one of each input a line that says what was found."""
        for file, group in itertools.groupby(stream, key=lambda prediction: prediction.frame.file):
            before, found = self.images, Counter[int]()
            for prediction in group:
                found.update(prediction.label.tolist())
                self.images += 1
                self.full += len(prediction) >= self.max_det
                yield prediction
            self.objects += found.total()
            length = "" if prediction.frame.number is None else f"{self.images - before} frames, "
            objects = ", ".join(f"{found[label]} {prediction.names[label]}" for label in sorted(found))
            tqdm.write(f"{file}: {length}{objects or 'nothing found'}")

    def sum(self, clock: Clock) -> str:
        """What was found, and milliseconds an image: of the stages, which lie side by side, and of the whole."""
        full = f"{self.full} images have as many detections as --max-det {self.max_det} allows, maybe more\n"
        counted = f"{self.images} images, {self.objects} objects"
        skipped = f", {self.skipped} inputs passed over" if self.skipped else ""
        seconds = {**clock.seconds, "in all": time.perf_counter() - self.start}
        stages = ", ".join(f"{name} {1000 * one / self.images:.1f}" for name, one in seconds.items())
        return f"{full if self.full else ''}{counted}{skipped}; milliseconds an image, side by side: {stages}"
