"""Target assignment behind one key: ``ASSIGNERS[name](objects, grid)`` says which slot learns which object.

An assigner returns ``Matches`` in which no slot of an image occurs twice. Where it has parameters of these names, it
is handed by keyword: ``anchor_t``, the key of hyp.yaml; ``reach``, how many cells a side of a box may lie from its
slot; and ``predictions``, what the network predicts for every slot (``Predictions``; the assignment then waits for the
forward pass, and the losses of a step share one divisor, the sum of the scores of its pairs). What else stands behind
its ``*`` can be set in hyp.yaml: ``assigner: {name: {key: 1}}``.
"""

from collections.abc import Callable

from yolo_lite.loss.assigners.anchor_ratio import build_targets as build_targets
from yolo_lite.loss.assigners.atss import atss
from yolo_lite.loss.assigners.simota import simota
from yolo_lite.loss.assigners.tal import tal
from yolo_lite.structures import Matches

ASSIGNERS: dict[str, Callable[..., Matches]] = {
    "anchor_ratio": build_targets,
    "tal": tal,
    "simota": simota,
    "atss": atss,
}
