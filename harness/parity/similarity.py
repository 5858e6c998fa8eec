"""Structural similarity of anomaly maps."""

from __future__ import annotations

import cv2
import numpy as np

from harness.parity.pair import Float64
from harness.types import Float32

WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def structural_similarity(reference: Float32, other: Float32) -> Float64 | None:
    """Mean SSIM index of every image, (N,), in [-1, 1], 1 for equal maps; maps are (N, H, W), finite.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004:
    Gaussian window of 11 by 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, over the windows that lie wholly inside. Both sides
    are scaled so that the smallest value of all reference maps is 0 and the largest 1, which is the dynamic range.

    `None` where it is undefined: maps smaller than the window, or the reference's all one value.
    """
    if min(reference.shape[1:]) < WINDOW:
        return None
    low, high = float(reference.min()), float(reference.max())
    if low == high:
        return None
    scaled = (
        [(float64(found) - low) / (high - low) for found in pair]
        for pair in zip(reference, other, strict=True)
    )
    return np.array([_similarity(one, two) for one, two in scaled])


def float64(values: Float32) -> Float64:
    """In which the squares of any two float32 are finite."""
    return values.astype(np.float64)


def _similarity(one: Float64, two: Float64) -> float:
    mean_one, mean_two = _local_mean(one), _local_mean(two)
    variances = _local_mean(one * one) - mean_one**2 + _local_mean(two * two) - mean_two**2
    covariance = _local_mean(one * two) - mean_one * mean_two
    luminance = (2 * mean_one * mean_two + _C1) / (mean_one**2 + mean_two**2 + _C1)
    return float(np.mean(luminance * (2 * covariance + _C2) / (variances + _C2)))


def _local_mean(values: Float64) -> Float64:
    blurred = cv2.GaussianBlur(values, (WINDOW, WINDOW), _SIGMA)
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    return np.asarray(blurred[inside, inside], np.float64)
