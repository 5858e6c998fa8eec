"""Area under the per-region overlap curve (AUPRO)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.ranking import Ranking
from harness.types import Bool

Int = NDArray[np.signedinteger[Any]]

FPR_LIMIT = 0.3


def region_numbers(masks: Bool) -> Int:
    """Number the 8-connected regions of all masks, (N, H, W): one number, from 0, per defective pixel.

    Pixels are in the order of `maps[masks]`; numbers go on from image to image and leave no gap.
    """
    import cv2

    numbers: list[Int] = [np.empty(0, np.int32)]
    regions = 0
    for mask in masks:
        if mask.any():
            count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
            numbers.append(labels[mask] + np.int32(regions - 1))
            regions += count - 1
    return np.concatenate(numbers)


def aupro(ranking: Ranking, regions: Int) -> float:
    """Mean share of a region found, averaged over false-positive rates from 0 to `FPR_LIMIT`, in [0, 1].

    `regions` (P,) holds the region of every positive, in the order given to `rank`. The false-positive rate
    is over all negatives. Tied scores are straight segments of the curve; the one that crosses the limit
    counts up to it. Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.3.

    Each pixel adds the area under its own step, which rises from 0 to 1 between x0 = negatives above and
    x1 = negatives from its score: limit - (x0 + x1) / 2 when x1 is within the limit. So a region's sum is a
    sum of integers, exact in float64, and no more than one tied score is left to be cut by the limit.
    """
    limit = FPR_LIMIT * ranking.negatives
    beyond = int(np.count_nonzero(ranking.negatives_from > limit))
    numbers = regions[ranking.order]
    sizes = np.bincount(numbers)
    within = slice(beyond, None)
    doubled = np.repeat(
        ranking.negatives_above[within] + ranking.negatives_from[within], ranking.tied_positives[within]
    )
    first = ranking.positives - len(doubled)
    called = np.bincount(numbers[first:], minlength=len(sizes))
    area = called - np.bincount(numbers[first:], weights=doubled, minlength=len(sizes)) / (2 * limit)
    if beyond > 0 and ranking.negatives_above[beyond - 1] < limit:
        low, high = ranking.negatives_above[beyond - 1], ranking.negatives_from[beyond - 1]
        cut = np.bincount(numbers[ranking.starts[beyond - 1] : first], minlength=len(sizes))
        area += cut * ((limit - low) ** 2 / (2 * (high - low) * limit))
    return math.fsum((area / sizes).tolist()) / len(sizes)
