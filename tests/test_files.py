"""Which files a source names: through links, past loops, each once, and nothing that looks like an image is lost."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.config.errors import DataError
from yolo_lite.data.files import list_sources
from yolo_lite.data.places import Places, find_places

JPEG = b"\xff\xd8\xff\xe0 and so on"


def make(root: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def link(place: Path, target: Path | str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def names(root: Path, *sources: str) -> list[str]:
    return [os.path.relpath(path, root) for path in list_sources(root, sources, "d.yaml").images]


# ---------------------------------------------------------------------------------------------------------- folders


def test_a_link_to_a_folder_is_followed_wherever_it_leads(tmp_path):
    make(tmp_path, "far/images/q.jpg", "far/images/deep/r.jpg", "set/images/p.jpg")
    link(tmp_path / "set/images/more", "../../far/images")
    root = tmp_path / "set"
    expected = ["images/more/deep/r.jpg", "images/more/q.jpg", "images/p.jpg"]
    assert names(root, "images") == expected == names(root, "images/**/*.jpg") == names(root, "**/*.jpg")
    link(tmp_path / "set/all", tmp_path / "far")
    assert names(root, "all/images") == ["all/images/deep/r.jpg", "all/images/q.jpg"]  # a source that is a link's


@pytest.mark.parametrize("source", ["images", "images/**/*.jpg", "**/*.jpg"])
def test_loops_of_links_are_survived(tmp_path, source):
    make(tmp_path, "set/images/a/p.jpg", "set/other.jpg", "far/q.jpg")
    for place, target in (("a/up", ".."), ("a/self", "self"), ("a/again", "../a"), ("out", "../../far")):
        link(tmp_path / "set/images" / place, target)
    link(tmp_path / "far/back", "../set/images/a")
    link(tmp_path / "far/home", "../set")  # holds the source: what else lies in it was not asked for
    found = names(tmp_path / "set", source)
    assert found == ["images/a/p.jpg", "images/out/q.jpg", *(["other.jpg"] if source == "**/*.jpg" else [])]


def test_a_folder_keeps_its_own_name_else_the_first_links(tmp_path):
    make(tmp_path, "set/zebra/p.jpg", "far/q.jpg")
    for name in ("b", "a"):
        link(tmp_path / "set" / name, "zebra")
        link(tmp_path / "set" / f"{name}2", "../far")
    listing = list_sources(tmp_path / "set", ["."], "d.yaml")
    assert [os.path.relpath(path, tmp_path / "set") for path in listing.images] == ["a2/q.jpg", "zebra/p.jpg"]
    assert [os.path.basename(path) for path in listing.repeated] == ["a", "b", "b2"]
    assert "3 paths lead to what is read already" in listing.remarks()[0]
    assert names(tmp_path / "set", "*/*.jpg") == ["zebra/p.jpg", "a2/q.jpg"]


TREES = st.fixed_dictionaries(
    {
        "folders": st.lists(st.integers(0, 5), min_size=1, max_size=6),  # the parent of each: 0 the set, 1 outside
        "links": st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=6),
        "images": st.lists(st.integers(0, 7), max_size=8),
    }
)


@settings(max_examples=60, deadline=None)
@given(TREES, st.sampled_from([".", "**/*.jpg", "**"]))
def test_every_image_that_can_be_reached_is_listed_once(tree, source):
    with tempfile.TemporaryDirectory() as top:
        folders = [Path(top, "set"), Path(top, "outside")]
        for number, parent in enumerate(tree["folders"]):
            folders.append(folders[min(parent, len(folders) - 1)] / f"f{number}")
        for folder in folders:
            folder.mkdir(parents=True)
        for number, (place, target) in enumerate(tree["links"]):
            (folders[place % len(folders)] / f"l{number}").symlink_to(folders[target % len(folders)])
        for number, place in enumerate(tree["images"]):
            (folders[place % len(folders)] / f"{number}.jpg").touch()
        reached, waiting = set[str](), [str(folders[0])]
        while waiting:
            if (real := os.path.realpath(waiting.pop())) not in reached:
                reached.add(real)
                waiting += [entry.path for entry in os.scandir(real) if entry.is_dir()]
        expected = sorted(entry.path for real in reached for entry in os.scandir(real) if entry.is_file())
        if not expected and source != ".":
            return
        found = list_sources(folders[0], [source], "d.yaml").images
        assert sorted(map(os.path.realpath, found)) == [os.path.realpath(path) for path in expected]
        assert found == sorted(found, key=lambda path: path.split(os.sep))


def test_a_pattern_that_finds_folders_reads_them(tmp_path):
    make(tmp_path, "clips/b/images/1.jpg", "clips/a/images/deep/2.jpg", "clips/a/3.jpg")
    assert names(tmp_path, "clips/*/images") == ["clips/a/images/deep/2.jpg", "clips/b/images/1.jpg"]
    assert names(tmp_path, "clips/a/*") == ["clips/a/3.jpg"]  # it has found an image


def test_patterns_leave_hidden_files_as_glob_does(tmp_path):
    make(tmp_path, "a/1.jpg", "a/.2.jpg", ".b/3.jpg", "a/c/d/4.jpg")
    assert names(tmp_path, "**/*.jpg") == ["a/1.jpg", "a/c/d/4.jpg"]
    assert names(tmp_path, "**/.*.jpg") == ["a/.2.jpg"]
    assert names(tmp_path, "a/**/d/**/4.*") == ["a/c/d/4.jpg"] == names(tmp_path, "*/**/d/*")
    assert names(tmp_path, "a/**") == ["a/1.jpg", "a/c/d/4.jpg"]


# ------------------------------------------------------------------------------------------------ what is not read


def test_what_looks_like_an_image_and_is_not_read_is_counted_and_named(tmp_path):
    make(tmp_path, "a.svg", "b.NEF", "c.dcm", "a.txt", "notes.md", "film.mp4", "data.yaml", "README", "v1.0")
    make(tmp_path, "photo", "IMG.20200101", "x.jpg~", "y.jpg_large", content=JPEG)
    make(tmp_path, "good.jpg", "GOOD.JFIF")
    link(tmp_path / "away", "nowhere")
    listing = list_sources(tmp_path, ["."], "d.yaml")
    assert [os.path.basename(path) for path in listing.images] == ["GOOD.JFIF", "good.jpg"]
    unread = ["IMG.20200101", "a.svg", "away", "b.NEF", "c.dcm", "photo", "x.jpg~", "y.jpg_large"]
    assert [os.path.basename(path) for path in listing.unread] == unread
    [line] = listing.remarks()
    assert line.startswith("8 files look like images and are not read (2 without suffix, 1 .20200101, 1 .dcm")
    assert line.endswith(f"{tmp_path}/away, ...")


def test_the_library_that_reads_a_kind_is_named(tmp_path):
    make(tmp_path, "a.zip", "b.svg")
    for name, message in (("a.zip", "its name ends not in .txt"), ("b.svg", "images of this kind are not read here")):
        with pytest.raises(DataError, match=rf"d.yaml: expected a list of images in .*{name}, or an image: {message}"):
            list_sources(tmp_path, [name], "d.yaml")


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "closed.v2/b.jpg")

    def scandir(path, opens=os.scandir):
        if "closed" in path:
            raise PermissionError(path)
        return opens(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_sources(tmp_path, ["."], "d.yaml")
    assert names(tmp_path, ".") == ["a.jpg"] and listing.unread == [f"{tmp_path}/closed.v2/"]


# ------------------------------------------------------------------------------------------------------------ lists


@pytest.fixture
def root(tmp_path):
    make(tmp_path, "images/a.jpg", "images/b.jpg", "lists/here.jpg", "obj_train_data/x.jpg", "it's.jpg", "#1.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("images\\a.jpg", "images/a.jpg"),
        (".\\images\\a.jpg", "images/a.jpg"),
        ('"images/a.jpg"', "images/a.jpg"),
        ("'images/a.jpg'", "images/a.jpg"),
        ("it's.jpg", "it's.jpg"),
        ("#1.jpg", "#1.jpg"),
        ("data/obj_train_data/x.jpg", "obj_train_data/x.jpg"),
        ("C:\\Users\\me\\set\\images\\a.jpg", "images/a.jpg"),
        ("/content/set/images/a.jpg", "images/a.jpg"),
        ("../set/lists/here.jpg", "lists/here.jpg"),
        ("/gone/here.jpg", "lists/here.jpg"),  # beside the list
        ("images/no.jpg", "lists/images/no.jpg"),  # nowhere: missing when it is read
        ("/far/no.jpg", "/far/no.jpg"),
    ],
)
def test_rows_are_understood_or_missing(root, row, expected):
    (root / "lists/train.txt").write_text(f"# a comment\n\n{row}\n", encoding="utf-8")
    assert names(root, "lists/train.txt") == [os.path.relpath(root / expected, root)]


def test_a_list_of_powershell_is_read(root):
    (root / "train.txt").write_bytes("images\\a.jpg\r\nimages\\b.jpg\r\n".encode("utf-16"))
    assert names(root, "train.txt") == ["images/a.jpg", "images/b.jpg"]


def test_paths_that_were_found_by_their_ends_are_said_once(root):
    (root / "train.txt").write_text("/old/set/images/a.jpg\n/old/set/images/b.jpg\n")
    [line] = list_sources(root, ["train.txt"], "d.yaml").remarks()
    assert line == (
        f"{root}/train.txt: 2 paths are found by their ends, "
        f"the first: /old/set/images/a.jpg is read from {root}/images/a.jpg"
    )


def test_two_rows_never_end_at_one_file(root):
    (root / "train.txt").write_text("/clip1/images/a.jpg\n/clip2/images/a.jpg\n")
    assert names(root, "train.txt") == [os.path.relpath(f"/clip{n}/images/a.jpg", root) for n in (1, 2)]
    (root / "train.txt").write_text("images/a.jpg\n/clip2/images/a.jpg\n")
    assert names(root, "train.txt")[0] == "images/a.jpg"
    assert not list_sources(root, ["train.txt"], "d.yaml").repeated


def test_an_end_that_lies_in_two_places_is_not_guessed(root):
    make(root, "lists/images/a.jpg")
    (root / "lists/train.txt").write_text("/old/images/a.jpg\n")
    assert list_sources(root, ["lists/train.txt"], "d.yaml").images == ["/old/images/a.jpg"]


def test_what_is_named_twice_is_used_once_and_counted(root):
    (root / "train.txt").write_text("images/a.jpg\n./images/a.jpg\nimages/../images/b.jpg\n")
    listing = list_sources(root, ["train.txt", "images", "images/b*"], "d.yaml")
    assert [os.path.basename(path) for path in listing.images] == ["a.jpg", "b.jpg"]
    assert len(listing.repeated) == 4 and "4 paths lead to what is read already, once" in listing.remarks()[0]


def test_ids_of_voc_find_images_of_any_suffix(tmp_path):
    make(tmp_path, "JPEGImages/1.jpg", "JPEGImages/2.png", "ImageSets/Layout/x")
    (tmp_path / "ImageSets/Main").mkdir()
    for part in ("Main", "Layout"):
        (tmp_path / f"ImageSets/{part}/train.txt").write_text("1\n2\n")
        assert names(tmp_path, f"ImageSets/{part}/train.txt") == ["JPEGImages/1.jpg", "JPEGImages/2.png"]


# ----------------------------------------------------------------------------------------- what lies elsewhere


def places(folder: Path, *sources: str, path: str = ".") -> Places:
    return find_places((folder / path).resolve(), folder, sources, "d.yaml")


@pytest.mark.parametrize(
    ("stated", "lies"),
    [
        ("../train/images", "train/images"),  # as Roboflow writes it
        ("/content/dataset/train/images", "train/images"),
        ("D:\\set\\train\\images", "train/images"),
        ("data/train.txt", "train.txt"),  # as darknet writes it
        ("images/train", "pets/images/train"),
        ("/content/set/train/*.jpg", "train/1.jpg"),
        ("../train/images/**/*.jpg", "train/images/1.jpg"),
    ],
)
def test_a_source_that_is_not_there_is_looked_for_below_the_yamls_folder(tmp_path, stated, lies):
    root = tmp_path / "set [v1]"
    make(root, lies if "." in lies else f"{lies}/1.jpg", content=b"1.jpg\n")
    found = places(root, stated)
    assert len(list_sources(found.root, [found.of(stated)], "d.yaml").images) == 1
    assert found.notes([stated]) == [f"there is no {root / stated}: {found.of(stated)} is used"]


def test_a_source_that_is_there_is_never_looked_for(tmp_path):
    make(tmp_path, "train/1.jpg", "set/train/2.jpg")
    assert not places(tmp_path / "set", "../train").moved and not places(tmp_path / "set", "nothing").moved


def test_a_source_that_could_be_in_two_places_is_an_error_with_both_where_it_is_used(tmp_path):
    make(tmp_path, "train/images/1.jpg", "images/2.jpg", "val/3.jpg")
    found = places(tmp_path, "../val", "../train/images")
    assert found.of("../val") == str(tmp_path / "val")
    with pytest.raises(DataError, match=rf"it could be {tmp_path}/images or {tmp_path}/train/images: write which"):
        found.of("../train/images")


def test_two_sources_are_never_found_at_one_place(tmp_path):
    make(tmp_path, "images/1.jpg")
    found = places(tmp_path, "/a/train/images", "/a/val/images")
    with pytest.raises(DataError, match=r"val/images; .*images is what /a/train/images means already"):
        found.of("/a/val/images")
    with pytest.raises(DataError, match=r"/a/val/images; .*images is what images means already"):
        places(tmp_path, "/a/val/images", "images").of("/a/val/images")


@pytest.mark.parametrize(("path", "lies"), [("/content/pets", "."), ("../datasets/pets", "pets"), ("./x", ".")])
def test_a_root_that_is_not_there_is_looked_for_too(tmp_path, path, lies):
    make(tmp_path, f"{lies}/images/train/1.jpg")
    found = places(tmp_path, "images/train", "images/val", path=path)
    assert found.root == (tmp_path / lies).resolve() and not found.moved
    assert found.notes([]) == [f"there is no {(tmp_path / path).resolve()}: {found.root} is used"]


def test_a_root_that_could_be_two_folders_is_an_error_with_both(tmp_path):
    make(tmp_path, "images/train/1.jpg", "pets/images/train/1.jpg")
    with pytest.raises(DataError, match=rf"path: no such folder: /far/pets; it could be {tmp_path} or {tmp_path}/pets"):
        places(tmp_path, "images/train", path="/far/pets")


def test_a_root_that_is_nowhere_stays_as_it_is_stated(tmp_path):
    assert places(tmp_path, "images/train", path="/far/pets").root == Path("/far/pets")
