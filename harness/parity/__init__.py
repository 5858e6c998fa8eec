"""Parity: how far two records of one detector agree, level by level, and whether that is near enough.

What cannot be compared is "not measured" with its reason, never passed. Nothing here touches images, models or
devices: records and their evidence are enough.
"""

from harness.parity.comparing import Asked, compare
from harness.parity.pairing import parity
from harness.parity.profiles import FLOAT32, PROFILES, Profile, Tolerances
from harness.parity.report import (
    COMPARED_METRICS,
    LEVELS,
    Difference,
    Flip,
    LevelReport,
    MetricChange,
    PairReport,
    ParityReport,
    TensorDifference,
    Verdict,
    overall,
)
from harness.parity.sides import flipped, rank_correlation, read_again
from harness.parity.similarity import structural_similarity
from harness.parity.text import lines

__all__ = [
    "COMPARED_METRICS",
    "FLOAT32",
    "LEVELS",
    "PROFILES",
    "Asked",
    "Difference",
    "Flip",
    "LevelReport",
    "MetricChange",
    "PairReport",
    "ParityReport",
    "Profile",
    "TensorDifference",
    "Tolerances",
    "Verdict",
    "compare",
    "flipped",
    "lines",
    "overall",
    "parity",
    "rank_correlation",
    "read_again",
    "structural_similarity",
]
