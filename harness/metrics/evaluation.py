"""The metrics of one category, for image scores and for anomaly maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.metrics.aupro import aupro, region_numbers
from harness.metrics.ranking import Floats, Ranking, auroc, average_precision, f1_max, rank
from harness.types import Bool, Float32

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "aupro", "pixel_ap", "pixel_f1_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics by name; each is either in `values`, in [0, 1], or in `undefined`."""

    values: dict[str, float]
    """Defined metrics only."""
    thresholds: dict[str, float]
    """For each F1-max in `values`, the score that attains it: predict defective when score >= threshold."""
    undefined: dict[str, str]
    """Why a metric has no value."""


def merge(first: Metrics, second: Metrics) -> Metrics:
    """Join metrics of different names; `ValueError` when a name is in both."""
    twice = (first.values.keys() | first.undefined) & (second.values.keys() | second.undefined)
    if twice:
        raise ValueError(f"metrics measured twice: {', '.join(sorted(twice))}")
    return Metrics(
        values=first.values | second.values,
        thresholds=first.thresholds | second.thresholds,
        undefined=first.undefined | second.undefined,
    )


def image_metrics(
    scores: NDArray[np.float32] | NDArray[np.float64], labels: NDArray[np.integer[Any]]
) -> Metrics:
    """AUROC, average precision and F1-max of image scores (N,) against labels (N,), 0 good and 1 defective.

    All are undefined with no images or one class only. Raises `ValueError` for wrong shapes, dtypes or
    labels, `HarnessError` for NaN or infinite scores.
    """
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must both be (N,)")
    if labels.dtype.kind not in "iub" or not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be integers, 0 for good and 1 for defective images")
    _check_scores("scores", scores)
    defective = labels == 1
    if defective.all() or not defective.any():
        return _undefined(IMAGE_METRICS, _why_images_cannot_be_ranked(defective))
    return _ranking_metrics("image", rank(scores[defective], scores[~defective]))


def pixel_metrics(maps: Float32, masks: Bool) -> Metrics:
    """AUROC, average precision, F1-max and AUPRO (`harness.metrics.aupro`) of all pixels of all images.

    `maps` and `masks` (True where defective) are both (N, H, W); a mask may be empty. All metrics are
    undefined when no pixel, or every pixel, is defective, and for maps (N, 0, 0), of a detector that gives none. Raises `ValueError` for wrong shapes or dtypes,
    `HarnessError` for NaN or infinite scores.
    """
    if maps.shape == (len(masks), 0, 0) and masks.size:
        return _undefined(PIXEL_METRICS, "the detector gives a score per image and no map")
    require_maps(maps, masks)
    positives, negatives = maps[masks], maps[~masks]
    if len(positives) == 0 or len(negatives) == 0:
        return _undefined(PIXEL_METRICS, _why_pixels_cannot_be_ranked(masks))
    ranking = rank(positives, negatives)
    overlap = Metrics(values={"aupro": aupro(ranking, region_numbers(masks))}, thresholds={}, undefined={})
    return merge(_ranking_metrics("pixel", ranking), overlap)


def require_maps(maps: Float32, masks: Bool) -> None:
    """Raise `ValueError` for wrong shapes or dtypes, `HarnessError` for NaN or infinite scores."""
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be (N, H, W)")
    if masks.dtype != np.bool_:
        raise ValueError(f"masks must be bool, not {masks.dtype}")
    _check_scores("maps", maps)


def _ranking_metrics(level: str, ranking: Ranking) -> Metrics:
    f1, threshold = f1_max(ranking)
    values = {
        f"{level}_auroc": auroc(ranking),
        f"{level}_ap": average_precision(ranking),
        f"{level}_f1_max": f1,
    }
    return Metrics(values=values, thresholds={f"{level}_f1_max": threshold}, undefined={})


def _undefined(names: Iterable[str], reason: str) -> Metrics:
    return Metrics(values={}, thresholds={}, undefined=dict.fromkeys(names, reason))


def _why_images_cannot_be_ranked(defective: Bool) -> str:
    if len(defective) == 0:
        return "there are no test images"
    only = "defective" if defective.any() else "good"
    return f"all {len(defective)} test images are {only}: a ranking needs good and defective images"


def _why_pixels_cannot_be_ranked(masks: Bool) -> str:
    if len(masks) == 0:
        return "there are no test images"
    if masks.size == 0:
        return f"the {len(masks)} maps have no pixels"
    only = "all pixels are" if masks.any() else "no pixel is"
    return f"{only} defective in the masks of {len(masks)} test images: a ranking needs pixels of both kinds"


def _check_scores(name: str, scores: Floats) -> None:
    if scores.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} must be float32 or float64, not {scores.dtype}")
    finite = np.isfinite(scores)
    if not finite.all():
        wrong = np.argwhere(~finite)
        raise HarnessError(
            f"{name} {scores.shape} holds {len(wrong)} NaN or infinite scores, the first in image {wrong[0][0]}:"
            " look for an overflow in the backend's outputs (half precision, a wrong input scale)"
        )
