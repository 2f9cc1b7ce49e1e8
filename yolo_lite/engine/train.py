"""Training, as a text: prepare, then epoch by epoch train, validate, record, save."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from yolo_lite.config.errors import ConfigError, DivergedError
from yolo_lite.config.schema import Hyp, RunConfig
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import num_batches, training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.checkpoint import load_checkpoint, save_checkpoint
from yolo_lite.engine.device import Compute, choose_compute, libraries_left_uncollected, place, to_device
from yolo_lite.engine.evaluate import LOSS_NAMES, Evaluation, Split, evaluate, prepare_split, rounded_up
from yolo_lite.engine.families import FAMILIES, ModelFamily
from yolo_lite.engine.optimizer import MovingAverage, Plan, accumulated_batches, make_optimizer, rates, set_rates
from yolo_lite.engine.record import Record
from yolo_lite.engine.run_folder import make_run_folder
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.structures import Batch

STEP_STREAM = 2  # of random numbers; data/dataset.py has the others


@dataclass
class State:
    """Everything a run changes while it goes on; a checkpoint holds all of it."""

    model: nn.Module
    losses: nn.Module
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    best_fitness: float = -1.0
    best_epoch: int = 0  # counted from 1


class Recipe(NamedTuple):
    """What a run goes by and never changes."""

    family: ModelFamily
    hyp: Hyp
    compute: Compute
    plan: Plan
    seed: int


class Resume(NamedTuple):
    """A run to go on with."""

    folder: Path
    checkpoint: dict[str, Any]  # content of its last.pt


def is_finished(checkpoint: dict[str, Any], config: RunConfig) -> bool:
    """Whether the run of a last.pt has come to its end: to the last epoch, or to where nothing improved."""
    idle = checkpoint["epoch"] - checkpoint["best_epoch"]
    return checkpoint["epoch"] >= config.train.epochs or 0 < config.hyp.patience <= idle


class Result(NamedTuple):
    """What a finished run leaves."""

    folder: Path
    best_epoch: int  # counted from 1
    metrics: dict[str, float]  # of the last epoch
    seconds: list[float]  # of each epoch: training, validation, saving


class Prepared(NamedTuple):
    """A run that is ready to go."""

    config: RunConfig
    folder: Path
    state: State
    recipe: Recipe
    batches: Iterator[Batch]  # of all epochs
    val: Split
    record: Record


def train(config: RunConfig, resume: Resume | None = None) -> Result:
    """Train a model, or go on with a run.

    Raises:
        UserError: the configuration or the data cannot be used, or the loss is no longer finite.
    """
    with libraries_left_uncollected():
        run = _prepare(config, resume)
        with contextlib.closing(run.record):
            return _run_epochs(run)


def _prepare(config: RunConfig, resume: Resume | None) -> Prepared:
    """Model, data and run folder."""
    options, hyp = config.train, config.hyp
    family, compute = FAMILIES[config.model.family], choose_compute(options.device, hyp.precision, hyp.channels_last)
    print(compute)
    torch.manual_seed(options.seed)
    model = place(_build(family, config, fetch=not (resume or options.weights)), compute)
    size = rounded_up(options.imgsz, family.stride(model))
    print(f"{options.cfg}: {family.describe(model, size)}")
    train_index, val_index = (index_split(config.data, config.data_file, split) for split in ("train", "val"))

    recipe = Recipe(family, hyp, compute, _plan(len(train_index), config), options.seed)
    losses = family.losses(hyp, np.bincount(train_index.label, minlength=len(train_index.names))).to(compute.device)
    state = _initial_state(model, losses, recipe, options.weights, resume)
    loaded = iter(_training_loader(train_index, size, config, state.epoch, compute))  # workers start meanwhile
    val = _validation_split(val_index, size, family.stride(model), config, compute)

    folder = resume.folder if resume else make_run_folder(options.project, options.name, options.exist_ok)
    (folder / "weights").mkdir(exist_ok=True)
    _tell_problems({"train": train_index, "val": val_index}, folder)
    record = Record(folder, config, state.epoch)
    batches = record.batches(loaded, train_index.names, state.epoch)
    return Prepared(config, folder, state, recipe, batches, val, record)


def _run_epochs(run: Prepared) -> Result:
    """Train, validate, record, save; to the last epoch, or until nothing improves."""
    state, plan, record, patience = run.state, run.recipe.plan, run.record, run.recipe.hyp.patience
    print(f"{plan.epochs} epochs of {plan.steps_per_epoch} steps; everything goes to {run.folder}")
    seconds = []
    while state.epoch < plan.epochs:
        start = time.perf_counter()
        means = train_epoch(state, run.batches, run.recipe)
        evaluation = _validate(state, run.recipe, run.val)
        row = _close_epoch(state, means, evaluation)
        # First the record, then the checkpoint: a run killed between the two writes this epoch's figures again.
        record.epoch(row, evaluation, run.val.dataset)
        _save(state, run.config, run.folder, row)
        seconds.append(time.perf_counter() - start)
        record.say(row, seconds[-1])
        if patience and state.epoch - state.best_epoch >= patience:
            print(f"stopped: no progress for {patience} epochs (key patience)")
            break
    record.finish(evaluation, run.val.dataset, state.epoch)
    print(f"best was epoch {state.best_epoch}: {run.folder / 'weights' / 'best.pt'}")
    return Result(run.folder, state.best_epoch, evaluation.metrics(), seconds)


def train_epoch(state: State, batches: Iterator[Batch], recipe: Recipe) -> list[float]:
    """One epoch; returns its mean box, objectness and class loss.

    Raises:
        DivergedError: the losses are no longer finite. The checkpoint of the epoch before is untouched.
    """
    plan = recipe.plan
    state.model.train()
    state.losses.train()
    total = torch.zeros(3, device=recipe.compute.device)
    num_images, shown, start = 0, 0.0, time.perf_counter()
    title = f"epoch {state.epoch + 1}/{plan.epochs}"
    with tqdm(total=plan.batches_per_epoch, desc=title, leave=False, unit="batch", mininterval=0.5) as bar:
        for step in range(plan.steps_per_epoch):
            count = min(plan.batches_per_step, plan.batches_per_epoch - step * plan.batches_per_step)
            window = [to_device(next(batches), recipe.compute) for _ in range(count)]
            total += train_step(state, window, recipe)
            num_images += sum(len(batch.position) for batch in window)
            # Reading the losses waits for the GPU: only as often as someone can look.
            if (now := time.perf_counter()) - shown > 1:
                shown = now
                bar.set_postfix(_progress(total / (step + 1), state, num_images / (now - start)), refresh=False)
            bar.update(count)
    means: list[float] = (total / plan.steps_per_epoch).tolist()
    _check_finite(means, "training", state.epoch)
    return means


def train_step(state: State, batches: list[Batch], recipe: Recipe) -> Tensor:
    """One optimizer step over some batches; returns the losses box, obj, cls ``[3]`` without waiting for the device.

    The gradient is that of the mean loss over all pictures of the step, times ``nominal_batch``: lr0 then means the
    same for every batch size.
    """
    hyp = recipe.hyp
    # What a model draws in this step is a pure function of (seed, step).
    torch.manual_seed(int(np.random.SeedSequence([recipe.seed, STEP_STREAM, state.step]).generate_state(1)[0]))
    set_rates(state.optimizer, rates(state.step, recipe.plan, hyp))
    losses = torch.zeros(3, device=recipe.compute.device)
    for parts in recipe.family.step_losses(state.model, batches, state.losses, recipe.compute):
        values = torch.stack(parts)
        state.scaler.scale(values.sum() * hyp.nominal_batch).backward()
        losses += values.detach()
    state.scaler.unscale_(state.optimizer)
    if hyp.clip_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), hyp.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.average.update(state.model)
    state.step += 1
    return losses


def _validate(state: State, recipe: Recipe, val: Split) -> Evaluation:
    """The averaged weights on the validation split."""
    averaged = state.average.model
    evaluation = evaluate(recipe.family, averaged, val, state.losses, recipe.compute, DetectOptions())
    _check_finite(list(evaluation.losses.values()), "validation", state.epoch)
    return evaluation


def _check_finite(losses: list[float], kind: str, epoch: int) -> None:
    """Weights that are no longer finite show in the losses: they must not reach last.pt."""
    if not np.isfinite(losses).all():
        raise DivergedError(f"epoch {epoch + 1}: the {kind} loss is not finite (box, obj, cls: {losses}): lower lr0")


def _progress(means: Tensor, state: State, speed: float) -> dict[str, str]:
    losses = {name[:3]: f"{mean:.4f}" for name, mean in zip(LOSS_NAMES, means.tolist(), strict=True)}
    return {**losses, "lr": f"{state.optimizer.param_groups[0]['lr']:.5f}", "img/s": f"{speed:.1f}"}


def _build(family: ModelFamily, config: RunConfig, fetch: bool) -> nn.Module:
    try:
        return family.build(config.model, fetch)
    except ConfigError as error:
        raise ConfigError(f"{config.train.cfg}: {error}") from None


def _plan(num_images: int, config: RunConfig) -> Plan:
    batch_size = config.train.batch_size
    return Plan(num_batches(num_images, batch_size), accumulated_batches(config.hyp, batch_size), config.train.epochs)


def _initial_state(
    model: nn.Module, losses: nn.Module, recipe: Recipe, weights: str | None, resume: Resume | None
) -> State:
    if weights and not resume:
        _start_from(model, weights)
    device = recipe.compute.device.type
    scaler = torch.amp.GradScaler(device, enabled=recipe.compute.dtype == torch.float16)
    state = State(model, losses, MovingAverage(model, recipe.hyp.ema_decay), make_optimizer(model, recipe.hyp), scaler)
    if resume:
        _restore(state, resume.checkpoint)
    return state


def _training_loader(
    index: DatasetIndex, size: int, config: RunConfig, first_epoch: int, compute: Compute
) -> DataLoader[Batch]:
    options, hyp = config.train, config.hyp
    store = ImageStore(index, size, hyp.cache, options.workers > 0)
    print(f"train: {store.describe()}")
    mosaic_epochs = options.epochs - min(hyp.close_mosaic, options.epochs // 3)
    dataset = TrainingSet(index, store, size, hyp, options.seed, mosaic_epochs)
    epochs = range(first_epoch, options.epochs)
    return training_loader(dataset, options.batch_size, options.workers, epochs, compute.device.type == "cuda")


def _validation_split(index: DatasetIndex, size: int, stride: int, config: RunConfig, compute: Compute) -> Split:
    options = config.train
    store = ImageStore(index, size, config.hyp.cache, shared=False)  # decoded pictures are read in this process
    print(f"val:   {store.describe()}")
    return prepare_split(store, stride, options.batch_size, options.workers, compute.device.type == "cuda")


def _tell_problems(splits: dict[str, DatasetIndex], folder: Path) -> None:
    """Say what the dataset's reader left out, and keep the whole list in the run folder."""
    for name, index in splits.items():
        print(f"{name + ':':6} {index.describe()}")
    problems = [line for index in splits.values() for line in index.problems]
    if problems:
        path = folder / "data_problems.txt"
        path.write_text("\n".join(problems) + "\n", encoding="utf-8")
        print(f"what was left out, in full: {path}")


def _start_from(model: nn.Module, weights: str) -> None:
    """Take over every tensor of a checkpoint that fits by name and shape."""
    given, own = load_checkpoint(weights)["ema"], model.state_dict()
    # The anchors are those of --cfg, not of the checkpoint.
    fits = {name for name in own if name in given and given[name].shape == own[name].shape and name != "anchors"}
    taken = {name: given[name] for name in fits}
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken and name != "anchors"]
    rest = f", not: {', '.join(left)}" if left else ""
    print(f"{weights}: {len(taken)} of {len(taken) + len(left)} tensors taken over{rest}")


def _close_epoch(state: State, losses: list[float], evaluation: Evaluation) -> dict[str, float]:
    """Count the epoch, note whether it is the best so far; returns its row of figures."""
    state.epoch += 1
    if evaluation.fitness > state.best_fitness:
        state.best_fitness, state.best_epoch = evaluation.fitness, state.epoch
    return {
        "epoch": state.epoch,
        **{f"train/{name}": value for name, value in zip(LOSS_NAMES, losses, strict=True)},
        **{f"val/{name}": value for name, value in evaluation.losses.items()},
        **evaluation.metrics(),
        **{f"lr/{group['name']}": group["lr"] for group in state.optimizer.param_groups},
    }


def _save(state: State, config: RunConfig, folder: Path, row: dict[str, float]) -> None:
    """last.pt holds all that a resumed run needs; best.pt the averaged weights alone."""
    weights = {
        "config": config.plain(),
        "epoch": state.epoch,
        "metrics": row,
        "ema": state.average.model.state_dict(),
        "losses": state.losses.state_dict(),
    }
    if state.epoch == state.best_epoch:
        save_checkpoint(folder / "weights" / "best.pt", weights)
    progress = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "step": state.step,
        "best_fitness": state.best_fitness,
        "best_epoch": state.best_epoch,
    }
    save_checkpoint(folder / "weights" / "last.pt", {**weights, **progress})


def _restore(state: State, content: dict[str, Any]) -> None:
    state.model.load_state_dict(content["model"])
    state.losses.load_state_dict(content["losses"])
    state.optimizer.load_state_dict(content["optimizer"])
    if content["scaler"]:  # empty unless the run was in fp16
        state.scaler.load_state_dict(content["scaler"])
    state.epoch, state.step = content["epoch"], content["step"]
    state.best_fitness, state.best_epoch = content["best_fitness"], content["best_epoch"]
    state.average.load(content["ema"], updates=state.step)
    print(f"resumed after epoch {state.epoch}")
