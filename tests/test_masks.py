"""Masks between the network's output and the image file: against slow loops, torch, COCO's code, and by hand."""

import math

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from yolo_lite.ops.masks import inside, rle_on_image


def masks_on_image(logits: Tensor, box: Tensor, letterbox: tuple[float, ...], height: int, width: int) -> np.ndarray:
    """``[K, height, width]`` uint8, by COCO's decoder."""
    return np.stack([coco_mask.decode(one) for one in rle_on_image(logits, box, letterbox, height, width)])


def smooth_logits(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Blobs of both signs, ``[count, height, width]``."""
    coarse = torch.randn(count, 1, 4, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bicubic")[:, 0]


def slow_mask(logits: Tensor, box: list[float], letterbox: tuple[float, ...], height: int, width: int) -> np.ndarray:
    """Pixel by pixel: where its middle lies among the cells, and the four cells around that place."""
    scale_x, scale_y, left, top = letterbox
    rows, columns = logits.shape
    found = np.zeros((height, width), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            if not (box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]):
                continue
            u = min(max(((x + 0.5) * scale_x + left) / 4 - 0.5, 0), columns - 1)
            v = min(max(((y + 0.5) * scale_y + top) / 4 - 0.5, 0), rows - 1)
            i, j = min(int(v), rows - 2), min(int(u), columns - 2)
            (a, b), (c, d) = logits[i : i + 2, j : j + 2].tolist()
            upper, lower = a + (b - a) * (u - j), c + (d - c) * (u - j)
            found[y, x] = upper + (lower - upper) * (v - i) > 0
    return found


CASES = [
    # cells h w, letterbox, image height and width
    ((8, 12), (1.0, 1.0, 0, 0), (32, 48)),
    ((16, 16), (0.5, 0.5, 4, 8), (88, 110)),  # a large image, made smaller
    ((12, 8), (2.5, 2.0, 2, 5), (17, 11)),  # a small one, made larger, sides rounded each for itself
]


@pytest.mark.parametrize(("cells", "letterbox", "size"), CASES)
def test_masks_on_the_image_are_those_of_a_slow_loop(cells, letterbox, size):
    logits, (height, width) = smooth_logits(4, *cells), size
    boxes = [
        [0, 0, width, height],
        [3.2, 4.7, width - 2.5, height - 3.4],
        [-9, 2, width / 2, height + 50],
        [5.1, 5.1, 5.2, 5.2],
    ]
    found = masks_on_image(logits, torch.tensor(boxes), letterbox, height, width)
    assert found.shape == (4, height, width)
    for mask, one, box in zip(found, logits, boxes, strict=True):
        expected = slow_mask(one, box, letterbox, height, width)
        assert (mask != expected).mean() < 2e-3  # logits of 0 to the last bit
    assert 0 < found[0].mean() < 1
    assert found[3].sum() == 0


def test_masks_on_the_image_are_enlarged_as_torch_does_it():
    logits = smooth_logits(3, 10, 14)
    whole = torch.tensor([[0, 0, 56.0, 40.0]]).expand(3, 4)
    expected = F.interpolate(logits[None], scale_factor=4, mode="bilinear")[0] > 0
    found = masks_on_image(logits, whole, (1.0, 1.0, 0, 0), 40, 56)
    assert (found != expected.numpy()).mean() < 1e-3


def test_a_mask_by_hand():
    """Two cells, +1 and -3, 8 pixels: the sign changes a quarter of the way from 2 to 6, at pixel 3."""
    found = masks_on_image(torch.tensor([[[1.0, -3.0]]]), torch.tensor([[0, 0, 8, 4.0]]), (1, 1, 0, 0), 4, 8)
    assert found[0].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]] * 4
    found = masks_on_image(torch.tensor([[[1.0, -3.0]]]), torch.tensor([[1, 1, 8, 3.0]]), (1, 1, 0, 0), 4, 8)
    assert found[0].tolist() == [[0] * 8, [0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0], [0] * 8]


@pytest.mark.parametrize(("cells", "letterbox", "size"), CASES)
def test_rle_on_the_image_is_cocos_encoding_of_the_masks(cells, letterbox, size):
    height, width = size
    logits = torch.cat((smooth_logits(5, *cells, seed=3), torch.ones(2, *cells), -torch.ones(1, *cells)))
    boxes = torch.tensor([[0, 0, width, height], [2, 3, 8, 9], [-5, -5, 4, 99], [1, 0, 7, height], [9, 9, 3, 3]])
    more = torch.tensor([[0, 0, width, height], [3, 0, 7, height], [0, 0, width, height]])  # all, columns, nothing
    boxes = torch.cat((boxes, more)).float()
    found = rle_on_image(logits, boxes, letterbox, height, width)
    masks = [slow_mask(one, box, letterbox, height, width) for one, box in zip(logits, boxes.tolist(), strict=True)]
    assert found == [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    assert {mask.mean() for mask in masks} >= {0.0, 1.0}
    assert rle_on_image(logits[:0], boxes[:0], letterbox, height, width) == []


def test_rle_of_large_images_takes_little_memory_and_time():
    """300 masks of 12 megapixels would be 3.6 GB."""
    logits = smooth_logits(300, 160, 160)
    place = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 2500
    found = rle_on_image(logits, torch.cat((place, place + 300), dim=1), (0.16, 0.16, 0, 80), 3000, 4000)
    assert len(found) == 300
    assert sum(coco_mask.area(found)) > 0


def test_boxes_that_are_not_finite_give_masks_of_the_right_size():
    boxes = torch.tensor([[math.nan] * 4, [-math.inf, -math.inf, math.inf, math.inf]])
    found = masks_on_image(torch.ones(2, 4, 4), boxes, (1, 1, 0, 0), 16, 16)
    assert found.mean(axis=(1, 2)).tolist() == [0, 1]


def test_a_cell_is_inside_with_its_middle():
    box = torch.tensor([[1.5, 0.6, 3.4, 2.0]])
    assert inside(box, 3, 5)[0].int().tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
