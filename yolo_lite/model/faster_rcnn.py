"""torchvision's Faster R-CNN, taken apart: its stages, its losses with exchangeable box losses, its candidates.

B images, H W input size, N anchors of an image, R proposals (of all images), C classes without the background,
M targets in the batch, P positive pairs. Boxes are xyxy in pixels where torchvision sees them.

torchvision's modules do the work (Ren et al., arXiv:1506.01497, with the pyramid of arXiv:1612.03144) under its names.
Only what ties them together is written here: torchvision's own ``forward`` functions resize images, hard-code smooth
L1, and show neither anchors nor proposals to their box losses.

Losses of the first stage are divided by the number of sampled anchors of the batch, those of the second by the number
of sampled proposals, as in torchvision: they are means over its images, weighted by how many samples each has.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, clip_boxes_to_image

from yolo_lite.config.errors import ConfigError
from yolo_lite.config.hyp import Freeze
from yolo_lite.config.model import FasterRcnnConfig
from yolo_lite.model.backbones import BACKBONES
from yolo_lite.model.blocks.backbone import IMAGENET_MEAN, IMAGENET_STD, Start
from yolo_lite.model.heads import ClassRows
from yolo_lite.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from yolo_lite.ops.nms import DetectOptions, select_detections
from yolo_lite.structures import Detections, Objects

STRIDE = 32  # sides of the network input must be multiples of it
SMALLEST_SIDE = 0.01  # pixels; candidates with a shorter side are dropped, as in torchvision
MAKERS = {"mobilenet": partial(mobilenet_backbone, fpn=True), "resnet": resnet_fpn_backbone}  # by the kind of backbone


class BoxObjective(NamedTuple):
    """The box loss of one stage: the one place where a box loss meets Faster R-CNN."""

    function: Callable[[Tensor, Tensor], Tensor]  # predicted [P, 4], target [P, 4] -> [P]
    encoded: bool  # whether it compares what the network predicts with the encoded target, or boxes cxcywh in pixels
    gain: float = 1.0

    def total(self, coder: Any, deltas: Tensor, reference: Tensor, target: Tensor) -> Tensor:
        """The loss, summed over the pairs.

        Args:
            coder: torchvision's box coder of the stage.
            deltas: ``[P, 4]``, predicted relative to ``reference``.
            reference: anchors or proposals xyxy ``[P, 4]``.
            target: matched objects xyxy ``[P, 4]``.
        """
        if self.encoded:
            loss = self.function(deltas, coder.encode_single(target, reference))
        else:
            box = coder.decode_single(deltas, reference)
            loss = self.function(xyxy_to_cxcywh(box), xyxy_to_cxcywh(target))
        return loss.sum() * self.gain


class FirstStage(NamedTuple):
    """What pyramid and region proposal network make of a batch; float32 under autocast too."""

    network: FasterRcnn  # that made it, and goes on with it
    precision: torch.dtype | None  # of autocast, where it was on
    features: dict[str, Tensor]  # maps [B, 256, h, w], fine to coarse
    size: tuple[int, int]  # H, W
    anchors: Tensor  # [N, 4] xyxy, the same for every image
    objectness: Tensor  # [B, N] logits
    deltas: Tensor  # [B, N, 4] relative to the anchors
    proposals: list[Tensor]  # [*, 4] xyxy for each image, no gradient


class RawDetections(NamedTuple):
    """What both stages make of a batch."""

    first: FirstStage
    logits: Tensor  # [R, 1+C] of the proposals of all images one after the other; 0 is the background
    box: Tensor  # [R, C, 4] xyxy inside the image, a box for each class


class StageLosses(NamedTuple):
    """The four losses ``[]`` of a batch, with the gains of the box losses."""

    objectness: Tensor  # of the first stage, as is rpn_box
    rpn_box: Tensor
    classifier: Tensor  # of the second stage, as is box
    box: Tensor


class FasterRcnn(nn.Module):
    """A two-stage detector from image to raw detections, and its losses; the run loads what ``pretrained`` names.

    Raises:
        ConfigError: levels or anchors do not fit the backbone.
    """

    stride = STRIDE

    def __init__(self, config: FasterRcnnConfig) -> None:
        super().__init__()
        parts: Any = _assemble(config)
        self.config = config
        self.backbone, self.rpn, self.roi_heads = parts.backbone, parts.rpn, parts.roi_heads
        self.mean = nn.Buffer(torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        # Evenly likely classes and boxes that are their proposals (Girshick, arXiv:1504.08083, section 4.2).
        predictor = self.roi_heads.box_predictor
        for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> FirstStage | RawDetections:
        """What comes of float images ``[B, 3, H, W]`` in 0..1, H and W multiples of ``stride``.

        In training that is the first stage alone: the second learns from proposals which the criterion samples.
        """
        first = self.first_stage(images)
        if self.training:
            return first
        logits, deltas = self.second_stage(first, first.proposals)
        box = self.roi_heads.box_coder.decode(deltas.flatten(1), first.proposals).reshape(deltas.shape)
        return RawDetections(first, logits, clip_boxes_to_image(box[:, 1:], first.size))

    def first_stage(self, images: Tensor) -> FirstStage:
        """Features, predictions for the anchors, and the proposals chosen by them."""
        size = (images.shape[2], images.shape[3])
        features = self.backbone((images - self.mean) / self.std)
        objectness, deltas = self.rpn.head(list(features.values()))
        features = {name: feature.float() for name, feature in features.items()}  # anchors and RoIs need the precision
        anchors = self.rpn.anchor_generator(ImageList(images, [size]), list(features.values()))[0]
        per_level = [level[0].numel() for level in objectness]
        rows = concat_box_prediction_layers(objectness, deltas)  # [B * N, 1], [B * N, 4]
        objectness, deltas = (each.float().unflatten(0, (len(images), -1)) for each in rows)
        objectness = objectness.squeeze(2)
        every = self.rpn.box_coder.decode(deltas.detach(), [anchors] * len(images)).reshape(deltas.shape)
        proposals, _ = self.rpn.filter_proposals(every, objectness, [size] * len(images), per_level)
        kind = images.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return FirstStage(self, precision, features, size, anchors, objectness, deltas, proposals)

    def second_stage(self, first: FirstStage, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[R, 1+C]`` and deltas ``[R, 1+C, 4]`` of proposals xyxy ``[*, 4]`` for each image, float32."""
        pooled = self.roi_heads.box_roi_pool(first.features, proposals, [first.size] * len(proposals))
        with torch.autocast(pooled.device.type, first.precision, enabled=first.precision is not None):
            logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits.float(), deltas.float().unflatten(1, (-1, 4))

    def grid(self, height: int, width: int) -> None:
        """None: torchvision assigns anchors by itself."""

    def detections(self, raw: RawDetections, size: tuple[int, int], options: DetectOptions) -> list[Detections]:
        """By the softmax over classes and background; a proposal may stand for several classes."""
        counts = [len(proposals) for proposals in raw.first.proposals]
        solid = ((raw.box[..., 2:] - raw.box[..., :2]) >= SMALLEST_SIDE).all(dim=-1)  # [R, C]
        scores = raw.logits.softmax(dim=1)[:, 1:].where(solid, -1.0)  # [R, C]
        images = zip(scores.split(counts), raw.box.split(counts), strict=True)
        return [select_detections(score, lambda *place, box=box: box[place], options) for score, box in images]

    def frozen(self, freeze: Freeze) -> list[nn.Module]:
        """The backbone without its pyramid; ConfigError where rows are named, which this model has none of."""
        if freeze and freeze != "backbone":
            raise ConfigError(f"freeze: expected backbone or [] for Faster R-CNN, found {list(freeze)}")
        return [self.backbone.body] if freeze else []

    def class_rows(self) -> dict[str, ClassRows]:
        # The background comes first.
        rows = {"cls_score": ClassRows(1, 1, 1), "bbox_pred": ClassRows(1, 4, 4)}
        return {f"roi_heads.box_predictor.{key}.{part}": rows[key] for key in rows for part in ("weight", "bias")}

    def compile_network(self) -> None:
        self.backbone.compile()

    def for_inference(self) -> FasterRcnn:
        return copy.deepcopy(self).eval()

    def to_trace(self) -> nn.Module:
        """A copy of the backbone with its pyramid: what comes after depends on the image and cannot be traced."""
        return copy.deepcopy(self.backbone).cpu().eval()

    def describe(self, size: int) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"Faster R-CNN, {self.config.backbone}, {parameters:,} parameters, {size} px"

    def losses(self, first: FirstStage, objects: Objects, rpn: BoxObjective, roi: BoxObjective) -> StageLosses:
        """Finite scalars that carry a gradient, also without any object.

        Anchors and proposals are sampled by torch's global random generator of the device. Objects without an area
        are left out.
        """
        box = cxcywh_to_xyxy(objects.box.float())
        usable = (box[:, 2:] > box[:, :2]).all(dim=1)  # after the conversion: tiny sides may be rounded away in it
        own = [usable & (objects.image == image) for image in range(len(first.proposals))]
        by_image = [{"boxes": box[mine], "labels": objects.label[mine] + 1} for mine in own]  # 0 is the background
        return StageLosses(*self._first_losses(first, by_image, rpn), *self._second_losses(first, by_image, roi))

    @torch.no_grad()
    def validation_losses(
        self, first: FirstStage, objects: Objects, rpn: BoxObjective, roi: BoxObjective, seed: int = 0
    ) -> StageLosses:
        """The same losses for the same input; no random generator moves. The proposals are those of test time."""
        with _fixed_randomness(seed, first.anchors.device):
            return self.losses(first._replace(precision=None), objects, rpn, roi)

    def _first_losses(
        self, first: FirstStage, objects: list[dict[str, Tensor]], objective: BoxObjective
    ) -> tuple[Tensor, Tensor]:
        assigned = self.rpn.assign_targets_to_anchors([first.anchors] * len(objects), objects)
        label, box = (torch.stack(each) for each in assigned)  # [B, N] 1, 0 or -1 for neither; [B, N, 4] xyxy
        positive, negative = (torch.stack(masks).bool() for masks in self.rpn.fg_bg_sampler(list(label)))  # [B, N]
        sampled = positive | negative
        count = sampled.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(first.objectness[sampled], label[sampled], reduction="sum")
        reference = first.anchors.expand(len(objects), -1, -1)[positive]  # [P, 4]
        box_loss = objective.total(self.rpn.box_coder, first.deltas[positive], reference, box[positive])
        return objectness / count, box_loss / count

    def _second_losses(
        self, first: FirstStage, objects: list[dict[str, Tensor]], objective: BoxObjective
    ) -> tuple[Tensor, Tensor]:
        heads = self.roi_heads
        proposals, matches, labels, _ = heads.select_training_samples(first.proposals, objects)
        logits, deltas = self.second_stage(first, proposals)
        label = torch.cat(labels)  # [R], 0 is the background
        classifier = F.cross_entropy(logits, label, reduction="sum")
        boxes = [each["boxes"][match[own > 0]] for each, match, own in zip(objects, matches, labels, strict=True)]
        positive = (label > 0).nonzero().squeeze(1)  # [P]
        own_class, reference = deltas[positive, label[positive]], torch.cat(proposals)[positive]  # [P, 4]
        box_loss = objective.total(heads.box_coder, own_class, reference, torch.cat(boxes))
        count = max(len(label), 1)
        return classifier / count, box_loss / count


@contextlib.contextmanager
def _fixed_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from ``seed`` on the CPU and on ``device``; afterwards the generators are as they were before."""
    gpus = [device] if device.type in ("cuda", "xpu") else []
    with torch.random.fork_rng(gpus, device_type=device.type if gpus else "cuda"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the devices that are not forked too
        for gpu in gpus:
            with torch.get_device_module(gpu).device(gpu):
                torch.get_device_module(gpu).manual_seed(seed)
        yield


def _assemble(config: FasterRcnnConfig) -> FasterRCNN:
    """torchvision's model, of which only the parts are used."""
    kind, pretrained = BACKBONES[config.backbone], config.pretrained
    levels = config.levels or kind.levels
    if levels >= kind.stages:
        raise ConfigError(f"levels: expected {kind.stages - 1} or less for {config.backbone}, found {levels}")
    # Pretrained: frozen batch normalisation and first stages; from scratch everything learns: as in torchvision.
    backbone: Any = MAKERS[kind.maker](
        backbone_name=config.backbone,
        weights=None,
        norm_layer=FrozenBatchNorm2d if pretrained else nn.BatchNorm2d,
        trainable_layers=kind.trained if pretrained else kind.stages,
        returned_layers=list(range(kind.stages - levels, kind.stages)),
    )
    if pretrained:
        backbone.body.start = Start(config.backbone, "imagenet", "features." if kind.maker == "mobilenet" else "")
    maps = levels + 1  # of the pyramid, the pooled last one included
    sizes = config.anchors if isinstance(config.anchors[0], tuple) else (config.anchors,) * maps
    if len(sizes) != maps:
        raise ConfigError(f"anchors: expected one list for all or {maps}, one for each level, found {len(sizes)}")
    return FasterRCNN(
        backbone,
        num_classes=config.nc + 1,
        rpn_anchor_generator=AnchorGenerator(sizes, (config.aspect_ratios,) * maps),
        box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(levels)], output_size=7, sampling_ratio=2),
        rpn_pre_nms_top_n_train=config.rpn_pre_nms[0],
        rpn_pre_nms_top_n_test=config.rpn_pre_nms[1],
        rpn_post_nms_top_n_train=config.rpn_post_nms[0],
        rpn_post_nms_top_n_test=config.rpn_post_nms[1],
        rpn_batch_size_per_image=config.rpn_samples,
        box_batch_size_per_image=config.roi_samples,
    )
