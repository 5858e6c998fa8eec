"""The common shape of a level: `measure` does the slow work once, `judge` applies tolerances as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from harness.parity.pair import Float64, Pair, number
from harness.parity.report import LevelReport
from harness.parity.tolerances import Tolerances
from harness.types import Bool


class Level(Protocol):
    """What a level's `measure(pair, …)` returns."""

    def judge(self, tolerances: Tolerances, /) -> LevelReport | None:
        """Return the verdict by these tolerances, with the numbers it rests on; `None` if the level is left out."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A level whose verdict does not depend on the tolerances."""

    report: LevelReport

    def judge(self, _: Tolerances) -> LevelReport:
        """Return the one verdict."""
        return self.report


@dataclass(frozen=True, slots=True, kw_only=True)
class InRange:
    """A level whose differences are judged as shares of the range of the reference's good scores."""

    name: str
    """`scores` or `maps`."""
    pair: Pair
    differences: Float64
    """(N,), the largest absolute difference of each image."""
    mean: float
    numbers: Mapping[str, float | int | None] = field(default_factory=dict)
    """More numbers to show."""
    messages: tuple[str, ...] = ()
    """More messages to show."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Number → the image that it comes from."""

    def judge(self, tolerances: Tolerances) -> LevelReport:
        """Judge the largest difference; not measured if the range is no scale."""
        share = tolerances.score if self.name == "scores" else tolerances.map
        worst, good_range = int(np.argmax(self.differences)), self.pair.good_range
        largest = float(self.differences[worst])
        numbers: dict[str, float | int | None] = {
            "largest_difference": largest,
            "mean_difference": self.mean,
        }
        if good_range is None:
            why = (
                "no scale to compare with: the reference has no good test images, or they all score the same"
            )
            return LevelReport(
                name=self.name,
                verdict="not measured",
                messages=(why, *self.messages),
                numbers={**numbers, **self.numbers},
                tolerance={"of_range": share},
                images=dict(self.images),
            )
        numbers |= {"range_of_good_scores": good_range, "tolerance_needed": number(largest / good_range)}
        allowed = share * good_range
        over = int(np.count_nonzero(self.differences > allowed))
        text = (
            f"{over} of {len(self.differences)} images differ by more than {allowed:.3g}, most "
            f"{self.pair.images[worst]}, by {largest:.3g}"
        )
        return LevelReport(
            name=self.name,
            verdict="failed" if over else "passed",
            messages=(*((text,) if over else ()), *self.messages),
            numbers={**numbers, **self.numbers},
            tolerance={"of_range": share, "absolute": allowed},
            images={"largest_difference": self.pair.images[worst], **self.images},
        )


def not_finite(pair: Pair, finite: Sequence[Bool], what: str) -> tuple[str, ...]:
    """Return a message for each record that has values which no tolerance can judge.

    Args:
        pair: Both records.
        finite: For each record (N,), which images have finite values alone.
        what: The name of the values, in the plural.
    """
    wrong = [
        [name for name, is_fine in zip(pair.images, fine, strict=True) if not is_fine] for fine in finite
    ]
    return tuple(
        f"{what} of {name} are NaN or infinite: {pair.share(images)}"
        for name, images in zip(pair.names, wrong, strict=True)
        if images
    )
