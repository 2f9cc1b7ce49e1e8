"""Detections of any image: validation's letterbox, a model, NMS, and boxes back in the image's own pixels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolo_lite.config.errors import ConfigError, nearest
from yolo_lite.data.decode import ANY_RANGE
from yolo_lite.data.letterbox import Canvas, Letterbox, canvas_size, to_original
from yolo_lite.data.tiles import view_on_canvas
from yolo_lite.deploy.exported import is_exported, load_exported
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.sources import Frame, Media, as_frame, find_media, frames_of
from yolo_lite.deploy.stages import Clock, Skip, begun, read_ahead, side_by_side
from yolo_lite.engine.checkpoint import load_trained
from yolo_lite.engine.coco_ap import DetectionTable
from yolo_lite.engine.device import choose_compute, move_model
from yolo_lite.engine.evaluate import rounded_up
from yolo_lite.engine.operating_points import Points, lowest_scores
from yolo_lite.engine.tasks import Inference
from yolo_lite.engine.tiles import of_image
from yolo_lite.ops.masks import rle_on_image
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.ops.tiles import Tiles, views_of
from yolo_lite.structures import Compute, Detections, as_floats

# Images uint8 [B, 3, H, W] RGB -> for each the detections, boxes xyxy in pixels of the network's input.
Detect = Callable[[Tensor, DetectOptions], Iterable[Detections]]
BATCHES_WAITING = 2  # images that wait for others of their shape, in batches
READ_AHEAD = 4  # images or frames at least that are read while the network is at work on others
NETWORKS = 4  # at once on a CPU, at most: what Python does between their layers is done by one at a time


class _Waiting(NamedTuple):
    """A view of an image on its way to the network."""

    frame: Frame
    view: np.ndarray  # [4] xyxy in pixels of the image
    is_last: bool  # of its image
    canvas: np.ndarray  # uint8 [H, W, channels], what the network reads
    letterbox: Letterbox
    number: int = 0  # of all views


_Found = tuple[_Waiting, DetectionTable]


@dataclass(frozen=True)
class Predictor:
    """A detector of images; ``detect`` is all it asks of a model, a checkpoint's or an exported one."""

    names: tuple[str, ...]  # of the classes
    size: int  # pixels of the longest side in the network
    canvas: Canvas
    detect: Detect
    channels: int = 3  # of the images
    white: int = ANY_RANGE  # value of a white pixel in files of 16 bits
    source: str = ""  # where start weights come from, and their licence
    tile: int = 0  # pixels of a window's side in training, 0 without
    points: Points | None = None  # from which confidence on it is used
    clock: Clock = field(default_factory=Clock)
    networks: int = 1  # that are at work at once, on a batch each

    def predict(self, images: Any, batch_size: int = 8, **choice: Any) -> Prediction | list[Prediction]:
        """Detect on an image; for a list of them, or a tensor ``[B, 3, H, W]``, a list comes back.

        Args:
            images: a path, a numpy array (uint8 ``[H, W, 3]`` **RGB**: turn round what ``cv2.imread`` gives; or grey
                ``[H, W]``), a PIL image, a tensor (``[3, H, W]`` or ``[B, 3, H, W]`` RGB, uint8 or floats in 0..1), or
                a list of these. Instead of 3 channels arrays and tensors may have those of the model.
            choice: ``conf="auto", iou=0.45, max_det=300, classes=None, agnostic_nms=False``, see ``options``, and
                ``tile=None, overlap=0.2``, see ``chosen``.

        Raises:
            UserError: an image cannot be read or is of another type or shape; an option is out of range.
        """
        several = isinstance(images, (list, tuple)) or (isinstance(images, Tensor) and images.ndim == 4)
        frames = (as_frame(image, self.channels, self.white) for image in (images if several else [images]))
        found = list(self.run(frames, *self.chosen(**choice), batch_size))
        return found if several else found[0]

    def stream(
        self, *sources: str, skip: Skip = None, batch_size: int = 8, **choice: Any
    ) -> Generator[Prediction, None, None]:
        """Detect on what ``--source`` takes, with little in memory; ``skip`` gets the errors of unreadable inputs."""
        return self.watch(find_media(sources), *self.chosen(**choice), batch_size, skip)

    def chosen(self, tile: int | None = None, overlap: float = 0.2, **choice: Any) -> tuple[DetectOptions, Tiles]:
        """``options``, and the windows of ``tile`` pixels of larger images; 0: none, None: as trained."""
        if (tile and not 32 <= tile <= 8192) or not 0 <= overlap <= 0.9:
            wanted = "expected 0, or 32 to 8192 pixels, and 0..0.9"
            raise ConfigError(f"tile and overlap: {wanted}, found {tile} and {overlap}")
        return self.options(**choice), Tiles(self.tile if tile is None else tile, overlap)

    def options(
        self,
        conf: float | str | Mapping[str, float] = "auto",
        iou: float = 0.45,
        max_det: int = 300,
        classes: Sequence[str] | None = None,
        agnostic_nms: bool = False,
    ) -> DetectOptions:
        """How detections are chosen, as by the flags of ``yolo-lite predict``; ``classes`` are names or numbers.

        ``conf`` is a number, ``"f1"``, ``"precision"`` or ``"recall"``: what validation found for them, ``"auto"``: f1
        where that is known, else 0.25, or numbers by class, ``{"cat": 0.4}``.
        """
        if not 0 <= iou <= 1:
            raise ConfigError(f"iou: expected 0..1, found {iou}")
        if max_det < 1:
            raise ConfigError(f"max_det: expected 1 or more, found {max_det}")
        lowest = lowest_scores(conf, self.points, self.names)
        by_class = lowest.by_class
        if classes is not None:
            wanted, every = {*map(self._label, classes)}, by_class or [lowest.confidence] * len(self.names)
            by_class = tuple(one if label in wanted else 1.0 for label, one in enumerate(every))
        return DetectOptions(lowest.confidence, iou, max_det, by_class=by_class, agnostic=agnostic_nms)

    def _label(self, word: str) -> int:
        if word in self.names:
            return self.names.index(word)
        if word.isdecimal() and int(word) < len(self.names):
            return int(word)
        raise ConfigError(f"classes: unknown name {word!r}{nearest(word, self.names)}")

    def watch(
        self, media: Sequence[Media], options: DetectOptions, tiles: Tiles, batch_size: int, skip: Skip = None
    ) -> Generator[Prediction, None, None]:
        """What ``run`` finds on the frames of inputs; threads read and letterbox them while the network is at work.

        A frame of a camera or stream does not wait for the next. ``skip`` gets the errors of unreadable inputs.
        """

        def views(one: Media) -> Iterator[Iterator[_Waiting]]:
            frames = self.clock.timed("decoding", frames_of(one, self.channels, self.white))
            return (begun(self._views(frame, tiles)) for frame in frames)

        inputs = ((one.kind, views(one)) for one in media)
        with closing(read_ahead(inputs, max(READ_AHEAD, batch_size), skip)) as ready:
            parts = ([one] for one in ready) if any(one.kind == "live" for one in media) else [ready]
            for part in parts:
                yield from self._detected(part, options, batch_size)

    def run(
        self, frames: Iterable[Frame], options: DetectOptions, tiles: Tiles, batch_size: int
    ) -> Iterator[Prediction]:
        """Detect on frames in batches of views of one shape; predictions come in the order of the frames."""
        return self._detected((self._views(frame, tiles) for frame in frames), options, batch_size)

    def _detected(
        self, images: Iterable[Iterator[_Waiting]], options: DetectOptions, batch_size: int
    ) -> Iterator[Prediction]:
        """What is found on images, each given by its views."""
        if batch_size < 1:
            raise ConfigError(f"batch_size: expected 1 or more, found {batch_size}")
        due, ready, own = 0, dict[int, _Found](), list[_Found]()  # views, and those of the image that is due
        views = (one._replace(number=number) for number, one in enumerate(itertools.chain.from_iterable(images)))
        batches = _same_shape_batches(views, batch_size)
        with closing(side_by_side(functools.partial(self._found, options), batches, self.networks)) as batches_found:
            for found in itertools.chain.from_iterable(batches_found):
                ready[found[0].number] = found
                while due in ready:
                    own.append(ready.pop(due))
                    due += 1
                    if own[-1][0].is_last:
                        yield self._prediction(own, options)
                        own = []

    def _found(self, options: DetectOptions, batch: Sequence[_Waiting]) -> list[_Found]:
        """What is found in each view of a batch."""
        pixels = torch.from_numpy(np.stack([one.canvas for one in batch])).permute(0, 3, 1, 2)
        return [(one, _in_view(one, found)) for one, found in zip(batch, self.detect(pixels, options), strict=True)]

    def _views(self, frame: Frame, tiles: Tiles) -> Iterator[_Waiting]:
        views = views_of(frame.image.shape[0], frame.image.shape[1], tiles)
        for row, view in enumerate(views, 1):
            with self.clock.stage("letterbox"):
                canvas, place = view_on_canvas(frame.image, view, self.size, self.canvas)
            yield _Waiting(frame, view, row == len(views), canvas, place)

    def _prediction(self, own: list[_Found], options: DetectOptions) -> Prediction:
        """What was found in all views of an image."""
        views, tables = zip(*own, strict=True)
        table, frame = DetectionTable.concat(tables), views[0].frame
        view = np.stack([one.view for one in views])[table.image - views[0].number]
        table = of_image(table, view, frame.image.shape[:2], options)
        rle = None if table.mask is None else tuple(table.mask)
        return Prediction(frame, table.xyxy, table.score, table.label, self.names, rle)


def _in_view(one: _Waiting, found: Detections) -> DetectionTable:
    """What was found in a view, inside of it and in pixels of the image; ``image`` is its number."""
    box = to_original(found.box.cpu().double().numpy(), one.letterbox).clip(*np.tile(one.view.reshape(2, 2), 2))
    score, label, rle = found.score.cpu().double().numpy(), found.label.cpu().numpy(), None
    if found.mask is not None:
        masks = rle_on_image(found.mask, torch.from_numpy(box), one.letterbox, *one.frame.image.shape[:2])
        rle = np.array(masks, dtype=object)
    return DetectionTable(np.full(len(box), one.number), box, score, label, rle)


def _same_shape_batches(images: Iterable[_Waiting], batch_size: int) -> Iterator[list[_Waiting]]:
    """Views whose canvases have one shape; none waits for more than two batches of others."""
    groups: dict[tuple[int, ...], list[_Waiting]] = {}  # the one with the oldest image comes first
    for image in images:
        shape = image.canvas.shape
        group = groups.setdefault(shape, [])
        group.append(image)
        if len(group) == batch_size:
            yield groups.pop(shape)
        oldest = next(iter(groups.values()), [image])[0]
        if image.number - oldest.number >= BATCHES_WAITING * batch_size:
            yield groups.pop(oldest.canvas.shape)
    yield from groups.values()


def load(weights: str | Path, device: str = "", imgsz: int | None = None, half: bool = False) -> Predictor:
    """What ``yolo_lite.load`` gives, where the plugins are loaded."""
    if imgsz is not None and imgsz < 1:
        raise ConfigError(f"imgsz: expected 1 or more, found {imgsz}")
    clock = Clock()
    if is_exported(weights):
        if half:
            raise ConfigError(f"half: {weights} computes as it was exported (export --half), expected a checkpoint")
        exported, compute = load_exported(weights, device, imgsz)
        facts, detect = exported.facts, functools.partial(_detect, exported, compute, clock)
        known = (facts.channels, facts.white, facts.source, facts.tile, facts.points, clock, _networks(compute))
        return Predictor(facts.names, facts.imgsz, facts.canvas, detect, *known)
    _, model, config, content = load_trained(weights)
    compute = choose_compute(device, "auto" if half else config.hyp.precision, config.hyp.channels_last)
    if half and compute.dtype == torch.float32:
        raise ConfigError(f"half: 16 bits gain nothing on this {compute.device.type}, expected a GPU or CPU with bf16")
    size = rounded_up(imgsz or config.train.imgsz, model.stride)
    canvas = functools.partial(canvas_size, stride=model.stride)
    detect = functools.partial(_detect, move_model(model, compute).for_inference(), compute, clock)
    own = (config.data.channels, config.data.white, content.get("source", ""), config.hyp.tile)
    points = content.get("operating_points")
    return Predictor(config.data.class_names, size, canvas, detect, *own, points, clock, _networks(compute))


def _networks(compute: Compute) -> int:
    """How many networks are at work at once.

    On a CPU two of one thread are done with two images sooner than one of two threads, which leaves cores idle between
    its layers; on a GPU the device works for one while Python does for the other.
    """
    at_work = {"cpu": min(torch.get_num_threads(), NETWORKS), "cuda": 2}
    return at_work.get(compute.device.type, 1)


@torch.inference_mode()
def _detect(
    network: Inference, compute: Compute, clock: Clock, images: Tensor, options: DetectOptions
) -> Iterator[Detections]:
    with clock.stage("network"):
        images = as_floats(images, compute)
        with compute.autocast():
            raw = network(images)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)  # NMS would wait for the network, in its stead
    with clock.stage("NMS"):
        each = iter(network.detections(raw, (images.shape[2], images.shape[3]), options))
    yield from clock.timed("NMS", each)
