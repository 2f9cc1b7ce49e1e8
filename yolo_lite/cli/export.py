"""``yolo-lite export``: write a checkpoint as a file that other programs run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_lite.cli.flags import DEFAULT_DATA, add_plugin_flag, check_range, find_data
from yolo_lite.config.errors import ConfigError, DataError

if TYPE_CHECKING:
    from yolo_lite.data.index import DatasetIndex
    from yolo_lite.deploy.export import Exportable, Recipe

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript", "torch_export": ".pt2"}


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``yolo-lite export``."""
    parser = argparse.ArgumentParser(
        prog="yolo-lite export", description="Write a YOLO checkpoint as ONNX, TorchScript or torch.export."
    )
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint, for example runs/train/exp/weights/best.pt")
    add("--format", default="onnx", choices=tuple(SUFFIXES), help="default: %(default)s")
    add("-o", "--output", metavar="FILE", help="default: beside the checkpoint: .onnx, .torchscript or .pt2")
    add("--imgsz", type=int, help="pixels of the longest side; pictures fill a square of it (default: as trained)")
    add("--batch-size", type=int, default=1, help="pictures that go in at once (default: %(default)s)")
    add("--dynamic", nargs="+", choices=("batch", "size"), default=[], help="what the file leaves open")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--half", action="store_true", help="fp16 weights and layers; inputs and outputs stay fp32")
    precision.add_argument("--int8", action="store_true", help="int8 convolutions, ONNX only, calibrated on --data")
    add("--nms", action="store_true", help="NMS in the file: boxes, scores, labels, counts come out")
    add("--conf", type=float, default=0.25, help="of --nms: lowest confidence (default: %(default)s)")
    add("--iou", type=float, default=0.45, help="of --nms: overlap that drops a box (default: %(default)s)")
    add("--max-det", type=int, default=300, help="of --nms: most detections of a picture (default: %(default)s)")
    add("--data", help="dataset YAML, pictures to check and calibrate with (default: the one it was trained with)")
    add("--split", default="train", choices=("train", "val", "test"), help="of --data (default: %(default)s)")
    add("--calibration-images", type=int, default=128, metavar="N", help="for --int8 (default: %(default)s)")
    add("--exist-ok", action="store_true", help="overwrite an existing file")
    add_plugin_flag(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Write the file and say how near it comes to PyTorch.

    Raises:
        UserError: a flag, the checkpoint or the data cannot be used, or the file differs too much.
    """
    _check_flags(arguments)
    output = _output(arguments)

    from yolo_lite.deploy.export import export, read_exportable, samples_of
    from yolo_lite.plugins import loaded

    with loaded(arguments.plugin):
        exportable = read_exportable(arguments.weights, _recipe(arguments))
    index = _index(arguments, exportable)
    samples = samples_of(index, exportable.facts, arguments.calibration_images if arguments.int8 else 0)
    agreement = export(exportable, output, samples)
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB; {len(samples.check)} pictures: {agreement}")
    if exportable.facts.source:
        print(exportable.facts.source)


def _recipe(arguments: argparse.Namespace) -> Recipe:
    from yolo_lite.deploy.export import Recipe
    from yolo_lite.ops.nms import DetectOptions

    return Recipe(
        format=arguments.format,
        imgsz=arguments.imgsz,
        batch=arguments.batch_size,
        dynamic=tuple(arguments.dynamic),
        precision="int8" if arguments.int8 else "fp16" if arguments.half else "fp32",
        nms=DetectOptions(arguments.conf, arguments.iou, arguments.max_det) if arguments.nms else None,
    )


def _index(arguments: argparse.Namespace, exportable: Exportable) -> DatasetIndex:
    """Pictures of the dataset; of the embedded set where that is not at hand, which is enough to compare."""
    from yolo_lite.config.load import load_dataset_config
    from yolo_lite.data.index import index_split

    data, data_file = exportable.data
    channels = {"channels": exportable.facts.channels}
    if arguments.data:
        data_file = find_data(arguments.data)
        data = load_dataset_config(data_file)
    try:
        if not data_file:
            raise ConfigError(f"{arguments.weights}: imported weights, which know no dataset")
        return index_split(data.model_copy(update=channels), data_file, arguments.split)
    except (DataError, ConfigError) as error:
        if arguments.data or arguments.int8:
            raise
        print(f"{error}; compared on drawn pictures, --data names others")
        drawn = find_data(DEFAULT_DATA)
        return index_split(load_dataset_config(drawn).model_copy(update=channels), drawn, "val")


def _output(arguments: argparse.Namespace) -> Path:
    suffix = SUFFIXES[arguments.format]
    output = Path(arguments.output) if arguments.output else Path(arguments.weights).with_suffix(suffix)
    if output.suffix != suffix:
        raise ConfigError(f"-o {output}: expected a name that ends with {suffix}")
    if output.exists() and not arguments.exist_ok:
        raise ConfigError(f"-o {output}: is there already; --exist-ok overwrites it")
    return output


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for the first number out of range."""
    check_range("--conf", arguments.conf, 0, 1)
    check_range("--iou", arguments.iou, 0, 1)
    for flag in ("imgsz", "batch_size", "max_det", "calibration_images"):
        value = getattr(arguments, flag)
        if value is not None and value < 1:
            raise ConfigError(f"--{flag.replace('_', '-')}: expected 1 or more, found {value}")
