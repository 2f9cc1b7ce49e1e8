"""Sets of drawn images, laid out as annotation programs export them; a test finds the objects again by their colour."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

NAMES = ("cat", "dog", "traffic light")
COLOURS = ((250, 20, 20), (20, 250, 20), (20, 20, 250))  # RGB of a class
WORDS = ("ape", "bee", "crow", "deer", "eel", "fox", "goat", "hen", "ibis", "jay", "koi", "lynx")
WIDTH, HEIGHT = 96, 72


class Drawn(NamedTuple):
    """One image and its objects."""

    name: str  # without an ending
    pixels: np.ndarray  # RGB
    objects: list[tuple[int, tuple[int, int, int, int]]]  # class and box xyxy

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), self.pixels[..., ::-1])

    def yolo(self, path: Path) -> None:
        rows = ""
        for label, (x1, y1, x2, y2) in self.objects:
            values = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT
            rows += f"{label} {' '.join(f'{value:.6f}' for value in values)}\n"
        write(path, rows)

    def voc(self, path: Path, filename: str) -> None:
        text = f"<annotation><filename>{filename}</filename>"
        text += f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        for label, (x1, y1, x2, y2) in self.objects:
            box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            text += f"<object><name>{NAMES[label]}</name><bndbox>{box}</bndbox></object>"
        write(path, text + "</annotation>")


def drawn(names: tuple[str, ...] = WORDS, seed: int = 0) -> list[Drawn]:
    """Images of noise, each with an object of some of the classes, at most one of each."""
    rng, images = np.random.default_rng(seed), []
    for name in names:
        pixels = cv2.resize(
            rng.integers(60, 180, (6, 8, 3), dtype=np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST
        )
        objects = []
        for label in range(3):
            x1, y1 = int(rng.integers(32 * label, 32 * label + 10)), int(rng.integers(0, 40))
            x2, y2 = x1 + int(rng.integers(8, 20)), y1 + int(rng.integers(8, 30))
            pixels[y1:y2, x1:x2] = COLOURS[label]
            objects.append((label, (x1, y1, x2, y2)))
        images.append(Drawn(name, pixels, objects))
    return images


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def coco(
    path: Path, images: list[Drawn], file_name: Callable[[str], str], first_id: int = 1, unused: bool = False
) -> None:
    parent = [{"id": 0, "name": "pets", "supercategory": "none"}] if unused else []
    rows: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": parent}
    rows["categories"] += [
        {"id": first_id + i, "name": name, "supercategory": "pets" if unused else ""} for i, name in enumerate(NAMES)
    ]
    for number, one in enumerate(images):
        rows["images"].append({"id": number, "file_name": file_name(one.name), "width": WIDTH, "height": HEIGHT})
        for label, (x1, y1, x2, y2) in one.objects:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            rows["annotations"].append(
                {"id": len(rows["annotations"]) + 1, "image_id": number, "category_id": first_id + label, **box}
            )
    write(path, json.dumps({"info": {}, "licenses": [], **rows}))


Splits = dict[str, list[Drawn]]


def parts(images: list[Drawn], *names: str) -> Iterator[tuple[str, list[Drawn]]]:
    """The images in splits of these names: the first has two thirds."""
    if len(names) == 1:
        yield names[0], images
        return
    cut = 2 * len(images) // 3
    rest = images[cut:]
    yield names[0], images[:cut]
    for number, name in enumerate(names[1:]):
        yield name, rest[number :: len(names) - 1]


def roboflow(name: str) -> str:
    return f"{name}_png.rf.{name.encode().hex():0<32}"


def roboflow_yolo(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "valid", "test"):
        for one in own:
            one.save(root / split / "images" / f"{roboflow(one.name)}.png")
            one.yolo(root / split / "labels" / f"{roboflow(one.name)}.txt")
    content = {
        "train": "../train/images",
        "val": "../valid/images",
        "test": "../test/images",
        "nc": 3,
        "names": list(NAMES),
    }
    write(root / "data.yaml", yaml.safe_dump(content | {"roboflow": {"workspace": "w", "version": 1}}))
    write(root / "README.roboflow.txt", "pets - v1\n")


def roboflow_darknet(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "valid"):
        for one in own:
            one.save(root / split / f"{roboflow(one.name)}.png")
            one.yolo(root / split / f"{roboflow(one.name)}.txt")
        write(root / split / "_darknet.labels", "\n".join(NAMES))


def roboflow_coco(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "valid", "test"):
        for one in own:
            one.save(root / split / f"{roboflow(one.name)}.png")
        coco(root / split / "_annotations.coco.json", own, lambda name: f"{roboflow(name)}.png", unused=True)


def roboflow_voc(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "valid"):
        for one in own:
            one.save(root / split / f"{roboflow(one.name)}.png")
            one.voc(root / split / f"{roboflow(one.name)}.xml", f"{roboflow(one.name)}.png")


def cvat_yolo(root: Path, images: list[Drawn], *subsets: str) -> None:
    rows = "classes = 3\n"
    for subset, own in parts(images, *(subsets or ("train",))):
        for one in own:
            one.save(root / f"obj_{subset}_data/{one.name}.png")
            one.yolo(root / f"obj_{subset}_data/{one.name}.txt")
        write(root / f"{subset}.txt", "".join(f"data/obj_{subset}_data/{one.name}.png\n" for one in own))
        rows += f"{subset} = data/{subset}.txt\n"
    write(root / "obj.data", rows + "names = data/obj.names\nbackup = backup/\n")
    write(root / "obj.names", "".join(f"{name}\n" for name in NAMES))


def cvat_yolo_subsets(root: Path, images: list[Drawn]) -> None:
    cvat_yolo(root, images, "train", "valid")


def cvat_ultralytics(root: Path, images: list[Drawn], *subsets: str) -> None:
    content: dict[str, Any] = {"path": "./", "names": dict(enumerate(NAMES))}
    for subset, own in parts(images, *(subsets or ("Train", "Validation"))):
        for one in own:
            one.save(root / f"images/{subset}/{one.name}.png")
            one.yolo(root / f"labels/{subset}/{one.name}.txt")
        write(root / f"{subset}.txt", "".join(f"data/images/{subset}/{one.name}.png\n" for one in own))
        content[subset] = f"{subset}.txt"
    write(root / "data.yaml", yaml.safe_dump(content, sort_keys=False))


def cvat_ultralytics_alone(root: Path, images: list[Drawn]) -> None:
    cvat_ultralytics(root, images, "train")


def cvat_coco(root: Path, images: list[Drawn]) -> None:
    for one in images:
        one.save(root / f"images/default/{one.name}.png")
    coco(root / "annotations/instances_default.json", images, lambda name: f"{name}.png")


def cvat_coco_subsets(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "val"):
        for number, one in enumerate(own):  # both have frames of the same names
            one.save(root / f"images/{split}/frame_{number:06}.png")
        renamed = [one._replace(name=f"frame_{number:06}") for number, one in enumerate(own)]
        coco(root / f"annotations/instances_{split}.json", renamed, lambda name: f"{name}.png")


def cvat_voc(root: Path, images: list[Drawn], *subsets: str) -> None:
    for subset, own in parts(images, *(subsets or ("default",))):
        for one in own:
            one.save(root / f"JPEGImages/{one.name}.png")
            one.voc(root / f"Annotations/{one.name}.xml", f"{one.name}.png")
        write(root / f"ImageSets/Main/{subset}.txt", "".join(f"{one.name}\n" for one in own))
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{name}:1,2,3::\n" for name in NAMES))


def cvat_voc_subsets(root: Path, images: list[Drawn]) -> None:
    cvat_voc(root, images, "Train", "Validation")


def label_studio_yolo(root: Path, images: list[Drawn]) -> None:
    for number, one in enumerate(images):
        one.save(root / f"images/{number:08x}-{one.name}.png")
        one.yolo(root / f"labels/{number:08x}-{one.name}.txt")
    write(root / "classes.txt", "\n".join(NAMES) + "\n")
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    write(root / "notes.json", json.dumps({"categories": categories, "info": {"contributor": "Label Studio"}}))


def label_studio_coco(root: Path, images: list[Drawn]) -> None:
    for one in images:
        one.save(root / f"images/0a1b2c3d-{one.name}.png")
    coco(root / "result.json", images, lambda name: f"images/0a1b2c3d-{name}.png", first_id=0)


def labelimg_yolo(root: Path, images: list[Drawn]) -> None:
    for one in images:
        one.save(root / f"{one.name}.png")
        one.yolo(root / f"{one.name}.txt")
    write(root / "classes.txt", "".join(f"{name}\n" for name in NAMES))


def labelimg_voc(root: Path, images: list[Drawn]) -> None:
    for one in images:
        one.save(root / f"{one.name}.png")
        one.voc(root / f"{one.name}.xml", f"{one.name}.png")


def darknet(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "test"):
        for one in own:
            one.save(root / f"data/obj/{one.name}.png")
            one.yolo(root / f"data/obj/{one.name}.txt")
        write(root / f"data/{split}.txt", "".join(f"/home/me/darknet/data/obj/{one.name}.png\n" for one in own))
    write(root / "data/pets.names", "\n".join(NAMES))
    write(
        root / "cfg/pets.data", "classes= 3\ntrain  = data/train.txt\nvalid  = data/test.txt\nnames = data/pets.names\n"
    )


def images_in_train(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "test"):
        for one in own:
            one.save(root / f"{split}/images/{one.name}.png")
            one.yolo(root / f"{split}/labels/{one.name}.txt")
    write(root / "classes.txt", "\n".join(NAMES))


def images_and_annotations(root: Path, images: list[Drawn]) -> None:
    for one in images:
        one.save(root / f"images/{one.name}.png")
        one.voc(root / f"annotations/{one.name}.xml", f"{one.name}.png")


def images_and_labels(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "val"):
        for one in own:
            one.save(root / f"images/{split}/{one.name}.png")
            one.yolo(root / f"labels/{split}/{one.name}.txt")
    write(root / "labels/classes.txt", "\n".join(NAMES))


def other_folder_names(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "Training", "Testing"):
        for one in own:
            one.save(root / f"{split}/Photos/{one.name}.png")
            one.voc(root / f"{split}/Pascal VOC/{one.name}.xml", f"{one.name}.png")


def voc_tree(root: Path, images: list[Drawn]) -> None:
    base = root / "VOCdevkit/VOC2007"
    splits = dict(parts(images, "train", "val", "test"))
    for one in images:
        one.save(base / f"JPEGImages/{one.name}.png")
        one.voc(base / f"Annotations/{one.name}.xml", f"{one.name}.png")
    for split, own in {**splits, "trainval": splits["train"] + splits["val"]}.items():
        rows = "".join(f"{one.name}\n" for one in own)
        write(base / f"ImageSets/Main/{split}.txt", rows)
        write(base / f"ImageSets/Layout/{split}.txt", rows[:5])
        write(base / f"ImageSets/Main/cat_{split}.txt", rows.replace("\n", "  1\n"))


def coco_tree(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "val"):
        for one in own:
            one.save(root / f"{split}2017/{one.name}.png")
        coco(root / f"annotations/instances_{split}2017.json", own, lambda name: f"{name}.png", first_id=17)
        captions = {"images": [], "annotations": [{"id": 1, "image_id": 0, "caption": "a cat"}], "categories": []}
        write(root / f"annotations/captions_{split}2017.json", json.dumps(captions))


def one_json(root: Path, images: list[Drawn]) -> None:
    for split, own in parts(images, "train", "val"):
        for one in own:
            one.save(root / f"{split}/{one.name}.png")
    coco(root / "annotations.json", images, lambda name: f"{name}.png")


Build = Callable[[Path, list[Drawn]], None]
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
