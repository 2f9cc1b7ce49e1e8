"""Sets of drawn images, laid out as annotation programs export them; a test finds the objects again by their colour."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from conftest import boxes_only

from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.writers import WRITERS, coco_dict

NAMES = ("cat", "dog", "traffic light")
COLOURS = ((250, 20, 20), (20, 250, 20), (20, 20, 250))  # RGB of a class
WORDS = ("ape", "bee", "crow", "deer", "eel", "fox", "goat", "hen", "ibis", "jay", "koi", "lynx")
WIDTH, HEIGHT = 96, 72
WRITTEN: dict[tuple[str, bytes], tuple[str, str]] = {}  # label files by format and image: ending and text


class Image(NamedTuple):
    """One image and its objects."""

    name: str  # without its ending
    names: tuple[str, ...]  # of classes
    content: bytes  # of the file
    suffix: str
    size: tuple[int, int]  # height and width in pixels
    objects: list[tuple[int, tuple[float, ...]]]  # class and box xyxy

    @property
    def file(self) -> str:
        return f"{self.name}{self.suffix}"

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}{self.suffix}").write_bytes(self.content)

    def index(self) -> DatasetIndex:
        """As the writers of ``convert`` take it."""
        xyxy = np.array([box for _, box in self.objects], dtype=np.float64).reshape(-1, 4)
        label = np.array([label for label, _ in self.objects], dtype=np.int64)
        first, ids = np.array([0, len(label)]), np.arange(len(self.names))
        size, path = np.array([self.size]), np.array([self.file.encode()])
        return DatasetIndex(
            self.names,
            path,
            size,
            first,
            label,
            image_id=np.zeros(1, int),
            category_id=ids,
            problems=(),
            **boxes_only(xyxy),
        )

    def written(self, kind: str, path: Path) -> None:
        """The label file in a format, with the name that ``path`` has, but the format's ending."""
        key = (kind, self.content)
        if key not in WRITTEN:
            with tempfile.TemporaryDirectory() as folder:
                below = WRITERS[kind](self.index(), [Path("a.jpg")], Path(folder), "train", False)
                (file,) = Path(folder, below).iterdir()
                WRITTEN[key] = (file.suffix, file.read_text())
        suffix, text = WRITTEN[key]
        write(path.with_name(f"{path.name}{suffix}"), text)

    def yolo(self, path: Path) -> None:
        self.written("yolo", path)

    def voc(self, path: Path) -> None:
        self.written("voc", path)


def drawn(names: tuple[str, ...] = WORDS, seed: int = 0) -> list[Image]:
    """Images of coloured patches, each with a painted rectangle of every class."""
    rng, images = np.random.default_rng(seed), []
    for name in names:
        patches = rng.integers(60, 180, (6, 8, 3), dtype=np.uint8)
        pixels, objects = cv2.resize(patches, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), []
        for label in range(3):
            x1, y1 = int(rng.integers(32 * label, 32 * label + 10)), int(rng.integers(0, 40))
            x2, y2 = x1 + int(rng.integers(8, 20)), y1 + int(rng.integers(8, 30))
            pixels[y1:y2, x1:x2] = COLOURS[label]
            objects.append((label, (x1, y1, x2, y2)))
        content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
        images.append(Image(name, NAMES, content, ".png", (HEIGHT, WIDTH), objects))
    return images


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def coco(
    path: Path, images: list[Image], file_name: Callable[[Image], str], first_id: int = 1, unused: bool = False
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    rows["categories"] += [{"id": 0, "name": "pets", "supercategory": "none"}] if unused else []
    parent = "pets" if unused else ""
    for number, one in enumerate(images):
        content = coco_dict(
            one.index(), [number], [first_id + label for label in range(len(one.names))], [file_name(one)]
        )
        rows["images"] += content["images"]
        rows["annotations"] += [row | {"id": len(rows["annotations"]) + row["id"]} for row in content["annotations"]]
    rows["categories"] += [row | {"supercategory": parent} for row in content["categories"]]
    write(path, json.dumps({"info": {}, "licenses": [], **rows}))


def parts(images: list[Image], *names: str) -> Iterator[tuple[str, list[Image]]]:
    """The images in splits of these names: the first has two thirds."""
    if len(names) == 1:
        yield names[0], images
        return
    cut = 2 * len(images) // 3
    rest = images[cut:]
    yield names[0], images[:cut]
    for number, name in enumerate(names[1:]):
        yield name, rest[number :: len(names) - 1]


def roboflow(one: Image) -> str:
    return f"{one.name}_{one.suffix[1:]}.rf.{one.name.encode().hex():0<32}"


def roboflow_yolo(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "valid", "test"):
        for one in own:
            one.save(root / split / "images" / roboflow(one))
            one.yolo(root / split / "labels" / roboflow(one))
    content = {
        "train": "../train/images",
        "val": "../valid/images",
        "test": "../test/images",
        "nc": len(images[0].names),
        "names": list(images[0].names),
    }
    write(root / "data.yaml", yaml.safe_dump(content | {"roboflow": {"workspace": "w", "version": 1}}))
    write(root / "README.roboflow.txt", "pets - v1\n")


def roboflow_darknet(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "valid"):
        for one in own:
            one.save(root / split / roboflow(one))
            one.yolo(root / split / roboflow(one))
        write(root / split / "_darknet.labels", "\n".join(images[0].names))


def roboflow_coco(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "valid", "test"):
        for one in own:
            one.save(root / split / roboflow(one))
        coco(root / split / "_annotations.coco.json", own, lambda one: f"{roboflow(one)}{one.suffix}", unused=True)


def roboflow_voc(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "valid"):
        for one in own:
            one.save(root / split / roboflow(one))
            one.voc(root / split / roboflow(one))


def cvat_yolo(root: Path, images: list[Image], *subsets: str) -> None:
    rows = "classes = 99\n"
    for subset, own in parts(images, *(subsets or ("train",))):
        for one in own:
            one.save(root / f"obj_{subset}_data/{one.name}")
            one.yolo(root / f"obj_{subset}_data/{one.name}")
        write(root / f"{subset}.txt", "".join(f"data/obj_{subset}_data/{one.file}\n" for one in own))
        rows += f"{subset} = data/{subset}.txt\n"
    write(root / "obj.data", rows + "names = data/obj.names\nbackup = backup/\n")
    write(root / "obj.names", "".join(f"{name}\n" for name in images[0].names))


def cvat_yolo_subsets(root: Path, images: list[Image]) -> None:
    cvat_yolo(root, images, "train", "valid")


def cvat_ultralytics(root: Path, images: list[Image], *subsets: str) -> None:
    content: dict[str, Any] = {"path": "./", "names": dict(enumerate(images[0].names))}
    for subset, own in parts(images, *(subsets or ("Train", "Validation"))):
        for one in own:
            one.save(root / f"images/{subset}/{one.name}")
            one.yolo(root / f"labels/{subset}/{one.name}")
        write(root / f"{subset}.txt", "".join(f"data/images/{subset}/{one.file}\n" for one in own))
        content[subset] = f"{subset}.txt"
    write(root / "data.yaml", yaml.safe_dump(content, sort_keys=False))


def cvat_ultralytics_alone(root: Path, images: list[Image]) -> None:
    cvat_ultralytics(root, images, "train")


def cvat_coco(root: Path, images: list[Image]) -> None:
    for one in images:
        one.save(root / f"images/default/{one.name}")
    coco(root / "annotations/instances_default.json", images, lambda one: one.file)


def cvat_coco_subsets(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "val"):
        for number, one in enumerate(own):  # both have frames of the same names
            one.save(root / f"images/{split}/frame_{number:06}")
        renamed = [one._replace(name=f"frame_{number:06}") for number, one in enumerate(own)]
        coco(root / f"annotations/instances_{split}.json", renamed, lambda one: one.file)


def cvat_voc(root: Path, images: list[Image], *subsets: str) -> None:
    for subset, own in parts(images, *(subsets or ("default",))):
        for one in own:
            one.save(root / f"JPEGImages/{one.name}")
            one.voc(root / f"Annotations/{one.name}")
        write(root / f"ImageSets/Main/{subset}.txt", "".join(f"{one.name}\n" for one in own))
    write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
        + "".join(f"{name}:1,2,3::\n" for name in images[0].names),
    )


def cvat_voc_subsets(root: Path, images: list[Image]) -> None:
    cvat_voc(root, images, "Train", "Validation")


def label_studio_yolo(root: Path, images: list[Image]) -> None:
    for number, one in enumerate(images):
        one.save(root / f"images/{number:08x}-{one.name}")
        one.yolo(root / f"labels/{number:08x}-{one.name}")
    write(root / "classes.txt", "\n".join(images[0].names) + "\n")
    categories = [{"id": number, "name": name} for number, name in enumerate(images[0].names)]
    write(root / "notes.json", json.dumps({"categories": categories, "info": {"contributor": "Label Studio"}}))


def label_studio_coco(root: Path, images: list[Image]) -> None:
    for one in images:
        one.save(root / f"images/0a1b2c3d-{one.name}")
    coco(root / "result.json", images, lambda one: f"images/0a1b2c3d-{one.file}", first_id=0)


def labelimg_yolo(root: Path, images: list[Image]) -> None:
    for one in images:
        one.save(root / one.name)
        one.yolo(root / one.name)
    write(root / "classes.txt", "".join(f"{name}\n" for name in images[0].names))


def labelimg_voc(root: Path, images: list[Image]) -> None:
    for one in images:
        one.save(root / one.name)
        one.voc(root / one.name)


def darknet(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "test"):
        for one in own:
            one.save(root / f"data/obj/{one.name}")
            one.yolo(root / f"data/obj/{one.name}")
        write(root / f"data/{split}.txt", "".join(f"/home/me/darknet/data/obj/{one.file}\n" for one in own))
    write(root / "data/pets.names", "\n".join(images[0].names))
    write(
        root / "cfg/pets.data", "classes= 3\ntrain  = data/train.txt\nvalid  = data/test.txt\nnames = data/pets.names\n"
    )


def images_in_train(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "test"):
        for one in own:
            one.save(root / f"{split}/images/{one.name}")
            one.yolo(root / f"{split}/labels/{one.name}")
    write(root / "classes.txt", "\n".join(images[0].names))


def images_and_annotations(root: Path, images: list[Image]) -> None:
    for one in images:
        one.save(root / f"images/{one.name}")
        one.voc(root / f"annotations/{one.name}")


def images_and_labels(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "val"):
        for one in own:
            one.save(root / f"images/{split}/{one.name}")
            one.yolo(root / f"labels/{split}/{one.name}")
    write(root / "labels/classes.txt", "\n".join(images[0].names))


def other_folder_names(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "Training", "Testing"):
        for one in own:
            one.save(root / f"{split}/Photos/{one.name}")
            one.voc(root / f"{split}/Pascal VOC/{one.name}")


def voc_tree(root: Path, images: list[Image]) -> None:
    base = root / "VOCdevkit/VOC2007"
    splits = dict(parts(images, "train", "val", "test"))
    for one in images:
        one.save(base / f"JPEGImages/{one.name}")
        one.voc(base / f"Annotations/{one.name}")
    for split, own in {**splits, "trainval": splits["train"] + splits["val"]}.items():
        rows = "".join(f"{one.name}\n" for one in own)
        write(base / f"ImageSets/Main/{split}.txt", rows)
        write(base / f"ImageSets/Layout/{split}.txt", rows[:5])
        write(base / f"ImageSets/Main/cat_{split}.txt", rows.replace("\n", "  1\n"))


def coco_tree(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "val"):
        for one in own:
            one.save(root / f"{split}2017/{one.name}")
        coco(root / f"annotations/instances_{split}2017.json", own, lambda one: one.file, first_id=17)
        captions = {"images": [], "annotations": [{"id": 1, "image_id": 0, "caption": "a cat"}], "categories": []}
        write(root / f"annotations/captions_{split}2017.json", json.dumps(captions))


def one_json(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "val"):
        for one in own:
            one.save(root / f"{split}/{one.name}")
    coco(root / "annotations.json", images, lambda one: one.file)


def windows_coco(root: Path, images: list[Image]) -> None:
    for one in images:
        one.save(root / f"images/{one.name}")
    coco(root / "result.json", images, lambda one: f"images\\{one.file}")


def yamls_beside_others(root: Path, images: list[Image]) -> None:
    cvat_ultralytics(root / "pets", images)
    write(root / "LICENSE.txt", "MIT")
    write(root / "docs/a.json", "{}")
    shutil.copy(root / "pets/data.yaml", root / "pets/copy.yaml")


def darknet_beside_others(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "test"):
        for one in own:
            one.save(root / f"pets/JPEGImages/{one.name}")
            one.yolo(root / f"pets/labels/{one.name}")
        write(root / f"pets/{split}.txt", "".join(f"C:\\pets\\JPEGImages\\{one.file}\r\n" for one in own))
    write(root / "pets/pets.names", "\ufeff" + "\r\n".join(images[0].names))
    write(root / "pets/pets.data", "train=x/train.txt\nvalid=x/test.txt\nnames=x/pets.names\n")
    write(root / "LICENSE.txt", "MIT")


def masks_beside_images(root: Path, images: list[Image]) -> None:
    for one in images:
        one.save(root / f"images/{one.name}")
        one.save(root / f"annotations/trimaps/{one.name}")
        one.voc(root / f"annotations/xmls/{one.name}")
    write(root / "annotations/list.txt", "".join(f"{one.name} 1 1 1\n" for one in images))


def lists_beside_images(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "valid"):
        for one in own:
            one.save(root / f"all/img/{one.name}")
            one.yolo(root / f"all/txt/{one.name}")
        write(root / f"{split}.txt", "".join(f"./all/img/{one.file}\n" for one in own))
    write(root / "classes.txt", "\n".join(images[0].names))


def names_in_lists(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "val"):
        for one in own:
            one.save(root / f"JPEGImages/{one.name}")
            one.voc(root / f"Annotations/{one.name}")
        write(root / f"splits/{split}.txt", "".join(f"{one.file}\n" for one in own))


def clips_in_folders(root: Path, images: list[Image]) -> None:
    for number, one in enumerate(images):
        one.save(root / f"frames/clip{number // 4}/{number % 4:06}")
        one.voc(root / f"xml/clip{number // 4}/{number % 4:06}")


def images_of_each_clip(root: Path, images: list[Image]) -> None:
    for split, own in parts(images, "train", "val"):
        for number, one in enumerate(own):
            one.save(root / f"{split}/clip{number // 3}/images/{number % 3}")
            one.yolo(root / f"{split}/clip{number // 3}/labels/{number % 3}")
    write(root / "data.yaml", yaml.safe_dump({"nc": len(images[0].names), "names": list(images[0].names)}))


Build = Callable[[Path, list[Image]], None]
BUILDS: dict[Build, tuple[str, ...]] = {  # the splits that an export states; the others are made
    roboflow_yolo: ("train", "val", "test"),
    roboflow_darknet: ("train", "val"),
    roboflow_coco: ("train", "val", "test"),
    roboflow_voc: ("train", "val"),
    cvat_yolo: ("train",),
    cvat_yolo_subsets: ("train", "val"),
    cvat_ultralytics: ("train", "val"),
    cvat_ultralytics_alone: ("train",),
    cvat_coco: ("train",),
    cvat_coco_subsets: ("train", "val"),
    cvat_voc: ("train",),
    cvat_voc_subsets: ("train", "val"),
    label_studio_yolo: ("train",),
    label_studio_coco: ("train",),
    labelimg_yolo: ("train",),
    labelimg_voc: ("train",),
    darknet: ("train", "val"),
    images_in_train: ("train", "test"),
    images_and_annotations: ("train",),
    images_and_labels: ("train", "val"),
    other_folder_names: ("train", "test"),
    voc_tree: ("train", "val", "test"),
    coco_tree: ("train", "val"),
    one_json: ("train", "val"),
    windows_coco: ("train",),
    yamls_beside_others: ("train", "val"),
    darknet_beside_others: ("train", "val"),
    masks_beside_images: ("train",),
    lists_beside_images: ("train", "val"),
    names_in_lists: ("train", "val"),
    clips_in_folders: ("train",),
    images_of_each_clip: ("train", "val"),
}


def zipped(folder: Path, file: Path, around: str = "") -> Path:
    """A zip of a folder as macOS makes it, with one folder around everything if it has a name."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = Path(around, path.relative_to(folder)).as_posix()
            archive.write(path, name)
            if around:
                archive.writestr(f"__MACOSX/{name.rpartition('/')[0]}/._{path.name}", b"\0\5\26\7")
        archive.writestr(f"{around}/.DS_Store".lstrip("/"), b"\0\0\0\1Bud1")
    return file
