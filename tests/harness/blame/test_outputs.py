from __future__ import annotations

import numpy as np
import pytest

from harness.blame import relative_difference
from harness.blame.outputs import require_tolerance
from harness.errors import HarnessError, UsageError

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [2.0, -4.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], INF),
        ([1.0, NAN], [1.0, NAN], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([1.0, 2.0], [INF, 2.0], INF),
        ([-INF, 2.0], [-INF, 3.0], 0.5),
        ([-INF, 2.0], [INF, 2.0], INF),
        ([1.0, 2.0], [1.0], INF),
    ],
)
def test_the_difference_is_relative_to_the_largest_value_and_infinite_where_there_is_none(
    reference: list[float], other: list[float], expected: float
) -> None:
    assert relative_difference(np.array(reference, np.float32), np.array(other, np.float32)) == expected


def test_the_difference_of_large_float16_values_does_not_overflow() -> None:
    one = np.array([60000.0], np.float16)
    assert relative_difference(one, -one) == 2.0


def test_nothing_is_not_compared() -> None:
    with pytest.raises(HarnessError, match="without values"):
        relative_difference(np.empty(0, np.float32), np.empty(0, np.float32))


@pytest.mark.parametrize("tolerance", [-1e-9, INF, NAN])
def test_a_tolerance_that_everything_or_nothing_is_within_is_refused(tolerance: float) -> None:
    with pytest.raises(UsageError, match="--tolerance"):
        require_tolerance(tolerance)
    require_tolerance(0.0)
