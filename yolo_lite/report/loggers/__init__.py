"""Where the figures and images of a run go while it goes on, beside its folder; named by the key ``loggers``."""

from yolo_lite.report.loggers.logger import Logger as Logger
from yolo_lite.report.loggers.mlflow import MLflow
from yolo_lite.report.loggers.tensorboard import TensorBoard

LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
