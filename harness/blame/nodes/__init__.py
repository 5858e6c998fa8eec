"""Blame inside ONNX graphs: the first node at which two sides part, and truncated models for graphs that stay shut."""

from harness.blame.nodes.find import NodeBlame, blame
from harness.blame.nodes.prepare import PrepareRequest, prepare
from harness.blame.nodes.reproducer import rerun
from harness.blame.nodes.side import Row, Side, chosen, rows, side

__all__ = [
    "NodeBlame",
    "PrepareRequest",
    "Row",
    "Side",
    "blame",
    "chosen",
    "prepare",
    "rerun",
    "rows",
    "side",
]
