"""Two processes are one run: the same gradients, the same figures, nothing lost when one of them dies."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, children_of, equal_states, rows_of, wait_for
from test_optimizer import random_batch
from torch import nn

from yolo_lite.cli.main import val_main
from yolo_lite.config.errors import ConfigError, LostProcessError
from yolo_lite.config.hyp import Hyp
from yolo_lite.config.load import load_model_config
from yolo_lite.data.loader import EMPTY, EpochBatches, collate
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.optimizer import Plan
from yolo_lite.engine.prepare import Setup
from yolo_lite.engine.processes import ALONE, Processes, joined
from yolo_lite.engine.state import initial_state
from yolo_lite.engine.tasks import criterion_of_head
from yolo_lite.engine.train import train_step
from yolo_lite.loss.criteria import AnchorCriterion
from yolo_lite.model.detector import Detector
from yolo_lite.structures import Batch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_two_processes(action: Callable[..., object], *arguments: object) -> None:
    """Run ``action(processes, *arguments)`` in two joined processes."""
    port, context = free_port(), multiprocessing.get_context("spawn")
    members = [context.Process(target=_member, args=(rank, port, action, arguments)) for rank in range(2)]
    for member in members:
        member.start()
    for member in members:
        member.join(120)
    assert [member.exitcode for member in members] == [0, 0]


def _member(rank: int, port: int, action: Callable[..., object], arguments: Sequence[object]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="test")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with joined() as processes:
        action(processes, *arguments)


# ------------------------------------------------------------------------------------------------------ gradients


def one_step(processes: Processes, counts: Sequence[int], hyp: Hyp, cfg: str = "yolo_n") -> dict[str, torch.Tensor]:
    """Gradients and what else a step leaves, of batches with so many images; batch normalisation stands still."""
    compute = choose_compute("cpu", "fp32", channels_last=False)
    torch.manual_seed(0)
    model = Detector(load_model_config(REPOSITORY / f"cfg/{cfg}.yaml").model_copy(update={"nc": 3}))
    state = initial_state(model, criterion_of_head(model.config, hyp, np.ones(3)), hyp, compute)
    for module in state.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    state.optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
    batches = [part_of(with_masks(random_batch(count, seed=count)), processes) for count in counts]
    step = train_step(
        state,
        [batch.to(compute) for batch in batches],
        Setup(hyp, compute, Plan(9, 1, 9), 0, processes),
    )
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {**gradients, "losses": step.losses, "norm": step.norm, **state.criterion.state_dict()}


def with_masks(batch: Batch) -> Batch:
    """A mask of every object, which models without masks do not look at."""
    mask = torch.rand(len(batch.objects.label), 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    return batch._replace(objects=batch.objects._replace(mask=mask.to(torch.uint8)))


def part_of(batch: Batch, processes: Processes) -> Batch:
    """The images of a batch that this process has."""
    own = list(processes.share_of(range(len(batch.images))))
    if not own:
        return EMPTY
    mine = (batch.objects.image >= own[0]) & (batch.objects.image <= own[-1])
    targets = batch.objects.select(mine)
    targets = targets._replace(image=targets.image - own[0])
    return batch._replace(images=batch.images[own], objects=targets, position=batch.position[own])


# Pictures of each batch of a step: even shares, uneven ones, and a share of nothing.
CASES = {
    "even": ((4,), "ciou", "yolo_n"),
    "uneven": ((5, 3), "wiou", "yolo_n"),
    "one image": ((1,), "ciou", "yolo_n"),
    "divided by scores": ((5, 3), "wiou", "yolo_n_free"),
    "masks": ((5, 1), "wiou", "yolo_n_seg"),
    "masks divided by scores": ((5, 1), "wiou", "yolo_n_seg_free"),
}


def recipe_of(box_loss: str) -> Hyp:
    return Hyp(box_loss=box_loss, clip_norm=0.0, mask_norm="step")


def store_steps(processes: Processes, folder: Path) -> None:
    for name, (counts, box_loss, cfg) in CASES.items():
        torch.save(one_step(processes, counts, recipe_of(box_loss), cfg), folder / f"{name}.{processes.rank}")
    torch.save(thawed(processes), folder / f"thawed.{processes.rank}")
    check_statistics(processes)
    check_collectives(processes)


def thawed(processes: Processes) -> dict[str, torch.Tensor]:
    """How far an epoch with a frozen backbone and a step after it move; in that the second process has no image.

    Statistics stand still: they are those of a share otherwise.
    """
    hyp = Hyp(optimizer="SGD", lr0=1.0, freeze="backbone", freeze_epochs=1, warmup_epochs=0.0)
    compute, plan = choose_compute("cpu", "fp32", channels_last=False), Plan(4, 1, 4)
    torch.manual_seed(0)
    model = Detector(load_model_config(REPOSITORY / "cfg/yolo_n.yaml").model_copy(update={"nc": 3}))
    state, start = initial_state(model, AnchorCriterion(hyp, np.ones(3)), hyp, compute), copy.deepcopy(model)
    for epoch, count in ((0, 3), (0, 2), (1, 1)):
        state.epoch = epoch
        state.in_training()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        batch = part_of(random_batch(count, seed=count), processes)
        train_step(state, [batch.to(compute)], Setup(hyp, compute, plan, 0, processes))
    pairs = zip(model.named_parameters(), start.parameters(), strict=True)
    return {name: (parameter - before).detach() for (name, parameter), before in pairs}


@pytest.fixture(scope="module")
def steps_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of two processes has after a step, for every case; tests only read it."""
    folder = tmp_path_factory.mktemp("steps")
    in_two_processes(store_steps, folder)
    return folder


@pytest.mark.processes
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_gradient_of_one(case: str, steps_of_two: Path):
    counts, box_loss, cfg = CASES[case]
    alone = one_step(ALONE, counts, recipe_of(box_loss), cfg)
    for rank in (0, 1):
        found = torch.load(steps_of_two / f"{case}.{rank}", weights_only=True)
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert (found[name] - value).norm() <= 1e-5 * value.norm() + 1e-12, name


@pytest.mark.processes
def test_two_processes_thaw_like_one(steps_of_two: Path):
    alone = thawed(ALONE)
    for rank in (0, 1):
        found = torch.load(steps_of_two / f"thawed.{rank}", weights_only=True)
        for name, moved in alone.items():
            assert (found[name] - moved).norm() <= 1e-3 * moved.norm() + 1e-6, name
    assert alone["layers.0.conv.weight"].norm() > 1e-5 < alone["layers.9.merge.conv.weight"].norm()


def check_statistics(processes: Processes) -> None:
    """Running statistics are means over all images, the same in each process."""
    hyp, compute = Hyp(), choose_compute("cpu", "fp32", channels_last=False)
    torch.manual_seed(0)
    model = Detector(load_model_config(REPOSITORY / "cfg/yolo_n.yaml").model_copy(update={"nc": 3}))
    state = initial_state(model, AnchorCriterion(hyp, np.ones(3)), hyp, compute)
    state.model.train()
    batch = part_of(random_batch(5, seed=1), processes)
    train_step(state, [batch.to(compute)], Setup(hyp, compute, Plan(9, 1, 9), 0, processes))
    states = processes.gather_everywhere({**model.state_dict(), **state.average.module.state_dict()})
    counters = {name for name in states[0] if "num_batches" in name}
    first, second = ({name: value for name, value in each.items() if name not in counters} for each in states)
    assert equal_states(first, second)


def check_collectives(processes: Processes) -> None:
    rank = processes.rank
    a, b = torch.full((2, 3), rank + 1.0), torch.tensor(float(rank))
    processes.add([a, b])
    assert a.tolist() == [[3.0] * 3] * 2 and b.item() == 1
    assert processes.any(rank == 1) and not processes.any(False)
    assert processes.gather_everywhere(rank * 10) == [0, 10]
    assert processes.from_first(lambda: rank + 5) == 5
    with pytest.raises(ConfigError, match="broken"):
        processes.from_first(broken)


def broken() -> None:
    raise ConfigError("broken")


def lose_the_other(processes: Processes) -> None:
    if processes.rank == 1:
        os._exit(0)
    start = time.monotonic()
    with pytest.raises(LostProcessError, match="process 0 of 2: another process of this run has ended"):
        processes.add([torch.ones(3)])
    assert time.monotonic() - start < 60
    os._exit(0)


@pytest.mark.processes
def test_a_dead_process_ends_the_others_with_a_message():
    in_two_processes(lose_the_other)


def test_alone_there_is_nothing_to_add():
    value = torch.ones(2)
    ALONE.add([value])
    assert value.tolist() == [1, 1] and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.gather_everywhere(3) == [3] and ALONE.from_first(lambda: 4) == 4
    assert ALONE.share_of([1, 2, 3]) == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_number_of_processes_sees_the_same_batches(size: int):
    whole = list(EpochBatches(23, 4, 7, range(3)))
    members = [Processes(rank, size) for rank in range(size)]
    parts = [list(EpochBatches(23, 4, 7, range(3), share=member.share_of)) for member in members]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert [sample for share in shares for sample in share] == list(batch)
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1 and sizes[0] == max(sizes)


@pytest.mark.parametrize("done", [0, 1, 4, 5])
def test_a_run_that_goes_on_sees_the_rest(done: int):
    whole = list(EpochBatches(23, 4, 7, range(3)))
    batches = EpochBatches(23, 4, 7, range(3), first_batch=done)
    assert list(batches) == whole[done:] and len(batches) == len(whole) - done


def test_a_batch_of_nothing_has_the_form_of_a_batch():
    assert collate([]) is EMPTY
    full = random_batch(2, seed=0)
    assert all(mine.dtype == other.dtype for mine, other in zip(EMPTY.objects[:3], full.objects[:3], strict=True))
    assert EMPTY.images.dtype == full.images.dtype and EMPTY.images.shape[:2] == (0, 3)
    assert len(EMPTY.position) == 0 and EMPTY.objects.box.shape == (0, 4)


# ------------------------------------------------------------------------------------------------------- torchrun


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as torchrun gives each process: with more, sums may be rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torchrun(data: Path, project: Path, *words: str, restarts: int = 0) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml"), "--workers", "0"]
    flags += ["--data", str(data), "--imgsz", "64", "--batch-size", "6", "--device", "cpu", "--project", str(project)]
    flags += ["--no-figures"]
    return [*launcher, f"--max-restarts={restarts}", str(REPOSITORY / "train.py"), *flags, *words]


def test_two_processes_validate_like_one(tiny_data: Path, tmp_path: Path, one_thread: None):
    done = subprocess.run(torchrun(tiny_data, tmp_path, "--epochs", "3"), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   3/3") == 1  # one process speaks for all
    row = rows_of(tmp_path / "exp")[-1]
    words = ["--weights", str(tmp_path / "exp/weights/last.pt"), "--project", str(tmp_path / "val"), "--device", "cpu"]
    assert val_main([*words, "--workers", "0"]) == 0
    figures = json.loads((tmp_path / "val/exp/metrics.json").read_text())
    pairs = {"map50_95": "mAP50-95", "map50": "mAP50", "map75": "mAP75", "precision": "precision", "recall": "recall"}
    assert {mine: figures[mine] for mine in pairs} == {mine: float(row[f"metrics/{pairs[mine]}"]) for mine in pairs}
    assert figures["losses"] == {name: float(row[f"val/{name}"]) for name in figures["losses"]}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_restarted_and_the_run_goes_on(tiny_data: Path, tmp_path: Path, victim: int):
    command = torchrun(tiny_data, tmp_path, "--epochs", "8", "--save-period", "0.3", restarts=1)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    last = tmp_path / "exp/weights/last.pt"
    wait_for(lambda: last.exists() and load_checkpoint(last)["epoch"] >= 1)
    os.kill(children_of(process.pid)[victim], signal.SIGKILL)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and "restarted by torchrun" in said
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]
    assert [row["epoch"] for row in rows_of(tmp_path / "exp")] == [str(epoch) for epoch in range(1, 9)]


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_another_number_of_processes(tiny_data: Path, tmp_path: Path):
    process = subprocess.Popen(
        torchrun(tiny_data, tmp_path, "--epochs", "400"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    last = tmp_path / "exp/weights/last.pt"
    wait_for(last.exists)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert "stopped by SIGTERM in epoch" in said
    content = load_checkpoint(last)
    done = content["epoch"]
    from yolo_lite.cli.main import train_main

    assert train_main(["--resume", str(last), "--epochs", str(done + 2)]) == 0
    epochs = [row["epoch"] for row in rows_of(tmp_path / "exp")]
    assert epochs == [str(epoch) for epoch in range(1, done + 3)]


def agent(port: int, data: Path, project: Path) -> subprocess.Popen[str]:
    """One of two "machines": a torchrun of its own, with one process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max-restarts=3"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=two", "--local-addr=127.0.0.1"]
    script = torchrun(data, project, "--epochs", "14", "--save-period", "0.3")
    command = [*launcher, *script[script.index(str(REPOSITORY / "train.py")) :]]
    # Without this torch 2.15 does not tell a machine that comes later where to meet.
    surroundings = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=surroundings)


@pytest.mark.slow
def test_two_machines_train_one_run_and_one_of_them_may_fail(tiny_data: Path, tmp_path: Path):
    port = free_port()
    first, second = agent(port, tiny_data, tmp_path), None
    try:
        time.sleep(2)  # the first one offers the meeting point
        second = agent(port, tiny_data, tmp_path)
        last = tmp_path / "exp/weights/last.pt"
        wait_for(lambda: last.exists() and load_checkpoint(last)["epoch"] >= 1)
        lost = [second.pid, *children_of(second.pid)]  # the machine is gone, with its processes
        for process in lost:
            os.kill(process, signal.SIGKILL)
        second.wait()
        second = agent(port, tiny_data, tmp_path)
        said = first.communicate(timeout=300)[0] + second.communicate(timeout=300)[0]
    finally:
        for each in (first, second):
            if each is not None and each.poll() is None:
                each.kill()
    assert (first.returncode, second.returncode) == (0, 0) and "restarted by torchrun" in said
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]
    assert [row["epoch"] for row in rows_of(tmp_path / "exp")] == [str(epoch) for epoch in range(1, 15)]


@pytest.mark.slow
def test_children_of_a_killed_torchrun_stop_and_another_one_goes_on(tiny_data: Path, tmp_path: Path):
    process = subprocess.Popen(
        torchrun(tiny_data, tmp_path, "--epochs", "400"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    last = tmp_path / "exp/weights/last.pt"
    wait_for(last.exists)
    children = children_of(process.pid)
    process.kill()  # what it has started lives on
    words = ["--resume", str(last), "--device", "cpu"]
    launcher = torchrun(tiny_data, tmp_path)
    command = [*launcher[: launcher.index(str(REPOSITORY / "train.py")) + 1], *words]
    second = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, said = process.communicate(timeout=120)
    assert len(children) == 2 and "which it started, stops" in said and "stopped by SIGTERM in epoch" in said
    wait_for(lambda: children_of(second.pid) and not any(Path(f"/proc/{child}").exists() for child in children))
    done = load_checkpoint(last)["epoch"]
    wait_for(lambda: load_checkpoint(last)["epoch"] > done)  # the second one trains
    second.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM in epoch" in second.communicate(timeout=120)[1]
    epochs = [int(row["epoch"]) for row in rows_of(tmp_path / "exp")]
    assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.slow
def test_no_loading_process_outlives_a_killed_run(tiny_data: Path, tmp_path: Path):
    command = torchrun(tiny_data, tmp_path, "--epochs", "400", "--workers", "2")
    command = [sys.executable, *command[command.index(str(REPOSITORY / "train.py")) :]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "exp/weights/last.pt").exists)
    children = children_of(process.pid)
    process.kill()
    process.wait()
    assert children
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), seconds=30)
