"""Laws of the border: whatever a YAML file, a label file or a flag holds, it is read or refused in one line."""

from __future__ import annotations

import io
import json
import os
import random
import re
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from PIL import Image

from yolo_lite.cli.arguments import read_options
from yolo_lite.config.bounds import printable
from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.load import load_dataset_config, load_hyp, load_model_config, validate
from yolo_lite.config.options import PredictOptions
from yolo_lite.config.yaml_file import Document
from yolo_lite.data.index import index_split
from yolo_lite.data.names import load_dataset
from yolo_lite.deploy.prediction import Outputs, Prediction
from yolo_lite.deploy.sources import Frame
from yolo_lite.engine.seams import SEAMS
from yolo_lite.model.builder import build_layers
from yolo_lite.report.drawing import draw_boxes, titled
from yolo_lite.tools.unpack import read_npz

LOADERS: dict[str, Callable[..., Any]] = {"model": load_model_config, "hyp": load_hyp, "data": load_dataset_config}
GIVEN = {
    kind: sorted((REPOSITORY / folder).glob(pattern))
    for kind, folder, pattern in (
        ("model", "cfg", "[!h]*.yaml"),
        ("hyp", "cfg", "hyp*.yaml"),
        ("data", "data", "*.yaml"),
    )
}
# What stands in the place of a value or a key, as text.
ODD = [
    *("", "~", "null", "true", "off", "yes", "0", "-1", "1e-2", "1e400", "-1e400", ".nan", ".inf", "-.inf", "1e308"),
    *("2024-99-99", "2024-01-01", "2001-12-14t21:59:43.10-05:00", "12:30:45", "1:99", "0x" + "f" * 5000, "0b2", "0o9"),
    *("9" * 5000, "9" * 40, "-" + "9" * 20, str(2**63), str(2**63 - 1), "1_000", "1e-320", "0.0000000000000000001"),
    *("!!int x", "!!int ''", "!!float x", "!!bool x", "!!null x", "!!timestamp x", "!!binary '@@'", "!!binary aGk="),
    *("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/object/apply:os.system [true]", "!!str 1", "!x y"),
    *("!!seq {a: 1}", "!!map [1]", "!!merge <<", "<<", "=", "&a 1", "*a", "&a [*a]", "{<<: {a: 1}}", "? [1]", "- - -"),
    *(
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "{a: {b: {c: 1}}}",
        "{1: 2}",
        "{[1]: 2}",
        "{null: 1}",
        "{2024-01-01: 1}",
        "{? {}: 1}",
    ),
    *("[" * 3000, "{a: " * 3000, "[" * 300 + "]" * 300, "[1, two, 3.0, null, [4]]", "[-1, 1, Conv, [64, 3, 2]]"),
    *('"a\\0b"', '"\\ud800"', '"\\x1b[2J"', '"\\u202e"', "'" + "n" * 10000 + "'", "~nosuchuser", "~", "~/x", "/", "."),
    *(
        "../../../..",
        "/dev/zero",
        "/proc/self/mem",
        "a/" * 5000,
        "'*'",
        "'**'",
        "'[a'",
        "http://x/y.zip",
        "nc",
        "anchors",
    ),
    *(
        "|\n    text",
        ">-\n    text",
        "'",
        '"',
        "]",
        "}",
        ":",
        "#",
        "%",
        "@",
        "`",
        "\t",
        "\x00",
        "\x85",
        "\ufeff",
        "\U0001f600",
    ),
    "[" + "1, " * 3000 + "1]",
]


def cases(kind: str, number: int, seed: int) -> Iterator[str]:
    """YAML texts made of the files that yolo_lite brings, each with one to three odd places."""
    for each in range(number):
        draw = random.Random(f"{kind} {seed} {each}")
        rows = draw.choice(GIVEN[kind]).read_text().splitlines()
        rows = [row for row in rows if row.strip() and not row.lstrip().startswith("#")]
        for _ in range(draw.randint(1, 3)):
            mutate(rows, draw)
        yield "\n".join(rows) + "\n"


def mutate(rows: list[str], draw: random.Random) -> None:
    place = draw.randrange(len(rows))
    row, odd = rows[place], draw.choice(ODD)
    match draw.randrange(8):
        case 0 | 1 if ":" in row:  # a value
            rows[place] = f"{row.partition(':')[0]}: {odd}"
        case 2 if ":" in row:  # a key
            rows[place] = f"{odd}:{row.partition(':')[2]}"
        case 3 if "," in row or "[" in row:  # part of a list
            words = row.replace("[", ",[,").split(",")
            words[draw.randrange(1, len(words))] = odd
            rows[place] = ",".join(words).replace(",[,", "[")
        case 4 if len(rows) > 1:
            del rows[place]
        case 5:
            rows.insert(place, row)
        case 6:  # renamed
            rows[place] = row.replace("e", "a", 1)
        case _:
            rows.insert(place, odd)


def is_short(error: Exception) -> bool:
    """Whether each line of a message is short and can be printed anywhere."""
    return all(len(line) <= 1100 and printable(line) == line for line in str(error).split("\n"))


def outcome(kind: str, text: str, file: Path, builds: bool = True) -> str:
    """What a loader makes of a text; ``""`` is fine, anything else says which law is broken."""
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    start, most = time.process_time(), 1.0
    try:
        config = LOADERS[kind](file, seams=SEAMS)
        assert yaml.safe_dump(config.model_dump(mode="json"))
        if builds and kind == "model" and config.family == "yolo":
            most = 4.0
            build_layers(config)
    except (ConfigError, DataError) as error:
        if not is_short(error):
            return f"not printable, or too long: {error!s:.300}"
        if file.name not in str(error) and "layer" not in str(error):
            return f"names no file: {error!s:.300}"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error!s:.300}"
    spent = time.process_time() - start
    return f"{spent:.1f} s" if spent > most else ""


def broken_yaml(kind: str, number: int, seed: int, folder: Path, builds: int) -> list[str]:
    """What is wrong with the end of each case, if anything is; every so-manieth model is built too."""
    texts = enumerate(cases(kind, number, seed))
    found = ((each, outcome(kind, text, folder / "odd.yaml", each % builds == 0)) for each, text in texts)
    return [f"{each}: {said}" for each, said in found if said]


@pytest.mark.filterwarnings("ignore::yolo_lite.config.foreign.ConfigWarning")
@pytest.mark.parametrize("kind", LOADERS)
def test_a_thousand_odd_yaml_files_are_read_or_refused_in_short_lines_that_name_the_file(kind: str, tmp_path: Path):
    assert broken_yaml(kind, 1000, seed=0, folder=tmp_path, builds=50) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::yolo_lite.config.foreign.ConfigWarning")
@pytest.mark.parametrize("kind", LOADERS)
def test_twenty_thousand_odd_yaml_files_are_too(kind: str, tmp_path: Path):
    assert broken_yaml(kind, 20_000, seed=1, folder=tmp_path, builds=10) == []


@pytest.mark.filterwarnings("ignore::yolo_lite.config.foreign.ConfigWarning")
@pytest.mark.parametrize(("kind", "prefix"), [("model", "model."), ("hyp", ""), ("data", "data.")])
def test_an_odd_value_of_set_is_taken_or_refused_by_its_own_line(kind: str, prefix: str):
    file, draw = GIVEN[kind][0], random.Random(kind)
    keys = [*yaml.safe_load(file.read_text()), "unknown", ""]
    for odd in ODD:
        text = f"{prefix}{draw.choice(keys)}={odd}"
        try:
            LOADERS[kind](file, [text], seams=SEAMS)
        except ConfigError as error:
            assert is_short(error), str(error)


def model_yaml(**changes: object) -> str:
    rows = "backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]]]\nhead: [[[1], 1, Detect, [nc, anchors]]]"
    content = {**yaml.safe_load(rows), "nc": 2, "anchors": 3, **changes}
    return json.dumps(content)  # which is YAML, without aliases


CONV = [-1, 1, "Conv", [8, 3, 1]]
BOMBS: dict[str, tuple[str, str, str]] = {
    "rows": ("model", model_yaml(backbone=[CONV] * 1_001), "backbone: expected at most 1,000 rows, found 1,001"),
    "repeats": ("model", model_yaml(backbone=[[-1, 10**9, "C3", [8]]]), "at most 2,000, found 1000000000 in"),
    "blocks": (
        "model",
        model_yaml(backbone=[[-1, 90, "C3", [8]]] * 900),
        "at most 2,000 blocks of all rows, found 81,001",
    ),
    "depth": (
        "model",
        model_yaml(backbone=[[-1, 3, "C3", [8]]], depth_multiple=1e9),
        "blocks of all rows, found 4,000,000,000",
    ),
    "channels": (
        "model",
        model_yaml(backbone=[[-1, 1, "Conv", [10**9, 3, 2]]]),
        "16,384 channels, found 1,000,000,000",
    ),
    "width": ("model", model_yaml(width_multiple=1e20), "expected at most 16,384 channels, found 8"),
    "kernel": (
        "model",
        model_yaml(backbone=[[-1, 1, "Conv", [8, 10**6, 2]]]),
        "kernel: expected at most 127, found 1000000",
    ),
    "parameters": (
        "model",
        model_yaml(backbone=[[-1, 1, "Conv", [16_384, 1, 64]]] + [[-1, 1, "Conv", [16_384, 7, 1]]]),
        "2,000,000,000 parameters",
    ),
    "operations": (
        "model",
        model_yaml(backbone=[[-1, 1, "Conv", [512, 1, 1]], [-1, 1, "Conv", [512, 31, 1]]]),
        "operations for 256 x 256",
    ),
    "attention": (
        "model",
        model_yaml(backbone=[[-1, 1, "Conv", [16, 3, 1]], [-1, 1, "C3TR", [16]]]),
        "expected a map of at most 268,435,456 numbers for 256 x 256 pixels, found 4,294,967,296",
    ),
    "layers of attention": (
        "model",
        model_yaml(backbone=[[-1, 1, "Conv", [1024, 4, 4]], [-1, 900, "C3TR", [1024]]]),
        "operations for 256 x 256",
    ),
    "maps": (
        "model",
        model_yaml(backbone=[CONV, *[[[-1] * 30, 1, "Concat", [1]]] * 4]),
        "expected a map of at most 268,435,456",
    ),
    "upsampling": (
        "model",
        model_yaml(backbone=[[-1, 1, "nn.Upsample", ["None", 10**5, "nearest"]]]),
        "expected a map of at most",
    ),
    "model nc": ("model", model_yaml(nc=10**9), "nc: expected 50000 or less, found 1000000000"),
    "anchors": ("model", model_yaml(anchors=[[1, 2] * 1000]), "expected at most 1,000 numbers, found 2,000"),
    "ch": ("model", model_yaml(ch=10**9), "ch: expected 1024 or less"),
    "nc": ("data", "train: x\nnc: 1000000000\n", "data.yaml:2: nc: expected 50000 or less, found 1000000000"),
    "a file": (
        "data",
        "names: [a]\ntrain: x\n" + "#" * (5 << 20),
        "cannot be read: [Errno 27] expected at most 4,194,304 bytes",
    ),
    "a number": ("hyp", f"lr0: {'9' * 5000}\n", "yaml:1: expected a number of at most 100 letters, found 5000"),
    "a float": ("hyp", "obj_pw: 1e308\n", "obj_pw: expected less than 1e+30, found 1e+308"),
    "a parameter": ("hyp", "box_loss: {wiou: {alpha: 1e308}}\n", "expected numbers below 1e+30, found 1e+308"),
    "depth of YAML": ("hyp", "freeze: " + "[" * 60 + "]" * 60, "nested too deeply, expected at most 50 levels"),
    "a date": (
        "model",
        model_yaml().replace('"nc": 2', '"nc": 2024-99-99'),
        "nc: expected a whole number, found '2024-99-99'",
    ),
    "a tag": (
        "model",
        model_yaml().replace('"nc": 2', '"nc": !!int x'),
        "not a value of its tag 'tag:yaml.org,2002:int': 'x'",
    ),
    "an image": ("data", "generate: {kind: shapes, train: 9, val: 9, image_size: 10000000}\n", "expected 8192 or less"),
    "a set": (
        "data",
        "generate: {kind: shapes, train: 1000000000, val: 9, image_size: 64}\n",
        "expected 1e+06 or less",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_too_much_is_refused_with_its_bound_within_seconds(name: str, tmp_path: Path):
    kind, text, expected = BOMBS[name]
    (tmp_path / f"{kind}.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError) as refused:
        build_layers(LOADERS[kind](tmp_path / f"{kind}.yaml", seams=SEAMS))
    assert expected in str(refused.value) and is_short(refused.value)
    assert time.process_time() - start < 10


def test_lists_of_a_dataset_are_bounded_and_so_is_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    many = [f"n{number}" for number in range(50_001)]
    for content, expected in (
        ({"train": "x", "names": many}, "names: expected at most 50,000 names, found 50,001"),
        (
            {"train": many, "names": ["a"]},
            "train: expected at most 50,000 paths, more stand in a list file, found 50,001",
        ),
    ):
        with pytest.raises(ConfigError, match=expected):
            validate(DatasetConfig, Document("data.yaml", content, {}))
    monkeypatch.setattr("yolo_lite.config.yaml_loader.VALUES", 8)
    (tmp_path / "data.yaml").write_text("train: x\nnames: [a, b, c, d]\n")  # with the mapping and the list 9
    with pytest.raises(ConfigError, match=r"data.yaml:2: expected at most 8 keys and values in a file"):
        load_dataset_config(tmp_path / "data.yaml")


def npz(shape: tuple[int, ...], content: bytes, repeats: int = 1) -> bytes:
    """An .npz whose arrays state a shape and hold something else."""
    buffer, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(repeats):
            archive.writestr(f"{number}.npy", header.getvalue() + content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npz((10**7,), bytes(4 * 10**7)),  # 40 kB that unpack to 40 MB
        npz((10**14,), bytes(4)),
        npz((2**62, 2**62), b""),
        npz((-1,), bytes(4)),
        npz((3,), bytes(4)),
        npz((1,), bytes(4))[:-30],
        b"",
        b"\x93NUMPY\x01\x00",
    ],
)
def test_an_npz_bomb_or_a_damaged_one_is_refused_without_its_memory(content: bytes, tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"."):
        read_npz(tmp_path / "a.npz")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 << 20


@pytest.mark.parametrize("name", ["a\ud800", "a\0", "a\x1b[2J", "a\u202eb", "a\u2028b", "n" * 1001])
def test_a_class_name_that_cannot_be_written_everywhere_is_refused(name: str, tmp_path: Path):
    (tmp_path / "data.yaml").write_text(f"train: x\nnames: [b, {json.dumps(name)}]\n")
    with pytest.raises(ConfigError, match=r"data.yaml:2: names: expected names "):
        load_dataset_config(tmp_path / "data.yaml")


def test_text_of_any_script_is_a_class_name(tmp_path: Path):
    names = ["\u0627\u0644", "\u05d0", "\U0001f600", "\u0915\u094d\u200d\u0937", "a b", "$x_{", "n" * 1000]
    (tmp_path / "data.yaml").write_text(f"train: x\nnames: {json.dumps(names, ensure_ascii=False)}\n")
    assert list(load_dataset_config(tmp_path / "data.yaml").names) == names


@pytest.mark.parametrize("name", ["a\ud800", "\0", "\x1b", "n" * 10**6, "", "\u0627\u0644", "\udcff"])
def test_any_text_can_be_drawn(name: str):
    image, boxes = np.zeros((64, 64, 3), np.uint8), np.array([[8, 8, 40, 40]])
    drawn = draw_boxes(image, boxes, np.array([0]), [name], np.array([0.5]))
    assert drawn.shape == (64, 64, 3) and drawn.any() and titled(image, name).shape[1] == 64


def test_a_path_that_is_no_text_is_written_as_json_reads_it(tmp_path: Path):
    options = read_options(PredictOptions, ["--weights", "w", "--source", "s", "--save-json", "--no-save"], "predict")
    outputs = Outputs(tmp_path, options)
    frame = Frame(np.zeros((8, 8, 3), np.uint8), os.fsdecode(b"\xff\x01.png"), Path("x"), Path("x.png"))
    outputs.add(Prediction(frame, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), ("a",)))
    outputs.close()
    (found,) = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert os.fsencode(found["file"]) == b"\xff\x01.png"


# -------------------------------------------------------------------------------------------------------- label files

WORDS = [
    *(
        "",
        "0",
        "-1",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "1e308",
        "1e-400",
        "9" * 400,
        "9" * 5000,
        str(2**63),
        "-" + "9" * 30,
    ),
    *(
        "0x10",
        "1_0",
        "٣",
        "a",
        "\x00",
        "\x1b[2J",
        "\ud800",
        "n" * 70_000,
        "0 0",
        "true",
        "None",
        "1,5",
        "&#0;",
        "&amp;",
        "<",
        "]]>",
    ),
]
JSON = [
    *(
        "null",
        "true",
        "[]",
        "{}",
        "[[[]]]",
        '""',
        '"\\ud800"',
        '"a\\u0000b"',
        "-0.0",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
    ),
    *(
        "9" * 400,
        "9" * 5000,
        str(2**63),
        str(-(2**63)),
        "1e308",
        '"' + "n" * 70_000 + '"',
        "[" * 100_000,
        '{"a":' * 50_000,
    ),
    *(
        '{"counts": [1], "size": [1, 1]}',
        '{"rotation": ' + "9" * 400 + "}",
        '{"rotation": 1e308}',
        "[[1, 2, 3, 4, 5]]",
        "[1e39]",
    ),
    *(
        "[1, 2]",
        "[[1, 2], [3, 4], [5, 6]]",
        '"../../../etc/passwd"',
        '"/"',
        '"~nosuchuser/x"',
        '"x.png"',
        "1.5",
        "-1",
        "0",
    ),
]
COCO = {
    "images": [{"id": 1, "file_name": "0.png", "width": 64, "height": 48}, {"id": 2, "file_name": "1.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 9, 2, 9, 8]]},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "attributes": {"rotation": 30.0}},
    ],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}],
}
VOC = """<annotation><filename>0.png</filename><size><width>64</width><height>48</height><depth>3</depth></size><object>
<name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
<attributes><attribute><name>rotation</name><value>30</value></attribute></attributes></object></annotation>"""
YOLO = "0 0.5 0.5 0.25 0.25\n1 0.25 0.25 0.125 0.125\n0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n"


def odd_coco(draw: random.Random) -> str:
    marked = json.loads(json.dumps(COCO))
    for _ in range(draw.randint(1, 3)):
        place: Any = marked
        while True:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.15:
                break
            place = place[key]
        if draw.random() < 0.15:
            del place[key]
        else:
            place[key] = f"@{draw.randrange(len(JSON))}@"
        if not marked:
            break
    return re.sub(r'"@(\d+)@"', lambda found: JSON[int(found[1])], json.dumps(marked))


def odd_words(text: str, pattern: str, draw: random.Random) -> str:
    for _ in range(draw.randint(1, 3)):
        spans = [found.span() for found in re.finditer(pattern, text)]
        start, end = draw.choice(spans or [(0, 0)])
        text = text[:start] + draw.choice(WORDS) + text[end:]
    return text


ODD_LABELS: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "coco": ("labels/all.json", odd_coco),
    "voc": ("labels/0.xml", lambda draw: odd_words(VOC, r"(?<=>)[^<>\n]+(?=<)|(?<=<)\w+(?=>)", draw)),
    "yolo": ("labels/0.txt", lambda draw: odd_words(YOLO, r"[\d.]+", draw)),
}


def odd_labels(kind: str, number: int, seed: int, folder: Path) -> list[str]:
    """The cases of mutated label files that end otherwise than in an index or in one line."""
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for name in ("0.png", "1.png"):
        Image.new("RGB", (64, 48)).save(folder / "images" / name)
    file, odd = ODD_LABELS[kind]
    place = "labels/all.json" if kind == "coco" else "labels"
    broken = []
    for each in range(number):
        text = odd(random.Random(f"{kind} {seed} {each}"))
        (folder / file).write_text(text, encoding="utf-8", errors="surrogatepass")
        named = "" if each % 2 else "names: [cat, dog]\n"
        if kind == "yolo":
            named = "names: [cat, dog]\n"
        (folder / "data.yaml").write_text(f"train: images\nlabels: {place}\nformat: {kind}\n{named}")
        start = time.process_time()
        try:
            index = index_split(load_dataset(folder / "data.yaml"), folder / "data.yaml", "train")
            assert np.isfinite(index.xyxy).all() and np.isfinite(index.area).all()
            assert all(printable(name) == name for name in index.names)
        except (ConfigError, DataError) as error:
            if not is_short(error):
                broken.append(f"{each}: {error!s:.300}")
        except Exception as error:  # noqa: BLE001
            broken.append(f"{each}: {type(error).__name__}: {error!s:.300}")
        if time.process_time() - start > 2:
            broken.append(f"{each}: {time.process_time() - start:.1f} s")
    return broken


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", ODD_LABELS)
def test_three_hundred_odd_label_files_end_in_an_index_or_in_short_lines(kind: str, tmp_path: Path):
    assert odd_labels(kind, 300, seed=0, folder=tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ODD_LABELS)
def test_ten_thousand_odd_label_files_do_too(kind: str, tmp_path: Path):
    assert odd_labels(kind, 10_000, seed=1, folder=tmp_path) == []
