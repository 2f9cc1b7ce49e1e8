"""Training, as a text: epoch by epoch train, validate, record, save."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from yolo_lite.config.errors import DataError, DivergedError, ShortageError, StoppedError
from yolo_lite.config.run import RunConfig
from yolo_lite.config.shortage import memory_errors_explained
from yolo_lite.engine.device import deterministic, libraries_left_uncollected
from yolo_lite.engine.evaluate import Evaluation, evaluate
from yolo_lite.engine.multi_scale import multi_scaled
from yolo_lite.engine.optimizer import rates, set_rates
from yolo_lite.engine.prepare import Setup, TrainingRun, prepare
from yolo_lite.engine.processes import ALONE, Processes
from yolo_lite.engine.record import closing_line, say
from yolo_lite.engine.state import Resume, Saving, State, is_finished
from yolo_lite.engine.stop import Rule, StopRequest, never, stop_requests
from yolo_lite.ops.nms import DetectOptions
from yolo_lite.ops.streams import Stream
from yolo_lite.structures import Batch

MOST_SKIPS_IN_A_ROW = 10  # or a whole epoch: a bad batch is skipped, a run that has diverged is not


class Result(NamedTuple):
    """What a finished run leaves."""

    folder: Path
    best_epoch: int  # counted from 1
    metrics: dict[str, float]  # of the last epoch
    seconds: list[float]  # of each epoch: training, validation, saving


class Step(NamedTuple):
    """What an optimizer step came to, over all processes."""

    losses: Tensor  # by the names of the criterion
    norm: Tensor  # [] length of the gradient before clipping
    problem: str  # what was not finite; "" where the step was taken


def train(config: RunConfig, resume: Resume | None = None, processes: Processes = ALONE, until: Rule = never) -> Result:
    """Train a model, or go on with a run; ``until`` may end it after any of its epochs.

    Raises:
        UserError: the configuration or the data cannot be used, or loss and gradient are no longer finite.
        StoppedError, ShortageError: a signal came, or loading lacks something; last.pt holds where the run stands.
    """
    remark = "; gradients are accumulated, so that the learning rate keeps its meaning"
    explained = memory_errors_explained(config.train.batch_size, config.train.imgsz, remark)
    with libraries_left_uncollected(), explained, deterministic(config.hyp.deterministic):
        run = prepare(config, resume, processes)
        with run.record or contextlib.nullcontext(), stop_requests(run.folder) as stop:
            return _run_epochs(run, stop, until)


def _run_epochs(run: TrainingRun, stop: StopRequest, until: Rule) -> Result:
    """Train, validate, record, save; to the last epoch, until nothing improves, or until asked to stop."""
    state, plan = run.state, run.setup.plan
    saving = Saving(run.config.train.save_period, plan.steps_per_epoch, state.step)
    print(f"{plan.epochs} epochs of {plan.steps_per_epoch} steps; everything goes to {run.folder}")
    seconds, goes_on = [], True
    while goes_on:
        start = perf_counter()
        try:
            waited = train_epoch(run, saving, stop)
            trained = perf_counter()
            if run.setup.processes.size > 1:
                run.save("last.pt", state.everything())  # many processes cannot stop while they validate
            evaluation = _validate(run, stop)
            validated = perf_counter()
        except (StoppedError, ShortageError, DataError) as ended:
            run.save("last.pt", state.everything())
            place = f" in epoch {state.epoch + 1} after step {state.tally.steps} of {plan.steps_per_epoch}"
            raise ended.at(f"{place}; go on with --resume {run.folder / 'weights' / 'last.pt'}") from ended
        run.batches.say("val", evaluation.unreadable, "it is left out, with its objects")
        _close_epoch(state, evaluation)
        goes_on = not is_finished(state.epoch, state.best_epoch, run.config) and not until(state.rows)
        if run.record is not None:
            # First the record, then the checkpoint, each on the disk before the next: what last.pt says is there.
            spent = {"time/train": trained - start, "time/data_wait": waited, "time/validation": validated - trained}
            run.record.epoch(state.rows, spent, evaluation)
            if state.epoch == state.best_epoch:
                run.save("best.pt", state.averaged())
        if saving.is_due(state.step, ends_epoch=True) or not goes_on:
            run.save("last.pt", state.everything())
        seconds.append(perf_counter() - start)
        say(state.rows[-1], seconds[-1], plan.epochs)
    if run.record is not None:
        run.record.finish(state, evaluation)
        print(closing_line(run.folder, state, run.save))
    return Result(run.folder, state.best_epoch, evaluation.metrics(), seconds)


def train_epoch(run: TrainingRun, saving: Saving, stop: StopRequest) -> float:
    """The steps of the epoch that are still to be done, into the state's tally; returns seconds of waiting for data.

    Raises:
        DivergedError: too many steps in a row were not finite, or one was and ``nonfinite: stop`` says so.
        StoppedError: asked to stop; the last step was finished.
    """
    state, setup, plan = run.state, run.setup, run.setup.plan
    state.in_training()
    state.criterion.start_epoch(state.epoch)
    num_images, waited, start = 0, 0.0, perf_counter()
    done = state.tally.steps * plan.batches_per_step
    options = {"desc": f"epoch {state.epoch + 1}/{plan.epochs}", "leave": False, **setup.processes.bar}
    with tqdm(total=plan.batches_per_epoch, initial=done, unit="batch", mininterval=1, **options) as bar:
        while state.tally.steps < plan.steps_per_epoch:
            if setup.processes.any(bool(stop or run.batches.new)):
                run.batches.share_new()
                if number := max(setup.processes.gather_everywhere(stop.number)):
                    raise StoppedError(number)
            count = min(plan.batches_per_step, plan.batches_per_epoch - state.tally.steps * plan.batches_per_step)
            asked = perf_counter()
            loaded = [next(run.batches) for _ in range(count)]
            waited += perf_counter() - asked
            window = [batch.to(setup.compute) for batch in loaded]
            if setup.hyp.multi_scale:
                window = multi_scaled(window, setup.hyp.multi_scale, state.model.stride, (setup.seed, state.step))
            step = train_step(state, window, setup)
            _count(step, window, run)
            if saving.is_due(state.step, ends_epoch=False):
                run.save("last.pt", state.everything())
            num_images += sum(len(batch.images) for batch in window)
            if bar.update(count):  # reading the losses waits for the GPU: only as often as the bar is drawn
                losses = dict(zip(state.criterion.names, state.tally.means(), strict=False))
                figures = {"lr": state.optimizer.param_groups[0]["lr"], "img/s": num_images / (perf_counter() - start)}
                bar.set_postfix({**losses, **figures}, refresh=False)
    run.batches.share_new()
    return waited


def train_step(state: State, batches: Sequence[Batch], setup: Setup) -> Step:
    """One optimizer step over some batches; one whose loss or gradient is not finite leaves no trace but its number.

    The gradient is that of the mean loss over all images of the step, those of other processes too, times
    ``nominal_batch``: lr0 then means the same for every batch size.
    """
    hyp, processes, model, criterion = setup.hyp, setup.processes, state.model, state.criterion
    _seed(setup, state.step)
    set_rates(state.optimizer, rates(state.step, setup.plan, hyp))
    changed_by_forward = [*_running_statistics(model), *criterion.step_sums()]
    before = torch._foreach_add(changed_by_forward, 0)  # copies

    num_images = sum(len(batch.images) for batch in batches)
    grids = [model.grid(*batch.images.shape[2:]) for batch in batches]
    matches: list[Any] = [None] * len(batches)  # yet, where predictions decide
    totals = None
    if not criterion.needs_predictions:
        matches = [criterion.assign(batch.objects, grid) for batch, grid in zip(batches, grids, strict=True)]
        totals = criterion.totals(matches, grids, num_images)
        processes.add(totals)
    losses, divisor = (torch.zeros(shape, device=setup.compute.device) for shape in (len(criterion.names), ()))
    for batch, grid, match in zip(batches, grids, matches, strict=True):
        if not len(batch.images):  # all images of this batch went to other processes
            continue
        with setup.compute.autocast():
            raw = model(batch.images)
        if criterion.needs_predictions:
            match = criterion.assign(batch.objects, grid, criterion.predictions(raw, grid))
            divisor += criterion.divisor(match)
        values = torch.stack(tuple(criterion(raw, batch.objects, match, grid, totals).values()))
        state.scaler.scale(values.sum() * hyp.nominal_batch).backward()
        losses += values.detach()

    _add_over_processes(state, losses, divisor, num_images, processes)
    state.scaler.unscale_(state.optimizer)
    if criterion.needs_predictions:
        losses /= divisor.clamp_(min=1)
        torch._foreach_div_([p.grad for p in model.parameters() if p.grad is not None], divisor)
    norm = nn.utils.clip_grad_norm_(model.parameters(), hyp.clip_norm or math.inf)
    if problem := _update(state, losses, norm):
        torch._foreach_copy_(changed_by_forward, before)
    state.optimizer.zero_grad()
    state.step += 1
    return Step(losses, norm, problem)


def _seed(setup: Setup, step: int) -> None:
    """What a model draws in a step is a pure function of (seed, step) and, beyond the first process, of its rank."""
    rank = [setup.processes.rank] if setup.processes.rank else []
    torch.manual_seed(int(np.random.SeedSequence([setup.seed, Stream.STEP, step, *rank]).generate_state(1)[0]))


def _running_statistics(model: nn.Module) -> list[Tensor]:
    """Of batch normalisation; what is frozen stands still."""
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training]
    return [values for norm in norms for values in (norm.running_mean, norm.running_var) if values is not None]


def _add_over_processes(state: State, losses: Tensor, divisor: Tensor, num_images: int, processes: Processes) -> None:
    """Sum gradients, losses and divisor, average running statistics by the number of images; one transfer for all."""
    if processes.size == 1:
        return
    gradients = []
    for parameter in state.model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # no image of this step came to this process
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    statistics, images = _running_statistics(state.model), losses.new_full((), num_images)
    for values in statistics:
        values.mul_(num_images)
    processes.add([*gradients, losses, divisor, *statistics, *state.criterion.step_sums(), images])
    for values in statistics:
        values.div_(images)


def _update(state: State, losses: Tensor, norm: Tensor) -> str:
    """Step the optimizer and what follows the weights, unless something is not finite, which is returned.

    An overflow of the gradient in fp16 is the scaler's: it skips the step, and scales less.
    """
    loss_is_finite, gradient_is_finite = torch.stack((losses.isfinite().all(), norm.isfinite())).tolist()
    # Without a scaler there is nothing to lower; undivided sums may need a scale well below 1.
    lowest = 2.0**-16 if state.scaler.is_enabled() else 1.0
    if not loss_is_finite or not (gradient_is_finite or state.scaler.get_scale() > lowest):
        state.scaler.update(state.scaler.get_scale())
        return "gradient" if loss_is_finite else "loss"
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.criterion.finish_step()
    state.average.update_parameters(state.model)
    return ""


def _count(step: Step, window: Sequence[Batch], run: TrainingRun) -> None:
    """Add a step to the tally; of one that was not finite the images are named, unless the run cannot go on."""
    tally, processes, file = run.state.tally, run.setup.processes, run.folder / "nonfinite_steps.txt"
    tally.steps += 1
    if not step.problem:
        tally.losses += step.losses
        tally.norm += step.norm.nan_to_num(posinf=0.0)  # fp16 overflowed, its scaler has seen to it
        tally.skipped_in_a_row = 0
        return
    tally.skipped += 1
    tally.skipped_in_a_row += 1
    own = [run.train.path(int(position)) for batch in window for position in batch.position]
    paths = [path for share in processes.gather_everywhere(own) for path in share]
    place = f"epoch {run.state.epoch + 1}, step {tally.steps}"
    if processes.is_first:
        with open(file, "a", encoding="utf-8") as lines:
            lines.writelines(f"{place}: {path}\n" for path in paths)
    images = f"{len(paths)} images, {', '.join(paths[:3])}, ... (all in {file})"
    told = f"{place}: the {step.problem} is not finite; {images}"
    if run.setup.hyp.nonfinite == "stop":
        raise DivergedError(f"{told} (key nonfinite: stop)")
    whole_epoch = tally.skipped == run.setup.plan.steps_per_epoch
    if tally.skipped_in_a_row == MOST_SKIPS_IN_A_ROW or (whole_epoch and tally.skipped_in_a_row > 1):
        raise DivergedError(f"{told}; nor was it in the {tally.skipped_in_a_row - 1} steps before: lower lr0")
    tqdm.write(f"{told}; the step is skipped")


def _validate(run: TrainingRun, stop: StopRequest) -> Evaluation:
    """The averaged weights on the validation split; many processes validate to the end, for all must answer.

    DivergedError where weights are no longer finite, which shows in the losses: they must not reach last.pt.
    """
    setup, processes = run.setup, run.setup.processes
    averaged, check = run.state.average.module, stop.check if processes.size == 1 else None
    options = DetectOptions(max_detections=run.val.limits.per_image)
    evaluation = evaluate(averaged, run.val, run.state.criterion, setup.compute, options, processes, check)
    if not np.isfinite(list(evaluation.losses.values())).all():
        told = ", ".join(f"{name} {value}" for name, value in evaluation.losses.items())
        raise DivergedError(f"epoch {run.state.epoch + 1}: the validation loss is not finite ({told}): lower lr0")
    return evaluation


def _close_epoch(state: State, evaluation: Evaluation) -> None:
    """Count the epoch, note its row of figures and whether it is the best so far."""
    state.epoch += 1
    if evaluation.fitness > state.best_fitness:
        state.best_fitness, state.best_epoch = evaluation.fitness, state.epoch
    tally = state.tally
    *losses, norm = tally.means()
    row = {
        "epoch": state.epoch,
        **{f"train/{name}_loss": value for name, value in zip(state.criterion.names, losses, strict=True)},
        "train/gradient_norm": norm,
        "train/skipped_steps": tally.skipped,
        **{f"val/{name}_loss": value for name, value in evaluation.losses.items()},
        **evaluation.metrics(),
        **{f"lr/{group['name']}": group["lr"] for group in state.optimizer.param_groups},
    }
    state.rows.append(row)
    tally.steps = tally.skipped = 0
    tally.losses.zero_()
    tally.norm.zero_()
