"""One Gaussian per position, from a stream of embeddings, in memory that does not grow with the number of images.

Mean and scatter are merged round by round (Chan, Golub & LeVeque 1983); a scatter with more rows than dimensions is
replaced by the triangular factor of its QR decomposition, which has the same scatter.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.types import AnyArray, Float32

Float64 = NDArray[np.float64]

ROUND_BYTES = 512 << 20
"""Embeddings held before they are folded in; at most this and the scatter are in memory."""
CHUNK = 32
"""Positions worked on together."""


class GaussianAccumulator:
    """Accumulates embeddings of P positions and d dimensions."""

    def __init__(self, positions: int, dimension: int, *, round_bytes: int = ROUND_BYTES) -> None:
        self.count = 0
        self.chunks = list(pairwise([*range(0, positions, CHUNK), positions]))
        self.mean: Float64 = np.zeros((positions, dimension))
        self._rows = [np.empty((stop - start, 0, dimension), np.float32) for start, stop in self.chunks]
        held = max(8, round_bytes // (positions * dimension * 4))
        self._buffer = [np.empty((stop - start, held, dimension), np.float32) for start, stop in self.chunks]
        self._held, self._capacity = 0, held

    def add(self, embedding: Float32) -> None:
        """Take in one image's embedding (d, P)."""
        for buffer, (start, stop) in zip(self._buffer, self.chunks, strict=True):
            buffer[:, self._held] = embedding[:, start:stop].T
        self._held += 1
        if self._held == self._capacity:
            self._fold()

    def rows(self) -> list[Float32]:
        """Per chunk of positions, rows (positions, m, d) whose Gram matrix over m is the scatter Σ(x−μ)(x−μ)ᵀ.

        The accumulator is emptied: the caller owns the only reference.
        """
        if self._held:
            self._fold()
        rows, self._rows, self._buffer = self._rows, [], []
        return rows

    def _fold(self) -> None:
        total = self.count + self._held
        for index, (start, stop) in enumerate(self.chunks):
            batch = self._buffer[index][:, : self._held].astype(np.float64)
            batch_mean = batch.mean(axis=1)
            batch -= batch_mean[:, None]
            shift = batch_mean - self.mean[start:stop]
            between = shift[:, None] * np.sqrt(self.count * self._held / total)
            parts: list[AnyArray] = [_compressed(self._rows[index]), batch]
            if self.count:
                parts.append(between)
            self._rows[index] = np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")
            self.mean[start:stop] += shift * (self._held / total)
        self.count, self._held = total, 0


def _compressed(rows: Float32) -> Float32:
    if rows.shape[1] <= rows.shape[2]:
        return rows
    return _triangular(rows.astype(np.float64))


def _triangular(rows: Float64) -> Float32:
    """R of the QR decomposition of (..., m, d): the same Gram matrix in min(m, d) upper trapezoidal rows."""
    return np.asarray(np.linalg.qr(rows, mode="r"), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Covariance factors of all positions as `harness.heads.padim` reads them."""

    form: str
    loss: float
    """Relative error of a distance that the subtraction of the `complement` form brings, or would have brought."""
    order: NDArray[np.int32]
    """(P,), positions by falling number of rows."""
    blocks: list[Float32]
    rows: NDArray[np.int64]
    """(P,), rows of each position's factor."""


def factorise(
    accumulator: GaussianAccumulator,
    unseen: Float32,
    *,
    epsilon: float,
    tolerance: float,
    block_rows: int,
    threads: int,
) -> Factors:
    """Factor every position's Σ = S + ε·I with S the unbiased covariance.

    Args:
        accumulator: All embeddings; emptied.
        unseen: Embeddings (M, d, P) of good images that were not accumulated, to judge the numerical loss on.
        epsilon: ε.
        tolerance: Bound on the relative error of a distance from directions left out. Leaving out an eigenvalue λ of S
            changes dist² by at most the factor 1 + λ/ε, so λ ≤ 2·tolerance·ε may go.
        block_rows: Rows per stored block.
        threads: Chunks of positions factored side by side; the result does not depend on it.

    Returns:
        The `complement` form, of at most min(N − 1, d) rows per position, unless its subtraction would lose more than
        `tolerance` in float32 on a typical unseen image; then the `inverse` form, of d rows.
    """
    chunks = accumulator.rows()
    scale = 1.0 / (accumulator.count - 1)
    loss = _loss(accumulator, chunks, unseen, epsilon)
    form = "inverse" if loss > tolerance else "complement"
    cut = 2 * tolerance * epsilon if form == "complement" else None
    chunks.reverse()  # so that each chunk is freed as soon as its factors exist
    with ThreadPoolExecutor(threads) as pool:
        waiting = (chunks.pop() for _ in range(len(chunks)))
        parts = pool.map(lambda rows: _trapezoids(*_spectra(rows, scale), epsilon, cut), waiting)
        factors = [factor for part in parts for factor in part]
    rows = np.array([len(factor) for factor in factors])
    order = np.argsort(-rows, kind="stable").astype(np.int32)
    return Factors(form=form, loss=loss, order=order, blocks=_blocks(factors, order, block_rows), rows=rows)


def _spectra(rows: Float32, scale: float) -> tuple[Float64, Float64]:
    """Eigenvalues (positions, m) of S, descending, and eigenvectors (positions, m, d) as rows."""
    exact = rows.astype(np.float64)
    if exact.shape[1] >= exact.shape[2]:
        values, vectors = np.linalg.eigh(np.matmul(exact.transpose(0, 2, 1), exact) * scale)
        return np.maximum(values[:, ::-1], 0), vectors.transpose(0, 2, 1)[:, ::-1]
    values, left = np.linalg.eigh(np.matmul(exact, exact.transpose(0, 2, 1)) * scale)
    values, left = np.maximum(values[:, ::-1], 0), left[:, :, ::-1]
    vectors = np.matmul(left.transpose(0, 2, 1), exact)
    norms = np.linalg.norm(vectors, axis=2, keepdims=True)
    return values, np.divide(vectors, norms, where=norms > 0, out=np.zeros_like(vectors))


def _loss(accumulator: GaussianAccumulator, chunks: list[Float32], unseen: Float32, epsilon: float) -> float:
    """Relative error of an unseen image's distance from the complement's subtraction in float32.

    Half a unit in the last place of ‖δ‖²/ε over 2·dist², the median over images and a thirty-second of the positions.
    """
    scale = 1.0 / (accumulator.count - 1)
    ratios = []
    for rows, (start, stop) in [*zip(chunks, accumulator.chunks, strict=True)][::4]:
        values, vectors = _spectra(rows[::8], scale)
        delta = unseen[:, :, start:stop:8].transpose(2, 1, 0) - accumulator.mean[start:stop:8, :, None]
        norm = np.sum(delta**2, axis=1)
        inside = np.matmul(vectors, delta) ** 2 * (values / (values + epsilon))[:, :, None]
        ratios.append(norm / np.maximum(norm - inside.sum(axis=1), np.finfo(np.float64).tiny))
    return float(np.finfo(np.float32).eps / 4 * np.median(np.concatenate(ratios)))


def _trapezoids(values: Float64, vectors: Float64, epsilon: float, cut: float | None) -> list[Float32]:
    """Upper trapezoidal T (r, d) per position: TᵀT is I − εΣ⁻¹ on eigenvalues above `cut`, or Σ⁻¹ without a cut."""
    factors = []
    for value, vector in zip(values, vectors, strict=True):
        if cut is None:
            basis = _completed(vector, value)
            weights = 1 / np.sqrt(np.pad(value, (0, len(basis) - len(value))) + epsilon)
        else:
            keep = value > cut
            basis, weights = vector[keep], np.sqrt(value[keep] / (value[keep] + epsilon))
        factors.append(_triangular(basis * weights[:, None]))
    return factors


def _completed(vectors: Float64, values: Float64) -> Float64:
    """Eigenvectors (m, d) completed to an orthonormal basis (d, d).

    Where images repeat, an eigenvector of no more than rounding may point anywhere, so that the basis is all Q.
    """
    real = int((values > 0).sum())
    basis, _ = np.linalg.qr(vectors[:real].T, mode="complete")
    return np.asarray(basis.T)


def _blocks(factors: list[Float32], order: NDArray[np.int32], block_rows: int) -> list[Float32]:
    blocks = []
    most = len(factors[order[0]]) if len(order) else 0
    for first in range(0, most, block_rows):
        inside = [factors[position] for position in order if len(factors[position]) > first]
        height = min(block_rows, inside[0].shape[1] - first)
        block = np.zeros((len(inside), height, inside[0].shape[1] - first), np.float32)
        for row, factor in zip(block, inside, strict=True):
            part = factor[first : first + height, first:]
            row[: len(part)] = part
        blocks.append(block)
    return blocks
