"""What parity reports: the verdict on every level of every pair, with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from harness.metrics.intervals import Interval, NoInterval
from harness.parity.tolerances import Profile
from harness.types import Case

Verdict = Literal["passed", "failed", "not measured"]

LEVELS = ("inputs", "tensors", "scores", "maps", "decisions", "metrics")
COMPARED_METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
LARGEST = 5
"""How many images with the largest differences a pair names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One image that the two records decide differently."""

    image: str
    label: int
    reference_score: float
    other_score: float
    threshold: float
    margin: float
    """Distance of the reference's score from the threshold."""
    tolerated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far the two records lie apart on one image; `None` where a value is missing or not finite."""

    image: str
    label: int
    reference_score: float | None
    other_score: float | None
    score: float | None
    map: float | None
    """Largest over the pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """How far one output of the network lies apart over all images; `None` where it is undefined or not finite.

    a is the reference's value, b the other's.
    """

    output: str
    values: int
    """How many were compared."""
    not_finite: tuple[int, int]
    """NaN and infinite values of the reference and of the other."""
    largest: float | None = None
    """Of |b - a|."""
    mean: float | None = None
    largest_relative: float | None = None
    """Of |b - a| / |a|, over the values with a ≠ 0."""
    mean_relative: float | None = None
    cosine: float | None = None
    """a·b / (|a| |b|), of all values as one vector."""
    relative_l2: float | None = None
    """|b - a| / |a|, likewise."""
    tolerance_needed: float | None = None
    """The larger of `relative_l2` and `largest` over the largest |a|."""
    image: str | None = None
    """Where the largest difference is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """One metric on both sides, and where its change lies on other images of the same kind."""

    name: str
    """One of `COMPARED_METRICS`."""
    reference: float
    other: float
    interval: Interval | NoInterval | None
    """Of other - reference; `None` where none was taken."""
    non_inferior: Verdict | None
    """Whether the loss is shown to be smaller than the margin; `None` where no margin was stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReport:
    """The verdict on one level of `LEVELS`."""

    name: str
    verdict: Verdict
    messages: tuple[str, ...] = ()
    """Reasons, warnings and flips."""
    numbers: dict[str, float | int | None] = field(default_factory=dict)
    """`tolerance_needed` is the smallest tolerance that would pass, in the unit of the one asked for."""
    tolerance: dict[str, float] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    """Number → the image that gives it, where one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """Two records of one detector, compared."""

    verdict: Verdict
    reference: Case
    other: Case
    detector_sha256: str
    """Of the reference."""
    record_files: tuple[str, str]
    """Reference, other: file names in the results folder."""
    profile: Profile
    """What it was judged by."""
    reason: str | None = None
    """Why the two were not compared; then there are no levels."""
    notes: tuple[str, ...] = ()
    """Which reference record was taken, where there was a choice."""
    simulated: tuple[str, ...] = ()
    """Backends that were not real hardware."""
    good: int = 0
    defective: int = 0
    levels: tuple[LevelReport, ...] = ()
    """In the order of `LEVELS`; all of them count."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Level that was not asked for, and does not count → why."""
    float32: dict[str, Verdict] = field(default_factory=dict)
    """Level → its verdict by the tolerances of float32, where the pair was judged by others."""
    tensors: tuple[TensorDifference, ...] = ()
    metrics: tuple[MetricChange, ...] = ()
    flips: tuple[Flip, ...] = ()
    largest: tuple[Difference, ...] = ()
    """Largest difference of score or map first, at most `LARGEST`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """All that was compared with one backend, and the verdict over all of it."""

    verdict: Verdict
    reference: str
    """Name of the reference backend."""
    pairs: tuple[PairReport, ...]
    reasons: tuple[str, ...]
    """What could not be compared for want of a record; any of these keeps the verdict from being passed."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and finite numbers; the first key is `verdict`."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Failed beats not measured beats passed; nothing at all is not measured."""
    found = set(verdicts)
    if "failed" in found:
        return "failed"
    return "passed" if found == {"passed"} else "not measured"
