"""The fields of a checkpoint: presence, type and range of each, and whether its tensors fit the model.

A checkpoint is data from outside, as a YAML file is. Fields that a newer yolo_lite adds without a new format may be
left out of account by older ones: unknown names pass, if what they hold is plain data. To add a field, add a line to
``Averaged`` or ``Whole``.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from yolo_lite.config.errors import CheckpointError
from yolo_lite.config.seams import Section, expected_words
from yolo_lite.config.types import Fraction, NotNegative, Positive

WholeNumber = Annotated[int, Field(ge=0, le=2**53)]
Figure = Annotated[float, Field(allow_inf_nan=True)]  # mAP is NaN where nothing was to be found
StateDict = dict[str, Any]
LONG_LINE, MOST_LINES = 1000, 10  # of a message
NAMED = 3  # tensors that a message names, of any number
SPARE = 1_000_000  # numbers that a model may hold beyond four times those of its file
# How an optimizer is computed, which depends on the device and on torch's version.
FREE_IN_GROUPS = ("fused", "foreach", "capturable", "differentiable", "decoupled_weight_decay")
STATES = {"SGD": ("momentum_buffer",), "AdamW": ("step", "exp_avg", "exp_avg_sq")}


class Fields(Section):
    """Common rules of every part of a checkpoint."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True, validate_default=False, defer_build=True)


class SplitRecord(Fields):
    """What a split was, see engine/same_data.py."""

    images: WholeNumber
    objects: list[WholeNumber]
    sizes: str
    labels: str
    boxes: str
    each: Tensor = None  # type: ignore[assignment]  # [images, 2] int64; not of a run that an older yolo_lite began


class DataRecord(Fields):
    names: list[str]
    train: SplitRecord
    val: SplitRecord
    stated_names: list[str] | None
    stated: dict[str, str] | None = None  # not of a run that an older yolo_lite began


class OperatingPoint(Fields):
    """Confidences that reach something, None where none does."""

    all: Fraction | None
    by_class: dict[str, Fraction | None]
    wanted: Fraction = None  # type: ignore[assignment]  # of precision and recall


class OperatingPoints(Fields):
    """From which confidence on a detector is used, see engine/operating_points.py, and on what that was found."""

    split: str
    images: WholeNumber
    objects: WholeNumber
    f1: OperatingPoint
    precision: OperatingPoint = None  # type: ignore[assignment]
    recall: OperatingPoint = None  # type: ignore[assignment]


class Averaged(Fields):
    """What every checkpoint holds, best.pt and imported weights too."""

    format: WholeNumber
    yolo_lite: str = ""
    config: dict[str, Any]  # as a whole checked by ``load_run_config``
    ema: StateDict
    losses: StateDict
    epoch: WholeNumber
    metrics: dict[str, Figure] = Field(default_factory=dict)
    data: DataRecord = None  # type: ignore[assignment]  # missing in imported weights, never None
    source: str = ""
    operating_points: OperatingPoints = None  # type: ignore[assignment]  # where they were looked for
    rows: list[dict[str, Figure]] = Field(default_factory=list)  # figures of each epoch


class TallyFields(Fields, extra="forbid"):
    losses: Tensor
    norm: Tensor
    steps: WholeNumber
    skipped: WholeNumber
    skipped_in_a_row: WholeNumber


Beta = Annotated[float, Field(ge=0, lt=1)]


class GroupFields(Fields):
    """Of the optimizer's parameters; its other options must be those of the run."""

    name: str
    params: list[WholeNumber]
    lr: NotNegative
    momentum: NotNegative = 0.0
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.0, 0.0)


class OptimizerFields(Fields):
    state: dict[WholeNumber, dict[str, Tensor | None]]
    param_groups: list[GroupFields]


class ScalerFields(Fields):
    """Of fp16; empty otherwise."""

    scale: Positive
    growth_factor: Annotated[float, Field(gt=1)]
    backoff_factor: Annotated[float, Field(gt=0, lt=1)]
    growth_interval: Annotated[int, Field(gt=0, le=2**53)]
    growth_tracker: Annotated[WholeNumber, Field(alias="_growth_tracker")]


class Empty(Section):
    """No keys at all."""


class Whole(Averaged):
    """What last.pt holds."""

    metrics: dict[str, Figure]
    model: StateDict
    optimizer: OptimizerFields
    scaler: Empty | ScalerFields
    step: WholeNumber
    best_fitness: Annotated[float, Field(ge=-1, le=1)]
    best_epoch: WholeNumber
    updates: WholeNumber
    tally: TallyFields


def check_fields(content: dict[str, Any], path: str | Path) -> None:
    """Raise CheckpointError, with the first field that is wrong and what was expected of it, unless all are right."""
    _check_plain(content, path, ())
    section = Whole if "optimizer" in content else Averaged
    try:
        section.model_validate(content)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_context=True)
        where, expected = ".".join(map(str, first["loc"])), expected_words(first)
        rest = f" (and {len(others)} fields more)" if others else ""
        if first["type"] in ("missing", "extra_forbidden"):
            problem = "missing" if first["type"] == "missing" else "unknown"
            raise CheckpointError(f"{path}: the field {where!r} is {problem}{rest}") from None
        raise CheckpointError(f"{path}: {where}: expected {expected}, found {shown(first['input'])}{rest}") from None
    if problem := _contradiction(content, section is Whole):
        raise CheckpointError(f"{path}: {problem}")


def _contradiction(content: Mapping[str, Any], is_whole: bool) -> str:
    """What of the fields does not go together; "" where all does."""
    for row in content.get("rows", ()):
        if row.get("epoch", -1) not in range(1, content["epoch"] + 1):
            return f"rows: expected figures of epochs 1 to {content['epoch']}, found {shown(row.get('epoch'))}"
    for split in ("train", "val") if "data" in content else ():
        record = content["data"][split]
        each, shape = record.get("each"), (record["images"], 2)
        if each is not None and (each.shape != shape or each.dtype != torch.int64):
            return f"data.{split}.each: expected a tensor {list(shape)} int64, found {shown(each)}"
    if is_whole and content["best_epoch"] > content["epoch"]:
        return f"best_epoch: expected at most epoch, {content['epoch']}, found {content['best_epoch']}"
    if is_whole and content["tally"]["skipped"] > content["tally"]["steps"]:
        return f"tally.skipped: expected at most tally.steps, found {content['tally']['skipped']}"
    return ""


def shown(value: Any) -> str:
    """A value in a line, however large it is."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return reprlib.repr(value)


def in_short(text: str) -> str:
    """A message of many lines, or of long ones, whose end and inside are left out."""
    lines = [line if len(line) <= LONG_LINE else f"{line[:LONG_LINE]} ..." for line in text.splitlines()]
    rest = [f"... and {len(lines) - MOST_LINES} lines more"] if len(lines) > MOST_LINES else []
    return "\n".join(lines[:MOST_LINES] + rest)


def _check_plain(value: Any, path: str | Path, where: tuple[Any, ...]) -> None:
    """Tensors, numbers, text, lists and dicts: nothing else may lie anywhere in a checkpoint."""
    problem = ""
    if isinstance(value, Tensor):
        problem = "a tensor" if where[:1] == ("config",) else problem_of_tensor(value)
    elif isinstance(value, dict):
        problem = _problem_of_keys(value)
    elif isinstance(value, str):
        problem = "" if _is_text(value) else "text that cannot be encoded"
    elif value is not None and not isinstance(value, (bool, int, float, list, tuple)):
        problem = f"a {type(value).__name__}"
    if problem:
        place = ".".join(str(key)[:200] for key in where)
        raise CheckpointError(f"{path}: {place!a}: expected tensors and plain data, found {problem}")
    if isinstance(value, (dict, list, tuple)):
        for key, each in dict.items(value) if isinstance(value, dict) else enumerate(value):
            _check_plain(each, path, (*where, key))


def _problem_of_keys(value: dict[Any, Any]) -> str:
    if getattr(value, "__dict__", {}) and (problem := _problem_of_attributes(vars(value))):
        return problem
    odd = [key for key in dict.keys(value) if type(key) is not int and not (type(key) is str and _is_text(key))]
    return f"the key {shown(odd[0])}" if odd else ""


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem_of_attributes(attributes: dict[str, Any]) -> str:
    """Beside its keys a state dict has but the versions of modules, which torch puts there."""
    versions: Any = attributes.get("_metadata")
    if (
        attributes.keys() != {"_metadata"}
        or type(versions) not in (dict, OrderedDict)
        or getattr(versions, "__dict__", {})
    ):
        return f"the attributes {shown(list(attributes))}"
    good = (
        type(name) is str
        and type(row) is dict
        and row.keys() <= {"version"}
        and {*map(type, row.values())} <= {int, type(None)}
        for name, row in versions.items()
    )
    return "" if all(good) else "versions of modules that are none"


def problem_of_tensor(tensor: Tensor) -> str:
    """Why a tensor from a file is none of plain numbers that the file holds; "" where it is one."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
        kind = "a quantized" if tensor.is_quantized else f"a {tensor.layout} {tensor.dtype}"
        return f"{kind} tensor on {tensor.device}".replace("torch.", "")
    if tensor.requires_grad:
        return "a tensor that wants a gradient"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"{shown(tensor)}, larger than its storage"  # a stride of 0 blows a few numbers up to any size
    return ""


def _is_dense(tensor: Tensor) -> bool:
    """Whether each number has a place of its own, in any order of the axes."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda axis: strides[axis], reverse=True)
    return tensor.is_contiguous() or tensor.permute(order).is_contiguous()


def _is_setting(key: str, found: Any, own: Any) -> bool:
    """Whether an option of a group is the run's; what the schedule sets anew, ``GroupFields`` has checked."""
    if key in FREE_IN_GROUPS:
        return found is None or isinstance(found, bool)
    if key == "betas":
        return isinstance(found, (tuple, list)) and type(found[1]) is float and found[1] == own[1]
    return type(found) is type(own) and bool(found == own)


def check_fits(given: Mapping[str, Any], module: nn.Module, where: str) -> None:
    """Raise CheckpointError unless a state dict has the tensors of a module: names, shapes, kinds of number."""
    own: dict[str, Any] = module.state_dict()
    problems = {
        "missing": [name for name in own if name not in given],
        "left over": [name for name in given if name not in own],
        "of another shape or kind": [
            f"{name} {shown(given[name])} where {shown(tensor)} was expected"
            for name, tensor in own.items()
            if name in given and not _is_like(given[name], tensor)
        ],
    }
    if said := [f"{len(names)} {kind}: {first_of(names)}" for kind, names in problems.items() if names]:
        raise CheckpointError(f"{where}: its tensors do not fit the model of {len(own)} tensors; {'; '.join(said)}")


def first_of(names: list[str]) -> str:
    """The first few names of a list, and how many follow."""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _is_like(given: Any, own: Any) -> bool:
    if not isinstance(own, Tensor):  # the extra state of a plugin's module
        return not isinstance(given, Tensor)
    is_tensor = isinstance(given, Tensor) and given.shape == own.shape
    return is_tensor and given.is_floating_point() == own.is_floating_point()


def load_fitting(module: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Load a state dict into a module, once it is known to fit; CheckpointError where it does not."""
    check_fits(given, module, where)
    try:
        module.load_state_dict(given)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:  # the extra state of a plugin
        raise CheckpointError(f"{where}: does not fit: {str(error).partition(chr(10))[0]}") from error


def check_state(content: Mapping[str, Any], state: Any, path: str | Path) -> None:
    """Raise CheckpointError unless a last.pt fits the state of its run (engine/state.py) in all its parts."""
    check_fits(content["model"], state.model, f"{path}: model")
    check_fits(content["ema"], state.average.module, f"{path}: ema")
    check_fits(content["losses"], state.criterion, f"{path}: losses")
    tally = content["tally"]
    for name in ("losses", "norm"):
        if not _is_like(tally[name], own := getattr(state.tally, name)):
            raise CheckpointError(f"{path}: tally.{name}: expected {shown(own)}, found {shown(tally[name])}")
    _check_optimizer(content["optimizer"], state.optimizer, f"{path}: optimizer")
    moved = [value for row in content["optimizer"]["state"].values() for value in row.values() if value is not None]
    moved += [tally["losses"], tally["norm"]]
    places = [tensor.untyped_storage().data_ptr() for tensor in moved if tensor.numel()]
    if len(set(places)) < len(places) or not all(map(_is_dense, moved)):  # a step writes into them
        raise CheckpointError(f"{path}: optimizer: expected tensors that share no memory")


def _check_optimizer(given: Mapping[str, Any], optimizer: torch.optim.Optimizer, where: str) -> None:
    own = optimizer.state_dict()["param_groups"]
    if len(given["param_groups"]) != len(own):
        raise CheckpointError(f"{where}: expected {len(own)} groups, found {len(given['param_groups'])}")
    for number, (found, group) in enumerate(zip(given["param_groups"], own, strict=True)):
        for key in sorted(group.keys() - {"lr", "momentum"}):
            if not _is_setting(key, found.get(key), group[key]):
                place = f"{where}: param_groups.{number}.{key}"
                raise CheckpointError(f"{place}: expected {shown(group[key])}, found {shown(found.get(key))}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = STATES[type(optimizer).__name__]
    for number, row in given["state"].items():
        place = f"{where}: state.{number}"
        if number >= len(parameters) or set(row) != set(names):
            raise CheckpointError(f"{place}: expected {', '.join(names)} of one of {len(parameters)} parameters")
        for name, value in row.items():
            like = torch.zeros(()) if name == "step" else parameters[number]
            if not (_is_like(value, like) or (value is None and name == "momentum_buffer")):
                raise CheckpointError(f"{place}.{name}: expected {shown(like.detach())}, found {shown(value)}")


@contextlib.contextmanager
def built_within(state: Mapping[str, Any] | None, where: str | Path) -> Iterator[None]:
    """Stop the building of a model that outgrows the tensors of its checkpoint, before its memory is touched."""
    if state is None:
        yield
        return
    left = SPARE + 4 * sum(value.numel() for value in state.values() if isinstance(value, Tensor))

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal left
        left -= tensor.numel() if tensor is not None else 0
        if left < 0:
            raise CheckpointError(f"{where}: its configuration describes a larger model than its tensors are of")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{where}: its model cannot be built: {str(error).partition(chr(10))[0]}") from error
    finally:
        for hook in hooks:
            hook.remove()
