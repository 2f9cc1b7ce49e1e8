"""Recognise how a folder holds a dataset: its images, splits, labels and class names, as exporters lay them out."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import read_regular
from yolo_lite.data.labels import FileReader
from yolo_lite.data.pairing import check_unique, is_name_file, names_in
from yolo_lite.data.readers.coco import CocoReader
from yolo_lite.data.readers.voc import VocReader
from yolo_lite.data.readers.yolo import YoloReader
from yolo_lite.tools.coco_export import read_coco_exports
from yolo_lite.tools.divide import differences, read_fingerprints
from yolo_lite.tools.export_tree import SPLITS, Statement, Tree, by_folder, by_lists, list_files_in, split_of
from yolo_lite.tools.statements import read_darknet, read_dataset_yaml

NOT_READ = {"annotations.xml": "of CVAT for images", ".csv": "a table", ".json": "no COCO file, perhaps labelme's"}
SAMPLE = 200  # images of a split by which the place of its labels is found
MASKS = re.compile(r"(mask|trimap|segmentation)[^/]*/", re.IGNORECASE)
ALIKE = 0.65  # images differ from themselves with boxes drawn in .1 to .5 of the bits that chance gives, others in .9
READERS: dict[str, type[FileReader]] = {"yolo": YoloReader, "voc": VocReader}


class Layout(NamedTuple):
    """What was recognised; paths are below the tree's root, with ``/``, or absolute where a YAML leads out of it."""

    format: str
    stated: Statement  # the splits, and who says so
    labels: dict[str, str]  # by split: what the key ``labels`` has to name, "" where the reader needs none
    files: list[str]  # of labels
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what else a user should know
    base: str = "."  # the folder that the key ``path`` has to name, so that those of images and labels have one form


def recognise(tree: Tree, file: str | None = None, format: str | None = None, names: Sequence[str] = ()) -> Layout:
    """How the set in a folder is laid out.

    Args:
        file: the dataset YAML to go by.
        format: yolo, voc or coco, where several fit.
        names: of the classes, where no file has them.

    Raises:
        DataError: nothing fits, or several things fit equally; both are named.
    """
    stated = read_dataset_yaml(tree, file) or read_darknet(tree)
    divided = _with_splits(stated, tree)
    wanted = format or divided.keys.get("format")
    places = {} if format else _stated_places(tree, divided)
    fits = _fitting(tree, divided, places, wanted, is_stated=stated is not None)
    if len(fits) > 1:
        both = " and ".join(f"{kind} ({layout.files[0]})" for kind, layout in fits.items())
        raise DataError(f"{tree.root}: labels of two formats fit, {both}: choose one with yolo-lite adopt --format")
    if not fits:
        raise DataError(_nothing_fits(tree, wanted))
    ((kind, layout),) = fits.items()
    if not file:
        layout = _with_doubts(tree, layout, layout.stated.splits if kind == "coco" else divided.splits)
    layout = _labelled_splits(tree, layout._replace(notes=(*tree.notes, *layout.notes)))
    known = names or (layout.names if kind != "yolo" or (file and layout.names) else _names_of_yolo(tree, layout))
    return layout._replace(names=tuple(known))


def _fitting(
    tree: Tree, divided: Statement, places: dict[str, str], wanted: str | None, is_stated: bool
) -> dict[str, Layout]:
    """The layouts that fit, by format; a YAML or a .data file that states none means the label files of YOLO."""
    kinds = [kind for kind in READERS if wanted in (None, kind)]
    found = {kind: _by_files(tree, divided, kind, places) for kind in kinds}
    fits = {kind: layout for kind, layout in found.items() if layout}
    if is_stated and not wanted and (yolo := fits.pop("yolo", None)):
        unused = (f"not used: {kind} ({other.files[0]}), as --format {kind} would" for kind, other in fits.items())
        return {"yolo": yolo._replace(notes=(*yolo.notes, *unused))}
    if wanted in (None, "coco") and (coco := _by_places(tree, divided, places) or _by_exports(tree, divided)):
        fits["coco"] = coco
    return fits


def _with_splits(stated: Statement | None, tree: Tree) -> Statement:
    """The splits by the file that states them, else by list files, else by folders."""
    if stated and "train" in stated.splits:
        return stated
    other = by_lists(tree, list_files_in(tree)) or by_folder(tree.images)
    if stated is None:
        return other
    how = f"{stated.how}, {other.how}" if other.how else stated.how
    splits = {**other.splits, **stated.splits}
    return stated._replace(how=how, splits=splits, sources=other.sources, notes=(*stated.notes, *other.notes))


def _stated_places(tree: Tree, stated: Statement) -> dict[str, str]:
    """By split, what the key ``labels`` of a dataset YAML names."""
    labels = stated.keys.get("labels")
    texts = labels if isinstance(labels, dict) else dict.fromkeys(stated.splits, labels) if labels else {}
    places = {}
    for split, text in ((split, str(text)) for split, text in texts.items() if split in stated.splits):
        place = text if (tree.root / text).exists() else tree.find(text)
        if place is None:
            raise DataError(f"{stated.how}: labels: nothing is at {tree.root / text}")
        places[split] = place
    return places


def _by_files(tree: Tree, stated: Statement, kind: str, places: dict[str, str]) -> Layout | None:
    """A layout with a label file for each image, where there are such files of this kind."""
    folders = [os.path.dirname(image) for own in stated.splits.values() for image in own if not os.path.isabs(image)]
    bases = dict.fromkeys((".", os.path.commonpath(folders) if folders else "."))
    return next(filter(None, (_below_base(tree, stated, kind, places, base) for base in bases)), None)


def _below_base(tree: Tree, stated: Statement, kind: str, places: dict[str, str], base: str) -> Layout | None:
    """As ``_by_files``, with the folder at which the paths of images begin that those of labels mirror."""
    labels, splits, names, left_out = dict[str, str](), dict[str, list[str]](), set[str](), set[str]()
    pairs = list[tuple[str, str, bool]]()  # image, its label file, and whether that is there
    for split, images in sorted(stated.splits.items(), key=lambda item: SPLITS.index(item[0])):
        place = places.get(split)
        if place is None:
            place = _place_of_labels(tree, kind, base, split, images[:: max(len(images) // SAMPLE, 1)])
        if (tree.root / place).is_file():
            return None
        reader = _reader(tree, kind, base, place)
        found, there = reader.label_files([str(tree.root / image) for image in images])
        copies = _copies(tree, images, there)
        splits[split] = [image for image in images if image not in copies]
        left_out |= copies
        if there.any():
            labels[split] = place
            rows = zip(images, found, there.tolist(), strict=True)
            pairs += [(str(tree.root / row[0]), *row[1:]) for row in rows if row[0] not in copies]
            names |= set(reader.class_names([str(tree.root / image) for image in splits[split]]))
    files = [os.path.relpath(file, tree.root) for _, file, is_there in pairs if is_there]
    if not any(IS_OF_KIND[kind](tree.root / file) for file in files[:: max(len(files) // 20, 1)]):
        return None
    check_unique([pair[0] for pair in pairs], [pair[1] for pair in pairs], np.array([pair[2] for pair in pairs]))
    notes = [f"left out: {len(left_out)} copies or masks of other images: {min(left_out)}, ..."] if left_out else []
    if missing := [image for image, _, is_there in pairs if not is_there]:
        text = f"{len(missing)} of {len(pairs)} images have no {READERS[kind].suffix} file and count as background"
        notes.append(f"{text}, the first: {os.path.relpath(missing[0], tree.root)}")
    stated = stated._replace(splits=splits)
    return Layout(kind, stated, labels, files, stated.names or _ordered(tree, names), tuple(notes), base)


def _ordered(tree: Tree, names: set[str]) -> tuple[str, ...]:
    """Class names in the order of CVAT's ``labelmap.txt``, with those that it has besides, else in that of letters."""
    rows = [row for file in tree.ending("labelmap.txt") for row in tree.lines(file) if not row.startswith("#")]
    listed = dict.fromkeys(row.partition(":")[0].strip() for row in rows if ":" in row and names)
    return (*(name for name in listed if name != "background" or name in names), *sorted(names - set(listed)))


def _reader(tree: Tree, kind: str, base: str, place: str) -> FileReader:
    return READERS[kind](tree.root / base, tree.root / place if place else None, ())


def _copies(tree: Tree, images: Sequence[str], has_labels: np.ndarray) -> set[str]:
    """The images in folders without labels that repeat those with labels, by name and looks: originals, drawn boxes.

    Masks repeat them by name alone.
    """
    original = {PurePosixPath(image).stem: image for image in itertools.compress(images, has_labels)}
    labelled, folders = set(map(os.path.dirname, original.values())), dict[str, list[str]]()
    for image in images:
        if (folder := os.path.dirname(image)) not in labelled:
            folders.setdefault(folder, []).append(image)
    return {image for folder, own in folders.items() if _is_copy(tree, folder, own, original) for image in own}


def _is_copy(tree: Tree, folder: str, images: Sequence[str], original: dict[str, str]) -> bool:
    pairs = [(image, original[stem]) for image in images if (stem := PurePosixPath(image).stem) in original]
    if not pairs or MASKS.search(f"{folder}/"):
        return bool(pairs)
    sample = [str(tree.root / image) for pair in pairs[:: len(pairs) // 10 + 1] for image in pair]
    prints = read_fingerprints(sample)
    return bool(np.median(differences(prints[::2], prints[1::2])) < ALIKE)


def _place_of_labels(tree: Tree, kind: str, base: str, split: str, images: Sequence[str]) -> str:
    """The folder in which the reader finds the label files of images; "" where it finds them itself, or none."""
    paths = [str(tree.root / image) for image in images]
    if _reader(tree, kind, base, "").label_files(paths)[1].any():
        return ""
    stems = {PurePosixPath(image).stem for image in images}
    folders = {os.path.dirname(file) for file in tree.ending(READERS[kind].suffix) if PurePosixPath(file).stem in stems}
    around = {str(place) for folder in folders for place in PurePosixPath(folder).parents if str(place) != "."}
    best, best_files = "", set[str]()
    for place in sorted({*folders, *around} - {""}):
        if split_of(f"{place}/a") not in (None, split):
            continue
        try:
            files, there = _reader(tree, kind, base, place).label_files(paths)
        except DataError:  # two images would have one file
            continue
        found = {files[i] for i in np.flatnonzero(there)}
        if len(found) == len(best_files) and found != best_files:
            raise DataError(f"{tree.root}: labels of {split} may be in {best} or in {place}: keep one of them")
        if len(found) > len(best_files):
            best, best_files = place, found
    return best


def _is_yolo(file: Path) -> bool:
    """Whether the rows of a text file are numbers, five or more."""
    try:
        rows = [row.split() for row in read_regular(file).decode("utf-8-sig").splitlines() if row.strip()]
        return all(len([float(word) for word in row]) >= 5 for row in rows)
    except ValueError:
        return False


def _is_voc(file: Path) -> bool:
    try:
        return ElementTree.fromstring(read_regular(file)).tag == "annotation"
    except (ElementTree.ParseError, ValueError, LookupError):
        return False


IS_OF_KIND = {"yolo": _is_yolo, "voc": _is_voc}


def _by_places(tree: Tree, stated: Statement, places: dict[str, str]) -> Layout | None:
    """A layout with the annotation files that a dataset YAML names."""
    files = [place for place in dict.fromkeys(places.values()) if (tree.root / place).is_file()]
    found = [CocoReader(tree.root, tree.root / file, ()).class_names(()) for file in files if not stated.names]
    names = stated.names or tuple(dict.fromkeys(itertools.chain.from_iterable(found)))
    return Layout("coco", stated, places, files, names) if files else None


def _by_exports(tree: Tree, divided: Statement) -> Layout | None:
    """A layout with annotation files for all images, which tell the splits if they are several."""
    found = sorted(read_coco_exports(tree), key=lambda export: SPLITS.index(export.split or "train"))
    exports = [export for export in found if export.images]
    if not exports:
        return None
    names = tuple(dict.fromkeys(name for export in exports for name in export.names))
    notes = tuple(
        f"{'' if export.images else 'left out: '}{export.file}: {export.note}" for export in found if export.note
    )
    files = [export.file for export in exports]
    if len(exports) == 1 and exports[0].split is None:
        listed = set(exports[0].images)
        splits = {split: [one for one in images if one in listed] for split, images in divided.splits.items()}
        stated = divided._replace(splits={split: images for split, images in splits.items() if images})
        labels = dict.fromkeys(stated.splits, exports[0].file)
    else:
        stated = Statement("annotation files", {str(export.split): export.images for export in exports})
        labels = {str(export.split): export.file for export in exports}
    return Layout("coco", stated, labels, files, divided.names or names, notes)


def _with_doubts(tree: Tree, layout: Layout, splits: dict[str, list[str]]) -> Layout:
    """The layout with notes on images in none of the splits, and in two."""
    notes, unlisted = list(layout.notes), set(tree.images).difference(*splits.values())
    if unlisted:
        notes.append(f"left out: {len(unlisted)} images in no split, the first: {min(unlisted)}")
    for one, other in itertools.combinations(splits, 2):
        if shared := {*splits[one]} & {*splits[other]}:
            notes.append(f"{len(shared)} images are in {one} and in {other}, the first: {min(shared)}")
    return layout._replace(notes=tuple(notes))


def _labelled_splits(tree: Tree, layout: Layout) -> Layout:
    """The layout without splits of which no image has labels; what is the only one is for training.

    Raises:
        DataError: there are several splits, but no train.
    """
    splits, notes = dict(layout.stated.splits), list(layout.notes)
    for split in [split for split in splits if split not in layout.labels]:
        notes.append(f"left out: {split}, none of its {len(splits.pop(split))} images has labels")
    labels, sources = layout.labels, layout.stated.sources
    if list(splits) != ["train"] and len(splits) == 1:
        ((only, images),) = splits.items()
        notes.append(f"{only} is the only split with labels: taken for all images")
        splits, labels, sources = {"train": images}, {"train": labels[only]}, {"train": sources.get(only, [])}
    if "train" not in splits:
        found = f"found those of {', '.join(splits)}, with {layout.files[0]}"
        raise DataError(f"{tree.root}: expected labelled images for train, {found}")
    order = [split for split in SPLITS if split in splits]
    stated = layout.stated._replace(splits={split: splits[split] for split in order}, sources=sources)
    return layout._replace(stated=stated, labels={split: labels[split] for split in order}, notes=tuple(notes))


def _names_of_yolo(tree: Tree, layout: Layout) -> tuple[str, ...]:
    """The names of numbered classes; raises DataError where no file has them, or two have others."""
    lists = {file: _names_in(tree, file) for file in tree.files if is_name_file(os.path.basename(file))}
    lists = {file: names for file, names in lists.items() if names}
    if layout.stated.names:
        lists[layout.stated.how] = layout.stated.names
    if not lists:
        used = {row.split()[0] for file in layout.files for row in tree.lines(file)}
        asked = "expected a data.yaml, classes.txt, obj.names or notes.json with the names of the classes"
        found = ", ".join(sorted(used, key=lambda text: text.zfill(9))[:20])
        raise DataError(f"{tree.root}: {asked}, found labels with {found}: give yolo-lite adopt --names a,b,c")
    best = max(lists, key=lambda file: len(lists[file]))
    for file, names in lists.items():
        if names != lists[best][: len(names)]:  # labelImg adds classes at the end
            both = f"{file} ({', '.join(names[:5])}) and {best} ({', '.join(lists[best][:5])})"
            raise DataError(f"{tree.root}: {both} name the classes differently: give yolo-lite adopt --names a,b,c")
    return lists[best]


def _names_in(tree: Tree, file: str) -> tuple[str, ...]:
    return tuple(names_in(tree.root / file)) if file.endswith(".json") else tree.lines(file)


def _nothing_fits(tree: Tree, wanted: str | None) -> str:
    kinds = Counter(os.path.splitext(file)[1].lower() or "no suffix" for file in tree.files)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    what = {"yolo": "YOLO .txt", "voc": "Pascal VOC .xml", "coco": "a COCO .json"}
    expected = what.get(wanted, wanted) if wanted else "YOLO .txt, Pascal VOC .xml or a COCO .json"
    unread = [file for file in tree.ending(".txt", ".xml") if PurePosixPath(file).stem in tree.by_stem]
    hint = f"; {unread[0]} is of another kind, or in a folder that mirrors none of images" if unread else ""
    others = ((file, what) for suffix, what in NOT_READ.items() for file in tree.ending(suffix))
    hint = "; ".join((hint or next((f"; {file} is {what}" for file, what in others), ""), *tree.notes))
    return f"{tree.root}: expected images with labels ({expected}), found {found}{hint}; export it as one of these"
