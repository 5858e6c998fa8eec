"""Blame: where two backends part. Here from evidence alone; node by node in `harness.blame.nodes`, which needs onnx."""

from harness.blame.frames import Explanation, explain
from harness.blame.stages import Stage, StageBlame, blame

__all__ = [
    "Explanation",
    "Stage",
    "StageBlame",
    "blame",
    "explain",
]
