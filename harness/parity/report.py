"""The parity report: the verdict on every level of every pair, with the numbers it rests on.

In field names, which are the JSON names too, `other` is the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.metrics.intervals import Interval, NoInterval
from harness.parity.tolerances import Profile
from harness.types import Case, Verdict

LEVELS = ("inputs", "tensors", "scores", "maps", "decisions", "metrics")
COMPARED_METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
LARGEST = 5
"""Number of images with the largest differences that a pair names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One image that the two records decide differently."""

    image: str
    label: int
    """0 good, 1 defective."""
    reference_score: float
    other_score: float
    threshold: float
    margin: float
    """Distance of the reference's score from the threshold."""
    tolerated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The differences of the two records on one image; `None` if a value is missing or not finite."""

    image: str
    label: int
    """0 good, 1 defective."""
    reference_score: float | None
    other_score: float | None
    score: float | None
    """Absolute."""
    map: float | None
    """Absolute, the largest over the pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """The differences of one network output over all images; `None` if undefined or not finite.

    a is the reference's value, b the candidate's.
    """

    output: str
    values: int
    """Number of compared values."""
    not_finite: tuple[int, int]
    """Numbers of NaN and infinite values, the reference's and the candidate's."""
    largest: float | None = None
    """Largest |b - a|."""
    mean: float | None = None
    """Mean |b - a|."""
    largest_relative: float | None = None
    """Largest |b - a| / |a|, over the values with a ≠ 0."""
    mean_relative: float | None = None
    cosine: float | None = None
    """a·b / (|a| |b|), with all values as one vector."""
    relative_l2: float | None = None
    """|b - a| / |a|, with all values as one vector."""
    tolerance_needed: float | None = None
    """The larger of `relative_l2` and `largest` over the largest |a|."""
    image: str | None = None
    """The image with the largest difference, or the first with a value that is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """One metric of both records, and the interval of its change on other images of the same kind."""

    name: str
    """One of `COMPARED_METRICS`."""
    reference: float
    other: float
    interval: Interval | NoInterval | None
    """Of other - reference; `None` if none was computed."""
    non_inferior: Verdict | None
    """Whether the loss is shown to be smaller than the margin; `None` if no margin was stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReport:
    """The verdict on one level of `LEVELS`."""

    name: str
    verdict: Verdict
    messages: tuple[str, ...] = ()
    """Reasons, warnings and flips."""
    numbers: dict[str, float | int | None] = field(default_factory=dict)
    """`tolerance_needed` is the smallest tolerance that would pass, in the unit of `tolerance`."""
    tolerance: dict[str, float] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    """Number → the image that it comes from, if it comes from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """The comparison of one reference and one candidate record."""

    verdict: Verdict
    reference: Case
    other: Case
    detector_sha256: str
    """Of the reference."""
    record_files: tuple[str, str]
    """File names in the results folder, the reference's first."""
    profile: Profile
    """The tolerances that judged the pair."""
    reason: str | None = None
    """Why the two were not compared; then there are no levels."""
    notes: tuple[str, ...] = ()
    """How the reference record was chosen among several, and which records were left out."""
    simulated: tuple[str, ...] = ()
    """Backends that were not real hardware."""
    good: int = 0
    """Number of good images."""
    defective: int = 0
    """Number of defective images."""
    levels: tuple[LevelReport, ...] = ()
    """In the order of `LEVELS`; all of them count."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Level that was not requested and does not count → why."""
    float32: dict[str, Verdict] = field(default_factory=dict)
    """Level → its verdict by float32's tolerances, if others judged the pair."""
    tensors: tuple[TensorDifference, ...] = ()
    metrics: tuple[MetricChange, ...] = ()
    flips: tuple[Flip, ...] = ()
    largest: tuple[Difference, ...] = ()
    """The largest difference of score or map first, at most `LARGEST`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """All pairs with one reference backend, and the verdict over them."""

    verdict: Verdict
    reference: str
    """The reference backend, `BACKEND` or `BACKEND:VARIANT`."""
    pairs: tuple[PairReport, ...]
    reasons: tuple[str, ...]
    """What could not be compared because a record is missing; any of these keeps the verdict from being passed."""

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and finite numbers; the first key is `verdict`."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document
