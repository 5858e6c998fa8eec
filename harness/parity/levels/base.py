"""What the levels share: rejecting values that no tolerance can judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.parity.pair import (
    Float64,
    Sides,
    number,
    share,
)
from harness.parity.report import LevelReport
from harness.types import Bool


def _not_finite(sides: Sides, finite: Sequence[Bool], what: str) -> tuple[str, ...]:
    wrong = [[name for name, fine in zip(sides.names, good, strict=True) if not fine] for good in finite]
    return tuple(
        f"{what} of {backend} are NaN or infinite: {share(names, sides)}"
        for backend, names in zip(sides.backends, wrong, strict=True)
        if names
    )


def _within_range(name: str, sides: Sides, apart: Float64, mean: float) -> LevelReport:
    """Judge the largest of (N,) differences in the range of good scores."""
    asked = sides.tolerances.score if name == "scores" else sides.tolerances.map
    worst, good_range = int(np.argmax(apart)), sides.good_range
    largest = float(apart[worst])
    numbers: dict[str, float | int | None] = {"largest_difference": largest, "mean_difference": mean}
    if good_range is None:
        why = "no scale to compare with: the reference's good test images are missing, or all score the same"
        return LevelReport(
            name=name, verdict="not measured", messages=(why,), numbers=numbers, tolerance={"of_range": asked}
        )
    numbers |= {"range_of_good_scores": good_range, "tolerance_needed": number(largest / good_range)}
    allowed = asked * good_range
    over = int(np.count_nonzero(apart > allowed))
    most = f"most of all {sides.names[worst]} by {largest:.3g}"
    text = f"beyond {allowed:.3g} for {over} of {len(apart)} images, {most}"
    return LevelReport(
        name=name,
        verdict="failed" if over else "passed",
        messages=(text,) if over else (),
        numbers=numbers,
        tolerance={"of_range": asked, "absolute": allowed},
        images={"largest_difference": sides.names[worst]},
    )
