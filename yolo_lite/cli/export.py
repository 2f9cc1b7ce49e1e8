"""``yolo-lite export``: write a checkpoint as a file that other programs run."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.config.errors import ConfigError, DataError, nearest
from yolo_lite.config.find import find_yaml
from yolo_lite.config.options import DEFAULT_DATA, ExportOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.inputs import dataset_inputs
from yolo_lite.data.names import load_dataset
from yolo_lite.data.outputs import NO_INPUTS, Inputs, check_file
from yolo_lite.deploy.export import export, load_exportable
from yolo_lite.deploy.formats import EXPORT_FORMATS


def run(options: ExportOptions) -> None:
    """Write the file and say how near it comes to PyTorch.

    Raises:
        UserError: a flag, the checkpoint or the data cannot be used, or the file differs too much.
    """
    output = _output(options)
    trained = load_exportable(options)
    index, inputs = _index(options, trained.config)
    check_file(output, inputs._replace(files=(*inputs.files, str(options.weights))), "-o")
    agreement = export(trained, options, output, index)
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB; {agreement.images} images: {agreement}")
    if trained.content.get("source"):
        print(trained.content["source"])


def _index(options: ExportOptions, trained: RunConfig) -> tuple[DatasetIndex, Inputs]:
    """Images of the dataset and what it keeps; of the embedded set, enough to compare, where that is not at hand."""
    data, data_file = trained.data, trained.data_file
    channels = {"channels": data.channels}
    if options.data:
        data_file = str(find_yaml(options.data, "data"))
        data = load_dataset(data_file, names=trained.data.names)
    try:
        if not data_file:
            raise ConfigError(f"{options.weights}: imported weights, which know no dataset")
        index = index_split(data.model_copy(update=channels), data_file, options.split)
        return index, dataset_inputs(data, data_file, [index])
    except (DataError, ConfigError) as error:
        if options.data or options.int8:
            raise
        print(f"{error}; compared on drawn images, --data names others")
        drawn = find_yaml(DEFAULT_DATA, "data")
        return index_split(load_dataset(drawn).model_copy(update=channels), drawn, "val"), NO_INPUTS


def _output(options: ExportOptions) -> Path:
    if options.format not in EXPORT_FORMATS:
        raise ConfigError(f"--format: unknown name {options.format!r}{nearest(options.format, EXPORT_FORMATS)}")
    suffix = EXPORT_FORMATS[options.format].suffix
    output = Path(options.output) if options.output else Path(options.weights).with_suffix(suffix)
    if output.suffix != suffix:
        raise ConfigError(f"-o {output}: expected a name that ends with {suffix}")
    if output.exists() and not options.exist_ok:
        raise ConfigError(f"-o {output}: is there already; --exist-ok overwrites it")
    return output
