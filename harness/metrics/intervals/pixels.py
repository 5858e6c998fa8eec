"""Paired bootstrap over images of pixel AUROC and AUPRO differences, from one histogram per image.

The pixels of one image are not independent; images are. So images are drawn with replacement, those with defective
pixels and those without apart, the same for both detectors. Drawing an image twice adds its pixels twice: with the
scores put in `BINS` bins once, a resample is a weighted sum of the images' histograms, and no pixel is touched again.
The edges of the bins are quantiles of the normal and of the defective pixels, half each. What binning changes in the
difference on all images is measured against the exact value, and the interval is widened by as much at both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.metrics.aupro import FPR_LIMIT, Int, region_numbers
from harness.metrics.evaluation import pixel_metrics
from harness.metrics.intervals.base import INFORMATIVE_IMAGES, Interval, NoInterval, tail, upper_bound
from harness.metrics.ranking import Floats
from harness.types import Bool, Float32

Float64 = NDArray[np.float64]

METRICS = ("pixel_auroc", "aupro")
BINS = 4096
RESAMPLES_AT_ONCE = 64
"""Of 4096 bins each, which is 2 MiB per array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histograms:
    """Pixels of N images in B bins of their scores, the highest score first; each is (N, B)."""

    normal: Float64
    defective: Float64
    overlap: Float64
    """Defective pixels, each counted as its share of its region: a row adds up to the image's regions."""

    def areas(self, weights: Float64) -> Float64:
        """(R, 2): the `METRICS` of R resamples, in which image i counts `weights[r, i]` times; (R, N).

        All pixels of a bin are tied, and as in `harness.metrics.aupro` a tie is a straight segment. NaN where a
        resample has no normal or no defective pixel.
        """
        with np.errstate(invalid="ignore"):
            false, true, overlap = (
                _shares(weights @ counts) for counts in (self.normal, self.defective, self.overlap)
            )
        width = np.diff(false)
        auroc = np.sum(width * (true[:, 1:] + true[:, :-1]), axis=1) / 2
        inside = np.clip(FPR_LIMIT - false[:, :-1], 0, width)
        part = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
        aupro = np.sum(inside * (overlap[:, :-1] + part * np.diff(overlap) / 2), axis=1) / FPR_LIMIT
        return np.stack([auroc, aupro], axis=1)


def pixel_differences(
    masks: Bool,
    reference_maps: Float32,
    other_maps: Float32,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval | NoInterval]:
    """Intervals of pixel AUROC and AUPRO, other - reference, under the names of `METRICS`; all arrays are (N, H, W).

    Percentile bootstrap (Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3), its tails
    expanded for few images (`_expanded`). A bootstrap knows nothing of images it never saw, and where the difference
    rests on few images, or on none, they are the larger part. So when fewer than `INFORMATIVE_IMAGES` are behind it
    (`_images_behind`), or in one of the two kinds, the interval is widened at both ends by the largest share of pairs
    of images that may differ although none of `count` disjoint pairs does, 1 - alpha ** (1 / count), because a pair
    can shift the metric by 1. This takes an image's share of the pixels as unrelated to whether its maps differ.

    No interval where `pixel_metrics` has no value, or a resample has none. Raises like `pixel_metrics`, and `ValueError`
    for a level outside 0 and 1 or fewer than 100 resamples.
    """
    tail(level)
    if resamples < 100:
        raise ValueError(f"{resamples} resamples cannot show the tails of a distribution: take at least 100")
    reference, other = pixel_metrics(reference_maps, masks), pixel_metrics(other_maps, masks)
    if reference.undefined:
        return {name: NoInterval(reason=reference.undefined[name]) for name in METRICS}
    regions = region_numbers(masks)
    both = histograms(reference_maps, masks, regions), histograms(other_maps, masks, regions)
    holds_defect = masks.any(axis=(1, 2))
    full = np.ones((1, len(masks)))
    drawn = _differences(both, _resampled(holds_defect, resamples, np.random.default_rng(seed)))
    left_out = _differences(both, full - np.eye(len(masks)))
    if not (np.isfinite(drawn).all() and np.isfinite(left_out).all()):
        reason = "with some images left out no normal or no defective pixel remains: too few images hold one"
        return dict.fromkeys(METRICS, NoInterval(reason=reason))
    binned = _differences(both, full)[0]
    intervals: dict[str, Interval | NoInterval] = {}
    for column, name in enumerate(METRICS):
        estimate = other.values[name] - reference.values[name]
        error = abs(float(binned[column]) - estimate)
        behind = _images_behind(left_out[:, column], holds_defect)
        intervals[name] = _interval(estimate, error, drawn[:, column], behind, holds_defect, level)
    return intervals


def histograms(maps: Float32, masks: Bool, regions: Int) -> Histograms:
    """Histograms of maps (N, H, W); `regions` as `harness.metrics.aupro.region_numbers` gives them."""
    edges = np.unique(np.concatenate([_edges(maps[masks]), _edges(maps[~masks])]))
    bins = len(edges) + 1
    share = (1 / np.bincount(regions))[regions]
    first = np.concatenate([[0], np.cumsum(masks.sum(axis=(1, 2)))])
    normal, defective, overlap = (np.empty((len(maps), bins)) for _ in range(3))
    for image, (score_map, mask) in enumerate(zip(maps, masks, strict=True)):
        number = len(edges) - np.searchsorted(edges, score_map, side="right")
        normal[image] = np.bincount(number[~mask], minlength=bins)
        defective[image] = np.bincount(number[mask], minlength=bins)
        overlap[image] = np.bincount(
            number[mask], weights=share[first[image] : first[image + 1]], minlength=bins
        )
    return Histograms(normal=normal, defective=defective, overlap=overlap)


def _edges(scores: Floats) -> Floats:
    """A quarter of `BINS` quantiles of at most 2^17 evenly taken scores, each a bin of its own.

    An edge is the lowest score of its bin, so a quantile and the next float above it hold that score alone. Were it the
    lowest of a wider bin, it would tie with scores that are all above it.
    """
    sample = np.sort(scores[:: 1 + len(scores) // 2**17])
    quantiles = sample[np.linspace(0, len(sample) - 1, BINS // 4).astype(np.int64)]
    with np.errstate(over="ignore"):  # above the largest float lies infinity, a bin that stays empty
        above = np.nextafter(quantiles, np.float32(np.inf))
    return np.concatenate([quantiles, above])


def _shares(counts: Float64) -> Float64:
    """(R, B + 1), from 0 to 1: the share of the pixels in the first b bins."""
    rising = np.cumsum(counts, axis=1)
    return np.concatenate([np.zeros((len(counts), 1)), rising / rising[:, -1:]], axis=1)


def _resampled(holds_defect: Bool, resamples: int, random: np.random.Generator) -> Float64:
    """(R, N): how often each image is drawn, as many with a defect and as many without as there are."""
    weights = np.zeros((resamples, len(holds_defect)))
    for stratum in (np.flatnonzero(holds_defect), np.flatnonzero(~holds_defect)):
        if len(stratum):
            even = np.full(len(stratum), 1 / len(stratum))
            weights[:, stratum] = random.multinomial(len(stratum), even, size=resamples)
    return weights


def _differences(both: tuple[Histograms, Histograms], weights: Float64) -> Float64:
    """(R, 2): other - reference of the `METRICS` under each row of weights (R, N)."""
    parts = [weights[row : row + RESAMPLES_AT_ONCE] for row in range(0, len(weights), RESAMPLES_AT_ONCE)]
    return np.concatenate([both[1].areas(part) - both[0].areas(part) for part in parts])


def _images_behind(left_out: Float64, holds_defect: Bool) -> float:
    """Number of images the difference rests on: (sum u)^2 / sum u^2, from 1, one image alone, to N, all alike; 0, none.

    u is how far leaving an image out, (N,), shifts the difference from the median shift of its stratum; below 1e-12 it
    is rounding.
    """
    shift = np.zeros(len(left_out))
    for stratum in (holds_defect, ~holds_defect):
        if stratum.any():
            shift[stratum] = np.abs(left_out[stratum] - np.median(left_out[stratum])).round(12)
    return float(shift.sum() ** 2 / (shift**2).sum()) if shift.any() else 0.0


def _expanded(alpha: float, images: int) -> float:
    """Share to cut off at each end, below `alpha`: what Student's t and the divisor n - 1 add to a normal interval.

    Hesterberg, "What teachers should know about the bootstrap", The American Statistician 2015, section 4.3. The
    quantile of t is Abramowitz and Stegun's expansion 26.7.5.
    """
    freedom = max(images - 1, 1)
    z = NormalDist().inv_cdf(1 - alpha)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return NormalDist().cdf(-t * math.sqrt((freedom + 1) / freedom))


def _interval(
    estimate: float, error: float, drawn: Float64, behind: float, holds_defect: Bool, level: float
) -> Interval:
    alpha = tail(level)
    defective, good = int(holds_defect.sum()), int((~holds_defect).sum())
    fewest = min(defective, good) if good else defective
    cut = _expanded(alpha, fewest)
    low, high = np.quantile(drawn, (cut, 1 - cut))
    method = f"percentile bootstrap of {len(drawn)} resamples of images, ± {error:.1e} for the binning of the scores"
    unseen = 0.0
    if min(behind, fewest) < INFORMATIVE_IMAGES:
        pairs = min(defective // 2, good) if good else defective // 2
        unseen = upper_bound(0.0, pairs, alpha)
        method += (
            f"; conservative: about {behind:.0f} of {defective} images with and {good} without a defect make the"
            f" difference and {INFORMATIVE_IMAGES} are needed, so ± {unseen:.3f} for what {pairs} pairs of images may"
            " not show"
        )
    return Interval(
        estimate=estimate,
        low=max(-1.0, min(float(low) - error, estimate) - unseen),
        high=min(1.0, max(float(high) + error, estimate) + unseen),
        level=level,
        method=method,
    )
