"""Laws of ``yolo-lite download``: what arrives is what was asked for, or nothing; and nothing leaves its folder."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import re
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from yolo_lite.cli.main import main
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.load import load_dataset_config
from yolo_lite.data.index import index_split
from yolo_lite.data.split import dataset_root
from yolo_lite.tools import download
from yolo_lite.tools.unpack import MOST_EXPANSION, unpack


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a connection to this machine is allowed, and to no other."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: tuple[str, int]) -> None:
        assert address[0] == "127.0.0.1", f"a test tried to connect to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)


class Server(ThreadingHTTPServer):
    """Serves ``files``; can break connections, ignore ranges, answer with errors. ``asked`` lists path and range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks: list[int] = []  # each of the next answers ends after so many bytes
        self.knows_ranges = True
        self.redirects: dict[str, str] = {}
        self.busy = 0  # so many answers are 503

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, span = self.path.strip("/"), self.headers["Range"]
        self.server.asked.append((name, span))
        if self.server.busy:
            self.server.busy -= 1
            return self.send_error(503)
        if name in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[name])
            return self.end_headers()
        if name not in self.server.files:
            return self.send_error(404)
        whole = self.server.files[name]
        first = int(span[len("bytes=") : -1]) if span and self.server.knows_ranges else 0
        if first >= len(whole):
            return self.send_error(416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(whole) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        length = self.server.breaks.pop(0) if self.server.breaks else len(whole)
        self.wfile.write(whole[first : first + length])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


def zipped(members: dict[str, bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def picture() -> bytes:
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8))[1].tobytes()


SMALL = {
    "small/images/train/a.png": picture(),
    "small/labels/train/a.txt": b"1 0.5 0.5 0.5 0.5\n",
    "small/images/val/b.png": picture(),
    "small/labels/val/b.txt": b"0 0.5 0.5 0.2 0.2\n",
}
KEYS = {"path": "sets/small", "train": "images/train", "val": "images/val", "names": ["cat", "dog"]}


def served(server: Server, name: str, content: bytes) -> dict[str, object]:
    """The row of ``download`` for an archive that the server now has."""
    server.files[name] = content
    return {"url": server.url(name), "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_yaml(folder: Path, server: Server, archives: dict[str, bytes], **keys: object) -> Path:
    """A dataset YAML of archives that the server now has."""
    rows = [served(server, name, content) for name, content in archives.items()]
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**KEYS, "download": rows, **keys}))
    return path


def fetch(data: Path) -> bool:
    config = load_dataset_config(data)
    return download.download_set(config, dataset_root(config, data))


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------------------------------- from end to end


def test_a_set_is_fetched_unpacked_and_can_be_read(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    assert main(["download", str(data)]) == 0
    assert f"yolo-lite train --data {data}" in capsys.readouterr().out
    assert files_below(tmp_path / "sets") == SMALL  # and no archive, no .part is left
    index = index_split(load_dataset_config(data), data, "train")
    assert index.label.tolist() == [1] and index.xyxy.tolist() == [[10, 5, 30, 15]]


@pytest.mark.parametrize(("name", "mode"), [("small.tar", "w"), ("small.tar.gz", "w:gz"), ("small.tgz", "w:gz")])
def test_tar_archives_unpack_to_the_same_set(server, tmp_path, name, mode):
    assert fetch(write_yaml(tmp_path, server, {name: tarred(SMALL, mode)}))
    assert files_below(tmp_path / "sets") == SMALL


def voc_archive(year: int, split: str, number: str) -> bytes:
    """A set of one image in the layout of the official archives: a dog, and one that is marked difficult."""
    box = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    form = "<object><name>dog</name><difficult>{}</difficult>" + box + "</object>"
    members = {
        f"ImageSets/Main/{split}.txt": f"{number}\n".encode(),
        f"JPEGImages/{number}.jpg": picture(),
        f"Annotations/{number}.xml": f"<annotation>{form.format(0, 1)}{form.format(1, 3)}</annotation>".encode(),
    }
    return tarred({f"VOCdevkit/VOC{year}/{name}": content for name, content in members.items()})


def coco_json(name: str) -> bytes:
    row = {"id": 7, "image_id": 1, "category_id": 18, "bbox": [1, 2, 8, 6], "area": 40, "iscrowd": 0}
    images, categories = [{"id": 1, "file_name": name, "height": 20, "width": 40}], [{"id": 18, "name": "dog"}]
    return json.dumps({"images": images, "annotations": [row], "categories": categories}).encode()


PUBLIC = {
    "coco128": {
        "coco128.zip": zipped(
            {"coco128/images/train2017/9.jpg": picture(), "coco128/labels/train2017/9.txt": b"16 0.5 0.5 0.5 0.5\n"}
        )
    },
    "coco": {
        "annotations_trainval2017.zip": zipped(
            {
                "annotations/instances_train2017.json": coco_json("9.jpg"),
                "annotations/instances_val2017.json": coco_json("139.jpg"),
            }
        ),
        "train2017.zip": zipped({"train2017/": b"", "train2017/9.jpg": picture()}),
        "val2017.zip": zipped({"val2017/": b"", "val2017/139.jpg": picture()}),
    },
    "voc": {
        "VOCtrainval_06-Nov-2007.tar": voc_archive(2007, "trainval", "000005"),
        "VOCtest_06-Nov-2007.tar": voc_archive(2007, "test", "000001"),
        "VOCtrainval_11-May-2012.tar": voc_archive(2012, "trainval", "2007_000027"),
    },
}


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("coco128", {"train": ["9.jpg"], "val": ["9.jpg"]}),
        ("coco", {"train": ["9.jpg"], "val": ["139.jpg"]}),
        ("voc", {"train": ["000005.jpg", "2007_000027.jpg"], "val": ["000001.jpg"]}),
    ],
)
def test_the_public_sets_are_read_as_their_archives_unpack(name, pictures, server, tmp_path):
    content = yaml.safe_load((REPOSITORY / f"data/{name}.yaml").read_text())
    for row in content["download"]:
        file = row["url"].rpartition("/")[2]
        row.update(served(server, file, PUBLIC[name][file]))
    data = tmp_path / "data" / f"{name}.yaml"
    data.parent.mkdir()
    data.write_text(yaml.safe_dump(content))
    assert fetch(data)
    for split, expected in pictures.items():
        index = index_split(load_dataset_config(data), data, split)
        assert [Path(index.path(number)).name for number in range(len(index))] == expected
        assert {index.names[label] for label in index.label} == {"dog"} and not index.problems
        assert index.num_objects == len(expected) and index.crowd.sum() == (len(expected) if name == "voc" else 0)


def test_a_second_call_asks_nobody_and_writes_nothing(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    assert fetch(data)
    server.asked.clear()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["download", str(data)]) == 0
    assert "there already, nothing to do" in capsys.readouterr().out
    assert not server.asked and before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_folder_that_is_no_such_set_is_not_touched(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    (tmp_path / "sets/small").mkdir(parents=True)
    (tmp_path / "sets/small/mine.txt").write_text("mine")
    assert main(["download", str(data)]) == 2
    assert "is there but has no images/train" in capsys.readouterr().err
    assert files_below(tmp_path / "sets") == {"small/mine.txt": b"mine"} and not server.asked


def test_into_a_dataset_is_refused(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    for kind in ("images", "labels"):
        (tmp_path / "mine" / kind / "train").mkdir(parents=True)
    assert main(["download", str(data), "--into", str(tmp_path / "mine/images/train/big")]) == 2
    assert "--into" in capsys.readouterr().err and not server.asked


def test_into_puts_the_set_elsewhere_and_says_how_to_train_on_it(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    (tmp_path / "big").mkdir()  # an empty folder is no obstacle
    assert main(["download", str(data), "--into", str(tmp_path / "big")]) == 0
    assert f"--data {data} --set data.path={tmp_path / 'big'}" in capsys.readouterr().out
    assert (tmp_path / "big/images/train/a.png").exists() and not (tmp_path / "sets").exists()


def test_a_missing_source_is_told_before_the_set_takes_its_name(server, tmp_path):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)}, test="images/test")
    with pytest.raises(DataError, match=r"the archives hold no images/test; found small"):
        fetch(data)
    assert not (tmp_path / "sets/small").exists()


def test_a_lone_folder_around_a_set_is_left_out_and_one_of_the_set_is_not(server, tmp_path):
    bare = {name.removeprefix("small/"): content for name, content in SMALL.items() if "images" in name}
    assert fetch(write_yaml(tmp_path, server, {"small.zip": zipped(bare)}))
    assert files_below(tmp_path / "sets/small") == bare


def test_two_commands_do_not_work_in_one_folder(server, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    (tmp_path / "sets/small.download").mkdir(parents=True)
    with (tmp_path / "sets/small.download/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another yolo-lite download is at work there"):
            fetch(data)
        assert not server.asked
    assert fetch(data)


# ---------------------------------------------------------------------------------------------------- broken transfers


def test_a_broken_transfer_goes_on_where_it_broke(server, tmp_path):
    content = zipped(SMALL)
    server.breaks = [300, 200]
    assert fetch(write_yaml(tmp_path, server, {"small.zip": content}))
    assert [span for _, span in server.asked] == [None, "bytes=300-", "bytes=500-"]
    assert files_below(tmp_path / "sets") == SMALL


def test_a_stopped_command_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    copy = download._copy

    def stopped(answer: io.BytesIO, *rest: object) -> None:
        copy(io.BytesIO(answer.read(400)), *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_copy", stopped)
    assert main(["download", str(data)]) == 130
    assert (tmp_path / "sets/small.download/small.zip.part").stat().st_size == 400
    monkeypatch.setattr(download, "_copy", copy)
    assert fetch(data)
    assert [span for _, span in server.asked] == [None, "bytes=400-"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.knows_ranges, server.breaks = False, [300]
    assert fetch(write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)}))
    assert [span for _, span in server.asked] == [None, "bytes=300-"]
    assert files_below(tmp_path / "sets") == SMALL


def test_a_server_that_always_breaks_is_given_up_and_what_came_is_kept(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    server.breaks = [300] + [0] * download.ATTEMPTS
    assert main(["download", str(data)]) == 2
    said = capsys.readouterr().err
    assert f"300 of {len(server.files['small.zip'])} bytes are kept, the same command goes on" in said
    assert len(server.asked) == 1 + download.ATTEMPTS
    assert fetch(data)


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.busy = 2
    assert fetch(write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)}))


def test_a_finished_transfer_is_not_asked_for_again(server, tmp_path):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    (tmp_path / "sets/small.download").mkdir(parents=True)
    (tmp_path / "sets/small.download/small.zip.part").write_bytes(server.files["small.zip"])
    assert fetch(data) and not server.asked


@pytest.mark.parametrize("change", ["a bit", "longer", "shorter"])
def test_another_file_than_the_one_described_is_never_unpacked(server, tmp_path, capsys, change):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    good = server.files["small.zip"]
    server.files["small.zip"] = {"a bit": good[:99] + bytes([good[99] ^ 1]) + good[100:], "longer": good + b" "}.get(
        change, good[:-1]
    )
    assert main(["download", str(data)]) == 2
    said = capsys.readouterr().err
    if change == "a bit":
        found = hashlib.sha256(server.files["small.zip"]).hexdigest()
        assert f"expected sha256 {hashlib.sha256(good).hexdigest()}, found {found}" in said
    else:
        assert f"expected {len(good)} bytes, the server has {len(server.files['small.zip'])}" in said
    assert list(files_below(tmp_path / "sets")) == ["small.download/lock"]
    server.files["small.zip"] = good
    assert fetch(data)


def test_a_remainder_of_another_file_does_not_end_in_a_loop(server, tmp_path):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    server.files["small.zip"] = server.files["small.zip"][:200]  # the server's file ends before what we have
    (tmp_path / "sets/small.download").mkdir(parents=True)
    (tmp_path / "sets/small.download/small.zip.part").write_bytes(b"x" * 300)
    with pytest.raises(DataError, match="the server has 200: it is another file"):
        fetch(data)


def test_a_file_that_is_not_there_is_told_at_once(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    server.files.clear()
    assert main(["download", str(data)]) == 2
    assert capsys.readouterr().err == f"error: {server.url('small.zip')}: HTTP 404 Not Found\n"
    assert len(server.asked) == 1


def test_a_redirect_leads_to_the_web_only(server, tmp_path, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    for address in ("file:///etc/passwd", "ftp://127.0.0.1/small.zip"):
        server.redirects["small.zip"] = address
        assert main(["download", str(data)]) == 2
        assert address in capsys.readouterr().err
    server.files["moved.zip"], server.redirects["small.zip"] = server.files["small.zip"], server.url("moved.zip")
    server.breaks = [300]
    assert fetch(data)
    assert server.asked[-1] == ("moved.zip", "bytes=300-")


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    text = re.sub(r"size: \d+", f"size: {10**18}", data.read_text())
    data.write_text(text)
    with pytest.raises(DataError, match=r"archives and set need about 2\.00EB, .* are free"):
        fetch(data)
    assert not server.asked and not (tmp_path / "sets").exists()


def test_a_disk_that_fills_up_is_one_clear_line(server, tmp_path, monkeypatch, capsys):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("yolo_lite.tools.unpack._write", full)
    assert main(["download", str(data)]) == 2
    assert capsys.readouterr().err.endswith("small.download: No space left on device\n")
    assert set(files_below(tmp_path / "sets")) == {"small.download/small.zip", "small.download/lock"}


# ----------------------------------------------------------------------------------------------------------- unpacking


def test_a_stopped_unpacking_is_repeated_without_another_transfer(server, tmp_path, monkeypatch):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    (tmp_path / "sets/small.download/unpacked/small/images").mkdir(parents=True)  # as a killed process leaves it
    (tmp_path / "sets/small.download/unpacked/small/images/half.png").write_text("half")
    (tmp_path / "sets/small.download/small.zip").write_bytes(server.files["small.zip"])
    assert fetch(data)
    assert not server.asked and files_below(tmp_path / "sets") == SMALL


def test_an_archive_laid_there_by_hand_is_verified_and_not_deleted(server, tmp_path):
    data = write_yaml(tmp_path, server, {"small.zip": zipped(SMALL)})
    (tmp_path / "sets/small.download").mkdir(parents=True)
    by_hand = tmp_path / "sets/small.download/small.zip"
    by_hand.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"small\.zip: expected sha256 .*; remove it"):
        fetch(data)
    assert by_hand.read_bytes() == b"something else" and not server.asked


def linked(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("a/link")
        info.type, info.linkname = kind, "../../outside"
        archive.addfile(info)
        info = tarfile.TarInfo("a/link/x.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    return buffer.getvalue()


def odd_size(size: int) -> bytes:
    info = tarfile.TarInfo("a")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def zipped_link() -> bytes:
    info = zipfile.ZipInfo("a/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped({info: b"../../outside"})


def stated_header(kind: bytes, size: int) -> bytes:
    """A tar whose first header says that so many bytes of attributes or of a name follow."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def nested_headers(count: int) -> bytes:
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, 512
    return (info.tobuf(tarfile.GNU_FORMAT) + b"11 path=abc\n".ljust(512, b"\0")) * count + bytes(1024)


def many_folders(count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for number in range(count):
            info = tarfile.TarInfo(f"{number}")
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    return buffer.getvalue()


def overlapping(count: int) -> bytes:
    """A zip whose entries all have the bytes of the first one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("0", bytes(1000))
        (first,) = archive.filelist
        for number in range(1, count):
            twin = copy.copy(first)
            twin.filename = twin.orig_filename = str(number)
            archive.filelist.append(twin)
    return buffer.getvalue()


HOSTILE = {
    "a great attribute.tar": (
        stated_header(tarfile.XHDTYPE, 2**31),
        r"a header of 2,147,483,648 bytes, expected at most",
    ),
    "a great attribute.tar.gz": (gzip.compress(stated_header(tarfile.XHDTYPE, 2**31)), "a header of 2,147"),
    "a great name.tar": (stated_header(tarfile.GNUTYPE_LONGNAME, 2**33 - 1), r"a header of 8,589,934,592 bytes"),
    "headers in headers.tar": (nested_headers(5000), "damaged"),
    "headers alone.tgz": (gzip.compress(stated_header(tarfile.XGLTYPE, 2**20)[:512] + bytes(2**20)), "100 times"),
    "many folders.tgz": (many_folders(5_000), r"more than [\d,]+ files and folders in [\d,]+ bytes"),
    "deep folders.tar": (tarred({"a/" * 100 + "b": b"1"}), "lies 101 folders deep, expected at most 64"),
    "a long name.zip": (zipped({"n" * 65_535: b"1"}), "has a name that is too long"),
    "a long path.zip": (zipped({"/".join(["n" * 200] * 30): b"1"}), "has a name that is too long"),
    "shared bytes.zip": (overlapping(1000), "entries overlap at byte 0|Overlapped entries"),
    "a path upwards.zip": (zipped({"a/../../outside": b"x"}), "leads out of the folder"),
    "a path upwards.tar": (tarred({"../outside": b"x"}), "leads out of the folder"),
    "an absolute path.zip": (zipped({"/tmp/outside": b"x"}), "leads out of the folder"),
    "an absolute path.tar": (tarred({"/tmp/outside": b"x"}), "leads out of the folder"),
    "windows upwards.zip": (zipped({"..\\outside": b"x"}), "leads out of the folder"),
    "windows drive.tar": (tarred({"./C:/outside": b"x"}), "leads out of the folder"),
    "a link.zip": (zipped_link(), "is a link"),
    "a symbolic link.tar": (linked(tarfile.SYMTYPE), "is a link"),
    "a hard link.tar": (linked(tarfile.LNKTYPE), "is a link"),
    "a device.tar": (linked(tarfile.CHRTYPE), "is a device"),
    "a pipe.tar": (linked(tarfile.FIFOTYPE), "is a device"),
    "a size below 0.tar": (odd_size(-512), "damaged|has a size below 0"),  # newer Pythons refuse it themselves
    "a file twice.tar": (tarred({"a/x": b"1", "./a/x": b"2"}), "has the place of"),
    "two cases.zip": (zipped({"a/x": b"1", "A/x": b"2"}), "has the place of"),
    "two accents.zip": (zipped({"\u00e9": b"1", "e\u0301": b"2"}), "has the place of"),
    "a file and a folder.tar": (tarred({"a": b"1", "a/x": b"2"}), "has the place of"),
    "a folder and a file.tar": (tarred({"a/x": b"1", "a": b"2"}), "has the place of"),
    "a control character.tar": (tarred({"a\x1b[2J": b"1"}), "is no name of a file"),
    "no name.tar": (tarred({"./": b"1"}), "is no name of a file"),
    "a bomb.zip": (zipped({"x": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED), "unpacks to more than 100 times"),
    "a bomb.tar.gz": (tarred({"x": bytes(10**6)}, "w:gz"), "unpacks to more than 100 times"),
    "a cut archive.zip": (zipped(SMALL)[:-30], "damaged"),
    "a cut archive.tar": (tarred({"a": bytes(5000)})[:2000], "damaged"),
    "a cut archive.tgz": (tarred(SMALL, "w:gz")[:-300], "damaged"),
    "no archive.zip": (b"<html>", "damaged"),
    "a wrong checksum.zip": (zipped({"a": b"hello world"}).replace(b"hello", b"hullo"), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_by_name_and_writes_nothing_outside(name, tmp_path):
    content, expected = HOSTILE[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(DataError, match=expected) as caught:
        unpack(tmp_path / "in" / name, tmp_path / "in/folder", {})
    assert str(tmp_path / "in" / name) in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "in"] and not Path("/tmp/outside").exists()
    assert all(path.is_dir() or path.stat().st_size < 3000 for path in (tmp_path / "in").glob("folder/**/*"))


def test_a_refused_archive_leaves_no_unpacked_file(server, tmp_path):
    data = write_yaml(tmp_path, server, {"small.tar": tarred({**SMALL, "../outside": b"x"})})
    with pytest.raises(DataError, match=r"small\.tar: refused: '\.\./outside' leads out of the folder"):
        fetch(data)
    assert set(files_below(tmp_path / "sets")) == {"small.download/small.tar", "small.download/lock"}


def test_no_archive_of_a_set_overwrites_another_ones_files(server, tmp_path):
    archives = {"one.tar": tarred(SMALL), "two.tar": tarred({"small/images/train/a.png": b"another"})}
    with pytest.raises(DataError, match=r"two\.tar: refused: 'small/images/train/a\.png' has the place of"):
        fetch(write_yaml(tmp_path, server, archives))


def test_text_may_shrink_much_in_an_archive(tmp_path):
    rows = "".join(f"0 0.{n} 0.5 0.1 0.1\n" for n in range(20_000)).encode()
    content = zipped({"a/b.txt": rows, "c/": b""}, compression=zipfile.ZIP_DEFLATED)
    assert 3 < len(rows) / len(content) < MOST_EXPANSION
    (tmp_path / "a.zip").write_bytes(content)
    unpack(tmp_path / "a.zip", tmp_path / "folder", {})
    assert (tmp_path / "folder/a/b.txt").read_bytes() == rows and (tmp_path / "folder/c").is_dir()


# -------------------------------------------------------------------------------------------------------- the YAML key


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"url": "ftp://a/b.zip"}, "download.0.url: expected http"),
        ({"url": "http://a/b.rar"}, "download.0.url: expected http"),
        ({"sha256": "0" * 63}, "download.0.sha256: expected 64 digits"),
        ({"size": 0}, "download.0.size: expected 1 or more, found 0"),
        ({"into": "../x"}, "download.0.into: expected a folder below the set's, found '../x'"),
        ({"into": "C:\\x"}, "download.0.into: expected a folder below"),
        ({"sha": "0"}, "unknown key 'download.0.sha' (nearest: 'sha256')"),
    ],
)
def test_a_wrong_archive_of_a_yaml_is_named_with_its_line(tmp_path, row, expected):
    archive = {"url": "http://a/b.zip", "size": 1, "sha256": "0" * 64, **row}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({**KEYS, "download": [archive]}, sort_keys=False))
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        load_dataset_config(tmp_path / "a.yaml")
    assert re.search(r"a\.yaml:\d+: ", str(caught.value))


def test_the_download_key_of_a_yolov5_file_is_neither_fetched_nor_executed(server, tmp_path, capsys):
    data = tmp_path / "theirs.yaml"
    for foreign in (server.url("small.zip"), "import os\nos.mkdir('made')\n", "bash get.sh"):
        data.write_text(yaml.safe_dump({**KEYS, "download": foreign}))
        assert main(["download", str(data)]) == 2
        assert "names no archives with url, size and sha256" in capsys.readouterr().err
    assert not server.asked


def test_a_set_that_is_not_there_yet_is_answered_with_the_command(tmp_path):
    data = REPOSITORY / "data/coco128.yaml"
    config = load_dataset_config(data, [f"data.path={tmp_path / 'coco128'}"])
    with pytest.raises(DataError, match=f"no such folder: .*; yolo-lite download {re.escape(str(data))} fetches"):
        index_split(config, data, "train")


def test_an_unknown_name_is_answered_with_the_nearest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["download", "coco182"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: coco182: no such file") and said.endswith("(nearest: 'coco128')\n")


def test_the_public_sets_have_the_classes_that_torchvision_knows():
    names = {name: load_dataset_config(REPOSITORY / f"data/{name}.yaml").names for name in ("coco", "coco128", "voc")}
    coco = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    voc = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert names["coco"] == names["coco128"] == tuple(name for name in coco if name not in ("__background__", "N/A"))
    assert names["voc"] == tuple(voc[1:]) and len(names["voc"]) == 20 and len(names["coco"]) == 80


def test_only_the_command_and_the_flag_know_how_to_download():
    package = REPOSITORY / "yolo_lite"
    knows = {str(path.relative_to(package)) for path in package.rglob("*.py") if "tools.download" in path.read_text()}
    opens = {str(path.relative_to(package)) for path in package.rglob("*.py") if "urllib.request" in path.read_text()}
    loads = {str(path.relative_to(package)) for path in package.rglob("*.py") if "_from_url" in path.read_text()}
    assert loads == {"tools/download_weights.py"}  # of pretrained weights
    assert knows == {"cli/download.py", "cli/train.py"} and opens == {"tools/download.py"}
