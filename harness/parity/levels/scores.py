"""The level of image scores."""

from __future__ import annotations

import numpy as np

from harness.parity.levels.base import Fixed, InRange, Level, not_finite
from harness.parity.pair import Pair, is_finite, rank_correlation, score_differences
from harness.parity.report import LevelReport


def measure(pair: Pair) -> Level:
    """Measure the differences of image scores and their rank correlation; scores that are not finite fail."""
    wrong = not_finite(pair, [is_finite(scores) for scores in pair.scores], "scores")
    if wrong:
        return Fixed(LevelReport(name="scores", verdict="failed", messages=wrong))
    differences = score_differences(pair)
    correlation = rank_correlation(*pair.scores)
    undefined = (
        () if correlation is not None else ("rank correlation undefined: one record's scores are all equal",)
    )
    return InRange(
        name="scores",
        pair=pair,
        differences=differences,
        mean=float(differences.mean()),
        numbers={"rank_correlation": correlation},
        messages=undefined + _outlier(pair),
    )


def _outlier(pair: Pair) -> tuple[str, ...]:
    """Warn if a single good image makes the range, and so the tolerances, more than twice as wide."""
    good = np.array([image.label == 0 for image in pair.records[0].images])
    scores = pair.scores[0][good]
    if len(scores) < 3:
        return ()
    order = np.argsort(scores)
    for outlier, rest in ((order[-1], order[:-1]), (order[0], order[1:])):
        narrow, wide = np.ptp(scores[rest]), np.ptp(scores)
        if wide > 2 * narrow:
            name = np.array(pair.images)[good][outlier]
            return (f"warning: {name} alone widens the range of good scores from {narrow:.4g} to {wide:.4g}",)
    return ()
