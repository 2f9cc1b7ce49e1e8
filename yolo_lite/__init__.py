"""yolo_lite: a compact, MIT-licensed, YOLOv5-like training framework for object detection."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_lite.api import adopt as adopt
    from yolo_lite.api import evaluate as evaluate
    from yolo_lite.api import load as load
    from yolo_lite.api import train as train

__version__ = "0.1.0"
__all__ = ["adopt", "evaluate", "load", "train"]


def __getattr__(name: str) -> Any:
    """Functions are imported when they are first asked for: ``import yolo_lite`` stays light."""
    if name in __all__:
        return getattr(import_module("yolo_lite.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
