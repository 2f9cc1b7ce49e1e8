"""The heads that a model YAML may end with, and the dict that names them.

To add one: subclass ``Head`` in a file of this folder, add a line here, and its criterion to ``CRITERIA`` under the
same name.
"""

from __future__ import annotations

from yolo_lite.model.heads.detect import Detect as Detect
from yolo_lite.model.heads.head import ClassRows as ClassRows
from yolo_lite.model.heads.head import Head as Head

HEADS: dict[str, type[Head]] = {"Detect": Detect}
