from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from harness.metrics import image_metrics, pixel_metrics
from harness.types import Float32
from tests.harness.metrics.strategies import Images, Pixels, images, pixels


def scikit_learn(level: str, scores: Float32, labels: NDArray[np.int64]) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    return {
        f"{level}_auroc": float(roc_auc_score(labels, scores)),
        f"{level}_ap": float(average_precision_score(labels, scores)),
        f"{level}_f1_max": float(f1.max()),
    }


def f1_at(threshold: float, scores: Float32, labels: NDArray[np.int64]) -> float:
    predicted = scores >= np.float32(threshold)
    return float(2 * (predicted & (labels == 1)).sum() / (predicted.sum() + labels.sum()))


@given(images())
def test_image_metrics_agree_with_scikit_learn(case: Images) -> None:
    scores, labels = case
    assert image_metrics(scores, labels).values == pytest.approx(
        scikit_learn("image", scores, labels), abs=1e-12
    )


@given(pixels())
def test_pixel_metrics_agree_with_scikit_learn(case: Pixels) -> None:
    maps, masks = case
    values = pixel_metrics(maps, masks).values
    del values["aupro"]
    reference = scikit_learn("pixel", maps.ravel(), masks.ravel().astype(np.int64))
    assert values == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 50], ids=["continuous", "coarse"])
def test_pixel_metrics_agree_with_scikit_learn_on_many_pixels(levels: int | None) -> None:
    random = np.random.default_rng(3)
    masks = random.random((4, 128, 128)) < 0.05
    maps = (random.normal(size=masks.shape) + masks).astype(np.float32)
    if levels is not None:
        maps = np.round(maps * levels / 8)
    values = pixel_metrics(maps, masks).values
    del values["aupro"]
    reference = scikit_learn("pixel", maps.ravel(), masks.ravel().astype(np.int64))
    assert values == pytest.approx(reference, abs=1e-12)


@given(images())
def test_the_threshold_attains_f1_max_and_no_lower_score_does(case: Images) -> None:
    scores, labels = case
    metrics = image_metrics(scores, labels)
    threshold, best = metrics.thresholds["image_f1_max"], metrics.values["image_f1_max"]
    assert f1_at(threshold, scores, labels) == best
    assert all(f1_at(lower, scores, labels) < best for lower in scores[scores < threshold])


def test_four_images_with_one_tie_give_the_values_worked_out_by_hand() -> None:
    # Pairs (defective, good): 4>2, 4>1, 2=2, 2>1, so 3.5 of 4. Precision is 1 at recall 1/2, then 2/3 at 1.
    metrics = image_metrics(np.array([1.0, 2.0, 2.0, 4.0]), np.array([0, 0, 1, 1]))
    assert metrics.values["image_auroc"] == 3.5 / 4
    assert metrics.values["image_ap"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert metrics.values["image_f1_max"] == 4 / 5
    assert metrics.thresholds == {"image_f1_max": 2.0}


def test_of_two_thresholds_with_the_same_f1_the_lower_is_given() -> None:
    # From 3: one of two found, nothing else, 2/3. From 1: both found with two good ones, 4/6.
    metrics = image_metrics(np.array([3.0, 2.0, 2.0, 1.0]), np.array([1, 0, 0, 1]))
    assert metrics.values["image_f1_max"] == pytest.approx(2 / 3)
    assert metrics.thresholds == {"image_f1_max": 1.0}


@pytest.mark.parametrize("defective", [-0.0, 0.0])
def test_minus_zero_equals_zero_and_is_never_shown(defective: float) -> None:
    metrics = image_metrics(np.array([defective, -defective], dtype=np.float32), np.array([1, 0]))
    assert metrics.values["image_auroc"] == 0.5
    assert str(metrics.thresholds["image_f1_max"]) == "0.0"


def test_float64_scores_closer_than_float32_can_tell_are_told_apart() -> None:
    metrics = image_metrics(np.array([1.0, 1.0 + 1e-12]), np.array([0, 1]))
    assert metrics.values["image_auroc"] == 1.0


def test_bool_labels_are_read_as_defective_or_not() -> None:
    scores = np.array([1.0, 2.0, 3.0])
    labels = np.array([0, 1, 0])
    assert image_metrics(scores, labels.astype(np.bool_)) == image_metrics(scores, labels)
