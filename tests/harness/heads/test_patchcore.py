from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from harness.heads.patchcore import OUTPUT, PatchcoreHead
from harness.types import AnyArray, Float32
from tests.harness.heads.test_padim import bilinear

pytest.importorskip("faiss", reason="faiss-cpu, which searches the bank, is not installed")

GRID = (3, 5)
DIMENSIONS = 6
SUPPORTS = 4


@pytest.fixture(scope="module")
def bank() -> Float32:
    return np.random.default_rng(0).normal(size=(30, DIMENSIONS)).astype(np.float32)


@pytest.fixture(scope="module")
def embedding() -> Float32:
    """Four images, one of them scaled far out."""
    drawn = np.random.default_rng(1).normal(size=(4, DIMENSIONS, *GRID))
    drawn[2] *= 400
    return drawn.astype(np.float32)


def head(bank: Float32, score: str = "reweighted", *, threads: int = 1, **changes: Any) -> PatchcoreHead:
    parameters = {
        "layers": ["layer2"],
        "grid": [*GRID],
        "map_size": [12, 20],
        "sigma": 1.5,
        "score": score,
        "squared": False,
    }
    state: dict[str, AnyArray] = {"bank": bank}
    if score == "reweighted":
        apart = np.linalg.norm(bank[:, None] - bank[None], axis=2)
        state["neighbours"] = np.argsort(apart, axis=1)[:, :SUPPORTS].astype(np.int32)
    return PatchcoreHead(parameters | changes, state, threads=threads)


def patch_distances(bank: Float32, image: Float32) -> AnyArray:
    """(h·w, M) in float64, by differences."""
    patches = image.reshape(DIMENSIONS, -1).T.astype(np.float64)
    return np.asarray(np.linalg.norm(patches[:, None] - bank[None].astype(np.float64), axis=2))


def test_without_the_half_pixel_a_distance_lies_at_the_start_of_its_cell(
    bank: Float32, embedding: Float32
) -> None:
    scores = head(bank, "max", sigma=0.0, half_pixel=False)(embedding, {OUTPUT: embedding})
    nearest = patch_distances(bank, embedding[0]).min(axis=1).reshape(GRID)
    np.testing.assert_allclose(scores.maps[0, :: 12 // GRID[0], :: 20 // GRID[1]], nearest, rtol=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_maps_are_the_resampled_distances_to_the_nearest_row(
    bank: Float32, embedding: Float32, *, squared: bool
) -> None:
    scores = head(bank, "max", squared=squared)(embedding, {OUTPUT: embedding, "other": bank})
    assert scores.maps.shape == (4, 12, 20)
    assert scores.maps.dtype == scores.images.dtype == np.float32
    for image, score_map, score in zip(embedding, scores.maps, scores.images, strict=True):
        nearest = patch_distances(bank, image).min(axis=1) ** (2 if squared else 1)
        expected = gaussian_filter(bilinear(nearest.reshape(GRID), 12, 20), 1.5)
        np.testing.assert_allclose(score_map, expected, rtol=1e-5)
        assert score == pytest.approx(nearest.max(), rel=1e-6)


@pytest.mark.parametrize("squared", [False, True])
def test_the_seeds_score_is_the_mean_of_the_ten_largest_distances(
    bank: Float32, embedding: Float32, *, squared: bool
) -> None:
    scores = head(bank, "top10", squared=squared)(embedding, {OUTPUT: embedding})
    for image, score in zip(embedding, scores.images, strict=True):
        nearest = sorted(patch_distances(bank, image).min(axis=1) ** (2 if squared else 1))
        assert score == pytest.approx(np.mean(nearest[5:]), rel=1e-6)  # of 15 patches


def test_the_reweighted_score_is_equation_7(bank: Float32, embedding: Float32) -> None:
    scores = head(bank)(embedding, {OUTPUT: embedding})
    for index in (0, 1, 3):
        distances = patch_distances(bank, embedding[index])
        farthest = distances.min(axis=1).argmax()
        star = distances[farthest].argmin()
        support = np.argsort(np.linalg.norm(bank - bank[star], axis=1))[:SUPPORTS]
        weight = 1 - np.exp(distances[farthest, star]) / np.exp(distances[farthest, support]).sum()
        assert scores.images[index] == pytest.approx(weight * distances[farthest, star], rel=1e-5)
        assert 0 < weight < 1


def test_a_hand_made_case() -> None:
    """One patch at 3 on a line with bank rows at 0, 1 and -1: d* = 2, the three are 2, 3 and 4 away."""
    bank = np.array([[0], [1], [-1]], np.float32)
    state = {"bank": bank, "neighbours": np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]], np.int32)}
    parameters = {"grid": [1, 1], "map_size": [2, 2], "sigma": 0.0, "score": "reweighted", "squared": False}
    image = np.full((1, 1, 1, 1), 3, np.float32)
    scores = PatchcoreHead(parameters, state, threads=1)(image, {OUTPUT: image})
    assert scores.maps.tolist() == [[[2, 2], [2, 2]]]
    assert scores.images[0] == pytest.approx(2 * (1 - 1 / (1 + np.e + np.e**2)), rel=1e-6)


def test_far_patches_do_not_overflow_the_weight(bank: Float32, embedding: Float32) -> None:
    score = head(bank)(embedding, {OUTPUT: embedding}).images[2]
    largest = patch_distances(bank, embedding[2]).min(axis=1).max()
    assert largest > 700  # float64's exp overflows from 710 on, float32's from 89
    assert 0 < score < largest


@pytest.mark.parametrize("score", ["reweighted", "max", "top10"])
def test_neither_threads_nor_batches_nor_their_order_change_the_scores(
    bank: Float32, embedding: Float32, score: str
) -> None:
    alone = head(bank, score)(embedding, {OUTPUT: embedding})
    together = head(bank, score, threads=2)(embedding, {OUTPUT: embedding})
    np.testing.assert_array_equal(together.maps, alone.maps)
    np.testing.assert_array_equal(together.images, alone.images)
    back = head(bank, score)(embedding, {OUTPUT: embedding[::-1]})
    np.testing.assert_array_equal(back.images[::-1], alone.images)
    np.testing.assert_allclose(back.maps[::-1], alone.maps, rtol=1e-6)
    assert len(set(alone.images.tolist())) == 4


def test_a_defect_lies_where_it_is_and_scores_higher(bank: Float32) -> None:
    good = np.repeat(bank[0], 15).reshape(1, DIMENSIONS, *GRID)
    defective = good.copy()
    defective[0, :, 2, 1] += 2
    ready = head(bank)
    scores = ready(defective, {OUTPUT: defective})
    row, column = np.unravel_index(scores.maps[0].argmax(), (12, 20))
    assert (row // 4, column // 4) == (2, 1)
    assert scores.images[0] > ready(good, {OUTPUT: good}).images[0] == 0


@pytest.mark.parametrize(
    "shape", [(6, 3, 5), (2, 5, 3, 5), (2, 6, 5, 3), (2, 6, 15), (6,), (2, 6, 3, 5, 1), ()]
)
def test_misshapen_outputs_are_refused(bank: Float32, shape: tuple[int, ...]) -> None:
    given = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=r"embedding has shape \(.*\), expected \(N, 6, 3, 5\)"):
        head(bank)(given, {OUTPUT: given})


def test_a_missing_output_is_named_with_what_is_there(bank: Float32, embedding: Float32) -> None:
    with pytest.raises(ValueError, match="'embedding'; the net gave layer1, layer2"):
        head(bank)(embedding, {"layer2": embedding, "layer1": embedding})
    with pytest.raises(ValueError, match="the net gave none"):
        head(bank)(embedding, {})


@pytest.mark.parametrize("score", ["reweighted", "max", "top10"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_overflow_of_the_network_shows_in_map_and_score(
    bank: Float32, embedding: Float32, score: str, value: float
) -> None:
    broken = embedding.copy()
    broken[1, 3, 2, 2] = value
    scores = head(bank, score)(broken, {OUTPUT: broken})
    expected = head(bank, score)(embedding, {OUTPUT: embedding})
    assert np.isnan(scores.maps[1]).any()
    assert np.isnan(scores.images[1])
    for index in (0, 2, 3):
        np.testing.assert_array_equal(scores.maps[index], expected.maps[index])
        assert scores.images[index] == expected.images[index]
