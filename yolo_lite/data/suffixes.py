"""Which files are images: by their suffixes, as far as the installed libraries decode them, and by how they begin."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

import cv2
from PIL import Image, ImageFile

from yolo_lite.config.regular import open_regular

# Plugins of Pillow that have to be imported, and what registers them if the import does not.
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": "", "pillow_jxl": ""}
SAME_FORMAT = {"MPO": "JPEG", "DIB": "BMP"}  # in Pillow's names: files of the one are files of the other too
# What Pillow opens and is no photograph: drawings, films, tables, brushes.
_NO_PHOTOGRAPHS = frozenset({"EPS", "FLI", "GBR", "IPTC", "MPEG", "XBM", "XPM"})
# OpenCV tells which of its formats it can write: these are the ones that it can read.
_OF_OPENCV = ".jp2 .webp .avif .gif .pbm .pgm .ppm .pnm .pam .pfm .sr .ras .hdr .pic"  # besides what Pillow has anyway
_EXR = "OPENCV_IO_ENABLE_OPENEXR"  # the variable of the environment without which OpenCV refuses .exr
# Suffixes of images that need a library which may be missing, and the one to install where Pillow has a plugin.
PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}
PLUGINS |= dict.fromkeys((".avif", ".avifs"), "pillow-avif-plugin")
RAW = ".raw .dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .orf .rw2 .raf .pef .srw .x3f .3fr .iiq .rwl .kdc .mrw"
OTHERS = ".svg .svgz .psb .xcf .exr .hdr .jxr .wdp .bpg .dcm .dicom .eps .wmf .emf .kra .cdr .djvu"
KNOWN_IMAGES = frozenset((*PLUGINS, *RAW.split(), *OTHERS.split()))
# How the files begin that have often lost their suffix, and what stands from the fifth byte on.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_KINDS_INSIDE = re.compile(rb"RIFF....WEBP|....ftyp(avi[fs]|hei[cfsx]|mif1|msf1)|BM....\0\0\0\0", re.DOTALL)


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of what is read: all photographs that OpenCV or Pillow can decode here, and .npy."""
    kinds = kinds_of_pillow()
    of_pillow = (name for name, kind in Image.registered_extensions().items() if SAME_FORMAT.get(kind, kind) in kinds)
    of_opencv = [*_OF_OPENCV.split(), *([".exr"] if os.environ.get(_EXR) else [])]
    return frozenset((".npy", *of_pillow, *filter(_is_of_opencv, of_opencv)))


@cache
def kinds_of_pillow() -> tuple[str, ...]:
    """The formats that Pillow is asked for, whatever a file is called: a drawing would have it start Ghostscript."""
    register_plugins()
    Image.init()
    openers = {kind: Image.OPEN[kind][0] for kind in Image.ID if kind not in _NO_PHOTOGRAPHS}
    stub = ImageFile.StubImageFile  # opens files that another program would have to decode
    return tuple(kind for kind, opens in openers.items() if not (isinstance(opens, type) and issubclass(opens, stub)))


def _is_of_opencv(suffix: str) -> bool:
    try:
        return cv2.haveImageWriter(suffix)
    except cv2.error:  # what older versions answer
        return False


@cache
def register_plugins() -> None:
    for name, register in _PLUGINS.items():
        if importlib.util.find_spec(name):
            module = importlib.import_module(name)
            if register:
                getattr(module, register)()


def looks_like_image(path: str | Path) -> bool:
    """Whether a file begins as the common formats do, whatever its name says."""
    try:
        with open_regular(path) as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_BEGINNINGS) or bool(_KINDS_INSIDE.match(start))
