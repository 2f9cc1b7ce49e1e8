"""The formats of exported files, and the dict that names them: how each is written and read, what it says of itself.

To add one: write two functions, add a line to ``EXPORT_FORMATS``; a plugin can bring one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import json
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_lite.config.errors import CheckpointError, UserError
from yolo_lite.config.regular import read_regular
from yolo_lite.deploy.facts import Facts as Facts
from yolo_lite.deploy.graph import INPUT, OUTPUTS, as_tuple
from yolo_lite.engine.archive import read_archive, seal

OPSET = 17
LARGEST = 1024  # strides in a side; torch.export wants a bound
SEALED = "sealed"  # says in the metadata of an ONNX file that a seal was written
SEAL_START = b"\x72\x4c\x0a\x06sha256\x12\x42"  # ONNX's metadata_props: 76 bytes of a key, and of 66 bytes of value
CHANGED = "damaged, or changed since it was exported: its content does not match its digest; export it again"

RunFile = Callable[[Tensor], tuple[Tensor, ...]]  # images as ``graph.Decoded`` takes them -> the outputs


class ExportFormat(NamedTuple):
    suffix: str  # of its files
    write: Callable[[nn.Module, Tensor, Facts, Path], None]  # network of ``graph``, example images, facts, file
    load: Callable[[Path], tuple[Mapping[str, str], RunFile]]  # facts as strings, and how the file is run on the CPU
    fewest_strides: int = 1  # in a side of the input
    is_onnx: bool = False  # then it can be quantised, and hold NMS for any number of images
    seal: Callable[[Path], None] | None = None  # writes a digest into a finished file, which ``load`` verifies


def extra(name: str) -> Any:
    """A module of the extra ``export``."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'{name} is not installed: pip install -e ".[export]" brings it') from None


def write_onnx(network: nn.Module, example: Tensor, facts: Facts, path: Path) -> None:
    onnx, outputs = extra("onnx"), OUTPUTS[facts.task][facts.nms]
    axes = {name: {0: "batch"} if "batch" in facts.dynamic else {} for name in (INPUT, *outputs)}
    if "size" in facts.dynamic:
        axes[INPUT] |= {2: "height", 3: "width"}
        axes[outputs[0]] |= {} if facts.nms else {1: "slots"}
        axes[outputs[-1]] |= {2: "mask_height", 3: "mask_width"} if facts.task == "segment" else {}
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
    onnx.helper.set_model_props(model, {SEALED: json.dumps("sha256"), **facts.strings()})
    onnx.save(model, path)


def _onnx_seal(content: bytes | memoryview) -> bytes:
    """A last entry of the metadata, as the bytes of its message: what protobufs are joined of may follow each other."""
    return SEAL_START + json.dumps(hashlib.sha256(content).hexdigest()).encode()


def seal_onnx(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content + _onnx_seal(content))


def _read_onnx(path: Path) -> tuple[bytes, bool]:
    """The content of a file, and whether it has a seal; CheckpointError where that is broken."""
    data = read_regular(path)
    length = len(_onnx_seal(b""))
    is_sealed = data[-length:].startswith(SEAL_START)
    if is_sealed and data[-length:] != _onnx_seal(memoryview(data)[:-length]):
        raise CheckpointError(CHANGED)
    return data, is_sealed


def load_onnx(path: Path) -> tuple[Mapping[str, str], RunFile]:
    runtime: Any = extra("onnxruntime")
    state = vars(runtime.capi.onnxruntime_pybind11_state).values()
    errors = tuple(value for value in state if isinstance(value, type) and issubclass(value, Exception))
    data, is_sealed = _read_onnx(path)
    cores, lock = torch.get_num_threads(), threading.Lock()

    @functools.cache
    def session(threads: int) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    try:
        strings = session(cores).get_modelmeta().custom_metadata_map
    except errors as error:  # they have no base of their own
        raise ValueError(str(error)) from None
    if SEALED in strings and not is_sealed:
        raise CheckpointError(CHANGED)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        try:
            with lock:  # a session shares its threads among its callers: one that has one core wants a session without
                own = session(1 if torch.get_num_threads() == 1 else cores)
            outputs = own.run(None, {INPUT: images.contiguous().numpy()})
            return tuple(torch.from_numpy(output) for output in outputs)
        except errors as error:
            raise ValueError(str(error)) from None

    return strings, run


def write_torchscript(network: nn.Module, example: Tensor, facts: Facts, path: Path) -> None:
    traced = torch.jit.trace(network, example, check_trace=False)
    torch.jit.save(traced, path, _extra_files=facts.strings())


def load_torchscript(path: Path) -> tuple[Mapping[str, str], RunFile]:
    strings = dict.fromkeys(Facts._fields, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch would rather have torch.export
        data = io.BytesIO(read_archive(path, may_compress=True))
        module = torch.jit.load(data, "cpu", _extra_files=strings)
    return _as_text(strings), lambda images: as_tuple(module(images))


def _as_text(strings: Mapping[str, str | bytes]) -> dict[str, str]:
    """Metadata as text, whichever torch returns; ValueError where it is none."""
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in strings.items()}


def seal_archive(path: Path) -> None:
    with open(path, "r+b") as file:
        seal(file)


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
    data = io.BytesIO(read_archive(path, may_compress=True))  # of what is no archive torch would write pages
    module = torch.export.load(data, extra_files=strings).module()
    return _as_text(strings), lambda images: as_tuple(module(images))


EXPORT_FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(".onnx", write_onnx, load_onnx, is_onnx=True, seal=seal_onnx),
    "torchscript": ExportFormat(".torchscript", write_torchscript, load_torchscript, seal=seal_archive),
    # torch.export takes a dimension of 1 for a constant.
    "torch_export": ExportFormat(".pt2", write_torch_export, load_torch_export, fewest_strides=2, seal=seal_archive),
}
