from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from harness.heads.ssim_ae import OUTPUT, SEED_PROTOCOL, SsimAeHead, SsimAeParameters, gaussian_window
from harness.types import AnyArray, Float32, Scores

SIDE = 16
SEED = {"sigma": 10.0, "covariance_factor": 121 / 120}


def noise(*shape: int, seed: int = 0) -> Float32:
    """Images with some structure: noise, and the same noise smoothed."""
    white = np.random.default_rng(seed).random(shape)
    smooth = gaussian_filter(white, (0, 0, 2, 2), mode="wrap")
    return np.asarray(np.clip(smooth + 0.3 * (white - 0.5), 0, 1), np.float32)


def head(size: tuple[int, int] = (SIDE, SIDE), *, stride: int = 4, **others: Any) -> SsimAeHead:
    parameters = {"map_size": list(size), "window": SIDE, "stride": stride, **others}
    return SsimAeHead(parameters, {}, threads=1)


def scored(image: AnyArray, copy: AnyArray, **others: Any) -> Scores:
    """Of images that are a single window."""
    height, width = image.shape[2:]
    return head((height, width), **others)(image, {OUTPUT: copy})


def ssim(x: AnyArray, y: AnyArray, sigma: float, factor: float) -> AnyArray:
    """SSIM of two (H, W) by its definition: every pixel's window laid out, means first, then squares about them."""
    radius = int(3.5 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    bell = np.exp(-(offsets**2) / (2 * sigma**2))
    weights = np.outer(bell, bell) / bell.sum() ** 2
    wide, high = (
        np.lib.stride_tricks.sliding_window_view(
            np.pad(plane.astype(np.float64), radius, mode="symmetric"), weights.shape
        )
        for plane in (x, y)
    )

    def mean(windows: AnyArray) -> AnyArray:
        return np.asarray((windows * weights).sum(axis=(2, 3)))

    mean_x, mean_y = mean(wide), mean(high)
    from_x, from_y = wide - mean_x[:, :, None, None], high - mean_y[:, :, None, None]
    covariance = factor * mean(from_x * from_y)
    variances = factor * (mean(from_x**2) + mean(from_y**2))
    brightness = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return np.asarray(brightness * (2 * covariance + 9e-4) / (variances + 9e-4))


def residual(
    image: AnyArray, copy: AnyArray, *, sigma: float = 1.5, covariance_factor: float = 1.0
) -> AnyArray:
    """(N, H, W) of (N, C, H, W)."""
    maps = [
        np.mean([ssim(x, y, sigma, covariance_factor) for x, y in zip(one, two, strict=True)], axis=0)
        for one, two in zip(image, copy, strict=True)
    ]
    return np.asarray((1 - np.stack(maps)) / 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rules", [{}, {"sigma": 0.8}, {"sigma": 4.0}, SEED])
def test_the_map_is_half_of_what_ssim_lacks_by_its_definition(channels: int, rules: dict[str, float]) -> None:
    image, copy = noise(2, channels, SIDE, SIDE), noise(2, channels, SIDE, SIDE, seed=1)
    scores = scored(image, copy, **rules)
    assert scores.maps.dtype == np.float32
    assert scores.maps.shape == (2, SIDE, SIDE)
    np.testing.assert_allclose(scores.maps, residual(image, copy, **rules), atol=1e-6)
    assert scores.maps.std() > 0.001


def test_the_window_is_that_of_the_paper() -> None:
    weights = gaussian_window(1.5)
    assert len(weights) == 11
    assert weights.sum() == pytest.approx(1)
    assert weights[5] / weights[6] == pytest.approx(np.exp(0.5 / 1.5**2))
    assert len(gaussian_window(10.0)) == 71


def test_the_image_score_is_the_largest_residual() -> None:
    scores = scored(noise(3, 1, SIDE, SIDE), noise(3, 1, SIDE, SIDE, seed=1))
    np.testing.assert_array_equal(scores.images, scores.maps.reshape(3, -1).max(axis=1))
    assert scores.images.dtype == np.float32


def test_a_perfect_reconstruction_has_no_residual() -> None:
    image = noise(1, 3, SIDE, SIDE)
    assert np.abs(scored(image, image).maps).max() < 1e-7


def test_a_negative_has_nearly_the_largest_residual() -> None:
    image = np.indices((SIDE, SIDE)).sum(axis=0)[None, None].astype(np.float32) % 2  # a checkerboard
    assert scored(image, 1 - image).maps.min() > 0.97


def test_image_and_reconstruction_may_change_places() -> None:
    image, copy = noise(1, 3, SIDE, SIDE), noise(1, 3, SIDE, SIDE, seed=1)
    np.testing.assert_allclose(scored(image, copy).maps, scored(copy, image).maps, atol=1e-7)


def test_a_mirrored_image_has_the_mirrored_map() -> None:
    image, copy = noise(1, 3, SIDE, SIDE), noise(1, 3, SIDE, SIDE, seed=1)
    turned = scored(image[:, :, ::-1], copy[:, :, ::-1]).maps
    np.testing.assert_allclose(turned[:, ::-1], scored(image, copy).maps, atol=1e-7)


# --- windows ----------------------------------------------------------------------------------------------------------


def cut(images: AnyArray, stride: int) -> Float32:
    """The windows of one image after another, row by row."""
    height, width = images.shape[2:]
    return np.stack(
        [
            image[:, top : top + SIDE, left : left + SIDE]
            for image in images
            for top in range(0, height - SIDE + 1, stride)
            for left in range(0, width - SIDE + 1, stride)
        ]
    )


def mended(rows: AnyArray, size: tuple[int, int], stride: int) -> AnyArray:
    """One image from its windows, pixel by pixel the mean of those that cover it."""
    tops, lefts = (range(0, side - SIDE + 1, stride) for side in size)
    image = np.zeros((rows.shape[1], *size))
    for y in range(size[0]):
        for x in range(size[1]):
            over = [
                rows[i * len(lefts) + j, :, y - top, x - left]
                for i, top in enumerate(tops)
                for j, left in enumerate(lefts)
                if 0 <= y - top < SIDE and 0 <= x - left < SIDE
            ]
            image[:, y, x] = np.mean(over, axis=0)
    return image


@pytest.mark.parametrize(("size", "stride"), [((24, 32), 4), ((24, 24), 8), ((32, 16), 16)])
def test_windows_of_several_images_are_averaged_where_they_overlap(
    size: tuple[int, int], stride: int
) -> None:
    images = noise(2, 3, *size)
    rows = cut(images, stride)
    copies = np.clip(rows + noise(*rows.shape, seed=1) / 3, 0, 1)  # every window has its own idea of a pixel
    scores = head(size, stride=stride)(rows, {OUTPUT: copies})
    count = len(rows) // 2
    whole = np.stack([mended(copies[:count], size, stride), mended(copies[count:], size, stride)])
    np.testing.assert_allclose(scores.maps, residual(images, whole), atol=1e-6)


def test_an_image_among_others_is_scored_as_alone() -> None:
    images = noise(3, 1, 24, 24)
    rows = cut(images, 8)
    copies = noise(*rows.shape, seed=1)
    together = head((24, 24), stride=8)(rows, {OUTPUT: copies})
    for index in range(3):
        own = slice(4 * index, 4 * index + 4)
        alone = head((24, 24), stride=8)(rows[own], {OUTPUT: copies[own]})
        np.testing.assert_array_equal(alone.maps[0], together.maps[index])
        assert alone.images[0] == together.images[index]


# --- the seed's protocol ----------------------------------------------------------------------------------------------


def test_the_seeds_protocol_is_written_into_the_manifest() -> None:
    spec = SsimAeParameters(map_size=(256, 256), window=128, stride=32, **SEED_PROTOCOL)
    document = json.loads(msgspec.json.encode(spec))
    assert document == {
        "map_size": [256, 256],
        "window": 128,
        "stride": 32,
        "sigma": 10.0,
        "covariance_factor": 121 / 120,
        "quantise": True,
        "border": 5,
        "border_weight": 0.2,
        "pixel_decisions": {"opening_radius": 4, "only_defective": True},
    }
    assert msgspec.convert(document, SsimAeParameters) == spec


def test_the_reconstruction_is_cut_to_8_bits_before_it_is_compared() -> None:
    image, copy = noise(1, 1, SIDE, SIDE), noise(1, 1, SIDE, SIDE, seed=1)
    coarse = np.floor(copy.astype(np.float64) * 255) / 255
    found = scored(image, copy, quantise=True).maps
    np.testing.assert_allclose(found, residual(image, coarse), atol=1e-6)
    assert np.abs(found - scored(image, copy).maps).max() > 1e-4


def test_it_is_the_averaged_reconstruction_that_is_cut() -> None:
    image = noise(1, 1, SIDE, 24)
    rows = cut(image, 8)
    copies = np.stack([np.full((1, SIDE, SIDE), value / 255, np.float32) for value in (100.6, 102.6)])
    found = head((SIDE, 24), stride=8, quantise=True)(rows, {OUTPUT: copies}).maps
    whole = np.full((1, 1, SIDE, 24), 101 / 255)  # the mean of 100.6 and 102.6, cut
    whole[..., :8], whole[..., 16:] = 100 / 255, 102 / 255
    np.testing.assert_allclose(found, residual(image, whole), atol=1e-6)


def test_residuals_near_the_edges_count_a_fifth() -> None:
    image, copy = noise(1, 1, SIDE, 24), noise(1, 1, SIDE, 24, seed=1)
    spec = {"window": SIDE, "stride": 8, "map_size": [SIDE, 24]}
    rows, copies = cut(image, 8), cut(copy, 8)
    plain, seed = (
        SsimAeHead(spec | extra, {}, threads=1)(rows, {OUTPUT: copies}).maps[0]
        for extra in ({}, {"border": 5, "border_weight": 0.2})
    )
    weights = np.full((SIDE, 24), 0.2)
    weights[5:-5, 5:-5] = 1
    np.testing.assert_allclose(seed, plain * weights, rtol=1e-6)


# --- wrong use --------------------------------------------------------------------------------------------------------


def test_another_output_is_refused() -> None:
    rows = noise(1, 1, SIDE, SIDE)
    with pytest.raises(ValueError, match="scores the output 'reconstruction'; the net gave 20"):
        head()(rows, {"20": rows})
    with pytest.raises(ValueError, match="gave none"):
        head()(rows, {})


@pytest.mark.parametrize(
    ("rows", "copies"),
    [
        ((4, 1, SIDE, SIDE), (4, 3, SIDE, SIDE)),
        ((4, 1, SIDE, SIDE), (3, 1, SIDE, SIDE)),
        ((5, 1, SIDE, SIDE), (5, 1, SIDE, SIDE)),
        ((4, 1, 24, 24), (4, 1, 24, 24)),
    ],
)
def test_outputs_that_do_not_fit_are_refused(rows: tuple[int, ...], copies: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"both should be \(4 · N, C, {SIDE}, {SIDE}\)"):
        head((24, 24), stride=8)(np.zeros(rows, np.float32), {OUTPUT: np.zeros(copies, np.float32)})


def test_parameters_nobody_knows_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `sigmas`"):
        head(sigmas=3)
