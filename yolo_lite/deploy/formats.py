"""The formats of exported files, and the dict that names them: how each is written and read, what it says of itself.

To add one: write two functions, add a line to ``EXPORT_FORMATS``; a plugin can bring one.
"""

from __future__ import annotations

import importlib
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import UserError
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.deploy.graph import INPUT, OUTPUTS

OPSET = 17
LARGEST = 1024  # strides in a side; torch.export wants a bound

RunFile = Callable[[Tensor], tuple[Tensor, ...]]  # images as ``graph.Decoded`` takes them -> the outputs


class Facts(NamedTuple):
    """What an exported file says of itself, as strings of JSON in its metadata."""

    names: tuple[str, ...]  # of the classes
    channels: int  # of the images
    stride: int  # sides of the input are multiples of it
    smallest: int  # pixels of the shortest side that goes in
    imgsz: int  # pixels of the longest side
    batch: int  # images that go in at once, where that is fixed
    dynamic: tuple[str, ...]  # what is not fixed: "batch", "size"
    precision: str  # fp32, fp16 or int8
    nms: bool  # whether the outputs are detections
    task: str = "detect"
    yolo_lite: str = ""  # the version that wrote it
    source: str = ""  # where imported weights come from, and their licence
    white: int = 65535  # value of a white pixel in 16-bit images

    def strings(self) -> dict[str, str]:
        return {name: json.dumps(value, ensure_ascii=False) for name, value in self._asdict().items()}

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the input for a resized image: validation's, or the one square that was exported."""
        if "size" not in self.dynamic:
            return self.imgsz, self.imgsz
        canvas = canvas_size(height, width, self.stride)
        return max(canvas[0], self.smallest), max(canvas[1], self.smallest)


class ExportFormat(NamedTuple):
    suffix: str  # of its files
    write: Callable[[nn.Module, Tensor, Facts, Path], None]  # network of ``graph``, example images, facts, file
    load: Callable[[Path], tuple[Mapping[str, str], RunFile]]  # facts as strings, and how the file is run on the CPU
    fewest_strides: int = 1  # in a side of the input
    is_onnx: bool = False  # then it can be quantised, and hold NMS for any number of images


def extra(name: str) -> Any:
    """A module of the extra ``export``."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'{name} is not installed: pip install -e ".[export]" brings it') from None


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def write_onnx(network: nn.Module, example: Tensor, facts: Facts, path: Path) -> None:
    onnx, outputs = extra("onnx"), OUTPUTS[facts.nms]
    axes = {name: {0: "batch"} if "batch" in facts.dynamic else {} for name in (INPUT, *outputs)}
    if "size" in facts.dynamic:
        axes[INPUT] |= {2: "height", 3: "width"}
        axes[outputs[0]] |= {} if facts.nms else {1: "slots"}
    torch.onnx.export(
        network,
        (example,),
        str(path),
        input_names=[INPUT],
        output_names=list(outputs),
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,  # the other exporter needs half a minute for dynamic sizes (LOG.md)
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, facts.strings())
    onnx.save(model, path)


def load_onnx(path: Path) -> tuple[Mapping[str, str], RunFile]:
    runtime: Any = extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    state = vars(runtime.capi.onnxruntime_pybind11_state).values()
    errors = tuple(value for value in state if isinstance(value, type) and issubclass(value, Exception))
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except errors as error:  # they have no base of their own
        raise ValueError(str(error)) from None

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(None, {INPUT: images.contiguous().numpy()}))

    return session.get_modelmeta().custom_metadata_map, run


def write_torchscript(network: nn.Module, example: Tensor, facts: Facts, path: Path) -> None:
    traced = torch.jit.trace(network, example, check_trace=False)
    torch.jit.save(traced, path, _extra_files=facts.strings())


def load_torchscript(path: Path) -> tuple[Mapping[str, str], RunFile]:
    strings = dict.fromkeys(Facts._fields, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch would rather have torch.export
        module = torch.jit.load(path, "cpu", _extra_files=strings)
    return strings, lambda images: as_tuple(module(images))


def write_torch_export(network: nn.Module, example: Tensor, facts: Facts, path: Path) -> None:
    shape = dict[int, Any]()
    if "batch" in facts.dynamic:
        shape[0] = torch.export.Dim("batch", min=1)
    if "size" in facts.dynamic:
        shape[2], shape[3] = (facts.stride * torch.export.Dim(name, min=2, max=LARGEST) for name in ("rows", "columns"))
    program = torch.export.export(network, (example,), dynamic_shapes=(shape or None,), strict=False)
    torch.export.save(program, path, extra_files=facts.strings())


def load_torch_export(path: Path) -> tuple[Mapping[str, str], RunFile]:
    strings = dict.fromkeys(Facts._fields, "")
    zipfile.ZipFile(path).close()  # of what is no archive torch would write pages
    module = torch.export.load(path, extra_files=strings).module()
    return strings, lambda images: as_tuple(module(images))


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(".onnx", write_onnx, load_onnx, is_onnx=True),
    "torchscript": ExportFormat(".torchscript", write_torchscript, load_torchscript),
    # torch.export takes a dimension of 1 for a constant.
    "torch_export": ExportFormat(".pt2", write_torch_export, load_torch_export, fewest_strides=2),
}
