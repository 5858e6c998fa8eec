"""Parity: how far two records of one detector agree, level by level, and whether that is near enough.

What cannot be compared is "not measured" with its reason, never passed. Nothing here touches images, models or
devices: records and their evidence are enough.
"""

from harness.parity.compare import Asked, compare
from harness.parity.levels.maps import structural_similarity
from harness.parity.matching import parity
from harness.parity.pair import flipped, rank_correlation, read_again
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
from harness.parity.text import lines
from harness.parity.tolerances import FLOAT32, PROFILES, Profile, Tolerances

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
