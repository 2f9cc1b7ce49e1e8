"""Whatever is wrong with a dataset ends in one clear line: no traceback, and nothing is written into the dataset."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from yolo_lite.cli.main import main

FILES = ["--cfg", str(REPOSITORY / "cfg/yolo_n.yaml"), "--hyp", str(REPOSITORY / "cfg/hyp.yaml")]
HEIGHT, WIDTH = 48, 64
YAML = "path: set\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
BOX = "0 0.5 0.5 0.5 0.5\n"
ERROR, FINE, REFUSED = 1, 0, 2  # what check ends with

Build = Callable[[Path], object]


class Row(NamedTuple):
    """One thing that is wrong."""

    status: int
    said: str  # part of what is printed
    files: Mapping[str, bytes | str | Build] = {}  # content by path below the set
    yaml: str | bytes = YAML
    words: str = ""  # flags
    command: str = "check"


# ------------------------------------------------------------------------------------------------- pieces of the rows


def picture(kind: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def voc(body: str = "", name: str = "cat", width: str = str(WIDTH), box: str = "4 4 40 40") -> str:
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False)
    bndbox = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    thing = body or f"<object><name>{name}</name><bndbox>{bndbox}</bndbox></object>"
    return f"<annotation><size><width>{width}</width><height>{HEIGHT}</height></size>{thing}</annotation>"


def named(names: str, **more: object) -> list[dict[str, object]]:
    """What COCO's file says of images of one letter."""
    size = {"height": HEIGHT, "width": WIDTH}
    return [{"id": "abc".index(name) + 1, "file_name": f"{name}.png", **size, **more} for name in names]


def coco(**changes: object) -> str:
    """All three images with a box each; a change replaces a part, or keys of the first annotation."""
    boxes = [{"id": i, "image_id": i, "category_id": 7, "bbox": [4, 4, 30, 30]} for i in (1, 2, 3)]
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}]
    parts = {"images": named("abc"), "annotations": boxes, "categories": categories}
    boxes[0].update({key: value for key, value in changes.items() if key not in parts})
    return json.dumps({**parts, **{key: value for key, value in changes.items() if key in parts}})


def link_to(target: str) -> Build:
    return lambda path: path.symlink_to(target)


def folder(path: Path) -> None:
    path.mkdir()


def image(name: str, content: bytes | Build, said: str, status: int = ERROR) -> Row:
    return Row(status, said, {f"images/train/{name}": content})


def label(content: str | bytes | Build, said: str, status: int = ERROR) -> Row:
    return Row(status, said, {"labels/train/a.txt": content})


def xml(content: str | bytes, said: str, status: int = ERROR) -> Row:
    others = {"annotations/train/b.xml": voc(), "annotations/val/c.xml": voc()}
    return Row(status, said, {"annotations/train/a.xml": content, **others}, YAML + "format: voc\n")


def annotations(content: str | bytes | Build, said: str, status: int = ERROR) -> Row:
    return Row(status, said, {"all.json": content}, YAML + "labels: all.json\nformat: coco\n")


def listed(content: str | bytes, said: str, status: int = ERROR) -> Row:
    return Row(status, said, {"train.txt": content}, YAML.replace("images/train", "train.txt"))


def yaml(content: str | bytes, said: str, status: int = REFUSED, **more: str) -> Row:
    return Row(status, said, {}, content, **more)


def flags(words: str, said: str) -> Row:
    return Row(REFUSED, said, words=words)


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">' for i in range(12))
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
RANDOM = random.Random(0).randbytes(2000)

ROWS = {
    # images
    "empty image": image("x.jpg", b"", "not a readable image"),
    "random bytes": image("x.png", RANDOM, "not a readable image"),
    "truncated JPEG": image("x.jpg", picture("JPEG")[:-40], "JPEG file is cut off"),
    "truncated PNG": image("x.png", picture("PNG")[:-40], "PNG file is cut off"),
    "truncated WebP": image("x.webp", picture("WEBP")[:-40], "not a readable image"),
    "truncated BMP": image("x.bmp", picture("BMP")[:60], "not a readable image"),
    "truncated TIFF": image("x.tif", picture("TIFF")[:60], "the TIFF file is cut off"),
    "only the start of a JPEG": image("x.jpg", b"\xff\xd8\xff\xe0", "not a readable image"),
    "text named .jpg": image("x.jpg", b"version https://git-lfs.github.com/spec/v1\n", "not a readable image"),
    "HTML named .png": image("x.png", b"<!DOCTYPE html><html>404</html>", "not a readable image"),
    "SVG named .png": image("x.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a readable image"),
    "a bomb": image("x.png", png_header(60000, 60000), "exceeds limit"),
    "no pixels": image("x.png", png_header(0, 40), "not a readable image"),
    "a header that lies": image("x.png", png_header(500, 400)[:60], "x.png: "),
    "folder named .jpg": Row(FINE, "0 errors", {"images/train/x.jpg": folder}, YAML.replace("/train", "/train/*")),
    "link to nothing": image("x.jpg", link_to("gone.jpg"), "x.jpg: no such image"),
    "link to itself": image("x.jpg", link_to("x.jpg"), "x.jpg: not a readable image"),
    "wrong extension": image("x.jpg", picture("PNG"), "note: wrong extension: 1", FINE),
    "the same image twice": image("x.png", picture("PNG", 1), "warning: duplicate image: 1", FINE),
    "an image of val in train": image("x.png", picture("PNG", 3), "error: leak: 1"),
    "a name that is no text": image("\udcff.jpg", b"", r"\udcff.jpg: not a readable image"),
    "no label file": image("x.png", picture("PNG", 9), "warning: missing labels: 1", FINE),
    # rows of YOLO's label files
    "text for numbers": label("cat 0.5 0.5 0.2 0.2\n", "a.txt:1: expected numbers, found 'cat"),
    "commas": label("0,0.5,0.5,0.2,0.2\n", "a.txt:1: expected numbers"),
    "four columns": label(BOX + "0 0.5 0.5 0.2\n", "a.txt:2: expected 5 columns"),
    "a score": label("0 0.5 0.5 0.2 0.2 0.9\n", "found 6 columns"),
    "half a point": label("0 0.1 0.1 0.3 0.1 0.3 0.2 0.1\n", "found 8 columns"),
    "NaN": label("0 nan 0.5 0.2 0.2\n", "error: not finite: 1"),
    "infinity": label("0 0.5 inf 0.2 0.2\n", "error: not finite: 1"),
    "a number too large for a float": label("0 0.5 0.5 1e999 0.2\n", "error: not finite: 1"),
    "class too large": label("2 0.5 0.5 0.2 0.2\n", "expected a class in 0..1, found 2"),
    "class far too large": label("1e30 0.5 0.5 0.2 0.2\n", "expected a class in 0..1, found 1e30"),
    "class below 0": label("-1 0.5 0.5 0.2 0.2\n", "expected a class in 0..1, found -1"),
    "half a class": label("0.5 0.5 0.5 0.2 0.2\n", "expected a class in 0..1, found 0.5"),
    "outside": label("0 0.9 0.5 0.4 0.2\n", "error: outside the image: 1"),
    "pixels for fractions": label("0 32 24 10 10\n", "expected a box inside the 64 x 48 image"),
    "no width": label("0 0.5 0.5 0 0.2\n", "error: without area: 1"),
    "width below 0": label("0 0.5 0.5 -0.1 0.2\n", "expected a width and height above 0"),
    "a flat polygon": label("0 0.1 0.1 0.5 0.1 0.9 0.1\n", "expected a width and height above 0"),
    "a row twice": label(BOX + BOX, "warning: repeated object: 1", FINE),
    "too small to learn": label("0 0.5 0.5 0.002 0.002\n", "warning: too small: 1", FINE),
    "binary labels": label(RANDOM, "a.txt: cannot be read"),
    "UTF-16": label(codecs.BOM_UTF16_LE + BOX.encode("utf-16-le"), "a.txt: cannot be read"),
    "NUL bytes": label(bytes(40), "a.txt:1: expected numbers"),
    "folder named a.txt": label(folder, "a.txt: cannot be read"),
    "label link to nothing": label(link_to("gone"), "warning: missing labels: 1", FINE),
    "labels of no image": Row(FINE, "orphaned labels: 1", {"labels/train/z.txt": BOX}),
    "poses or polygons": Row(
        REFUSED, "say what they are: labels_are", {"labels/train/a.txt": "0 .5 .5 .6 .6 .45 .62 .4 .5 .52 .41\n"}
    ),
    "rows of another kind": Row(
        ERROR,
        "expected 5 columns (labels_are: box), found 9",
        {"labels/train/a.txt": "0 .2 .2 .4 .2 .4 .4 .2 .4\n"},
        YAML + "labels_are: box\n",
    ),
    "classes in another order": Row(ERROR, "another order than names: 'dog' is 0", {"labels/classes.txt": "dog\ncat"}),
    "an image and its copy": image("a.jpg", picture("JPEG"), "a.txt: the label file of two images", REFUSED),
    "two label files": Row(REFUSED, "two label files that differ", {"images/train/a.txt": "1 .5 .5 .1 .1\n"}),
    "XML beside an image": Row(
        ERROR,
        "1 images have a .xml file (Pascal VOC) but no .txt",
        {"images/train/x.png": picture("PNG", 9), "images/train/x.xml": voc()},
    ),
    "one polygon, one mess": label("0 " + "0.5 " * 9999, "found 10000 columns"),
    # Pascal VOC
    "no XML": xml("hello", "a.xml: not a readable XML file"),
    "empty XML": xml("", "a.xml: not a readable XML file"),
    "half an XML": xml(voc()[:-30], "a.xml: not a readable XML file"),
    "billion laughs": xml(f"<!DOCTYPE a [{LAUGHS}]><annotation>&l11;</annotation>", "a.xml: not a readable XML file"),
    "unknown encoding": xml('<?xml version="1.0" encoding="none"?><annotation/>', "a.xml: not a readable XML file"),
    "no bndbox": xml(voc("<object><name>cat</name></object>"), "a.xml: object 1: expected a bndbox"),
    "no name": xml(voc("<object><bndbox/></object>"), "expected a class of the dataset YAML, found ''"),
    "unknown name": xml(voc(name="cow"), "expected a class of the dataset YAML, found 'cow'"),
    "three edges": xml(voc(box="1 2 3"), "expected a bndbox with numbers"),
    "text for an edge": xml(voc(box="1 2 3 x"), "expected a bndbox with numbers"),
    "NaN for an edge": xml(voc(box="1 2 3 nan"), "expected finite numbers"),
    "edges changed over": xml(voc(box="40 40 4 4"), "expected a width and height above 0"),
    "of another size": xml(voc(width="100"), "64 x 48 pixels, but"),
    "of an unbelievable size": xml(voc(width="9" * 5000), "0 errors", FINE),
    # COCO
    "no JSON": annotations("hello", "all.json: not a JSON file", REFUSED),
    "empty JSON": annotations("", "all.json: not a JSON file", REFUSED),
    "half a JSON": annotations(coco()[:-30], "all.json: not a JSON file", REFUSED),
    "binary JSON": annotations(RANDOM, "all.json: not a JSON file", REFUSED),
    "deep JSON": annotations("[" * 100_000, "all.json: not a JSON file", REFUSED),
    "a list": annotations("[]", "expected a list 'images'", REFUSED),
    "no images": annotations('{"annotations": []}', "expected a list 'images'", REFUSED),
    "images are no list": annotations(coco(images={}), "expected a list 'images'", REFUSED),
    "an image is a number": annotations(coco(images=[1]), "images[0]: expected id", REFUSED),
    "an image without id": annotations(coco(images=[{"file_name": "a.png"}]), "images[0]: expected id", REFUSED),
    "two images of one id": annotations(coco(images=named("ab", id=1)), "every id once", REFUSED),
    "two names of one category": annotations(
        coco(categories=[{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]), "expected every id once", REFUSED
    ),
    "no such JSON": Row(REFUSED, "no such folder or file", yaml=YAML + "labels: all.json\n"),
    "folder for a JSON": annotations(folder, "expected an annotation file", REFUSED),
    "bbox of three": annotations(coco(bbox=[1, 2, 3]), "annotation 1: expected bbox"),
    "bbox of text": annotations(coco(bbox="1 2 3 4"), "annotation 1: expected bbox"),
    "bbox of nothing": annotations(coco(bbox=None), "annotation 1: expected bbox"),
    "bbox with NaN": annotations(coco(bbox=[float("nan"), 1, 2, 3]), "annotation 1: expected finite numbers"),
    "bbox too large": annotations(coco(bbox=[10**30, 1, 2, 3]), "expected a box inside the 64 x 48 image"),
    "bbox larger than floats": annotations(coco(bbox=[10**400, 1, 2, 3]), "annotation 1: expected bbox"),
    "an area below 0": annotations(coco(area=-5), "0 errors", FINE),
    "an id larger than integers": annotations(coco(id=10**30), "0 errors", FINE),
    "a polygon of text": annotations(coco(segmentation=[["x"] * 6]), "0 errors", FINE),
    "half a polygon": annotations(coco(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "0 errors", FINE),
    "a size of text": annotations(coco(images=named("abc", width="wide")), "0 errors", FINE),
    "an image of two names": annotations(
        coco(images=[*named("ab"), {"id": 3, "file_name": "b.png"}]), "unlisted image: 1", ERROR
    ),
    "half of them crowds": annotations(coco(iscrowd="1"), "warning: crowds: 1", FINE),
    "unknown category": annotations(coco(category_id=99), "expected a class of the dataset YAML, found 99"),
    "category is a list": annotations(coco(category_id=[7]), "expected a class of the dataset YAML, found [7]"),
    "category of another name": annotations(
        coco(categories=[{"id": 7, "name": "cat"}, {"id": 8, "name": "cow"}], category_id=8), "found 'cow'"
    ),
    "image not listed": annotations(coco(images=named("ac")), "b.png: not among the images"),
    "image of another size": annotations(coco(images=named("abc", height=9)), "64 x 9"),
    "annotations of no image": annotations(coco(image_id=77), "annotations of images that it does not list"),
    "an annotation without image": annotations(coco(image_id=None), "annotations of images that it does not list"),
    # the dataset YAML
    "a YAML list": yaml("- a\n", "expected a mapping"),
    "empty YAML": yaml("", "expected a mapping of keys to values, found nothing"),
    "binary YAML": yaml(RANDOM, "data.yaml: cannot be read"),
    "tabs": yaml("names:\n\t- a\n", "data.yaml:2: "),
    "a brace left open": yaml("names: {0: a\n", "data.yaml:2: "),
    "a key twice": yaml(YAML + "val: images/train\n", "duplicate key 'val', already given in line 3"),
    "unknown key": yaml(YAML + "trian: x\n", "without effect: 'trian' in line 5 (nearest: 'train')\n", FINE),
    "names misspelt": yaml(YAML.replace("names", "nmes"), "data.yaml:4: the key 'names' is missing (nearest: 'nmes')"),
    "a Python object": yaml(YAML + "nc: !!python/object/apply:os.getcwd []\n", "tag 'tag:yaml.org,2002:python/object"),
    "aliases without end": yaml(YAML + ALIASES + "nc: *a9\n", "data.yaml:"),
    "deep YAML": yaml("names: " + "[" * 2000, "data.yaml"),
    "no names": yaml("train: x\nval: x\n", "the key 'names' is missing"),
    "a name that UTF-8 cannot write": yaml(YAML.replace("cat", '"\\ud800"'), "expected names that UTF-8 can write"),
    "an unknown kind of rows": yaml(YAML + "labels_are: boxes\n", "labels_are: expected "),
    "odd keypoints": yaml(YAML + "kpt_shape: [17, 5]\n", "kpt_shape"),
    "names of nothing": yaml("train: x\nnames: []\n", "expected a list of class names"),
    "a name twice": yaml(YAML.replace("dog", "cat"), "expected each name once, found more of cat"),
    "names with a gap": yaml("train: x\nnames: {0: a, 2: b}\n", "expected the keys 0..1, found [0, 2]"),
    "names of another number": yaml(YAML + "nc: 3\n", "nc: expected 2, the number of names, found 3"),
    "unknown format": yaml(YAML + "format: pascal\n", "unknown name 'pascal'"),
    "unknown chosen class": yaml(YAML + "classes: [cow]\n", "expected names of classes, found 'cow'"),
    "no such labels": yaml(YAML + "labels: boxes\n", "no such folder or file"),
    "labels are a file": yaml(YAML + "labels: ../data.yaml\nformat: yolo\n", "expected a folder for the format yolo"),
    "labels of an unknown split": yaml(YAML + "labels: {tarin: x}\n", "expected a path, or one for each of train"),
    "coco without labels": yaml(YAML + "format: coco\n", "format: coco needs the key labels"),
    "no split": yaml("names: [a]\n", "expected at least one of train, val, test"),
    # paths
    "no val": yaml(YAML.replace("val: images/val\n", ""), "error: missing split: 1", ERROR),
    "no val to train with": yaml(YAML.replace("val: images/val\n", ""), "split 'val' is not given", command="train"),
    "no such folder": yaml(YAML.replace("images/train", "imgs"), "found nothing at"),
    "no such root": yaml(YAML.replace("path: set", "path: nowhere"), "set/images/val is used", FINE),
    "a pattern of nothing": yaml(YAML.replace("images/train", "'*.gif'"), "found nothing at"),
    "a number for a path": yaml(YAML.replace("images/train", "7"), "expected a path or a list of paths, found 7"),
    "a path too long": yaml(YAML.replace("images/train", "x" * 300), "too long"),
    "a path with NUL": yaml(
        YAML.replace("images/train", '"a\\0b"'), "data.yaml:2: train: expected a path, found a NUL"
    ),
    "a folder without images": yaml(YAML.replace("images/train", "labels"), "error: no usable image: 1", ERROR),
    "the same to train with": yaml(YAML.replace("images/train", "labels"), "no usable image; tried", command="train"),
    "a binary list": listed(RANDOM, "expected a list of images in", REFUSED),
    "a list of what is gone": listed("images/train/a.png\ngone.png\n", "missing image: 1"),
    "NUL in a list": listed("images/train/a.png\na\0b.png\n", "missing image: 1"),
    "no object at all": Row(ERROR, "no objects: 1", {"labels/train/a.txt": "", "labels/train/b.txt": ""}),
    "no object to train with": Row(REFUSED, "not one label", {"labels/val/c.txt": ""}, command="train"),
    # flags
    "no such YAML": flags("--data nowhere.yaml", "nowhere.yaml: no such file"),
    "folder for a YAML": Row(
        REFUSED, "-o mine.yaml makes one", words="--data {here} --vary lr0=0.1,0.2", command="compare"
    ),
    "folder without class names": flags("--data {here}/set/images", "yolo-lite adopt --names a,b,c"),
    "damaged archive": Row(REFUSED, "x.zip: damaged", {"x.zip": b"PK"}, words="--data {here}/set/x.zip"),
    "folder without a set": flags("--data {here}/full", "expected a dataset, found no image"),
    "no such model": flags("--cfg nowhere.yaml", "nowhere.yaml: no such file"),
    "no such hyperparameters": flags("--hyp nowhere.yaml", "nowhere.yaml: no such file"),
    "too small a side": flags("--imgsz 7", "--imgsz: expected 32 or more, found 7"),
    "a side of text": flags("--imgsz big", "invalid int value"),
    "unknown flag": flags("--fix", "usage: "),
    "unknown override": flags("--set data.nmaes=x", "--set data.nmaes=x: unknown key 'nmaes' (nearest: 'names')"),
    "override without value": flags("--set names", "expected key=value"),
    "copy into the dataset": flags("--fix-into {here}/set/clean", "expected a folder outside the dataset"),
    "copy over files": flags("--fix-into {here}/full", "expected a new folder or an empty one"),
    "copy over a file": flags("--fix-into {here}/data.yaml", "expected a new folder or an empty one"),
    "copy of nothing": Row(
        REFUSED, "no object would be left", {"labels/val/c.txt": ""}, words="--fix-into {here}/clean"
    ),
}


# ----------------------------------------------------------------------------------------------------------- the law


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small sound set."""
    for place, seed in (("train/a", 1), ("train/b", 2), ("val/c", 3)):
        write(tmp_path / f"set/images/{place}.png", picture("PNG", seed))
        write(tmp_path / f"set/labels/{place}.txt", f"0 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.{seed} 0.2\n")
    write(tmp_path / "full/mine.txt", "mine")
    monkeypatch.chdir(tmp_path)
    # Its second would be most of the time; tests/test_doctor.py has it.
    monkeypatch.setattr("yolo_lite.report.dataset_image.dataset_image", lambda shape: np.zeros((9, 9, 3), np.uint8))
    return tmp_path


def write(path: Path, content: bytes | str | Build) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def state_of(folder: Path) -> dict[str, str]:
    """Every entry below a folder, with what it holds."""
    held = {}
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        held[str(path)] = hashlib.sha256(content).hexdigest()
    return held


def ended(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as end:  # argparse ends the process itself
        return int(end.code or 0)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Truncated File Read")
def test_bad_input_ends_in_one_clear_line(name: str, here: Path, capsys: pytest.CaptureFixture[str]):
    row = ROWS[name]
    for place, content in row.files.items():
        write(here / "set" / place, content)
    write(here / "data.yaml", row.yaml)
    before = state_of(here / "set")
    words = [row.command, "--data", "data.yaml", *FILES, "--project", str(here / "runs")]
    status = ended([*words, *row.words.format(here=here).split()])
    said = "".join(capsys.readouterr())
    assert row.said in said and status == row.status, said
    assert "Traceback" not in said and max(map(len, said.splitlines())) < 800
    assert state_of(here / "set") == before
    assert (here / "runs").exists() == (" errors, " in said) and not (here / "clean").exists()


def test_the_set_of_the_table_is_sound(here: Path, capsys: pytest.CaptureFixture[str]):
    write(here / "data.yaml", YAML)
    assert ended(["check", "--data", "data.yaml", *FILES, "--project", "runs"]) == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out
    assert len(ROWS) >= 60


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_named(here: Path, capsys: pytest.CaptureFixture[str]):
    write(here / "data.yaml", YAML)
    for place in ("labels/train/a.txt", "images/train/b.png"):
        (here / "set" / place).chmod(0)
    assert ended(["check", "--data", "data.yaml", *FILES, "--project", "runs"]) == ERROR
    said = capsys.readouterr().out
    assert "a.txt: cannot be read" in said and "b.png" in said
