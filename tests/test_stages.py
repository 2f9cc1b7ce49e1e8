"""Laws of the stages of prediction: side by side they find and write what they would one after the other."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_predict import CANVAS, COLOURS, NAMES, make_film, painted, predict

from yolo_lite.config.errors import DataError
from yolo_lite.config.options import PredictOptions
from yolo_lite.config.run_lock import MARK
from yolo_lite.deploy.prediction import Outputs
from yolo_lite.deploy.predictor import Predictor
from yolo_lite.deploy.sources import as_frame, find_media, frames_of
from yolo_lite.deploy.stages import Clock, begun, read_ahead, side_by_side


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of some shapes, files that are none, and a film, in a working directory; colours are detected."""
    monkeypatch.setattr("yolo_lite.deploy.predictor.load", lambda *_: dataclasses.replace(COLOURS, clock=Clock()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for number in range(20):
        size = [(64, 48), (30, 100), (200, 200)][number % 5 % 3]
        image = painted(*size, (number % 3, number, 5, number + 12, 25))
        Image.fromarray(image).save(tmp_path / f"set/{number:02}.{('jpg', 'png')[number % 2]}", quality=95)
    (tmp_path / "set/05.png").write_bytes(b"no image")
    (tmp_path / "set/16.jpg").write_bytes((tmp_path / "set/00.jpg").read_bytes()[:400])
    make_film(tmp_path / "set/07a.avi", num_frames=11)
    return tmp_path


def no_new_thread(before: set[threading.Thread]) -> bool:
    return not {thread for thread in threading.enumerate() if thread not in before and thread.is_alive()}


def contents(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_files_and_messages_are_those_of_one_stage_after_the_other(
    batch_size: int, networks: int, folder: Path, monkeypatch, capsys
):
    colours = dataclasses.replace(COLOURS, clock=Clock(), networks=networks)
    monkeypatch.setattr("yolo_lite.deploy.predictor.load", lambda *_: colours)
    flags = {"save_txt": True, "save_json": True, "save_crop": True, "batch_size": batch_size}
    (folder / "plain").mkdir()
    files, problems = Outputs(folder / "plain", PredictOptions(weights="w", source=("set",), **flags)), list[str]()

    def frames() -> Iterator[Any]:
        for media in find_media(["set"]):
            try:
                yield from frames_of(media, 3, 255)
            except DataError as problem:
                problems.append(f"passed over: {problem}")

    with closing(files):
        for prediction in COLOURS.run(frames(), *COLOURS.chosen(), batch_size):
            files.add(prediction)
    words = ("--save-txt", "--save-json", "--save-crop", "--batch-size", str(batch_size))
    assert predict("--source", "set", *words) == 0
    said, found = capsys.readouterr(), contents(folder / "runs/predict/exp")
    assert found == contents(folder / "plain") and len(found) == 18 + 1 + 1 + 2 * 29
    assert [line for line in said.err.splitlines() if line.startswith("passed")] == problems and len(problems) == 2
    names = [f"set/{one}" for one in sorted(path.name for path in (folder / "set").iterdir())]
    assert [line.split(":")[0] for line in said.out.splitlines()[:-1]] == [
        n for n in names if "05" not in n and "16" not in n
    ]
    counts, _, stages = said.out.splitlines()[-1].partition("; milliseconds an image, side by side: ")
    assert counts == "29 images, 29 objects, 2 inputs passed over" and stages.endswith("; runs/predict/exp")
    wanted = ["decoding", "letterbox", "drawing and writing", "in all"]  # these colours need no network
    assert [stage.rpartition(" ")[0] for stage in stages.split(";")[0].split(", ")] == wanted


def test_a_stream_that_is_closed_early_ends_its_threads_and_has_read_little(folder: Path, monkeypatch):
    before, read = set(threading.enumerate()), list[str]()
    monkeypatch.setattr("yolo_lite.deploy.sources.as_frame", lambda file, *_: read.append(file) or as_frame(file))
    for taken in (1, 9):  # among images, and within the film
        read.clear()
        stream = COLOURS.stream("set", skip=lambda _: None, batch_size=2)
        assert len(list(itertools.islice(stream, taken))) == taken and not no_new_thread(before)
        stream.close()
        assert no_new_thread(before) and len(read) <= taken + 2 + 4


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_any_stage_is_raised_and_ends_all_threads(error: type[BaseException], folder: Path, monkeypatch):
    before = set(threading.enumerate())

    def fail(*_: Any) -> Any:
        raise error("a stage failed")

    broken = Predictor(NAMES, 64, CANVAS, fail, networks=2)
    for place in ("sources.as_frame", "predictor.view_on_canvas", "predictor.Predictor._prediction", None):
        with monkeypatch.context() as patch, pytest.raises(error, match="a stage failed"):
            if place:
                patch.setattr(f"yolo_lite.deploy.{place}", fail)
            list((COLOURS if place else broken).stream("set", skip=lambda _: None))
        assert no_new_thread(before)


def test_a_file_that_cannot_be_written_ends_the_run(folder: Path, monkeypatch, capsys):
    before, add, added = set(threading.enumerate()), Outputs.add, list[str]()

    def full(self: Outputs, prediction: Any) -> None:
        added.append(prediction.frame.file)
        if len(added) == 3:
            raise OSError(28, "No space left on device")
        add(self, prediction)

    monkeypatch.setattr(Outputs, "add", full)
    assert predict("--source", "set", "--batch-size", "1") != 0
    assert "No space left on device" in capsys.readouterr().err and len(added) == 3 and no_new_thread(before)
    assert len(contents(folder / "runs/predict/exp")) == 2


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_items_side_by_side_keep_their_order_few_are_at_work_and_share_the_cores(workers: int):
    cores, before, busy, most = torch.get_num_threads(), set(threading.enumerate()), set[int](), list[int]()
    rng, asked = random.Random(workers), list[int]()

    def work(item: int) -> tuple[int, int]:
        busy.add(item)
        most.append(len(busy))
        time.sleep(rng.random() / 500)
        busy.remove(item)
        return item, torch.get_num_threads()

    given = (asked.append(item) or item for item in range(1, 41))
    for number, (item, threads) in enumerate(side_by_side(work, given, workers), 1):
        assert item == number and threads == max(cores // workers, 1) and len(asked) <= number + workers + 1
    assert number == 40 and min(workers, 2) <= max(most) <= workers
    assert no_new_thread(before) and torch.get_num_threads() == cores


def test_one_item_alone_is_made_by_the_caller_with_all_cores():
    for items in ([7], []):
        found = list(side_by_side(lambda _: (threading.current_thread(), torch.get_num_threads()), iter(items), 4))
        assert found == [(threading.current_thread(), torch.get_num_threads())] * len(items)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_or_an_early_end_side_by_side_ends_all_threads(error: type[BaseException]):
    cores, before, begun_items = torch.get_num_threads(), set(threading.enumerate()), list[int]()

    def work(item: int) -> int:
        begun_items.append(item)
        if item == 6:
            raise error("the sixth failed")
        return item

    given = side_by_side(work, iter(range(1, 50)), 2)
    with pytest.raises(error, match="the sixth"):
        for number, item in enumerate(given, 1):
            assert item == number <= 5
    assert max(begun_items) <= 6 + 3 and no_new_thread(before) and torch.get_num_threads() == cores
    closed = side_by_side(work, iter([1, 2, 3, 4]), 2)
    assert next(closed) == 1
    closed.close()
    assert no_new_thread(before) and torch.get_num_threads() == cores


def test_streams_at_once_and_threads_that_begin_meanwhile_have_the_cores_they_would_have_alone():
    before, numbers, seen = torch.get_num_threads(), list[int](), list[int]()

    def work(item: int) -> int:
        time.sleep(0.002)
        numbers.append(torch.get_num_threads())
        return item

    def stream(workers: int) -> None:
        assert list(side_by_side(work, iter(range(9)), workers)) == list(range(9))
        seen.append(torch.get_num_threads())

    torch.set_num_threads(4)
    try:
        outer = side_by_side(work, iter(range(9)), 4)
        assert next(outer) == 0 and torch.get_num_threads() == 4
        threads = [threading.Thread(target=stream, args=(2,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert list(outer) == list(range(1, 9))
        for thread in threads:
            thread.join()
        stream(2)
        assert seen == [4] * 3 and sorted(numbers) == [1] * 9 + [2] * 27
    finally:
        torch.set_num_threads(before)


def test_an_item_that_was_given_is_held_no_longer():
    class Item:
        pass

    given, alive = list[weakref.ref[Item]](), list[int]()

    def items() -> Iterator[Item]:
        for _ in range(20):
            item = Item()
            given.append(weakref.ref(item))
            yield item
            del item

    for _ in side_by_side(lambda _: None, items(), 2):
        alive.append(sum(one() is not None for one in given))
    assert max(alive) <= 2 + 1 and alive[-1] == 0


def test_few_items_are_made_before_they_are_asked_for():
    made, most = list[int](), 0

    def item(number: int) -> Iterator[int]:
        made.append(number)
        yield number

    for number in read_ahead((("image", item(number)) for number in range(60)), 5):
        most = max(most, len(made) - number)
    assert sorted(made) == list(range(60)) and most <= 5 + 1
    films = ((kind, begun(iter(range(7)))) for kind in ("video", "live", "image", "memory"))
    assert list(read_ahead(films, 3)) == [*range(7)] * 4


def test_an_image_that_is_handed_over_costs_no_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))
    image = painted(50, 80, (0, 8, 4, 30, 30))
    for one in (image, [image, image], torch.from_numpy(image).permute(2, 0, 1)):
        assert COLOURS.predict(one)


def test_the_clock_adds_up_what_threads_spend_in_a_stage():
    clock = Clock()

    def spend() -> None:
        with clock.stage("one"):
            time.sleep(0.02)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(clock.timed("two", iter("abc"))) == ["a", "b", "c"]
    assert clock.seconds["one"] >= 0.08 > clock.seconds["two"] > 0
