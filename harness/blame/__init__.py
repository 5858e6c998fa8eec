"""Blame: where two backends first differ, from the evidence alone; `harness.blame.nodes` searches node by node, with onnx."""

from harness.blame.frames import Explanation, explain
from harness.blame.stages import Stage, StageBlame, blame

__all__ = [
    "Explanation",
    "Stage",
    "StageBlame",
    "blame",
    "explain",
]
