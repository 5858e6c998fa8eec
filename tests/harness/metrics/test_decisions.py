from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_opening
from sklearn.metrics import roc_auc_score

from harness.errors import HarnessError
from harness.metrics import PixelDecisions, decision_metrics
from harness.metrics.decisions import opened
from harness.types import Bool, Float32
from tests.harness.metrics.strategies import Pixels, pixels

PLAIN = PixelDecisions()
NAMES = {"pixel_ok", "pixel_nok", "pixel_acc", "pixel_auc_binary"}


def labels_of(masks: Bool) -> NDArray[np.int64]:
    return np.asarray(masks.any(axis=(1, 2)), np.int64)


def shares(maps: Float32, masks: Bool, threshold: float, rules: PixelDecisions = PLAIN) -> dict[str, float]:
    return decision_metrics(maps, masks, labels_of(masks), threshold, rules).values


def disk(radius: int) -> Bool:
    offsets = range(-radius, radius + 1)
    return np.array([[y * y + x * x <= radius * radius for x in offsets] for y in offsets])


def test_shares_counted_by_hand() -> None:
    #  map 1 2 3 4 5 6 over 3: three called defective, two of them rightly; of four defective pixels two are found
    maps = np.array([[[1, 2, 3, 4, 5, 6]]], np.float32)
    masks = np.array([[[0, 1, 1, 0, 1, 1]]], np.bool_)
    assert shares(maps, masks, 3.0) == {
        "pixel_ok": 2 / 4,
        "pixel_nok": 1 / 2,
        "pixel_acc": 3 / 6,
        "pixel_auc_binary": 0.5,
    }


def test_a_pixel_at_the_threshold_is_not_called_defective() -> None:
    maps = np.full((1, 2, 2), 0.5, np.float32)
    masks = np.array([[[1, 1], [0, 0]]], np.bool_)
    assert shares(maps, masks, 0.5)["pixel_ok"] == 0
    assert shares(maps, masks, np.nextafter(0.5, 0))["pixel_ok"] == 1


@given(pixels(), st.integers(-4, 4).map(lambda level: level / 4))
def test_the_binary_area_is_that_of_the_decisions_and_the_others_are_shares_of_all_pixels(
    case: Pixels, threshold: float
) -> None:
    maps, masks = case
    found = shares(maps, masks, threshold)
    called = maps > np.float32(threshold)
    assert found.keys() == NAMES
    assert found["pixel_auc_binary"] == pytest.approx(roc_auc_score(masks.ravel(), called.ravel()), abs=1e-12)
    assert found["pixel_ok"] == called[masks].mean()
    assert found["pixel_nok"] == (~called[~masks]).mean()
    assert found["pixel_acc"] == (called == masks).mean()


@given(pixels(), st.integers(0, 1000))
def test_the_order_of_images_changes_nothing(case: Pixels, seed: int) -> None:
    maps, masks = case
    order = np.random.default_rng(seed).permutation(len(maps))
    assert shares(maps[order], masks[order], 0.0) == shares(maps, masks, 0.0)


def test_a_seeds_protocol_counts_defective_images_alone() -> None:
    maps = np.array([[[1, 0]], [[1, 1]]], np.float32)
    masks = np.array([[[1, 0]], [[0, 0]]], np.bool_)
    assert shares(maps, masks, 0.5)["pixel_nok"] == 1 / 3
    alone = shares(maps, masks, 0.5, PixelDecisions(only_defective=True))
    assert alone == dict.fromkeys(NAMES, 1.0)


def test_a_defective_image_whose_mask_the_crop_emptied_still_counts() -> None:
    maps = np.array([[[1, 0]], [[1, 1]]], np.float32)
    masks = np.array([[[1, 0]], [[0, 0]]], np.bool_)
    found = decision_metrics(maps, masks, np.array([1, 1]), 0.5, PixelDecisions(only_defective=True))
    assert found.values["pixel_nok"] == 1 / 3


def test_an_opening_removes_what_the_disk_does_not_fit_into() -> None:
    called = np.zeros((1, 40, 40), np.bool_)
    called[0, 5:16, 5:16] = True  # an 11 x 11 square: disks of radius 4 leave out 8 pixels of each corner
    called[0, 30:34, 3:37] = True  # a bar of 4 pixels, which none fits into
    rules = PixelDecisions(opening_radius=4)
    masks = np.zeros((1, 40, 40), np.bool_)
    masks[0, 5:16, 5:16] = True
    plain, opened_ = (shares(called.astype(np.float32), masks, 0.5, each) for each in (PLAIN, rules))
    assert plain["pixel_ok"] == 1
    assert plain["pixel_nok"] < 1
    assert opened_["pixel_nok"] == 1
    assert opened_["pixel_ok"] == 89 / 121


@pytest.mark.parametrize("radius", [0, 1, 2, 4])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_the_opening_is_scipys_where_the_outside_is_no_obstacle(radius: int, share: float) -> None:
    called = np.random.default_rng(radius).random((31, 47)) < share
    outside = radius + 1
    padded = np.pad(called, outside, mode="constant", constant_values=True)
    # Erosion must not see the border, dilation must not come from beyond it.
    eroded_as_if_endless = binary_opening(padded, disk(radius))[outside:-outside, outside:-outside]
    found = opened(called, radius)
    assert found.dtype == np.bool_
    inner = (slice(2 * radius, 31 - 2 * radius), slice(2 * radius, 47 - 2 * radius))
    np.testing.assert_array_equal(found[inner], eroded_as_if_endless[inner])
    assert not (found & ~called).any()
    np.testing.assert_array_equal(opened(found, radius), found)


def test_what_lies_outside_of_the_image_is_no_obstacle_to_a_disk_whose_centre_is_inside() -> None:
    called = np.zeros((20, 20), np.bool_)
    called[:, :3] = True
    np.testing.assert_array_equal(opened(called, 2), called)
    called[:, 2] = False
    assert not opened(called, 2).any()


@pytest.mark.parametrize(
    ("masks", "defined", "reasons"),
    [
        (
            np.zeros((2, 3, 3), np.bool_),
            {"pixel_nok", "pixel_acc"},
            "no pixel of the test images is defective",
        ),
        (np.ones((2, 3, 3), np.bool_), {"pixel_ok", "pixel_acc"}, "no pixel of the test images is normal"),
    ],
)
def test_a_share_of_no_pixels_is_undefined(masks: Bool, defined: set[str], reasons: str) -> None:
    found = decision_metrics(np.zeros((2, 3, 3), np.float32), masks, np.array([0, 1]), 0.5, PLAIN)
    assert found.values.keys() == defined
    assert found.undefined == dict.fromkeys(NAMES - defined, reasons)
    assert found.thresholds == {}


def test_without_defective_images_all_is_undefined_by_the_seeds_protocol() -> None:
    maps, masks = np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 3), np.bool_)
    found = decision_metrics(maps, masks, np.array([0, 0]), 0.5, PixelDecisions(only_defective=True))
    assert found.values == {}
    assert found.undefined.keys() == NAMES
    assert found.undefined["pixel_acc"] == "the defective test images have no pixels"


@pytest.mark.parametrize(
    ("maps", "masks", "labels"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.bool_), np.array([0, 1])),
        (np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 4), np.bool_), np.array([0, 1])),
        (np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 3), np.uint8), np.array([0, 1])),
        (np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 3), np.bool_), np.array([0])),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(maps: Any, masks: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"must (both )?be"):
        decision_metrics(maps, masks, labels, 0.5, PLAIN)


def test_nan_is_never_a_normal_pixel() -> None:
    maps = np.full((1, 2, 2), np.nan, np.float32)
    with pytest.raises(HarnessError, match="NaN or infinite"):
        decision_metrics(maps, np.zeros((1, 2, 2), np.bool_), np.array([0]), 0.5, PLAIN)
