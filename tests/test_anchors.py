"""Laws of anchor fit: the recall is that of target assignment, and the k-means finds what there is to find."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, SHARED, boxes_only
from pydantic import TypeAdapter

from yolo_lite.cli.main import main
from yolo_lite.config.errors import DataError
from yolo_lite.config.load import load_dataset_config, load_model_config
from yolo_lite.config.model import Anchors, ModelConfig
from yolo_lite.data.doubts import best_ratios, doubts_of_sizes, training_sizes, unmatched
from yolo_lite.data.index import DatasetIndex, index_split
from yolo_lite.loss.assigners import build_targets
from yolo_lite.ops.grid import make_grid
from yolo_lite.structures import Objects
from yolo_lite.tools.anchors import fit_anchors, model_anchors

FILES = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]


def anchors_of_yolo_n() -> np.ndarray:
    config = load_model_config(REPOSITORY / "cfg/yolo_n.yaml")
    assert isinstance(config, ModelConfig)
    return model_anchors(config)


def test_the_ratio_is_that_of_the_side_that_fits_worst_to_the_anchor_that_fits_best():
    size, anchors = np.array([[10.0, 40], [20, 20], [5, 5]]), np.array([[10.0, 10], [20, 30]])
    np.testing.assert_allclose(best_ratios(size, anchors), [2, 1.5, 2])


@pytest.mark.parametrize("anchor_t", [1.3, 2.0, 4.0])
def test_an_object_is_learnt_where_its_ratio_is_below_anchor_t(anchor_t: float):
    anchors = anchors_of_yolo_n()
    size = np.exp(np.random.default_rng(0).uniform(np.log(2), np.log(600), (400, 2)))
    size[:4] = (10 * anchor_t, 13), (10, 13 * anchor_t), (10 / anchor_t, 13), (10, 13)  # at the edge, and on an anchor
    size = size.astype(np.float32).astype(np.float64)
    grid = make_grid(torch.tensor(anchors, dtype=torch.float32), (8, 16, 32), 640, 640)
    box = torch.tensor(np.concatenate((np.full((400, 2), 300.3), size), axis=1), dtype=torch.float32)
    alone = torch.arange(400)  # every object in a picture of its own
    learnt = build_targets(Objects(alone, torch.zeros(400, dtype=torch.int64), box), grid, anchor_t).target.unique()
    inside = best_ratios(size, anchors.reshape(-1, 2)) < anchor_t * (1 - 1e-6)
    outside = best_ratios(size, anchors.reshape(-1, 2)) >= anchor_t * (1 + 1e-6)
    assert set(np.flatnonzero(inside)) <= set(learnt.tolist()) <= set(np.flatnonzero(~outside))
    assert 0 < inside.sum() < 400


def test_sizes_are_those_of_the_scaled_picture_without_crowds():
    xyxy = np.array([[0.0, 0, 50, 20], [10, 10, 20, 30], [0, 0, 9, 9], [0, 0, 30, 10]])
    index = DatasetIndex(
        names=("a",),
        paths=np.array([b"a", b"b", b"c"]),
        size=np.array([[100, 200], [10, 10], [10, 333]]),
        first=np.array([0, 3, 3, 4]),
        label=np.zeros(4, np.int64),
        **{**boxes_only(xyxy), "crowd": np.array([False, False, True, False])},
        image_id=np.arange(3),
        category_id=np.arange(1),
        problems=(),
    )
    np.testing.assert_allclose(
        training_sizes(index, 640), [[160, 64], [32, 64], [30 * 640 / 333, 19]]
    )  # 19.2 rows are 19


def test_clusters_are_found_whatever_the_seed():
    rng = np.random.default_rng(3)
    centres = np.array([[8.0, 8], [9, 40], [40, 9], [60, 60], [200, 90], [90, 210], [300, 300]])
    size = (centres[:, None] * np.exp(rng.normal(0, 0.03, (7, 50, 2)))).reshape(-1, 2)
    for seed in range(3):
        found = fit_anchors(size, 7, 4.0, seed)
        assert (np.diff(found.prod(axis=1)) >= 0).all()
        np.testing.assert_allclose(found[found[:, 0].argsort()], centres[centres[:, 0].argsort()], rtol=0.05)
    np.testing.assert_array_equal(fit_anchors(size, 5, 4.0), fit_anchors(size, 5, 4.0))


def test_fewer_sizes_than_anchors_are_an_error():
    with pytest.raises(DataError, match="at least 9 different sizes, found 2"):
        fit_anchors(np.array([[5.0, 5], [7, 7]] * 20), 9, 4.0)


@pytest.mark.parametrize(("name", "longest"), [("bccd", 320), ("raccoon", 640), ("coco128", 640)])
def test_fitted_anchors_lie_nearer_than_those_of_the_model(name: str, longest: int):
    data = SHARED / "data" / name / "data.yaml"
    if not data.exists():
        pytest.skip(f"{data} is not there")
    size = training_sizes(index_split(load_dataset_config(data), data, "train"), longest)
    old, new = anchors_of_yolo_n().reshape(-1, 2), fit_anchors(size, 9, 4.0)
    assert best_ratios(size, new).mean() < best_ratios(size, old).mean()
    assert (best_ratios(size, new) < 4).mean() >= (best_ratios(size, old) < 4).mean()


def test_the_command_prints_lines_for_the_yaml_and_changes_nothing(
    tiny_data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["anchors", "--data", str(tiny_data), *FILES, "--imgsz", "64"]) == 0
    said = capsys.readouterr().out
    lines = "".join(re.findall(r"^anchors:\n|^  - \[.*\n", said, re.MULTILINE))
    config = load_model_config(REPOSITORY / "cfg/yolo_n.yaml")
    changed = config.model_copy(
        update={"anchors": TypeAdapter(Anchors).validate_python(yaml.safe_load(lines)["anchors"])}
    )
    data = load_dataset_config(tiny_data)
    size = training_sizes(index_split(data, tiny_data, "train"), 64)
    for word, anchors in (("current", anchors_of_yolo_n()), ("fitted", model_anchors(changed))):
        ratios = best_ratios(size, anchors.reshape(-1, 2))
        assert f"{word:<8}{(ratios < 4).mean():>8.4f}{ratios.mean():>12.3f}\n" in said
    assert "nothing was changed" in said and not list(tmp_path.iterdir())
    assert (np.diff(model_anchors(changed).prod(axis=2).ravel()) >= 0).all()


def test_models_without_stated_anchors_are_served_too(tiny_data: Path, capsys: pytest.CaptureFixture[str]):
    words = ["anchors", "--data", str(tiny_data), "--hyp", FILES[3], "--imgsz", "64"]
    assert main([*words, "--cfg", FILES[1], "--set", "model.anchors=2"]) == 0
    assert capsys.readouterr().out.count("  - [") == 3
    assert main([*words, "--cfg", str(REPOSITORY / "cfg/faster_rcnn.yaml")]) == 2
    assert "expected a YOLO with anchors" in capsys.readouterr().err


def test_objects_that_no_anchor_fits_are_said_where_they_are_many(tiny_data: Path) -> None:
    index = index_split(load_dataset_config(tiny_data), tiny_data, "train")
    sizes = training_sizes(index, 64)
    said = unmatched(sizes, 64, np.array([[0.1, 0.1]]), 4.0)
    assert said.startswith(f"{index.num_objects} of {index.num_objects} objects teach no anchor") and "at 64 px" in said
    assert unmatched(sizes, 64, sizes, 4.0) == "" and doubts_of_sizes(index, 64, None, 4.0) == []
    assert doubts_of_sizes(index, 64, np.array([[0.1, 0.1]]), 4.0) == [said]
