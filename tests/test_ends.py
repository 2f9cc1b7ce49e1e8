"""Laws of how commands end: by what nobody foresaw, without a terminal, on a full disk, by the end of a pipe."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from test_cli import here as here
from test_cli import place as place
from test_cli import train_words

from yolo_lite.cli import failure
from yolo_lite.cli.main import main
from yolo_lite.cli.streams import Guarded
from yolo_lite.config.errors import StoppedError, UserError
from yolo_lite.data.shapes import cache_folder
from yolo_lite.engine.stop import ask_to_stop, stop_requests


def ended_by(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def fails(options: object) -> None:
        raise error

    monkeypatch.setattr("yolo_lite.cli.losses.run", fails)
    return main(["losses"]), capsys.readouterr().err


def test_what_nobody_foresaw_is_said_in_a_few_lines_with_the_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, said = ended_by(KeyError("no such\nthing" + "!" * 5000), monkeypatch, capsys)
    (file,) = tmp_path.iterdir()
    first, second, third = said.splitlines()
    assert status == 1 and first.startswith("error: KeyError: ") and "(5,0" in first and len(first) < 1100
    assert second.startswith("  in ") and second.endswith("(fails)")
    assert str(file) in third and "report" in third and file.read_text().startswith("Traceback")


def test_the_traceback_is_printed_where_it_is_asked_for_or_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert f"{failure.VARIABLE}=1 prints it" in ended_by(KeyError("x"), monkeypatch, capsys)[1]
    monkeypatch.setenv(failure.VARIABLE, "1")
    assert "Traceback (most recent call last)" in ended_by(KeyError("x"), monkeypatch, capsys)[1]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (MemoryError(), 2, "error: out of memory; try a smaller --batch-size or --imgsz"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device"),
        (OSError(errno.EACCES, "Permission denied", "a\x1b"), 2, "error: a\\x1b: Permission denied"),
        (OSError(errno.EINVAL, "Invalid argument"), 1, "error: OSError: [Errno 22] Invalid argument"),
        (RecursionError("maximum"), 1, "error: RecursionError: something is nested too deeply (maximum)"),
        (UserError("a" * 3000), 2, "error: " + "a" * 750 + " ... (3,000 letters) ... " + "a" * 200),
        (
            RuntimeError("Caught KeyError in worker.\nTraceback\n  x\nKeyError: 3"),
            1,
            "error: RuntimeError: KeyError: 3",
        ),
    ],
)
def test_what_the_machine_lacks_ends_with_status_2_and_what_we_did_wrong_with_1(
    error: Exception,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    found, said = ended_by(error, monkeypatch, capsys)
    assert found == status and said.startswith(line)


IT = "the last.pt it left"


def test_a_run_that_fails_says_where_it_stands(tmp_path: Path):
    with pytest.raises(KeyError) as nothing_yet, stop_requests(tmp_path):
        raise KeyError
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/last.pt").touch()
    with pytest.raises(KeyError) as failed, stop_requests(tmp_path):
        raise KeyError
    with pytest.raises(StoppedError) as stopped, stop_requests(tmp_path):  # which says so itself
        raise StoppedError(15)
    notes = [getattr(one.value, "__notes__", []) for one in (nothing_yet, failed, stopped)]
    assert notes == [[], [f"go on with --resume {tmp_path / 'weights/last.pt'}"], []]
    assert failure.end_of(failed.value)[0][2] == notes[1][0]
    with pytest.raises(KeyError) as moved, stop_requests(tmp_path):
        tmp_path.rename(tmp_path.with_name("other"))
        raise KeyError
    assert moved.value.__notes__ == [
        f"{tmp_path} was moved or removed while the run went on: --resume goes on with {IT}"
    ]


# ------------------------------------------------------------------------------------------------------- the streams


class Failing:
    """A stream whose writes fail from the second one on."""

    def __init__(self, error: OSError) -> None:
        self.error, self.written = error, list[str]()

    def write(self, text: str) -> int:
        if self.written:
            raise self.error
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        pass


def test_a_stream_that_fails_leads_nowhere_from_then_on_and_the_other_one_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stream = Guarded(Failing(OSError(errno.EIO, "Input/output error")))
    stream.goes_on = True
    monkeypatch.setattr(sys, "stdout", stream)
    for word in "abc":
        print(word, end="")
    assert stream.written == ["a"] and stream.is_lost
    assert capsys.readouterr().err == "warning: output is lost from here on: Input/output error; the run goes on\n"


def test_a_stream_that_fails_ends_a_command_that_has_nothing_but_its_output():
    stream = Guarded(Failing(OSError(errno.ENOSPC, "No space left on device")))
    stream.write("a")
    with pytest.raises(OSError, match="No space left"):
        stream.write("b")


def test_a_reader_that_has_ended_stops_a_run_and_ends_any_other_command():
    stream = Guarded(Failing(BrokenPipeError()))
    stream.write("a")
    with stop_requests() as request:
        stream.write("b")
        assert request.number == signal.SIGPIPE
    other = Guarded(Failing(BrokenPipeError()))
    other.write("a")
    with pytest.raises(BrokenPipeError):
        other.write("b")
    assert not ask_to_stop(signal.SIGPIPE)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_hangup_stops_a_run_unless_it_is_ignored(handler: Any):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.number == (0 if handler == signal.SIG_IGN else signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def started(words: list[str], here: Path, **streams: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    del environment["TQDM_DISABLE"]
    return subprocess.Popen([sys.executable, "-m", "yolo_lite", *words], env=environment, cwd=here, **streams)


@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_training_goes_on_where_its_log_is_on_a_full_disk_and_other_commands_say_so(place: Path, here: Path):
    with open("/dev/full", "wb") as full:
        train = started(["train", *train_words(place)], here, stdout=full, stderr=full)
        losses = started(["losses"], here, stdout=full, stderr=subprocess.PIPE)
        assert losses.communicate(timeout=60)[1] == b"error: No space left on device\n" and losses.returncode == 2
        assert train.wait(timeout=60) == 0 and (here / "runs/train/exp/weights/best.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("is_ignored", [True, False])
def test_a_training_whose_terminal_is_closed_goes_on_under_nohup_and_else_saves_and_stops(
    is_ignored: bool, place: Path, here: Path
):
    pty = pytest.importorskip("pty")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    main_end, terminal = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    epochs = "3" if is_ignored else "2000"
    words = train_words(place, "--epochs", epochs, "--workers", "1")
    process = started(["train", *words], here, preexec_fn=own_terminal, **streams)
    os.close(terminal)
    said, end = b"", time.monotonic() + 60
    while b"everything goes to" not in said and time.monotonic() < end:
        said += os.read(main_end, 4096)
    os.close(main_end)
    assert process.wait(timeout=60) == (0 if is_ignored else 128 + signal.SIGHUP)
    assert (here / "runs/train/exp/weights/last.pt").exists()


@pytest.mark.processes
def test_a_training_whose_reader_has_ended_saves_and_stops_with_one_line(place: Path, here: Path):
    words = train_words(place, "--epochs", "2000")
    process = started(["train", *words], here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    while b"everything goes to" not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    said = process.stderr.read().decode().rpartition("\r")[2].strip().splitlines()[-1]
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert said.startswith("stopped by SIGPIPE in epoch") and said.endswith("weights/last.pt")


@pytest.mark.slow
def test_closed_streams_do_not_hinder_a_training(place: Path, here: Path):
    command = [sys.executable, "-m", "yolo_lite", "train", *train_words(place)]
    code = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=here, env=environment, check=False)
    assert done.returncode == 0


def test_without_a_home_the_cache_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    for name in ("HOME", "XDG_CACHE_HOME", "YOLO_LITE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(UserError, match="no home folder is known for the cache: set YOLO_LITE_CACHE"):
        cache_folder()
    monkeypatch.setenv("YOLO_LITE_CACHE", "~nosuchuser/x")
    assert cache_folder() == Path("~nosuchuser/x")
