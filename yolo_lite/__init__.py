"""yolo_lite: a compact, MIT-licensed, YOLOv5-like training framework for object detection."""

__version__ = "0.1.0"
