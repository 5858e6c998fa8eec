from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from harness.errors import HarnessError
from harness.metrics.differences import relative_difference
from harness.types import Float32
from tests.harness.metrics.strategies import scores

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("reference", "values", "difference"),
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
def test_the_difference_is_relative_to_the_largest_expected_value_and_infinite_if_there_is_none(
    reference: list[float], values: list[float], difference: float
) -> None:
    assert (
        relative_difference(np.array(values, np.float32), expected=np.array(reference, np.float32))
        == difference
    )


def test_the_difference_of_large_float16_values_does_not_overflow() -> None:
    one = np.array([60000.0], np.float16)
    assert relative_difference(-one, expected=one) == 2.0


def test_arrays_without_values_are_not_compared() -> None:
    with pytest.raises(HarnessError, match="without values"):
        relative_difference(np.empty(0, np.float32), expected=np.empty(0, np.float32))


@given(scores((5,)), scores((5,)))
def test_the_difference_keeps_under_one_order_one_sign_and_one_power_of_two(
    values: Float32, expected: Float32
) -> None:
    difference = relative_difference(values, expected=expected)
    assert difference >= 0
    assert (difference == 0) == np.array_equal(values, expected)
    assert relative_difference(values[::-1], expected=expected[::-1]) == difference
    assert relative_difference(-values, expected=-expected) == difference
    assert relative_difference(values * 2, expected=expected * 2) == difference
