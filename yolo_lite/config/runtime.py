"""The keys of hyp.yaml for how a run is computed."""

from __future__ import annotations

from typing import Literal

from yolo_lite.config.seams import Section


class RuntimeSection(Section):
    """How a run is computed."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    cache: Literal["auto", "ram", "disk", "off"] = "auto"
    compile: bool = False
    deterministic: bool = False
    sync_bn: bool = False
