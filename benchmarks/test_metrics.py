"""All pixel metrics of one category beside scikit-learn's pixel AUROC alone, on 83 maps of 224 x 224."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.metrics import roc_auc_score

from harness.metrics import image_metrics, pixel_metrics
from harness.types import Bool, Float32

Pixels = tuple[Float32, Bool]


@pytest.fixture(scope="module", params=["continuous", "coarse"])
def pixels(request: pytest.FixtureRequest) -> Pixels:
    """63 of 83 images have one rectangular defect, about 5 % of all pixels, seen through smooth noise."""
    random = np.random.default_rng(0)
    masks = np.zeros((83, 224, 224), dtype=np.bool_)
    for mask in masks[:63]:
        height, width = random.integers(40, 80, size=2)
        top, left = random.integers(0, 144, size=2)
        mask[top : top + height, left : left + width] = True
    noise = random.normal(scale=8, size=masks.shape).astype(np.float32)
    maps = np.stack([cv2.GaussianBlur(image, (0, 0), 4) for image in noise + 1.5 * masks.astype(np.float32)])
    return (maps if request.param == "continuous" else np.round(maps * 32) / 32).astype(np.float32), masks


@pytest.mark.benchmark(group="pixel metrics")
def test_all_pixel_metrics(benchmark: BenchmarkFixture, pixels: Pixels) -> None:
    metrics = benchmark(pixel_metrics, *pixels)
    assert metrics.values.keys() == {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"}


@pytest.mark.benchmark(group="pixel metrics")
def test_scikit_learn_pixel_auroc_alone(benchmark: BenchmarkFixture, pixels: Pixels) -> None:
    maps, masks = pixels
    auroc = benchmark(roc_auc_score, masks.ravel(), maps.ravel())
    assert auroc == pytest.approx(pixel_metrics(maps, masks).values["pixel_auroc"], abs=1e-12)


@pytest.mark.benchmark(group="image metrics")
def test_all_image_metrics(benchmark: BenchmarkFixture, pixels: Pixels) -> None:
    maps, masks = pixels
    metrics = benchmark(image_metrics, maps.max(axis=(1, 2)), masks.any(axis=(1, 2)).astype(np.int64))
    assert metrics.undefined == {}


@pytest.mark.benchmark(group="image metrics")
def test_scikit_learn_image_auroc_alone(benchmark: BenchmarkFixture, pixels: Pixels) -> None:
    maps, masks = pixels
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    auroc = benchmark(roc_auc_score, labels, scores)
    assert auroc == pytest.approx(
        image_metrics(scores, labels.astype(np.int64)).values["image_auroc"], abs=1e-12
    )
