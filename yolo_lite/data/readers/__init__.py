"""The readers of label files, one module a format."""

from yolo_lite.data.labels import LabelReader
from yolo_lite.data.readers.coco import CocoReader
from yolo_lite.data.readers.masks import MasksReader
from yolo_lite.data.readers.voc import VocReader
from yolo_lite.data.readers.yolo import YoloReader

FORMATS: dict[str, type[LabelReader]] = {"yolo": YoloReader, "voc": VocReader, "coco": CocoReader, "masks": MasksReader}
