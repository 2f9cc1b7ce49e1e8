"""Train a detector: ``python train.py --cfg cfg/yolo_s.yaml --hyp cfg/hyp.yaml``."""

import sys

from yolo_lite.cli.main import train_main

if __name__ == "__main__":
    sys.exit(train_main())
