"""Training, as a text: prepare, then epoch by epoch train, validate, record, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from yolo_lite.config.errors import UserError
from yolo_lite.config.schema import Hyp, RunConfig
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.data.loader import num_batches, training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine import sheets
from yolo_lite.engine.checkpoint import load_checkpoint, save_checkpoint
from yolo_lite.engine.device import Compute, choose_compute, place, to_device
from yolo_lite.engine.evaluate import Evaluation, Split, evaluate, format_table, prepare_split
from yolo_lite.engine.families import FAMILIES, ModelFamily
from yolo_lite.engine.optimizer import (
    MovingAverage,
    Plan,
    accumulated_batches,
    make_optimizer,
    rates,
    set_rates,
)
from yolo_lite.model.detector import Detector, summarise
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.report.pictures import write_picture
from yolo_lite.report.results_csv import ResultsCsv
from yolo_lite.report.tensorboard import TensorBoard
from yolo_lite.structures import Batch

LOSS_NAMES = ("box_loss", "obj_loss", "cls_loss")
SHEETS_OF_A_RUN = 8  # how often validation pictures go to TensorBoard


@dataclass
class State:
    """Everything a run changes while it goes on; a checkpoint holds all of it."""

    model: nn.Module
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done
    best_fitness: float = -1.0
    best_epoch: int = 0


class Result(NamedTuple):
    """What a finished run leaves."""

    folder: Path
    best_epoch: int  # counted from 1
    metrics: dict[str, float]  # of the best epoch's row is in results.csv; these are the last epoch's


def train(config: RunConfig, folder: Path, resume: dict[str, Any] | None = None) -> Result:
    """Train a model in ``folder``; ``resume`` is the content of the last.pt to go on from."""
    options, hyp = config.train, config.hyp
    family: ModelFamily = FAMILIES["yolo"]
    compute = choose_compute(options.device, hyp.precision, hyp.channels_last)
    print(compute)

    # the data
    splits = [index_split(config.data, config.data_file, name) for name in ("train", "val")]
    _tell_problems(splits, folder)
    torch.manual_seed(options.seed)
    model = place(family.build(config.model), compute)
    size = _rounded_up(options.imgsz, family.stride(model))
    dataset, loader = _training_data(splits[0], size, config, resume["epoch"] if resume else 0, compute)
    pin_memory = compute.device.type == "cuda"
    val = prepare_split(
        splits[1], size, family.stride(model), options.batch_size, hyp.cache, options.workers, pin_memory
    )
    print(f"train: {dataset.store.describe()}")
    print(f"val:   {val.loader.dataset.store.describe()}")  # type: ignore[attr-defined]

    # the model and what trains it
    if isinstance(model, Detector):
        print(f"{options.cfg}: {summarise(model, size)} at {size} px")
    if options.weights and not resume:
        _start_from(model, options.weights)
    plan = Plan(
        num_batches(len(dataset), options.batch_size), accumulated_batches(hyp, options.batch_size), options.epochs
    )
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
    state = State(model, MovingAverage(model, hyp.ema_decay), make_optimizer(model, hyp), scaler)
    if resume:
        _restore(state, resume)

    # the record
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.plain(), sort_keys=False), encoding="utf-8")
    table = ResultsCsv(folder / "results.csv", state.epoch)
    board = TensorBoard(folder, purge_step=state.epoch + 1 if resume else None)
    board.text("config", f"```yaml\n{yaml.safe_dump(config.plain(), sort_keys=False)}\n```")

    batches = _show_first(iter(loader), board, folder, splits[0].names)
    detect = DetectOptions()
    print(f"{plan.epochs} epochs of {plan.steps_per_epoch} steps; everything goes to {folder}")
    for epoch in range(state.epoch, plan.epochs):
        start = time.perf_counter()
        losses = train_epoch(family, state, batches, plan, hyp, compute)
        evaluation = evaluate(family, state.average.model, val, hyp, compute, detect)
        state.epoch = epoch + 1
        is_best = evaluation.fitness > state.best_fitness
        if is_best:
            state.best_fitness, state.best_epoch = evaluation.fitness, state.epoch
        stops = hyp.patience > 0 and state.epoch - state.best_epoch >= hyp.patience
        row = _row(state, losses, evaluation)
        table.append(row)
        board.scalars({key: value for key, value in row.items() if key != "epoch"}, state.epoch)
        is_last = stops or state.epoch == plan.epochs
        if is_last or epoch % max(plan.epochs // SHEETS_OF_A_RUN, 1) == 0:
            board.picture("val/labels_and_predictions", sheets.prediction_sheet(val.index, evaluation.detections), epoch)
        _save(state, config, folder, row, is_best)
        _print_row(row, plan, time.perf_counter() - start, is_best)
        if stops:
            print(f"no progress for {hyp.patience} epochs (patience), the best was epoch {state.best_epoch}")
            break
    _finish(state, val, evaluation, board, folder)
    return Result(folder, state.best_epoch, evaluation.metrics())


def train_epoch(
    family: ModelFamily, state: State, batches: Iterator[Batch], plan: Plan, hyp: Hyp, compute: Compute
) -> list[float]:
    """One epoch; returns its mean box, objectness and class loss.

    Raises:
        UserError: the losses are no longer finite. The checkpoint of the epoch before is untouched.
    """
    state.model.train()
    total = torch.zeros(3, device=compute.device)
    title = f"epoch {state.epoch + 1}/{plan.epochs}"
    num_images, shown, start = 0, 0.0, time.perf_counter()
    with tqdm(total=plan.batches_per_epoch, desc=title, leave=False, unit="batch") as bar:
        for number in range(plan.steps_per_epoch):
            count = min(plan.batches_per_step, plan.batches_per_epoch - number * plan.batches_per_step)
            window = [to_device(next(batches), compute) for _ in range(count)]
            total += train_step(family, state, window, plan, hyp, compute)
            num_images += sum(len(batch.index) for batch in window)
            bar.update(count)
            # Reading the losses waits for the GPU: only as often as someone can look.
            if (now := time.perf_counter()) - shown > 1:
                shown, means = now, (total / (number + 1)).tolist()
                named = {name[:3]: f"{mean:.4f}" for name, mean in zip(LOSS_NAMES, means, strict=True)}
                lr, speed = state.optimizer.param_groups[0]["lr"], num_images / (now - start)
                bar.set_postfix({**named, "lr": f"{lr:.5f}", "img/s": f"{speed:.1f}"})
    means = (total / plan.steps_per_epoch).tolist()
    if not np.isfinite(means).all():
        raise UserError(f"epoch {state.epoch + 1}: the loss is not finite (box, obj, cls: {means}): lower lr0")
    return means


def train_step(
    family: ModelFamily, state: State, batches: list[Batch], plan: Plan, hyp: Hyp, compute: Compute
) -> torch.Tensor:
    """One optimizer step over some batches; returns the losses box, obj, cls ``[3]`` without waiting for the device.

    The gradient is that of the mean loss over all pictures of the step, times ``nominal_batch``: lr0 then means the
    same for every batch size.
    """
    set_rates(state.optimizer, rates(state.step, plan, hyp))
    losses = torch.zeros(3, device=compute.device)
    for parts in family.step_losses(state.model, batches, hyp, compute):
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


def _training_data(
    index: DatasetIndex, size: int, config: RunConfig, first_epoch: int, compute: Compute
) -> tuple[TrainingSet, DataLoader[Batch]]:
    options, hyp = config.train, config.hyp
    store = ImageStore(index, size, hyp.cache, options.workers > 0)
    mosaic_epochs = options.epochs - min(hyp.close_mosaic, options.epochs // 3)
    dataset = TrainingSet(index, store, size, hyp, options.seed, mosaic_epochs)
    epochs = range(first_epoch, options.epochs)
    pin_memory = compute.device.type == "cuda"
    return dataset, training_loader(dataset, options.batch_size, options.workers, epochs, pin_memory)


def _rounded_up(size: int, stride: int) -> int:
    rounded = -(-size // stride) * stride
    if rounded != size:
        print(f"--imgsz {size} is no multiple of the stride {stride}: {rounded} is used")
    return rounded


def _tell_problems(splits: list[DatasetIndex], folder: Path) -> None:
    """Say what the dataset's reader left out, and keep the whole list in the run folder."""
    for name, index in zip(("train", "val"), splits, strict=True):
        background = f"{index.num_backgrounds} without objects"
        print(f"{name}: {len(index)} images ({background}), {len(index.label)} objects, {len(index.problems)} problems")
        for line in index.problems[:3]:
            print(f"  {line}")
    problems = [line for index in splits for line in index.problems]
    if problems:
        path = folder / "data_problems.txt"
        path.write_text("\n".join(problems) + "\n", encoding="utf-8")
        print(f"  what was left out, in full: {path}")


def _start_from(model: nn.Module, weights: str) -> None:
    """Take over every tensor of a checkpoint that fits by name and shape."""
    given, own = load_checkpoint(weights)["ema"], model.state_dict()
    taken = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken]
    print(f"{weights}: {len(taken)} of {len(own)} tensors taken over" + (f", not: {', '.join(left)}" if left else ""))


def _restore(state: State, content: dict[str, Any]) -> None:
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    state.epoch, state.step = content["epoch"], content["step"]
    state.best_fitness, state.best_epoch = content["best_fitness"], content["best_epoch"]
    state.average.load(content["ema"], content["updates"])
    print(f"resumed after epoch {state.epoch}")


def _save(state: State, config: RunConfig, folder: Path, row: dict[str, float], is_best: bool) -> None:
    shared = {
        "config": config.plain(),
        "epoch": state.epoch,
        "metrics": row,
        "ema": state.average.model.state_dict(),
    }
    if is_best:
        save_checkpoint(folder / "weights" / "best.pt", shared)
    save_checkpoint(
        folder / "weights" / "last.pt",
        {
            **shared,
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "step": state.step,
            "updates": state.average.updates,
            "best_fitness": state.best_fitness,
            "best_epoch": state.best_epoch,
        },
    )


def _row(state: State, losses: list[float], evaluation: Evaluation) -> dict[str, float]:
    return {
        "epoch": state.epoch,
        **{f"train/{name}": value for name, value in zip(LOSS_NAMES, losses, strict=True)},
        **{f"val/{name}": value for name, value in evaluation.losses.items()},
        **evaluation.metrics(),
        **{f"lr/{group['name']}": group["lr"] for group in state.optimizer.param_groups},
    }


def _print_row(row: dict[str, float], plan: Plan, seconds: float, is_best: bool) -> None:
    losses = "  ".join(f"{name[:3]} {row[f'train/{name}']:.4f}" for name in LOSS_NAMES)
    metrics = f"mAP50 {row['metrics/mAP50']:.4f}  mAP50-95 {row['metrics/mAP50-95']:.4f}"
    print(f"epoch {int(row['epoch']):>3}/{plan.epochs}  {losses}  {metrics}  {seconds:.1f} s{'  best' if is_best else ''}")


def _show_first(
    batches: Iterator[Batch], board: TensorBoard, folder: Path, names: tuple[str, ...]
) -> Iterator[Batch]:
    """Pass the batches on, and a picture of the first one to the record."""
    first = next(batches)
    sheet = sheets.training_sheet(first, names)
    board.picture("train/batch", sheet, 0)
    write_picture(folder / "train_batch.png", sheet)
    yield first
    yield from batches


def _finish(state: State, val: Split, evaluation: Evaluation, board: TensorBoard, folder: Path) -> None:
    write_picture(folder / "val_predictions.png", sheets.prediction_sheet(val.index, evaluation.detections))
    board.close()
    print(format_table(evaluation, val.index))
    print(f"best epoch {state.best_epoch}; {folder / 'weights' / 'best.pt'}")
