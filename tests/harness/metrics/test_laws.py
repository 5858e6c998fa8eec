from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import image_metrics, pixel_metrics
from tests.harness.metrics.strategies import Images, Pixels, images, pixels

IMAGE_NAMES = {"image_auroc", "image_ap", "image_f1_max"}
PIXEL_NAMES = {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"}


@given(images(), st.integers(0, 1000))
def test_the_order_of_images_changes_no_bit_of_an_image_metric(case: Images, seed: int) -> None:
    scores, labels = case
    order = np.random.default_rng(seed).permutation(len(scores))
    assert image_metrics(scores[order], labels[order]) == image_metrics(scores, labels)


@given(pixels())
def test_the_order_of_images_and_mirroring_change_no_bit_of_a_pixel_metric(case: Pixels) -> None:
    maps, masks = case
    turned = (slice(None, None, -1), slice(None, None, -1), slice(None, None, -1))
    assert pixel_metrics(maps[turned], masks[turned]) == pixel_metrics(maps, masks)


@given(images())
def test_doubling_image_scores_doubles_the_threshold_and_nothing_else(case: Images) -> None:
    scores, labels = case
    once, twice = image_metrics(scores, labels), image_metrics(scores * 2, labels)
    assert twice.values == once.values
    assert twice.thresholds == {name: 2 * value for name, value in once.thresholds.items()}


@given(pixels())
def test_doubling_maps_doubles_the_threshold_and_nothing_else(case: Pixels) -> None:
    maps, masks = case
    once, twice = pixel_metrics(maps, masks), pixel_metrics(maps * 2, masks)
    assert twice.values == once.values
    assert twice.thresholds == {name: 2 * value for name, value in once.thresholds.items()}


@given(images())
def test_swapping_the_classes_turns_image_auroc_into_its_complement(case: Images) -> None:
    scores, labels = case
    swapped = image_metrics(scores, 1 - labels).values["image_auroc"]
    assert swapped == pytest.approx(1 - image_metrics(scores, labels).values["image_auroc"], abs=1e-15)


@given(pixels())
def test_swapping_the_classes_turns_pixel_auroc_into_its_complement(case: Pixels) -> None:
    maps, masks = case
    swapped = pixel_metrics(maps, ~masks).values["pixel_auroc"]
    assert swapped == pytest.approx(1 - pixel_metrics(maps, masks).values["pixel_auroc"], abs=1e-15)


@given(images())
def test_image_scores_that_separate_the_classes_give_exactly_one(case: Images) -> None:
    _, labels = case
    metrics = image_metrics(labels.astype(np.float64) + 0.5, labels)
    assert metrics.values == dict.fromkeys(IMAGE_NAMES, 1.0)
    assert metrics.thresholds == {"image_f1_max": 1.5}


@given(pixels())
def test_maps_that_separate_the_classes_give_exactly_one(case: Pixels) -> None:
    maps, masks = case
    spread = maps - maps.min() + 1
    metrics = pixel_metrics(np.where(masks, spread, -spread), masks)
    assert metrics.values == dict.fromkeys(PIXEL_NAMES, 1.0)


@given(images())
def test_a_constant_image_score_gives_half_auroc_and_the_share_of_defective_images(case: Images) -> None:
    scores, labels = case
    values = image_metrics(np.zeros_like(scores), labels).values
    assert values["image_auroc"] == 0.5
    assert values["image_ap"] == pytest.approx(labels.mean(), abs=1e-15)


@given(pixels())
def test_a_constant_map_gives_half_auroc_and_the_straight_line_below_the_limit(case: Pixels) -> None:
    maps, masks = case
    values = pixel_metrics(np.zeros_like(maps), masks).values
    assert values["pixel_auroc"] == 0.5
    assert values["aupro"] == pytest.approx(0.15, abs=1e-15)


@given(pixels())
def test_every_metric_lies_between_zero_and_one(case: Pixels) -> None:
    values = pixel_metrics(*case).values
    assert values.keys() == PIXEL_NAMES
    assert all(0 <= value <= 1 for value in values.values()), values


@given(pixels())
def test_inputs_are_left_as_they_were(case: Pixels) -> None:
    maps, masks = case
    before = maps.copy(), masks.copy()
    pixel_metrics(maps, masks)
    assert np.array_equal(maps, before[0])
    assert np.array_equal(masks, before[1])
