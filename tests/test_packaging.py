"""YAML files are found by name from any folder, and a wheel carries them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import yolo_lite
from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError
from yolo_lite.config.find import Kind, find_yaml, own_yamls
from yolo_lite.config.load import load_dataset_config, load_hyp, load_model_config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_yaml_of_the_repository_has_a_name():
    sizes = [f"yolo_{size}{kind}" for size in "lmnsx" for kind in ("", "_free")]
    masks = ["yolo_n_seg", "yolo_n_seg_free", "yolo_s_seg"]
    backbones = [f"yolo_{name}" for name in ("convnext", "mobilenet", "mobilenet_free", "mobilenet_v3", "resnet18")]
    assert [*own_yamls("model")] == ["faster_rcnn", *sorted([*sizes, *masks, *backbones])]
    assert [*own_yamls("hyp")] == ["hyp", "hyp_faster_rcnn", "hyp_finetune"]
    assert [*own_yamls("data")] == ["coco", "coco128", "shapes", "shapes_holes", "voc"]
    found = {path for kind in ("model", "hyp", "data") for path in own_yamls(kind).values()}
    assert found == {*(REPOSITORY / "cfg").glob("*.yaml"), *(REPOSITORY / "data").glob("*.yaml")}


@pytest.mark.parametrize(
    ("given", "kind", "file"),
    [
        ("yolo_n", "model", "cfg/yolo_n.yaml"),
        ("yolo_n.yaml", "model", "cfg/yolo_n.yaml"),
        ("cfg/yolo_n.yaml", "model", "cfg/yolo_n.yaml"),
        (Path("./cfg/yolo_n.yml"), "model", "cfg/yolo_n.yaml"),
        ("hyp_faster_rcnn", "hyp", "cfg/hyp_faster_rcnn.yaml"),
        ("cfg/hyp.yaml", "hyp", "cfg/hyp.yaml"),
        ("shapes", "data", "data/shapes.yaml"),
        ("data/shapes.yaml", "data", "data/shapes.yaml"),
    ],
)
def test_a_name_means_the_same_file_in_every_folder(given: str | Path, kind: Kind, file: str, here: Path):
    assert find_yaml(given, kind) == REPOSITORY / file


def test_the_working_folder_comes_first(here: Path):
    for name in ("cfg/yolo_n.yaml", "yolo_n.yaml", "yolo_n"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
        assert find_yaml("yolo_n", "model") == Path(name)
    assert find_yaml("cfg/yolo_n.yaml", "model") == Path("cfg/yolo_n.yaml")
    (here / "shapes").mkdir()  # a folder is no dataset YAML
    assert find_yaml("shapes", "data") == REPOSITORY / "data/shapes.yaml"


@pytest.mark.parametrize("given", ["models/yolo_n.yaml", "data/yolo_n.yaml", "/cfg/yolo_n.yaml", "hyp", "yolo_nn.yaml"])
def test_another_path_is_no_name_and_the_error_lists_the_names(given: str, here: Path):
    with pytest.raises(ConfigError, match=rf"^{given}: no such file \(looked in .*\); yolo_lite brings faster_rcnn, "):
        find_yaml(given, "model")


def test_a_misspelt_name_is_answered_with_the_names_and_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check", "--data", "coco182"]) == 2
    looked = f"error: coco182: no such file (looked in {here})"
    assert (
        capsys.readouterr().err
        == f"{looked}; yolo_lite brings coco, coco128, shapes, shapes_holes, voc (nearest: 'coco128')\n"
    )


def test_the_loaders_know_the_names(here: Path):
    assert load_model_config("yolo_n").depth_multiple == 0.33
    assert load_hyp("hyp").lr0 > 0
    assert load_dataset_config("shapes").generate
    # In a checkout a relative path starts at the YAML file, wherever the command runs.
    assert load_dataset_config("coco128").path == "../datasets/coco128"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"yolo-lite {yolo_lite.__version__}\n"


def test_a_wheel_carries_the_yamls_and_reads_their_paths_from_the_working_folder(here: Path):
    pytest.importorskip("setuptools", minversion="77")
    for name in ("yolo_lite", "cfg", "data"):
        shutil.copytree(REPOSITORY / name, here / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, here / "source")
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(here / "built")]
    subprocess.run(build, cwd=here / "source", check=True, capture_output=True)
    package = here / "built/yolo_lite"
    for kind in ("model", "hyp", "data"):
        for path in own_yamls(kind).values():
            assert (package / path.relative_to(REPOSITORY)).read_bytes() == path.read_bytes()
    assert (package / "py.typed").exists()
    code = (
        "from yolo_lite.config.find import find_yaml; from yolo_lite.config.load import load_dataset_config as load\n"
        "print(find_yaml('yolo_n', 'model'), load('coco128').path, load('shapes').path, sep='\\n')\n"
    )
    (here / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(here / "built")}
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, cwd=here / "empty", env=environment, check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [f"{package}/cfg/yolo_n.yaml", f"{here}/empty/datasets/coco128", "."]
