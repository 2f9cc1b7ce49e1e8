"""Comparisons of variants: the statistics, what is trained, what is read again, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from scipy import stats

import yolo_lite.engine.train as train_module
import yolo_lite.tools.compare as compare_module
from yolo_lite.cli.compare import read_variant, split_at_commas, variant_run
from yolo_lite.cli.main import main
from yolo_lite.config.errors import DataError
from yolo_lite.config.options import CompareOptions
from yolo_lite.config.run import RunConfig
from yolo_lite.config.yaml_file import read_yaml
from yolo_lite.loss import BOX_LOSSES, CLS_LOSSES, MASK_LOSSES
from yolo_lite.loss.assigners import ASSIGNERS
from yolo_lite.report.comparison import VariantRow, comparison_image, comparison_table
from yolo_lite.tools.compare import (
    Outcome,
    Run,
    _write,
    compare,
    mean_and_deviation,
    paired_difference,
    summarise,
    variant_folder,
)


def outcome(map50_95: float, seconds: float | None = 10.0) -> Outcome:
    metrics = {"metrics/mAP50-95": map50_95, "metrics/mAP75": map50_95 / 2, "metrics/mAP50": map50_95 * 1.5}
    return Outcome(metrics, seconds, None)


def words(data: Path, *more: str) -> list[str]:
    files = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
    sizes = ["--data", str(data), "--epochs", "2", "--batch-size", "10", "--imgsz", "32", "--workers", "0"]
    return [*files, *sizes, "--device", "cpu", *more]


# ---------------------------------------------------------------------------------------------------- statistics


def test_paired_difference_hand_worked():
    # Differences 1, 2, 3: mean 2, deviation 1; t(0.975, 2) = 4.3027; half the interval 4.3027 / sqrt(3)
    mean, half_width = paired_difference([2.0, 4, 6], [1.0, 2, 3], 0.95)
    assert mean == pytest.approx(2) and half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_paired_difference_is_that_of_scipy(count):
    own, others = np.random.default_rng(count).normal(0.5, 0.02, (2, count))
    mean, half_width = paired_difference(own.tolist(), others.tolist(), 0.95)
    low, high = stats.ttest_rel(own, others).confidence_interval(0.95)
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_deviation_is_that_of_a_sample_and_a_single_value_has_none():
    assert mean_and_deviation([1.0, 3.0]) == pytest.approx((2.0, math.sqrt(2)))
    assert mean_and_deviation([0.4]) == (0.4, None)


def test_verdicts_tell_noise_from_difference():
    first = [outcome(0.500), outcome(0.510), outcome(0.520)]
    rows = summarise(
        {
            "first": first,
            "always .1 more": [outcome(0.600), outcome(0.611), outcome(0.619)],
            "always .1 less": [outcome(0.400), outcome(0.411), outcome(0.419)],
            "now more, now less": [outcome(0.530), outcome(0.500), outcome(0.510)],
            "broken": [outcome(0.6), Outcome({}, None, "not finite"), outcome(0.6)],
        }
    )
    assert [row.verdict for row in rows] == ["-", "better", "worse", "noise", "failed"]
    assert rows[0].difference is None and rows[1].difference == pytest.approx(0.1)
    (one,) = summarise({"first": first[:1], "second": [outcome(0.9)]})[1:]
    assert one.verdict == "one seed tells nothing" and one.half_width is None


def test_the_more_variants_the_wider_the_intervals():
    # Differences of 0 and 0.02: half the 95 % interval of two pairs is t(0.975, 1) * 0.01 = 0.12706
    first, other = [outcome(0.5), outcome(0.5)], [outcome(0.5), outcome(0.52)]
    assert summarise({"first": first, "a": other})[1].half_width == pytest.approx(0.12706, abs=1e-5)
    many = summarise({"first": first, **{str(number): other for number in range(5)}})
    assert many[1].half_width == pytest.approx(stats.t.ppf(1 - 0.05 / 5 / 2, df=1) * 0.01)


def test_where_the_first_variant_failed_the_others_are_not_blamed():
    rows = summarise({"first": [Outcome({}, None, "not finite")] * 2, "second": [outcome(0.5), outcome(0.6)]})
    assert [row.verdict for row in rows] == ["failed", "the first variant failed"]


def test_pairs_are_made_by_seed():
    # The seeds differ far more than the variants: without pairs the difference would drown.
    rows = summarise({"a": [outcome(0.1), outcome(0.9)], "b": [outcome(0.11), outcome(0.9101)]})
    assert rows[1].verdict == "better"


def test_masks_are_compared_beside_boxes(tmp_path: Path):
    def both(boxes: float, masks: float) -> Outcome:
        own = outcome(boxes).metrics
        return Outcome({**own, **{key.replace("/", "/mask_"): masks * own[key] / boxes for key in own}}, 10.0, None)

    outcomes = {"bce": [both(0.5, 0.4), both(0.51, 0.41)], "dice": [both(0.5, 0.5), both(0.51, 0.5101)]}
    table = _write(tmp_path, [0, 1], outcomes)
    boxes, masks = table.split("masks:")
    assert boxes.startswith("boxes:") and "noise" in boxes and "better" in masks and "0.4050" in masks
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["map50_95"][0] for row in content["mask_variants"]] == pytest.approx([0.405, 0.50505])
    assert [row["map50_95"][0] for row in content["variants"]] == pytest.approx([0.505, 0.505])
    mixed = _write(tmp_path, [0, 1], {"boxes alone": [outcome(0.5)] * 2, **outcomes})
    assert "failed" not in mixed and mixed.count("boxes alone") == 1 and "better" in mixed.split("masks:")[1]
    plain = _write(tmp_path, [0, 1], {"a": [outcome(0.5)] * 2, "b": [outcome(0.6)] * 2})
    assert "masks" not in plain and "mask_variants" not in (tmp_path / "comparison.json").read_text()


def test_the_table_has_a_row_a_variant():
    table = comparison_table(summarise({"a": [outcome(0.5), outcome(0.6)], "b": [outcome(0.52, None), outcome(0.6)]}))
    head, line, first, second = table.splitlines()
    assert head.split("|")[1].strip() == "variant" and set(line) <= set("|-")
    assert "0.5500 ± 0.0707" in first and "| 10" in first
    assert "+0.0100 ± 0.1271" in second and "noise" in second
    assert len({len(row) for row in (head, line, first, second)}) == 1


def test_the_picture_grows_with_the_variants():
    rows = summarise({name: [outcome(0.5), outcome(0.6)] for name in "abcdefgh"})
    few, many = comparison_image({"": rows[:2]}), comparison_image({"": rows})
    assert few.dtype == np.uint8 and few.shape[2] == 3 and few.std() > 5
    assert many.shape[0] > few.shape[0] and many.shape[1] == few.shape[1]
    failed = VariantRow("x", [math.nan] * 2, (math.nan, None), (math.nan, None), (math.nan, None), math.nan, None, None)
    comparison_image({"": [rows[0], failed]})


def test_variants_make_usable_folders():
    assert variant_folder("box_loss=siou box=0.05") == "box_loss=siou_box=0.05"
    assert variant_folder("data.path=../a/b") == "data.path=.._a_b"


# ------------------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def compared(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison; tests only read it."""
    project = tmp_path_factory.mktemp("compare")
    vary = ["--vary", "box_loss=ciou,siou", "--seeds", "2", "--project", str(project)]
    assert main(["compare", *words(tiny_data, *vary)]) == 0
    return project / "exp"


def test_every_variant_is_trained_with_every_seed(compared: Path):
    runs = sorted(str(path.parent.relative_to(compared)) for path in compared.rglob("results.csv"))
    assert runs == [f"box_loss={name}/seed{seed}" for name in ("ciou", "siou") for seed in (0, 1)]
    content = json.loads((compared / "comparison.json").read_text())
    assert content["seeds"] == [0, 1] and [row["variant"] for row in content["variants"]] == [
        "box_loss=ciou",
        "box_loss=siou",
    ]
    assert all(outcome["seconds"] > 0 for runs in content["runs"].values() for outcome in runs)
    assert (compared / "comparison.md").exists() and (compared / "comparison.png").exists()
    texts = {path.read_text() for path in compared.rglob("results.csv")}
    assert len(texts) == 4  # no two runs are the same


def test_a_finished_comparison_is_read_not_trained(compared: Path, tiny_data: Path, monkeypatch, capsys):
    monkeypatch.setattr(compare_module, "train", None)
    vary = ["--vary", "box_loss=ciou,siou", "--seeds", "2", "--project", str(compared.parent)]
    assert main(["compare", *words(tiny_data, *vary)]) == 0
    assert (compared / "comparison.md").read_text().strip() in capsys.readouterr().out


def test_another_configuration_in_the_same_folder_is_refused(compared: Path, tiny_data: Path, capsys):
    vary = ["--vary", "box_loss=ciou,siou", "--seeds", "2", "--project", str(compared.parent), "--set", "lr0=0.002"]
    assert main(["compare", *words(tiny_data, *vary)]) == 2
    assert "another hyp.lr0: found 0.0015, expected 0.002; choose another name or --project" in capsys.readouterr().err


@pytest.mark.parametrize("first_checkpoint_lost", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_comparison_goes_on_to_the_same_figures(
    compared: Path, tiny_data: Path, tmp_path: Path, monkeypatch, first_checkpoint_lost: bool
):
    vary = words(tiny_data, "--vary", "box_loss=ciou,siou", "--seeds", "2", "--project", str(tmp_path))
    say, epochs = train_module.say, []

    def stop_in_the_second_run(row, seconds, planned):
        epochs.append(row["epoch"])
        if len(epochs) == 3:
            raise KeyboardInterrupt
        say(row, seconds, planned)

    monkeypatch.setattr(train_module, "say", stop_in_the_second_run)
    assert main(["compare", *vary]) == 130  # after the first of the second run's two epochs
    if first_checkpoint_lost:
        (tmp_path / "exp/box_loss=siou/seed0/weights/last.pt").unlink()
    assert main(["compare", *vary]) == 0
    for mine in (tmp_path / "exp").rglob("results.csv"):
        assert mine.read_bytes() == (compared / mine.relative_to(tmp_path / "exp")).read_bytes()


def test_the_table_is_there_after_each_seed(tmp_path: Path, monkeypatch):
    runs = [Run(variant, seed, RunConfig.model_construct()) for seed in (5, 6) for variant in "ab"]
    monkeypatch.setattr(compare_module, "check_same_run", lambda run: None)
    monkeypatch.setattr(compare_module, "finish", lambda run: stopped() if run == runs[3] else outcome(0.5))
    with pytest.raises(KeyboardInterrupt):
        compare(runs, tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["seeds"] == [5] and {name: len(own) for name, own in content["runs"].items()} == {"a": 1, "b": 1}


def stopped() -> None:
    raise KeyboardInterrupt


def test_a_variant_that_cannot_be_trained_does_not_stop_the_others(tiny_data: Path, tmp_path: Path, capsys):
    vary = ["--vary", "lr0=0.001,1e29", "--seeds", "1", "--set", "optimizer=SGD", "clip_norm=0", "warmup_epochs=0"]
    assert main(["compare", *words(tiny_data, *vary, "--project", str(tmp_path))]) == 0
    out = capsys.readouterr().out
    assert "loss is not finite" in out and "failed" in out
    content = json.loads((tmp_path / "exp/comparison.json").read_text(), parse_constant=pytest.fail)
    assert [row["verdict"] for row in content["variants"]] == ["-", "failed"]


def test_what_the_user_can_mend_is_no_result(tiny_data: Path, tmp_path: Path, monkeypatch, capsys):
    """A missing dataset ends the comparison; the same command goes on once it is there."""
    vary = words(tiny_data, "--vary", "box_loss=ciou,siou", "--seeds", "1", "--project", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("yolo_lite.engine.same_data.index_split", missing)
        assert main(["compare", *vary]) == 2
    assert "error: no such folder" in capsys.readouterr().err and not list(tmp_path.rglob("outcome.json"))


def missing(*_: object, **__: object) -> None:
    raise DataError("no such folder")


def test_other_data_in_the_same_folder_is_refused(compared: Path, tiny_data: Path, tmp_path: Path, capsys):
    (tmp_path / "other.yaml").write_text(tiny_data.read_text().replace("seed: 0", "seed: 1"))
    vary = ["--vary", "box_loss=ciou,siou", "--seeds", "2", "--project", str(compared.parent)]
    assert main(["compare", *words(tmp_path / "other.yaml", *vary)]) == 2
    assert "holds a run with another " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "values"),
    [("a,b", ["a", "b"]), ("[1, 2],[3]", ["[1, 2]", "[3]"]), ("[[1],[2]], auto", ["[[1],[2]]", "auto"])],
)
def test_commas_inside_brackets_belong_to_a_value(text: str, values: list[str]):
    assert split_at_commas(text) == values


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], "expected either --vary"),
        (["--vary", "model.anchors=[32],[[32]]"], "expected two or more variants, all different"),
        (["--vary", "box_loss=ciou,siou", "--variant", "box=1"], "expected either --vary"),
        (["--vary", "box_loss=ciou"], "expected two or more variants, all different"),
        (["--vary", "box_loss=ciou,ciou"], "expected two or more variants, all different"),
        (["--vary", "box_loss"], "--vary box_loss: expected KEY=A,B,..."),
        (["--vary", "box_loss=ciou,siuo"], "unknown name 'siuo' (nearest: 'siou')"),
        (["--vary", "boxloss=ciou,siou"], "unknown key 'boxloss' (nearest: 'box_loss')"),
        (["--vary", "lr0=0.1,0.2", "--seeds", "0"], "--seeds: expected 1 or more, found 0"),
    ],
)
def test_unusable_comparisons_are_refused_before_anything_is_trained(
    more: list[str], expected: str, tiny_data: Path, tmp_path: Path, capsys
):
    assert main(["compare", *words(tiny_data, *more, "--project", str(tmp_path / "runs"))]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def own_models(folder: Path) -> list[Path]:
    """Two model YAMLs: the nano, and one of half its width."""
    text = (REPOSITORY / "cfg/yolo_n.yaml").read_text()
    files = [folder / "full.yaml", folder / "half.yaml"]
    for file, width in zip(files, ("0.25", "0.125"), strict=True):
        file.write_text(text.replace("width_multiple: 0.25", f"width_multiple: {width}"))
    return files


def test_models_are_compared_like_any_key(tiny_data: Path, tmp_path: Path, capsys):
    full, half = own_models(tmp_path)
    more = ["--data", str(tiny_data), "--epochs", "1", "--batch-size", "10", "--workers", "0", "--device", "cpu"]
    more += ["--seeds", "1", "--imgsz", "32", "--project", str(tmp_path / "runs"), "--name", "heads"]
    assert main(["compare", "--vary", f"model={full},{half}", *more]) == 0
    read = {path.parent.name: read_yaml(path / "config.yaml").data for path in tmp_path.glob("runs/heads/*/seed0")}
    assert {name: one["model"]["width_multiple"] for name, one in read.items()} == {
        "model=full": 0.25,
        "model=half": 0.125,
    }
    assert {name: Path(one["train"]["cfg"]) for name, one in read.items()} == {"model=full": full, "model=half": half}
    assert "| model=half |" in capsys.readouterr().out
    moved = Path(shutil.copytree(tmp_path, tmp_path / "moved", ignore=shutil.ignore_patterns("runs")))
    more[1] = str(shutil.copy(tiny_data, moved))
    with pytest.MonkeyPatch.context() as patch:  # the same models and the same drawn set, in other places
        patch.setattr(compare_module, "train", None)
        assert main(["compare", "--vary", f"model={moved / full.name},{moved / half.name}", *more]) == 0
    half.write_text(full.read_text())
    assert main(["compare", "--vary", f"model={full},{half}", *more]) == 2  # another model in the file of that name
    assert "another model.width_multiple: found 0.125, expected 0.25" in capsys.readouterr().err


def test_a_variant_may_name_options_and_keys(tmp_path: Path):
    full, half = own_models(tmp_path)
    variants = [["imgsz=64", f"model={full}"], [f"model={half}", "box_loss=siou", "epochs=3"]]
    options = CompareOptions(variant=variants, hyp=str(REPOSITORY / "cfg/hyp.yaml"), imgsz=96, set=["box=0.1"])
    runs = [variant_run(options, variant, 7, tmp_path) for variant in map(read_variant, variants)]
    assert [run.variant for run in runs] == ["imgsz=64 model=full", "model=half box_loss=siou epochs=3"]
    found = [(run.config.train.imgsz, run.config.train.seed, run.config.hyp.box) for run in runs]
    assert found == [(64, 7, 0.1), (96, 7, 0.1)] and runs[1].config.train.epochs == 3
    assert [str(run.config.hyp.box_loss) for run in runs] == ["ciou", "siou"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--vary", "model={full},{full}"], "expected two or more variants, all different, found ['model=full', "),
        (["--vary", "model={full},{twin}"], "all different, found ['model=full', 'model=full'] (files by their names)"),
        (["--vary", "model={full}"], "expected two or more variants"),
        (["--vary", "model={full},missing.yaml"], "missing.yaml: no such file"),
        (["--vary", "model={full},"], "model=: expected a file"),
        (["--vary", "model={full},{half}", "--cfg", "{full}"], "expected no --cfg where variants name their model"),
        (["--variant", "model={full}", "--variant", "box=1"], "--variant box=1: expected model= in every variant"),
        (
            ["--variant", "model={full}", "model={half}", "--variant", "model={half}"],
            "expected model once in a variant",
        ),
        (["--vary", "imgsz=64,big"], "imgsz=big: expected"),
    ],
)
def test_models_that_cannot_be_compared_are_refused_in_one_line(
    more: list[str], expected: str, tiny_data: Path, tmp_path: Path, capsys
):
    full, half = own_models(tmp_path)
    (tmp_path / "other").mkdir()
    twin = Path(shutil.copy(half, tmp_path / "other/full.yaml"))
    words = [word.format(full=full, half=half, twin=twin) for word in more]
    assert main(["compare", "--data", str(tiny_data), "--project", str(tmp_path / "runs"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and expected in line and not (tmp_path / "runs").exists()


def test_the_list_of_losses_names_every_loss_and_assigner_with_its_paper_and_parameters(capsys):
    assert main(["losses"]) == 0
    sections = [section.splitlines()[1:] for section in capsys.readouterr().out.split("\n\n")]
    box, binary, mask, assigners, _ = ({line.split()[0]: line for line in section} for section in sections)
    assert (tuple(box), tuple(binary), set(mask)) == (tuple(BOX_LOSSES), tuple(CLS_LOSSES), set(MASK_LOSSES))
    assert tuple(assigners) == tuple(ASSIGNERS)
    assert all("arXiv:" in line for line in (*box.values(), *(assigners[name] for name in ("tal", "simota", "atss"))))
    assert "{theta: 4.0}" in box["siou"] and "alpha: 0.3" in mask["tversky"]
    assert "{alpha: 1.0, beta: 6.0, topk: 13, floor: 0.1}" in assigners["tal"] and "{" not in assigners["anchor_ratio"]


def test_variants_have_a_batch_size_in_numbers(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--batch-size", "auto", "--vary", "mosaic=0,1"])
    assert "--batch-size: invalid int value: 'auto'" in capsys.readouterr().err
