"""An interval, the verdict over it, and the bound that holds where a normal interval breaks down."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.types import Verdict

INFORMATIVE_IMAGES = 10
"""Fewest images that a normal interval or a bootstrap may rest on; with fewer, the conservative bound is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where the metric, or its difference, of the population of images lies; never of zero width.

    Raises `ValueError` unless -1 <= low <= estimate <= high <= 1 and low < high.
    """

    estimate: float
    """The value on these images."""
    low: float
    high: float
    level: float
    """The share of such intervals that hold the true value, 0.95 say."""
    method: str
    """How it was made and, where it is a conservative bound, why; for a report."""

    def __post_init__(self) -> None:
        if not (-1 <= self.low <= self.estimate <= self.high <= 1 and self.low < self.high):
            raise ValueError(
                f"{self.low} to {self.high} is no interval around {self.estimate} within -1 and 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoInterval:
    """There is no interval."""

    reason: str


def non_inferior(difference: Interval | NoInterval, margin: float) -> Verdict:
    """Whether the difference, other - reference, of a metric that should be high is no loss beyond `margin`.

    Passed when the whole interval lies above -margin: Piaggio et al., "Reporting of noninferiority and
    equivalence randomized trials", JAMA 2012. Failed when the images at hand already lose more than the margin.
    Else not measured: nothing is wrong on these images, but they are too few to show that nothing is.

    `margin` is in [0, 1); raises `ValueError` for another.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin {margin} must be at least 0 and below 1")
    if isinstance(difference, NoInterval):
        return "not measured"
    if difference.low > -margin:
        return "passed"
    return "failed" if difference.estimate < -margin else "not measured"


def tail(level: float) -> float:
    """The share left out at each end; `ValueError` unless `level` lies between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level {level} must lie between 0 and 1")
    return (1 - level) / 2


def upper_bound(mean: float, count: int, alpha: float) -> float:
    """Largest expectation, in [0, 1], that is not refuted by `mean` of `count` independent values in [0, 1].

    The p >= mean with count * KL(mean || p) = -ln(alpha), KL being the divergence of Bernoulli laws: Hoeffding,
    "Probability inequalities for sums of bounded random variables", JASA 1963, theorem 1. It holds for every
    distribution, with probability at least 1 - alpha. At mean 0 it is 1 - alpha ** (1 / count), which no bound can
    undercut: the exact one of Clopper and Pearson, or, about -ln(alpha) / count, the rule of three.

    It holds for the mean of a kernel over all pairs of m and n images too, with `count` = min(m, n), because such a
    mean is an average of means over `count` disjoint pairs (section 5 there).
    """
    if mean == 1:
        return 1.0
    low, high = mean, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        beyond = middle >= 1 or count * _divergence(mean, middle) > -math.log(alpha)
        low, high = (low, middle) if beyond else (middle, high)
    return high


def _divergence(mean: float, p: float) -> float:
    """KL divergence of Bernoulli laws in nats, 0 <= mean < 1 and 0 < p < 1."""
    seen = mean * math.log(mean / p) if mean > 0 else 0.0
    return seen + (1 - mean) * math.log((1 - mean) / (1 - p))
