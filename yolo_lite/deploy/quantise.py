"""int8: ONNX Runtime's static quantisation, with ranges seen on images of the dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from yolo_lite.deploy.formats import extra
from yolo_lite.deploy.graph import INPUT

# With what lies between them, convolutions hand over 8 bits: quicker, and nearer to fp32, than convolutions alone.
OPERATIONS = ["Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"]


def quantise(path: Path, images: Sequence[Tensor], batch: int) -> None:
    """Make the layers of an ONNX file int8, in place; the head and what follows it stay fp32.

    Args:
        images: uint8 ``[1, channels, H, W]``, of one shape.
        batch: as many of an image go in at once.
    """
    onnx, quantization = extra("onnx"), extra("onnxruntime.quantization")
    inputs = ({INPUT: one.expand(batch, -1, -1, -1).numpy().astype(np.float32) / 255} for one in images)
    reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(inputs, None)})
    logging.disable(logging.WARNING)  # it recommends a preparation that changes nothing here
    try:
        quantization.quantize_static(
            path,
            path,
            reader(),
            per_channel=True,
            # Weights of 8 bits without a sign: products with signed ones overflow on CPUs without VNNI (LOG.md).
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=OPERATIONS,
            nodes_to_quantize=_layers(onnx.load(path)),
        )
    finally:
        logging.disable(logging.NOTSET)


def _layers(model: Any) -> list[str]:
    """The nodes of all layers but Detect, by the names that torch gives them."""
    names = [node.name for node in model.graph.node if "/layers." in node.name]
    detect = next(name.split("heads.")[0] for name in names if "/heads." in name)
    return [name for name in names if not name.startswith(detect)]
