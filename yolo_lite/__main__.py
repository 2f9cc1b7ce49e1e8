"""``python -m yolo_lite``: the console script."""

from yolo_lite.cli.main import entry

entry()
