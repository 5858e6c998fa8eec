from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scipy.ndimage import label

from harness.metrics import pixel_metrics
from harness.metrics.aupro import region_numbers
from harness.types import Bool, Float32
from tests.harness.metrics.strategies import Pixels, pixels


def aupro_at_every_score(maps: Float32, masks: Bool, limit: float = 0.3) -> float:
    """Every point of the curve by counting, then trapezoids, the last one cut at the limit."""
    regions: list[Float32] = []
    for scores, mask in zip(maps, masks, strict=True):
        labels, count = label(mask, structure=np.ones((3, 3)))
        regions += [scores[labels == number] for number in range(1, count + 1)]
    good = maps[~masks]
    area = x0 = y0 = 0.0
    for score in np.unique(maps)[::-1]:
        x1 = float(np.mean(good >= score))
        y1 = float(np.mean([np.mean(region >= score) for region in regions]))
        if x1 >= limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            return (area + (limit - x0) * (y0 + y1) / 2) / limit
        area += (x1 - x0) * (y0 + y1) / 2
        x0, y0 = x1, y1
    raise AssertionError("the lowest score is below the limit")


def aupro(maps: list[list[int]], masks: list[list[int]]) -> float:
    """AUPRO of one image given as rows."""
    return pixel_metrics(np.array([maps], dtype=np.float32), np.array([masks], dtype=np.bool_)).values[
        "aupro"
    ]


@given(pixels())
def test_aupro_agrees_with_the_slow_evaluation_at_every_score(case: Pixels) -> None:
    assert pixel_metrics(*case).values["aupro"] == pytest.approx(aupro_at_every_score(*case), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 20], ids=["continuous", "coarse"])
@pytest.mark.parametrize("contrast", [0, 1, 3])
def test_aupro_agrees_with_the_slow_evaluation_on_many_regions(levels: int | None, contrast: float) -> None:
    random = np.random.default_rng(5)
    masks = random.random((3, 40, 40)) < 0.06
    masks[1] = False
    maps = (random.normal(size=masks.shape) + contrast * masks).astype(np.float32)
    if levels is not None:
        maps = np.round(maps * levels / 8)
    assert pixel_metrics(maps, masks).values["aupro"] == pytest.approx(
        aupro_at_every_score(maps, masks), abs=1e-12
    )


def test_a_tie_group_that_crosses_the_limit_is_integrated_in_part() -> None:
    # Ten good pixels, one region of two. Score 9: half found at rate 0. Score 5: the rest, tied with four good
    # pixels: from (0, 0.5) straight to (0.4, 1), at the limit 0.875. (0.5 + 0.875) / 2 * 0.3 / 0.3 = 0.6875.
    maps = [[9, 5, 5, 5, 5, 5], [1, 1, 1, 1, 1, 1]]
    masks = [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert aupro(maps, masks) == pytest.approx(0.6875, abs=1e-15)


def test_a_group_of_good_pixels_that_crosses_the_limit_adds_a_level_piece() -> None:
    # Half found at rate 0, nothing more until rate 0.4: level at 0.5.
    maps = [[9, 1, 5, 5, 5, 5], [1, 1, 1, 1, 1, 1]]
    masks = [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert aupro(maps, masks) == pytest.approx(0.5, abs=1e-15)


def test_a_tie_group_that_ends_at_the_limit_is_integrated_whole() -> None:
    # Ten good pixels. One region is found at rate 0, the other tied with three good pixels: from (0, 0.5)
    # straight to (0.3, 1).
    maps = [[5, 5, 5, 5, 1, 1], [1, 1, 1, 1, 1, 9]]
    masks = [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert aupro(maps, masks) == pytest.approx(0.75, abs=1e-15)


def test_a_region_found_only_beyond_the_limit_adds_nothing() -> None:
    maps = [[1, 5, 5, 5, 5, 5], [5, 5, 5, 5, 5, 9]]
    masks = [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert aupro(maps, masks) == pytest.approx(0.5, abs=1e-15)


def test_a_small_region_weighs_as_much_as_a_large_one() -> None:
    maps = [[9, 9, 9, 9, 9, 0], [1, 1, 1, 1, 1, 1]]
    masks = [[1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]]
    # The large region is tied with one of seven good pixels, 1/7 of the rate; the small one is never found.
    assert aupro(maps, masks) == pytest.approx((1 - 1 / 7 / 2 / 0.3) / 2, abs=1e-15)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    masks = np.array(
        [[[1, 0, 0, 1], [0, 1, 0, 1]], [[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 1], [0, 0, 0, 0]]]
    )
    assert region_numbers(masks.astype(np.bool_)).tolist() == [0, 1, 0, 1, 2, 3]
