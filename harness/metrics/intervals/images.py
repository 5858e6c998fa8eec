"""Intervals of the image AUROC: DeLong's where it holds, a bound that always holds elsewhere.

DeLong's variance is estimated from the images that are not ranked like most of their class. With none of them it is 0,
with few it is too small: a detector with AUROC 1 on 20 good images, one of which would break in 15, looks perfect in
one draw of four. So both classes must have `INFORMATIVE_IMAGES` such images, else the bound of
`harness.metrics.intervals.base.upper_bound` is used, with the number of images in the smaller class. It is wide, as wide
as the images are few, and right for every distribution. `benchmarks/test_coverage.py` measures both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.evaluation import image_metrics
from harness.metrics.intervals.base import INFORMATIVE_IMAGES, Interval, NoInterval, tail, upper_bound
from harness.metrics.ranking import Floats

Labels = NDArray[np.integer[Any]]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placements:
    """For every image twice the images of the other class that it is ranked rightly against, ties counted once."""

    defective: Int64
    """(D,), in [0, 2 G]; a difference of two detectors in [-2 G, 2 G]."""
    good: Int64
    """(G,), in [0, 2 D]; a difference in [-2 D, 2 D]."""

    def __sub__(self, other: Placements) -> Placements:
        return Placements(defective=self.defective - other.defective, good=self.good - other.good)

    @property
    def standard_error(self) -> float:
        """Of the mean over all pairs; DeLong et al. 1988, equation 3, each class on its own."""
        return math.sqrt(
            np.var(self.defective / (2 * len(self.good)), ddof=1) / len(self.defective)
            + np.var(self.good / (2 * len(self.defective)), ddof=1) / len(self.good)
        )

    @property
    def informative(self) -> tuple[int, int]:
        """Good and defective images whose placement is not the commonest of their class."""
        counts = [
            len(placements) - np.unique(placements, return_counts=True)[1].max()
            for placements in (self.good, self.defective)
        ]
        return int(counts[0]), int(counts[1])


def auroc_interval(labels: Labels, scores: Floats, *, level: float = 0.95) -> Interval | NoInterval:
    """Interval of the AUROC of scores (N,) against labels (N,), 0 good and 1 defective.

    DeLong's standard error s on the logit scale, logit(a) +- z s / (a (1 - a)): DeLong et al., "Comparing the areas under
    two or more correlated receiver operating characteristic curves", Biometrics 1988; Pepe, "The statistical
    evaluation of medical tests", 2003, section 5.2. Else the bound; see the module.

    No interval when a class is empty. Raises like `image_metrics`, and `ValueError` for a level outside 0 and 1.
    """
    alpha = tail(level)
    metrics = image_metrics(scores, labels)
    if "image_auroc" in metrics.undefined:
        return NoInterval(reason=metrics.undefined["image_auroc"])
    estimate = metrics.values["image_auroc"]
    placements = placements_of(labels, scores)
    if min(placements.informative) >= INFORMATIVE_IMAGES:
        centre = math.log(estimate / (1 - estimate))
        half = NormalDist().inv_cdf(1 - alpha) * placements.standard_error / (estimate * (1 - estimate))
        low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
        method = "DeLong 1988, on the logit scale"
    else:
        count = min(len(placements.good), len(placements.defective))
        low, high = 1 - upper_bound(1 - estimate, count, alpha), upper_bound(estimate, count, alpha)
        method = _bound_in_words(placements, "is ranked unlike most")
    return Interval(estimate=estimate, low=low, high=high, level=level, method=method)


def auroc_difference(
    labels: Labels, reference_scores: Floats, other_scores: Floats, *, level: float = 0.95
) -> Interval | NoInterval:
    """Interval of AUROC(other) - AUROC(reference) on the same images; scores and labels are (N,), see `auroc_interval`.

    DeLong's paired interval, d +- z s, cut at -1 and 1. Where it breaks down, the bound: the share of pairs, a good and
    a defective image, that only the reference ranks rightly, and the share that only the other does, ties counted half,
    are each bounded from above; the difference lies between minus the first bound and the second.

    No interval when a class is empty. Raises like `image_metrics`, and `ValueError` for a level outside 0 and 1.
    """
    alpha = tail(level)
    reference, other = image_metrics(reference_scores, labels), image_metrics(other_scores, labels)
    if "image_auroc" in reference.undefined:
        return NoInterval(reason=reference.undefined["image_auroc"])
    estimate = other.values["image_auroc"] - reference.values["image_auroc"]
    placements = placements_of(labels, other_scores) - placements_of(labels, reference_scores)
    if min(placements.informative) >= INFORMATIVE_IMAGES:
        half = NormalDist().inv_cdf(1 - alpha) * placements.standard_error
        low, high = max(-1.0, estimate - half), min(1.0, estimate + half)
        method = "paired DeLong 1988"
    else:
        count = min(len(placements.good), len(placements.defective))
        change = _wins(labels, other_scores) - _wins(labels, reference_scores)
        lost, gained = (float(np.maximum(sign * change, 0).mean()) / 2 for sign in (-1, 1))
        low, high = -upper_bound(lost, count, alpha), upper_bound(gained, count, alpha)
        method = _bound_in_words(placements, "changes its place unlike most")
    return Interval(estimate=estimate, low=low, high=high, level=level, method=method)


def placements_of(labels: Labels, scores: Floats) -> Placements:
    """Placements from two sorts, as in Sun and Xu, "Fast implementation of DeLong's algorithm", 2014."""
    defective, good = scores[labels == 1], scores[labels == 0]
    return Placements(
        defective=_twice_below(np.sort(good), defective),
        good=2 * len(defective) - _twice_below(np.sort(defective), good),
    )


def _twice_below(ascending: Floats, scores: Floats) -> Int64:
    return np.searchsorted(ascending, scores, "left") + np.searchsorted(ascending, scores, "right")


def _wins(labels: Labels, scores: Floats) -> NDArray[np.int8]:
    """(D, G): 1 where a defective image scores above a good one, 0 where they tie, -1 where it scores below."""
    defective, good = scores[labels == 1][:, None], scores[labels == 0]
    wins: NDArray[np.int8] = (defective > good).astype(np.int8) - (defective < good).astype(np.int8)
    return wins


def _bound_in_words(placements: Placements, event: str) -> str:
    (good, defective), least = placements.informative, min(len(placements.good), len(placements.defective))
    return (
        f"Hoeffding 1963, conservative, {least} images in the smaller class: of {len(placements.good)} good images"
        f" {good}, and of {len(placements.defective)} defective {defective}, {event}; DeLong needs {INFORMATIVE_IMAGES}"
        " of each"
    )
