"""What ``gpu.py`` measures: a process that answers the measurements of its plan, from one on, a line of JSON each.

Nothing is caught here: what fails ends this process, the reason in its log, and ``gpu.py`` starts another at the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import evaluate
import inference
import kill_resume
import numpy as np
import torch
from gpu import BUDGETS, Measurement, Row, Scale, append, plan, read_flags, read_rows, scale_of
from timing import in_turn, seconds_of, wait
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from train_step import bare_step, full_batches, started, training_set

import yolo_lite
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.options import ExportOptions, TrainOptions, ValOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.data.dataset import DatasetItem
from yolo_lite.data.hand_over import PREFETCH
from yolo_lite.data.loader import collate
from yolo_lite.deploy.export import export, load_exportable
from yolo_lite.deploy.formats import extra
from yolo_lite.deploy.graph import INPUT
from yolo_lite.engine.batch_size import largest_batch_size
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.resolve import run_config
from yolo_lite.engine.state import State
from yolo_lite.engine.train import train, train_step
from yolo_lite.structures import Batch, Objects

PACKAGE = str(Path(yolo_lite.__file__).parent)
SAMPLES = 64  # made once; larger batches repeat them
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")  # by which torch waits for a number from the GPU
# Operations whose outputs have a size that only the device knows.
UNKNOWN_SIZE = {f"aten::{name}" for name in ("nonzero", "masked_select", "_unique2", "repeat_interleave.Tensor")}
INDEXING = {f"aten::{name}" for name in ("index.Tensor", "index_put", "index_put_")}  # where the index is bools


class Bench(NamedTuple):
    """What all measurements share."""

    out: Path
    scale: Scale
    device: torch.device

    @property
    def data(self) -> str:
        return str(self.out / "data/data.yaml")

    @property
    def weights(self) -> Path:
        """Of the run that ``run`` has trained."""
        return self.out / "runs/trained/weights/best.pt"

    def config(self, cfg: str, batch: int, hyp: dict[str, Any], **options: Any) -> RunConfig:
        """A run on the drawn data."""
        shared = {"data": self.data, "imgsz": self.scale.pixels, "device": str(self.device), "no_figures": True}
        given: dict[str, Any] = {"workers": 0, **shared, **options}
        return run_config(TrainOptions(**given, cfg=cfg, batch_size=batch, set=hyp))


def machine(bench: Bench) -> Row:
    """What it is measured on."""
    parts = [str(choose_compute(str(bench.device), "auto", True)), f"{os.cpu_count()} CPU cores"]
    if bench.device.type == "cuda":
        memory = torch.cuda.get_device_properties(bench.device).total_memory / 2**30
        parts += [f"{memory:.0f} GiB", f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"]
    return Row(remark=", ".join(parts))


def training(bench: Bench, cfg: str, batch: int | str, detail: bool = False, **hyp: Any) -> Row:
    """Training steps on one batch, its transfer from pinned memory among them, and the bare network beside them."""
    remarks = []
    config = bench.config(cfg, 1 if batch == "auto" else int(batch), hyp)
    if batch == "auto":
        start = time.perf_counter()
        batch = largest_batch_size(config)
        remarks.append(f"{batch} images, found in {time.perf_counter() - start:.1f} s")
    state, setup = started(config)
    if config.hyp.compile:
        state.model.compile_network()
    host = pinned(batch_of(bench, cfg, int(batch)), bench.device)
    kinds: dict[str, Callable[[], object]] = {"step": lambda: train_step(state, [host.to(setup.compute)], setup)}
    first, peak = first_seconds(kinds["step"], bench.device)
    if config.hyp.compile:
        remarks.append(f"first step {first:.1f} s")
    if hasattr(state.model, "head"):  # that of Faster R-CNN is no bare network: it samples, and has losses of its own
        resident = host.to(setup.compute)
        kinds["bare"] = bare_step(state.model, resident.images, setup.compute)
        kinds |= loss_steps(state, setup, resident) if detail else {}
    found = in_turn(kinds, bench.device, bench.scale.rounds, bench.scale.block)
    seconds = {kind: statistics.median(values) for kind, values in found.items()}
    if detail:
        if "loss" in seconds:
            assigned, lost = (1000 * seconds[kind] for kind in ("assign", "loss"))
            share = seconds["loss"] / seconds["step"]
            remarks.append(f"assignment {assigned:.1f} ms, with loss and its gradient {lost:.1f} ms: {share:.0%}")
        trace = bench.out / f"traces/{Path(cfg).stem}.json.gz"
        remarks.append(profiled(kinds["step"], bench.device, seconds["step"], trace))
    bare = int(batch) / seconds["bare"] if "bare" in seconds else None
    return Row(int(batch) / seconds["step"], bare, peak, "; ".join(remarks))


@cache
def samples(bench: Bench, cfg: str) -> list[DatasetItem]:
    """Augmented samples of the drawn images, those of one batch."""
    dataset = training_set(bench.config(cfg, 1, {"cache": "ram"}))
    return [dataset[divmod(number, len(dataset))] for number in range(min(SAMPLES, max(bench.scale.batches)))]


def batch_of(bench: Bench, cfg: str, count: int) -> Batch:
    """A batch of any size, its samples repeated."""
    few = samples(bench, "cfg/yolo_n_seg.yaml" if "_seg" in cfg else "cfg/yolo_n.yaml")
    return collate([few[number % len(few)] for number in range(count)])


def pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch as loading processes hand it over for this device."""
    if device.type != "cuda":
        return batch
    image, label, box, mask = batch.objects
    objects = Objects(
        image.pin_memory(), label.pin_memory(), box.pin_memory(), mask if mask is None else mask.pin_memory()
    )
    return batch._replace(images=batch.images.pin_memory(), objects=objects)


def first_seconds(step: Callable[[], object], device: torch.device) -> tuple[float, str]:
    """Seconds of the first step, and the peak of memory over it and two more: allocated / reserved, in GiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_of(step, device)
    seconds_of(step, device, 2)  # the optimizer's state came with the first
    if device.type != "cuda":
        return seconds, ""
    peaks = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return seconds, " / ".join(f"{peak / 2**30:.1f}" for peak in peaks)


def loss_steps(state: State, setup: Setup, batch: Batch) -> dict[str, Callable[[], object]]:
    """Assignment alone; and assignment, loss and its gradient at the network's outputs, which are resident."""
    criterion, grid = state.criterion, state.model.grid(*batch.images.shape[2:])
    with setup.compute.autocast():
        raw = state.model(batch.images)
    maps = {name: one.detach().requires_grad_() for name, one in raw.maps.items()}
    leaf = dataclasses.replace(raw, slots=raw.slots.detach().requires_grad_(), maps=maps)

    def assign() -> Any:
        predictions = criterion.predictions(leaf, grid) if criterion.needs_predictions else None
        return criterion.assign(batch.objects, grid, predictions)

    def loss() -> None:
        matches = assign()
        totals = None if criterion.needs_predictions else criterion.totals([matches], [grid], len(batch.images))
        losses = criterion(leaf, batch.objects, matches, grid, totals)
        torch.autograd.grad(torch.stack(tuple(losses.values())).sum(), [leaf.slots, *maps.values()])

    return {"assign": assign, "loss": loss}


def profiled(step: Callable[[], object], device: torch.device, seconds: float, trace: Path, steps: int = 3) -> str:
    """What the host waits for in a step of so many seconds, and how busy the GPU is; the trace is kept."""
    on_gpu = device.type == "cuda"
    places = (host_waits if on_gpu else unknown_sizes)(step, steps)
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profile:
        seconds_of(step, device, steps)
    trace.parent.mkdir(exist_ok=True)
    profile.export_chrome_trace(str(trace))
    number = f"{sum(places.values()) / steps:g}"
    where = ", ".join(f"{place} x{count / steps:g}" for place, count in places.most_common(6))
    if not on_gpu:
        return f"{number} results of unknown size a step: a GPU would be waited for ({where})"
    events = profile.key_averages()
    waiting = [event for event in events if event.key in WAITS]
    own = [one for one in events if one.device_type.name == "CUDA" and not getattr(one, "is_user_annotation", False)]
    waited = sum(event.cpu_time_total for event in waiting) / steps / 1000
    busy = sum(event.self_device_time_total for event in own) / steps / 1e6 / seconds
    counted = f"{sum(event.count for event in waiting) / steps:g} in the profile, {waited:.1f} ms"
    return f"{number} host waits a step ({where}), {counted}; busy {busy:.0%}"


def host_waits(step: Callable[[], object], steps: int) -> Counter[str]:
    """How often the host waits for the GPU, by the line of yolo_lite that makes it; torch does not see every wait."""
    places = Counter[str]()

    def count(message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            places[line_of_package()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(steps):
            step()
        torch.cuda.set_sync_debug_mode("default")
    return places


def unknown_sizes(step: Callable[[], object], steps: int) -> Counter[str]:
    """Where sizes depend on values, by line of yolo_lite: known on a CPU, and a host wait each on a GPU."""
    places = Counter[str]()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = function.name()
            by_bools = name in INDEXING and any(isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1])
            if by_bools or name in UNKNOWN_SIZE:
                places[line_of_package()] += 1
            return function(*args, **(kwargs or {}))

    with Watch():
        for _ in range(steps):
            step()
    return places


def line_of_package() -> str:
    """Which line of yolo_lite is being executed."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"


def loss_scale(bench: Bench, cfg: str, batch: int, steps: int) -> Row:
    """What becomes of the scale of fp16 gradients: each overflow halves it."""
    state, setup = started(bench.config(cfg, batch, {"precision": "fp16"}))
    resident, first = batch_of(bench, cfg, batch).to(setup.compute), state.scaler.get_scale()
    problems = sum(bool(train_step(state, [resident], setup).problem) for _ in range(steps))
    remark = f"loss scale {first:g}, after {steps} steps {state.scaler.get_scale():g}"
    return Row(remark=f"{remark}; {problems} steps not finite" if problems else remark)


def rate_of(call: Callable[[], object], bench: Bench, uncounted: int) -> float:
    """Calls a second over some seconds, after as many calls as found their batch ready."""
    seconds_of(call, bench.device, uncounted)
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < bench.scale.loading:
        call()
        calls += 1
    wait(bench.device)
    return calls / (time.perf_counter() - start)


def loading(bench: Bench, batch: int, workers: int, cache: str = "off", cfg: str = "") -> Row:
    """Batches that loading processes make ready; with ``cfg`` while a model is trained on them."""
    config = bench.config(cfg or "cfg/yolo_n.yaml", batch, {"cache": cache}, workers=workers)
    batches = full_batches(training_set(config), batch, workers, bench.device.type == "cuda")
    few = "" if workers <= (os.cpu_count() or 1) else f"only {os.cpu_count()} cores; "
    ready = PREFETCH * workers + 2
    if not cfg:
        return Row(batch * rate_of(lambda: next(batches), bench, ready), remark=few)
    state, setup = started(config)
    waited: list[float] = []

    def step() -> None:
        asked = time.perf_counter()
        loaded = next(batches)
        waited.append(time.perf_counter() - asked)
        train_step(state, [loaded.to(setup.compute)], setup)

    rate = rate_of(step, bench, ready)
    share = sum(waited[ready:]) / (len(waited) - ready) * rate
    bare = bare_step(state.model, next(batches).to(setup.compute).images, setup.compute)
    seconds = statistics.median(in_turn({"": bare}, bench.device, bench.scale.rounds, bench.scale.block)[""])
    return Row(batch * rate, batch / seconds, remark=f"{few}{share:.0%} of the time waits for batches")


def run(bench: Bench, cfg: str, batch: int, workers: int, epochs: int) -> Row:
    """A whole run, whose weights the measurements after it use."""
    options = {"project": str(bench.out / "runs"), "name": "trained", "exist_ok": True, "epochs": epochs}
    seconds = train(bench.config(cfg, batch, {}, workers=workers, **options)).seconds
    each = ", ".join(f"{one:.1f}" for one in seconds)
    return Row(bench.scale.images[0] / min(seconds), remark=f"{each} s an epoch, validation and checkpoint included")


def evaluation(bench: Bench, batch: int, workers: int) -> Row:
    """Validation, by stage."""
    options: dict[str, Any] = {"weights": bench.weights, "data": bench.data, "device": str(bench.device)}
    found = evaluate.fastest(ValOptions(**options, batch_size=batch, workers=workers), 2)
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in found.seconds.items())
    remark = f"{stages} s; {len(found.detections.score)} detections"
    return Row(bench.scale.images[1] / sum(found.seconds.values()), remark=remark)


def prediction(bench: Bench, batch: int) -> Row:
    """``predict`` without drawing, and the fused network alone on the same batches."""
    forms = ["fp32_last", "bf16_last", "fp16_last"] if bench.device.type == "cuda" else ["fp32", "fp32_last"]
    what = {"weights": str(bench.weights), "source": str(bench.out / "data/images/val"), "device": str(bench.device)}
    how = {"imgsz": bench.scale.pixels, "pictures": 64, "rounds": bench.scale.rounds, "forms": forms, "exported": []}
    found = inference.measure(batch, argparse.Namespace(**what, **how)).milliseconds
    whole = found.pop("predict")
    remark = ", ".join(f"{form} {milliseconds:.2f}" for form, milliseconds in found.items())
    return Row(1000 / whole, 1000 / min(found.values()), remark=f"{whole:.2f} ms an image; bare {remark}")


def onnx(bench: Bench, provider: str) -> Row:
    """The exported file, an image at a time, copies to and from the device included."""
    runtime, file = extra("onnxruntime"), bench.weights.with_suffix(".onnx")
    if provider not in runtime.get_available_providers():
        return Row(remark=f"not measured: onnxruntime {runtime.__version__} has no {provider} here")
    if not file.exists():
        options = ExportOptions(weights=str(bench.weights))
        export(load_exportable(options), options, file, training_set(bench.config("cfg/yolo_n.yaml", 1, {})).index)
    session = runtime.InferenceSession(file.read_bytes(), providers=[provider])
    if session.get_providers()[0] != provider:
        return Row(remark=f"not measured: onnxruntime could not use {provider}")
    image = np.random.default_rng(0).random((1, 3, bench.scale.pixels, bench.scale.pixels), np.float32)
    kinds = {"": lambda: session.run(None, {INPUT: image})}
    return Row(1 / statistics.median(in_turn(kinds, bench.device, bench.scale.rounds, bench.scale.block)[""]))


def resume(bench: Bench, epochs: int, workers: int, imgsz: int) -> Row:
    """A run killed after some checkpoints and resumed, beside one that nobody killed."""
    what = {"data": bench.data, "imgsz": imgsz, "epochs": epochs, "workers": workers, "device": str(bench.device)}
    flags, scratch = argparse.Namespace(**what, set=["deterministic=true", "patience=0"]), bench.out / "runs/resume"
    kill_resume.run([*kill_resume.command(flags, scratch / "whole"), "--exist-ok"])
    moment = kill_resume.Moment(aim="last.pt", write=2)
    line, equal = kill_resume.trial(flags, scratch / "whole/exp", scratch, 1, moment)
    place = line.split("|")[3].strip()
    return Row(remark=f"deterministic, killed, last.pt at {place}: {'the same bits' if equal else 'OTHER BITS'}")


MEASURES: dict[str, Callable[..., Row]] = {
    "machine": machine,
    "training": training,
    "loss_scale": loss_scale,
    "loading": loading,
    "run": run,
    "evaluation": evaluation,
    "prediction": prediction,
    "onnx": onnx,
    "resume": resume,
}


def answer(one: Measurement, bench: Bench, spent: float) -> Row:
    """The row of a measurement; why it is not measured, where it cannot be or its part has had its time."""
    if one.needs_gpu and bench.device.type != "cuda":
        return Row(remark="not measured: needs a GPU")
    if spent > BUDGETS[one.part] * bench.scale.patience:
        return Row(remark=f"not measured: its part had {spent:.0f} s")
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    start = time.perf_counter()
    row = MEASURES[one.measure](bench, **one.choice)
    return row._replace(seconds=time.perf_counter() - start)


def main() -> None:
    flags = read_flags()
    scale = scale_of(flags)
    bench = Bench(flags.out.resolve(), scale, choose_compute(flags.device, "fp32", True).device)
    if bench.device.type != "cuda" and not flags.quick:
        raise ConfigError(f"expected a CUDA GPU, or --quick, found {bench.device}")
    file, todo = bench.out / "rows.jsonl", plan(scale, flags.parts)
    for one in todo[len(read_rows(file)) :]:
        before = zip(todo, read_rows(file), strict=False)
        append(file, answer(one, bench, sum(row.seconds for other, row in before if other.part == one.part)))


if __name__ == "__main__":
    main()
