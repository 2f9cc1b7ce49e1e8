"""A full disk and a read-only folder end a run with one clear line, and nothing older is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import equal_states, tiny_config

from yolo_lite.cli.main import train_main
from yolo_lite.config.run_lock import folders_released
from yolo_lite.engine.checkpoint import load_checkpoint
from yolo_lite.engine.train import train


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 50 MiB: room for best.pt and last.pt of yolo_n, not for a second last.pt beside them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resumed(last: Path) -> int:
    return train_main(["--resume", str(last)])


def test_a_full_disk_leaves_the_older_checkpoint_whole(small_disk: Path, tiny_data: Path, monkeypatch, capsys):
    config = tiny_config(tiny_data, small_disk, "--epochs", "3")
    monkeypatch.setattr("yolo_lite.engine.resolve.run_config", lambda _: config)
    assert train_main([]) == 2
    said = capsys.readouterr().err
    assert "weights/last.pt: cannot be written: No space left on device; the older file is untouched" in said
    last = small_disk / "exp/weights/last.pt"
    assert load_checkpoint(last)["epoch"] == 1
    assert not list(small_disk.rglob("*.tmp"))

    # With room again the run goes on to what it would have been.
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert resumed(last) == 0
    whole = train(tiny_config(tiny_data, small_disk / "whole", "--epochs", "3")).folder
    assert equal_states(load_checkpoint(last)["model"], load_checkpoint(whole / "weights/last.pt")["model"])


def test_a_run_in_a_read_only_folder_says_so(small_disk: Path, tiny_data: Path, capsys):
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    with folders_released():  # the lock of a folder keeps its file open
        last = train(tiny_config(tiny_data, small_disk, "--epochs", "1")).folder / "weights/last.pt"
    before = last.read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    assert train_main(["--resume", str(last), "--epochs", "2"]) == 2
    assert "Read-only file system" in capsys.readouterr().err
    assert last.read_bytes() == before
