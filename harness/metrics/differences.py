"""How far one array lies from another, relative to the largest value of the expected one."""

from __future__ import annotations

import numpy as np

from harness.errors import HarnessError
from harness.types import AnyArray


def relative_difference(values: AnyArray, *, expected: AnyArray) -> float:
    """Max |values − expected| / max |expected| over all elements, in float64; from 0 to infinity.

    The denominator counts finite values only. Equal elements differ by 0, equal infinities included. The result is
    infinite if the shapes differ, a value is NaN on either side or infinite on one alone, or arrays that differ have
    no finite expected value other than 0.

    `exporters.base`, `exporters.opset` and `exporters.quantize` subtract in the dtype of the arrays instead: manifests
    store these numbers as `agreement`, and float64 would change their last digits.

    Raises:
        HarnessError: there are no values to compare.
    """
    if values.shape != expected.shape:
        return float("inf")
    if not expected.size:
        raise HarnessError("a tensor without values cannot be compared")
    one, two = expected.astype(np.float64), values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        differences = np.where(one == two, 0.0, np.abs(two - one))  # infinity less itself is NaN
    largest = float(differences.max())
    if largest == 0:
        return 0.0
    scale = float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
    return largest / scale if np.isfinite(largest) and scale > 0 else float("inf")
