"""What parity reports: the verdict on every level of every pair, with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from harness.types import Case

Verdict = Literal["passed", "failed", "not measured"]

LEVELS = ("inputs", "scores", "maps", "decisions", "metrics")
COMPARED_METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
LARGEST = 5
"""How many images with the largest differences a pair names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far two records may lie apart; the defaults are for float32."""

    score: float = 1e-3
    """Of the range (max - min) of the reference's scores of good test images; also how near to the threshold the
    reference's score of a flipped image must lie."""
    map: float = 1e-3
    """Of the same range."""
    auroc: float = 1e-4
    """Absolute, for image and pixel AUROC."""
    aupro: float = 1e-4
    """Absolute."""


FLOAT32 = Tolerances()


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
class LevelReport:
    """The verdict on one level of `LEVELS`."""

    name: str
    verdict: Verdict
    messages: tuple[str, ...] = ()
    """Reasons, warnings and flips."""
    numbers: dict[str, float | int | None] = field(default_factory=dict)
    """`tolerance_needed` is the smallest tolerance that would pass, in the unit of the one asked for."""
    tolerance: dict[str, float] = field(default_factory=dict)


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
    tolerances: Tolerances = FLOAT32
    reason: str | None = None
    """Why the two were not compared; then there are no levels."""
    notes: tuple[str, ...] = ()
    """Which reference record was taken, where there was a choice."""
    simulated: tuple[str, ...] = ()
    """Backends that were not real hardware."""
    good: int = 0
    defective: int = 0
    levels: tuple[LevelReport, ...] = ()
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
