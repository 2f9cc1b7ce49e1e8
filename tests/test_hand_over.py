"""Loading processes: no need of /dev/shm, slots used again, and whatever ends or fails there is one line here."""

from __future__ import annotations

import errno
import faulthandler
import itertools
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SHARED, equal_states, tiny_config

from yolo_lite.cli.failure import end_of
from yolo_lite.cli.main import train_main, val_main
from yolo_lite.config.errors import ConfigError, DataError, ShortageError
from yolo_lite.config.shortage import memory_errors_explained, out_of_memory, shortage
from yolo_lite.data import hand_over
from yolo_lite.data.dataset import EvaluationSet, TrainingSet
from yolo_lite.data.hand_over import PREFETCH, ForkedLoader, _one_ahead
from yolo_lite.data.store import CAN_FORK
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.train import train
from yolo_lite.structures import Batch, Objects

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="processes are not forked here")
SIDE = 8


def collate(items: list[int], memory: memoryview | None = None) -> Batch:
    """Images whose pixels are their keys; every key of three has an object."""
    images = np.ndarray((len(items), SIDE, SIDE, 3), np.uint8, memory if memory is not None else bytearray(9999))
    images[:] = np.array(items, np.uint8).reshape(-1, 1, 1, 1)
    keys = torch.tensor(items)
    few = keys[keys % 3 == 0]
    objects = Objects(few, few, few[:, None].repeat(1, 4).float())
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), objects, keys, keys[:, None], keys[:, None].double())


class Items:
    """Items that are their keys; what is to happen at a key happens in the process that loads it."""

    def __init__(self, happening: Callable[[int], object] = int) -> None:
        self.happening, self.main = happening, os.getpid()

    def __getitem__(self, key: int) -> int:
        assert os.getpid() != self.main
        self.happening(key)
        return key


def loader(happening: Callable[[int], object] = int, workers: int = 2, num_batches: int = 12) -> ForkedLoader:
    batches = [list(range(3 * number, 3 * number + 3)) for number in range(num_batches)]
    return ForkedLoader(Items(happening), batches, collate, workers, 3 * SIDE * SIDE * 3, False, lambda _: None)


def at(number: int, action: Callable[[], object]) -> Callable[[int], object]:
    return lambda key: action() if key == number else None


def failing(error: BaseException) -> Callable[[], object]:
    def action() -> None:
        raise error

    return action


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    deadline = time.monotonic() + 5
    while left := set(multiprocessing.active_children()) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("num_batches", [1, 4, 11])
def test_batches_come_in_their_order_and_stay_what_they_are(workers: int, num_batches: int):
    """All are kept, while each slot is written several times."""
    batches = list(loader(workers=workers, num_batches=num_batches))
    assert len(batches) == num_batches
    for number, batch in enumerate(batches):
        keys = [3 * number, 3 * number + 1, 3 * number + 2]
        assert batch.images.shape == (3, 3, SIDE, SIDE)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert [image.unique().tolist() for image in batch.images] == [[key] for key in keys]
        assert batch.position.tolist() == keys and batch.letterbox.dtype == torch.float64
        assert batch.objects.label.tolist() == keys[:1] and batch.objects.box.tolist() == [[float(keys[0])] * 4]


def test_a_slot_is_written_again_only_when_its_batch_has_been_copied():
    """However slow the reader is, no process is more than its slots ahead of it."""
    started = multiprocessing.get_context("fork").Array("i", 12)
    batches = iter(loader(lambda key: started.__setitem__(key // 3, 1)))
    for done in range(1, 4):
        next(batches)
        time.sleep(0.2)
        assert list(started) == [1] * (done + 2 * PREFETCH) + [0] * (12 - done - 2 * PREFETCH)


def test_what_goes_beside_the_tensors_of_a_batch_comes_too():
    told = loader()
    told.collate = lambda items, memory: collate(items, memory)._replace(letterbox=((items[0], "a reason"),))
    assert [batch.letterbox for batch in told][:2] == [((0, "a reason"),), ((3, "a reason"),)]


@pytest.mark.parametrize("objects", [0, 5])
@pytest.mark.parametrize("masks", [False, True])
def test_a_batch_is_handed_over_as_images_one_table_and_masks(objects: int, masks: bool, monkeypatch):
    """Each is pinned once where a GPU waits for it, and every bit and type is the collated one's."""
    mask = torch.arange(objects * 9).view(objects, 3, 3).remainder(2).to(torch.uint8) if masks else None
    rows = torch.arange(objects)
    table = Objects(rows, rows * 7, torch.rand(objects, 4), mask)
    batch = collate([1, 2])._replace(objects=table, letterbox=torch.rand(2, 4).double(), unreadable=((3, "gone"),))
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda one: pinned.append(one.nbytes) or one)
    monkeypatch.setattr(
        torch, "empty", lambda *shape, pin_memory, **how: pinned.append(0) or torch.zeros(*shape, **how)
    )
    made = ForkedLoader([batch], [[0]], lambda items, memory: items[0], 1, 0, True, lambda _: None)
    answer = pickle.loads(hand_over._answer(made, 0, iter([[0]]), memoryview(b"")))  # noqa: S301 (of this process)
    arrays = [one for one in (*answer, *(answer[4] or ())) if isinstance(one, np.ndarray)]
    assert len(arrays) == 1 + masks
    slot = memoryview(batch.images.permute(0, 2, 3, 1).numpy()).cast("B")
    copied = hand_over._copied(answer, slot, True)
    assert len(pinned) == 2 + masks
    assert copied.unreadable == batch.unreadable and (copied.objects.mask is None) == (mask is None)
    for own, other in zip((*copied[:1], *copied.objects, *copied[2:5]), (*batch[:1], *table, *batch[2:5]), strict=True):
        assert own is other or (own.dtype == other.dtype and torch.equal(own, other))


def test_one_ahead_gives_the_same_and_the_same_error():
    assert list(_one_ahead(iter("abc"))) == list("abc") and list(_one_ahead(iter(""))) == []
    ahead = _one_ahead(iter(loader(at(15, failing(DataError("5.png: bad"))))))
    assert [int(next(ahead).position[0]) for _ in range(5)] == [0, 3, 6, 9, 12]
    with pytest.raises(DataError, match=r"^5\.png: bad$"):
        next(ahead)


def test_processes_end_with_whoever_asks_for_batches():
    batches = iter(loader())
    next(batches)
    assert len(multiprocessing.active_children()) >= 2
    start = time.monotonic()
    del batches
    assert time.monotonic() - start < 2


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
@pytest.mark.parametrize("key", [0, 15, 33])
def test_a_process_that_dies_is_one_line(number: int, key: int):
    """Batch 5 is that of key 15, and the second process's, as the last one, 11, is."""

    def die() -> None:
        faulthandler.disable()  # pytest's, which would tell of it at length
        os.kill(os.getpid(), number)

    batches, seen = iter(loader(at(key, die))), []
    with pytest.raises(ShortageError) as caught:
        seen.extend(batches)
    said, process = str(caught.value), 1 if key == 0 else 2
    assert said.startswith(f"loading process {process} of 2 was ended by signal {number:d} (")
    assert "--workers" in said and len(said.splitlines()) == 1
    assert ("memory runs out" in said) == (number == signal.SIGKILL)
    assert [int(batch.position[0]) for batch in seen] == list(range(0, key, 3))  # what came before it is not lost


def test_a_process_that_leaves_by_itself_is_one_line():
    with pytest.raises(ShortageError, match="loading process 1 of 2 ended with status 3; try"):
        list(loader(at(6, lambda: os._exit(3))))


def test_a_process_killed_while_it_waits_is_noticed_at_its_next_batch():
    batches = iter(loader())
    next(batches)
    time.sleep(0.3)
    for process in multiprocessing.active_children():
        process.kill()
    seen = []
    with pytest.raises(ShortageError, match=r"loading process 2 of 2 was ended by signal 9|loading process 1 of 2"):
        seen.extend(batches)
    assert len(seen) >= 2 * PREFETCH - 1  # what was handed over before


SHORT = [
    (MemoryError(), "out of memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    (OSError(errno.EMFILE, "Too many open files", "a.jpg"), "too many open files, .*ulimit -n"),
    (OSError(errno.ENFILE, "Too many open files in system"), "too many open files, .*file-max"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (RuntimeError("DataLoader worker (pid(s) 17) exited unexpectedly"), "a loading process has ended"),
    (cv2.error("OpenCV: error: (-4:Insufficient memory) Failed to allocate 9 bytes"), "out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "out of memory"),
    (RuntimeError("could not create a primitive"), r"it seems \(oneDNN: could not create a primitive\)"),
    (RuntimeError("could not create a memory object"), r"oneDNN: could not create a memory object"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out of memory"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory"),
]


@pytest.mark.parametrize(("error", "words"), SHORT)
def test_what_the_system_lacks_is_told_by_its_own_words(error: Exception, words: str):
    with pytest.raises(ShortageError, match=rf"^loading process 2: .*{words}.*--workers"):
        list(loader(at(4, failing(error))))


NOT_SHORT = [
    NotImplementedError("Unimplemented pixel format b'DX11'"),  # Pillow, of a DDS
    RecursionError("maximum recursion depth exceeded"),  # of a deep .npy
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    OSError(errno.ENOENT, "No such file or directory", "out of memory.png"),
    OSError("image file is truncated"),
    DataError("data/out of memory/std::bad_alloc.png: not a readable image"),
    ValueError("out of memory.txt: cannot reshape array"),
    KeyError("out"),
]


@pytest.mark.parametrize("error", NOT_SHORT)
def test_nothing_else_is_called_a_shortage(error: Exception):
    assert not shortage(error) and not out_of_memory(error)
    with pytest.raises(type(error)) as caught:
        list(loader(at(4, failing(error))))
    if isinstance(error, DataError):
        assert str(caught.value) == str(error)


def test_an_image_that_no_descriptor_is_left_for_is_no_bad_image():
    def unreadable() -> None:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as error:
            raise DataError("a.jpg: cannot be read: Too many open files") from error

    with pytest.raises(ShortageError, match=r"too many open files, the limit is that of a process \(ulimit -n\)"):
        list(loader(at(4, unreadable)))


def test_without_descriptors_no_process_starts_and_that_is_one_line():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 5, hard))
        with pytest.raises(ShortageError, match=r"cannot start 9 loading processes: too many open files.*--workers"):
            next(iter(loader(workers=9)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_no_process_may_be_forked_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fork", failing(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")))
    with pytest.raises(ShortageError, match=r"cannot start 2 .*: Resource temporarily unavailable.*ulimit -u"):
        iter(loader())


def test_memory_for_batches_is_checked_before_the_first(monkeypatch: pytest.MonkeyPatch):
    needed = 3 * SIDE * SIDE * 3 * PREFETCH * 2
    for free, is_enough in ((needed, True), (needed - 1, False), (0, True)):  # 0: the system does not tell
        monkeypatch.setattr(hand_over, "free_memory", lambda free=free: free)
        if is_enough:
            assert len(list(loader())) == 12
        else:
            with pytest.raises(ShortageError, match=r"need 0 MiB, 0 MiB are free; try --workers 0 \("):
                iter(loader())
    monkeypatch.setattr(hand_over, "free_memory", lambda: 2 * needed - 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each process of a machine takes as much
    with pytest.raises(ShortageError):
        iter(loader())


# -------------------------------------------------------------------------------------------------------- training


SMALL_STEPS = ("--set", "cache=off", "--batch-size", "4")


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happens to."""
    return train(tiny_config(tiny_data, tmp_path_factory.mktemp("whole"), *SMALL_STEPS)).folder


@pytest.mark.parametrize("validating", [False, True])
def test_a_run_that_loses_a_process_is_saved_and_goes_on_to_the_bit(
    tiny_data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, validating: bool
):
    """Killed in the second epoch, or while the first is validated: last.pt is where the run stood."""
    kind: type = EvaluationSet if validating else TrainingSet
    main = os.getpid()
    load, asked = kind.__getitem__, itertools.count()

    def dying(self: object, key: object) -> object:
        if os.getpid() != main and (next(asked) == 3 if validating else key[0] == 1):  # type: ignore[index]
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, key)

    monkeypatch.setattr(kind, "__getitem__", dying)
    config = tiny_config(tiny_data, tmp_path / "killed", *SMALL_STEPS, "--workers", "2")
    place = "epoch 1 after step 2 of 2" if validating else "epoch 2 after step 0 of 2"
    last = tmp_path / "killed/exp/weights/last.pt"
    with pytest.raises(ShortageError, match=rf"signal 9.*; stopped in {place}; go on with --resume {last}$"):
        train(config)
    monkeypatch.setattr(kind, "__getitem__", load)
    assert train_main(["--resume", str(last), "--workers", "2"]) == 0
    for part in ("model", "ema"):
        assert equal_states(load_checkpoint(last)[part], load_checkpoint(whole / "weights/last.pt")[part])


def test_descriptors_that_run_out_in_a_process_are_no_bad_images(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Real ones: no file can be opened there."""

    def start(_: int, niceness: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))

    monkeypatch.setattr("yolo_lite.data.loader.start_worker", start)
    with pytest.raises(
        ShortageError, match=r"^loading process \d: too many open files.*; stopped in epoch 1 after step 0"
    ):
        train(tiny_config(tiny_data, tmp_path, *SMALL_STEPS, "--workers", "2"))


def test_val_ends_with_one_line_too(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(EvaluationSet, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    words = ["--weights", str(tiny_run / "weights/best.pt"), "--workers", "2", "--batch-size", "2", "--device", "cpu"]
    assert val_main([*words, "--project", str(tmp_path)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and errors[0].startswith("error: loading process 1 of 2 was ended by signal 9 (Killed)")


def test_one_line_and_status_2_end_a_training_that_cannot_start_its_processes(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    config = tiny_config(tiny_data, tmp_path, "--workers", "2")
    monkeypatch.setattr("yolo_lite.engine.resolve.run_config", lambda _: config)
    monkeypatch.setattr(hand_over, "free_memory", lambda: 1)
    assert train_main([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: batches of loading processes need 0 MiB") and not (tmp_path / "exp").exists()


def with_small_shm(size: str, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """A command where /dev/shm has so many bytes, as in a container."""
    mounted = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77; exec "$@"', "sh"]
    try:
        done = subprocess.run([*mounted, *words], capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare command")
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("only root may mount a file system")
    return done


FILES = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml"), "--device", "cpu"]


def test_training_needs_no_room_in_dev_shm(tiny_data: Path, tmp_path: Path):
    """A page of it; a batch of four images takes 300 kB."""
    words = [*FILES, "--data", str(tiny_data), "--project", str(tmp_path), "--workers", "2", "--epochs", "1"]
    words += ["--batch-size", "4", "--imgsz", "160", "--no-figures", "--set", "cache=off"]
    done = with_small_shm("4k", sys.executable, str(REPOSITORY / "train.py"), *words, seconds=120)
    assert done.returncode == 0, done.stderr
    assert "best was epoch 1" in done.stdout and (tmp_path / "exp/weights/last.pt").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data/bccd").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("cache", ["off", "ram"])
def test_a_default_container_trains_at_640_pixels(tmp_path: Path, cache: str):
    """64 MB of /dev/shm, two loading processes, batches of 16: 20 MB each."""
    words = [*FILES, "--data", str(SHARED / "data/bccd/data.yaml"), "--project", str(tmp_path), "--workers", "2"]
    words += ["--epochs", "1", "--batch-size", "16", "--imgsz", "640", "--no-figures", "--set", f"cache={cache}"]
    done = with_small_shm("64m", sys.executable, str(REPOSITORY / "train.py"), *words, seconds=900)
    assert done.returncode == 0, done.stderr
    assert "best was epoch 1" in done.stdout and (tmp_path / "exp/weights/last.pt").exists()


def test_memory_of_the_main_process_is_told_by_known_words_only():
    for error, _ in SHORT:
        if out_of_memory(error) and isinstance(error, (RuntimeError, OSError, MemoryError)):
            with (
                pytest.raises(
                    ConfigError, match=r"^out of memory.* with --batch-size 4 at --imgsz 64: try --batch-size 2"
                ),
                memory_errors_explained(4, 64),
            ):
                raise error
    for error in NOT_SHORT:
        with pytest.raises(type(error)) as caught, memory_errors_explained(4, 64):
            raise error
        assert caught.value is error


def test_a_shortage_that_no_command_foresaw_is_one_line_and_no_fault_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("YOLO_LITE_TRACEBACK", "1")  # no file
    for error, words in SHORT:
        [line], status = end_of(error)
        assert status == 2 and "a fault of" not in line
        assert isinstance(error, OSError) or re.search(rf"{words}.*; try a smaller --batch-size", line)
    for error in NOT_SHORT:
        assert isinstance(error, OSError) or end_of(error)[1] == 1
