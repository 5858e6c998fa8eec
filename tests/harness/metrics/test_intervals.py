from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta
from scipy.stats import t as student

from harness.errors import HarnessError
from harness.metrics import image_metrics, pixel_metrics
from harness.metrics.aupro import region_numbers
from harness.metrics.intervals import (
    Interval,
    NoInterval,
    auroc_difference,
    auroc_interval,
    non_inferior,
    pixel_differences,
)
from harness.metrics.intervals.base import upper_bound
from harness.metrics.intervals.images import placements_of
from harness.metrics.intervals.pixels import BINS, METRICS, _expanded, _resampled, histograms
from harness.types import Bool, Float32
from tests.harness.metrics.strategies import Images, Pixels, images, pixels

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

# DeLong et al. 1988, as printed in the SAS/STAT documentation of PROC LOGISTIC, "Comparing Receiver Operating
# Characteristic Curves": albumin, total protein, the K-G score before `10 - score`, and whether surgery helped.
OVARIAN_CANCER = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def measured(interval: Interval | NoInterval) -> Interval:
    assert isinstance(interval, Interval), interval
    return interval


def ends(interval: Interval | NoInterval) -> tuple[float, float]:
    return measured(interval).low, measured(interval).high


def split(good: int, defective: int) -> Labels:
    return np.repeat([0, 1], [good, defective])


def pair_kernel(labels: Labels, scores: NDArray[Any]) -> Floats:
    """1, 0.5 or 0 for every pair, by two loops."""
    good, defective = scores[labels == 0], scores[labels == 1]
    return np.array([[float(d > g) + (d == g) / 2 for g in good] for d in defective])


def slow_standard_error(kernel: Floats) -> float:
    """Equation of DeLong 1988 from the row and the column means of the kernel."""
    rows, columns = kernel.mean(axis=1), kernel.mean(axis=0)
    return math.sqrt(rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns))


# --- verdicts and the bound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "estimate", "high"),
    [(0.1, 0.1, 0.1), (0.2, 0.1, 0.3), (0.1, 0.4, 0.3), (-1.1, 0, 0.5), (0, 0.5, 1.1), (math.nan, 0, 1)],
)
def test_an_interval_of_no_width_or_not_around_its_estimate_is_refused(
    low: float, estimate: float, high: float
) -> None:
    with pytest.raises(ValueError, match="is no interval"):
        Interval(estimate=estimate, low=low, high=high, level=0.95, method="")


@pytest.mark.parametrize(
    ("low", "estimate", "verdict"),
    [
        (-0.009, 0.0, "passed"),
        (0.001, 0.002, "passed"),
        (-0.01, 0.0, "not measured"),
        (-0.2, -0.01, "not measured"),
        (-0.2, -0.011, "failed"),
        (-0.2, 0.1, "not measured"),
    ],
)
def test_a_verdict_passes_on_the_interval_and_fails_on_the_estimate(
    low: float, estimate: float, verdict: str
) -> None:
    difference = Interval(estimate=estimate, low=low, high=0.3, level=0.95, method="")
    assert non_inferior(difference, 0.01) == verdict


def test_what_has_no_interval_never_passes() -> None:
    assert non_inferior(NoInterval(reason="one class"), 0.5) == "not measured"


@pytest.mark.parametrize("margin", [-0.01, 1.0, math.nan])
def test_a_margin_outside_its_range_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="must be at least 0 and below 1"):
        non_inferior(NoInterval(reason=""), margin)


def test_the_bound_of_nothing_seen_is_the_exact_one() -> None:
    assert upper_bound(0, 20, 0.025) == pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-12)
    assert upper_bound(0, 300, 0.05) == pytest.approx(3 / 300, rel=0.01)  # the rule of three


@pytest.mark.parametrize("count", [1, 7, 20])
def test_the_bound_is_never_below_the_exact_binomial_one(count: int) -> None:
    for found in range(count):
        exact = beta.ppf(0.975, found + 1, count - found)
        assert exact - 1e-12 <= upper_bound(found / count, count, 0.025) < 1
    assert upper_bound(1, count, 0.025) == 1


def test_the_bound_solves_its_equation() -> None:
    p = upper_bound(0.1, 20, 0.025)
    divergence = 0.1 * math.log(0.1 / p) + 0.9 * math.log(0.9 / (1 - p))
    assert p > 0.1
    assert 20 * divergence == pytest.approx(-math.log(0.025), abs=1e-9)


# --- image AUROC ----------------------------------------------------------------------------------------------------


def test_delong_gives_the_published_figures_of_the_paper_s_own_data() -> None:
    albumin, protein, score, labels = np.array(OVARIAN_CANCER.split(), dtype=float).reshape(-1, 4).T
    labels = labels.astype(np.int64)
    tests = {"albumin": albumin, "K-G": 10 - score, "protein": protein}
    errors = {name: placements_of(labels, test).standard_error for name, test in tests.items()}
    assert errors == pytest.approx({"albumin": 0.0927, "K-G": 0.1028, "protein": 0.1000}, abs=5e-5)
    change = placements_of(labels, albumin) - placements_of(labels, 10 - score)
    assert change.standard_error == pytest.approx(0.0953, abs=5e-5)
    difference = measured(auroc_difference(labels, 10 - score, protein))
    assert difference.estimate == pytest.approx(-0.0780, abs=5e-5)
    assert ends(difference) == pytest.approx((-0.2830, 0.1271), abs=5e-5)


@given(images(), st.integers(0, 2**32 - 1))
def test_placements_agree_with_the_slow_loop_over_pairs(case: Images, seed: int) -> None:
    scores, labels = case
    if 1 in (labels.sum(), len(labels) - labels.sum()):
        return
    other = np.random.default_rng(seed).permutation(scores)
    kernels = [pair_kernel(labels, found) for found in (scores, other)]
    first, second = placements_of(labels, scores), placements_of(labels, other)
    assert first.standard_error == pytest.approx(slow_standard_error(kernels[0]), abs=1e-12)
    assert (second - first).standard_error == pytest.approx(
        slow_standard_error(kernels[1] - kernels[0]), abs=1e-12
    )


def noisy(seed: int, good: int = 40, defective: int = 60) -> tuple[Labels, Floats, Floats]:
    """Labels and two correlated detectors of AUROC about 0.86."""
    random = np.random.default_rng(seed)
    labels = split(good, defective)
    scores = random.normal(size=len(labels)) + 1.5 * labels
    return labels, scores, scores + random.normal(scale=0.5, size=len(labels))


def test_delong_intervals_are_the_formulas_of_their_docstrings() -> None:
    labels, reference, other = noisy(0)
    kernels = [pair_kernel(labels, found) for found in (reference, other)]
    d, s = (kernels[1] - kernels[0]).mean(), slow_standard_error(kernels[1] - kernels[0])
    difference = auroc_difference(labels, reference, other, level=0.9)
    assert ends(difference) == pytest.approx((d - 1.6448536 * s, d + 1.6448536 * s), abs=1e-7)
    a, s = kernels[0].mean(), slow_standard_error(kernels[0])
    logits = [math.log(a / (1 - a)) + z * s / (a * (1 - a)) for z in (-1.6448536, 1.6448536)]
    interval = measured(auroc_interval(labels, reference, level=0.9))
    assert [math.log(end / (1 - end)) for end in ends(interval)] == pytest.approx(logits, abs=1e-6)
    assert interval.level == 0.9


@settings(max_examples=50)
@given(images(), st.integers(0, 2**32 - 1))
def test_swapping_the_detectors_mirrors_the_interval(case: Images, seed: int) -> None:
    scores, labels = case
    other = np.random.default_rng(seed).permutation(scores)
    there, back = (measured(auroc_difference(labels, *pair)) for pair in ((scores, other), (other, scores)))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert there.estimate == (
        image_metrics(other, labels).values["image_auroc"]
        - image_metrics(scores, labels).values["image_auroc"]
    )


def test_order_and_monotone_rescaling_do_not_matter() -> None:
    labels, reference, other = noisy(1)
    order = np.random.default_rng(0).permutation(len(labels))
    assert auroc_difference(labels, reference, other) == auroc_difference(
        labels[order], np.exp(reference[order]), 3 * other[order]
    )


def test_a_perfect_detector_gets_the_exact_bound_of_the_smaller_class() -> None:
    labels = split(20, 63)
    interval = measured(auroc_interval(labels, labels.astype(float)))
    assert ends(interval) == pytest.approx((0.025 ** (1 / 20), 1), abs=1e-12)
    assert "conservative, 20 images in the smaller class" in interval.method


def test_a_wholly_wrong_detector_gets_the_mirrored_bound() -> None:
    labels = split(20, 63)
    assert ends(auroc_interval(labels, -labels.astype(float))) == pytest.approx(
        (0, 1 - 0.025 ** (1 / 20)), abs=1e-12
    )


def test_equal_scores_are_no_proof_of_equal_detectors() -> None:
    labels, scores, _ = noisy(2, good=20, defective=63)
    difference = measured(auroc_difference(labels, scores, scores))
    assert difference.estimate == 0
    assert ends(difference) == pytest.approx((-0.16843, 0.16843), abs=1e-5)
    assert non_inferior(difference, 0.01) == "not measured"


def test_a_detector_turned_round_has_no_variance_and_still_a_width() -> None:
    labels = split(20, 63)
    difference = measured(auroc_difference(labels, labels.astype(float), -labels.astype(float)))
    assert difference.estimate == -1
    assert ends(difference) == pytest.approx((-1, 0.16843), abs=1e-5)
    assert non_inferior(difference, 0.5) == "failed"


def test_the_bound_counts_losses_and_gains_apart_and_ties_half() -> None:
    # Pairs (defective, good): reference right on (6, 5), (6, 0), (3, 0), wrong on (3, 5); other right on three, and 6 and
    # 6 tie. So the pair (6, 5) is half lost, 1/8 of all pairs, and nothing is gained.
    labels, reference, other = split(2, 2), np.array([5.0, 0, 6, 3]), np.array([6.0, 0, 6, 3])
    difference = measured(auroc_difference(labels, reference, other))
    assert difference.estimate == -1 / 8
    assert ends(difference) == pytest.approx((-upper_bound(1 / 8, 2, 0.025), upper_bound(0, 2, 0.025)))


@pytest.mark.parametrize(("changed", "bound"), [(9, True), (10, False)])
def test_delong_is_used_from_ten_informative_images_of_each_class(changed: int, bound: bool) -> None:  # noqa: FBT001
    # The i-th good image overtakes i + 1 defective ones: as many good and defective images leave their place.
    labels, scores = split(20, 63), np.concatenate([np.arange(20.0), np.arange(100.0, 163)])
    scores[:changed] = 100.5 + np.arange(changed)
    for method in (
        measured(auroc_interval(labels, scores)).method,
        measured(auroc_difference(labels, labels.astype(float), scores)).method,
    ):
        assert ("conservative" in method) == bound


def test_one_good_image_above_many_defective_ones_is_too_little_for_delong() -> None:
    labels, scores = split(20, 63), np.concatenate([np.arange(20.0), np.arange(100.0, 163)])
    scores[0] = 130.5
    method = measured(auroc_interval(labels, scores)).method
    assert "of 20 good images 1, and of 63 defective 31" in method
    assert "conservative" in method
    assert "conservative" in measured(auroc_difference(labels, labels.astype(float), scores)).method


def test_a_class_that_is_missing_leaves_no_interval() -> None:
    labels, scores = split(0, 5), np.arange(5.0)
    for found in (auroc_interval(labels, scores), auroc_difference(labels, scores, scores)):
        assert isinstance(found, NoInterval)
        assert "all 5 test images are defective" in found.reason


def test_nan_in_either_detector_is_an_error() -> None:
    labels, scores, broken = split(2, 2), np.arange(4.0), np.array([0, 1, math.nan, 3])
    for pair in ((scores, broken), (broken, scores), (broken, broken)):
        with pytest.raises(HarnessError, match="NaN or infinite"):
            auroc_difference(labels, *pair)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_its_range_is_refused(level: float) -> None:
    labels, scores, other = noisy(0)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        auroc_interval(labels, scores, level=level)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        auroc_difference(labels, scores, other, level=level)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        pixel_differences(np.ones((1, 1, 1), np.bool_), *[np.ones((1, 1, 1), np.float32)] * 2, level=level)


def test_intervals_cover_the_true_difference_about_as_often_as_they_say() -> None:
    # Two detectors of equal binormal AUROC 0.87; benchmarks/test_coverage.py does this at length.
    random, labels = np.random.default_rng(0), split(100, 100)
    covered = 0
    for _ in range(300):
        shared, first, second = random.normal(size=(3, 200))
        low, high = ends(
            auroc_difference(labels, shared + first + 2.25 * labels, shared + second + 2.25 * labels)
        )
        covered += low <= 0 <= high
    assert 0.92 <= covered / 300 <= 0.98


def test_the_bound_covers_rare_breaks_that_delong_cannot_see() -> None:
    # One good image in ten breaks in the other detector, so the true difference is -0.1. Nothing breaks in one test of
    # eight, and DeLong's interval is then the point 0.
    random, labels = np.random.default_rng(0), split(20, 63)
    scores, covered, unseen = labels.astype(float), 0, 0
    for _ in range(300):
        broken = (labels == 0) & (random.random(83) < 0.1)
        low, high = ends(auroc_difference(labels, scores, scores + 2 * broken))
        covered += low <= -0.1 <= high
        unseen += not broken.any()
    assert unseen > 25
    assert covered / 300 >= 0.95


# --- pixel AUROC and AUPRO ------------------------------------------------------------------------------------------


def category(good: int, defective: int, seed: int = 0) -> tuple[Bool, Float32, Float32]:
    """Masks with one rectangle, and two detectors that differ a little in every pixel; 12 x 12."""
    random = np.random.default_rng(seed)
    masks = np.zeros((good + defective, 12, 12), dtype=np.bool_)
    for mask in masks[good:]:
        top, left, height, width = random.integers(1, 6, size=4)
        mask[top : top + height, left : left + width] = True
    maps = random.normal(size=masks.shape) + 2 * masks
    other = maps + random.normal(scale=0.5, size=masks.shape)
    return masks, maps.astype(np.float32), other.astype(np.float32)


def whole(maps: Float32, masks: Bool, weights: NDArray[Any] | None = None) -> list[float]:
    found = histograms(maps, masks, region_numbers(masks))
    rows = np.ones((1, len(masks))) if weights is None else weights[None].astype(float)
    return list(found.areas(rows)[0])


@given(pixels())
def test_histograms_of_few_distinct_scores_give_the_exact_areas(case: Pixels) -> None:
    exact = pixel_metrics(*case).values
    assert whole(*case) == pytest.approx([exact[name] for name in METRICS], abs=1e-12)


def test_histograms_of_many_distinct_scores_give_nearly_the_exact_areas() -> None:
    masks, maps, _ = category(60, 60)
    assert len(np.unique(maps)) > 3 * BINS
    exact = pixel_metrics(maps, masks).values
    assert whole(maps, masks) == pytest.approx([exact[name] for name in METRICS], abs=1e-6)


def test_a_weighted_sum_of_histograms_is_the_category_with_its_images_repeated() -> None:
    masks, maps, _ = category(4, 5)
    times = np.array([0, 2, 1, 1, 3, 0, 1, 0, 1])
    exact = pixel_metrics(np.repeat(maps, times, axis=0), np.repeat(masks, times, axis=0)).values
    assert whole(maps, masks, times) == pytest.approx([exact[name] for name in METRICS], abs=1e-12)


def test_each_kind_of_image_is_drawn_as_often_as_there_are() -> None:
    holds_defect = np.array([True, False, True, True, False])
    weights = _resampled(holds_defect, 200, np.random.default_rng(0))
    assert set(weights[:, holds_defect].sum(axis=1)) == {3}
    assert set(weights[:, ~holds_defect].sum(axis=1)) == {2}
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.2)


def test_the_interval_is_that_of_a_bootstrap_which_repeats_the_pixels() -> None:
    masks, reference, other = category(12, 40)
    drawn = _resampled(masks.any(axis=(1, 2)), 120, np.random.default_rng(3)).astype(np.int64)
    slow = []
    for times in drawn:
        truth = np.repeat(masks, times, axis=0)
        first = pixel_metrics(np.repeat(reference, times, axis=0), truth).values
        second = pixel_metrics(np.repeat(other, times, axis=0), truth).values
        slow.append([second[name] - first[name] for name in METRICS])
    cut = _expanded(0.025, 12)
    fast = pixel_differences(masks, reference, other, resamples=120, seed=3)
    for name, values in zip(METRICS, np.array(slow).T, strict=True):
        assert ends(fast[name]) == pytest.approx(tuple(np.quantile(values, (cut, 1 - cut))), abs=1e-5)
        assert "conservative" not in measured(fast[name]).method


def test_the_interval_is_widened_by_what_binning_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, reference, other = category(12, 40)
    monkeypatch.setattr("harness.metrics.intervals.pixels.BINS", 8)
    binned = np.array(whole(other, masks)) - np.array(whole(reference, masks))
    regions = region_numbers(masks)
    weights = _resampled(masks.any(axis=(1, 2)), 200, np.random.default_rng(0))
    first, second = (histograms(maps, masks, regions).areas(weights) for maps in (reference, other))
    cut = _expanded(0.025, 12)
    low, high = np.quantile(second - first, (cut, 1 - cut), axis=0)
    found = pixel_differences(masks, reference, other, resamples=200)
    for column, name in enumerate(METRICS):
        error = abs(binned[column] - measured(found[name]).estimate)
        assert error > 1e-4
        assert ends(found[name]) == pytest.approx((low[column] - error, high[column] + error), abs=1e-12)


def test_the_tails_are_those_of_student_s_t() -> None:
    for images_ in (10, 20, 100):
        t = -student.ppf(0.025, images_ - 1) * math.sqrt(images_ / (images_ - 1))
        assert _expanded(0.025, images_) == pytest.approx(student.cdf(-t, 10**9), rel=0.02)


def test_pixel_intervals_are_the_same_for_the_same_seed() -> None:
    case = category(12, 14)
    assert pixel_differences(*case, resamples=100) == pixel_differences(*case, resamples=100)
    assert pixel_differences(*case, resamples=100) != pixel_differences(*case, resamples=100, seed=1)


@pytest.mark.parametrize(("good", "defective", "pairs"), [(20, 63, 20), (20, 12, 6), (0, 21, 10)])
def test_equal_maps_are_no_proof_of_equal_detectors(good: int, defective: int, pairs: int) -> None:
    masks, maps, _ = category(good, defective)
    for difference in pixel_differences(masks, maps, maps.copy(), resamples=100).values():
        unseen = 1 - 0.025 ** (1 / pairs)
        assert measured(difference).estimate == 0
        assert ends(difference) == pytest.approx((-unseen, unseen), abs=1e-9)


def test_one_broken_image_is_not_the_worst_that_may_come() -> None:
    masks, maps, _ = category(20, 20)
    other = maps.copy()
    other[-1] = -other[-1]
    for difference in pixel_differences(masks, maps, other, resamples=100).values():
        assert measured(difference).low < measured(difference).estimate - 0.2
        assert "of 20 images with and 20 without a defect" in measured(difference).method


def test_nine_good_images_are_too_few_for_a_bootstrap() -> None:
    methods = [
        [measured(found).method for found in pixel_differences(*category(good, 40), resamples=100).values()]
        for good in (9, 10)
    ]
    assert all("conservative" in method for method in methods[0])
    assert not any("conservative" in method for method in methods[1])


def test_maps_without_a_defect_leave_no_interval() -> None:
    masks, reference, other = category(5, 0)
    for found in pixel_differences(masks, reference, other).values():
        assert isinstance(found, NoInterval)
        assert "no pixel is defective in the masks of 5 test images" in found.reason


def test_one_image_with_a_defect_leaves_no_interval() -> None:
    for found in pixel_differences(*category(12, 1), resamples=100).values():
        assert isinstance(found, NoInterval)
        assert "too few images hold one" in found.reason


def test_maps_with_nan_and_too_few_resamples_are_refused() -> None:
    masks, reference, other = category(3, 3)
    with pytest.raises(ValueError, match="take at least 100"):
        pixel_differences(masks, reference, other, resamples=99)
    other[2, 0, 0] = math.nan
    with pytest.raises(HarnessError, match="NaN or infinite scores, the first in image 2"):
        pixel_differences(masks, reference, other)
