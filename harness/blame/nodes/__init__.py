"""Blame inside ONNX graphs: the first node at which two sides part, and truncated models for graphs that stay shut."""

from exporters.blame.nodes import NodeBlame, blame
from exporters.blame.prepare import PrepareRequest, prepare
from exporters.blame.reproducer import rerun
from exporters.blame.rows import Row, chosen, rows
from exporters.blame.sides import Side, side

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
