"""The level of image scores."""

from __future__ import annotations

import dataclasses

import numpy as np

from harness.parity.levels.base import _not_finite, _within_range
from harness.parity.pair import (
    Sides,
    is_finite,
    rank_correlation,
    score_differences,
)
from harness.parity.report import LevelReport


def score_level(sides: Sides) -> LevelReport:
    """Largest difference of image scores, in the range of good scores."""
    wrong = _not_finite(sides, [is_finite(scores) for scores in sides.scores], "scores")
    if wrong:
        return LevelReport(name="scores", verdict="failed", messages=wrong)
    apart = score_differences(sides)
    level = _within_range("scores", sides, apart, float(apart.mean()))
    correlation = rank_correlation(*sides.scores)
    undefined = (
        () if correlation is not None else ("rank correlation undefined: all scores of one side are equal",)
    )
    numbers = level.numbers | {"rank_correlation": correlation}
    return dataclasses.replace(level, numbers=numbers, messages=level.messages + undefined + _outlier(sides))


def _outlier(sides: Sides) -> tuple[str, ...]:
    """A warning where one good image alone makes the range, and so the tolerances, more than twice as wide."""
    good = np.array([image.label == 0 for image in sides.records[0].images])
    scores = sides.scores[0][good]
    if len(scores) < 3:
        return ()
    order = np.argsort(scores)
    for outlier, rest in ((order[-1], order[:-1]), (order[0], order[1:])):
        narrow, wide = np.ptp(scores[rest]), np.ptp(scores)
        if wide > 2 * narrow:
            name = np.array(sides.names)[good][outlier]
            return (f"warning: {name} alone widens the range of good scores from {narrow:.4g} to {wide:.4g}",)
    return ()
