"""Two records side by side, and how far their scores and maps lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import storage
from harness.errors import RecordError
from harness.parity.report import PairReport
from harness.parity.tolerances import Tolerances
from harness.records.record import EvidenceArrays, Record, read
from harness.types import Bool, Case, Float32

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Two records of one detector on the same N images, reference first."""

    records: tuple[Record, Record]
    evidence: tuple[EvidenceArrays | None, EvidenceArrays | None]
    tolerances: Tolerances

    @property
    def backends(self) -> tuple[str, str]:
        """Their names."""
        return side_names(self.records[0].case, self.records[1].case)

    @property
    def names(self) -> tuple[str, ...]:
        """Images, in the order of everything else."""
        return tuple(image.name for image in self.records[0].images)

    @property
    def scores(self) -> tuple[Float64, Float64]:
        """(N,) image scores of either."""
        return scores_of(self.records[0]), scores_of(self.records[1])

    @property
    def scores_are_finite(self) -> bool:
        """Whether both have nothing but finite scores."""
        return all(bool(is_finite(scores).all()) for scores in self.scores)

    @property
    def maps(self) -> tuple[Float32, Float32] | None:
        """(N, H, W) maps of either, when both have them, in one shape and with pixels."""
        one, two = self.evidence
        if one is None or two is None or one.maps.shape != two.maps.shape or one.maps.size == 0:
            return None
        return one.maps, two.maps

    @property
    def good_range(self) -> float | None:
        """Largest less smallest of the reference's good scores; `None` when that is no scale to compare with."""
        good = self.scores[0][[image.label == 0 for image in self.records[0].images]]
        return float(np.ptp(good)) or None if len(good) and self.scores_are_finite else None


def side_names(one: Case, two: Case) -> tuple[str, str]:
    """What tells two cases apart: their backends, or the variants of one backend."""
    if one.runner != two.runner:
        return one.runner, two.runner
    return f"{one.runner} ({one.variant})", f"{two.runner} ({two.variant})"


def scores_of(record: Record) -> Float64:
    """(N,) image scores."""
    return np.array([image.score for image in record.images], np.float64)


def flipped(reference: Record, other: Record) -> Bool | None:
    """(N,): images that the reference's frozen threshold decides otherwise in the other record; `None` without a threshold."""
    threshold = reference.thresholds.image
    if threshold is None:
        return None
    decided: Bool = (scores_of(reference) > threshold) != (scores_of(other) > threshold)
    return decided


def read_again(folder: Path, pair: PairReport) -> tuple[Record, Record]:
    """The records that were compared, reference first, from the results folder.

    Raises:
        RecordError: one was altered, or is gone since.
    """
    paths = [storage.inside(folder, name, RecordError) for name in pair.record_files]
    for path in paths:
        if not path.is_file():
            raise RecordError(f"{path}: gone since it was compared; run parity again")
    one, two = map(read, paths)
    return one, two


def is_finite(values: Float64 | Float32) -> Bool:
    """Where values are neither NaN, nor infinite, nor beyond float32: there differences are finite too."""
    finite: Bool = np.abs(values) <= np.finfo(np.float32).max
    return finite


def score_differences(sides: Sides) -> Float64:
    """(N,), NaN or infinite where a score is."""
    one, two = sides.scores
    with np.errstate(invalid="ignore", over="ignore"):
        apart: Float64 = np.abs(two - one)
    return apart


def map_differences(sides: Sides) -> tuple[Float64, Float64] | None:
    """Largest and mean over the pixels of every image, (N,) and (N,), NaN or infinite where a map is.

    `None` without two maps of one shape. Taken in float64, which differences of float32 do not overflow.
    """
    if sides.maps is None:
        return None
    largest, mean = np.empty(len(sides.names)), np.empty(len(sides.names))
    for index, (one, two) in enumerate(zip(*sides.maps, strict=True)):
        with np.errstate(invalid="ignore"):
            apart = np.abs(two.astype(np.float64) - one)
            largest[index], mean[index] = apart.max(), apart.mean()
    return largest, mean


def rank_correlation(first: Float64, second: Float64) -> float | None:
    """Spearman's rank correlation of two (N,), finite, in [-1, 1]; ties take their mean rank.

    `None` where it is undefined: one of the two is constant. Spearman, "The proof and measurement of association
    between two things", 1904.
    """
    a, b = _centred_ranks(first), _centred_ranks(second)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return None if scale == 0 else min(1.0, max(-1.0, float(a @ b) / scale))


def _centred_ranks(values: Float64) -> Float64:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Float64 = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks - (len(values) + 1) / 2


def number(value: float | np.floating[Any]) -> float | None:
    """What JSON can hold: a finite float, or nothing."""
    return float(value) if math.isfinite(value) else None


def named(names: Sequence[str]) -> str:
    """Up to five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def share(names: Sequence[str], sides: Sides) -> str:
    """How many of the images, and which."""
    return f"{len(names)} of {len(sides.names)} images ({named(names)})"
