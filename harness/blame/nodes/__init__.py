"""Blame inside ONNX graphs: the first node that differs, and truncated models for graphs that cannot be opened."""

from harness.blame.nodes.find import NodeBlame, blame
from harness.blame.nodes.prepare import PrepareRequest, prepare
from harness.blame.nodes.reproducer import rerun
from harness.blame.nodes.side import InputRow, Side, evenly_spread, input_rows, open_side

__all__ = [
    "InputRow",
    "NodeBlame",
    "PrepareRequest",
    "Side",
    "blame",
    "evenly_spread",
    "input_rows",
    "open_side",
    "prepare",
    "rerun",
]
