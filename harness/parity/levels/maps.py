"""The level of anomaly maps, and the structural similarity that is shown with it."""

from __future__ import annotations

import cv2
import numpy as np

from harness.parity.levels.base import Fixed, InRange, Level, not_finite
from harness.parity.pair import Float64, Pair, is_finite, map_differences
from harness.parity.report import LevelReport
from harness.types import Float32, Verdict

WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def measure(pair: Pair) -> Level:
    """Measure the differences of the maps; values that are not finite fail even if both records agree on them.

    The lowest structural similarity is shown and not judged: it forgives differences that a threshold on the map would
    not forgive.
    """
    lacking = [name for name, arrays in zip(pair.names, pair.evidence, strict=True) if arrays is None]
    if lacking:
        why = f"the evidence of {' and '.join(lacking)} is missing: copy `evidence` along with the records, or bench again"
        return _fixed("not measured", why)
    shapes = [arrays.maps.shape for arrays in pair.evidence if arrays]
    if all(shape[1:] == (0, 0) for shape in shapes):
        return _fixed("not measured", "the detector gives a score per image and no map")
    differences = map_differences(pair)
    if pair.maps is None or differences is None:
        described = (f"{shape} on {name}" for shape, name in zip(shapes, pair.names, strict=True))
        return _fixed("failed", f"maps are {' and '.join(described)}")
    wrong = not_finite(pair, [is_finite(maps).all(axis=(1, 2)) for maps in pair.maps], "maps")
    if wrong:
        return _fixed("failed", *wrong)
    largest, mean = differences
    similarity = structural_similarity(*pair.maps)
    lowest = None if similarity is None else int(np.argmin(similarity))
    return InRange(
        name="maps",
        pair=pair,
        differences=largest,
        mean=float(mean.mean()),
        numbers={}
        if similarity is None or lowest is None
        else {"lowest_similarity": float(similarity[lowest])},
        images={} if lowest is None else {"lowest_similarity": pair.images[lowest]},
    )


def _fixed(verdict: Verdict, *messages: str) -> Fixed:
    return Fixed(LevelReport(name="maps", verdict=verdict, messages=messages))


def structural_similarity(reference: Float32, candidate: Float32) -> Float64 | None:
    """Return the mean SSIM index of every image, (N,), in [-1, 1], 1 for equal maps; maps are (N, H, W), finite.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004:
    Gaussian window of 11 by 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, over the windows that lie inside the map. Both maps
    are scaled so that the smallest value of all reference maps is 0 and the largest 1, which is the dynamic range.

    `None` if it is undefined: the maps are smaller than the window, or the reference's values are all equal.
    """
    if min(reference.shape[1:]) < WINDOW:
        return None
    low, high = float(reference.min()), float(reference.max())
    if low == high:
        return None
    # float64, in which the squares of any two float32 are finite.
    scaled = (
        [(values.astype(np.float64) - low) / (high - low) for values in maps]
        for maps in zip(reference, candidate, strict=True)
    )
    return np.array([_similarity(one, two) for one, two in scaled])


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
