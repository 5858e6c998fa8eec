from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.fit import gaussian
from exporters.fit.gaussian import CHUNK, Factors, GaussianAccumulator, factorise
from harness.heads.padim import BLOCK_ROWS, PadimHead
from harness.types import AnyArray, Float32

EPSILON = 0.01
TOLERANCE = 1e-5
SMALLEST_ROUND = 8
"""Images per round when the budget is smaller than that."""


def images(count: int, dimension: int, positions: int, *, scale: float = 1.0, seed: int = 0) -> Float32:
    """Embeddings (N, d, P) whose mean is far from zero and whose channels are correlated."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(dimension, dimension)) / np.sqrt(dimension)
    noise = np.einsum("cd,ndp->ncp", mix, random.normal(size=(count, dimension, positions)))
    return np.asarray(scale * (noise + 5), np.float32)


def gathered(samples: Float32, *, round_bytes: int = gaussian.ROUND_BYTES) -> GaussianAccumulator:
    accumulator = GaussianAccumulator(samples.shape[2], samples.shape[1], round_bytes=round_bytes)
    for sample in samples:
        accumulator.add(sample)
    return accumulator


def covariances(samples: Float32) -> AnyArray:
    """What numpy makes of all samples at once, (P, d, d)."""
    count = samples.shape[1]
    positions = np.moveaxis(samples, 2, 0).astype(float)
    return np.stack([np.cov(position.T).reshape(count, count) for position in positions])


def covariances_of_rows(accumulator: GaussianAccumulator) -> AnyArray:
    grams = [np.einsum("pmd,pme->pde", rows, rows, dtype=np.float64) for rows in accumulator.rows()]
    return np.asarray(np.concatenate(grams) / (accumulator.count - 1))


def others_like(samples: Float32, count: int, *, seed: int) -> Float32:
    """More images of about the same distribution; of scale 1 where the samples do not vary."""
    noise = images(count, *samples.shape[1:], seed=seed) - np.float32(5)
    spread = float(samples.std(axis=0).mean() / noise.std())
    return np.asarray(samples.mean(axis=0) + noise * (spread or 1), np.float32)


def fitted(samples: Float32, **changes: Any) -> tuple[Factors, Float32]:
    """Factors and means; the loss is judged on images of the same distribution."""
    accumulator = gathered(samples)
    settings = {"epsilon": EPSILON, "tolerance": TOLERANCE, "block_rows": BLOCK_ROWS, "threads": 1}
    factors = factorise(accumulator, others_like(samples, 4, seed=1), **{**settings, **changes})
    return factors, accumulator.mean.astype(np.float32)


def distances(factors: Factors, mean: Float32, points: Float32) -> AnyArray:
    """Distances (N, P) of points (N, d, P), as the head computes them."""
    state = {"mean": mean, "order": factors.order}
    state |= {f"factor.{index:04}": block for index, block in enumerate(factors.blocks)}
    grid = [points.shape[2], 1]
    parameters = {"epsilon": EPSILON, "form": factors.form, "grid": grid, "map_size": grid, "sigma": 0}
    return PadimHead(parameters, state, threads=1).distances(points[..., None])[:, :, 0]


def exact_distances(samples: Float32, points: Float32) -> AnyArray:
    """The definition, in float64 and dense."""
    delta = (points - samples.mean(axis=0, dtype=float)).transpose(2, 1, 0)
    sigma = covariances(samples) + EPSILON * np.eye(samples.shape[1])
    return np.asarray(np.sqrt(np.einsum("pdn,pdn->np", delta, np.linalg.solve(sigma, delta))))


def relative_error(samples: Float32, factors: Factors, mean: Float32) -> AnyArray:
    points = others_like(samples, 6, seed=2)
    return np.asarray(np.abs(distances(factors, mean, points) / exact_distances(samples, points) - 1))


# --- mean and covariance ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(2, 60),
    dimension=st.integers(1, 12),
    positions=st.integers(1, 70),
    round_=st.integers(1, 20),
)
def test_any_number_of_rounds_gives_the_mean_and_covariance_of_all_images(
    count: int, dimension: int, positions: int, round_: int
) -> None:
    samples = images(count, dimension, positions)
    accumulator = gathered(samples, round_bytes=round_ * positions * dimension * 4)
    found, expected = covariances_of_rows(accumulator), covariances(samples)  # the rows fold in what is held
    assert accumulator.count == count
    np.testing.assert_allclose(accumulator.mean, samples.mean(axis=0, dtype=float).T, rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("count", [2, 7, 8, 9, 16, 17, 300])
def test_rounds_of_eight_give_what_one_round_gives(count: int) -> None:
    samples = images(count, 20, CHUNK + 3)
    many, one = gathered(samples, round_bytes=1), gathered(samples)
    found, expected = covariances_of_rows(many), covariances_of_rows(one)
    np.testing.assert_allclose(many.mean, one.mean, rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    dimension, positions = 10, CHUNK + 3
    accumulator = GaussianAccumulator(positions, dimension, round_bytes=1)
    first, most = [buffer.shape for buffer in accumulator._buffer], 0
    assert first == [(32, SMALLEST_ROUND, dimension), (3, SMALLEST_ROUND, dimension)]
    for sample in images(200, dimension, positions):
        accumulator.add(sample)
        most = max(most, *(rows.shape[1] for rows in accumulator._rows))
        assert [buffer.shape for buffer in accumulator._buffer] == first
    assert most <= dimension + SMALLEST_ROUND + 1  # triangle, round, and the row between their means


@pytest.mark.parametrize("budget", [4 << 10, 64 << 10])
def test_a_round_takes_no_more_than_its_budget(budget: int) -> None:
    accumulator = GaussianAccumulator(5, 10, round_bytes=budget)
    held = sum(buffer.nbytes for buffer in accumulator._buffer)
    assert budget - 5 * 10 * 4 < held <= budget


def test_the_rows_are_given_away_once() -> None:
    accumulator = gathered(images(9, 4, 5))
    assert [rows.shape for rows in accumulator.rows()] == [(5, 9, 4)]
    assert accumulator.rows() == []
    assert accumulator._buffer == []


def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    samples = np.round(images(50, 6, 4) * 64) / 64 + np.float32(4096)
    found, expected = covariances_of_rows(gathered(samples, round_bytes=1)), covariances(samples)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# --- factors ----------------------------------------------------------------------------------------------------------


def repeated(samples: Float32) -> Float32:
    """Every image three times."""
    return np.tile(samples, (3, 1, 1))


def with_constants(samples: Float32) -> Float32:
    """A third of the channels the same in all images, and one position wholly so."""
    constant = samples.copy()
    constant[:, ::3] = samples[0, ::3]
    constant[:, :, 1] = samples[0, :, 1]
    return constant


SAMPLES = {
    "many": images(90, 36, 40),
    "as many as channels": images(36, 36, 40),
    "few": images(9, 36, 40),
    "two": images(2, 36, 40),
    "few, repeated": repeated(images(5, 36, 40)),
    "many, repeated": repeated(images(20, 36, 40)),
    "few, constants": with_constants(images(9, 36, 40)),
    "many, constants": with_constants(images(90, 36, 40)),
    "all equal": repeated(images(1, 36, 40)),
}


@pytest.mark.parametrize("form", ["complement", "inverse"])
@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES)
def test_distances_from_factors_are_mahalanobis_distances(
    monkeypatch: pytest.MonkeyPatch, samples: Float32, form: str
) -> None:
    monkeypatch.setattr(gaussian, "_loss", lambda *_: 0.0 if form == "complement" else 1.0)
    factors, mean = fitted(samples)
    assert factors.form == form
    assert relative_error(samples, factors, mean).max() < 2e-5


@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES)
def test_the_complement_has_one_row_per_eigenvalue_above_the_cut(
    monkeypatch: pytest.MonkeyPatch, samples: Float32
) -> None:
    monkeypatch.setattr(gaussian, "_loss", lambda *_: 0.0)
    above = (np.linalg.eigvalsh(covariances(samples)) > 2 * TOLERANCE * EPSILON).sum(axis=1)
    rows = fitted(samples)[0].rows
    assert rows.tolist() == above.tolist()
    assert rows.max() <= min(len(np.unique(samples[:, 1, 0])) - 1, 36)


def test_blocks_are_laid_out_as_the_head_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian, "_loss", lambda *_: 0.0)
    samples = with_constants(images(30, 36, 40))
    samples[:, :, 2] = images(3, 36, 40)[np.arange(30) % 3, :, 2]  # rank 2
    factors, _ = fitted(samples, block_rows=10)
    assert factors.order.dtype == np.int32
    assert sorted(factors.order) == list(range(40))
    falling = factors.rows[factors.order]
    assert (np.diff(falling) <= 0).all()
    assert falling.tolist()[-2:] == [2, 0]
    assert [block.shape for block in factors.blocks] == [
        (int((falling > first).sum()), min(10, 36 - first), 36 - first) for first in range(0, 24, 10)
    ]
    assert {block.dtype.name for block in factors.blocks} == {"float32"}


def test_blocks_hold_an_upper_trapezoid_of_the_right_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian, "_loss", lambda *_: 0.0)
    samples = images(30, 36, 40)
    factors, _ = fitted(samples, block_rows=10)
    whole = np.zeros((40, 36, 36))
    for index, block in enumerate(factors.blocks):
        rows = slice(10 * index, 10 * index + block.shape[1])
        whole[factors.order[: len(block)], rows, 10 * index :] = block
    assert (np.tril(whole, -1) == 0).all()
    inverse = np.linalg.inv(covariances(samples) + EPSILON * np.eye(36))
    np.testing.assert_allclose(
        np.einsum("prd,pre->pde", whole, whole), np.eye(36) - EPSILON * inverse, atol=2e-6
    )


@pytest.mark.parametrize("form", ["complement", "inverse"])
def test_threads_change_no_bit_of_the_factors(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(gaussian, "_loss", lambda *_: 0.0 if form == "complement" else 1.0)
    samples = images(20, 24, 5 * CHUNK)
    one, _ = fitted(samples, threads=1)
    three, _ = fitted(samples, threads=3)
    np.testing.assert_array_equal(one.order, three.order)
    for block, other in zip(one.blocks, three.blocks, strict=True):
        np.testing.assert_array_equal(block, other)


# --- what is left out, and the choice of the form ---------------------------------------------------------------------


def with_spectrum(values: AnyArray) -> tuple[Float32, AnyArray]:
    """Samples (2d, d, 1) whose covariance has these eigenvalues, and the eigenvectors as columns."""
    dimension = len(values)
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dimension, dimension)))
    half = vectors * np.sqrt(values * (2 * dimension - 1) / 2)
    return np.asarray(np.concatenate([half.T, -half.T])[:, :, None], np.float32), vectors


def test_leaving_directions_out_costs_at_most_the_tolerance() -> None:
    tolerance = 1e-3
    cut = 2 * tolerance * EPSILON
    spectrum = np.array([1.0, 0.3, 0.1, 1.05 * cut, 0.95 * cut, 0.9 * cut, 0.5 * cut, 1e-3 * cut])
    samples, vectors = with_spectrum(spectrum)
    factors, mean = fitted(samples, tolerance=tolerance)
    assert factors.form == "complement"
    assert factors.rows.tolist() == [4]
    # Along an eigenvector that was left out the error is the largest: λ/2ε of the distance.
    points = np.asarray(3 * vectors.T[:, :, None], np.float32)
    errors = distances(factors, mean, points)[:, 0] / exact_distances(samples, points)[:, 0] - 1
    expected = np.sqrt(1 + np.where(spectrum > cut, 0, spectrum) / EPSILON) - 1
    np.testing.assert_allclose(errors, expected, atol=2e-5)
    assert 0.9 * tolerance < errors.max() <= tolerance


def test_strongly_scaled_features_get_the_inverse_which_stays_accurate() -> None:
    samples = images(60, 24, 40, scale=300)
    factors, mean = fitted(samples)
    assert factors.form == "inverse"
    assert factors.loss > TOLERANCE
    assert (factors.rows == 24).all()
    errors = relative_error(samples, factors, mean)
    assert np.median(errors) < 0.3 * TOLERANCE
    assert errors.max() < 3 * TOLERANCE  # the mean itself, 1500, is stored in float32


def test_few_images_keep_the_complement_however_their_features_are_scaled() -> None:
    # An unseen image differs from the mean in directions the few images do not span: nothing is left to cancel.
    samples = images(10, 24, 40, scale=300)
    factors, mean = fitted(samples)
    assert factors.form == "complement"
    assert np.median(relative_error(samples, factors, mean)) < TOLERANCE


@pytest.mark.parametrize("scale", [1, 3, 30, 300])
@pytest.mark.parametrize(("count", "dimension"), [(60, 24), (200, 100)])
def test_the_loss_foreseen_is_the_loss_of_the_complement(
    monkeypatch: pytest.MonkeyPatch, count: int, dimension: int, scale: float
) -> None:
    samples = images(count, dimension, 40, scale=scale)
    chosen, _ = fitted(samples)
    monkeypatch.setattr(gaussian, "_loss", lambda *_: 0.0)
    forced, mean = fitted(samples)
    lost = np.median(relative_error(samples, forced, mean))
    assert lost / 2 < chosen.loss < lost * 2
    assert chosen.form == ("inverse" if scale > 1 else "complement")


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_features_of_ordinary_scale_get_the_complement_which_is_accurate(scale: float) -> None:
    samples = images(20, 24, 40, scale=scale)
    factors, mean = fitted(samples)
    assert factors.form == "complement"
    assert np.median(relative_error(samples, factors, mean)) < TOLERANCE
