"""What an exported file computes: the fused detector, decoded boxes and, where it is wanted, NMS.

Without NMS its output is ``predictions`` ``[B, N, 5+C]``: boxes cxcywh in pixels of the input, objectness, classes. The
score of a class is objectness times class. A model that finds masks has ``output0`` ``[B, N, 5+C+32]``, coefficients
behind the classes, and ``output1`` ``[B, 32, H/4, W/4]``, the prototypes: the logits of a mask are their sum. These are
the layouts of YOLOv5's exports, which other tools read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from yolo_lite.model.detector import Detector
from yolo_lite.ops.boxes import cxcywh_to_xyxy
from yolo_lite.ops.grid import make_grid
from yolo_lite.ops.nms import DetectOptions, class_nms, select_detections, survivors
from yolo_lite.structures import Detections

INPUT = "images"
FOUND = ("boxes", "scores", "labels", "counts")
# By the task of a model, without and with NMS.
OUTPUTS = {
    "detect": {False: ("predictions",), True: FOUND},
    "segment": {False: ("output0", "output1"), True: (*FOUND, "masks")},
}


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def detections_of(outputs: tuple[Tensor, ...], options: DetectOptions) -> list[Detections]:
    """Detections of each image from the outputs of a file, with or without NMS."""
    if len(outputs) <= len(OUTPUTS["segment"][False]):
        images = zip(*outputs, strict=True)
        return [_select(rows[rows[:, 4] > options.confidence], options, *prototype) for rows, *prototype in images]
    boxes, scores, labels, counts, *masks = outputs
    padded = zip(zip(boxes, scores, labels, *masks, strict=True), counts.tolist(), strict=True)
    found = [Detections(*(column[:count] for column in columns)) for columns, count in padded]
    return [survivors(one.select(one.score > options.confidence), options) for one in found]


def _select(rows: Tensor, options: DetectOptions, prototype: Tensor | None = None) -> Detections:
    """Detections of rows ``[S, 5+C]`` of one image, or ``[S, 5+C+32]``; a score is at most its objectness."""
    end = rows.shape[1] if prototype is None else rows.shape[1] - len(prototype)
    coefficient = None if prototype is None else rows[:, end:]
    score = rows[:, 4:5] * rows[:, 5:end]
    found = select_detections(score, lambda row, label: cxcywh_to_xyxy(rows[row, :4]), options, coefficient)
    if found.mask is None:
        return found
    return found._replace(mask=torch.einsum("kc,chw->khw", found.mask, prototype))


class Decoded(nn.Module):
    """``images`` to ``predictions``, or to ``output0`` and ``output1``.

    Images are floats ``[B, channels, H, W]`` in 0..1, mostly RGB. Images and predictions stay float32 where ``dtype``,
    in which the layers compute, is float16.
    """

    def __init__(self, detector: Detector, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.anchors = detector.head.anchor_sizes().clone()  # before they are rounded
        self.detector, self.dtype = detector.to(dtype), dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Tensor:
        raw = self.detector(images.to(self.dtype)).float()
        # From the image's shape, not from ``detector.grid``: a traced graph then works for every size.
        grid = make_grid(self.anchors, self.detector.strides, images.shape[2], images.shape[3])
        predictions = self.detector.head.predictions(raw, grid)
        return (predictions, raw["prototype"].float()) if "prototype" in raw.maps else predictions


class Suppressed(nn.Module):
    """``images`` to detections, padded with zeros to D = ``max_detections`` for each image, best score first.

    Boxes ``[B, D, 4]`` xyxy in pixels of the input, scores ``[B, D]``, labels ``[B, D]`` int64, counts ``[B]`` int64;
    where masks are found their logits ``[B, D, H/4, W/4]``, not cropped to the boxes.
    """

    def __init__(self, decoded: Decoded, options: DetectOptions, for_onnx: bool) -> None:
        super().__init__()
        self.decoded, self.options, self.num_classes = decoded, options, decoded.detector.config.nc
        self.lowest = None if options.by_class is None else torch.tensor(options.by_class)
        self.keep = _OnnxKeep.apply if for_onnx else _keep

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        options, end = self.options, 5 + self.num_classes
        predictions, *prototypes = as_tuple(self.decoded(images))
        # Rows of zeros behind the slots: even a small image has enough of them for both topk.
        predictions = functional.pad(predictions, (0, 0, 0, options.num_candidates))
        scores = predictions[..., 4:5] * predictions[..., 5:end]
        score, candidate = scores.flatten(1).topk(options.num_candidates)  # [B, K]
        slot, label = candidate // self.num_classes, candidate % self.num_classes
        box = cxcywh_to_xyxy(predictions[..., :4].gather(1, slot[..., None].expand(-1, -1, 4)))
        lowest = options.confidence if self.lowest is None else self.lowest[label]
        good = score * (score > lowest)
        good = good * self.keep(box, good, label, options.iou, self.num_classes)
        best, order = good.topk(options.max_detections)
        found = (best > 0)[..., None]
        boxes = box.gather(1, order[..., None].expand(-1, -1, 4)) * found
        outputs = boxes, best, label.gather(1, order) * found[..., 0], found[..., 0].sum(dim=1)
        if not prototypes:
            return outputs
        coefficient = predictions[..., end:]
        own = slot.gather(1, order)[..., None].expand(-1, -1, coefficient.shape[2])
        return *outputs, torch.einsum("bdc,bchw->bdhw", coefficient.gather(1, own) * found, prototypes[0])


def _keep(box: Tensor, score: Tensor, label: Tensor, iou: float, num_classes: int) -> Tensor:
    """1 for each of the candidates ``[B, K]`` that NMS keeps, 0 for the others; B is fixed in the traced graph."""
    kept = [class_nms(box[row], score[row], label[row], iou) for row in range(box.shape[0])]
    return torch.stack([torch.zeros_like(score[row]).scatter(0, rows, 1.0) for row, rows in enumerate(kept)])


class _OnnxKeep(torch.autograd.Function):
    """``_keep`` as ONNX's own NonMaxSuppression, for any number of images."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        return _keep(*arguments)

    @staticmethod
    def symbolic(g: Any, box: Any, score: Any, label: Any, iou: float, num_classes: int) -> Any:
        def constant(values: Any, dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor(values, dtype=dtype))

        axis, most = constant([1], torch.int64), constant([2**31], torch.int64)
        off_on, classes = constant([0.0, 1.0], torch.float32), constant([num_classes], torch.int64)
        of_class = g.op("OneHot", label, classes, off_on, axis_i=1)  # [B, C, K]
        of_class = g.op("Mul", of_class, g.op("Unsqueeze", score, axis))
        limits = constant([iou], torch.float32), constant([0.0], torch.float32)
        picked = g.op("NonMaxSuppression", box, of_class, most, *limits)  # [S, 3] image, class, candidate
        place = g.op("Gather", picked, constant([0, 2], torch.int64), axis_i=1)  # [S, 2] image, candidate
        # Every candidate that is picked has a score above 0, and its sign is the 1 that the mask takes.
        ones = g.op("Sign", g.op("GatherND", score, place))
        return g.op("ScatterND", g.op("Sub", score, score), place, ones)
