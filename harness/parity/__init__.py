"""Parity: how far two records of one detector agree, level by level, and whether the differences are within tolerance.

A level that cannot be compared is "not measured" with its reason, never passed. Records and their evidence are enough:
nothing here needs images, models or devices. `matching` pairs the records of a folder, `compare` compares one pair.
"""

from harness.parity.compare import Limits, compare
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
)
from harness.parity.text import lines
from harness.parity.tolerances import FLOAT32, PROFILES, Profile, Tolerances
from harness.types import Verdict, overall

__all__ = [
    "COMPARED_METRICS",
    "FLOAT32",
    "LEVELS",
    "PROFILES",
    "Difference",
    "Flip",
    "LevelReport",
    "Limits",
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
