"""Write the dataset YAML of an exported set, which is not changed: ``yolo-lite adopt``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from yolo_lite.config.data import DatasetConfig
from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.load import validate
from yolo_lite.config.options import AdoptOptions
from yolo_lite.config.yaml_file import Document, read_yaml
from yolo_lite.data.outputs import Inputs, check_file
from yolo_lite.tools.divide import divide, read_fingerprints
from yolo_lite.tools.export_tree import SPLITS, Tree, open_folder, read_sources
from yolo_lite.tools.layouts import Layout, recognise
from yolo_lite.tools.unpack import ARCHIVES, is_archive, unpack


def adopt(options: AdoptOptions) -> Path:
    """Recognise a folder, an archive or a dataset YAML, say how, and write a YAML that train.py reads.

    Beside it lie the lists of splits that no folder holds, and what an archive holds, in a folder of its name.

    Raises:
        UserError: nothing is recognised, or several things are, or there is something where it would write.
    """
    source = Path(options.source)
    output = check_file(options.output, Inputs(files=(str(source),)), "-o").absolute()
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"-o {output}: expected the name of a .yaml file")
    place, packed = output.with_suffix(""), is_archive(source)
    lists = [_list_file(output, split) for split in SPLITS]
    _check(source, [output, *lists, *([place] if packed else [])])
    if not packed:
        return _write(*_understood(source, output, options), source, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=output.parent) as temporary:
        unpacked = Path(temporary).resolve() / place.name  # gets its place when it is understood
        unpacked.mkdir()
        unpack(source, unpacked, {})
        try:
            tree, layout, why = _understood(unpacked, output, options)
        except DataError as error:
            raise DataError(str(error).replace(str(unpacked), str(source))) from error
        os.replace(unpacked, place)
    tree.root = place / tree.root.relative_to(unpacked)
    return _write(tree, layout, why, source, output)


def _check(source: Path, written: Sequence[Path]) -> None:
    if not os.path.lexists(source):
        raise DataError(f"{source}: no such file or folder")
    if not source.is_dir() and not is_archive(source) and source.suffix not in (".yaml", ".yml"):
        raise DataError(f"{source}: expected a folder, an archive ({' '.join(ARCHIVES)}) or a dataset YAML")
    for path in written:
        if os.path.lexists(path):
            raise ConfigError(f"{path}: exists, and is not overwritten: choose another name")


def _list_file(output: Path, split: str) -> Path:
    return output.with_name(f"{output.stem}.{split}.txt")


def _understood(source: Path, output: Path, options: AdoptOptions) -> tuple[Tree, Layout, str]:
    """The files of a folder or of a dataset YAML's, what they are, and how a split of them was made."""
    source = source.resolve()
    if source.is_dir():
        tree, file = open_folder(source), None
    else:
        root = source.parent / os.path.expanduser(str(read_yaml(source).data.get("path") or "."))
        tree, file = Tree(root.resolve() if root.is_dir() else source.parent), str(source)
    names = [name.strip() for text in options.names for name in text.split(",") if name.strip()]
    layout = recognise(tree, file, options.format, names)
    has_images = not all(os.path.isabs(image) for images in layout.stated.splits.values() for image in images)
    if has_images:
        check_file(output, Inputs((str(tree.root if file else source),)), "-o")
    return (tree, *_divided(tree, layout, options))


def _divided(tree: Tree, layout: Layout, options: AdoptOptions) -> tuple[Layout, str]:
    """The layout with a val split, and with a test split if one is wanted, and why they were made so."""
    stated = layout.stated
    wanted = {"val": options.val, "test": options.test}
    shares = {
        split: share for split, share in wanted.items() if split not in stated.splits and (share or split == "val")
    }
    if not shares:
        return layout, ""
    if not all(share > 0 for share in shares.values()) or sum(shares.values()) >= 1:
        text = " and ".join(f"--{split} {share:g}" for split, share in shares.items())
        raise ConfigError(f"{text}: expected shares of the images above 0, below 1 together")
    images, paths = stated.splits["train"], [str(tree.root / image) for image in stated.splits["train"]]
    fingerprints = read_fingerprints(paths, int(stated.keys.get("channels", 3)))
    parts, reason = divide(images, fingerprints, shares, options.seed, layout.names)
    splits = {**stated.splits, **{split: [images[i] for i in own] for split, own in parts.items()}}
    labels = {**dict.fromkeys(parts, layout.labels["train"]), **layout.labels}
    made = layout._replace(stated=stated._replace(splits={split: splits[split] for split in SPLITS if split in splits}))
    return made._replace(labels=labels), f"{', '.join(shares)}: taken from train (seed {options.seed}); {reason}"


def _write(tree: Tree, layout: Layout, why: str, source: Path, output: Path) -> Path:
    """Write lists and YAML, and say what is in them."""
    content, lists = _content(tree, layout, output)
    validate(DatasetConfig, Document(f"{source}", content, {}))
    output.parent.mkdir(parents=True, exist_ok=True)
    for file, rows in lists.items():
        file.write_bytes(os.fsencode("".join(f"{row}\n" for row in rows)))  # names of files may be no text
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    output.write_text(f"# yolo-lite adopt {str(source)!r}\n{text}", encoding="utf-8")
    stated, names = layout.stated, layout.names
    print(f"{source}: {layout.format.upper()} labels, as in {layout.files[0]}; splits: {stated.how or 'none'}")
    for split, images in stated.splits.items():
        sources = [content[split]] if isinstance(content[split], str) else content[split]
        shown = (os.path.basename(one) if one.startswith("../") else one for one in sources)
        print(f"  {split + ':':<6} {len(images)} images, {' '.join(shown)}")
    print(f"  classes: {len(names)}, {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}")
    for note in filter(None, (why, *stated.notes, *layout.notes)):
        print(f"  {note}")
    return output


def _content(tree: Tree, layout: Layout, output: Path) -> tuple[dict[str, Any], dict[Path, list[str]]]:
    """The dataset YAML, and the rows of the list files that it needs.

    Paths of what lies below the YAML's own folder are relative, so that both can be moved together.
    """
    stated, root, is_beside = layout.stated, tree.root / layout.base, tree.root.is_relative_to(output.parent)
    content: dict[str, Any] = {"path": _name(root, output.parent, is_beside)}
    lists: dict[Path, list[str]] = {}
    for split, images in stated.splits.items():
        sources = _sources(tree, images, stated.sources.get(split, ()))
        named = [_name(tree.root / source, root, not os.path.isabs(source)) for source in sources]
        if not named:
            file = _list_file(output, split)
            lists[file] = [_name(tree.root / image, output.parent, is_beside) for image in images]
            named = [_name(file, root, is_beside)]
        content[split] = named[0] if len(named) == 1 else named
    labels = {split: _name(tree.root / place, root, True) for split, place in layout.labels.items() if place}
    if labels:
        is_same = len(set(layout.labels.values())) == 1
        content["labels"] = next(iter(labels.values())) if is_same else labels
    keys = {key: value for key, value in stated.keys.items() if key not in ("labels", "format")}
    return {**content, "format": layout.format, "names": dict(enumerate(layout.names)), **keys}, lists


def _name(path: Path, folder: Path, is_relative: bool) -> str:
    return Path(os.path.relpath(path, folder)).as_posix() if is_relative else str(path)


def _sources(tree: Tree, images: Sequence[str], stated: Sequence[str]) -> Sequence[str]:
    """What names these images: a folder, or what the set itself names; nothing where only a list will do."""
    wanted, folders = sorted(images), {os.path.dirname(image) for image in images}
    common = [os.path.commonpath(folders) or "."] if len(set(map(os.path.isabs, folders))) == 1 else []
    is_list = any(source.endswith(".txt") for source in stated)
    for sources in filter(None, (common, stated) if is_list else (stated, common)):
        try:
            found = read_sources(tree.root, sources)
        except DataError:
            continue
        below = [os.path.relpath(path, tree.root).replace(os.sep, "/") for path in found]
        outside = [os.path.abspath(path) for path in found]
        if wanted in (sorted(below), sorted(outside)):
            return sources
    return ()
