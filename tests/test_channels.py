"""The dataset's key ``channels``: loader, model, checkpoint and validation follow it."""

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, tiny_config, with_figures
from PIL import Image

from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError
from yolo_lite.deploy.predictor import load
from yolo_lite.engine.batch_size import random_batch
from yolo_lite.engine.checkpoint import config_of, load_checkpoint
from yolo_lite.engine.device import choose_compute
from yolo_lite.engine.train import train


@pytest.fixture(scope="module")
def grey_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on one channel."""
    words = ["--set", "data.channels=1", "model.width_multiple=0.125", "--epochs", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        return train(with_figures(tiny_config(tiny_data, tmp_path_factory.mktemp("grey"), *words))).folder


def test_the_first_convolution_reads_the_datasets_channels(grey_run):
    content = load_checkpoint(grey_run / "weights/last.pt")
    config = config_of(content, "last.pt")
    assert config.model.ch == config.data.channels == 1
    assert content["ema"]["layers.0.conv.weight"].shape[1] == 1
    figures = {path.name for path in grey_run.glob("*.jpg")}
    assert figures >= {"train_batch.jpg", "assigned_anchors.jpg", "val_predictions.jpg"}


def test_validation_reads_the_channels_of_the_checkpoint(grey_run, tiny_data, tmp_path, capsys):
    weights = ["--weights", str(grey_run / "weights/best.pt"), "--device", "cpu", "--project", str(tmp_path)]
    assert main(["val", *weights]) == 0
    capsys.readouterr()
    assert main(["val", *weights, "--data", str(tiny_data)]) == 2
    assert "channels: expected 1 as" in capsys.readouterr().err


def test_prediction_reads_the_channels_of_the_checkpoint(grey_run, tiny_data, tmp_path):
    predictor = load(grey_run / "weights/best.pt", "cpu")
    path = tmp_path / "colour.png"
    colour = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), colour[..., ::-1])
    grey = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    pictures = [colour, grey, grey[..., None], torch.from_numpy(grey)[None], torch.from_numpy(colour).permute(2, 0, 1)]
    found = predictor.predict([*pictures, Image.fromarray(colour), str(path)], conf=0.0)
    for prediction in found:
        np.testing.assert_allclose(prediction.score, found[0].score, atol=0.02)
        assert prediction.frame.image.shape == (48, 64, 1) and prediction.plot().shape == (48, 64, 3)
    assert len(list(predictor.stream(str(path)))) == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_a_model_yaml_may_not_say_another_number(tiny_data, tmp_path, channels):
    words = ("--set", f"data.channels={channels}")
    with pytest.raises(ConfigError, match=rf"yolo_n.yaml: ch: expected {channels}, the dataset's channels, found 3"):
        tiny_config(tiny_data, tmp_path, *words, "model.ch=3")
    assert tiny_config(tiny_data, tmp_path, *words, f"model.ch={channels}").model.ch == channels
    assert tiny_config(tiny_data, tmp_path, *words).model.ch == channels


def test_faster_rcnn_reads_three_channels_alone(tiny_data, tmp_path):
    words = ("--cfg", str(REPOSITORY / "cfg/faster_rcnn.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp_faster_rcnn.yaml"))
    assert tiny_config(tiny_data, tmp_path, *words)
    with pytest.raises(ConfigError, match="Faster R-CNN reads 3 channels, the dataset has 4"):
        tiny_config(tiny_data, tmp_path, *words, "--set", "data.channels=4")


def test_the_trial_batch_has_the_datasets_channels():
    batch = random_batch(2, 64, 5, choose_compute("cpu", "fp32", True))
    assert batch.images.shape == (2, 5, 64, 64) and isinstance(batch.images, torch.Tensor)
