"""Parity: how far two records of one detector agree, level by level, and whether that is near enough.

What cannot be compared is "not measured" with its reason, never passed. Nothing here touches images, models or
devices: records and their evidence are enough.
"""

from harness.parity.pairing import compare, parity
from harness.parity.report import (
    COMPARED_METRICS,
    FLOAT32,
    LEVELS,
    Difference,
    Flip,
    LevelReport,
    PairReport,
    ParityReport,
    Tolerances,
    Verdict,
    overall,
)
from harness.parity.sides import rank_correlation
from harness.parity.text import lines

__all__ = [
    "COMPARED_METRICS",
    "FLOAT32",
    "LEVELS",
    "Difference",
    "Flip",
    "LevelReport",
    "PairReport",
    "ParityReport",
    "Tolerances",
    "Verdict",
    "compare",
    "lines",
    "overall",
    "parity",
    "rank_correlation",
]
