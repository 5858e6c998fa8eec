from __future__ import annotations

import cv2
import numpy as np
import pytest

from harness.errors import ArtifactError
from harness.heads.given import GivenHead, parameters
from harness.types import AnyArray

BATCH = np.zeros((2, 3, 6, 8), np.float32)


def head(map_: str | None = "m", score: str | None = "s") -> GivenHead:
    return GivenHead(parameters((6, 8), map_, score), {}, threads=1)


def random(*shape: int) -> AnyArray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 1, 6, 8), (2, 6, 8, 1)])
@pytest.mark.parametrize("score_shape", [(2,), (2, 1), (2, 1, 1, 1)])
def test_map_and_score_are_passed_on(shape: tuple[int, ...], score_shape: tuple[int, ...]) -> None:
    maps, scores = random(*shape), random(*score_shape)
    found = head()(BATCH, {"m": maps, "s": scores, "other": maps})
    assert np.array_equal(found.maps, maps.reshape(2, 6, 8))
    assert np.array_equal(found.images, scores.reshape(2))


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (3, 8), (5, 7)])
def test_a_map_of_another_size_is_resized_with_half_pixel_centres(size: tuple[int, int]) -> None:
    maps = random(2, *size)
    found = head(score=None)(BATCH, {"m": maps})
    wanted = [cv2.resize(item, (8, 6), interpolation=cv2.INTER_LINEAR) for item in maps]
    assert np.allclose(found.maps, wanted, atol=1e-6)
    assert np.array_equal(found.images, maps.max(axis=(1, 2)))


def test_maps_of_changing_sizes_are_each_resized_from_their_own() -> None:
    given = head(score=None)
    for side in (3, 5, 3):
        maps = np.full((2, side, side), side, np.float32)
        assert np.allclose(given(BATCH, {"m": maps}).maps, np.full((2, 6, 8), side))


def test_a_larger_map_is_resized_without_a_wider_kernel() -> None:
    found = head(score=None)(BATCH[:1], {"m": random(1, 12, 16)})
    assert np.allclose(found.maps, random(1, 12, 16).reshape(1, 6, 2, 8, 2).mean(axis=(2, 4)), atol=1e-6)


def test_a_score_alone_has_no_maps() -> None:
    found = head(map_=None)(BATCH, {"s": random(2)})
    assert found.maps.shape == (2, 0, 0)
    assert np.array_equal(found.images, random(2))


def test_one_number_is_the_score_of_one_image() -> None:
    assert head(map_=None)(BATCH[:1], {"s": np.array(3, np.float32)}).images.tolist() == [3]


@pytest.mark.parametrize("shape", [(2, 2, 6, 8), (1, 6, 8), (2, 48), (2, 0, 0)])
def test_another_map_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match="not one map for each of 2 images"):
        head()(BATCH, {"m": np.zeros(shape, np.float32), "s": random(2)})


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (1, 2)])
def test_another_score_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match="not one score for each of 2 images"):
        head()(BATCH, {"m": random(2, 6, 8), "s": np.zeros(shape, np.float32)})
