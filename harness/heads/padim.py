"""PaDiM's head: Mahalanobis distance to the Gaussian of each position (Defard et al. 2020, equation 2).

The fitted state holds, for each of P = h·w positions, the mean μ and a factor T of that position's covariance
Σ = S + ε·I over d channels, in one of two forms (parameter `form`):

- `complement`: S has few rows' worth of rank, so Σ⁻¹ = (I − TᵀT)/ε and dist² = (‖δ‖² − ‖Tδ‖²)/ε, with δ = x − μ
  (Woodbury's identity on the eigenvectors of S);
- `inverse`: Σ⁻¹ = TᵀT and dist² = ‖Tδ‖², without cancellation.

T is turned upper trapezoidal by an orthogonal matrix, which leaves ‖Tδ‖ as it is: row i starts at column i. Positions
are sorted by falling number of rows, so that block k holds rows [k·b, (k+1)·b) of every position that has them,
without their leading zeros, as one array (positions, b, d − k·b). See docs/decisions/0003.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray, Float32, Scores

OUTPUT = "embedding"
BLOCK_ROWS = 16


class PadimHead:
    """Distances per position → bilinear map at input size → Gaussian blur → largest value as the image score."""

    scores_input = False

    def __init__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> None:
        self._epsilon = float(parameters["epsilon"])
        self._complement = {"complement": True, "inverse": False}[parameters["form"]]
        self._grid: tuple[int, int] = tuple(parameters["grid"])
        height, width = parameters["map_size"]
        sigma = float(parameters["sigma"])
        half_pixel = parameters.get("half_pixel", True)
        self._rows = resampling_matrix(self._grid[0], height, sigma, half_pixel=half_pixel)
        self._columns = resampling_matrix(self._grid[1], width, sigma, half_pixel=half_pixel)
        self._order = np.asarray(state["order"])
        self._mean: Float32 = np.ascontiguousarray(state["mean"][self._order])
        self._blocks = [state[name] for name in sorted(state) if name.startswith("factor.")]
        self._ranges = _balanced_ranges(self._blocks, len(self._order), threads)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Maps (N, H, W) and scores (N,), both float32, in units of Mahalanobis distance."""
        del batch  # PaDiM scores features alone
        if OUTPUT not in outputs:
            raise ValueError(
                f"PaDiM scores the output {OUTPUT!r}; the net gave {', '.join(sorted(outputs)) or 'none'}"
            )
        distances = self.distances(outputs[OUTPUT])
        maps = np.matmul(np.matmul(self._rows, distances), self._columns.T)
        return Scores(maps=maps, images=maps.max(axis=(1, 2)))

    def distances(self, embedding: Float32) -> Float32:
        """Mahalanobis distances (N, h, w) of embeddings (N, d, h, w)."""
        expected = (self._mean.shape[1], *self._grid)
        if embedding.shape[1:] != expected:
            raise ValueError(
                f"{OUTPUT} has shape {embedding.shape}, expected (N, {', '.join(map(str, expected))})"
            )
        count = len(embedding)
        flat = embedding.reshape(count, expected[0], -1)
        squared = np.empty((count, len(self._order)), np.float32)

        def work(span: tuple[int, int]) -> None:
            squared[:, self._order[slice(*span)]] = self._squared(flat, *span)

        if self._pool is None:
            work(self._ranges[0])
        else:
            list(self._pool.map(work, self._ranges))
        distances: Float32 = np.sqrt(squared).reshape(count, *self._grid)
        return distances

    def _squared(self, flat: Float32, start: int, stop: int) -> Float32:
        """Squared distances (N, stop − start) of the sorted positions [start, stop)."""
        chosen = flat[:, :, self._order[start:stop]]
        delta = np.ascontiguousarray(chosen.transpose(2, 1, 0)) - self._mean[start:stop, :, None]
        squared = np.zeros((stop - start, flat.shape[0]))
        column = 0
        for block in self._blocks:
            part = block[start:stop]
            if not len(part):
                break
            squared[: len(part)] += _squared_norms(np.matmul(part, delta[: len(part), column:]))
            column += block.shape[1]
        if self._complement:
            squared = np.maximum(_squared_norms(delta) - squared, 0.0) / self._epsilon
        return squared.T.astype(np.float32)


def _squared_norms(vectors: Float32) -> NDArray[np.float64]:
    """Squared norms (P, N) of vectors (P, d, N): sums of 32 products in float32, those sums in float64."""
    total = np.zeros((vectors.shape[0], vectors.shape[2]))
    for start in range(0, vectors.shape[1], 32):
        part = vectors[:, start : start + 32]
        total += np.einsum("pdn,pdn->pn", part, part)
    return total


def _balanced_ranges(blocks: list[AnyArray], positions: int, parts: int) -> list[tuple[int, int]]:
    """Cut the sorted positions into `parts` contiguous ranges of about equal work; results do not depend on it."""
    work = np.ones(positions)
    for block in blocks:
        work[: len(block)] += block.shape[1] * block.shape[2]
    bounds = np.searchsorted(np.cumsum(work), work.sum() * np.arange(1, parts) / parts)
    return list(pairwise([0, *(int(bound) for bound in bounds), positions]))
