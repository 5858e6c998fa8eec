"""How far two arrays of one tensor lie apart, and how far they may."""

from __future__ import annotations

import math

import numpy as np

from harness.errors import HarnessError, UsageError
from harness.types import AnyArray

FLOAT32 = 1e-4
"""Relative to the tensor's largest value: a hundred times what float32 runtimes differ by in one layer."""
FLOAT16 = 1e-2
"""Twenty times float16's rounding step of 2⁻¹¹: what layers after one another add up to."""


def tolerance_of(precision: str) -> float:
    """The default for tensors of a variant of this precision: `FLOAT32` for `fp32`, `FLOAT16` for all others."""
    return FLOAT32 if precision == "fp32" else FLOAT16


def require_tolerance(tolerance: float) -> None:
    """Raise `UsageError` unless it is a number from 0 to below infinity: anything is within infinity."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance {tolerance}: a share of a tensor's largest value, 1e-4 say")


def relative_difference(reference: AnyArray, other: AnyArray) -> float:
    """Largest |other − reference| over the largest finite |reference|, from 0 to infinity.

    Infinite where the shapes differ, a value is NaN on either side, or infinite on one alone.

    Raises:
        HarnessError: there are no values to compare.
    """
    if reference.shape != other.shape:
        return float("inf")
    if not reference.size:
        raise HarnessError("a tensor without values cannot be compared")
    one, two = reference.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(one == two, 0.0, np.abs(two - one))  # infinity less itself is NaN
    largest = float(apart.max())
    if largest == 0:
        return 0.0
    scale = float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
    return largest / scale if np.isfinite(largest) and scale > 0 else float("inf")
