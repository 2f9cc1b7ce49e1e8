"""One file's error is contained to that file: named once, counted, and replaced in training by the next image."""

from __future__ import annotations

import errno
import io
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, tiny_config
from PIL import Image
from test_resume import assert_same_run, go_on, last_of, send, stop_after

from yolo_lite.cli.main import main
from yolo_lite.config.errors import DataError, StoppedError
from yolo_lite.data.images import image_size, read_image
from yolo_lite.data.index import index_split
from yolo_lite.data.names import load_dataset
from yolo_lite.data.unreadable import check_index, check_share, first_readable, without_images
from yolo_lite.engine.seams import SEAMS
from yolo_lite.engine.train import train

SIDE = 64
KINDS = ("flipped.png", "tableless.jpg", "scaled.npy")  # names of files whose size can be told, and not their pixels


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def spoilt(name: str) -> bytes:
    """The content of a file that passes the index and fails at its first use."""
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    if name.endswith(".npy"):
        stream = io.BytesIO()
        np.save(stream, pixels.astype(np.float32))  # in 0..255, where 0..1 is expected
        return stream.getvalue()
    if name == "garbled.jpg":
        content = encoded(pixels, "JPEG")
        return content[: len(content) // 2] + content[len(content) * 3 // 4 :]
    if name.endswith(".jpg"):
        return encoded(pixels, "JPEG").replace(b"\xff\xdb", b"\xff\xfe")  # tables become comments
    content = bytearray(encoded(pixels, "PNG"))
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.fixture
def spoilt_set(tmp_path: Path) -> Path:
    """A dataset YAML of 40 + 8 images; three of the one and one of the other cannot be decoded."""
    rng = np.random.default_rng(0)
    for split, names in (
        ("train", [*(f"{i:02}.png" for i in range(37)), *KINDS]),
        ("val", ["0.png", "1.png", "z.png"]),
    ):
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind / split).mkdir(parents=True)
        for name in names:
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
            content = spoilt(name) if name in (*KINDS, "z.png") else encoded(pixels, "PNG")
            (tmp_path / "set/images" / split / name).write_bytes(content)
            (tmp_path / "set/labels" / split / f"{name[:-4]}.txt").write_text("0 .5 .5 .4 .4\n")
    text = f"path: {tmp_path / 'set'}\ntrain: images/train\nval: images/val\nnames: [cat]\n"
    (tmp_path / "data.yaml").write_text(text)
    return tmp_path / "data.yaml"


@pytest.mark.parametrize("name", [*KINDS, "garbled.jpg"])
def test_the_index_can_tell_the_size_and_training_cannot_read(tmp_path, name):
    (tmp_path / name).write_bytes(spoilt(name))
    assert image_size(tmp_path / name) == (SIDE, SIDE)
    with pytest.raises(DataError, match=name):
        read_image(tmp_path / name)


# ------------------------------------------------------------------------------------------------------ replacement


def reader(bad: set[int], cause: Exception | None = None):
    def read(position: int) -> np.ndarray:
        if position in bad:
            raise DataError(f"{position}.png: damaged") from cause
        return np.full((1, 1, 3), position)

    return read


def test_the_next_image_that_can_be_read_takes_the_place():
    bad, found = {2, 3, 39}, {}
    replaced = [first_readable(reader(bad), position, 40, found) for position in range(40)]
    assert [position for position, _ in replaced] == [0, 1, 4, 4, *range(4, 39), 0]
    assert all(pixels[0, 0, 0] == position for position, pixels in replaced)
    assert found == {position: f"{position}.png: damaged" for position in bad}


@pytest.mark.parametrize(("num_images", "most"), [(1, 0), (2, 1), (3, 2), (4, 3), (29, 3), (40, 4), (1000, 100)])
def test_more_than_a_tenth_and_three_or_all_end_the_run(num_images, most):
    check_share(dict.fromkeys(range(most), "a.png: damaged"), num_images)
    with pytest.raises(DataError, match=rf"^{most + 1} of {num_images} images .*: a.png: damaged$"):
        check_share(dict.fromkeys(range(most + 1), "a.png: damaged"), num_images)
    with pytest.raises(DataError, match=rf"^{most + 1} of {num_images} images"):
        first_readable(reader(set(range(num_images))), 0, num_images, {})


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_a_process_without_descriptors_or_memory_is_no_fault_of_an_image(number):
    with pytest.raises(DataError, match=r"^1\.png: damaged$"):
        first_readable(reader({1}, OSError(number, "")), 1, 40, {})
    assert first_readable(reader({1}, OSError(errno.EIO, "")), 1, 40, {})[0] == 2


def test_an_index_without_images_is_that_of_the_others(spoilt_set):
    config = load_dataset(str(spoilt_set), seams=SEAMS)
    whole = index_split(config, spoilt_set, "train", with_outlines=True)
    part, kept = without_images(whole, [0, 5, 39])
    assert kept.tolist() == [one for one in range(40) if one not in (0, 5, 39)]
    for own, position in enumerate(kept.tolist()):
        assert part.path(own) == whole.path(position) and part.num_objects == 37
        for one, other in zip(part.objects(own), whole.objects(position), strict=True):
            np.testing.assert_array_equal(one, other)
    assert without_images(whole, [])[0].paths.tolist() == whole.paths.tolist()


# ------------------------------------------------------------------------------------------------- a whole training

RECIPE = ("--epochs", "3", "--set", "mixup=0.3")


def test_a_run_with_bad_files_names_each_once_and_goes_on_to_the_bit(spoilt_set, tmp_path, monkeypatch, capsys):
    straight = train(tiny_config(spoilt_set, tmp_path / "straight", *RECIPE)).folder
    out, problems = capsys.readouterr().out, (straight / "data_problems.txt").read_text()
    for name, times in (*((name, 1) for name in KINDS), ("z.png", 2)):  # that of validation at the end once more
        assert out.count(f"{name}: ") == times and problems.count(f"{name}: ") == 1, (name, out)
    assert out.count("the next image takes its place") == 3 and "cannot be read and are left out: 1" in out
    with monkeypatch.context() as patch:
        stop_after(patch, 7, send(15))
        with pytest.raises(StoppedError):
            train(tiny_config(spoilt_set, tmp_path / "stopped", *RECIPE, "--workers", "2"))
    go_on(tmp_path / "stopped", "--workers", "1")
    assert_same_run(straight, last_of(tmp_path / "stopped").parent.parent)
    again = (tmp_path / "stopped/exp/data_problems.txt").read_text()
    assert sorted(again.splitlines()) == sorted(problems.splitlines())


def test_too_many_bad_files_end_a_run_with_one_line_and_a_checkpoint(spoilt_set, tmp_path, capsys):
    for number in range(12):
        (tmp_path / f"set/images/train/{number:02}.png").write_bytes(spoilt("x.png"))
    files = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    words = ["--data", str(spoilt_set), "--project", str(tmp_path / "runs"), "--device", "cpu", "--workers", "1"]
    status = main(["train", *files, *words, "--epochs", "1", "--batch-size", "8", "--imgsz", "64", "--no-figures"])
    errors = [line for line in capsys.readouterr().err.splitlines() if "batch/s" not in line and line.strip()]
    assert status == 2 and len(errors) == 1, errors
    assert "of 40 images cannot be read, which is more than 10%" in errors[0] and "--resume" in errors[0]
    assert last_of(tmp_path / "runs").exists()
    assert not multiprocessing.active_children()  # loading processes that stay would be waited for at the exit


@pytest.mark.parametrize(("bad", "is_refused"), [(3, False), (4, False), (5, True)])
def test_the_index_has_the_law_of_the_use(bad, is_refused, spoilt_set, tmp_path, capsys):
    """Of 40 images four may be unreadable, of 3 two; what the index leaves out is said before anything is trained."""
    for number in range(bad):
        (tmp_path / f"set/images/train/{number:02}.png").write_bytes(b"no image")
    for name in ("0.png", "1.png"):
        (tmp_path / "set/images/val" / name).write_bytes(b"no image")
    index = index_split(load_dataset(str(spoilt_set), seams=SEAMS), spoilt_set, "train")
    assert len(index) == 40 - bad and len(index.unreadable) == bad and index.unreadable == index.problems
    if not is_refused:
        check_index(index, spoilt_set, "train")
        return
    with pytest.raises(DataError) as error:
        train(tiny_config(spoilt_set, tmp_path / "runs", "--epochs", "1"))
    assert str(error.value).startswith(f"{spoilt_set}: train: 5 of 40 images cannot be read, which is more than 10%")
    assert "yolo-lite check names all: repair them or take them out of the set; the first: " in str(error.value)
    assert "00.png: not a readable image" in str(error.value) and not (tmp_path / "runs").exists()
    assert main(["check", "--data", str(spoilt_set), "--project", str(tmp_path / "check")]) == 1
    assert (tmp_path / "check/exp/report.txt").read_text().count(": not a readable image") >= bad


def test_a_set_of_few_images_trains_without_its_bad_ones(spoilt_set):
    (spoilt_set.parent / "set/images/val/0.png").write_bytes(b"no image")
    index = index_split(load_dataset(str(spoilt_set), seams=SEAMS), spoilt_set, "val")
    assert (len(index), len(index.unreadable)) == (2, 1)
    check_index(index, spoilt_set, "val")


def test_an_unreadable_image_is_as_if_validation_did_not_have_it(spoilt_set, tmp_path, capsys):
    folder = train(tiny_config(spoilt_set, tmp_path / "runs", "--epochs", "1")).folder
    capsys.readouterr()
    words = ["--weights", str(folder / "weights/last.pt"), "--device", "cpu", "--project", str(tmp_path / "val")]
    found = []
    for _ in range(2):
        assert main(["val", *words, "--workers", "0"]) == 0
        found.append(capsys.readouterr().out)
        (tmp_path / "set/images/val/z.png").unlink(missing_ok=True)
        (tmp_path / "set/labels/val/z.txt").unlink(missing_ok=True)
    tables = [[line for line in out.splitlines() if line.lstrip().startswith(("all ", "cat "))] for out in found]
    assert tables[0] == tables[1] and tables[0]
    assert "images that cannot be read and are left out: 1\n" in found[0] and "z.png" in found[0]
    assert "left out:" not in found[1]
