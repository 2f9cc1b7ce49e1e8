"""``yolo-lite show``: the images are those that a run would see, and nothing is overwritten."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, tiny_config

from yolo_lite.cli.main import main
from yolo_lite.config.load import load_dataset_config, load_hyp
from yolo_lite.data.dataset import TrainingSet
from yolo_lite.data.index import index_split
from yolo_lite.data.loader import training_loader
from yolo_lite.data.store import ImageStore
from yolo_lite.engine.sheets import training_sheet

HYP = str(REPOSITORY / "cfg/hyp.yaml")


def show(data: Path, project: Path, *words: str) -> int:
    return main(["show", "--data", str(data), "--hyp", HYP, "--imgsz", "64", "--project", str(project), *words])


def test_the_first_pictures_of_a_run_are_shown(tiny_data, tmp_path, capsys):
    """Batches of a run with the same seed, whatever its batch size: 20 images are two sheets of 8 and one of 4."""
    assert show(tiny_data, tmp_path, "--seed", "5", "--batches", "4") == 0
    assert "exp: batch_1.png to batch_4.png" in capsys.readouterr().out
    config = tiny_config(tiny_data, tmp_path)
    index = index_split(config.data, config.data_file, "train")
    dataset = TrainingSet(index, ImageStore(index, 64, "off", False), 64, load_hyp(HYP), 5, 2)
    batches = list(training_loader(dataset, 8, 0, range(2), False))
    for number, batch in enumerate(batches[:4], 1):
        sheet = cv2.imread(str(tmp_path / f"exp/batch_{number}.png"))
        np.testing.assert_array_equal(sheet[..., ::-1], training_sheet(batch, index.names))


def test_nothing_is_overwritten(tiny_data, tmp_path):
    for _ in range(2):
        assert show(tiny_data, tmp_path, "--batches", "1") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exp", "exp2"]
    first, second = (tmp_path / name / "batch_1.png" for name in ("exp", "exp2"))
    assert first.read_bytes() == second.read_bytes()


def test_keys_and_plugins_change_what_is_shown(tiny_data, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("AUGMENTATIONS = {'dark': lambda image, label, xyxy, rng: (image // 4, label, xyxy)}\n")
    plain = ("--batches", "1", "--set", "copy_paste=0.9", "erasing=0.5", "mosaic=0")
    assert show(tiny_data, tmp_path, "--name", "plain", *plain) == 0
    assert show(tiny_data, tmp_path, "--name", "dark", *plain, "augmentations=[dark]", "--plugin", str(plugin)) == 0
    light, dark = (cv2.imread(str(tmp_path / name / "batch_1.png")) for name in ("plain", "dark"))
    assert dark.mean() < 0.6 * light.mean()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "erasing=2"], "--set erasing=2: expected 1 or less, found 2"),
        (["--set", "earsing=0.2"], "unknown key 'earsing' (nearest: 'erasing')"),
        (["--set", "augmentations=[dark]"], "unknown name 'dark' (choices: hsv, flipud, "),
        (["--batches", "0"], "--batches: expected 1 or more, found 0"),
        (["--imgsz", "8"], "--imgsz: expected 32 or more, found 8"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_no_folder(tiny_data, tmp_path, capsys, words, message):
    assert show(tiny_data, tmp_path / "runs", *words) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_grey_pictures_are_shown_grey(tiny_data, tmp_path):
    words = ("--batches", "1", "--set", "data.channels=1", "mosaic=0")
    assert show(tiny_data, tmp_path, *words) == 0
    data = load_dataset_config(str(tiny_data), ["data.channels=1"])
    assert index_split(data, str(tiny_data), "train").channels == 1
    sheet = cv2.imread(str(tmp_path / "exp/batch_1.png")).astype(int)
    assert (np.ptp(sheet, axis=2) == 0).mean() > 0.7  # all but boxes and tags
