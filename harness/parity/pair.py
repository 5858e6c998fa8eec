"""One pair: the reference and the candidate record with their evidence, and the differences of scores and maps."""

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
from harness.records.record import EvidenceArrays, Record, read
from harness.types import Bool, Case, Float32

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two records of one detector on the same N images; in every tuple the reference comes first."""

    records: tuple[Record, Record]
    evidence: tuple[EvidenceArrays | None, EvidenceArrays | None]

    @property
    def names(self) -> tuple[str, str]:
        """What messages call the two records."""
        return pair_names(self.records[0].case, self.records[1].case)

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the N images, in the order of all arrays."""
        return tuple(image.name for image in self.records[0].images)

    @property
    def threshold(self) -> float | None:
        """The frozen threshold of image scores; `None` if the model has none."""
        return self.records[0].thresholds.image

    @property
    def scores(self) -> tuple[Float64, Float64]:
        """(N,) image scores of each record."""
        return scores_of(self.records[0]), scores_of(self.records[1])

    @property
    def scores_are_finite(self) -> bool:
        """Whether all scores of both records are finite."""
        return all(bool(is_finite(scores).all()) for scores in self.scores)

    @property
    def maps(self) -> tuple[Float32, Float32] | None:
        """(N, H, W) maps of each record; `None` unless both have them, of one shape and with pixels."""
        one, two = self.evidence
        if one is None or two is None or one.maps.shape != two.maps.shape or one.maps.size == 0:
            return None
        return one.maps, two.maps

    @property
    def good_range(self) -> float | None:
        """Range (max - min) of the reference's scores of good images; `None` if it is no scale to compare with."""
        good = self.scores[0][[image.label == 0 for image in self.records[0].images]]
        return float(np.ptp(good)) or None if len(good) and self.scores_are_finite else None

    def share(self, names: Sequence[str]) -> str:
        """Say how many of the images these are, and which."""
        return f"{len(names)} of {len(self.images)} images ({first_names(names)})"


def pair_names(reference: Case, candidate: Case) -> tuple[str, str]:
    """Return what tells two cases apart: their backends, or the variants of one backend."""
    if reference.runner != candidate.runner:
        return reference.runner, candidate.runner
    return f"{reference.runner} ({reference.variant})", f"{candidate.runner} ({candidate.variant})"


def scores_of(record: Record) -> Float64:
    """Return the (N,) image scores of a record."""
    return np.array([image.score for image in record.images], np.float64)


def flipped(reference: Record, candidate: Record) -> Bool | None:
    """Return, as (N,), which images the two records decide differently at the reference's frozen threshold.

    `None` if the reference has no threshold.
    """
    threshold = reference.thresholds.image
    if threshold is None:
        return None
    decided: Bool = (scores_of(reference) > threshold) != (scores_of(candidate) > threshold)
    return decided


def read_again(folder: Path, pair: PairReport) -> tuple[Record, Record]:
    """Read the records of a compared pair from the results folder, the reference first.

    Raises:
        RecordError: a record was altered or removed since the comparison.
    """
    paths = [storage.inside(folder, name, RecordError) for name in pair.record_files]
    for path in paths:
        if not path.is_file():
            raise RecordError(f"{path}: removed since it was compared; run parity again")
    reference, candidate = map(read, paths)
    return reference, candidate


def is_finite(values: Float64 | Float32) -> Bool:
    """Return which values are neither NaN, nor infinite, nor beyond float32, so that their differences are finite too."""
    finite: Bool = np.abs(values) <= np.finfo(np.float32).max
    return finite


def score_differences(pair: Pair) -> Float64:
    """Return the (N,) absolute differences of the scores; NaN or infinite if a score is."""
    reference, candidate = pair.scores
    with np.errstate(invalid="ignore", over="ignore"):
        differences: Float64 = np.abs(candidate - reference)
    return differences


def map_differences(pair: Pair) -> tuple[Float64, Float64] | None:
    """Return each image's largest and mean absolute difference over its pixels, (N,) and (N,).

    They are NaN or infinite if a map is; `None` without two maps of one shape. Computed in float64, which differences
    of float32 do not overflow.
    """
    if pair.maps is None:
        return None
    largest, mean = np.empty(len(pair.images)), np.empty(len(pair.images))
    for index, (reference, candidate) in enumerate(zip(*pair.maps, strict=True)):
        with np.errstate(invalid="ignore"):
            differences = np.abs(candidate.astype(np.float64) - reference)
            largest[index], mean[index] = differences.max(), differences.mean()
    return largest, mean


def rank_correlation(first: Float64, second: Float64) -> float | None:
    """Return Spearman's rank correlation of two finite (N,), in [-1, 1]; ties have their mean rank.

    `None` if it is undefined because one of the two is constant. Spearman, "The proof and measurement of association
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
    """Return a finite value as a float for JSON, `None` for any other."""
    return float(value) if math.isfinite(value) else None


def first_names(names: Sequence[str]) -> str:
    """Return up to five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
