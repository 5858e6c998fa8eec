"""The levels of maps, scores and decisions, each judged apart; inputs, tensors and metrics have modules of their own."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from harness.parity.levels.base import _not_finite, _within_range
from harness.parity.pair import (
    Float64,
    Sides,
    is_finite,
    map_differences,
)
from harness.parity.report import LevelReport
from harness.types import Float32


def measure_similarity(sides: Sides) -> Float64 | None:
    """`structural_similarity` of every image, (N,); `None` also without finite maps of one shape."""
    if sides.maps is None or not all(is_finite(maps).all() for maps in sides.maps):
        return None
    return structural_similarity(*sides.maps)


def map_level(sides: Sides, similarity: Float64 | None) -> LevelReport:
    """Largest difference of map values; one that is not finite fails even where both sides agree on it.

    `similarity` (`measure_similarity`) is shown and not judged: it forgives what a threshold on the map would not.
    """
    lacking = [name for name, arrays in zip(sides.backends, sides.evidence, strict=True) if arrays is None]
    if lacking:
        why = f"evidence of {' and '.join(lacking)} is missing: copy `evidence` along with the records, or bench again"
        return LevelReport(name="maps", verdict="not measured", messages=(why,))
    shapes = [arrays.maps.shape for arrays in sides.evidence if arrays]
    if all(shape[1:] == (0, 0) for shape in shapes):
        why = "the detector gives a score per image and no map"
        return LevelReport(name="maps", verdict="not measured", messages=(why,))
    apart = map_differences(sides)
    if sides.maps is None or apart is None:
        why = " and ".join(f"{shape} on {name}" for shape, name in zip(shapes, sides.backends, strict=True))
        return LevelReport(name="maps", verdict="failed", messages=(f"maps are {why}",))
    wrong = _not_finite(sides, [is_finite(maps).all(axis=(1, 2)) for maps in sides.maps], "maps")
    if wrong:
        return LevelReport(name="maps", verdict="failed", messages=wrong)
    largest, mean = apart
    level = _within_range("maps", sides, largest, float(mean.mean()))
    if similarity is None:
        return level
    lowest = int(np.argmin(similarity))
    return dataclasses.replace(
        level,
        numbers=level.numbers | {"lowest_similarity": float(similarity[lowest])},
        images=level.images | {"lowest_similarity": sides.names[lowest]},
    )


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
