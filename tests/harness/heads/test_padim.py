from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from harness.heads.padim import BLOCK_ROWS, OUTPUT, PadimHead
from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray, Float32

EPSILON = 0.01
GRID = (3, 4)
CHANNELS = 40  # two and a half blocks


class Gaussians(NamedTuple):
    """One Gaussian per position: mean (P, d) and the covariance S (P, d, d) without ε."""

    mean: AnyArray
    covariance: AnyArray

    def state(self, form: str) -> dict[str, AnyArray]:
        """The fitted state as the head's docstring defines it, one position at a time."""
        factors = [trapezoid(matrix, form) for matrix in self.covariance]
        order = np.argsort([-len(factor) for factor in factors], kind="stable")
        state = {"mean": self.mean.astype(np.float32), "order": order.astype(np.int32)}
        for first in range(0, len(factors[order[0]]), BLOCK_ROWS):
            rows = [factors[position][first:] for position in order if len(factors[position]) > first]
            block = np.zeros((len(rows), min(BLOCK_ROWS, CHANNELS - first), CHANNELS - first), np.float32)
            for target, source in zip(block, rows, strict=True):
                target[: len(source)] = source[:BLOCK_ROWS, first:]
            state[f"factor.{first // BLOCK_ROWS:04}"] = block
        return state

    def distances(self, embedding: AnyArray) -> AnyArray:
        """Mahalanobis distances by their definition: float64, dense, one position at a time."""
        delta = embedding.reshape(len(embedding), CHANNELS, -1).transpose(2, 1, 0) - self.mean[:, :, None]
        squared = [
            np.sum(part * np.linalg.solve(matrix + EPSILON * np.eye(CHANNELS), part), axis=0)
            for part, matrix in zip(delta, self.covariance, strict=True)
        ]
        return np.sqrt(squared).T.reshape(-1, *GRID)


def trapezoid(covariance: AnyArray, form: str) -> AnyArray:
    values, vectors = np.linalg.eigh(covariance)
    if form == "inverse":
        weights = 1 / np.sqrt(values + EPSILON)
    else:
        real = values > 1e-9
        values, vectors = values[real], vectors[:, real]
        weights = np.sqrt(values / (values + EPSILON))
    return np.asarray(np.linalg.qr(weights[:, None] * vectors.T, mode="r"))


@pytest.fixture(scope="module")
def gaussians() -> Gaussians:
    """Covariances of every rank from none to full, in an order of positions that is not sorted by it."""
    random = np.random.default_rng(5)
    ranks = [17, 0, 40, 1, 16, 33, 32, 5, 39, 40, 20, 2]
    mean = random.normal(size=(len(ranks), CHANNELS)).astype(np.float32)
    samples = [random.normal(size=(rank, CHANNELS)) / np.sqrt(CHANNELS) for rank in ranks]
    return Gaussians(mean, np.stack([rows.T @ rows for rows in samples]))


@pytest.fixture(scope="module")
def embedding(gaussians: Gaussians) -> Float32:
    """Five images, one of them the mean itself."""
    noise = np.random.default_rng(6).normal(0, 0.3, (5, CHANNELS, *GRID))
    noise[2] = 0
    return np.asarray(gaussians.mean.T.reshape(CHANNELS, *GRID) + noise, np.float32)


def head(gaussians: Gaussians, form: str = "complement", *, threads: int = 1, **changes: Any) -> PadimHead:
    parameters = {"epsilon": EPSILON, "form": form, "grid": [*GRID], "map_size": [12, 20], "sigma": 1.5}
    return PadimHead(parameters | changes, gaussians.state(form), threads=threads)


# --- distances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["complement", "inverse"])
def test_distances_are_mahalanobis_distances(gaussians: Gaussians, embedding: Float32, form: str) -> None:
    found, expected = head(gaussians, form).distances(embedding), gaussians.distances(embedding)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (5, *GRID)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found[2] == 0).all()
    assert found[[0, 1, 3, 4]].min() > 1


@pytest.mark.parametrize("form", ["complement", "inverse"])
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_no_bit(gaussians: Gaussians, embedding: Float32, form: str, threads: int) -> None:
    alone = head(gaussians, form)(embedding, {OUTPUT: embedding})
    together = head(gaussians, form, threads=threads)(embedding, {OUTPUT: embedding})
    np.testing.assert_array_equal(together.maps, alone.maps)
    np.testing.assert_array_equal(together.images, alone.images)


@pytest.mark.parametrize("form", ["complement", "inverse"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_batching_changes_no_more_than_rounding(
    gaussians: Gaussians, embedding: Float32, form: str, size: int
) -> None:
    ready = head(gaussians, form)
    whole = ready.distances(embedding)
    parts = [ready.distances(embedding[first : first + size]) for first in range(0, 5, size)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=5e-6)


def test_images_of_a_batch_keep_their_order(gaussians: Gaussians, embedding: Float32) -> None:
    ready = head(gaussians)
    forth = ready(embedding, {OUTPUT: embedding})
    back = ready(embedding[::-1], {OUTPUT: embedding[::-1]})
    np.testing.assert_allclose(back.maps[::-1], forth.maps, rtol=5e-6)
    assert len(set(forth.images.tolist())) == 5


def test_a_position_without_variance_has_the_scaled_euclidean_distance(gaussians: Gaussians) -> None:
    flat = Gaussians(gaussians.mean, np.zeros_like(gaussians.covariance))
    state = flat.state("complement")
    assert sorted(state) == ["mean", "order"]  # no factor at all
    parameters = {"epsilon": 0.25, "form": "complement", "grid": [*GRID], "map_size": [3, 4], "sigma": 0}
    moved = flat.mean.T.reshape(1, CHANNELS, *GRID).astype(np.float32)
    moved = moved + np.float32(3) * np.eye(CHANNELS, 1, dtype=np.float32).reshape(1, CHANNELS, 1, 1)
    np.testing.assert_allclose(
        PadimHead(parameters, state, threads=1).distances(moved), np.full((1, *GRID), 6.0), rtol=1e-5
    )


@pytest.mark.parametrize(
    "shape", [(40, 3, 4), (2, 39, 3, 4), (2, 40, 4, 3), (2, 40, 12), (40,), (2, 40, 3, 4, 1), ()]
)
def test_misshapen_outputs_are_refused(gaussians: Gaussians, shape: tuple[int, ...]) -> None:
    given = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=r"embedding has shape \(.*\), expected \(N, 40, 3, 4\)"):
        head(gaussians)(given, {OUTPUT: given})


def test_a_missing_output_is_named_with_what_is_there(gaussians: Gaussians, embedding: Float32) -> None:
    with pytest.raises(ValueError, match=r"'embedding'; the net gave layer1, layer2"):
        head(gaussians)(embedding, {"layer2": embedding, "layer1": embedding})
    with pytest.raises(ValueError, match="the net gave none"):
        head(gaussians)(embedding, {})


# --- maps -------------------------------------------------------------------------------------------------------------


def bilinear(image: AnyArray, height: int, width: int) -> AnyArray:
    """Half-pixel bilinear upsampling, one pixel at a time."""
    out = np.empty((height, width))
    for row, column in np.ndindex(height, width):
        value = 0.0
        y = (row + 0.5) * image.shape[0] / height - 0.5
        x = (column + 0.5) * image.shape[1] / width - 0.5
        for i in (int(np.floor(y)), int(np.floor(y)) + 1):
            for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                weight = (1 - abs(y - i)) * (1 - abs(x - j))
                value += weight * image[min(max(i, 0), len(image) - 1), min(max(j, 0), image.shape[1] - 1)]
        out[row, column] = value
    return out


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 4.0])
@pytest.mark.parametrize(
    ("source", "target"),
    [((3, 4), (12, 20)), ((5, 3), (7, 11)), ((6, 7), (6, 7)), ((1, 2), (9, 8)), ((8, 8), (32, 32))],
)
def test_maps_are_upsampled_then_blurred_as_scipy_does(
    source: tuple[int, int], target: tuple[int, int], sigma: float
) -> None:
    image = np.random.default_rng(1).random(source) + 0.1
    rows, columns = (resampling_matrix(*pair, sigma) for pair in zip(source, target, strict=True))
    assert rows.dtype == columns.dtype == np.float32
    expected = bilinear(image, *target)
    if sigma:
        expected = gaussian_filter(expected, sigma)  # scipy's defaults: reflect, truncated at 4 σ
    np.testing.assert_allclose(rows @ image @ columns.T, expected, rtol=1e-6)


@settings(deadline=None)
@given(source=st.integers(1, 20), factor=st.integers(1, 8), sigma=st.floats(0, 12))
def test_a_constant_map_stays_constant(source: int, factor: int, sigma: float) -> None:
    matrix = resampling_matrix(source, source * factor, sigma)
    assert matrix.shape == (source * factor, source)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)


def test_nothing_is_resampled_where_the_sizes_agree() -> None:
    np.testing.assert_array_equal(resampling_matrix(5, 5, 0), np.eye(5, dtype=np.float32))


def test_upsampling_by_two_has_the_weights_of_half_pixel_centres() -> None:
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert resampling_matrix(2, 4, 0).tolist() == expected


def test_without_the_half_pixel_every_target_pixel_lies_at_its_index_times_the_scale() -> None:
    expected = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]
    assert resampling_matrix(2, 4, 0, half_pixel=False).tolist() == expected


def test_scores_are_the_maps_largest_values_and_maps_the_resampled_distances(
    gaussians: Gaussians, embedding: Float32
) -> None:
    ready = head(gaussians)
    scores = ready(embedding, {OUTPUT: embedding, "other": embedding})
    assert scores.maps.shape == (5, 12, 20)
    assert scores.maps.dtype == scores.images.dtype == np.float32
    for distances, score_map, score in zip(
        ready.distances(embedding), scores.maps, scores.images, strict=True
    ):
        expected = gaussian_filter(bilinear(distances, 12, 20), 1.5)
        np.testing.assert_allclose(score_map, expected, rtol=1e-5)
        assert score == score_map.max()


def test_a_defect_lies_where_it_is_and_scores_higher(gaussians: Gaussians, embedding: Float32) -> None:
    defective = embedding[2:3].copy()
    defective[0, :, 2, 1] += 2
    scores = head(gaussians)(defective, {OUTPUT: defective})
    row, column = np.unravel_index(scores.maps[0].argmax(), (12, 20))
    assert (row // 4, column // 5) == (2, 1)
