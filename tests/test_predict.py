"""Laws of prediction: validation's detections, in the order of the inputs, in their own pixels, in any form."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from yolo_lite import load
from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError, DataError, UserError
from yolo_lite.config.load import load_dataset_config
from yolo_lite.config.options import PredictOptions, ValOptions
from yolo_lite.config.run_lock import MARK
from yolo_lite.data.index import index_split
from yolo_lite.data.letterbox import canvas_size
from yolo_lite.data.split import dataset_root
from yolo_lite.deploy import sources
from yolo_lite.deploy.prediction import Outputs, Prediction
from yolo_lite.deploy.predictor import BATCHES_WAITING, Predictor
from yolo_lite.deploy.sources import Frame, count_frames, find_media, is_live
from yolo_lite.deploy.stages import read_ahead
from yolo_lite.engine.checkpoint import load_checkpoint, save_checkpoint
from yolo_lite.engine.tasks import task_of
from yolo_lite.engine.validate import prepare_validation
from yolo_lite.ops.nms import DetectOptions, survivors
from yolo_lite.ops.tiles import Tiles
from yolo_lite.structures import Detections

NAMES = ("red", "green", "blue")


def painted(height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """A black RGB image with boxes (label, left, top, right, bottom) in the full colour of their label."""
    image = np.zeros((height, width, 3), np.uint8)
    for label, left, top, right, bottom in boxes:
        image[top:bottom, left:right, label] = 255
    return image


def detect_colours(images: Tensor, options: DetectOptions) -> list[Detections]:
    """For each colour the box around its pixels, label 0 with the best score."""
    found = []
    for image in images:
        inside = image.flatten(1).amin(0).reshape(image.shape[1:]) != 114  # not the grey border
        rows = []
        for label in range(3):
            y, x = ((image[label] > 127) & inside).nonzero(as_tuple=True)
            rows += [[x.min(), y.min(), x.max() + 1, y.max() + 1, 0.9 - label / 10, label]] if len(x) else []
        table = torch.tensor(rows).reshape(-1, 6)
        found.append(survivors(Detections(table[:, :4], table[:, 4], table[:, 5].long()), options))
    return found


CANVAS = functools.partial(canvas_size, stride=32)
COLOURS = Predictor(NAMES, 64, CANVAS, detect_colours)


def weights_of(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "weights.pt"
    save_checkpoint(path, {key: value for key, value in content.items() if key not in ("format", "yolo_lite")})
    return path


@pytest.fixture(scope="module")
def confident(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run, its objectness raised so that it finds something; fp32 on every processor."""
    content = load_checkpoint(tiny_run / "weights/last.pt")
    content["config"]["hyp"]["precision"] = "fp32"
    for name, value in content["ema"].items():
        if "heads" in name and name.endswith("bias"):
            value.view(3, -1)[:, 4] += 6
    return weights_of(tmp_path_factory.mktemp("confident"), content)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The command line detects colours, in an empty folder."""
    monkeypatch.setattr("yolo_lite.deploy.predictor.load", lambda *_: COLOURS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def names_in(run: Path) -> list[str]:
    """What a run has left, without the mark of its folder."""
    return sorted(path.name for path in run.iterdir() if path.name != MARK)


def predict(*words: str) -> int:
    return main(["predict", "--weights", "any.pt", *words])


# ----------------------------------------------------------------------------------------------- as validation has it


def assert_predicts_what_validation_finds(weights: Path, size: int, batch_size: int) -> None:
    options = ValOptions(weights=weights, imgsz=size, batch_size=batch_size, device="cpu", workers=0)
    evaluation = prepare_validation(options)()
    index, table = evaluation.split.dataset, evaluation.detections
    files = [index.path(position) for position in range(len(index))]
    choice = {"conf": 0.001, "iou": 0.6, "batch_size": batch_size}
    # Networks side by side have fewer threads each, and fp32's sums may end otherwise then.
    found = dataclasses.replace(load(weights, device="cpu", imgsz=size), networks=1).predict(files, **choice)
    assert isinstance(found, list) and sum(map(len, found)) == len(table.score) > 100
    for position, prediction in enumerate(found):
        own = table.image == position
        assert np.array_equal(prediction.xyxy, table.xyxy[own])
        assert np.array_equal(prediction.score, table.score[own])
        assert np.array_equal(prediction.label, table.label[own])


def test_predictions_are_those_of_validation_to_the_bit(confident: Path):
    assert_predicts_what_validation_finds(confident, 96, batch_size=4)


def test_faster_rcnn_predicts_as_it_validates(tiny_data: Path, tmp_path: Path):
    files = ["--cfg", str(REPOSITORY / "cfg/faster_rcnn.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp_faster_rcnn.yaml")]
    small = ["model.rpn_pre_nms=[100, 100]", "model.rpn_post_nms=[50, 50]"]
    config = tiny_config(tiny_data, tmp_path, *files, "--set", *small)
    task = task_of(config.model)
    model = task.build(config.model)
    losses = task.criterion(config.model, config.hyp, np.ones(config.model.nc))
    states = {"ema": model.state_dict(), "losses": losses.state_dict()}
    assert_predicts_what_validation_finds(weights_of(tmp_path, {"config": config.plain(), "epoch": 0, **states}), 64, 4)


# -------------------------------------------------------------------------------------------------- order and batches

SHAPES = [(64, 48), (100, 30), (64, 48), (200, 200), (30, 100), (100, 30), (64, 48), (7, 300)] * 4


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_boxes_come_in_original_pixels_and_in_the_order_of_the_pictures(batch_size: int):
    boxes = [(number % 3, width // 4, height // 4, width, height) for number, (height, width) in enumerate(SHAPES)]
    pictures = [painted(*shape, box) for shape, box in zip(SHAPES, boxes, strict=True)]
    found = COLOURS.predict(pictures, batch_size=batch_size)
    assert isinstance(found, list) and len(found) == len(SHAPES)
    for prediction, picture, (label, *xyxy) in zip(found, pictures, boxes, strict=True):
        assert prediction.image is picture and prediction.label.tolist() == [label]
        pixel = max(picture.shape) / 64  # of the network, in pixels of the picture
        np.testing.assert_allclose(prediction.xyxy[0], xyxy, atol=max(pixel, 1) + 0.01)


def test_a_batch_holds_one_shape_and_few_pictures_wait():
    seen: list[tuple[int, ...]] = []
    pulled = 0

    def detect(images: Tensor, options: DetectOptions) -> list[Detections]:
        seen.append(tuple(images.shape))
        return detect_colours(images, options)

    def frames() -> Iterator[Frame]:
        nonlocal pulled
        for number in range(400):  # one odd shape at the start, which none other joins
            pulled += 1
            yield Frame(painted(64, 64) if number else painted(64, 20))

    most = 0
    for number, _ in enumerate(Predictor(NAMES, 64, CANVAS, detect).run(frames(), DetectOptions(), Tiles(), 4)):
        most = max(most, pulled - number)
    assert most <= BATCHES_WAITING * 4 + 4
    assert all(shape[2:] in ((96, 96), (96, 64)) for shape in seen) and seen.count((4, 3, 96, 96)) >= 99


@pytest.mark.bits
def test_the_same_batch_gives_the_same_bits_and_another_one_agrees_to_rounding(confident: Path):
    pictures = [np.random.default_rng(seed).integers(0, 256, (64, 48, 3), dtype=np.uint8) for seed in range(5)]
    model = load(confident, device="cpu")
    together, again = model.predict(pictures, conf=0.001), model.predict(pictures, conf=0.001)
    assert isinstance(together, list) and isinstance(again, list) and sum(map(len, together)) > 100
    for one, same, picture in zip(together, again, pictures, strict=True):
        assert np.array_equal(one.xyxy, same.xyxy) and np.array_equal(one.score, same.score)
        alone = model.predict(picture, conf=0.001)
        assert not isinstance(alone, list) and len(alone) == len(one)
        # Convolutions of other shapes may add in another order: with AVX-512 scores have differed by 1.6e-5.
        np.testing.assert_allclose(alone.score, one.score, rtol=0, atol=1e-4)


def test_a_live_picture_does_not_wait_for_others():
    pulled: list[int] = []
    frames = (pulled.append(number) or Frame(painted(64, 64)) for number in range(9))  # type: ignore[func-returns-value]
    for number, _ in enumerate(COLOURS.run(frames, DetectOptions(), Tiles(), 1)):
        assert pulled[-1] == number


# ------------------------------------------------------------------------------------------------------ from Python


def test_every_form_of_a_picture_gives_the_same_detections(tmp_path: Path):
    image = painted(50, 80, (0, 8, 4, 30, 30), (2, 40, 10, 76, 46))
    path = write(tmp_path / "a b#ä.PNG", image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = COLOURS.predict(image)
    assert not isinstance(expected, list) and expected.class_names == ["red", "blue"]
    pictures: list[Any] = [path, str(path), image, Image.open(path), tensor, tensor / 255, tensor.half() / 255]
    several = [COLOURS.predict(pictures), COLOURS.predict(torch.stack([tensor, tensor])), COLOURS.predict((image,))]
    assert [len(found) for found in several] == [7, 2, 1]
    for prediction in [*map(COLOURS.predict, pictures), *(one for found in several for one in found)]:
        assert np.array_equal(prediction.xyxy, expected.xyxy) and np.array_equal(prediction.image, image)
    assert COLOURS.predict([]) == []


def test_grey_pictures_have_three_equal_channels(tmp_path: Path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    path = write(tmp_path / "grey.png", grey)
    for picture in (grey, path, Image.open(path)):
        assert np.array_equal(COLOURS.predict(picture).image, np.stack([grey] * 3, axis=2))


def test_a_turned_photograph_is_upright_as_file_and_as_pil_image(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(painted(20, 40)).save(tmp_path / "turned.jpg", exif=exif)
    for picture in (tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg")):
        assert COLOURS.predict(picture).image.shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            np.zeros((4, 4, 3)),
            r"expected pixels uint8 \[H, W, 3\] \(RGB\) or \[H, W\] \(grey\), found float64 \[4, 4, 3\]",
        ),
        (np.zeros((3, 4, 4), np.uint8), r"found uint8 \[3, 4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"found uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"found uint8 \[0, 4, 3\]"),
        (torch.zeros(4, 4, 3), r"expected a tensor \[3, H, W\] \(RGB\), found \[4, 4, 3\]"),
        (torch.zeros(2, 1, 4, 4), r"expected a tensor \[3, H, W\] \(RGB\), found \[1, 4, 4\]"),
        (torch.full((3, 4, 4), 255.0), r"expected floats in 0\.\.1 in a tensor, found 255\.\.255"),
        (torch.full((3, 4, 4), torch.nan), r"expected floats in 0\.\.1 in a tensor, found nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "found int64"),
        (Image.new("F", (4, 4)), "expected a PIL image of 8 bits, found mode F"),
        (7, "expected a path, a numpy array, a PIL image or a tensor, found int"),
        ("nowhere.jpg", "nowhere.jpg: no such image"),
        (["nowhere.jpg"], "nowhere.jpg: no such image"),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, message: str):
    with pytest.raises(DataError, match=message):
        COLOURS.predict(picture)


def test_half_computes_in_16_bits_where_the_device_does_and_is_refused_elsewhere(confident: Path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    for native in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("yolo_lite.engine.device._native_dtype", lambda _, native=native: native)
        assert load(confident, "cpu").detect.args[1].dtype == torch.float32  # as the checkpoint says
        if native == torch.float32:
            with pytest.raises(ConfigError, match="half: 16 bits gain nothing on this cpu, expected a GPU or CPU with"):
                load(confident, "cpu", half=True)
    half, whole = (load(confident, "cpu", half=half).predict(image, conf=0.001) for half in (True, False))
    assert len(half) > 20 and not np.array_equal(half.score[:20], whole.score[:20])
    np.testing.assert_allclose(half.score[:20], whole.score[:20], atol=0.05)
    with pytest.raises(ConfigError, match=r"half: any\.onnx computes as it was exported"):
        load("any.onnx", half=True)


def test_16_bits_are_scaled_as_in_training(confident: Path, tmp_path: Path):
    content = load_checkpoint(confident)
    content["config"]["data"]["bits"] = 12
    predictor = load(weights_of(tmp_path, content), "cpu")
    write(tmp_path / "deep.png", np.array([[0, 2048, 4095, 65535]], np.uint16))
    [found] = predictor.stream(str(tmp_path / "deep.png"))
    assert found.frame.image[0, :, 0].tolist() == predictor.predict(tmp_path / "deep.png").frame.image[0, :, 0].tolist()
    assert found.frame.image[0].tolist() == [[value] * 3 for value in (0, 128, 255, 255)]


def test_a_pil_image_that_is_cut_off_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))
    content = path.read_bytes()
    with pytest.raises(DataError, match="PIL image: not a readable image"):
        COLOURS.predict(Image.open(io.BytesIO(content[: len(content) // 2])))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"conf": 7}, r"conf: expected 0\.\.1, auto, f1, .*, found 7"),
        ({"iou": float("nan")}, r"iou: expected 0\.\.1, found nan"),
        ({"max_det": 0}, "max_det: expected 1 or more, found 0"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, found 0"),
        ({"classes": ["gren"]}, r"classes: unknown name 'gren' \(nearest: 'green'\)"),
    ],
)
def test_an_option_out_of_range_is_refused(choice: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        COLOURS.predict(painted(9, 9), **choice)


def test_a_size_out_of_range_is_refused(confident: Path):
    with pytest.raises(ConfigError, match="imgsz: expected 1 or more, found 0"):
        load(confident, imgsz=0)
    with pytest.raises(UserError, match=r"nowhere\.pt: no such file"):
        load("nowhere.pt")
    for plugin in ("nowhere.py", [Path("nowhere.py")]):
        with pytest.raises(ConfigError, match=r"--plugin nowhere\.py: no such file"):
            load(confident, plugin=plugin)


def test_json_holds_what_was_found():
    prediction = COLOURS.predict(painted(64, 64, (1, 10, 20, 30, 40)))
    plain = json.loads(prediction.to_json())
    assert plain == {
        "file": "",
        "height": 64,
        "width": 64,
        "boxes": [[10.0, 20.0, 30.0, 40.0]],
        "labels": [1],
        "names": ["green"],
        "scores": [0.8],
    }


def test_plot_draws_on_a_copy():
    image = painted(64, 64, (1, 10, 20, 30, 40))
    before, plotted = image.copy(), COLOURS.predict(image).plot()
    assert np.array_equal(image, before) and plotted.shape == image.shape and not np.array_equal(plotted, image)


def test_supervision_gets_the_same_detections():
    supervision = pytest.importorskip("supervision", exc_type=ImportError)
    for picture in (painted(64, 64, (1, 10, 20, 30, 40), (2, 5, 5, 9, 9)), painted(64, 64)):
        prediction = COLOURS.predict(picture)
        converted = prediction.to_supervision()
        assert isinstance(converted, supervision.Detections) and len(converted) == len(prediction)
        assert np.array_equal(converted.xyxy, prediction.xyxy)
        assert converted.class_id.tolist() == prediction.label.tolist()
        assert list(converted["class_name"]) == prediction.class_names


def test_without_supervision_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        COLOURS.predict(painted(64, 64)).to_supervision()


# ---------------------------------------------------------------------------------------------------------- sources


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two folders of images with names that are not easy."""
    for name in ("a/x.png", "b/x.png", "b/x.jpg", "b/deep/#1 ä [2].JPG"):
        write(tmp_path / "set" / name, painted(40, 60, (0, 10, 10, 30, 30)))
    (tmp_path / "set/notes.md").write_text("no picture")
    return tmp_path / "set"


ALL = ["a/x", "b/deep/#1 ä [2]", "b/x.jpg", "b/x.png"]


def stems(*words: str | Path) -> list[str]:
    return [one.stem.as_posix() for one in find_media([str(word) for word in words])]


def test_folders_globs_lists_and_files_name_the_same_pictures(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    (pictures.parent / "list.txt").write_text("\n".join(f"set/{name}" for name in ("a/x.png", "b/x.png")) + "\n\n")
    monkeypatch.chdir(pictures.parent)
    assert stems("set") == ALL
    assert stems("set/*/x.*") == ["a/x", "b/x.jpg", "b/x.png"]
    assert stems("set/**/*.JPG") == ["#1 ä [2]"] == stems("set/b/deep/#1 ä [2].JPG")
    assert stems("list.txt") == ["a/x", "b/x"] == stems(pictures / "a", pictures / "b/x.png", "set/a/x.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "--source nowhere: expected a folder, a list file or a glob pattern, found nothing at nowhere"),
        ("empty", "--source empty: no image or video in it"),
        ("ftp://a/b.mp4", "expected a URL of rtsp, rtmp, udp, http, https, found ftp"),
        ("film.bin", "expected a list of images in film.bin"),
    ],
)
def test_a_source_that_is_nothing_is_refused(
    source: str, message: str, colours: Path, capsys: pytest.CaptureFixture[str]
):
    (colours / "empty").mkdir()
    (colours / "film.bin").write_bytes(bytes(range(256)))
    assert predict("--source", source) == 2
    assert message in capsys.readouterr().err and not (colours / "runs").exists()


def test_inputs_that_cannot_be_read_are_named_and_passed_over(
    pictures: Path, colours: Path, capsys: pytest.CaptureFixture[str]
):
    whole = (pictures / "b/x.jpg").read_bytes()
    (pictures / "a/cut.jpg").write_bytes(whole[:-40])
    (pictures / "a/empty.png").write_bytes(b"")
    (pictures / "b/film.mp4").write_text("no film")
    assert predict("--source", "set", "--save-json") == 0
    said = capsys.readouterr()
    passed = [line for line in said.err.splitlines() if line.startswith("passed over: ")]
    assert [Path(line.split(": ")[1]).name for line in passed] == ["cut.jpg", "empty.png", "film.mp4"]
    assert said.out.splitlines()[0] == "set/a/x.png: 1 red"
    assert "4 images, 4 objects, 3 inputs passed over" in said.out.splitlines()[-1]
    records = json.loads(Path("runs/predict/exp/predictions.json").read_text(encoding="utf-8"))
    assert [record["file"] for record in records] == [f"set/{n}" for n in
        ("a/x.png", "b/deep/#1 ä [2].JPG", "b/x.jpg", "b/x.png")]  # fmt: skip


def test_where_nothing_can_be_read_the_status_is_2_and_nothing_is_left(
    colours: Path, capsys: pytest.CaptureFixture[str]
):
    (colours / "list.txt").write_text("no.jpg\nnor.png\n")
    assert predict("--source", "list.txt") == 2
    said = capsys.readouterr().err
    assert "passed over: no.jpg: no such image" in said and "--source list.txt: not one of 2 inputs can be read" in said
    assert [path.name for path in colours.iterdir()] == ["list.txt"]


def test_more_pictures_than_are_read_ahead_come_in_order(tmp_path: Path):
    media = [sources.Media(str(tmp_path / f"{n}.png"), "image", Path(str(n))) for n in range(30)]
    for number, one in enumerate(media):
        if number % 7:
            write(Path(one.address), painted(8, 8 + number))
    problems: list[DataError] = []
    inputs = ((one.kind, sources.frames_of(one, 3, 255)) for one in media)
    widths = [frame.image.shape[1] - 8 for frame in read_ahead(inputs, 4, problems.append)]
    assert widths == [number for number in range(30) if number % 7] and len(problems) == 5


def test_a_stream_of_predictions_names_its_files_and_raises_unless_told_to_skip(pictures: Path):
    (pictures / "c.jpg").write_bytes(b"no picture")
    problems: list[DataError] = []
    found = COLOURS.stream(str(pictures), skip=problems.append, classes=["red"], batch_size=2)
    assert [Path(one.frame.file).name for one in found] == ["x.png", "#1 ä [2].JPG", "x.jpg", "x.png"]
    assert len(problems) == 1
    with pytest.raises(DataError, match=r"c\.jpg: not a readable image"):
        list(COLOURS.stream(str(pictures)))


# ------------------------------------------------------------------------------------------------------------ files


def test_every_picture_keeps_a_place_of_its_own(pictures: Path, colours: Path):
    assert predict("--source", "set", "--save-txt", "--save-crop") == 0
    run = colours / "runs/predict/exp"
    files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*.*") if path.name != MARK)
    annotated = ["a/x.png", "b/deep/#1 ä [2].JPG", "b/x.jpg", "b/x.png"]
    assert files == sorted(
        [*annotated, *(f"labels/{stem}.txt" for stem in ALL), *(f"crops/red/{stem}_0.jpg" for stem in ALL)]
    )
    for name in annotated:
        drawn, original = (np.asarray(Image.open(folder / name)) for folder in (run, pictures))
        assert drawn.shape == original.shape and not np.array_equal(drawn, original)
    label, *numbers = (run / "labels/a/x.txt").read_text().split()
    assert label == "0" and list(map(float, numbers)) == pytest.approx([20 / 60, 0.5, 20 / 60, 0.5, 0.9], abs=0.02)
    crop = np.asarray(Image.open(run / "crops/red/a/x_0.jpg"))
    assert abs(crop.shape[0] - 20) <= 2 and abs(crop.shape[1] - 20) <= 2 and crop[5:15, 5:15, 0].min() > 200


def test_images_that_differ_in_their_ending_alone_lose_nothing(colours: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a.jpg", "a.png", "a.png.jpg", "sub/a.jpg", "b.jpg"):
        write(colours / "set" / name, painted(40, 60, (0, 10, 10, 30, 30)))
    assert predict("--source", "set", "--save-txt", "--save-json") == 0
    labels = Path("runs/predict/exp/labels")
    found = sorted(path.relative_to(labels).as_posix() for path in labels.rglob("*.txt"))
    assert found == ["a.jpg.txt", "a.png.jpg.txt", "a.png.txt", "b.txt", "sub/a.txt"]
    said = [line for line in capsys.readouterr().err.splitlines() if "keep the ending" in line]
    names = "a.jpg, a.png, a.png.jpg"
    assert said == [f"3 inputs have a name that others have too; their results keep the ending in theirs: {names}"]


def test_two_folders_of_one_name_lose_nothing(colours: Path):
    for name in ("x/set/a.png", "y/set/a.png"):
        write(colours / name, painted(40, 60, (0, 10, 10, 30, 30)))
    assert predict("--source", "x/set", "y/set", "--save-txt", "--no-save") == 0
    labels = Path("runs/predict/exp/labels")
    assert [path.relative_to(labels).as_posix() for path in sorted(labels.rglob("*.txt"))] == [
        "x/set/a.txt",
        "y/set/a.txt",
    ]


FILES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "a.png", "live0", "crops", "red", "000000"]), min_size=1, max_size=3),
        st.sampled_from(["", ".jpg", ".png", ".png.jpg", ".JPG", ".gif", ".gif.jpg", ".mp4", ".avi", ".mp4.avi"]),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(FILES)
def test_no_output_is_that_of_two_inputs(files: list[tuple[list[str], str]]):
    with tempfile.TemporaryDirectory() as top:
        paths: set[str] = set()
        for parts, suffix in files:
            path = Path(top, "set", *parts[:-1], parts[-1] + suffix)
            if not any(other.is_file() for other in path.parents) and not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"\xff\xd8\xff")
                paths.add(str(path))
        media = find_media([*sorted(paths), "0", "1"])
        assert {one.address for one in media} == {*paths, "0", "1"}
        assert {*find_media([*sorted(paths, reverse=True), "0", "1"])} >= {*media[: len(paths)]}  # in any order
        folder, number = Path(top, "run"), 0
        folder.mkdir()
        outputs = [
            Outputs(folder, PredictOptions(weights="w", source=("s",), save_txt=True, save_crop=True, no_save=no))
            for no in (False, True)
        ]
        box, one = np.array([[0.0, 0.0, 4.0, 4.0]]), np.array([0])
        for each in media:
            for count in (None,) if each.kind == "image" else (0, 1):
                frame = Frame(painted(4, 4), each.address, each.stem, each.drawn, count)
                outputs[count is not None].add(Prediction(frame, box, one + 0.5, one, NAMES))
                number += 3 if count is None else 2
        assert sum(path.is_file() for path in folder.rglob("*")) == number


def test_an_image_is_one_whatever_its_suffix(colours: Path, capsys: pytest.CaptureFixture[str]):
    image = Image.fromarray(painted(64, 64, (0, 10, 10, 50, 50)))
    for name, kind in (("a.jfif", "JPEG"), ("b.GIF", "GIF"), ("c.avif", "AVIF"), ("d", "PNG"), ("e.2024", "JPEG")):
        image.save(colours / name, kind)
        assert predict("--source", name, "--exist-ok", "--save-txt") == 0
        assert capsys.readouterr().out.startswith(f"{name}: 1 red")
    run = colours / "runs/predict/exp"
    assert names_in(run) == ["a.jfif", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "labels"]
    assert sorted(path.name for path in (run / "labels").iterdir()) == [f"{name}.txt" for name in "abcde"]
    (colours / "f.svg").touch()
    assert predict("--source", ".") == 0
    counts = "1 without suffix, 1 .2024, 1 .svg: ./d, ./e.2024, ./f.svg"
    assert f"--source .: look like images, but are not read: {counts}\n" in capsys.readouterr().err


def test_classes_are_chosen_by_name_and_runs_are_numbered(colours: Path, capsys: pytest.CaptureFixture[str]):
    write(colours / "a.png", painted(64, 64, (0, 10, 10, 30, 30), (1, 40, 40, 60, 60)))
    assert predict("--source", "a.png") == 0
    assert predict("--source", "a.png", "--classes", "green", "blue", "--no-save", "--save-txt") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.png: 1 red, 1 green" and lines[2] == "a.png: 1 green"
    assert names_in(colours / "runs/predict/exp") == ["a.png"]
    assert names_in(colours / "runs/predict/exp2") == ["labels"]
    assert predict("--source", "a.png", "--no-save") == 0 and not (colours / "runs/predict/exp3").exists()
    assert predict("--source", "a.png", "--classes", "Red", "yellow") == 2
    assert "classes: unknown name 'Red' (nearest: 'red')" in capsys.readouterr().err


@pytest.mark.parametrize(("most", "is_said"), [("1", True), ("2", True), ("3", False)])
def test_images_with_as_many_detections_as_are_allowed_are_counted(most, is_said, colours: Path, capsys):
    write(colours / "a.png", painted(64, 64, (0, 10, 10, 30, 30), (1, 40, 40, 60, 60)))
    write(colours / "b.png", painted(64, 64))
    assert predict("--source", "a.png", "b.png", "--no-save", "--max-det", most) == 0
    said = f"1 images have as many detections as --max-det {most} allows, maybe more"
    assert (said in capsys.readouterr().out.splitlines()) == is_said


def test_a_class_name_cannot_leave_the_folder_of_crops(colours: Path, monkeypatch: pytest.MonkeyPatch):
    model = Predictor(("../up", "..", "traffic light/red"), 64, CANVAS, detect_colours)
    monkeypatch.setattr("yolo_lite.deploy.predictor.load", lambda *_: model)
    write(colours / "a.png", painted(64, 64, (0, 1, 1, 9, 9), (1, 20, 20, 30, 30), (2, 40, 40, 60, 60)))
    assert predict("--source", "a.png", "--no-save", "--save-crop") == 0
    crops = colours / "runs/predict/exp/crops"
    assert sorted(path.relative_to(crops).as_posix() for path in crops.rglob("*.jpg")) == [
        "_/a_1.jpg",
        "_up/a_0.jpg",
        "traffic light_red/a_2.jpg",
    ]


def test_background_is_the_images_with_detections_byte_for_byte_with_empty_labels(colours: Path, capsys):
    """Images without one, and those that have labels, are left out; an empty label file is none."""
    red = painted(64, 96, (0, 8, 8, 24, 24))
    for name in ("images/a/1.png", "images/b/1.png", "images/b/labelled.png", "images/b/xml.png", "images/b/empty.png"):
        write(colours / name, red)
    write(colours / "images/b/coco.png", red)
    (colours / "annotations").mkdir()
    for name, own in {"coco": [{"image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]}], "1": []}.items():
        content = {"images": [{"id": 7, "file_name": f"b/{name}.png"}], "categories": [{"id": 1, "name": "a"}]}
        (colours / f"annotations/{name}.json").write_text(json.dumps({**content, "annotations": own}))
    (colours / "images/notes.json").write_text("[no JSON")
    write(colours / "images/b/nothing.png", painted(64, 96))
    write(colours / "images/b/green.png", painted(64, 96, (1, 8, 8, 24, 24)))
    (colours / "labels/b").mkdir(parents=True)
    (colours / "labels/b/labelled.txt").write_text("0 .5 .5 .1 .1\n")
    (colours / "labels/b/empty.txt").touch()
    (colours / "images/b/xml.xml").write_text("<annotation/>")
    words = ("--source", "images", "--save-background", "new/background", "--no-save", "--classes", "red")
    assert predict(*words) == 0
    assert "3 images with false alarms (3 with labels left out): new/background/images; look" in capsys.readouterr().out
    found = sorted(str(path.relative_to("new/background")) for path in Path("new").rglob("*") if path.is_file())
    names = ("a/1", "b/1", "b/empty")
    assert found == [*(f"images/{name}.png" for name in names), *(f"labels/{name}.txt" for name in names)]
    assert Path("new/background/images/a/1.png").read_bytes() == (colours / "images/a/1.png").read_bytes()
    assert all(Path(f"new/background/labels/{name}.txt").read_bytes() == b"" for name in names)
    assert not Path("runs").exists()
    (colours / "set.yaml").write_text(
        "path: .\ntrain: [images/b/labelled.png, new/background/images]\nval: images\nnames: [a]"
    )
    index = index_split(load_dataset_config("set.yaml"), "set.yaml", "train")
    assert (len(index), index.num_backgrounds, index.num_objects) == (4, 3, 1)
    assert predict(*words) == 2 and "expected a new folder or an empty one" in capsys.readouterr().err
    assert predict("--source", "images", "--save-background", "images/x") == 2
    assert "--save-background images/x: expected a folder outside the dataset" in capsys.readouterr().err


def test_a_checkpoint_predicts_from_the_command_line(confident: Path, tiny_data: Path, tmp_path: Path):
    folder = dataset_root(load_dataset_config(tiny_data), tiny_data) / "images/val"
    words = ["--weights", str(confident), "--source", str(folder), "--device", "cpu", "--project", str(tmp_path)]
    assert main(["predict", *words, "--conf", "0.001", "--save-json"]) == 0
    records = json.loads((tmp_path / "exp/predictions.json").read_text())
    assert len(records) == 8 == len(list((tmp_path / "exp").glob("*.png"))) and sum(len(r["boxes"]) for r in records)


# ------------------------------------------------------------------------------------------------ videos and streams


def make_film(path: Path, num_frames: int = 12, fps: float = 10.0) -> Path:
    """A red square that moves to the right, 4 pixels a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (96, 64))
    if not film.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    for number in range(num_frames):
        film.write(painted(64, 96, (0, 4 * number, 16, 4 * number + 32, 48))[..., ::-1].copy())
    film.release()
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    film, found = cv2.VideoCapture(str(path)), []
    while (read := film.read())[0]:
        found.append(read[1])
    return found


def test_frames_of_a_video_become_background(colours: Path):
    make_film(colours / "in/film.avi", num_frames=3)
    assert predict("--source", "in", "--save-background", "new", "--no-save") == 0
    names = ["film/000000", "film/000001", "film/000002"]
    assert sorted(str(path) for path in Path("new").rglob("*.*")) == [
        *(f"new/images/{name}.jpg" for name in names), *(f"new/labels/{name}.txt" for name in names)
    ]  # fmt: skip
    assert np.asarray(Image.open("new/images/film/000000.jpg")).shape == (64, 96, 3)


def test_a_video_comes_back_with_its_frames_rate_and_boxes(colours: Path, capsys: pytest.CaptureFixture[str]):
    make_film(colours / "films/a.avi")
    make_film(colours / "films/b.avi", num_frames=5)
    write(colours / "films/c.png", painted(64, 64))
    assert count_frames(find_media(["films"])) == 18
    assert predict("--source", "films", "--save-json", "--save-txt", "--batch-size", "4") == 0
    out, run = capsys.readouterr().out.splitlines(), colours / "runs/predict/exp"
    assert out[:3] == [
        "films/a.avi: 12 frames, 12 red",
        "films/b.avi: 5 frames, 5 red",
        "films/c.png: nothing found",
    ]
    records = json.loads((run / "predictions.json").read_text())
    assert [record.get("frame") for record in records] == [*range(12), *range(5), None]
    for record in records[:12]:
        left = 4 * record["frame"]
        np.testing.assert_allclose(record["boxes"][0], [left, 16, left + 32, 48], atol=3)
    assert len(list((run / "labels/a").iterdir())) == 12 and (run / "labels/c.txt").read_text() == ""
    for name, count in (("a", 12), ("b", 5)):
        film = run / f"{name}.mp4"
        drawn = frames_of(film)
        assert len(drawn) == count and drawn[0].shape == (64, 96, 3)
        assert cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FPS) == pytest.approx(10)


class FakeCapture:
    """What OpenCV opens for cameras and streams."""

    opened: list[Any] = []  # noqa: RUF012

    def __init__(self, address: Any) -> None:
        self.opened.append(address)
        self.left = 5 if address in (0, "rtsp://camera/1") else 0

    def get(self, key: int) -> float:
        return 0.0  # cameras often do not tell

    def set(self, key: int, value: float) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, painted(48, 64, (2, 10, 10, 30, 30))[..., ::-1].copy()) if self.left >= 0 else (False, None)

    def release(self) -> None:
        pass


def test_cameras_and_streams_are_opened_as_the_user_named_them(
    colours: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(FakeCapture, "opened", [])
    monkeypatch.setattr("yolo_lite.deploy.sources.cv2.VideoCapture", FakeCapture)
    assert is_live("0") and is_live("http://a/b.mp4") and not is_live("0.jpg") and not is_live("C:/films")
    assert predict("--source", "0", "rtsp://camera/1", "7", "--save-json") == 0
    said = capsys.readouterr()
    assert FakeCapture.opened == [0, "rtsp://camera/1", 7]
    assert "passed over: 7: cannot be opened" in said.err
    assert said.out.splitlines()[:2] == ["0: 5 frames, 5 blue", "rtsp://camera/1: 5 frames, 5 blue"]
    assert len(json.loads((colours / "runs/predict/exp/predictions.json").read_text())) == 10
    (colours / "0").mkdir()
    assert not is_live("0")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_prediction_leaves_whole_files(
    number: signal.Signals, status: int, colours: Path, monkeypatch: pytest.MonkeyPatch
):
    def detect(images: Tensor, options: DetectOptions) -> list[Detections]:
        calls.append(len(images))
        if len(calls) == 3:
            signal.raise_signal(number)
        return detect_colours(images, options)

    calls: list[int] = []
    monkeypatch.setattr("yolo_lite.deploy.predictor.load", lambda *_: Predictor(NAMES, 64, CANVAS, detect))
    make_film(colours / "a.avi", num_frames=40)
    assert predict("--source", "a.avi", "--save-json", "--batch-size", "4") == status
    records = json.loads((colours / "runs/predict/exp/predictions.json").read_text())
    assert 8 <= len(records) <= 12 and len(frames_of(colours / "runs/predict/exp/a.mp4")) == len(records)


def test_a_damaged_video_is_named_and_what_it_holds_is_predicted(colours: Path, capsys: pytest.CaptureFixture[str]):
    film = make_film(colours / "a.avi", num_frames=60)
    content = film.read_bytes()
    film.write_bytes(content[: len(content) // 3])
    assert predict("--source", "a.avi", "--no-save") == 0
    said = capsys.readouterr()
    assert "passed over: a.avi: damaged, " in said.err and "frames, " in said.out


def test_too_little_memory_is_explained(
    colours: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def detect(images: Tensor, options: DetectOptions) -> list[Detections]:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr("yolo_lite.deploy.predictor.load", lambda *_: Predictor(NAMES, 64, CANVAS, detect))
    write(colours / "a.png", painted(9, 9))
    assert predict("--source", "a.png") == 2
    assert capsys.readouterr().err == "error: out of memory with --batch-size 8 at --imgsz 64: try --batch-size 4\n"
