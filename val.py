"""Validate a checkpoint: ``python val.py --weights runs/train/exp/weights/best.pt``."""

import sys

from yolo_lite.cli.main import val_main

if __name__ == "__main__":
    sys.exit(val_main())
