"""PatchCore's head: distance of every patch to the nearest one in the memory bank (Roth et al. 2022, section 3.3).

The fitted state holds the bank (M, D), and for a re-weighted score the rows of each of its patches' b nearest in it
(M, b), themselves among them. Image score (parameter `score`):

- `reweighted`: equation 7, s = (1 − exp d* / Σ exp d_m) · d*, with d* the largest patch distance, m* the bank's patch
  nearest to that patch, and d_m the patch's distances to the b patches nearest to m*;
- `max`: d*;
- `top10`: mean of the ten largest patch distances (the seed's).

With the parameter `squared`, as the original script has it, all distances are squared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.heads.neighbours import Neighbours
from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray, Float32, Scores

OUTPUT = "embedding"
LARGEST = 10
"""Patch distances whose mean is the score `top10`."""


class PatchcoreHead:
    """Distances per patch → bilinear map at input size → Gaussian blur; the image score from the distances."""

    scores_input = False

    def __init__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> None:
        self._score = {"reweighted": self._reweighted, "max": _largest, "top10": _mean_of_largest}[
            parameters["score"]
        ]
        self._squared = bool(parameters["squared"])
        self._grid: tuple[int, int] = tuple(parameters["grid"])
        self._rows, self._columns = (
            resampling_matrix(
                source, target, parameters["sigma"], half_pixel=parameters.get("half_pixel", True)
            )
            for source, target in zip(self._grid, parameters["map_size"], strict=True)
        )
        self._bank: Float32 = state["bank"]
        self._supports = state.get("neighbours", np.empty((0, 0), np.int32))
        self._neighbours = Neighbours(self._bank, threads=threads)

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Maps (N, H, W) and scores (N,), both float32, in units of feature distance, or of its square.

        They are NaN where the net's output is not finite.
        """
        del batch  # PatchCore scores features alone
        patches = self._patches(outputs)
        overflow = ~np.isfinite(patches).all(axis=2)
        if overflow.any():
            patches = np.where(overflow[:, :, None], np.float32(0), patches)
        squared, nearest = self._neighbours.search(patches.reshape(-1, patches.shape[2]), 1)
        distances = (squared if self._squared else np.sqrt(squared)).reshape(patches.shape[:2])
        distances[overflow] = np.nan
        grids = distances.astype(np.float32).reshape(-1, *self._grid)
        maps = np.matmul(np.matmul(self._rows, grids), self._columns.T)
        scores = self._score(distances, patches, nearest.reshape(distances.shape))
        return Scores(maps=maps, images=scores.astype(np.float32))

    def _patches(self, outputs: Mapping[str, AnyArray]) -> Float32:
        """Patches (N, h·w, D) of the net's output (N, D, h, w)."""
        if OUTPUT not in outputs:
            raise ValueError(
                f"PatchCore scores the output {OUTPUT!r}; the net gave {', '.join(sorted(outputs)) or 'none'}"
            )
        embedding = outputs[OUTPUT]
        expected = (self._bank.shape[1], *self._grid)
        if embedding.shape[1:] != expected:
            raise ValueError(
                f"{OUTPUT} has shape {embedding.shape}, expected (N, {', '.join(map(str, expected))})"
            )
        flat = embedding.reshape(len(embedding), expected[0], -1)
        return np.ascontiguousarray(flat.transpose(0, 2, 1))

    def _reweighted(self, distances: AnyArray, patches: Float32, nearest: AnyArray) -> AnyArray:
        farthest = distances.argmax(axis=1)
        image = np.arange(len(distances))
        supports = self._bank[self._supports[nearest[image, farthest]]]
        apart = np.linalg.norm(patches[image, farthest, None].astype(np.float64) - supports, axis=2)
        largest = distances[image, farthest]
        top = apart.max(axis=1)  # exp of a difference cannot overflow
        share = np.exp(largest - top) / np.exp(apart - top[:, None]).sum(axis=1)
        return np.asarray((1 - share) * largest)


def _largest(distances: AnyArray, patches: Float32, nearest: AnyArray) -> AnyArray:
    del patches, nearest
    return np.asarray(distances.max(axis=1))


def _mean_of_largest(distances: AnyArray, patches: Float32, nearest: AnyArray) -> AnyArray:
    del patches, nearest
    return np.asarray(np.sort(distances, axis=1)[:, -LARGEST:].mean(axis=1))
