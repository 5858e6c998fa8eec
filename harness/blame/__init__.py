"""Blame: where two backends part. Here from evidence alone; node by node in `harness.blame.nodes`, which needs onnx."""

from harness.blame.frames import Explanation, explain
from harness.blame.outputs import FLOAT16, FLOAT32, relative_difference, tolerance_of
from harness.blame.stages import Stage, StageBlame, blame

__all__ = [
    "FLOAT16",
    "FLOAT32",
    "Explanation",
    "Stage",
    "StageBlame",
    "blame",
    "explain",
    "relative_difference",
    "tolerance_of",
]
