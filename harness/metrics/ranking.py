"""One sort of the scores, and the metrics that read AUROC, average precision and F1-max off it.

Precision, recall and region overlap change only where a positive is passed, so the distinct scores of the
positives, with the negatives counted beside them, hold everything: negatives are sorted, never ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Positives and negatives counted at each of the K distinct scores of the P positives, lowest first."""

    thresholds: Floats
    """(K,), strictly increasing."""
    order: Int64
    """(P,), the positions of the positives from the lowest to the highest score."""
    starts: Int64
    """(K,), where in `order` each distinct score begins: the number of positives below it."""
    tied_positives: Int64
    """(K,), positives with exactly this score."""
    negatives_above: Int64
    """(K,), negatives with a higher score."""
    negatives_from: Int64
    """(K,), negatives with this or a higher score: false positives when this score is the threshold."""
    negatives: int
    """All negatives."""

    @property
    def positives(self) -> int:
        """All positives, P."""
        return len(self.order)

    @property
    def positives_from(self) -> Int64:
        """(K,), positives with this or a higher score: true positives when this score is the threshold."""
        return self.positives - self.starts


def rank(positives: Floats, negatives: Floats) -> Ranking:
    """Sort both classes, (P,) and (N,), and count each at the distinct scores of the positives.

    Scores are finite and of one dtype, P and N at least 1. `negatives` is sorted in place: at millions of
    pixels its copy would cost as much as the counting.
    """
    order = np.argsort(positives)
    ascending = positives[order]
    negatives.sort()
    starts = np.concatenate(([0], np.flatnonzero(ascending[1:] != ascending[:-1]) + 1))
    thresholds = ascending[starts]
    return Ranking(
        thresholds=thresholds,
        order=order,
        starts=starts,
        tied_positives=np.diff(starts, append=len(order)),
        negatives_above=len(negatives) - np.searchsorted(negatives, thresholds, side="right"),
        negatives_from=len(negatives) - np.searchsorted(negatives, thresholds, side="left"),
        negatives=len(negatives),
    )


def auroc(ranking: Ranking) -> float:
    """Area under the ROC curve, the Mann-Whitney probability with ties counted half, correctly rounded.

    Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982.
    """
    not_above = ranking.negatives - ranking.negatives_above
    below = ranking.negatives - ranking.negatives_from
    doubled_wins = int(np.dot(ranking.tied_positives, below + not_above))
    return doubled_wins / (2 * ranking.positives * ranking.negatives)


def average_precision(ranking: Ranking) -> float:
    """Sum of precision times gain in recall over all thresholds: scikit-learn's `average_precision_score`."""
    hits = ranking.positives_from
    terms = ranking.tied_positives * hits / (hits + ranking.negatives_from)
    return math.fsum(terms.tolist()) / ranking.positives


def f1_max(ranking: Ranking) -> tuple[float, float]:
    """Largest F1 over all thresholds, and the lowest threshold that attains it (defective when score >= it)."""
    hits = ranking.positives_from
    f1 = 2 * hits / (hits + ranking.negatives_from + ranking.positives)
    best = int(np.argmax(f1))
    # Adding zero turns -0.0, which equals 0.0 in every comparison, into the zero that prints as one.
    return float(f1[best]), float(ranking.thresholds[best]) + 0.0
