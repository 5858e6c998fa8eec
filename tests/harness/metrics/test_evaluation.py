from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.errors import HarnessError
from harness.metrics import Metrics, image_metrics, merge, pixel_metrics

IMAGE_NAMES = {"image_auroc", "image_ap", "image_f1_max"}
PIXEL_NAMES = {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"}


def maps_of(*shape: int) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([], "there are no test images"),
        ([0] * 20, "all 20 test images are good"),
        ([1] * 3, "all 3 test images are defective"),
    ],
)
def test_image_metrics_of_one_class_are_undefined_with_the_reason(labels: list[int], reason: str) -> None:
    metrics = image_metrics(maps_of(len(labels)), np.array(labels, dtype=np.int64))
    assert metrics.values == {}
    assert metrics.thresholds == {}
    assert metrics.undefined.keys() == IMAGE_NAMES
    assert all(given.startswith(reason) for given in metrics.undefined.values())


@pytest.mark.parametrize(
    ("shape", "masked", "reason"),
    [
        ((0, 4, 4), 0, "there are no test images"),
        ((2, 0, 4), 0, "the 2 maps have no pixels"),
        ((2, 4, 4), 0, "no pixel is defective in the masks of 2 test images"),
        ((2, 4, 4), 1, "all pixels are defective in the masks of 2 test images"),
    ],
)
def test_pixel_metrics_of_one_class_are_undefined_with_the_reason(
    shape: tuple[int, ...], masked: int, reason: str
) -> None:
    metrics = pixel_metrics(maps_of(*shape), np.full(shape, masked, dtype=np.bool_))
    assert metrics.values == {}
    assert metrics.thresholds == {}
    assert metrics.undefined.keys() == PIXEL_NAMES
    assert all(given.startswith(reason) for given in metrics.undefined.values())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_counted_and_located(wrong: float) -> None:
    scores = maps_of(5)
    scores[[1, 4]] = wrong
    with pytest.raises(
        HarnessError, match=r"scores \(5,\) holds 2 NaN or infinite scores, the first in image 1"
    ):
        image_metrics(scores, np.array([0, 1, 0, 1, 0]))


@pytest.mark.parametrize("masked", [0, 1])
def test_map_scores_that_are_not_finite_are_counted_and_located_even_without_defects(masked: int) -> None:
    maps = maps_of(4, 4, 5)
    maps[2, 2, 3] = np.nan
    masks = np.zeros(maps.shape, dtype=np.bool_)
    masks[2, 2, 3] = masked
    with pytest.raises(
        HarnessError, match=r"maps \(4, 4, 5\) holds 1 NaN or infinite scores, the first in image 2"
    ):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros(3), np.zeros(4, np.int64), r"scores \(3,\) and labels \(4,\)"),
        (np.zeros((3, 1)), np.zeros((3, 1), np.int64), r"must both be \(N,\)"),
        (np.zeros(3), np.array([0, 1, 2]), "0 for good and 1 for defective"),
        (np.zeros(3), np.array([0.0, 1.0, 0.0]), "labels must be integers"),
        (np.zeros(3, np.int64), np.array([0, 1, 0]), "scores must be float32 or float64, not int64"),
    ],
)
def test_wrong_image_inputs_are_refused(scores: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_metrics(scores, labels)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (maps_of(2, 3, 4), np.zeros((2, 4, 3), np.bool_), r"maps \(2, 3, 4\) and masks \(2, 4, 3\)"),
        (maps_of(3, 4), np.zeros((3, 4), np.bool_), r"must both be \(N, H, W\)"),
        (maps_of(2, 3, 4), np.zeros((2, 3, 4), np.uint8), "masks must be bool, not uint8"),
        (
            maps_of(2, 3, 4).astype(np.float16),
            np.zeros((2, 3, 4), np.bool_),
            "maps must be float32 or float64",
        ),
    ],
)
def test_wrong_pixel_inputs_are_refused(maps: Any, masks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_metrics(maps, masks)


def test_views_give_what_their_copies_give() -> None:
    maps = np.random.default_rng(0).normal(size=(6, 9, 8)).astype(np.float32)
    masks = maps + np.roll(maps, 1) > 1
    views = maps[::2, ::-1, 1:7], masks[::2, ::-1, 1:7]
    assert pixel_metrics(*views) == pixel_metrics(views[0].copy(), views[1].copy())


def test_merging_joins_values_thresholds_and_reasons() -> None:
    pixel = pixel_metrics(maps_of(1, 1, 2), np.array([[[False, True]]]))
    image = image_metrics(maps_of(2), np.array([0, 0]))
    merged = merge(pixel, image)
    assert merged == Metrics(values=pixel.values, thresholds=pixel.thresholds, undefined=image.undefined)
    assert merged == merge(image, pixel)


def test_merging_the_same_metric_twice_is_refused() -> None:
    defined = image_metrics(maps_of(2), np.array([0, 1]))
    undefined = image_metrics(maps_of(2), np.array([0, 0]))
    for pair in ((defined, undefined), (undefined, defined)):
        with pytest.raises(ValueError, match="measured twice: image_ap, image_auroc, image_f1_max"):
            merge(*pair)
