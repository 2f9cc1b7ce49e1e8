"""``yolo-lite predict``: detections of images, videos, cameras and streams."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from yolo_lite.config.errors import DataError
from yolo_lite.config.options import PredictOptions

if TYPE_CHECKING:
    from yolo_lite.deploy.prediction import Prediction


class _Tally:
    """What was found so far, and what could not be read."""

    def __init__(self) -> None:
        self.frames = self.objects = self.skipped = 0
        self.start = time.perf_counter()

    def skip(self, problem: DataError) -> None:
        """Name an input and pass over it."""
        self.skipped += 1
        tqdm.write(f"passed over: {problem}", file=sys.stderr)

    def __str__(self) -> str:
        milliseconds = 1000 * (time.perf_counter() - self.start) / max(self.frames, 1)
        skipped = f", {self.skipped} inputs passed over" if self.skipped else ""
        return f"{self.frames} images, {self.objects} objects{skipped}, {milliseconds:.1f} ms an image"


def run(options: PredictOptions) -> None:
    """Detect on everything that ``--source`` names: a line for each input, files in a run folder.

    Raises:
        DataError: there is nothing to detect on, or none of it can be read. Where some of it can, the rest is named
            and passed over, and that is no error.
    """
    from yolo_lite.deploy.predictor import load
    from yolo_lite.deploy.sources import count_frames, find_media, read_frames
    from yolo_lite.engine.device import memory_errors_explained
    from yolo_lite.engine.run_folder import make_run_folder

    media = find_media(options.source)
    predictor = load(str(options.weights), str(options.device), options.imgsz)
    choice = predictor.options(
        options.conf, options.iou, options.max_det, options.classes or None, options.agnostic_nms
    )
    writes = not options.no_save or options.save_txt or options.save_json or options.save_crop
    batch_size = 1 if any(one.kind == "live" for one in media) else options.batch_size  # nothing live waits
    tally = _Tally()
    with memory_errors_explained(batch_size, predictor.size):
        stream = predictor.run(read_frames(media, tally.skip, predictor.channels), choice, batch_size)
        first = next(stream, None)
        if first is None:
            raise DataError(f"--source {' '.join(options.source)}: not one of {tally.skipped} inputs can be read")
        folder = make_run_folder(options.project, options.name, options.exist_ok) if writes else None
        bar = tqdm(
            _said(itertools.chain([first], stream), tally),
            desc="predicting",
            total=count_frames(media),
            leave=False,
            delay=1,
        )
        _write(bar, folder, options)
    tqdm.write(f"{tally}{f'; {folder}' if folder else ''}")


def _write(predictions: Iterable[Prediction], folder: Path | None, options: PredictOptions) -> None:
    """Write every prediction when it comes; a signal ends this between two of them, with whole files."""
    from yolo_lite.deploy.prediction import Outputs
    from yolo_lite.engine.stop import stop_requests

    with stop_requests() as stop, closing(Outputs(folder or Path(), options)) as files:
        for prediction in predictions:
            files.add(prediction)
            stop.check()


def _said(stream: Iterable[Prediction], tally: _Tally) -> Iterator[Prediction]:
    """The predictions, counted; behind the last one of each input a line that says what was found."""
    for file, group in itertools.groupby(stream, key=lambda prediction: prediction.frame.file):
        frames, found = 0, Counter[int]()
        for prediction in group:
            frames, tally.frames = frames + 1, tally.frames + 1
            tally.objects += len(prediction)
            found.update(prediction.label.tolist())
            yield prediction
        length = "" if prediction.frame.number is None else f"{frames} frames, "
        tqdm.write(f"{file}: {length}{_counted(prediction.names, found)}")


def _counted(names: tuple[str, ...], found: Counter[int]) -> str:
    """``"3 RBC, 1 WBC"``, in the order of the classes."""
    return ", ".join(f"{found[label]} {names[label]}" for label in sorted(found)) or "nothing found"
