from __future__ import annotations

import cv2
import numpy as np
import pytest

from harness.blame import explain
from harness.blame.frames import shows
from harness.detector.preprocess import IMAGENET_MEAN, IMAGENET_STD
from harness.types import AnyArray, UInt8


def picture(side: int = 48, seed: int = 0) -> UInt8:
    """Smooth colours with fine grain, other in every channel."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (6, 6, 3), np.uint8)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    return np.asarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).round(), np.uint8)


FRAME = picture()
PLANES = FRAME.transpose(2, 0, 1).astype(np.float64)


def normalised(
    planes: AnyArray, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> AnyArray:
    centre, spread = (np.array(values)[:, None, None] for values in (mean, std))
    return np.asarray((planes / 255 - centre) / spread, np.float32)


@pytest.mark.parametrize(
    ("other", "stage", "text"),
    [
        (normalised(PLANES[::-1]), "frame", "BGR for RGB"),
        (normalised(PLANES.transpose(0, 2, 1)), "frame", "height and width are transposed"),
        (normalised(PLANES[:, :, ::-1]), "frame", "mirrored"),
        (normalised(PLANES[:, ::-1]), "frame", "upside down"),
        (normalised(PLANES[::-1].transpose(0, 2, 1)), "frame", "transposed and the channels are in reverse"),
        (normalised(PLANES).transpose(1, 2, 0).reshape(PLANES.shape), "input", "channels-last"),
        (
            normalised(PLANES, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            "input",
            "by mean 0.5 0.5 0.5 and std 0.25",
        ),
        (normalised(PLANES * 255), "input", "division by 255 were missing"),
        (-normalised(PLANES), "input", "do not grow"),
        (normalised(PLANES)[:, :-1], "frame", "its shape is (3, 47, 48)"),
    ],
    ids=str,
)
def test_the_change_of_an_input_is_explained(other: AnyArray, stage: str, text: str) -> None:
    explanation = explain(FRAME, other)
    assert explanation is not None
    assert (explanation.stage, text in explanation.text) == (stage, True), explanation


def test_the_mean_and_std_of_the_other_normalisation_are_measured() -> None:
    explanation = explain(FRAME, normalised(PLANES, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    assert explanation is not None
    assert "by mean 0.1 0.2 0.3 and std 0.4 0.5 0.6 of pixels from 0 to 1" in explanation.text


def test_another_interpolation_differs_a_little_in_many_places() -> None:
    large = picture(150)
    area, linear = (
        cv2.resize(large, (48, 48), interpolation=flag) for flag in (cv2.INTER_AREA, cv2.INTER_LINEAR)
    )
    explanation = explain(np.asarray(area, np.uint8), linear.transpose(2, 0, 1))
    assert explanation is not None
    assert explanation.stage == "frame"
    assert "another interpolation" in explanation.text
    mean = float(explanation.text.split("differ by ")[1].split(" ")[0])
    assert mean == pytest.approx(np.abs(linear.astype(float) - area).mean(), rel=0.2)


@pytest.mark.parametrize(("step", "text"), [(1, "more of the image"), (-1, "less of the image")])
def test_a_missing_crop_and_a_crop_without_resize_are_explained_with_their_factor(
    step: int, text: str
) -> None:
    large = picture(160)
    uncropped = cv2.resize(large, (48, 48), interpolation=cv2.INTER_AREA)
    centre = cv2.resize(large[20:140, 20:140], (48, 48), interpolation=cv2.INTER_AREA)
    frame, other = (centre, uncropped)[::step]
    explanation = explain(np.asarray(frame, np.uint8), normalised(other.transpose(2, 0, 1).astype(float)))
    assert explanation is not None
    assert (explanation.stage, text in explanation.text) == ("frame", True)
    factor = float(explanation.text.split("about ")[1].split(" ")[0])
    assert factor == pytest.approx(160 / 120, abs=0.05)


def test_a_grey_picture_has_no_channel_order() -> None:
    explanation = explain(FRAME[:, :, :1], normalised(PLANES[:1], (0.5,), (0.5,)))
    assert explanation is not None
    assert explanation.stage == "input"


@pytest.mark.parametrize(
    "other", [np.random.default_rng(1).normal(size=PLANES.shape), np.full(PLANES.shape, np.nan)]
)
def test_an_unlike_picture_is_not_explained(other: AnyArray) -> None:
    assert explain(FRAME, other) is None


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (normalised(PLANES), True),
        (normalised(PLANES, (0.5, 0.5, 0.5), (2, 1, 2)), True),
        (normalised(PLANES[::-1]), False),
        (-normalised(PLANES), False),
        (np.zeros(PLANES.shape), False),
        (np.full(PLANES.shape, np.nan), False),
        (normalised(PLANES)[:, 1:], False),
        (normalised(picture(seed=1).transpose(2, 0, 1).astype(float)), False),
    ],
)
def test_an_input_shows_the_picture_whose_normalisation_it_is(other: AnyArray, *, same: bool) -> None:
    assert shows(FRAME, other) == same


def test_a_constant_input_is_not_called_a_normalisation() -> None:
    explanation = explain(FRAME, np.zeros(PLANES.shape))
    assert explanation is None or "normalised" not in explanation.text


@pytest.mark.parametrize("seed", range(1, 7))
def test_another_picture_is_not_called_a_crop_of_this_one(seed: int) -> None:
    explanation = explain(FRAME, normalised(picture(seed=seed).transpose(2, 0, 1).astype(float)))
    assert explanation is None
